"""The one file that knows OpenMP: how many threads, how they share the tasks of a step, and how a signal ends one."""

import os
from contextvars import ContextVar

from cpython.contextvars cimport get_value
from cython.parallel cimport parallel, threadid
from libc.stdint cimport int64_t
from libc.stdlib cimport getenv
from normlib._kernels.plan cimport Plan, Run, Step, Watch

cdef extern from "team.h":
    ctypedef struct normlib_team:
        pass
    int omp_get_max_threads() nogil
    int omp_get_num_threads() nogil
    int normlib_openmp() nogil
    const char* NORMLIB_RUNTIME
    void normlib_watch_forks()
    int normlib_stopped(double* due, int* stopped, int calling) nogil
    bint normlib_may_share(int threads) nogil
    void normlib_begin(normlib_team* team) nogil
    void normlib_took(normlib_team* team, int64_t began, int64_t mine, int64_t tasks) nogil
    void normlib_end(normlib_team* team) nogil
    void normlib_judge(int64_t took, int64_t alone, int64_t now) nogil
    int64_t normlib_now() nogil
    int64_t normlib_alone_until
    int normlib_guarded, normlib_alone_steps, normlib_patience, normlib_well
    int NORMLIB_PATIENCE


cdef inline void some_tasks(Run run, Step step, const Plan* plan, Py_ssize_t first, Py_ssize_t stop, bint calling) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(first, stop):
        if plan.watch == NULL or not normlib_stopped(&plan.watch.due, &plan.watch.stopped, calling):
            run(step, plan, i)


cdef inline void share(Run run, Step step, const Plan* plan, Py_ssize_t tasks, int thread, int threads, normlib_team* team) noexcept nogil:
    """The tasks of one thread of a team: the same ones each time, so that what they read may lie in its core's caches."""
    cdef Py_ssize_t first = tasks * thread // threads, stop = tasks * (thread + 1) // threads
    cdef int64_t began = normlib_now()
    some_tasks(run, step, plan, first, stop, thread == 0)
    normlib_took(team, began, stop - first, tasks)


cdef void parallel_for(Run run, Step step, const Plan* plan, Py_ssize_t tasks, int threads) noexcept nogil:
    cdef normlib_team team
    threads = <int>min(<Py_ssize_t>threads, tasks)
    if not normlib_may_share(threads):
        some_tasks(run, step, plan, 0, tasks, True)
        return
    normlib_begin(&team)
    with parallel(num_threads=threads):
        share(run, step, plan, tasks, threadid(), omp_get_num_threads(), &team)
    normlib_end(&team)


cdef bint stopped(Watch* watch) noexcept nogil:
    """Whether a signal's handler has raised, asked by the calling thread between passes."""
    return normlib_stopped(&watch.due, &watch.stopped, True)


def guard(bint on):
    """Whether a team that is held up keeps the calls that follow to one thread; what was seen so far is forgotten."""
    global normlib_guarded, normlib_alone_until, normlib_alone_steps, normlib_patience, normlib_well
    normlib_guarded, normlib_alone_until, normlib_alone_steps = on, 0, 0
    normlib_patience, normlib_well = NORMLIB_PATIENCE, 0


def judge(double took, double alone):
    """Take note of a team that took so many seconds, where one thread would have taken `alone`."""
    normlib_judge(<int64_t>(1e9 * took), <int64_t>(1e9 * alone), normlib_now())


def pause():
    """(seconds, steps): how long calls keep to one thread at least, since a team was held up."""
    return max(0, normlib_alone_until - normlib_now()) * 1e-9, normlib_alone_steps


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
        return int(asked) if asked.isdecimal() and 1 <= int(asked) <= 4096 else 0
    available = omp_get_max_threads()
    if getenv("OMP_NUM_THREADS") != NULL:
        return available
    if hasattr(os, "sched_getaffinity"):
        available = min(available, len(os.sched_getaffinity(0)))
    return min(available, _cgroup_limit() or available)


cdef int _threads = _default_threads()     # 0: the variable cannot be understood, which the first call tells
cdef object _scoped = ContextVar("normlib_num_threads", default=0)
normlib_watch_forks()
scoped = _scoped


cdef int current_threads() except -1:
    cdef int n
    n = <int>get_value(_scoped)
    if n == 0:
        n = _threads
    if n == 0:
        raise ValueError(f"NORMLIB_NUM_THREADS is {os.environ.get('NORMLIB_NUM_THREADS')!r}, expected a whole number from 1 to 4096")
    return n


cdef int default_threads() noexcept nogil:
    return max(1, _threads)


cdef void set_default_threads(int n) noexcept nogil:
    global _threads
    _threads = n


def get_num_threads():
    return current_threads()


def set_num_threads(int n):
    set_default_threads(n)
