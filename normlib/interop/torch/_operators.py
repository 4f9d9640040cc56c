"""``torch.ops.normlib``: the ten functions as operators of torch's dispatcher, with kernels for the CPU, shapes for
tracing and autograd.

What an operator returns may not depend on its options: statistics always come, and what does not apply (gradients of
parameters that are not wanted, running statistics that do not move) is a tensor without elements.
"""

import numpy as np
import torch

from ...description import FUNCTIONS
from ...ops import OPS
from . import _formulas
from ._tensors import arranged, array, memory_format, strides_of, tensor

_library = torch.library.Library("normlib", "DEF")


def schema(function):
    """The arguments of an operator: tensors first, then options."""
    return ", ".join(f"{a.torch} {a.name}" for a in (*function.roles, *function.options) if a.torch)


def result_format(name, options, like):
    """The memory format that torch's operators give y or dx: that of the tensor `like`, which is x, or dy for the dx of
    RMSNorm, whose operators go element by element. LayerNorm over the last axes and InstanceNorm come out contiguous
    whatever they are given.
    """
    if name == "instance_norm" or (name == "layer_norm" and _is_last(options["axis"], like.ndim)):
        return torch.contiguous_format
    return memory_format(like)


def _is_last(axis, ndim):
    return axis == -1 or not {-1, ndim - 1}.isdisjoint(axis if isinstance(axis, (tuple, list)) else (axis,))


def compute(name, x, tensors, options, return_stats=False):
    """The forward function on the memory of the tensors: y, or y and the statistics, which are arrays."""
    form = result_format(name, options, x)
    arrays = {key: array(name, key, t) for key, t in tensors.items()}
    result = OPS[name].forward(array(name, "x", arranged(x, form)), **arrays, **options, return_stats=return_stats)
    return (_result(result[0], x, form), *result[1:]) if return_stats else _result(result, x, form)


def _result(a, x, form):
    """y or dx as a tensor. Axes of one element need a look: torch judges formats by their strides too."""
    t = tensor(a, x.dtype)
    if 1 in t.shape and t.stride() != x.stride():
        return t.as_strided(t.shape, strides_of(t.shape, form)).data  # not a view to autograd
    return t


def backward_options(name, tensors, options):
    """The options of the backward function, where the mode says whether the statistics were those of x."""
    kept = {key: options[key] for key in FUNCTIONS[f"{name}_backward"].names if key in options}
    mode = OPS[name].mode
    if mode is not None:
        kept[mode] = options[mode] or tensors["running_mean"] is None
    return kept


def compute_backward(name, dy, x, weight, statistics, options, weight_grads):
    """The backward function on the memory of the tensors: dx and the gradients of the parameters, or None for these.
    The statistics are arrays, by name."""
    op = f"{name}_backward"
    form = gradient_format(name, options, dy, x)
    given = [array(op, key, arranged(t, form)) for key, t in (("dy", dy), ("x", x))]
    weight_ = array(op, "weight", weight)
    dx, *rest = OPS[name].backward(*given, weight=weight_, **statistics, **options, weight_grads=weight_grads)
    dtype = (x if weight is None else weight).dtype
    return _result(dx, x, form), *(None if a is None else tensor(a, dtype) for a in rest)


def gradient_format(name, options, dy, x):
    return result_format(name, options, dy if name == "rms_norm" else x)


def _canonical(options):
    return {key: tuple(value) if key == "axis" else value for key, value in options.items()}


