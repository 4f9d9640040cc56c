"""The limit of a pass: a copy of the least bytes that it must move, with the same threads.

A forward pass reads x and writes y; a backward pass reads dy and x and writes dx; what is fused reads or writes
an array more. No normalization can be faster than moving as many bytes, and the fastest way counts: plain stores, the
best in cache; streaming stores, which do not read the line that they overwrite, the best out of it; or NumPy's copy.
"""

import functools
from collections.abc import Callable
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
    parts = _parts([_floats(given[name]) for name in case.reads], case.writes)
    calls = {"np.copyto": [functools.partial(_numpy_copy, *part) for part in parts]}
    if compiled():
        for name, streaming in (("copy", False), ("streaming copy", True)):
            copies = [functools.partial(_kernels.copy if len(part) == 2 else _kernels.copy2, *part) for part in parts]
            calls[name] = [functools.partial(copy, streaming, threads) for copy in copies]
    return {name: Contender(functools.reduce(_joined, functions)) for name, functions in calls.items()}


def _parts(sources: list[np.ndarray], writes: int) -> list[tuple[np.ndarray, ...]]:
    """Return targets, each with the one or two sources that are copied into it, of as many bytes as the pass moves."""
    parts = []
    for left in range(writes, 0, -1):
        own, sources = sources[: 1 + (len(sources) > left)], sources[1 + (len(sources) > left) :]
        parts.append((np.ones_like(own[0]), *own))  # its pages are there, as those of a given output are
    for source in sources:  # no copy reads three arrays: two thirds of the third one, and a third written
        third = max(source.size // 3, 1)
        parts.append((np.ones_like(source[:third]), source[:third], source[-third:]))
    return parts


def _joined(first: Callable, second: Callable) -> Callable:
    def call():
        first()
        second()

    return call


def _numpy_copy(target: np.ndarray, source: np.ndarray, more: np.ndarray | None = None) -> None:
    np.copyto(target, source)
    if more is not None:  # the bytes of half a copy
        half = more.size // 2
        np.copyto(target[:half], more[half : 2 * half])
