"""The limit of a pass: a copy of the least bytes that it must move, with the same threads.

A forward pass reads x and writes y; a backward pass reads dy and x and writes dx. No normalization can be faster than
moving as many bytes, and the fastest way counts: plain stores, the best in cache; streaming stores, which do not read
the line that they overwrite, the best out of it; or NumPy's own copy.
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
    x = _floats(given["x"])
    target = np.zeros_like(x)
    target.fill(1)  # its pages are there, as those of a given output are
    if case.backward:
        dy = _floats(given["dy"])
        compiled_copy = functools.partial(_kernels.copy2, target, dy, x)
        numpy_copy = functools.partial(_copy_and_a_half, target, dy, x)
    else:
        compiled_copy = functools.partial(_kernels.copy, target, x)
        numpy_copy = functools.partial(np.copyto, target, x)
    calls = {"np.copyto": numpy_copy}
    if compiled():
        calls["copy"] = functools.partial(compiled_copy, False, threads)
        calls["streaming copy"] = functools.partial(compiled_copy, True, threads)
    return {name: Contender(function) for name, function in calls.items()}


def _copy_and_a_half(target: np.ndarray, dy: np.ndarray, x: np.ndarray) -> None:
    half = x.size // 2
    np.copyto(target, dy)
    np.copyto(target[:half], x[half : 2 * half])
