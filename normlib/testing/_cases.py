"""Cases drawn from the descriptions of the ops: what to normalize, how it lies in memory, and with which options."""

import math
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from .. import ops
from ..description import FUNCTIONS
from ._fused import arrays, opened, together
from ._layouts import LAYOUTS, UNWRITABLE, has_layout
from ._reference import Geometry, extended

# Odd widths, and sizes on both sides of a border of 32 lanes and of blocks of 1024.
WIDTHS = (1, 2, 7, 31, 32, 33, 97, 1000, 1024, 1025, 3001)
OFFSETS = (0.0, 1e2, 1e4, 1e6)
OUTPUTS = ("new", "given", "strided", "inplace", "overlap")
AFFINE = ("both", "weight", "bias", "none")
# "large" and "small" have squares beyond the type, 32 bits for 16; an outlier, and the one of a "one-hot" row, stands
# at another place of each row; "sparse" rows have 1 % that is not 0, as after a ReLU; of "front" rows one large value
# comes before many 1 and -1.
# The axes that leading axes of weight and bias stand for; "both": others for each of them.
LEADING = ("samples", "last", "all", "both")
VALUES = ("normal", "large", "small", "outlier", "constant", "one-hot", "sparse", "front")
UNEVEN = VALUES[-3:]
_LARGE_VALUE = {"float16": 16384.0, "float64": 1e200}  # else 1e18
_SMALL_VALUE = {"float64": 1e-200}  # else 1e-18

EPS = 1e-5

_FEATURE = [
    *(((3, width), {"axis": -1}) for width in WIDTHS),
    ((7,), {"axis": 0}),
    ((40, 37), {"axis": 0}),
    ((2, 5, 33), {"axis": -1}),
    ((2, 33, 5), {"axis": 1}),
    ((4, 3, 5), {"axis": (0, 2)}),
    ((2, 1030, 3), {"axis": 1}),
    ((2, 3, 4, 5), {"axis": (1, 2, 3)}),
    ((3, 8, 2, 5), {"axis": (1,)}),
    ((2, 3, 33, 4), {"axis": (-1, -2)}),
    ((2, 3, 2, 5, 7), {"axis": (2, 4)}),
    ((2, 3, 2, 2, 9), {"axis": (0, 1, 2, 3, 4)}),
]
_CHANNEL = [
    *(((width, 3), {"channel_axis": 1}) for width in (2, 7, 33, 1025)),
    *(((3, width), {"channel_axis": 1}) for width in (1, 33, 97)),
    *(((2, 4, width), {"channel_axis": 1}) for width in WIDTHS),
    *(((2, width, 4), {"channel_axis": -1}) for width in (33, 1025)),
    ((5, 6, 7), {"channel_axis": 1}),
    ((5, 7, 6), {"channel_axis": -1}),
    ((6, 5, 7), {"channel_axis": 0}),
    ((2, 6, 5, 7), {"channel_axis": 1}),
    ((2, 5, 7, 34), {"channel_axis": -1}),
    ((2, 5, 34, 7), {"channel_axis": 2}),
    ((2, 4, 3, 5, 2), {"channel_axis": 1}),
    ((2, 3, 5, 2, 4), {"channel_axis": -1}),
]
# One small problem of each kind for what is tried in every combination.
_TYPICAL = {
    "feature": [((5, 6, 37), {"axis": -1}), ((4, 37, 6), {"axis": 1}), ((3, 4, 5, 6), {"axis": (1, 2, 3)})],
    "channel": [((3, 6, 37), {"channel_axis": 1}), ((2, 5, 7, 6), {"channel_axis": -1})],
}
# Few elements, for finite differences.
_SMALL = {
    "feature": [((3, 7), {"axis": -1}), ((2, 3, 4), {"axis": (0, 2)})],
    "channel": [((2, 4, 5), {"channel_axis": 1}), ((2, 3, 4), {"channel_axis": -1})],
}
# Kept and reduced axes by turns.
_SPLIT = {"feature": [((2, 3, 2, 3, 2, 5), {"axis": -1}), ((2, 3, 4, 3, 5), {"axis": (2, 4)})]}
# As many axes as NumPy has.
_MANY = (1,) * 61
_DEEP = {
    "feature": [((2, *_MANY, 3, 33), {"axis": -1}), ((2, *_MANY, 33, 3), {"axis": (1, -2)})],
    "channel": [((2, 6, *_MANY, 5), {"channel_axis": 1}), ((2, *_MANY, 5, 6), {"channel_axis": -1})],
}
# Large enough that a backend uses its threads.
_LARGE = {
    "feature": [((600, 769), {"axis": -1}), ((2, 300, 771), {"axis": 1})],
    "channel": [((6, 36, 47, 51), {"channel_axis": 1}), ((6, 47, 51, 36), {"channel_axis": -1})],
}


