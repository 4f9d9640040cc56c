"""A call of a public function, checked: its arguments in the canonical form in which backends get them."""

import math
from functools import cached_property

from . import _arguments as a
from .description import Role

FLOAT64 = ("float64",)


class Call:
    """The arguments of a call, checked in one order for all functions; `values` has them by their canonical names.

    With ``in_place=False`` the running statistics need not be writeable.
    """

    def __init__(self, function, values, in_place=True):
        self.function, self.op, self.name = function, function.op, function.name
        self.given = dict(zip(function.names, values, strict=True))
        self.x = a.array(self.name, self.given["x"], ndim=1 if self.op.of_features else 2)
        self.values = {"x": self.x}
        self.dtype = self.x.dtype  # of the gradients of parameters
        if function.backward:
            self.values["dy"] = a.gradient(self.name, self.given["dy"], self.x)
        self.axis = self.values[self.op.axis_name] = self._axis(self.given[self.op.axis_name])
        if "axis" in self.values and not function.backward:
            a.not_sizes(self.name, self.given["weight"], self.x)
        for argument in function.arguments:
            if argument.name not in self.values:
                self.values[argument.name] = self._checked(argument, self.given[argument.name])
        self.moves = False  # whether there are running statistics, which the call updates
        if self.op.mode and not function.backward:
            self._choose_statistics(in_place)

    @cached_property
    def parameter_shape(self):
        return self.op.parameter_shape(self.x.shape, self.axis)

    @cached_property
    def statistics_shape(self):
        return self.op.statistics_shape(self.x.shape, self.axis, self.values.get("num_groups"))

    @cached_property
    def count(self):
        """How many values share a statistic."""
        return self.x.size // max(math.prod(self.statistics_shape), 1)

    def _axis(self, given):
        """The canonical axis or axes; and in `words` how parameters lie along them."""
        if self.op.of_channels:
            axis = a.channel(self.name, given, self.x.ndim)
            self.words = f"the size of x along channel_axis={int(given)}"
            return axis
        axis = a.axes(self.name, given, self.x.ndim)
        self.words = f"the shape of x over axis={given if isinstance(given, (tuple, list)) else int(given)}"
        return axis

    def _checked(self, argument, value):
        op, name = self.name, argument.name
        if isinstance(argument, Role):
            if argument.kind == "parameter":
                value, dtype = a.weight_and_dtype(op, name, value, self.x, self.parameter_shape, self.words)
                self.dtype = dtype if name == "weight" else self.dtype
            elif argument.kind == "statistic":
                value = a.statistic(op, name, value, self.statistics_shape, self.op.statistics_words)
            return value  # the others are looked at when the rest is known
        if name == "num_groups":
            return a.groups(op, value, self.x.shape[self.axis])
        if name == "weight_grads":
            return a.weight_grads(op, value, self.values["weight"])
        if name == "momentum":
            return a.fraction(op, value)
        return a.epsilon(op, value) if name == "eps" else a.flag(op, name, value)

    def _choose_statistics(self, in_place):
        """mean and var: None where those of x are wanted, else the running ones."""
        mode, running = self.values[self.op.mode], (self.given["running_mean"], self.given["running_var"])
        tracked = a.running(self.name, *running, self.parameter_shape, update=mode and in_place)
        self.values["mean"] = self.values["var"] = None
        if not mode and not tracked and self.op.needs_running:
            raise ValueError(
                f"{self.name}: {self.op.mode} is False, expected running_mean and running_var, which are None"
            )
        if mode and self.count == 1 and self.x.size:
            raise ValueError(f"{self.name}: x has shape {self.x.shape}, expected more than one value a {self.op.row}")
        if tracked and not mode:
            self.values["mean"], self.values["var"] = (a.constant(value, self.statistics_shape) for value in running)
        self.moves = tracked and mode and self.x.size > 0

    def output(self):
        """The array to fill, and the one that the caller sees."""
        names = [name for name in self.function.canonical if name != "out"]
        large = [self.values[name] for name in names if name in ("x", "dy")]
        small = [self.values[role.canonical or role.name] for role in self.function.roles if role.kind != "data"]
        return a.output(self.name, self.given["out"], self.x, large, small)

    def canonical(self, out):
        """The arguments for the function of a backend."""
        return [out if name == "out" else self.values[name] for name in self.function.canonical]

    @property
    def expected(self):
        """What the function of a backend returns: (name, shape, names of dtypes), with shape None for a None."""
        if not self.function.backward:
            return [(name, self.statistics_shape, FLOAT64) for name in self.function.returned]
        shape = self.parameter_shape if self.values["weight_grads"] else None
        dtypes = tuple(dict.fromkeys(("float64", "float32", self.dtype.name)))
        return [(name, shape, dtypes) for name in self.function.returned]
