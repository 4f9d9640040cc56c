"""The five norms on tensors, with gradients.

What stands around a norm is computed in the same pass:
y = activation(norm(x + residual) + add) * gate_activation(gate). With a ``residual`` a function returns y and the sum.
"""

import numpy as np
import torch

from ..._arguments import fusible, misplaced, wanted
from ...description import FUNCTIONS, Role
from ...ops import OPS
from . import _bridge, _formulas
from ._operators import OPERATORS, again, compute, compute_backward, gradients
from ._tensors import Closed, array, eager, tensor, transformed

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def _fusible(function):
    """Shows what `**fused` stands for: what has a type in the schemas of torch."""
    fusible(function, [a for a in FUNCTIONS[function.__name__].fused.values() if a.torch])
    if function.__doc__:
        function.__doc__ = function.__doc__.replace("array_like", "torch.Tensor")
    return function


@_fusible
def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, **fused):
    r"""Layer normalization of a tensor, with gradients: :func:`normlib.layer_norm`.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Parameters
    ----------
    x : torch.Tensor
        What to normalize, on the CPU: floats, or integers, which are taken as floats.
    weight, bias : torch.Tensor, optional
        Of the shape of `x` over `axis`, in any of the float dtypes.
    axis : int or tuple of int, default -1
        The axes that are normalized over.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    y : torch.Tensor
        The normalized tensor, of the shape and dtype of `x`, with the strides that torch's operator would give it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import layer_norm
    >>> x = torch.tensor([[1.0, 3.0], [10.0, 30.0]], requires_grad=True)
    >>> layer_norm(x, eps=0)
    tensor([[-1.,  1.],
            [-1.,  1.]], grad_fn=<NormlibBackward>)
    """
    return run("layer_norm", x, {"weight": weight, "bias": bias}, {"axis": axis, "eps": eps}, fused)


@_fusible
def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, **fused):
    r"""Root mean square normalization of a tensor, with gradients: :func:`normlib.rms_norm`.

    .. math:: y = x \cdot \mathrm{rstd} \cdot \mathrm{weight}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\overline{x^2} + \mathrm{eps}}

    Parameters
    ----------
    x : torch.Tensor
        What to normalize, on the CPU: floats, or integers, which are taken as floats.
    weight : torch.Tensor, optional
        Of the shape of `x` over `axis`, in any of the float dtypes.
    axis : int or tuple of int, default -1
        The axes that are normalized over.
    eps : float, default 1e-6
        Added to the mean square.

    Returns
    -------
    y : torch.Tensor
        The normalized tensor, of the shape and dtype of `x`, with the strides that torch's operator would give it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import rms_norm
    >>> rms_norm(torch.tensor([[1.0, 7.0], [-5.0, 5.0]]), eps=0)
    tensor([[ 0.2000,  1.4000],
            [-1.0000,  1.0000]])
    """
    return run("rms_norm", x, {"weight": weight}, {"axis": axis, "eps": eps}, fused)


@_fusible
def batch_norm(
    x,
    *positional,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    **fused,
):
    r"""Batch normalization of a tensor, with gradients: :func:`normlib.batch_norm`.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Parameters
    ----------
    x : torch.Tensor
        What to normalize, on the CPU: floats, or integers, which are taken as floats.
    weight, bias : torch.Tensor, optional
        One value a channel, in any of the float dtypes. By name alone, since torch.nn.functional has them elsewhere.
    running_mean, running_var : torch.Tensor, optional
        One value a channel, in any of the float dtypes; updated in place if `training`, used otherwise.
    training : bool, default False
        Whether to use the statistics of `x`.
    momentum : float, default 0.1
        The weight of the batch in the update.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels.

    Returns
    -------
    y : torch.Tensor
        The normalized tensor, of the shape and dtype of `x`, with the strides that torch's operator would give it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
       Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import batch_norm
    >>> batch_norm(torch.tensor([[1.0, 10.0], [3.0, 30.0]]), training=True, eps=0)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """
    if positional:
        raise misplaced("batch_norm", len(positional))
    tensors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    options = {"training": training, "momentum": momentum, "eps": eps, "channel_axis": channel_axis}
    return run("batch_norm", x, tensors, options, fused)


