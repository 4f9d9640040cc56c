/* The Python module of the bridge: calls from the forward methods of modules and from functions, and torch's own operators.

   A call that is not taken returns NotImplemented. */

#include <torch/csrc/python_headers.h>

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <ATen/ops/add.h>

#include "autograd.h"
#include "operators.h"

namespace normlib_torch {
namespace {

PyObject *not_taken() { return Py_NewRef(Py_NotImplemented); }

/* A plain tensor; None is an undefined one. */
bool tensor_of(PyObject *given, Tensor &t)
{
    if (given == nullptr || given == Py_None)
        return true;
    if (!THPVariable_CheckExact(given))
        return false;
    t = THPVariable_Unpack(given);
    return true;
}

/* The ContextVars of normlib: its backends, of which another one than the compiled kernels may be in use here, and its threads. */
PyObject *backends = nullptr, *scoped_threads = nullptr;

int threads_here()
{
    PyObject *count = nullptr;
    if (PyContextVar_Get(scoped_threads, nullptr, &count) < 0 || !count)
        return 0;
    const long threads = PyLong_AsLong(count);
    Py_DECREF(count);
    return static_cast<int>(threads);
}

bool kernels_in_use()
{
    PyObject *table = nullptr;
    if (PyContextVar_Get(backends, nullptr, &table) < 0 || !table)
        return false;
    static PyObject *const name = PyUnicode_InternFromString("name");
    const auto chosen = pybind11::reinterpret_steal<pybind11::object>(PyObject_GetAttr(table, name));
    Py_DECREF(table);
    if (!chosen)
        PyErr_Clear();
    return chosen && PyUnicode_CompareWithASCIIString(chosen.ptr(), "cython") == 0;
}

/* ---- options by name ---- */

int activation_of(PyObject *word)
{
    for (int i = 0; i < 7; ++i)
        if (PyUnicode_CompareWithASCIIString(word, ACTIVATIONS[i]) == 0)
            return i;
    return -1;
}

bool set_activation(int &to, PyObject *word)
{
    to = PyUnicode_Check(word) ? activation_of(word) : -1;
    return to > NORMLIB_NO_ACTIVATION;
}

bool set_number(double &to, PyObject *given)
{
    to = PyFloat_CheckExact(given) || PyLong_CheckExact(given) ? PyFloat_AsDouble(given) : -1;
    if (to == -1 && PyErr_Occurred())
        PyErr_Clear();
    return true;
}

bool set_count(int64_t &to, PyObject *given)
{
    if (!PyLong_CheckExact(given))
        return false;
    to = PyLong_AsLongLong(given);
    if (to == -1 && PyErr_Occurred())
        PyErr_Clear();
    return true;
}

bool set_flag(bool &to, PyObject *given)
{
    to = given == Py_True;
    return PyBool_Check(given);
}

bool set_axis(uint64_t &axes, PyObject *given, int64_t ndim)
{
    int64_t axis = 0;
    PyObject *const *items = &given;
    Py_ssize_t count = 1;
    if (PyTuple_CheckExact(given)) {
        items = reinterpret_cast<PyTupleObject *>(given)->ob_item;
        count = PyTuple_GET_SIZE(given);
    }
    axes = 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
        if (!set_count(axis, items[i]) || axis < -ndim || axis >= ndim)
            return false;
        axes |= uint64_t(1) << (axis < 0 ? axis + ndim : axis);
    }
    return axes != 0;
}

bool set_dtype(at::ScalarType &to, PyObject *word)
{
    constexpr std::pair<const char *, at::ScalarType> known[] = {
        {"float32", at::kFloat}, {"float64", at::kDouble}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16}};
    for (const auto &[name, dtype] : known)
        if (PyUnicode_Check(word) && PyUnicode_CompareWithASCIIString(word, name) == 0) {
            to = dtype;
            return true;
        }
    return false;
}

