"""The norms in torch's own operators: for what looks into a computation, where the kernels are closed (second
derivatives, forward-mode derivatives, the transforms of torch.func)."""

import torch
import torch.nn.functional as F

from ...ops import OPS

_aten = torch.ops.aten


def _silu_slope(h, open_):
    return open_ * (1 + h * (1 - open_))  # silu_backward has no derivative of its own


# Each activation of h, with the slope of leaky_relu, and its gradient
ACTIVATIONS = {
    "relu": (lambda h, _: F.relu(h), lambda dy, h, _: _aten.threshold_backward(dy, h, 0)),
    "leaky_relu": (F.leaky_relu, lambda dy, h, slope: _aten.leaky_relu_backward(dy, h, slope, False)),
    "silu": (lambda h, _: F.silu(h), lambda dy, h, _: dy * _silu_slope(h, torch.sigmoid(h))),
    "gelu": (lambda h, _: F.gelu(h), lambda dy, h, _: _aten.gelu_backward(dy, h)),
    "gelu_tanh": (
        lambda h, _: F.gelu(h, approximate="tanh"),
        lambda dy, h, _: _aten.gelu_backward(dy, h, approximate="tanh"),
    ),
    "sigmoid": (lambda h, _: torch.sigmoid(h), lambda dy, h, _: _aten.sigmoid_backward(dy, torch.sigmoid(h))),
}
_KNOWN = {
    "residual", "dsum", "bias", "add", "gate", "activation", "negative_slope", "gate_activation", "gate_first",
    "out_dtype",
}  # fmt: skip


def _refuse(name, given):
    if unknown := sorted(given - _KNOWN):
        words = "under transforms of torch.func and for second derivatives, where torch's own operators compute"
        raise NotImplementedError(f"{name}: {unknown[0]} is given, which is not there {words}")


def _activation(options):
    """Both functions of the activation, and the slope."""
    slope = options.get("negative_slope")
    return *ACTIVATIONS[options["activation"]], 0.01 if slope is None else slope


def forward(name, x, tensors, options):
    """The result of torch's own functions."""
    own = {key: t for key, t in tensors.items() if key in ("weight", "bias", "running_mean", "running_var")}
    base = {"axis", "channel_axis", "eps", "num_groups", "momentum", OPS[name].mode}
    _refuse(name, (tensors.keys() - own) | (options.keys() - base))
    total = x + tensors["residual"] if "residual" in tensors else x
    opened = _opened(tensors.get("gate"), options)
    first = options.get("gate_first")
    y = _norm(name, total * opened if first else total, own, options)
    if "add" in tensors:
        y = y + tensors["add"]
    if "activation" in options:
        function, _, slope = _activation(options)
        y = function(y, slope)
    if opened is not None and not first:
        y = y * opened
    if "out_dtype" in options:
        y = y.to(getattr(torch, options["out_dtype"]))
    return (y, total) if "residual" in tensors else y


def _opened(gate, options):
    """What a gate multiplies by, or None."""
    return None if gate is None else ACTIVATIONS[options.get("gate_activation", "silu")][0](gate, None)


def _norm(name, x, tensors, options):
    """The result of torch's own function, with the axes where that wants them; parameters with leading axes, of which
    that has not heard, come after it."""
    op, axis = OPS[name], options[OPS[name].axis_name]
    size = op.parameter_shape(x.shape, axis)
    later = {key: tensors[key] for key in op.parameters if tensors[key] is not None and tensors[key].shape != size}
    if later:
        y = _norm(name, x, {**tensors, **dict.fromkeys(op.parameters)}, options)
        weight, bias = (tensors.get(key) for key in ("weight", "bias"))
        y = y if weight is None else y * _laid(op, x.ndim, axis, weight)
        return y if bias is None else y + _laid(op, x.ndim, axis, bias)
    order = op.reduced_axes(x.ndim, axis) if op.kind == "feature" else (axis,)
    to = tuple(range(x.ndim - len(order), x.ndim)) if op.kind == "feature" else (1,)
    eps, x = options["eps"], x.movedim(order, to)
    if op.kind == "feature":
        y = getattr(F, name)(x, [x.shape[i] for i in to], **tensors, eps=eps)
    elif op.has_groups:
        y = F.group_norm(x, options["num_groups"], **tensors, eps=eps)
    else:
        mode = options[op.mode] or tensors["running_mean"] is None
        y = getattr(F, name)(x, **tensors, **{op.mode: mode}, momentum=options["momentum"], eps=eps)
    return y.movedim(to, order)


