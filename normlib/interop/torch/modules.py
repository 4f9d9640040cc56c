"""torch's norm modules on normlib's kernels: drop-in classes, and models whose norms change places.

A module changes its class and nothing else, so that parameters, buffers, hooks, state and whoever holds the module
stay as they are.
"""

import functools
import warnings

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as _TorchBatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm as _TorchInstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin

from ...ops import OPS
from ._tensors import eager, fits
from .functional import direct, recorded
from .survey import Norm, Report, eps_name, walk, why_no_rms_norm


def _run(name, input, tensors, options):
    way = recorded if torch.compiler.is_compiling() else direct
    return way(name, input, tensors, options)


def _run_moving(name, module, input, running, mode, momentum):
    """A norm with running statistics; `mode` says whether the statistics are those of the input."""
    tensors = {"weight": module.weight, "bias": module.bias, "running_mean": running[0], "running_var": running[1]}
    options = {OPS[name].mode: mode, "momentum": float(momentum or 0), "eps": module.eps, "channel_axis": 1}
    return _run(name, input, tensors, options)


# Elements up to which torch's batch norm in evaluation takes less time than the way into ours, for each of its
# threads: of contiguous input, and of other. It is elementwise, and a network of images has many small ones.
_LEFT_TO_TORCH = (2**21, 2**17)


def _small(input):
    """Whether torch's kernel is the faster one, and nothing records gradients or the whole computation. It is called at
    once then: the functions of torch.nn.functional in between take as long as this question."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not (input.is_cpu and eager(input)):
        return False
    return input.numel() <= _LEFT_TO_TORCH[not input.is_contiguous()] * torch.get_num_threads()


class _Accelerated:
    def extra_repr(self):
        return ", ".join(filter(None, (super().extra_repr(), "normlib")))


def _trailing(shape):
    return -1 if len(shape) == 1 else tuple(range(-len(shape), 0))


class _LayerNorm(_Accelerated):
    def forward(self, input):
        shape, weight, bias = self.normalized_shape, self.weight, self.bias
        if not fits(input, weight, bias) or (weight is None and input.shape[-len(shape) :] != shape):
            return super().forward(input)
        return _run("layer_norm", input, {"weight": weight, "bias": bias}, {"axis": _trailing(shape), "eps": self.eps})


class _RMSNorm(_Accelerated):
    def forward(self, input):
        shape, weight, eps = self.normalized_shape, self.weight, self.eps
        if weight is None:
            taken = input.shape[-len(shape) :] == shape
        else:  # torch's takes any two dtypes
            taken = weight.dtype is input.dtype or (weight.dtype is torch.float32 and input.dtype.itemsize == 2)
        if not (taken and fits(input, weight)):
            return super().forward(input)
        if eps is None:
            eps = torch.finfo(torch.float64 if input.dtype is torch.float64 else torch.float32).eps
        return _run("rms_norm", input, {"weight": weight}, {"axis": _trailing(shape), "eps": eps})


class _BatchNorm(_Accelerated):
    def forward(self, input):
        running = self.running_mean, self.running_var
        if not self.training and running[0] is not None and _small(input):
            self._check_input_dim(input)
            return torch.batch_norm(input, self.weight, self.bias, *running, False, 0.0, self.eps, False)
        if not fits(input, self.weight, self.bias, *running):
            return super().forward(input)
        self._check_input_dim(input)
        momentum = self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        if self.training and not self.track_running_stats:
            running = None, None
        return _run_moving("batch_norm", self, input, running, self.training or running[0] is None, momentum)


class _GroupNorm(_Accelerated):
    def forward(self, input):
        if not fits(input, self.weight, self.bias):
            return super().forward(input)
        options = {"num_groups": self.num_groups, "eps": self.eps, "channel_axis": 1}
        return _run("group_norm", input, {"weight": self.weight, "bias": self.bias}, options)


class _InstanceNorm(_Accelerated):
    def _apply_instance_norm(self, input):  # what forward calls after its checks
        running = self.running_mean, self.running_var
        if not fits(input, self.weight, self.bias, *running):
            return super()._apply_instance_norm(input)
        mode = self.training or not self.track_running_stats
        return _run_moving("instance_norm", self, input, running, mode, self.momentum)


class _ModelRMSNorm(_Accelerated):
    """The root-mean-square norm that models of language bring along: a weight and an eps."""

    def forward(self, *args, **kwargs):
        if len(args) == 1 and not kwargs:
            (input,), weight = args, self.weight
            if input.dtype is weight.dtype and fits(input, weight):
                eps = getattr(self, eps_name(self))
                if input.is_contiguous():
                    return _run("rms_norm", input, {"weight": weight}, {"axis": -1, "eps": eps})
                if not torch.compiler.is_compiling() and 0 not in input.stride():
                    return _in_order(input, weight, eps)
        return super().forward(*args, **kwargs)


def _in_order(input, weight, eps):
    """RMSNorm over the last axis. The order of axes in memory stays, as the operators of such models leave it."""
    order = sorted(range(input.ndim), key=input.stride, reverse=True)
    back = sorted(range(input.ndim), key=order.__getitem__)
    y = _run("rms_norm", input.permute(order), {"weight": weight}, {"axis": back[-1], "eps": eps})
    return y.permute(back)


class LayerNorm(_LayerNorm, nn.LayerNorm):
    """:class:`torch.nn.LayerNorm` on normlib's kernels."""