bool set(Norm &norm, PyObject *key, PyObject *given, int64_t ndim)
{
    const auto is = [key](const char *name) { return PyUnicode_CompareWithASCIIString(key, name) == 0; };
    int64_t channel = 0;
    if (is("eps")) return set_number(norm.eps, given);
    if (is("axis")) return set_axis(norm.axes, given, ndim);
    if (is("training") || is("use_input_stats")) return set_flag(norm.mode, given);
    if (is("momentum")) return set_number(norm.momentum, given);
    if (is("num_groups")) return set_count(norm.groups, given);
    if (is("activation")) return set_activation(norm.activation, given);
    if (is("negative_slope")) return set_number(norm.slope, given);
    if (is("gate_activation")) return set_activation(norm.gate_activation, given);
    if (is("gate_first")) return set_flag(norm.gate_first, given);
    if (is("offset")) return set_flag(norm.offset, given);
    if (is("round_first")) return set_flag(norm.round_first, given);
    if (is("out_dtype")) return set_dtype(norm.out, given);
    if (!is("channel_axis") || !set_count(channel, given) || channel < -ndim || channel >= ndim)
        return false;
    norm.channel = static_cast<int>(channel < 0 ? channel + ndim : channel);
    return true;
}

bool set(Tensors &given, PyObject *key, PyObject *value)
{
    constexpr const char *names[] = {"", "weight", "bias", "running_mean", "running_var", "residual", "add", "gate", "where"};
    for (int role = WEIGHT; role < ROLES; ++role)
        if (PyUnicode_CompareWithASCIIString(key, names[role]) == 0)
            return tensor_of(value, given[role]);
    return false;
}

bool set_all(Norm &norm, Tensors &given, PyObject *options)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(options, &at, &key, &value))
        if (!set(given, key, value) && !set(norm, key, value, given[X].dim()))
            return false;
    return true;
}

/* The result as Python has it, or NotImplemented. */
PyObject *result_of(Norm &norm, Tensors &given)
{
    if (!kernels_in_use())
        return not_taken();
    norm.threads = threads_here();
    const uint64_t last = uint64_t(1) << (given[X].dim() - 1);
    norm.contiguous = norm.op == NORMLIB_INSTANCE_NORM || (norm.op == NORMLIB_LAYER_NORM && norm.axes & last);
    if (given[GATE].defined() && !norm.gate_activation)
        norm.gate_activation = NORMLIB_SILU;
    Result result;
    bool done;
    {
        pybind11::gil_scoped_release release;
        done = forward(norm, given, result);
    }
    if (!done)
        return not_taken();
    if (!result.sum.defined())
        return THPVariable_Wrap(std::move(result.y));
    PyObject *pair = PyTuple_New(2);
    if (pair) {
        PyTuple_SET_ITEM(pair, 0, THPVariable_Wrap(std::move(result.y)));
        PyTuple_SET_ITEM(pair, 1, THPVariable_Wrap(std::move(result.sum)));
    }
    return pair;
}

/* run(name, x, tensors, options) */
PyObject *run(PyObject *, PyObject *const *arguments, Py_ssize_t count)
{
    HANDLE_TH_ERRORS
    Norm norm;
    Tensors given;
    int op = 0;
    if (count != 4)
        return not_taken();
    while (op < 5 && PyUnicode_CompareWithASCIIString(arguments[0], NAMES[op]))
        ++op;
    norm.op = 2 * op;
    if (op == 5 || !tensor_of(arguments[1], given[X]) || !given[X].defined() || given[X].dim() == 0)
        return not_taken();
    if (!set_all(norm, given, arguments[2]) || !set_all(norm, given, arguments[3]))
        return not_taken();
    return result_of(norm, given);
    END_HANDLE_TH_ERRORS
}

/* ---- modules: f(self, input, fused) ---- */

PyObject *interned(const char *name)
{
    return PyUnicode_InternFromString(name);
}

/* A module as its forward method sees it: what stands in its dictionaries is read there, all else by getattr. */
class Module {
public:
    Module(PyObject *self) : self_(self), own_(PyObject_GenericGetDict(self, nullptr)) {}
    ~Module() { Py_XDECREF(own_); }

    /* A borrowed reference to what lies in the module's own dictionary, or null. */
    PyObject *own(PyObject *name) const { return own_ ? PyDict_GetItemWithError(own_, name) : nullptr; }

    bool tensor(PyObject *place, PyObject *name, Tensor &t) const
    {
        PyObject *among = own(place);
        PyObject *found = among && PyDict_CheckExact(among) ? PyDict_GetItemWithError(among, name) : nullptr;
        if (found)
            return tensor_of(found, t);
        const auto other = pybind11::reinterpret_steal<pybind11::object>(PyObject_GetAttr(self_, name));
        if (!other) {
            PyErr_Clear();
            return false;
        }
        return tensor_of(other.ptr(), t);
    }