def backward(name, dy, x, weight, options, beside):
    """dx, dweight, dbias and the gradients of what stands `beside` x, differentiable in all of these. The statistics,
    among the options, are functions of x that have the given values, or constants where the mode says so."""
    op = OPS[name]
    known = {op.axis_name, op.mode, "num_groups", "mean", "rstd", "round_first"}
    _refuse(name, beside.keys() | (options.keys() - known))
    shape, reduced, statistic, parameter = _frame(op, x.shape, options)
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    samples_second = op.per_sample and options["channel_axis"] in (0, -x.ndim)
    mean, rstd = (
        None if t is None else (t.mT if samples_second else t).to(wide).reshape(statistic)
        for t in (options.get("mean"), options["rstd"])
    )
    x_ = x.to(wide).reshape(shape)
    gate = beside["gate"].to(wide).reshape(shape) if "gate" in beside else None
    total, opened, first = x_, _opened(gate, options), options.get("gate_first")
    if first:
        x_ = total * opened
    given = op.mode is not None and not options[op.mode]
    if given:
        z = (x_ - mean) * rstd
    else:
        centered = x_ if mean is None else x_ - x_.mean(reduced, keepdim=True)
        var = (centered * centered).mean(reduced, keepdim=True)
        rstd = (var + (rstd**-2 - var).detach()).rsqrt()
        z = centered * rstd
    rounded = z + (z.to(x.dtype) - z).detach() if options.get("round_first") else z
    axis, size = options[op.axis_name], op.parameter_shape(x.shape, options[op.axis_name])

    def beside_x(t):
        laid = _laid(op, x.ndim, axis, t.to(wide))
        return laid.expand(x.shape).reshape(shape) if t.shape != size else laid.reshape(parameter)

    scale = None if weight is None else beside_x(weight)
    dy_ = dy.to(wide).reshape(shape)
    more = {}
    if "activation" in options or beside.keys() & {"add", "gate"}:
        h = rounded if scale is None else rounded * scale
        h = h + beside_x(beside["bias"]) if "bias" in beside else h
        h = h + beside["add"].to(wide).reshape(shape) if "add" in beside else h
        dy_, more["gate"] = _upstream(dy_, h, None if first else gate, options)
        more["add"] = dy_
    g = dy_ if scale is None else dy_ * scale
    dx = g
    if not given:
        dx = dx - z * (g * z).mean(reduced, keepdim=True)
        if mean is not None:
            dx = dx - g.mean(reduced, keepdim=True)
    dx = dx * rstd
    if first:
        more["gate"] = _derivative_of_gate(dx * total, gate, options)
        dx = dx * opened
    dx = dx.reshape(x.shape)
    if "dsum" in beside:
        dx = dx + beside["dsum"].to(wide)
    dtype = x.dtype if weight is None else weight.dtype
    sizes = {"weight": size if weight is None else weight.shape}
    sizes["bias"] = beside["bias"].shape if "bias" in beside else sizes["weight"]
    products = {"weight": dy_ * rounded, "bias": dy_}
    sums = [_summed(op, axis, products[key].reshape(x.shape), sizes[key]) for key in op.parameters]
    more = [more[key].reshape(x.shape).to(x.dtype) for key in ("add", "gate") if key in beside]
    return dx.to(x.dtype), *(t.to(dtype) for t in sums), *more


def _upstream(dy, h, gate, options):
    """What reaches h through y = activation(h) * gate_activation(gate), and what reaches the gate, or None."""
    function, derivative, slope = (lambda h, _: h, lambda dy, *_: dy, None)
    if "activation" in options:
        function, derivative, slope = _activation(options)
    if gate is None:
        return derivative(dy, h, slope), None
    before = derivative(dy * _opened(gate, options), h, slope)
    return before, _derivative_of_gate(dy * function(h, slope), gate, options)


def _derivative_of_gate(dy, gate, options):
    return ACTIVATIONS[options.get("gate_activation", "silu")][1](dy, gate, None)


def _frame(op, x_shape, options):
    """The shape of x with the groups apart, the reduced axes, and the shapes of statistics and parameters beside it."""
    shape, ndim, axis = list(x_shape), len(x_shape), options[op.axis_name]
    reduced = set(op.reduced_axes(ndim, axis))
    own = reduced if op.kind == "feature" else {axis % ndim}
    if op.has_groups:
        (c,) = own
        shape[c : c + 1] = [options["num_groups"], shape[c] // options["num_groups"]]
        reduced = {i + (i > c) for i in reduced} | {c + 1}
        own = {c, c + 1}
    statistic = [1 if i in reduced else n for i, n in enumerate(shape)]
    parameter = [n if i in own else 1 for i, n in enumerate(shape)]
    return shape, sorted(reduced), statistic, parameter


def _order(op, ndim, axis):
    """The axes of x in the order in which parameters have them: the kept ones before, or samples and channels last."""
    own = op.reduced_axes(ndim, axis) if op.of_features else (0 if axis % ndim else 1, axis % ndim)
    return [*(a for a in range(ndim) if a not in own), *own]


def _laid(op, ndim, axis, t):
    """A parameter as it broadcasts against x."""
    order = _order(op, ndim, axis)
    return t.reshape((1,) * (ndim - t.ndim) + tuple(t.shape)).permute([order.index(a) for a in range(ndim)])


def _summed(op, axis, t, size):
    """The gradient of a parameter of the shape `size`, from what reaches each of its copies along x."""
    t = t.permute(_order(op, t.ndim, axis))
    return t.sum_to_size((1,) * (t.ndim - len(size)) + tuple(size)).reshape(size)