def dtypes():
    """The dtypes that can be tried here: bfloat16 needs ml_dtypes."""
    found = [np.dtype(name) for name in ("float32", "float64", "float16")]
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return found
    return [*found, np.dtype(bfloat16)]


def dtype_named(name):
    return next(dtype for dtype in dtypes() if dtype.name == name)


def _numbered(shape, axes):
    """For each element the number of its position along `axes`, in C order."""
    sizes = [n if i in axes else 1 for i, n in enumerate(shape)]
    return np.broadcast_to(np.arange(np.prod(sizes, dtype=int)).reshape(sizes), shape)


ROOT_3 = 1.7320508075688772


class Draw:
    """Random values that are the same on every machine: integers and exact steps, nothing of a platform's library."""

    BLOCK = 30_011  # larger arrays repeat a block of so many values, a prime number

    def __init__(self, seed):
        self.bits = np.random.PCG64(zlib.crc32(seed.encode()))

    def flat(self, shape):
        """Evenly from [0, 1)."""
        size = math.prod(shape)
        values = (self.bits.random_raw(min(size, self.BLOCK)) >> np.uint64(11)) * 2.0**-53
        return np.resize(values, shape)

    def bell(self, shape):
        """Nearly normal, with mean 0 and deviation 1: the sum of four even ones."""
        block = (min(math.prod(shape), self.BLOCK),)
        return np.resize((self.flat(block) + self.flat(block) - self.flat(block) - self.flat(block)) * ROOT_3, shape)


