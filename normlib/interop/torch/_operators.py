"""``torch.ops.normlib``: the ten functions as operators of torch's dispatcher, with kernels for the CPU, shapes for
tracing and autograd.

What an operator returns may not depend on its options: statistics always come, and what does not apply (gradients of
parameters that are not wanted, running statistics that do not move) is a tensor without elements.
"""

import functools

import numpy as np
import torch

from ...description import FUNCTIONS, Role
from ...ops import OPS
from ...threads import get_num_threads, num_threads
from . import _formulas
from ._tensors import arranged, array, memory_format, strides_of, tensor

_library = torch.library.Library("normlib", "DEF")


def schema(function):
    """The arguments of an operator: tensors first, then options, then what is fused."""
    given = [f"{a.torch} {a.name}" for a in (*function.roles, *function.options) if a.torch]
    return ", ".join(given + [f"{a.torch} {a.name}=None" for a in function.fused.values() if a.torch])


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


def _as_many_threads(function):
    """On no more threads than torch takes."""

    @functools.wraps(function)
    def limited(*args, **kwargs):
        threads = torch.get_num_threads()
        if threads >= get_num_threads():
            return function(*args, **kwargs)
        with num_threads(threads):
            return function(*args, **kwargs)

    return limited


@_as_many_threads
def compute(name, x, tensors, options, return_stats=False):
    """The forward function on the memory of the tensors: y, then the sum with a residual, then the statistics, which
    are arrays, where they are wanted."""
    form = result_format(name, options, x)
    arrays = {key: array(name, key, t) for key, t in tensors.items()}
    result = OPS[name].forward(array(name, "x", arranged(x, form)), **arrays, **options, return_stats=return_stats)
    if "out_dtype" in options or "residual" in tensors:
        first, *rest = result if isinstance(result, tuple) else (result,)
        y = _result(first, x, form, out_dtype(options, x))
        rest = [_result(rest[0], x, form), *rest[1:]] if "residual" in tensors else rest
        return (y, *rest) if rest else y
    return (_result(result[0], x, form), *result[1:]) if return_stats else _result(result, x, form)


def out_dtype(options, x):
    """That of y."""
    name = options.get("out_dtype")
    return x.dtype if name is None else getattr(torch, name)


def _result(a, x, form, dtype=None):
    """y or dx as a tensor. Axes of one element need a look: torch judges formats by their strides too."""
    t = tensor(a, dtype or x.dtype)
    if 1 in t.shape and t.stride() != x.stride():
        return t.as_strided(t.shape, strides_of(t.shape, form)).data  # not a view to autograd
    return t


# How many arguments a call has where nothing is fused: all but x, out and return_stats
_BARE = {name: len(FUNCTIONS[name].names) - 3 for name in OPS}
_KEPT = {
    name: [a.name for a in FUNCTIONS[f"{name}_backward"].options if a.name in FUNCTIONS[name].names] for name in OPS
}


def again(name, tensors, options):
    """What the backward function is given again: tensors beside x and weight, and options, where the mode says whether
    the statistics were those of x."""
    mode = OPS[name].mode
    kept = {key: options[key] for key in _KEPT[name]}
    if mode is not None:
        kept[mode] = options[mode] or tensors["running_mean"] is None
    weight, bias = tensors["weight"], tensors.get("bias")
    alike = bias is None or (weight is not None and bias.shape == weight.shape)
    if alike and len(tensors) + len(options) == _BARE[name]:
        return {}, kept
    function = FUNCTIONS[f"{name}_backward"]
    fused = {key: value for key, value in options.items() if key in function.fused}
    beside = {key: t for key, t in tensors.items() if key in function.fused and t is not None}
    if not fused and beside.keys() <= {"bias", "add"}:  # of a sum, which has dy as its gradient
        beside = {} if alike else {"bias": bias}
    return beside, kept | fused


@_as_many_threads
def compute_backward(name, dy, x, weight, statistics, options, weight_grads, beside):
    """The backward function on the memory of the tensors: dx, the gradients of the parameters, or None for these, and
    those of the tensors `beside`, as it returns them. The statistics are arrays, by name."""
    op = f"{name}_backward"
    form = gradient_format(name, options, dy, x)
    given = [array(op, key, arranged(t, form)) for key, t in (("dy", dy), ("x", x))]
    arrays = {key: array(op, key, t) for key, t in beside.items()} if beside else beside
    weight_ = array(op, "weight", weight)
    dx, *rest = OPS[name].backward(*given, weight=weight_, **arrays, **statistics, **options, weight_grads=weight_grads)
    more, count = (), len(OPS[name].parameters)
    if len(rest) > count:
        rest, more = rest[:count], [_result(a, x, form) for a in rest[count:]]
    dtype = (x if weight is None else weight).dtype
    return _result(dx, x, form), *(None if a is None else tensor(a, dtype) for a in rest), *more


