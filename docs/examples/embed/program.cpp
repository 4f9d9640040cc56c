// A C++ program that takes normlib's functions from the Python interpreter once, and then computes in threads of its own
// that know nothing of Python. Build it with CMakeLists.txt, or by
// c++ -std=c++17 program.cpp $(python3 -m normlib --includes) $(python3-config --ldflags --embed) -pthread

#include <Python.h>
#include <normlib.h>

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

// An array of the engine: channels-last images, as (samples, channels, height, width) with strides.
struct Images {
    std::vector<float> values;
    ptrdiff_t shape[4], strides[4];

    Images(ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
        : values(n * c * h * w), shape{n, c, h, w}, strides{h * w * c * 4, 4, w * c * 4, c * 4} {}

    normlib_array array() { return {values.data(), NORMLIB_F32, 4, shape, strides}; }
};

static void check(int status)
{
    if (status != NORMLIB_OK)
        throw std::runtime_error(normlib->error_text(status));
}

int main()
{
    Py_Initialize();
    if (normlib_import() < 0) {
        PyErr_Print();
        return 1;
    }
    PyThreadState *state = PyEval_SaveThread(); // the interpreter rests; normlib does not need it

    std::vector<double> worst(4);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++)
        threads.emplace_back([t, &worst] {
            Images x(2, 32, 7, 9), y(2, 32, 7, 9);
            for (size_t i = 0; i < x.values.size(); i++)
                x.values[i] = 3 + std::sin(0.1 * (i + 1000 * t));
            double mean[2 * 8], rstd[2 * 8];
            ptrdiff_t groups[2] = {2, 8};
            normlib_array from = x.array(), to = y.array();
            normlib_array means = {mean, NORMLIB_F64, 2, groups, nullptr}, rstds = {rstd, NORMLIB_F64, 2, groups, nullptr};
            check(normlib_group_norm(&from, 8, nullptr, nullptr, 1e-5, 1, &to, &means, &rstds, 1));
            for (int n = 0; n < 2; n++)
                for (int c = 0; c < 32; c++)
                    for (int i = 0; i < 63; i++) {
                        size_t at = (n * 63 + i) * 32 + c;
                        double z = (x.values[at] - mean[n * 8 + c / 4]) * rstd[n * 8 + c / 4];
                        worst[t] = std::fmax(worst[t], std::fabs(y.values[at] - z));
                    }
        });
    for (auto &thread : threads)
        thread.join();

    for (double w : worst)
        if (!(w < 1e-5))
            return 2;
    std::printf("group_norm in 4 threads: largest difference from the formula %.1e\n", worst[0]);
    PyEval_RestoreThread(state);
    return Py_FinalizeEx();
}
