"""A call of a public function, checked: its arguments in the canonical form in which backends get them."""

import math

import numpy as np

from . import _arguments as a
from .description import FUNCTIONS, Option, Role

FLOAT64 = ("float64",)


class Call:
    """The arguments of a call, checked in one order for all functions; `values` has them by their canonical names,
    `fused` those for the same pass that are given.

    With ``in_place=False`` the running statistics need not be writeable.
    """

    def __init__(self, function, values, fused=None, in_place=True):
        self.function, self.op, self.name = function, function.op, function.name
        op, name = self.op, self.name
        self.given = given = dict(zip(function.names, values, strict=True))
        self.x = x = a.array(name, given["x"], ndim=1 if op.of_features else 2)
        self.dtype = x.dtype  # of the gradients of parameters
        self.values = found = {"x": x}
        if function.backward:
            found["dy"] = a.like_x(name, "dy", given["dy"], x, "the dtype of y")
        self.axis, self.words = (_axes if op.of_features else _channel_axis)(name, given, x.ndim)
        found[op.axis_name] = self.axis
        if op.has_groups:
            found["num_groups"] = a.groups(name, given["num_groups"], x.shape[self.axis])
        if op.of_features and not function.backward:
            a.not_sizes(name, given["weight"], x)
        self.parameter_shape = op.parameter_shape(x.shape, self.axis)
        self.kept_shape = op.kept_shape(x.shape, self.axis)
        self.statistics_shape = op.statistics_shape(x.shape, self.axis, found.get("num_groups"))
        for argument, check in _CHECKS[name]:
            found[argument] = check(self, argument, given[argument])
        self.given |= fused or {}
        self.fused = {}
        self.out_dtype = x.dtype
        for argument in (function.fused[key] for key in fused or ()):
            if not argument.canonical:
                self.fused[argument.name] = _fused(self, argument, fused[argument.name])
        self._choose_dtype()
        if "residual_out" in self.given and "residual" not in self.fused:
            raise ValueError(f"{name}: residual_out is given without residual, expected both or neither")
        if "gate_activation" in self.fused and "gate" not in self.fused:
            raise ValueError(f"{name}: gate_activation is given without gate")
        if "gate" in self.fused:
            self.fused.setdefault("gate_activation", "silu")
        if self.fused.get("gate_first") and "gate" not in self.fused:
            raise ValueError(f"{name}: gate_first is True without gate")
        if not self.fused.get("gate_first"):  # which not every backend knows
            self.fused.pop("gate_first", None)
        if "out_dtype" in self.given and "quantize" in self.fused:
            raise ValueError(f"{name}: out_dtype is given with quantize, expected one of them")
        if "scale" in self.fused and "quantize" not in self.fused:
            raise ValueError(f"{name}: scale is given without quantize")
        self.moves = False  # whether there are running statistics, which the call updates
        if op.mode and not function.backward:
            self.count = self._count()
            self._choose_statistics(in_place)

    def _choose_dtype(self):
        """That of the result, and of what is rounded before; a backend hears of what is not as always."""
        if not self.fused.get("round_first") or self.x.dtype.itemsize > 2:
            self.fused.pop("round_first", None)
        if "quantize" in self.fused:
            self.out_dtype = np.dtype(np.int8)
        if "out_dtype" in self.fused:
            self.out_dtype = self.fused.pop("out_dtype")
            if self.out_dtype.name != self.x.dtype.name:
                self.fused["out_dtype"] = self.out_dtype.name

    def _count(self):
        """Of values that share a statistic; with a mask, of those inside for each."""
        if "where" not in self.fused:
            return self.x.size // max(math.prod(self.statistics_shape), 1)
        count = np.sum(self.fused["where"], axis=self.op.reduced_axes(self.x.ndim, self.axis))
        return count.T if self.op.per_sample and self.axis == 0 else count

    def _choose_statistics(self, in_place):
        """mean and var: None where those of x are wanted, else the running ones."""
        mode, running = self.values[self.op.mode], (self.given["running_mean"], self.given["running_var"])
        tracked = a.running(self.name, *running, self.parameter_shape, update=mode and in_place)
        self.values["mean"] = self.values["var"] = None
        if not mode and not tracked and self.op.needs_running:
            raise ValueError(
                f"{self.name}: {self.op.mode} is False, expected running_mean and running_var, which are None"
            )
        if mode and self.x.size and np.max(self.count) == 1:
            inside = " and where lets in one at most" if "where" in self.fused else ""
            raise ValueError(
                f"{self.name}: x has shape {self.x.shape}{inside}, expected more than one value a {self.op.row}"
            )
        if tracked and not mode:
            self.values["mean"], self.values["var"] = (a.constant(value, self.statistics_shape) for value in running)
        self.moves = tracked and mode and self.x.size > 0

    def outputs(self):
        """The arrays to fill by their canonical names, and those that the caller sees."""
        results = [r for r in self.function.fused_results if r.of in self.fused]
        names = {"out": "out", **{r.name: r.name for r in results}}
        names |= {a.canonical: a.name for a in self.function.fused.values() if a.canonical in names}
        filled, seen = {}, {}
        for output, argument in names.items():
            if output == "new_scale":
                seen[output] = self._scale(filled)
                continue
            large, small = [], []
            for name, value in (self.values | self.fused).items():
                if isinstance(value, np.ndarray):
                    (small if _KINDS.get(name) != "data" or self._read_later(output, name) else large).append(value)
            dtype = self.out_dtype if output == "out" else self.x.dtype
            given = self.given.get(argument)
            filled[output], seen[output] = a.output(self.name, given, self.x, large, small, argument, dtype)
            for other in seen.keys() - {output}:
                if np.may_share_memory(seen[output], seen[other]):
                    words = f"{argument} shares memory with {names[other]}, expected memory of its own"
                    raise ValueError(f"{self.name}: {words}")
        return filled, seen

    def _scale(self, filled):
        """The scales of a quantized result: those given, else an array to fill."""
        if "scale" in self.fused:
            return self.fused["scale"]
        working = np.result_type(self.x.dtype, np.float32)
        return filled.setdefault("new_scale", np.zeros(self.statistics_shape, working))

    def _read_later(self, output, name):
        """Whether elements of an array may be read after the same ones of an output were written."""
        if output == "sum":  # which is the x of what follows
            return name not in ("x", "residual")
        if not self.function.backward:
            return name == "add" and "gate_first" in self.fused  # y has the gated x
        first = {"activation", "gate", "where"}  # with one of these dx holds what reaches the norm until x is read
        once_more = self.op.mode and not self.op.per_sample and self.values[self.op.mode] and self._leading
        later = ("x", "dsum", "gate") if "gate_first" in self.fused else ("x", "dsum")
        return name in later and bool(once_more or self.fused.keys() & first)

    def canonical(self, filled):
        """The arguments for the function of a backend, in its order and by name."""
        rest = {name: array for name, array in filled.items() if name != "out"}
        if self._leading:
            rest["leading_axes"] = True
        return [filled.get(name, self.values.get(name)) for name in self.function.canonical], self.fused | rest

    @property
    def _leading(self):
        """Whether parameters have leading axes."""
        return any(shape != self.parameter_shape for shape in self._parameter_shapes().values())

    def _parameter_shapes(self):
        """The shapes of the parameters, which their gradients have; of a bias that is not given that of the weight."""
        given = self.values | self.fused
        shapes = {name: given[name].shape for name in self.op.parameters if given.get(name) is not None}
        weight = shapes.get("weight", self.parameter_shape)
        return {"weight": weight, "bias": weight} | shapes

    @property
    def expected(self):
        """What the function of a backend returns: (name, shape, names of dtypes), with shape None for a None."""
        if not self.function.backward:
            return [(name, self.statistics_shape, FLOAT64) for name in self.function.returned]
        shapes = self._parameter_shapes() if self.values["weight_grads"] else {}
        dtypes = tuple(dict.fromkeys(("float64", "float32", self.dtype.name)))
        return [(name, shapes.get(name.removeprefix("d")), dtypes) for name in self.function.returned]