def gradients(name, dy, dsum, beside, computed):
    """The gradients of a call by the names of its tensors: those of `computed`, which is given what stands beside x,
    and those that are copies."""
    if dy is None:
        return {"x": dsum, "residual": dsum}
    results = [role.of or "x" for role in FUNCTIONS[f"{name}_backward"].results]
    results += [role.of for role in FUNCTIONS[f"{name}_backward"].fused_results if role.of in beside]
    found = dict(zip(results, computed(beside if dsum is None else beside | {"dsum": dsum}), strict=True))
    return {"residual": found["x"], "add": dy} | found


def gradient_format(name, options, dy, x):
    return result_format(name, options, dy if name == "rms_norm" else x)


def _canonical(options):
    return {key: tuple(value) if key == "axis" else value for key, value in options.items()}


class _Operators:
    """The pair of operators of one norm."""

    def __init__(self, name):
        self.name, self.op = name, OPS[name]
        forward, backward = self.functions = FUNCTIONS[name], FUNCTIONS[f"{name}_backward"]
        self.tensors, self.options = ([a.name for a in some if a.torch] for some in (forward.roles, forward.options))
        self.running = [role.name for role in forward.roles if role.kind == "running"]
        self.kept = _KEPT[name]
        self.fused, self.fused_backward = ([a.name for a in f.fused.values() if a.torch] for f in self.functions)
        self.more = [role for role in backward.fused_results if role.of in self.fused]
        fused = (a for f in self.functions for a in f.fused.values())
        self.arrays = {*self.tensors, *(a.name for a in fused if isinstance(a, Role))}
        count = len(forward.results) + len(self.running) + 1
        self._define(forward, count, self.forward, self.forward_shapes)
        self._define(backward, len(backward.results) + len(self.more), self.backward, self.backward_shapes)
        torch.library.register_autograd(f"normlib::{name}", self.gradients, setup_context=self.remember, lib=_library)
        _library.impl(f"{name}_backward", self.differentiable_backward, "Autograd", with_keyset=True)
        self.forward_operator = getattr(torch.ops.normlib, name).default
        self.backward_operator = getattr(torch.ops.normlib, f"{name}_backward").default

    def _define(self, function, count, kernel, shapes):
        name, results = function.name, ", ".join(["Tensor"] * count)
        _library.define(f"{name}({schema(function)}) -> ({results})", tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"normlib::{name}", shapes, lib=_library)

    def call(self, x, tensors, options):
        """The forward operator with arguments by name."""
        given = tensors | options
        fused = {key: given[key] for key in self.fused if key in given}
        return self.forward_operator(x, *(given[key] for key in (*self.tensors[1:], *self.options)), **fused)

    def _split(self, arguments):
        """Arguments after x by name: tensors, options. What is fused is among them where it is given; torch leaves
        out the last ones that are not."""
        given = dict(zip((*self.tensors[1:], *self.options, *self.fused), arguments, strict=False))
        given = {key: value for key, value in given.items() if value is not None or key not in self.fused}
        tensors = {key: value for key, value in given.items() if key in self.arrays}
        return tensors, _canonical({key: value for key, value in given.items() if key not in tensors})

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
        total = statistics.pop(0) if "residual" in tensors else x.new_empty(0)
        moved = moved or [x.new_empty(0) for _ in self.running]
        return y, *(tensor(np.asarray(a)) for a in statistics), *moved, total

    def forward_shapes(self, x, *arguments):
        tensors, options = self._split(arguments)
        shape = self.op.statistics_shape(x.shape, options[self.op.axis_name], options.get("num_groups"))
        statistics = [x.new_empty(shape, dtype=torch.float64) for _ in self.op.statistics]
        moves = self.moves(tensors, options)
        moved = [torch.empty_like(tensors[key]) if moves else x.new_empty(0) for key in self.running]
        y = torch.empty_like(x, memory_format=result_format(self.name, options, x))
        total = torch.empty_like(y) if "residual" in tensors else x.new_empty(0)
        return y.to(out_dtype(options, x)), *statistics, *moved, total

    # ---- autograd of forward ----

    def remember(self, ctx, inputs, output):
        x, *arguments = inputs
        tensors, options = self._split(arguments)
        statistics, fused = output[1 : 1 + len(self.op.statistics)], "residual" in tensors
        beside, ctx.options = again(self.name, tensors, options)
        ctx.save_for_backward(output[-1] if fused else x, tensors["weight"], *statistics, *beside.values())
        ctx.beside = tuple(beside)
        ctx.mark_non_differentiable(*(output[1:-1] if fused else output[1:]))
        ctx.set_materialize_grads(False)

    def gradients(self, ctx, dy, *others):
        # Of those that were given: torch leaves out the last ones that were not
        needed = dict(zip(("x", *self.tensors[1:], *self.options, *self.fused), ctx.needs_input_grad, strict=False))
        if dy is None and others[-1] is None:
            return (None,) * len(needed)
        x, weight, *saved = ctx.saved_tensors
        count, dy = len(self.op.statistics), dy if dy is None else dy.to(x.dtype)
        weight_grads = any(needed[key] for key in self.op.parameters)
        kept = [ctx.options[key] for key in self.kept]
        fused = {key: value for key, value in ctx.options.items() if key not in self.kept}

        def computed(beside):
            results = self.backward_operator(dy, x, weight, *saved[:count], *kept, weight_grads, **fused, **beside)
            roles = (*self.functions[1].results, *self.more)
            given = ("", *self.op.parameters, *beside)
            return [t for role, t in zip(roles, results, strict=True) if role.of in given]

        found = gradients(self.name, dy, others[-1], dict(zip(ctx.beside, saved[count:], strict=True)), computed)
        return tuple(found.get(key) if wanted else None for key, wanted in needed.items())

    # ---- backward ----

    def _split_backward(self, arguments):
        """Arguments after weight: statistics, options, weight_grads, what stands beside x."""
        names = (*self.op.statistics, *self.kept, "weight_grads", *self.fused_backward)
        given = dict(zip(names, arguments, strict=False))
        statistics, weight_grads = {key: given.pop(key) for key in self.op.statistics}, given.pop("weight_grads")
        given = {key: value for key, value in given.items() if value is not None}
        beside = {key: given.pop(key) for key in self.fused_backward if key in given and key in self.arrays}
        return statistics, _canonical(given), weight_grads, beside

    def backward(self, dy, x, weight, *arguments):
        statistics, options, weight_grads, beside = self._split_backward(arguments)
        arrays = {key: array(f"{self.name}_backward", key, t) for key, t in statistics.items()}
        found = compute_backward(self.name, dy, x, weight, arrays, options, weight_grads, beside)
        return self._all(x, found, beside)

    def _all(self, x, found, beside):
        """All results of the backward operator, without elements where `found` has none."""
        at = 1 + len(self.op.parameters)
        more = iter(found[at:])
        found = *found[:at], *(next(more) if role.of in beside else None for role in self.more)
        return tuple(x.new_empty(0) if t is None else t for t in found)

    def backward_shapes(self, dy, x, weight, *arguments):
        _, options, weight_grads, beside = self._split_backward(arguments)
        shape = self.op.parameter_shape(x.shape, options[self.op.axis_name]) if weight is None else weight.shape
        dtype = x.dtype if weight is None else weight.dtype
        dx = torch.empty_like(x, memory_format=gradient_format(self.name, options, dy, x))
        sizes = {"weight": shape, "bias": beside["bias"].shape if "bias" in beside else shape}
        parameters = (x.new_empty(sizes[key], dtype=dtype) if weight_grads else None for key in self.op.parameters)
        more = (torch.empty_like(dx) for role in self.more if role.of in beside)
        return self._all(x, (dx, *parameters, *more), beside)

    def differentiable_backward(self, keyset, dy, x, weight, *arguments):
        """The operator; where its own derivatives are wanted, the formula."""
        tensors = [t for t in (dy, x, weight, *arguments) if isinstance(t, torch.Tensor)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            statistics, options, weight_grads, beside = self._split_backward(arguments)
            dx, *rest = _formulas.backward(self.name, dy, x, weight, options | statistics, beside)
            count = len(self.op.parameters)
            parameters = (t if weight_grads else None for t in rest[:count])
            return self._all(x, (dx, *parameters, *rest[count:]), beside)
        with torch._C._AutoDispatchBelowAutograd():
            below = keyset & torch._C._after_autograd_keyset
            return self.backward_operator.redispatch(below, dy, x, weight, *arguments)


OPERATORS = {name: _Operators(name) for name in OPS}
