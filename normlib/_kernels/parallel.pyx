"""The one file that knows OpenMP: how many threads, how they share the tasks of a step, and how a signal ends one."""

import os
from contextvars import ContextVar

from cpython.contextvars cimport get_value
from cython.parallel cimport prange, threadid
from libc.stdlib cimport getenv
from normlib._kernels.plan cimport Plan, Run, Step

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    static int normlib_openmp(void) { return _OPENMP; }
    #if defined(__clang__)
    #define NORMLIB_RUNTIME "libomp"
    #elif defined(__GNUC__)
    #define NORMLIB_RUNTIME "libgomp"
    #else
    #define NORMLIB_RUNTIME "vcomp"
    #endif
    #else
    static int omp_get_max_threads(void) { return 1; }
    static int omp_in_parallel(void) { return 0; }
    static int normlib_openmp(void) { return 0; }
    #define NORMLIB_RUNTIME ""
    #endif

    /* libgomp hangs in the child of a process that has run a team, so a child stays serial. */
    static volatile int normlib_forked = 0;
    #if defined(__unix__) || defined(__APPLE__)
    #include <pthread.h>
    static void normlib_in_child(void) { normlib_forked = 1; }
    static void normlib_watch_forks(void) { pthread_atfork(NULL, NULL, normlib_in_child); }
    #else
    static void normlib_watch_forks(void) { }
    #endif

    /* Whether to do no more tasks. The calling thread looks for signals a few times a second, as Python would. */
    #include <time.h>
    #ifdef _MSC_VER
    #define normlib_load(p) (*(volatile int *)(p))
    #define normlib_store(p, v) (*(volatile int *)(p) = (v))
    #else
    #define normlib_load(p) __atomic_load_n(p, __ATOMIC_RELAXED)
    #define normlib_store(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)
    #endif
    static int normlib_stopped(double *due, int *stopped, int calling)
    {
        if (calling) {
            struct timespec now;
            timespec_get(&now, TIME_UTC);
            double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
            if (*due == 0)
                *due = seconds + 0.1;
            if (seconds > *due && !normlib_load(stopped)) {
                PyGILState_STATE state = PyGILState_Ensure();
                if (PyErr_CheckSignals())
                    normlib_store(stopped, 1);
                PyGILState_Release(state);
                *due = seconds + 0.1;
            }
        }
        return normlib_load(stopped);
    }
    """
    int omp_get_max_threads() nogil
    int omp_in_parallel() nogil
    int normlib_openmp() nogil
    const char* NORMLIB_RUNTIME
    int normlib_forked
    void normlib_watch_forks()
    int normlib_stopped(double* due, int* stopped, int calling) nogil


cdef inline void task(Run run, Step step, const Plan* plan, Py_ssize_t i, bint calling) noexcept nogil:
    if plan.watch == NULL or not normlib_stopped(&plan.watch.due, &plan.watch.stopped, calling):
        run(step, plan, i)


cdef void parallel_for(Run run, Step step, const Plan* plan, Py_ssize_t tasks, int threads) noexcept nogil:
    cdef Py_ssize_t i
    threads = <int>min(<Py_ssize_t>threads, tasks)
    if threads <= 1 or normlib_forked or omp_in_parallel():
        for i in range(tasks):
            task(run, step, plan, i, True)
    else:
        for i in prange(tasks, num_threads=threads, schedule="static"):
            task(run, step, plan, i, threadid() == 0)


def openmp_runtime():
    """The OpenMP runtime that the kernels were built for and the specification's date, None without."""
    if not normlib_openmp():
        return None
    date = str(normlib_openmp())
    return f"{NORMLIB_RUNTIME.decode()} (OpenMP of {date[:4]}-{date[4:]})"


def _cgroup_limit():
    # The processor quota of the control group, version 2 then version 1; None without one.
    for name, period in (("/sys/fs/cgroup/cpu.max", None),
                         ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us")):
        try:
            with open(name) as file:
                words = file.read().split()
            if period is not None:
                with open(period) as file:
                    words += file.read().split()
            quota, length = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and length > 0:
            return max(1, -(-quota // length))
    return None


def _default_threads():
    asked = os.environ.get("NORMLIB_NUM_THREADS", "").strip()
    if asked:
        if asked.isdecimal() and 1 <= int(asked) <= 4096:
            return int(asked)
        raise ImportError(f"NORMLIB_NUM_THREADS is {asked!r}, expected a whole number from 1 to 4096")
    available = omp_get_max_threads()
    if getenv("OMP_NUM_THREADS") != NULL:
        return available
    if hasattr(os, "sched_getaffinity"):
        available = min(available, len(os.sched_getaffinity(0)))
    return min(available, _cgroup_limit() or available)


cdef int _threads = _default_threads()
cdef object _scoped = ContextVar("normlib_num_threads", default=0)
normlib_watch_forks()
scoped = _scoped


cdef int current_threads() except -1:
    cdef int n
    n = <int>get_value(_scoped)
    return n if n else _threads


cdef int default_threads() noexcept nogil:
    return _threads


def get_num_threads():
    return current_threads()


def set_num_threads(int n):
    global _threads
    _threads = n