def _fused(call, argument, value):
    if argument.name == "negative_slope":
        return a.slope(call.name, value, call.given.get("activation"))
    if argument.name == "out_dtype":
        return a.float_dtype(call.name, argument.name, value)
    if isinstance(argument, Option) and not argument.choices:
        return a.flag(call.name, argument.name, value)
    if isinstance(argument, Option):
        return a.choice(call.name, argument.name, value, argument.choices)
    if argument.kind == "parameter":
        return _parameter(call, argument.name, value)
    if argument.kind == "mask":
        return a.mask(call.name, argument.name, value, call.x)
    if argument.kind == "scale":
        return a.scales(call.name, value, call.x.dtype, call.statistics_shape, call.op.statistics_words)
    return a.like_x(call.name, argument.name, value, call.x)


def _axes(op, given, ndim):
    """The canonical axes, and how parameters lie along them in words."""
    axis = given["axis"]
    axes = a.axes(op, axis, ndim)
    return axes, f"the shape of x over axis={axis if isinstance(axis, (tuple, list)) else int(axis)}"


def _channel_axis(op, given, ndim):
    axis = given["channel_axis"]
    return a.channel(op, axis, ndim), f"the size of x along channel_axis={int(axis)}"


def _parameter(call, name, value):
    shapes = call.parameter_shape, call.kept_shape
    value, dtype = a.weight_and_dtype(call.name, name, value, call.x, shapes, call.words)
    if name == "weight":
        call.dtype = dtype
    return value


def _statistic(call, name, value):
    return a.statistic(call.name, name, value, call.statistics_shape, call.op.statistics_words)


def _option(call, name, value):
    if name == "eps":
        return a.epsilon(call.name, value)
    if name == "momentum":
        return a.fraction(call.name, value)
    if name == "weight_grads":
        return a.weight_grads(call.name, value, call.values["weight"])
    return a.flag(call.name, name, value)


def _checks(function):
    """How each argument is checked, but for those that others hang on, which come first, and those that come last."""
    of_roles = {"parameter": _parameter, "statistic": _statistic}
    for argument in function.arguments:
        if isinstance(argument, Role):
            if argument.kind in of_roles:
                yield argument.name, of_roles[argument.kind]
        elif argument.name not in ("axis", "channel_axis", "num_groups"):
            yield argument.name, _option


_KINDS = {role.name: role.kind for f in FUNCTIONS.values() for role in (*f.roles, *f.fused_roles)}
_CHECKS = {name: tuple(_checks(function)) for name, function in FUNCTIONS.items()}