    bool number(PyObject *name, double &to) const
    {
        PyObject *found = own(name);
        return found && set_number(to, found);
    }

    bool flag(PyObject *name, bool &to) const
    {
        PyObject *found = own(name);
        return found && set_flag(to, found);
    }

private:
    PyObject *self_, *own_;
};

struct Names {
    PyObject *parameters = interned("_parameters"), *buffers = interned("_buffers"), *weight = interned("weight"), *bias = interned("bias"),
             *running_mean = interned("running_mean"), *running_var = interned("running_var"), *eps = interned("eps"),
             *shape = interned("normalized_shape"), *groups = interned("num_groups"), *training = interned("training"),
             *track = interned("track_running_stats"), *momentum = interned("momentum"), *batches = interned("num_batches_tracked");
};

const Names &names()
{
    static const Names all;
    return all;
}

/* What all modules have: input, weight, bias, eps and what is fused. */
bool begin(Norm &norm, Tensors &given, const Module &module, PyObject *const *arguments, Py_ssize_t count)
{
    const auto &n = names();
    if (count != 3 || !tensor_of(arguments[1], given[X]) || !given[X].defined() || given[X].dim() == 0)
        return false;
    if (!module.tensor(n.parameters, n.weight, given[WEIGHT]))
        return false;
    if (norm.op != NORMLIB_RMS_NORM && !module.tensor(n.parameters, n.bias, given[BIAS]))
        return false;
    return arguments[2] == Py_None || set_all(norm, given, arguments[2]);
}

/* The trailing axes that a module normalizes over, if those of x are as long. */
bool trailing(Norm &norm, const Tensor &x, PyObject *shape)
{
    if (!shape || !PyTuple_Check(shape))
        return false;
    const Py_ssize_t count = PyTuple_GET_SIZE(shape), from = x.dim() - count;
    if (count == 0 || from < 0)
        return false;
    for (Py_ssize_t i = 0; i < count; ++i)
        if (PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i)) != x.size(from + i))
            return false;
    norm.axes = ((uint64_t(1) << count) - 1) << from;
    return true;
}

bool fill_layer_norm(Norm &norm, const Tensor &x, const Module &module)
{
    return trailing(norm, x, module.own(names().shape)) && module.number(names().eps, norm.eps);
}

bool fill_rms_norm(Norm &norm, const Tensor &x, const Module &module)
{
    norm.eps = x.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
    return trailing(norm, x, module.own(names().shape)) && (module.own(names().eps) == Py_None || module.number(names().eps, norm.eps));
}

bool fill_group_norm(Norm &norm, const Tensor &, const Module &module)
{
    PyObject *groups = module.own(names().groups);
    return groups && set_count(norm.groups, groups) && module.number(names().eps, norm.eps);
}

/* The norm of a module that has options alone beside what all have. */
template <int op, bool (*fill)(Norm &, const Tensor &, const Module &)>
PyObject *of_module(PyObject *, PyObject *const *arguments, Py_ssize_t count)
{
    HANDLE_TH_ERRORS
    const Module module(arguments[0]);
    Norm norm;
    Tensors given;
    norm.op = op;
    if (!begin(norm, given, module, arguments, count) || !fill(norm, given[X], module))
        return not_taken();
    return result_of(norm, given);
    END_HANDLE_TH_ERRORS
}

