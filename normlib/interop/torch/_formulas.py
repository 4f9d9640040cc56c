"""The norms in torch's own operators: for what looks into a computation, where the kernels are closed (second
derivatives, forward-mode derivatives, the transforms of torch.func)."""

import torch
import torch.nn.functional as F

from ...ops import OPS


def forward(name, x, tensors, options):
    """The result of torch's own function, with the axes where that wants them."""
    op, axis = OPS[name], options[OPS[name].axis_name]
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


def backward(name, dy, x, weight, options, *, mean=None, rstd):
    """dx, dweight and dbias, differentiable in dy, x and weight. The statistics are functions of x that have the given
    values, or constants where the mode says so."""
    op = OPS[name]
    shape, reduced, statistic, parameter, summed = _frame(op, x.shape, options)
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    samples_second = op.per_sample and options["channel_axis"] in (0, -x.ndim)
    mean, rstd = (
        None if t is None else (t.mT if samples_second else t).to(wide).reshape(statistic) for t in (mean, rstd)
    )
    dy_, x_ = dy.to(wide).reshape(shape), x.to(wide).reshape(shape)
    g = dy_ if weight is None else dy_ * weight.to(wide).reshape(parameter)
    if op.mode is not None and not options[op.mode]:
        z = (x_ - mean) * rstd
        dx = g * rstd
    else:
        centered = x_ if mean is None else x_ - x_.mean(reduced, keepdim=True)
        var = (centered * centered).mean(reduced, keepdim=True)
        rstd = (var + (rstd**-2 - var).detach()).rsqrt()
        z = centered * rstd
        dx = g - z * (g * z).mean(reduced, keepdim=True)
        if mean is not None:
            dx = dx - g.mean(reduced, keepdim=True)
        dx = dx * rstd
    dtype = x.dtype if weight is None else weight.dtype
    size = op.parameter_shape(x.shape, options[op.axis_name])
    sums = [(dy_ * z).sum(summed), dy_.sum(summed)][: len(op.parameters)]
    return dx.reshape(x.shape).to(x.dtype), *(t.reshape(size).to(dtype) for t in sums)


def _frame(op, x_shape, options):
    """The shape of x with the groups apart, the reduced axes, the shape of statistics and of parameters beside it,
    and the axes that the gradient of a parameter sums over."""
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
    return shape, sorted(reduced), statistic, parameter, [i for i in range(len(shape)) if i not in own]