class _Operators:
    """The pair of operators of one norm."""

    def __init__(self, name):
        self.name, self.op = name, OPS[name]
        forward, backward = FUNCTIONS[name], FUNCTIONS[f"{name}_backward"]
        self.tensors, self.options = ([a.name for a in some if a.torch] for some in (forward.roles, forward.options))
        self.running = [role.name for role in forward.roles if role.kind == "running"]
        self.kept = [option.name for option in backward.options if option.name in self.options]
        count = len(forward.results) + len(self.running)
        self._define(forward, count, self.forward, self.forward_shapes)
        self._define(backward, len(backward.results), self.backward, self.backward_shapes)
        torch.library.register_autograd(f"normlib::{name}", self.gradients, setup_context=self.remember, lib=_library)
        _library.impl(f"{name}_backward", self.differentiable_backward, "Autograd", with_keyset=True)
        self.forward_operator = getattr(torch.ops.normlib, name).default
        self.backward_operator = getattr(torch.ops.normlib, f"{name}_backward").default

    def _define(self, function, count, kernel, shapes):
        name, results = function.name, ", ".join(["Tensor"] * count)
        _library.define(f"{name}({schema(function)}) -> ({results})", tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"normlib::{name}", shapes, lib=_library)

    def _split(self, arguments):
        """Arguments after x by name: tensors, options."""
        given = len(self.tensors) - 1
        tensors = dict(zip(self.tensors[1:], arguments[:given], strict=True))
        return tensors, _canonical(dict(zip(self.options, arguments[given:], strict=True)))

    def moves(self, tensors, options):
        """Whether there are running statistics, which the call updates."""
        return bool(self.running) and options[self.op.mode] and all(tensors[key] is not None for key in self.running)

    # ---- forward ----

    def forward(self, x, *arguments):
        tensors, options = self._split(arguments)
        moved = []
        if self.moves(tensors, options):
            moved = [tensors[key].detach().clone() for key in self.running]
            tensors |= dict(zip(self.running, moved, strict=True))
        y, *statistics = compute(self.name, x, tensors, options, return_stats=True)
        moved = moved or [x.new_empty(0) for _ in self.running]
        return y, *(tensor(np.asarray(a)) for a in statistics), *moved

    def forward_shapes(self, x, *arguments):
        tensors, options = self._split(arguments)
        shape = self.op.statistics_shape(x.shape, options[self.op.axis_name], options.get("num_groups"))
        statistics = [x.new_empty(shape, dtype=torch.float64) for _ in self.op.statistics]
        moves = self.moves(tensors, options)
        moved = [torch.empty_like(tensors[key]) if moves else x.new_empty(0) for key in self.running]
        form = result_format(self.name, options, x)
        return torch.empty_like(x, memory_format=form), *statistics, *moved

    # ---- autograd of forward ----

    def remember(self, ctx, inputs, output):
        x, *arguments = inputs
        tensors, options = self._split(arguments)
        statistics = output[1 : 1 + len(self.op.statistics)]
        ctx.save_for_backward(x, tensors["weight"], *statistics)
        ctx.options = backward_options(self.name, tensors, options)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    def gradients(self, ctx, dy, *_):
        missing = [None] * (len(self.tensors) + len(self.options) - 1)
        if dy is None:
            return None, *missing
        x, weight, *statistics = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1 : 1 + len(self.op.parameters)]
        dx, *of_parameters = self.backward_operator(dy, x, weight, *statistics, *ctx.options.values(), any(wanted))
        for i, needed in enumerate(wanted):
            missing[i] = of_parameters[i] if needed else None
        return dx, *missing

    # ---- backward ----

    def _split_backward(self, arguments):
        """Arguments after weight: statistics, options, weight_grads."""
        count = len(self.op.statistics)
        statistics = dict(zip(self.op.statistics, arguments[:count], strict=True))
        *options, weight_grads = arguments[count:]
        return statistics, _canonical(dict(zip(self.kept, options, strict=True))), weight_grads

    def backward(self, dy, x, weight, *arguments):
        statistics, options, weight_grads = self._split_backward(arguments)
        arrays = {key: array(f"{self.name}_backward", key, t) for key, t in statistics.items()}
        dx, *rest = compute_backward(self.name, dy, x, weight, arrays, options, weight_grads)
        return dx, *(x.new_empty(0) if t is None else t for t in rest)

    def backward_shapes(self, dy, x, weight, *arguments):
        _, options, weight_grads = self._split_backward(arguments)
        shape = self.op.parameter_shape(x.shape, options[self.op.axis_name]) if weight_grads else 0
        dtype = x.dtype if weight is None or not weight_grads else weight.dtype
        dx = torch.empty_like(x, memory_format=gradient_format(self.name, options, dy, x))
        return dx, *(x.new_empty(shape, dtype=dtype) for _ in self.op.parameters)

    def differentiable_backward(self, keyset, dy, x, weight, *arguments):
        """The operator; where its own derivatives are wanted, the formula."""
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (dy, x, weight)):
            statistics, options, weight_grads = self._split_backward(arguments)
            dx, *rest = _formulas.backward(self.name, dy, x, weight, options, **statistics)
            return dx, *(t if weight_grads else x.new_empty(0) for t in rest)
        with torch._C._AutoDispatchBelowAutograd():
            below = keyset & torch._C._after_autograd_keyset
            return self.backward_operator.redispatch(below, dy, x, weight, *arguments)


OPERATORS = {name: _Operators(name) for name in OPS}
