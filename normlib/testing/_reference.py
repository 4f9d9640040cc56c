"""The norms in extended precision, written for clarity and shared with no backend.

Every norm is the same sum over *rows*: a row holds the elements that share one pair of statistics. `Geometry` says
which element belongs to which row and to which parameter, by index arrays, so that no axis bookkeeping of a backend is
repeated here. The arithmetic is `numpy.longdouble` where that is wider than float64, else `decimal` with 40 digits.
"""

import copy
import decimal
import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

WIDE = np.finfo(np.longdouble).nmant > 60
# (bits of the mantissa behind the point, smallest normal exponent)
_FORMATS = {"float64": (52, -1022), "float32": (23, -126), "float16": (10, -14), "bfloat16": (7, -126)}


def extended(a, wide=WIDE):
    """`a` as an array of extended precision (longdouble, or Decimal objects)."""
    a = np.asarray(a)
    if a.dtype == np.longdouble or a.dtype == object:
        return a
    a = a.astype(np.float64)  # exact for every dtype taken; ml_dtypes knows no longdouble
    if wide:
        return a.astype(np.longdouble)
    context = decimal.getcontext()
    context.prec = max(context.prec, 40)
    return np.array([decimal.Decimal(v) for v in a.ravel().tolist()], dtype=object).reshape(a.shape)


def working_dtype(dtype):
    """The type in which the contract measures errors: float64 for float64, else float32."""
    return "float64" if np.dtype(dtype).name == "float64" else "float32"


def normal_range(dtype):
    """The least and the largest normal number of `dtype`."""
    bits, smallest = _FORMATS[np.dtype(dtype).name]
    return 2.0**smallest, (2 - 2.0**-bits) * 2.0 ** (1 - smallest)


def spacing(a, dtype):
    """One ulp of `dtype` at the magnitude of `a`, in longdouble."""
    bits, smallest = _FORMATS[np.dtype(dtype).name]
    _, exponent = np.frexp(np.abs(np.asarray(a, dtype=np.longdouble)))
    return np.ldexp(np.longdouble(1), np.maximum(exponent - 1, smallest) - bits)


def ulp_error(actual, expected, *, axis=-1, scale=None):
    """Largest error in ulps of the largest expected value of each row.

    Parameters
    ----------
    actual : array
        A result in float64, float32, float16 or bfloat16.
    expected : array
        The same in a higher precision.
    axis : int, tuple of ints or None
        The axes that make up a row; None measures against the largest value of the array.
    scale : array, optional
        Magnitudes, of a shape that broadcasts, to measure against where a row's largest value is smaller (a result
        that cancels to nothing).

    Returns
    -------
    float
        ``max |actual - expected| / ulp(max |expected| of the row)``, in ulps of float64 for float64 and of float32
        otherwise. Of a 16-bit result only what goes beyond one rounding to 16 bits counts. A NaN on one side alone or
        a wrong infinity gives inf.

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.testing import ulp_error
    >>> one = np.float32([1, 0.25])
    >>> ulp_error(np.nextafter(one, np.float32(2)), one)
    1.0
    """
    actual = np.asarray(actual)
    if actual.size == 0:
        return 0.0
    dtype = actual.dtype
    expected = np.asarray(expected).astype(np.longdouble)
    got = actual.astype(np.float64).astype(np.longdouble)
    special = ~np.isfinite(got) | ~np.isfinite(expected)
    if np.any(special):
        if not np.array_equal(got[special], expected[special], equal_nan=True):
            return float("inf")
        got, expected = np.where(special, 0, got), np.where(special, 0, expected)
    error = np.abs(got - expected)
    if dtype.itemsize == 2:
        error = np.maximum(error - spacing(np.maximum(np.abs(got), np.abs(expected)), dtype) / 2, 0)
    floor = 0 if scale is None else np.asarray(scale).astype(np.longdouble)
    largest = np.max(np.maximum(np.abs(expected), floor), axis=axis, keepdims=True)
    return float(np.max(error / spacing(largest, working_dtype(dtype))))


