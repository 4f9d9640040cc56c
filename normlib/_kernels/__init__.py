"""The compiled kernels: which ISA level runs, and the backend that stands on it.

``backend`` is None where there is nothing compiled, or nothing that this processor runs; ``info()`` says why.
"""

import os
from importlib import import_module
from pathlib import Path

from .._machine import caches

LEVELS = ("v4", "v3", "v2", "baseline")

backend = None
_caches = None
_level: str | None = None
_built: list[str] = []
_reason: str | None = None
_FAILURE = Path(__file__).with_name("build_failure.txt")  # what setup.py left where the compiler failed


def _load():
    """Choose the best level that is built and that the processor has, or the one that NORMLIB_ISA names."""
    global backend, _caches, _level, _built
    try:
        probe, machine, call = (import_module(f"{__name__}.{name}") for name in ("probe", "machine", "call"))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_why_not_built(error), name=error.name) from None

    def module(level):
        try:
            return import_module(f"{__name__}.isa_{level}")
        except ModuleNotFoundError:
            return None

    try:
        found = caches(machine.ask_system)
    except ValueError as error:
        raise ImportError(str(error)) from None
    machine.follow(found.l1, max(1, found.l2 // found.l2_cores), found.llc, found.thread)
    runs = probe.levels()
    forced = os.environ.get("NORMLIB_ISA", "").strip()
    if forced and forced not in LEVELS:
        raise ImportError(f"NORMLIB_ISA is {forced!r}, expected one of {', '.join(LEVELS)}")
    _built = [level for level in runs if _is_built(level)]
    for level in [forced] if forced else _built:
        if level not in runs:
            raise ImportError(f"NORMLIB_ISA is {forced!r}, but this processor has {', '.join(runs)}")
        kernels = module(level)
        if kernels is not None:
            call.choose(kernels.kernels())
            _caches, _level = found, level
            backend = import_module(f"{__name__}.backend")
            return
    raise ImportError(f"no kernels were built for {forced or ' or '.join(runs)}")


def _why_not_built(error):
    """In words, and the cure."""
    reason = _left_out() or error
    return (f"they were not compiled when normlib was installed: {reason}; install a C compiler and Python's headers "
            "(Debian: apt install gcc python3-dev), then run pip install --force-reinstall --no-cache-dir normlib")


def _left_out():
    """Why the compiler failed on a module, the first of them; None where it failed on none."""
    return _FAILURE.read_text() if _FAILURE.exists() else None


def _is_built(level):
    from importlib.machinery import EXTENSION_SUFFIXES

    return any(os.path.exists(os.path.join(path, f"isa_{level}{suffix}"))
               for path in __path__ for suffix in EXTENSION_SUFFIXES)


def info():
    """What runs: isa, isa_available, openmp (None, or whether the kernels use it), caches (None, or those that they go
    by), reason (None, or why not), left_out (None, or why a module, as that of an ISA level, was not compiled)."""
    openmp = None
    if backend is not None:
        from . import parallel

        openmp = parallel.openmp_runtime()
    return {"isa": _level, "isa_available": list(_built), "openmp": openmp, "caches": _caches,
            "reason": _reason, "left_out": _left_out()}


try:
    _load()
except ImportError as error:
    _reason = str(error)


def without_frame(function, active):
    """A public function, or what computes its ordinary calls without it; active: which functions are in use."""
    if backend is None:
        return function
    from .functions import Function

    return Function(function, active, direct(function.__name__))


def direct(op):
    """The direct function of the compiled backend; None without it."""
    return None if backend is None else backend.direct[op]


def plan(plain, *arguments):
    """What computes the calls of a plan."""
    from .prepared import Plan

    return Plan(plain, *arguments)


def steps():
    """The class of the steps of recurrent layers."""
    from .recurrent import Steps

    return Steps


def copy(dst, src, streaming, threads):
    """dst = src for contiguous arrays of float32, past the caches or through them; what benchmarks measure against."""
    from . import from_python

    from_python.copy(dst, src, None, streaming, threads)


def copy2(dst, a, b, streaming, threads):
    """dst = a + b for contiguous arrays of float32: two reads and a write."""
    from . import from_python

    from_python.copy(dst, a, b, streaming, threads)
