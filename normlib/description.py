"""What each norm is, as data: arguments, defaults, shapes, formulas and sources.

Signatures, type stubs, the schemas of torch, the C header, tables in the documentation, and the cases of tests and
benchmarks follow from it. Nothing of normlib is imported here.

`FORWARD` and `BACKWARD` hold all arguments that a norm may have, in the order of the public functions; each norm takes
those that apply to it. An argument for all norms is one line in such a list.

>>> from normlib.description import FUNCTIONS, OPS
>>> OPS["rms_norm"].source
'Zhang, Sennrich 2019, arXiv:1910.07467'
>>> function = FUNCTIONS["rms_norm_backward"]
>>> [argument.name for argument in function.arguments]
['dy', 'x', 'weight', 'rstd', 'axis', 'weight_grads', 'out']
>>> [result.name for result in function.results]
['dx', 'dweight']
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

__all__ = [
    "ACTIVATIONS",
    "BACKWARD",
    "BESIDE",
    "DATA",
    "DTYPES",
    "ELEMENTS",
    "FORWARD",
    "FUNCTIONS",
    "FUSED",
    "GIVEN",
    "LATER",
    "OPS",
    "REQUIRED",
    "ROLES",
    "Function",
    "Op",
    "Option",
    "Role",
]

ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid")  # in C by their number, from 1 on
DTYPES = ("float64", "float32", "float16", "bfloat16")
ELEMENTS = (*DTYPES, "bool", "int8")  # of arrays in C, by their number; of masks, and of quantized results
REQUIRED: object = object()  # the default of an argument that has none


@dataclass(frozen=True)
class Role:
    """An array of a call.

    Attributes
    ----------
    name : str
        Its name in the public functions; of an output, in what they return.
    kind : {"data", "parameter", "statistic", "running", "mask", "scale"}
        Which shape it has: that of x, of the parameters, of the statistics, or one value a channel; a mask is of
        booleans that broadcast against x, a scale has the shape of the statistics.
    words : str
        What it is, as a sentence.
    direction : {"in", "out", "both"}
        Whether it is read, written, or both.
    optional : bool
        Whether it may be left out.
    keyword : bool
        Whether it is given by name alone.
    only : str
        The attribute of an `Op` without which it is not an argument.
    canonical : str or None
        Its name in the functions of backends; None: that in the public ones; empty: they do not get it.
    of : str
        The array that it is the gradient of.
    """

    name: str
    kind: str
    words: str
    direction: str = "in"
    optional: bool = False
    keyword: bool = False
    only: str = ""
    canonical: str | None = None
    of: str = ""

    @property
    def default(self) -> object:
        """None where it may be left out, else `REQUIRED`."""
        return None if self.optional else REQUIRED

    @property
    def python(self) -> str:
        """Its type in the stubs."""
        if self.name == "out":
            return "_Array | None"
        return "ArrayLike | None" if self.optional else "ArrayLike"

    @property
    def documented(self) -> str:
        """Its type in docstrings."""
        return "array_like"

    @property
    def c(self) -> str:
        """Its type in C; empty for `out`, in whose place C has the output itself."""
        return "" if self.name == "out" else "const normlib_array *"

    @property
    def torch(self) -> str:
        """Its type in the schemas of torch, which return outputs and have no integers without gradients."""
        if self.direction == "out" or self.kind == "scale":
            return ""
        return "Tensor?" if self.optional else "Tensor"


@dataclass(frozen=True)
class Option:
    """An argument of a call that is no array.

    Attributes
    ----------
    name, words, keyword, only, canonical
        As those of :class:`Role`.
    python, c, torch : str
        Its type in Python, C and the schemas of torch; empty where these do not have it.
    default : object
        `REQUIRED` where it has none.
    choices : tuple of str
        What it may be; in C the number in this order, from 1 on.
    """

    name: str
    words: str
    python: str
    c: str
    torch: str
    default: object = REQUIRED
    keyword: bool = True
    only: str = ""
    canonical: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def documented(self) -> str:
        """Its type in docstrings."""
        return f"{{{', '.join(map(repr, self.choices))}}}" if self.choices else self.python


X = Role("x", "data", "What to normalize: floats, or integers, which are taken as floats.")
DY = Role("dy", "data", "The gradient with respect to the output, of the shape and dtype of x.")
WEIGHT = Role("weight", "parameter", "What the normalized values are multiplied by; ones by default.", optional=True)
BIAS = Role("bias", "parameter", "What is added to the product; zeros by default.", optional=True)
OUT = Role("out", "data", "Where to put the result; x or dy itself is allowed.", "out", optional=True, keyword=True)
MEAN = Role("mean", "statistic", "The mean of each row.", keyword=True)
RSTD = Role("rstd", "statistic", "1 / sqrt(var + eps) of each row.", keyword=True)
RUNNING_MEAN = Role(
    "running_mean", "running", "The running mean of each channel.", "both", True, True, "mode", canonical="mean"
)
RUNNING_VAR = Role(
    "running_var", "running", "The running variance of each channel.", "both", True, True, "mode", canonical="var"
)

NUM_GROUPS = Option(
    "num_groups", "A divisor of the number of channels.", "int", "ptrdiff_t", "int", keyword=False, only="has_groups"
)
MODE = Option("mode", "Whether the statistics are those of x.", "bool", "int", "bool", True, only="mode")
MOMENTUM = Option(
    "momentum", "The weight of the batch in the update.", "float", "double", "float", 0.1, only="mode", canonical=""
)
AXIS = Option("axis", "The axes that are normalized over.", "_Axis", "int", "int[]", -1, only="of_features")
CHANNEL_AXIS = Option(
    "channel_axis", "The axis of the channels; -1 for channels-last.", "int", "int", "int", 1, only="of_channels"
)
EPS = Option("eps", "Added to the variance.", "float", "double", "float")
RETURN_STATS = Option("return_stats", "Whether to return the statistics.", "bool", "", "", False, canonical="")
WEIGHT_GRADS = Option(
    "weight_grads", "Whether to compute the gradients of the parameters; by default where weight is given.",
    "bool | None", "", "bool", None,
)  # fmt: skip

FORWARD = (
    X,
    NUM_GROUPS,
    WEIGHT,
    BIAS,
    RUNNING_MEAN,
    RUNNING_VAR,
    replace(MODE, canonical=""),  # who computes a forward pass is handed the statistics, or None for those of x
    MOMENTUM,
    AXIS,
    EPS,
    CHANNEL_AXIS,
    OUT,
    RETURN_STATS,
)
BACKWARD = (DY, X, NUM_GROUPS, WEIGHT, MEAN, RSTD, MODE, AXIS, CHANNEL_AXIS, WEIGHT_GRADS, OUT)

# What stands around a norm and is computed in the same pass: by name alone, after all others, None by default. A
# backend that does not know one declines the call.
RESIDUAL = Role(
    "residual", "data", "Added to x before: the sum, rounded to the dtype of x, is normalized, and returned after y.",
    optional=True, keyword=True,
)  # fmt: skip
RESIDUAL_OUT = Role(
    "residual_out", "data", "Where to put the sum; residual or x itself is allowed.", "out", True, True, canonical="sum"
)
DSUM = Role(
    "dsum", "data", "The gradient that reaches the sum of x and residual from elsewhere, which is added to dx.",
    optional=True, keyword=True,
)  # fmt: skip
ADD = Role("add", "data", "Added after the affine step; of the shape and dtype of x.", optional=True, keyword=True)
ACTIVATION = Option("activation", "What comes last.", "str | None", "int", "str?", None, choices=ACTIVATIONS)
NEGATIVE_SLOPE = Option(
    "negative_slope", "That of leaky_relu below 0; 0.01 by default.", "float | None", "double", "float?", None
)
GATE = Role(
    "gate", "data", "The result times gate_activation(gate); of the shape and dtype of x.", optional=True, keyword=True
)
GATE_ACTIVATION = Option(
    "gate_activation", "That of the gate; silu by default.", "str | None", "int", "str?", None,
    choices=tuple(name for name in ACTIVATIONS if name != "leaky_relu"),
)  # fmt: skip
WHERE = Role(
    "where", "mask", "Which elements take part: booleans that broadcast against x. The others are no part of the "
    "statistics, and come out as 0, whatever stands there.",
    optional=True, keyword=True,
)  # fmt: skip
GATE_FIRST = Option(
    "gate_first", "Whether it is x, or its sum with residual, that is gated, before the norm.",
    "bool | None", "int", "bool?", None,
)  # fmt: skip
QUANTIZE = Option(
    "quantize", "The result as int8, with a scale a row, in the place of y: q, scale.", "str | None", "", "", None,
    choices=("int8",), only="of_features",
)  # fmt: skip
SCALE = Role(
    "scale", "scale", "That to quantize by, a number or one a row; that of each row, max|y| / 127, by default.",
    optional=True, keyword=True, only="of_features",
)  # fmt: skip
OUT_DTYPE = Option(
    "out_dtype", "The dtype of the result, one of the four; that of x by default.", "DTypeLike | None", "", "str?", None
)
ROUND_FIRST = Option(
    "round_first", "Whether the normalized values are rounded to the 16 bits of x before the weight.", "bool | None",
    "int", "bool?", None, only="of_features",
)  # fmt: skip
FUSED = (
    RESIDUAL, RESIDUAL_OUT, ADD, ACTIVATION, NEGATIVE_SLOPE, GATE, GATE_ACTIVATION, WHERE, GATE_FIRST, QUANTIZE, SCALE,
    OUT_DTYPE, ROUND_FIRST,
)  # fmt: skip
FUSED_BACKWARD = (
    DSUM, replace(BIAS, keyword=True), ADD, ACTIVATION, NEGATIVE_SLOPE, GATE, GATE_ACTIVATION, WHERE, GATE_FIRST,
    ROUND_FIRST,
)  # fmt: skip
FUSED_RESULTS = (
    (
        replace(SCALE, name="new_scale", words="The scale of each row.", direction="out", of="quantize"),
        Role("sum", "data", "x + residual.", "out", optional=True, of="residual"),
    ),
    (
        Role("dadd", "data", "The gradient with respect to add.", "out", optional=True, of="add"),
        Role("dgate", "data", "The gradient with respect to gate.", "out", optional=True, of="gate"),
    ),
)

FORWARD_RESULTS = (
    Role("y", "data", "The normalized array.", "out"),
    replace(MEAN, direction="out", optional=True),
    replace(RSTD, direction="out", optional=True),
)
BACKWARD_RESULTS = (
    Role("dx", "data", "The gradient with respect to x.", "out"),
    Role("dweight", "parameter", "The gradient with respect to weight.", "out", optional=True, of="weight"),
    Role("dbias", "parameter", "The gradient with respect to bias.", "out", optional=True, of="bias"),
)


@dataclass(frozen=True)
class Op:
    """A norm: the description from which its two functions follow.

    Attributes
    ----------
    name : str
        The name of the forward function.
    title : str
        What the literature calls it.
    source : str
        Where it comes from.
    kind : {"feature", "channel"}
        Whether it takes an ``axis``, over which parameters extend, or a ``channel_axis``, along which
        there is a parameter for each channel.
    row : str
        What shares a mean and a variance.
    parameters : tuple of str
        The names of its parameters.
    statistics : tuple of str
        The names of its statistics; without "mean", it does not subtract the mean.
    per_sample : bool
        Whether a norm of channels has statistics for each sample.
    has_groups : bool
        Whether it takes ``num_groups``.
    mode : str or None
        The keyword that says whether the statistics are those of ``x`` (else the running ones).
    training : bool
        The default of the mode in the forward function.
    needs_running : bool
        Whether the running statistics must be given where the mode asks for them; else those of ``x`` take their place.
    eps : float
        The default of eps.
    """

    name: str
    title: str
    source: str
    kind: str
    row: str
    parameters: tuple[str, ...] = ("weight", "bias")
    statistics: tuple[str, ...] = ("mean", "rstd")
    per_sample: bool = False
    has_groups: bool = False
    mode: str | None = None
    training: bool = True
    needs_running: bool = False
    eps: float = 1e-5

    @cached_property
    def of_features(self) -> bool:
        """Whether it takes an ``axis``."""
        return self.kind == "feature"

    @cached_property
    def of_channels(self) -> bool:
        """Whether it takes a ``channel_axis``."""
        return self.kind == "channel"

    @cached_property
    def axis_name(self) -> str:
        """The keyword for the axes: "axis" or "channel_axis"."""
        return "axis" if self.of_features else "channel_axis"

    @property
    def formula(self) -> str:
        """What the forward function computes."""
        center = "(x - mean)" if "mean" in self.statistics else "x"
        square = "var" if "mean" in self.statistics else "mean(x**2)"
        bias = " + bias" if "bias" in self.parameters else ""
        return f"y = {center} * rstd * weight{bias}, rstd = 1 / sqrt({square} + eps)"

    @property
    def gradient(self) -> str:
        """What the backward function computes, with z = (x - mean) * rstd and g = dy * weight."""
        mean = " - mean(g)" if "mean" in self.statistics else ""
        sums = ", dbias = sum(dy)" if "bias" in self.parameters else ""
        return f"dx = rstd * (g{mean} - z * mean(g * z)), dweight = sum(dy * z){sums}"

    @cached_property
    def statistics_words(self) -> str:
        """The shape of the statistics in words."""
        if self.of_features:
            return "the shape of x without the reduced axes"
        return f"one value for each {self.row}" if self.per_sample else f"one value a {self.row}"

    def reduced_axes(self, ndim: int, axis: Any) -> tuple[int, ...]:
        """The axes over which statistics are taken, in an array of `ndim` axes, as a sorted tuple.

        A group norm also takes them over the channels of a group.
        """
        if self.of_features:
            return tuple(sorted(a % ndim for a in (axis if isinstance(axis, (tuple, list)) else (axis,))))
        kept = {axis % ndim}
        if self.per_sample:
            kept.add(0 if axis % ndim else 1)
        return tuple(a for a in range(ndim) if a not in kept)

    def parameter_shape(self, shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
        """The shape of the parameters for an ``x`` of `shape`."""
        if self.of_features:
            return tuple(shape[a] for a in self.reduced_axes(len(shape), axis))
        return (shape[axis],)

    def kept_shape(self, shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
        """The sizes that leading axes of parameters broadcast to, for an ``x`` of `shape`.

        They are those of the axes that are not reduced; of a norm of channels the number of samples.
        """
        if self.of_features:
            return self.statistics_shape(shape, axis)
        return (shape[0 if axis % len(shape) else 1],)

    def statistics_shape(
        self, shape: tuple[int, ...], axis: Any, num_groups: int | None = None
    ) -> tuple[int, ...]:
        """The shape of the statistics for an ``x`` of `shape`."""
        if self.of_features:
            reduced = self.reduced_axes(len(shape), axis)
            return tuple(n for a, n in enumerate(shape) if a not in reduced)
        channels = shape[axis] if num_groups is None else num_groups
        return (shape[0 if axis % len(shape) else 1], channels) if self.per_sample else (channels,)


@dataclass(frozen=True)
class Function:
    """One of the two functions of a norm; as a string, what a backend calls.

    Attributes
    ----------
    op : Op
        The norm.
    backward : bool
        Whether it is the backward function.
    """

    op: Op
    backward: bool

    def __str__(self) -> str:
        comma = "," if len(self.returned) == 1 else ""
        return f"{self.name}({', '.join(self.canonical)}) -> ({', '.join(self.returned)}{comma})"

    @property
    def name(self) -> str:
        """The name of the public function."""
        return self.op.name + "_backward" * self.backward

    @cached_property
    def arguments(self) -> tuple[Role | Option, ...]:
        """The arguments of the public function in its order, each a :class:`Role` or an :class:`Option`."""
        return tuple(map(self._own, filter(self._has, BACKWARD if self.backward else FORWARD)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the arguments."""
        return tuple(a.name for a in self.arguments)

    @cached_property
    def results(self) -> tuple[Role, ...]:
        """What the public function returns, as roles: with ``return_stats``, if it has that."""
        return tuple(filter(self._has, BACKWARD_RESULTS if self.backward else FORWARD_RESULTS))

    @cached_property
    def fused(self) -> dict[str, Role | Option]:
        """The arguments for what is computed in the same pass, by name."""
        arguments: tuple[Role | Option, ...] = FUSED_BACKWARD if self.backward else FUSED
        return {a.name: a for a in arguments if self._has(a)}

    @cached_property
    def fused_results(self) -> tuple[Role, ...]:
        """What is returned where the arrays that it is of are given: forward after y, backward at the end."""
        return tuple(filter(self._has, FUSED_RESULTS[self.backward]))

    @cached_property
    def fused_roles(self) -> tuple[Role, ...]:
        """The arrays among both."""
        return (*(a for a in self.fused.values() if isinstance(a, Role) and not a.canonical), *self.fused_results)

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """The arguments that are arrays."""
        return tuple(a for a in self.arguments if isinstance(a, Role))

    @cached_property
    def written(self) -> tuple[Role, ...]:
        """The arrays that it may write to."""
        return tuple(role for role in self.roles if role.direction != "in")

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each array comes among the arguments."""
        return {role.name: self.names.index(role.name) for role in self.roles}

    @cached_property
    def options(self) -> tuple[Option, ...]:
        """The arguments that are none."""
        return tuple(a for a in self.arguments if isinstance(a, Option))

    @cached_property
    def canonical(self) -> tuple[str, ...]:
        """The names of the arguments that the function of a backend gets, in its order."""
        names = [a.name if a.canonical is None else a.canonical for a in self.arguments]
        return tuple(sorted(filter(None, names), key=("eps", "out").__contains__))

    @cached_property
    def returned(self) -> tuple[str, ...]:
        """The names of what the function of a backend returns."""
        variance = ("var",) if self.op.mode and not self.backward else ()
        return (*(role.name for role in self.results[1:]), *variance)

    def _has(self, argument):
        if isinstance(argument, Role) and argument.kind == "parameter":
            return (argument.of or argument.name) in self.op.parameters
        if isinstance(argument, Role) and argument.kind == "statistic":
            return argument.name in self.op.statistics
        return not argument.only or bool(getattr(self.op, argument.only))

    def _own(self, argument):
        """An argument with the name, the default and the place that it has in this function."""
        if argument.name == "mode":
            return replace(argument, name=self.op.mode, default=self.backward or self.op.training)
        if argument.name == "eps":
            return replace(argument, default=self.op.eps)
        if argument.name in self.op.parameters and self.op.mode and not self.backward:
            return replace(argument, keyword=True)  # torch has the running statistics in their place
        return argument


OPS = {
    op.name: op
    for op in (
        Op("layer_norm", "LayerNorm", "Ba, Kiros, Hinton 2016, arXiv:1607.06450", "feature", "row"),
        Op(
            "rms_norm",
            "RMSNorm",
            "Zhang, Sennrich 2019, arXiv:1910.07467",
            "feature",
            "row",
            parameters=("weight",),
            statistics=("rstd",),
            eps=1e-6,
        ),
        Op(
            "batch_norm",
            "BatchNorm",
            "Ioffe, Szegedy 2015, arXiv:1502.03167",
            "channel",
            "channel",
            mode="training",
            training=False,
        ),
        Op(
            "group_norm",
            "GroupNorm",
            "Wu, He 2018, arXiv:1803.08494",
            "channel",
            "sample and group",
            per_sample=True,
            has_groups=True,
        ),
        Op(
            "instance_norm",
            "InstanceNorm",
            "Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022",
            "channel",
            "sample and channel",
            per_sample=True,
            mode="use_input_stats",
            needs_running=True,
        ),
    )
}
FUNCTIONS = {
    function.name: function for op in OPS.values() for function in (Function(op, False), Function(op, True))
}

# All arrays of the functions, `out` by the name of the result. They are members of a struct in C: add at the end.
ROLES = (
    "x", "dy", "weight", "bias", "running_mean", "running_var", "mean", "rstd", "y", "dx", "dweight", "dbias",
    "add", "dadd", "residual", "sum", "dsum", "gate", "dgate", "where", "scale", "new_scale",
)  # fmt: skip
# The members of that struct that it did not have at first, in their order.
LATER = (
    "add", "dadd", "activation", "residual", "sum", "dsum", "negative_slope", "gate", "dgate", "gate_activation",
    "where", "gate_first", "scale", "new_scale", "round_first",
)  # fmt: skip
BESIDE = ("dy", "add", "dsum", "gate", "where")  # what epilogues read
GIVEN = ("dgate",)  # what they write beside y
DATA = ("x", "y", *BESIDE, *GIVEN, "dadd", "residual", "sum")  # all arrays of the shape of x; y stands for dx too