class RMSNorm(_RMSNorm, nn.RMSNorm):
    """:class:`torch.nn.RMSNorm` on normlib's kernels."""


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` on normlib's kernels."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` on normlib's kernels."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` on normlib's kernels."""


class GroupNorm(_GroupNorm, nn.GroupNorm):
    """:class:`torch.nn.GroupNorm` on normlib's kernels."""


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """:class:`torch.nn.InstanceNorm1d` on normlib's kernels."""


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """:class:`torch.nn.InstanceNorm2d` on normlib's kernels."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """:class:`torch.nn.InstanceNorm3d` on normlib's kernels."""


# ---- norms that change places in a model ----


def accelerate(model):
    """Let normlib compute the norms of a model, in place.

    ``nn.LayerNorm``, ``nn.RMSNorm``, ``nn.BatchNorm1d`` to ``3d``, ``nn.GroupNorm``, ``nn.InstanceNorm1d`` to ``3d``
    and their subclasses that keep the forward method; and the norms of the models of language: classes with Norm in
    their name, a ``weight``, a ``variance_epsilon`` or ``eps`` and nothing else, if they compute
    ``rms_norm(x, weight)`` when tried, with other values than their own too.
    Norms of other kinds are left alone; a warning says which and why, and :func:`report` lists them all.
    A module changes its class and nothing else: parameters, buffers, hooks, training mode and the names in
    ``state_dict()`` stay what they are. What the kernels do not take (another device, another dtype, transforms of
    ``torch.func``, ``torch.jit.trace``) goes through the module's own forward, as before.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a norm.

    Returns
    -------
    torch.nn.Module
        The same `model`. ``print(model)`` marks what is accelerated.

    Raises
    ------
    TypeError
        If `model` is no module, or one of TorchScript.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    >>> accelerate(model)
    Sequential(
      (0): Linear(in_features=4, out_features=4, bias=True)
      (1): LayerNorm((4,), eps=1e-05, elementwise_affine=True, ...normlib)
    )
    >>> type(restore(model)[1])
    <class 'torch.nn.modules.normalization.LayerNorm'>
    """
    _checked("accelerate", model)
    norms = Report()
    for name, module in walk(model):
        cls, why = _place(module)
        norms.append(Norm(name, type(module).__name__, why))
        if cls is not None:
            module.__class__ = cls
    if summary := norms.summary():
        warnings.warn(f"accelerate: {summary}; normlib.interop.torch.report(model) lists them", stacklevel=2)
    return model


def report(model):
    """List the norms of a model: which are accelerated, and why the others are not, or would not be.

    Parameters
    ----------
    model : torch.nn.Module
        A model, accelerated or not.

    Returns
    -------
    Report
        A list of norms with ``name``, ``kind`` (the class), ``accelerated`` and ``why``; printed as a table.

    Raises
    ------
    TypeError
        If `model` is no module, or one of TorchScript.

    Examples
    --------
    >>> import torch
    >>> from normlib.interop.torch import accelerate, report
    >>> model = accelerate(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)))
    >>> print(report(model))
    module  class
    1       LayerNorm  accelerated
    """
    _checked("report", model)
    found = Report()
    for name, module in walk(model):
        cls, why = _place(module)
        found.append(Norm(name, type(module).__name__, "not accelerated yet" if cls is not None else why))
    return found


def _place(module):
    """The class that takes the place of a norm's own, None where it has it or there is none; and why there is none."""
    if isinstance(module, _Accelerated):
        return None, ""
    if cls := _accelerated(type(module), False):
        return cls, ""
    why = why_no_rms_norm(module)
    return (None, why) if why else (_accelerated(type(module), True), "")


def restore(model):
    """Undo :func:`accelerate`: every module gets its own class back.

    Parameters
    ----------
    model : torch.nn.Module
        A model, accelerated or not.

    Returns
    -------
    torch.nn.Module
        The same `model`.

    Raises
    ------
    TypeError
        If `model` is no module, or one of TorchScript.
    """
    for module in _checked("restore", model).modules():
        if "_normlib_original" in vars(type(module)):
            module.__class__ = type(module)._normlib_original
    return model


def _checked(function, model):
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model is a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        words = "whose code is fixed, expected a torch.nn.Module that is not compiled yet"
        raise TypeError(f"{function}: model is a {type(model).__name__}, {words}")
    return model


# The class whose forward is replaced, the method that must be its own, and what replaces it
_REPLACED = (
    (nn.LayerNorm, "forward", _LayerNorm),
    (nn.RMSNorm, "forward", _RMSNorm),
    (_TorchBatchNorm, "forward", _BatchNorm),
    (nn.GroupNorm, "forward", _GroupNorm),
    (_TorchInstanceNorm, "_apply_instance_norm", _InstanceNorm),
)


@functools.cache
def _accelerated(cls, is_rms_norm):
    """The class that takes the place of `cls`, or None."""
    if issubclass(cls, (_Accelerated, LazyModuleMixin)):
        return None
    mixin = _ModelRMSNorm if is_rms_norm else None
    for original, method, replacement in _REPLACED:
        if issubclass(cls, original) and getattr(cls, method) is getattr(original, method):
            mixin = replacement
    if mixin is None:
        return None
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (mixin, cls), {**names, "_normlib_original": cls, "__reduce_ex__": _reduce})


def _reduce(self, protocol):
    """For pickle and copy: as the original class would, and accelerated again."""
    cls = type(self)
    return _remade, (cls._normlib_original, issubclass(cls, _ModelRMSNorm)), self.__getstate__()


def _remade(cls, is_rms_norm):
    accelerated = _accelerated(cls, is_rms_norm)
    return accelerated.__new__(accelerated)