class Geometry:
    """Which row and which parameter each element of x belongs to: `row` and `parameter` number them in x's shape, in
    which leading axes of parameters stand for the axes `kept`."""

    inside = None  # which elements take part, in x's shape; None: all

    def __init__(self, row, parameter, statistics_shape, parameter_shape, kept=()):
        self.row, self.parameter, self.kept = row, parameter, kept
        self.statistics_shape, self.parameter_shape = statistics_shape, parameter_shape

    def among(self, inside):
        """The same, of the elements inside a mask."""
        masked = copy.copy(self)
        masked.inside = np.broadcast_to(inside, self.row.shape)
        return masked

    def taking_part(self):
        """Which elements of the rows take part, and how many of each."""
        if self.inside is None:
            return True, self.row.size // np.prod(self.statistics_shape, dtype=int)
        rows = self.rows(self.inside)
        return rows, rows.sum(axis=1, keepdims=True)

    @cached_property
    def _by_row(self):
        return np.argsort(self.row, axis=None, kind="stable")

    def rows(self, a):
        """The elements of `a` gathered as (rows, elements of a row)."""
        return np.asarray(a).reshape(-1)[self._by_row].reshape(np.prod(self.statistics_shape, dtype=int), -1)

    def from_rows(self, rows):
        """The inverse of `rows`."""
        flat = np.empty(self.row.size, dtype=rows.dtype)
        flat[self._by_row] = rows.reshape(-1)
        return flat.reshape(self.row.shape)

    def per_row(self, statistic):
        """A statistic as a column beside the rows."""
        return np.asarray(statistic).reshape(-1, 1)

    def per_element(self, parameter):
        """A parameter spread over the shape of x."""
        parameter = np.asarray(parameter)
        return parameter.reshape(-1)[self._numbered(parameter.shape)]

    def _numbered(self, shape):
        """`parameter` for parameters of `shape`, which may have leading axes."""
        leading, number = shape[: len(shape) - len(self.parameter_shape)], 0
        for n, axis in zip(reversed(leading), reversed(self.kept), strict=False):
            place = np.arange(self.row.shape[axis]).reshape([-1 if a == axis else 1 for a in range(self.row.ndim)])
            number = number + place * (n > 1) * self._beyond(leading, axis)
        return number * math.prod(self.parameter_shape) + self.parameter

    def _beyond(self, leading, axis):
        """How many values one leading axis steps over."""
        return math.prod(leading[len(leading) - len(self.kept) + self.kept.index(axis) + 1 :])

    def parameter_sum(self, a, shape=None):
        """Sums of the elements of `a` that share a parameter of `shape`."""
        shape = self.parameter_shape if shape is None else shape
        terms = np.asarray(a).reshape(-1)[np.argsort(self._numbered(shape), axis=None, kind="stable")]
        return terms.reshape(np.prod(shape, dtype=int), -1).sum(axis=1).reshape(shape)


class Forward(NamedTuple):
    """Extended-precision results of a forward pass; `mean` is None for a norm that is not centered.

    `scale` is the largest term of each row of y, before bias and the rest cancel.
    """

    y: np.ndarray
    mean: np.ndarray | None
    var: np.ndarray
    rstd: np.ndarray
    scale: np.ndarray


class Backward(NamedTuple):
    """Extended-precision gradients; `scale` is the largest term of each row of dx, before terms cancel.

    `dweight_scale` and `dbias_scale` are the 2-norms of the terms of each sum: the size of a sum of random signs.
    """

    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
    scale: np.ndarray
    dweight_scale: np.ndarray
    dbias_scale: np.ndarray


@np.errstate(divide="ignore", invalid="ignore")  # of a row with nothing inside
def forward(geometry, x, weight=None, bias=None, *, eps, centered=True, mean=None, var=None, wide=WIDE):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, with the statistics of each row or with given ones."""
    rows, n = geometry.taking_part()
    z = np.where(rows, geometry.rows(extended(x, wide)), 0)
    if mean is not None:
        mean, var = (geometry.per_row(extended(s, wide)) for s in (mean, var))
        z = z - mean
    else:
        if centered:
            first = z.sum(axis=1, keepdims=True) / n
            z = np.where(rows, z - first, 0)
            rest = z.sum(axis=1, keepdims=True) / n
            z = np.where(rows, z - rest, 0)
            mean = first + rest
        var = (z * z).sum(axis=1, keepdims=True) / n
    rstd = 1 / np.sqrt(var + extended(eps, wide))
    y = geometry.from_rows(np.where(rows, z * rstd, 0))
    if weight is not None:
        y = y * geometry.per_element(extended(weight, wide))
    scale = np.max(np.abs(geometry.rows(y)), axis=1, keepdims=True) if y.size else rstd
    if bias is not None:
        y = y + geometry.per_element(extended(bias, wide))
    shape = geometry.statistics_shape
    return Forward(y, None if mean is None else mean.reshape(shape), var.reshape(shape), rstd.reshape(shape), scale)


@np.errstate(divide="ignore", invalid="ignore")
def backward(geometry, dy, x, weight=None, *, mean=None, rstd, through=True, wide=WIDE, bias_shape=None):
    """Gradients with the given statistics; `through` says whether these came from x itself. That of the bias has the
    shape of the weight, if it has no other.

    With z = (x - mean) rstd and g = dy weight: dx = rstd (g - mean(g) - z mean(g z)), without mean(g) where the norm is
    not centered, and dx = rstd g where the statistics are constants.
    """
    dy = extended(dy, wide)
    rstd = geometry.per_row(extended(rstd, wide))
    z = geometry.rows(extended(x, wide))
    if mean is not None:
        z = z - geometry.per_row(extended(mean, wide))
    rows, n = geometry.taking_part()
    z = np.where(rows, z * rstd, 0)
    dy = np.where(True if geometry.inside is None else geometry.inside, dy, 0)
    g = geometry.rows(dy if weight is None else dy * geometry.per_element(extended(weight, wide)))
    dx = g
    if through:
        if mean is not None:
            dx = dx - g.sum(axis=1, keepdims=True) / n
        dx = dx - z * ((g * z).sum(axis=1, keepdims=True) / n)
    g, dx = np.where(rows, g * rstd, 0), np.where(rows, dx * rstd, 0)
    scale = np.max(np.abs(g), axis=1, keepdims=True)
    terms = dy * geometry.from_rows(z)
    shape = None if weight is None else np.shape(weight)
    bias_shape = shape if bias_shape is None else bias_shape
    return Backward(
        geometry.from_rows(dx),
        geometry.parameter_sum(terms, shape),
        geometry.parameter_sum(dy, bias_shape),
        scale,
        np.sqrt(geometry.parameter_sum(terms * terms, shape)),
        np.sqrt(geometry.parameter_sum(dy * dy, bias_shape)),
    )
