"""A norm as data: all that a probe can tell about one, right or wrong, and one function that computes it in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# By what the normalized value is multiplied, and what is then added, of a weight w and a bias b.
MULTIPLIES: dict[str, Callable[[Any, Any], Any]] = {
    "w": lambda w, b: w,
    "1 + w": lambda w, b: 1 + w,
    "2 + w": lambda w, b: 2 + w,
    "(1 + w)^2": lambda w, b: (1 + w) ** 2,
    "w^2": lambda w, b: w * w,
    "1": lambda w, b: np.ones_like(w),
    "b": lambda w, b: b,
}
ADDS: dict[str, Callable[[Any, Any, Any], Any]] = {  # of w, b and the factor
    "b": lambda w, b, factor: b,
    "0": lambda w, b, factor: 0 * b,
    "w": lambda w, b, factor: w,
    "b * factor": lambda w, b, factor: b * factor,
    "-b": lambda w, b, factor: -b,
}
# What is normalized.
FIRST: dict[str, Callable[[Any, Any, Any], Any]] = {
    "x": lambda x, w, b: x,
    "x * w": lambda x, w, b: x * w,
    "x * w + b": lambda x, w, b: x * w + b,
    "x + b": lambda x, w, b: x + b,
}
# The denominator, of a variance (or mean square) v and an eps.
PLACES: dict[str, Callable[[Any, float], Any]] = {
    "variance": lambda v, eps: np.sqrt(v + eps),
    "deviation": lambda v, eps: np.sqrt(v) + eps,
    "reciprocal": lambda v, eps: 1 / (1 / np.sqrt(v) + eps),
    "floor": lambda v, eps: np.sqrt(np.maximum(v, eps)),
}


@dataclass(frozen=True)
class Held:
    """Statistics that are taken for constants where a gradient is formed: a column of one value a row, or None."""

    mean: Array | None = None
    deviation: Array | None = None


@dataclass(frozen=True)
class Norm:
    """A model of a norm, right or wrong.

    ``y = scale * (x - mean) / denominator * factor(weight) + shift(bias)``, where each row, the elements that share
    statistics, has a mean and a variance.

    Attributes
    ----------
    axes : tuple of int
        The axes over which statistics run, whole.
    channel_axis, groups, interleaved : int, int, bool
        An axis over which they run in groups: neighbouring channels, or every `groups`-th where they are interleaved.
    subtracts, centered : bool
        Whether the mean is subtracted in the numerator, and in the variance.
    power : float
        That of the deviation in the denominator: 1, or 2 where the root is missing, or 0 where nothing divides.
    ddof : int
        The variance is the sum of squares / (n - ddof).
    scale : float
        A constant factor beside all that.
    eps, place : float, str
        A small number, and what it is added to: a key of `PLACES`.
    multiplies, adds, first : str
        What is made of weight and bias: keys of `MULTIPLIES`, `ADDS` and `FIRST`.
    parameter_axes : tuple of int
        The axes of x along which weight and bias lie.
    """

    axes: tuple[int, ...]
    channel_axis: int | None = None
    groups: int = 0
    interleaved: bool = False
    subtracts: bool = True
    centered: bool = True
    power: float = 1.0
    ddof: int = 0
    scale: float = 1.0
    eps: float = 0.0
    place: str = "variance"
    multiplies: str = "w"
    adds: str = "b"
    first: str = "x"
    parameter_axes: tuple[int, ...] = ()

    def labels(self, shape: tuple[int, ...]) -> Array:
        """The number of its row for each element, in order of appearance; not to be written to."""
        return _labels(self.axes, self.channel_axis, self.groups, self.interleaved, shape)

    def row_length(self, shape: tuple[int, ...]) -> int:
        """How many elements share a pair of statistics."""
        return math.prod(shape) // (int(self.labels(shape).max()) + 1)

    def along(self, parameter: Array | None, ndim: int) -> Array | None:
        """A parameter with axes of 1 beside its own, to broadcast against x."""
        if parameter is None:
            return None
        lengths: tuple[int, ...] = np.shape(parameter)
        if len(lengths) != len(self.parameter_axes):
            lengths = tuple(n for n in lengths if n != 1) or (1,)
        sizes = dict(zip(self.parameter_axes, lengths, strict=True))
        return np.asarray(parameter, dtype=np.float64).reshape([sizes.get(axis, 1) for axis in range(ndim)])

    def __call__(
        self, x: Array, weight: Array | None = None, bias: Array | None = None, held: Held | None = None
    ) -> Array:
        """The norm of x in float64; statistics that are `held` do not follow x."""
        x = np.asarray(x, dtype=np.float64)
        has_weight, has_bias = weight is not None, bias is not None
        w = self.along(weight, x.ndim) if has_weight else np.ones(())
        b = self.along(bias, x.ndim) if has_bias else np.zeros(())
        rows, back = gather(np.broadcast_to(FIRST[self.first](x, w, b), x.shape), self.labels(x.shape))
        with np.errstate(all="ignore"):
            mean, deviation = self.statistics(rows)
            if held is not None:
                mean = mean if held.mean is None else held.mean
                deviation = deviation if held.deviation is None else held.deviation
            z = back(self.scale * (rows - mean * self.subtracts) / deviation)
            factor = MULTIPLIES[self.multiplies](w, b)
            return z * factor + ADDS[self.adds](w, b, factor)

    def statistics(self, rows: Array) -> tuple[Array, Array]:
        """Means of rows, and by what they are divided."""
        mean = rows.mean(axis=1, keepdims=True)
        squares = np.square(rows - mean * self.centered).sum(axis=1, keepdims=True)
        return mean, PLACES[self.place](squares / (rows.shape[1] - self.ddof), self.eps) ** self.power

    @property
    def kind(self) -> str:
        """The words for its statistics."""
        return "RMSNorm" if not (self.subtracts or self.centered) else "LayerNorm"


@functools.lru_cache(maxsize=64)
def _labels(
    axes: tuple[int, ...], channel_axis: int | None, groups: int, interleaved: bool, shape: tuple[int, ...]
) -> Array:
    key = np.zeros(shape, dtype=np.int64)
    for axis, index in enumerate(np.indices(shape, sparse=True)):
        if axis in axes:
            continue
        size = shape[axis]
        if groups and axis == channel_axis:
            size = groups
            index = index % size if interleaved else index // (shape[axis] // size)
        key = key * size + index
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    found = np.argsort(np.argsort(first))[inverse].reshape(shape)
    found.setflags(write=False)
    return found


def gather(a: Array, labels: Array) -> tuple[Array, Callable[[Array], Array]]:
    """The elements of `a` as (rows, elements of a row), and what puts such an array back."""
    order = np.argsort(labels, axis=None, kind="stable")
    rows = np.asarray(a, dtype=np.float64).reshape(-1)[order].reshape(int(labels.max()) + 1, -1)

    def back(values: Array) -> Array:
        flat = np.empty(labels.size)
        flat[order] = np.broadcast_to(values, rows.shape).reshape(-1)
        return flat.reshape(labels.shape)

    return rows, back


def round_to(a: Array, dtype: str) -> Array:
    """Values of float64 rounded to another dtype, to nearest even."""
    a = np.asarray(a, dtype=np.float64)
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return a.astype(dtype).astype(np.float64)
        bits = np.atleast_1d(a.astype(np.float32)).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64).reshape(a.shape)


UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half an ulp of 1
