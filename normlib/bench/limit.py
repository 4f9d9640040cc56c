"""The limit of a pass: a copy of the least bytes that it must move, with the same threads.

A forward pass reads x and writes y; a backward pass reads dy and x and writes dx; what is fused reads or writes
an array more. No normalization can be faster than moving as many bytes, and the fastest way counts: plain stores, the
best in cache; streaming stores, which do not read the line that they overwrite, the best out of it; or NumPy's copy.
"""

import functools
from typing import Any

import numpy as np

from normlib import _kernels
from normlib.bench.calls import Contender
from normlib.bench.cases import Case

__all__ = ["COPIES", "compiled", "limits"]

COPIES = ("copy", "streaming copy", "np.copyto")


def compiled() -> bool:
    """Whether there are compiled copies; otherwise ``np.copyto`` on one thread is all there is."""
    return _kernels.backend is not None


def _floats(array: np.ndarray) -> np.ndarray:
    """Return as many bytes of float32: the array itself, or ones where its bits mean something else."""
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array.reshape(-1)
    return np.ones(max(array.nbytes // 4, 1), np.float32)


def limits(case: Case, given: dict[str, Any], threads: int) -> dict[str, Contender]:
    """Return the copies whose fastest one is the limit of the case."""
    sources = [_floats(given[name]) for name in case.reads]
    if case.fused:  # as many bytes in one call, from one array or from two
        number = 1 if len(sources) == case.writes else 2
        size = sources[0].size * (len(sources) + case.writes) // (number + 1)
        sources = [np.ones(size, np.float32) for _ in range(number)]
    target = np.zeros_like(sources[0])
    target.fill(1)  # its pages are there, as those of a given output are
    calls = {"np.copyto": functools.partial(_numpy_copy, target, *sources)}
    if compiled():
        compiled_copy = functools.partial(_kernels.copy if len(sources) == 1 else _kernels.copy2, target, *sources)
        calls["copy"] = functools.partial(compiled_copy, False, threads)
        calls["streaming copy"] = functools.partial(compiled_copy, True, threads)
    return {name: Contender(function) for name, function in calls.items()}


def _numpy_copy(target: np.ndarray, source: np.ndarray, more: np.ndarray | None = None) -> None:
    np.copyto(target, source)
    if more is not None:
        half = more.size // 2
        np.copyto(target[:half], more[half : 2 * half])