@_fusible
def group_norm(x, num_groups, weight=None, bias=None, *, eps=1e-5, channel_axis=1, **fused):
    r"""Group normalization of a tensor, with gradients: :func:`normlib.group_norm`.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Parameters
    ----------
    x : torch.Tensor
        What to normalize, on the CPU: floats, or integers, which are taken as floats.
    num_groups : int
        A divisor of the number of channels.
    weight, bias : torch.Tensor, optional
        One value a channel, in any of the float dtypes.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; the samples lie along the first of the others.

    Returns
    -------
    y : torch.Tensor
        The normalized tensor, of the shape and dtype of `x`, with the strides that torch's operator would give it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] Y. Wu, K. He, "Group Normalization", 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import group_norm
    >>> group_norm(torch.tensor([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0)
    tensor([[-1.,  1., -1.,  1.]])
    """
    options = {"num_groups": num_groups, "eps": eps, "channel_axis": channel_axis}
    return run("group_norm", x, {"weight": weight, "bias": bias}, options, fused)


@_fusible
def instance_norm(
    x,
    *positional,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
    **fused,
):
    r"""Instance normalization of a tensor, with gradients: :func:`normlib.instance_norm`.

    .. math:: y = (x - \mathrm{mean}) \cdot \mathrm{rstd} \cdot \mathrm{weight} + \mathrm{bias}, \qquad
              \mathrm{rstd} = 1 / \sqrt{\mathrm{var} + \mathrm{eps}}

    Parameters
    ----------
    x : torch.Tensor
        What to normalize, on the CPU: floats, or integers, which are taken as floats.
    weight, bias : torch.Tensor, optional
        One value a channel, in any of the float dtypes. By name alone, since torch.nn.functional has them elsewhere.
    running_mean, running_var : torch.Tensor, optional
        One value a channel, in any of the float dtypes; updated in place if `use_input_stats`, used otherwise.
    use_input_stats : bool, default True
        Whether to use the statistics of `x`.
    momentum : float, default 0.1
        The weight of the batch in the update.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; the samples lie along the first of the others.

    Returns
    -------
    y : torch.Tensor
        The normalized tensor, of the shape and dtype of `x`, with the strides that torch's operator would give it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message says which, what was expected and what came.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance Normalization: The Missing Ingredient for Fast Stylization",
       2016, arXiv:1607.08022.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import instance_norm
    >>> instance_norm(torch.tensor([[[1.0, 3.0], [10.0, 30.0]]]), eps=0)
    tensor([[[-1.,  1.],
             [-1.,  1.]]])
    """
    if positional:
        raise misplaced("instance_norm", len(positional))
    tensors = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    options = {"use_input_stats": use_input_stats, "momentum": momentum, "eps": eps, "channel_axis": channel_axis}
    return run("instance_norm", x, tensors, options, fused)


def run(name, x, tensors, options, fused=None):
    """A norm the shortest way that the moment allows. `tensors` and `options` are in the order of the operator; what
    is fused joins them, each its own kind."""
    if fused:
        tensors, options = joined(name, tensors, options, fused)
    if torch.compiler.is_compiling():
        return recorded(name, x, tensors, options)
    if (compiled := _bridge.compiled) is not None:
        y = compiled.run(name, x, tensors, options)
        if y is not NotImplemented:
            return y
    if eager(x):
        return direct(name, x, tensors, options)
    if not isinstance(x, torch.Tensor):
        array(name, "x", x)  # raises
    if transformed():
        return _formulas.forward(name, _floating(x), tensors, options)
    return recorded(name, x, tensors, options)


