"""The arrays of a case, and the public call that it times."""

import contextlib
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from normlib.bench.cases import ITEMSIZE, Case
from normlib.ops import OPS

__all__ = ["Contender", "arrays", "as_tuple", "call", "dtype_of", "seconds"]


class Contender(NamedTuple):
    """Something that is timed.

    ``call`` takes no arguments; ``outputs`` turns what it returns into arrays laid out like ours (the
    output, then the parameter gradients) and ``around`` is entered before a sample and left after it.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], list[np.ndarray]] | None = None
    around: Callable[[], Any] = contextlib.nullcontext


def dtype_of(name: str) -> np.dtype:
    """Return the NumPy dtype; bfloat16 needs the package ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def seconds(entry: Callable[[], Any]) -> float:
    """Return the time of the best of a few calls: which of several entries of a library is the fastest."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        entry()
        best = min(best, time.perf_counter() - start)
        if best > 0.1:
            break
    return best


def as_tuple(result) -> tuple:
    """Return what an op returned as a tuple."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def arrays(case: Case) -> dict[str, Any]:
    """Return the arguments of the case by name, statistics and ``out`` included.

    The values are normal with mean 1 and deviation 2. Statistics for the backward pass are those that the
    forward pass returned.
    """
    random = np.random.default_rng(0)
    dtype = dtype_of(case.dtype)
    shape = case.shape
    if case.layout == "channels_last":
        shape = (shape[0], *shape[2:], shape[1])

    def normal(shape, mean=0.0, deviation=1.0, dtype=dtype):
        # A block of prime length, repeated, costs a tenth of drawing a large array.
        block = random.standard_normal(min(np.prod(shape, dtype=int), 1_000_003), dtype=np.float32)
        return np.resize((mean + deviation * block).astype(dtype), shape)

    x = normal(shape, 1.0, 2.0)
    if case.layout == "strided":  # the first of three arrays that one projection wrote side by side
        x = np.stack([x, x, x], axis=1)[:, 0]
    channel_axis = -1 if case.layout == "channels_last" else 1
    axis = 1 if case.layout == "channel_axis" else -1
    op = OPS[case.norm]
    width = x.shape[axis if op.kind == "feature" else channel_axis]
    # Models of 16 bits keep BatchNorm's parameters in float32, and those of the other norms like x.
    parameters = np.dtype("float32") if op.mode == "training" and ITEMSIZE[case.dtype] == 2 else dtype
    given = {
        "x": x,
        "weight": normal((width,), 1.0, 0.1, parameters) if case.affine else None,
        "bias": normal((width,), 0.0, 0.1, parameters) if case.affine else None,
        "eps": case.eps,
        "axis": axis,
        "channel_axis": channel_axis,
        "num_groups": case.groups,
        op.mode: case.training,
        "out": np.empty(x.shape, dtype) if case.out else None,
    }
    if op.mode == "training":
        given["running_mean"] = normal((width,), 1.0, 0.1, parameters)
        given["running_var"] = np.abs(normal((width,), 4.0, 0.1, parameters))
    if case.backward:
        given["dy"] = normal(shape)
        given.update(_statistics(case, given))
    given.update((name, normal(shape)) for name in case.reads if name not in ("dy", "x"))
    if case.out and "residual" in given:
        given["residual_out"] = np.empty(x.shape, dtype)
    return given


def _statistics(case: Case, given: dict[str, Any]) -> dict[str, np.ndarray]:
    if not case.training:
        mean, var = (np.asarray(given[name], np.float64) for name in ("running_mean", "running_var"))
        return {"mean": mean, "rstd": 1 / np.sqrt(var + case.eps)}
    forward = {name: value for name, value in given.items() if name != "out"}
    _, *statistics = _bound(OPS[case.norm].forward, forward, return_stats=True)()
    return dict(zip(OPS[case.norm].statistics, statistics, strict=True))


def _bound(function: Callable, given: dict[str, Any], **more) -> functools.partial:
    """Return a public function with all that it takes of the given arguments bound."""
    positional, keywords = [], dict(more)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(given.get(name))
        elif given.get(name) is not None:
            keywords[name] = given[name]
    return functools.partial(function, *positional, **keywords)


def call(case: Case, given: dict[str, Any]) -> Contender:
    """Return our side of the case; what another case of the same arrays takes is left out."""
    op = OPS[case.norm]
    unused = {"add", "dsum", "residual"}.difference(case.reads)
    if "residual" in unused:
        unused.add("residual_out")
    if case.backward and not case.activation:
        unused.add("bias")
    given = {name: value for name, value in given.items() if name not in unused} | {"activation": case.activation}
    return Contender(
        _bound(op.backward if case.backward else op.forward, given),
        lambda result: [np.asarray(array) for array in as_tuple(result) if array is not None],
    )