/* Batch norm and instance norm after their modules' own checks: f(self, input, fused), where the count of batches was not moved yet. */
PyObject *moving(int op, PyObject *const *arguments, Py_ssize_t count)
{
    const auto &n = names();
    const Module module(arguments[0]);
    Norm norm;
    Tensors given;
    norm.op = op;
    bool training = false, track = false;
    if (!begin(norm, given, module, arguments, count) || !module.flag(n.training, training) || !module.flag(n.track, track) ||
        !module.tensor(n.buffers, n.running_mean, given[RUNNING_MEAN]) || !module.tensor(n.buffers, n.running_var, given[RUNNING_VAR]) ||
        !module.number(n.eps, norm.eps))
        return not_taken();
    PyObject *momentum = module.own(n.momentum);
    if (op == NORMLIB_INSTANCE_NORM) {
        norm.mode = training || !track;
        if (!momentum || momentum == Py_None || !set_number(norm.momentum, momentum))
            return not_taken();
        return result_of(norm, given);
    }
    norm.mode = training || !given[RUNNING_MEAN].defined();
    if (training && !track)
        given[RUNNING_MEAN] = given[RUNNING_VAR] = Tensor();
    Tensor batches;
    const bool counts = training && track && module.tensor(n.buffers, n.batches, batches) && batches.defined();
    if (momentum == Py_None) {
        if (counts && batches.scalar_type() != at::kLong)
            return not_taken();
        norm.momentum = counts ? 1.0 / (1 + *batches.const_data_ptr<int64_t>()) : 0;
    } else if (!momentum || !set_number(norm.momentum, momentum))
        return not_taken();
    PyObject *result;
    try {
        result = result_of(norm, given);
    } catch (...) { /* also where a checkpoint ends its second run at the last tensor that autograd saves */
        if (counts)
            batches.add_(1);
        throw;
    }
    if (counts && result && result != Py_NotImplemented)
        batches.add_(1);
    return result;
}

template <int op>
PyObject *of_moving_module(PyObject *, PyObject *const *arguments, Py_ssize_t count)
{
    HANDLE_TH_ERRORS
    return moving(op, arguments, count);
    END_HANDLE_TH_ERRORS
}

/* ---- the table of normlib, and torch's own operators ---- */

PyObject *use(PyObject *, PyObject *arguments)
{
    PyObject *address;
    unsigned long long take, give, least;
    if (!PyArg_ParseTuple(arguments, "OOOKKK", &address, &backends, &scoped_threads, &take, &give, &least))
        return nullptr;
    Kept::of_process().use(reinterpret_cast<Kept::Take>(take), reinterpret_cast<Kept::Give>(give), least);
    Py_INCREF(backends);
    Py_INCREF(scoped_threads);
    void *table = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred())
        return nullptr;
    if (normlib_use(table) != NORMLIB_OK) {
        PyErr_SetString(PyExc_ImportError, "normlib: the compiled bridge to torch was built for another version");
        return nullptr;
    }
    Py_RETURN_NONE;
}

PyObject *install_operators(PyObject *, PyObject *)
{
    HANDLE_TH_ERRORS
    install();
    Py_RETURN_NONE;
    END_HANDLE_TH_ERRORS
}

PyObject *uninstall_operators(PyObject *, PyObject *)
{
    HANDLE_TH_ERRORS
    uninstall();
    Py_RETURN_NONE;
    END_HANDLE_TH_ERRORS
}

#define FAST(f) reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f)), METH_FASTCALL

PyMethodDef methods[] = {
    {"use", use, METH_VARARGS, 
     "use(address, backends, threads, take, give, least): the table of normlib.h, two ContextVars, and the memory of large results."},
    {"run", FAST(run), "run(name, x, tensors, options): a norm by name."},
    {"layer_norm", FAST((of_module<NORMLIB_LAYER_NORM, fill_layer_norm>)), "layer_norm(module, input, fused): the forward method of LayerNorm."},
    {"rms_norm", FAST((of_module<NORMLIB_RMS_NORM, fill_rms_norm>)), "rms_norm(module, input, fused): the forward method of RMSNorm."},
    {"batch_norm", FAST(of_moving_module<NORMLIB_BATCH_NORM>), "batch_norm(module, input, fused): the forward method of BatchNorm after its checks."},
    {"group_norm", FAST((of_module<NORMLIB_GROUP_NORM, fill_group_norm>)), "group_norm(module, input, fused): the forward method of GroupNorm."},
    {"instance_norm", FAST(of_moving_module<NORMLIB_INSTANCE_NORM>), "instance_norm(module, input, fused): the forward method of InstanceNorm after its checks."},
    {"install", install_operators, METH_NOARGS, "install(): let torch's own operators compute with normlib's kernels."},
    {"uninstall", uninstall_operators, METH_NOARGS, "uninstall(): undo install()."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "normlib_torch_bridge", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace normlib_torch

PyMODINIT_FUNC PyInit_normlib_torch_bridge() { return PyModule_Create(&normlib_torch::definition); }