def joined(name, tensors, options, fused):
    """Tensors and options, with what is fused among them."""
    function = FUNCTIONS[name]
    fused = wanted(function, fused)
    if isinstance(fused.get("out_dtype"), torch.dtype):
        fused["out_dtype"] = str(fused["out_dtype"]).removeprefix("torch.")
    for key in fused:
        if not function.fused[key].torch:
            raise TypeError(f"{name}: {key} is given, which functions with gradients do not have")
    roles = {key: value for key, value in fused.items() if isinstance(function.fused[key], Role)}
    return {**tensors, **roles}, {**options, **{key: value for key, value in fused.items() if key not in roles}}


def _floating(x):
    """Integers as what normlib's functions make of them."""
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return x
    return x.to(torch.float64 if x.dtype.itemsize > 2 else torch.float32)


def direct(name, x, tensors, options):
    """Without torch's dispatcher, which takes longer than a short row."""
    if torch.is_grad_enabled() and torch._C._any_requires_grad(x, *tensors.values()):
        return Normlib.apply(name, options, tuple(tensors), x, *tensors.values())
    return compute(name, x, tensors, options)


def recorded(name, x, tensors, options):
    """Through torch's dispatcher, for whoever records or intercepts the call."""
    if x.device.type != "cpu":
        raise ValueError(f"{name}: x is on device {x.device}, expected cpu")
    if "axis" in options:
        axis = options["axis"]
        options = {**options, "axis": list(axis) if isinstance(axis, (tuple, list)) else [axis]}
    operators = OPERATORS[name]
    y, *rest = operators.call(_floating(x), tensors, options)
    if operators.moves(tensors, options):
        for key, moved in zip(operators.running, rest[len(operators.op.statistics) :], strict=False):
            tensors[key].copy_(moved)
    return (y, rest[-1]) if "residual" in tensors else y


class Normlib(torch.autograd.Function):
    """A norm in the graph of autograd."""

    @staticmethod
    def forward(ctx, name, options, keys, x, *tensors):
        tensors = dict(zip(keys, tensors, strict=True))
        y, *rest = compute(name, x, tensors, options, return_stats=True)
        if with_sum := "residual" in tensors:
            x = rest.pop(0)
            ctx.set_materialize_grads(False)
        beside, ctx.options = again(name, tensors, options)
        ctx.save_for_backward(x, tensors["weight"], *beside.values())
        ctx.name = name
        if fused := with_sum or beside or "add" in tensors or "out_dtype" in options:
            ctx.keys, ctx.beside = keys, tuple(beside)
        ctx.fused = fused
        ctx.statistics = dict(zip(OPS[name].statistics, rest, strict=True))
        return (y, x) if with_sum else y

    @staticmethod
    def backward(ctx, dy, dsum=None):
        x, weight, *beside = ctx.saved_tensors
        needed = ctx.needs_input_grad[3:]  # x, then the tensors
        if not ctx.fused:
            grads = _computed(ctx, dy, x, weight, {}, any(needed[1:]))
            wanted = (t if want else None for t, want in zip(grads, needed, strict=False))
            return None, None, None, *wanted, *[None] * (len(needed) - len(grads))

        dy = dy if dy is None else dy.to(x.dtype)

        def computed(beside):
            return _computed(ctx, dy, x, weight, beside, any(needed[1 : 1 + len(OPS[ctx.name].parameters)]))

        found = gradients(ctx.name, dy, dsum, dict(zip(ctx.beside, beside, strict=True)), computed)
        named = zip(("x", *ctx.keys), needed, strict=True)
        return None, None, None, *(found.get(key) if wanted else None for key, wanted in named)


def _computed(ctx, dy, x, weight, beside, weight_grads):
    """What the backward function returns; where its own derivatives are wanted, the formula."""
    if not torch.is_grad_enabled():
        try:
            return compute_backward(ctx.name, dy, x, weight, ctx.statistics, ctx.options, weight_grads, beside)
        except Closed:
            pass
    statistics = {key: tensor(np.asarray(a)) for key, a in ctx.statistics.items()}
    return _formulas.backward(ctx.name, dy, x, weight, {**ctx.options, **statistics}, beside)