@lru_cache(256)
def geometry(name, shape, options):
    """The rows and parameters of an op on an x of `shape`; `options` as a tuple of pairs."""
    op, options, ndim = ops.OPS[name], dict(options), len(shape)
    if op.kind == "feature":
        axis = options["axis"]
        axes = {a % ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
        kept = set(range(ndim)) - axes
        return Geometry(
            _numbered(shape, kept),
            _numbered(shape, axes),
            tuple(shape[a] for a in sorted(kept)),
            tuple(shape[a] for a in sorted(axes)),
            tuple(sorted(kept)),
        )
    channel = options["channel_axis"] % ndim
    channels = shape[channel]
    parameter = _numbered(shape, {channel})
    reduced = op.reduced_axes(ndim, channel)
    row, statistics_shape = parameter, (channels,)
    if "num_groups" in options:
        statistics_shape = (options["num_groups"],)
        row = parameter // (channels // options["num_groups"])
    samples = sorted(set(range(ndim)) - {channel} - set(reduced))
    if samples:
        statistics_shape = (shape[samples[0]], *statistics_shape)
        row = _numbered(shape, set(samples)) * statistics_shape[1] + row
    return Geometry(row, parameter, statistics_shape, (channels,), (0 if channel else 1,))


@dataclass(frozen=True)
class Case:
    """One problem for one op; `inputs()` draws the same arrays each time."""

    op: str
    shape: tuple
    options: dict = field(hash=False)
    dtype: str = "float32"
    affine: str = "both"
    parameter_dtype: str | None = None
    layout: str = "contiguous"
    out: str = "new"
    offset: float = 0.0
    given: bool = False
    values: str = "normal"
    dy: str = "normal"
    leading: str = ""
    fused: dict = field(default_factory=dict, hash=False)
    out_dtype: str | None = None

    def __str__(self):
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        text = f"{self.op}({self.dtype}{list(self.shape)} {self.layout}, {options}, affine={self.affine}"
        if self.parameter_dtype:
            text += f" in {self.parameter_dtype}"
        if self.out != "new":
            text += f", out={self.out}"
        if self.out_dtype:
            text += f" as {self.out_dtype}"
        if self.offset:
            text += f", mean/std={self.offset:.0e}"
        if self.values != "normal":
            text += f", {self.values} values"
        if self.dy != "normal":
            text += f", {self.dy} dy"
        if self.leading:
            text += f", parameters along {self.leading}"
        if self.fused:
            text += f", {', '.join(map(str, (v for pair in self.fused.items() for v in pair if v is not True)))}"
        return text + (", statistics given)" if self.given else ")")

    @property
    def description(self):
        return ops.OPS[self.op]

    @property
    def centered(self):
        return "mean" in self.description.statistics

    @property
    def eps(self):
        return 0.0 if self.values == "small" else EPS

    @property
    def result(self):
        """The dtype of the output."""
        return dtype_named(self.out_dtype or self.dtype)

    @property
    def geometry(self):
        found = geometry(self.op, self.shape, tuple(self.options.items()))
        return found if self.inside is None else found.among(self.inside)

    @property
    def row_length(self):
        rows = int(np.prod(self.geometry.statistics_shape, dtype=int))
        return int(np.prod(self.shape, dtype=int)) // max(rows, 1)

    @property
    def parameter_shapes(self):
        """Those of weight and bias."""
        kept = tuple(self.shape[axis] for axis in self.geometry.kept)
        leading = {"": (), "samples": kept[:1] + (1,) * len(kept[1:]), "last": kept[-1:], "all": kept}
        names = ("samples", "" if len(kept) == 1 else "last") if self.leading == "both" else [self.leading] * 2
        return [leading[name] + self.geometry.parameter_shape for name in names]

    def draw(self):
        """What the values of the case are drawn from; they do not depend on how the arrays lie in memory."""
        return Draw(str(replace(self, layout="contiguous", out="new", out_dtype=None)))

    @property
    def inside(self):
        """The mask of the case, or None: element by element, or one for all along the last axis."""
        if "where" not in self.fused:
            return None
        draw = Draw(f"where {self.op} {self.shape} {self.options}")
        shape = self.shape if draw.flat((1,))[0] < 0.5 else (*self.shape[:-1], 1)
        return draw.flat(shape) < 0.75

    def inputs(self):
        """x, weight, bias and dy in the case's dtypes and layout (absent parameters are None); NaN outside a mask."""
        draw, layout = self.draw(), LAYOUTS[self.layout]
        dtype = dtype_named(self.dtype)
        parameter_dtype = dtype_named(self.parameter_dtype or self.dtype)
        of_weight, of_bias = self.parameter_shapes
        outside = False if self.inside is None or self.layout.startswith("broadcast") else ~self.inside
        x = layout(np.where(outside, np.nan, self._values(draw)).astype(dtype))
        terms = np.full(self.shape, 0.1) if self.dy == "constant" else draw.bell(self.shape) + 0.25
        dy = layout(np.where(outside, np.nan, terms).astype(dtype))
        weight = bias = None
        if self.affine in ("both", "weight"):
            weight = layout((draw.flat(of_weight) + 0.5).astype(parameter_dtype))
        if self.affine in ("both", "bias") and "bias" in self.description.parameters:
            bias = layout((draw.flat(of_bias) - 0.5).astype(parameter_dtype))
        return x, weight, bias, dy

    def companions(self, backward=False, given=()):
        """What is computed in the same pass, as keywords of the forward function, or of the backward one; without the
        arrays where all of them are `given`, as a gradient check does a thousand times."""
        typed = {"out_dtype": self.out_dtype} if self.out_dtype and not backward else {}
        if not self.fused and not self.leading:
            return typed
        found, layout = self.fused | typed, LAYOUTS[self.layout]
        names = arrays(FUNCTIONS[self.op], found)
        draw = None if set(names) <= set(given) else self.draw()
        for name in names:
            if draw is None:
                del found[name]
            else:
                found[name] = layout((draw.bell(self.shape) - 0.125).astype(dtype_named(self.dtype)))
        if "where" in found:
            found["where"] = self.inside
        asked = self.leading or found.keys() & {"activation", "gate"}
        if backward and asked and (bias := self.inputs()[2]) is not None:
            found["bias"] = bias
        if backward and "residual" in found:
            found["dsum"] = found.pop("residual")
        return found

    def normalized(self, x):
        """What is normalized: x or its sum with the residual, gated where that comes first, in the layout of x."""
        return self.gated(self.summed(x))

    def gated(self, x):
        if "gate_first" not in self.fused:
            return x
        product = extended(x) * opened(self.companions())
        if self.dtype in ("float16", "bfloat16"):
            product = product.astype(np.float32)
        return LAYOUTS[self.layout](product.astype(dtype_named(self.dtype)))

    def summed(self, x):
        """x or its sum with the residual."""
        residual = self.companions().get("residual")
        if residual is None:
            return x
        return LAYOUTS[self.layout](np.add(x, residual).astype(dtype_named(self.dtype)))

    def _values(self, draw):
        x = draw.bell(self.shape)
        if self.values == "large":
            x = x * _LARGE_VALUE.get(self.dtype, 1e18)
        elif self.values == "small":
            x = x * _SMALL_VALUE.get(self.dtype, 1e-18)
        elif self.values != "normal":
            rows = self.geometry.rows(x)
            number = np.arange(len(rows))
            place = number, number * 37 % rows.shape[1]
            if self.values == "constant":
                rows[...] = rows[:, :1]
            elif self.values == "outlier":
                rows[place] = 1e4
            elif self.values == "one-hot":
                rows[...] = 0
                rows[place] = 1
            elif self.values == "sparse":
                rows = np.maximum(rows, 0) * (np.resize(np.arange(50), rows.shape) == 0)
            else:
                rows = np.where(rows < 0, -1.0, 1.0)
                rows[:, 0] = 4165 + number
            x = self.geometry.from_rows(rows)
        return x + self.offset

    def given_statistics(self):
        """A running mean and variance, one value a channel, near to those of x."""
        draw, size = Draw(str(self.shape)), self.geometry.parameter_shape
        return draw.flat(size) - 0.5 + self.offset, draw.flat(size) * 1.5 + 0.5


def constant(case):
    """The case with given statistics in place of its own."""
    return replace(case, options={**case.options, case.description.mode: False}, given=True)


def independent(case):
    """Whether the first axis counts rows that know nothing of each other."""
    op, axis = case.description, case.options[case.description.axis_name]
    return 0 not in op.reduced_axes(len(case.shape), axis) and (op.kind == "feature" or axis != 0)


def _grouped(op, problems):
    """Add what else an op must be told: the number of groups, one of every size in turn."""
    if not op.has_groups:
        return problems
    found = []
    for turn, (shape, options) in enumerate(problems):
        channels = shape[options["channel_axis"]]
        divisors = [g for g in range(1, channels + 1) if channels % g == 0]
        found.append((shape, {"num_groups": divisors[(turn + 1) % len(divisors)], **options}))
    return found


def problems(name, which="all"):
    """(shape, options) pairs for an op: "all" borders and axes, or a few "typical", "small", "deep" or "large" ones."""
    op = ops.OPS[name]
    every = {"feature": _FEATURE, "channel": _CHANNEL}
    few = {"split": _SPLIT, "typical": _TYPICAL, "small": _SMALL, "deep": _DEEP, "large": _LARGE}
    found = _grouped(op, {"all": every, **few}[which][op.kind])
    if op.mode is None:
        return found
    # Statistics of a single value are an error where a running variance must be unbiased.
    found = [(shape, {op.mode: True, **options}) for shape, options in found]
    return [(shape, options) for shape, options in found if Case(name, shape, options).row_length > 1]


def _possible(case):
    if case.dtype == "float16" and case.offset > 1e4:
        return False  # beyond its largest number
    if case.values == "small" and (case.dtype == "float16" or case.row_length == 1):
        return False  # beyond its smallest; a variance of 0, and no eps
    if case.affine == "bias" and "bias" not in case.description.parameters:
        return False
    if case.out in ("inplace", "overlap") and case.layout in UNWRITABLE:
        return False
    return has_layout(case.layout, case.dtype)


def fused_cases(name, *, quick=False):
    """The typical ones with what is computed in the same pass: each set of it in all dtypes, parameters, layouts and
    outputs; quick: in some of these by turns."""
    op, names, layouts = ops.OPS[name], [dtype.name for dtype in dtypes()], list(LAYOUTS)
    number = 0
    for fused in together(FUNCTIONS[name]):
        for shape, options in problems(name, "typical")[:1] if quick else problems(name, "typical"):
            base = Case(name, shape, options, fused=fused)
            bases = [base] if op.mode is None else [base, constant(base)]
            found = [replace(c, dtype=d, affine=affine) for c in bases for d in names for affine in AFFINE]
            found += [replace(c, out=out) for c in bases for out in OUTPUTS[1:]]
            for case in (replace(case, layout=layout) for case in found for layout in layouts):
                number += 1
                if "gate_first" in fused and case.layout == "broadcast_last":
                    continue  # equal values, of which the last bit of their product with the gate is all that is left
                if _possible(case) and (number % 101 == 0 or not quick):
                    yield case
        for shape, options in problems(name, "deep")[:1] if quick else problems(name, "deep"):
            yield Case(name, shape, options, fused=fused)


def _without(sets, *names):
    """Those that have none of these, which kernels leave to NumPy beside a result of another type."""
    return (fused for fused in sets if not fused.keys() & set(names))


def typed_cases(name, *, quick=False):
    """The typical ones with a result of each other dtype: alone, and with each set of what is computed in the same
    pass, in all layouts and outputs, quick: by turns."""
    op, names, number = ops.OPS[name], [dtype.name for dtype in dtypes()], 0
    for fused in ({}, *_without(together(FUNCTIONS[name]), "gate_first")):
        for shape, options in problems(name, "typical"):
            base = Case(name, shape, options, fused=fused)
            bases = [base] if op.mode is None else [base, constant(base)]
            pairs = [replace(c, dtype=x, out_dtype=y) for c in bases for x in names for y in names if x != y]
            ways = [(layout, out) for layout in LAYOUTS for out in OUTPUTS if out not in ("inplace", "overlap")]
            for case in (replace(c, layout=layout, out=out) for c in pairs for layout, out in ways):
                number += 1
                if _possible(case) and (number % (7 if not fused else 211) == 0 or not quick):
                    yield case


def quantized_cases(name, *, quick=False):
    """The typical ones whose result is to be quantized: alone, and with each set of what is computed in the same pass,
    in all dtypes and layouts, quick: by turns."""
    function, number = FUNCTIONS[name], 0
    if "quantize" not in function.fused:
        return
    for fused in ({}, *_without(together(function), "gate_first", "where")):
        for shape, options in [*problems(name, "typical"), ((3, 4100), {"axis": -1}), ((2, 3, 33), {"axis": 0})]:
            base = Case(name, shape, options, fused=fused)
            for case in (replace(base, dtype=d.name, layout=layout) for d in dtypes() for layout in LAYOUTS):
                number += 1
                if _possible(case) and (not fused or number % 101 == 0 or not quick):
                    yield case


def leading_cases(name, *, quick=False):
    """Parameters with leading axes: one in seven of all dtypes, layouts and outputs, alone and with what is computed in
    the same pass; quick: fewer."""
    op, names, layouts = ops.OPS[name], [dtype.name for dtype in dtypes()], list(LAYOUTS)
    fused = [{}, {"add": True}, {"activation": "silu", "residual": True}]
    fused.append({"add": True, "activation": "relu", "gate": True})
    number = 0
    shapes = problems(name, "typical") + (problems(name, "split") if op.of_features else [])
    for shape, options in shapes:
        base = Case(name, shape, options)
        for c in [base] if op.mode is None else [base, constant(base)]:
            found = [replace(c, dtype=d, affine=affine) for d in names for affine in AFFINE[:3]]
            found += [replace(c, dtype=d, parameter_dtype="float32") for d in names[2:]]
            found += [replace(c, out=out) for out in OUTPUTS[1:]]
            found = [replace(c, leading=leading, fused=f) for c in found for leading in LEADING for f in fused]
            for case in (replace(case, layout=layout) for case in found for layout in layouts):
                number += 1
                if _possible(case) and number % (37 if quick else 7) == 0:
                    yield case


def cases(name, *, quick=False):
    """Every shape, then the typical ones in all layouts, dtypes, parameters, outputs, modes and offsets."""
    op = ops.OPS[name]
    names = [dtype.name for dtype in dtypes()]
    every, typical = problems(name), problems(name, "typical")
    found = [Case(name, s, o, d) for s, o in every for d in (names[:1] if quick else names)]
    found += [Case(name, s, o, layout=layout) for s, o in every for layout in ("strided", "transposed")]
    for shape, options in problems(name, "deep"):
        base = Case(name, shape, options)
        found += [replace(base, layout=layout) for layout in ("contiguous", "strided", "transposed", "byteswapped")]
        if op.mode is not None:
            found.append(constant(base))
    long = [base for base in (Case(name, s, o) for s, o in every) if base.row_length >= 1000]
    found += [replace(base, values=values, affine="none") for base in long for values in UNEVEN]
    for shape, options in typical[:1] if quick else typical:
        base = Case(name, shape, options)
        typed = [replace(base, dtype=d) for d in names]
        found += [replace(c, layout=layout) for c in typed for layout in LAYOUTS]
        found += [replace(c, affine=affine) for c in typed for affine in AFFINE[1:]]
        found += [replace(c, parameter_dtype="float32", affine=a) for c in typed[2:] for a in AFFINE[:2]]
        found += [
            replace(c, out=out, layout=layout)
            for c in typed
            for out in OUTPUTS[1:]
            for layout in ("contiguous", "channels_last", "strided")
        ]
        found += [
            replace(c, offset=offset, layout=layout)
            for c in typed
            for offset in OFFSETS[1:]
            for layout in ("contiguous", "channels_last", "transposed")
        ]
        for layout in ("contiguous", "strided"):
            found += [replace(c, values=values, layout=layout) for c in typed for values in VALUES[1:]]
            found += [replace(c, dy="constant", layout=layout) for c in typed]
        if op.mode is not None:
            found += [
                replace(constant(base), dtype=d, layout=layout, affine=affine)
                for d in names
                for layout in ("contiguous", "channels_last", "strided", "byteswapped")
                for affine in ("both", "none")
            ]
    return [case for case in found if _possible(case)]
