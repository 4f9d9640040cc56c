"""The limit of a pass: a copy of the least bytes that it must move, with the same threads.

A forward pass reads x and writes y; a backward pass reads dy and x and writes dx. No normalization can
be faster than a copy of as many bytes, and the faster of two copies counts: one with plain stores, the best
in cache, and one with streaming stores, which do not read the line that they overwrite, the best out of it.
"""

import functools
from typing import Any

import numpy as np

from normlib.bench.calls import Contender
from normlib.bench.cases import Case

__all__ = ["COPIES", "compiled", "limits"]

COPIES = ("copy", "streaming copy")


def compiled() -> bool:
    """Whether the copies are the compiled ones; otherwise ``np.copyto`` stands in, on one thread."""
    kernels = _kernels()
    return hasattr(kernels, "copy") and hasattr(kernels, "copy2")


def _kernels():
    try:
        from normlib import _kernels
    except ImportError:
        return None
    return _kernels


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def limits(case: Case, given: dict[str, Any], threads: int) -> dict[str, Contender]:
    """Return the copies whose faster one is the limit of the case."""
    x = _bytes(given["x"])
    target = np.empty_like(x)
    target.fill(0)  # pages mapped, as those of a given output are
    if compiled():
        kernels = _kernels()
        if case.backward:
            move = functools.partial(kernels.copy2, target, _bytes(given["dy"]), x)
        else:
            move = functools.partial(kernels.copy, target, x)
        return {
            name: Contender(functools.partial(move, streaming, threads))
            for name, streaming in zip(COPIES, (False, True), strict=True)
        }
    if not case.backward:
        return {"copy": Contender(functools.partial(np.copyto, target, x))}
    dy, half = _bytes(given["dy"]), x.size // 2

    def copy_and_a_half():
        np.copyto(target, dy)
        np.copyto(target[:half], x[half : 2 * half])

    return {"copy": Contender(copy_and_a_half)}
