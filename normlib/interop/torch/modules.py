"""torch's norm modules on normlib's kernels: what replaces their forward methods, and drop-in classes.

The methods take a dict of what is fused, by the keywords of the functions. Where that is given and the kernels do not
take the call, NotImplemented comes back: who fused knows the separate steps. What compiles, exports or traces a model
meets torch's own methods.
"""

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling

from ...backends import active
from ...ops import OPS
from . import _bridge
from ._tensors import fits
from .functional import direct, joined


def _run(name, input, tensors, options, fused=None):
    if fused:
        tensors, options = joined(name, tensors, options, fused)
    return direct(name, input, tensors, options)


def _run_moving(name, module, input, running, mode, momentum, fused):
    """A norm with running statistics; `mode` says whether the statistics are those of the input."""
    tensors = {"weight": module.weight, "bias": module.bias, "running_mean": running[0], "running_var": running[1]}
    options = {OPS[name].mode: mode, "momentum": float(momentum or 0), "eps": module.eps, "channel_axis": 1}
    return _run(name, input, tensors, options, fused)


def _computed(op, slowly, module, input, fused):
    """What the kernels compute, or NotImplemented: by the bridge, or by a function of Python."""
    if is_dynamo_compiling():
        return NotImplemented
    compiled = _bridge.compiled
    y = NotImplemented if compiled is None else getattr(compiled, op)(module, input, fused)
    if y is NotImplemented and (compiled is None or active().name != "cython"):
        try:
            return slowly(module, input, fused)
        except (TypeError, ValueError):  # torch's own method says what is wrong
            return NotImplemented
    return y


class Accelerated:
    takes_fused = True

    def extra_repr(self):
        return ", ".join(filter(None, (super().extra_repr(), "normlib")))


def _trailing(shape):
    return -1 if len(shape) == 1 else tuple(range(-len(shape), 0))


class _LayerNorm(Accelerated):
    def forward(self, input, *, fused=None):
        y = _computed("layer_norm", _layer_norm, self, input, fused)
        return super().forward(input) if y is NotImplemented and fused is None else y


def _layer_norm(self, input, fused):
    shape, weight, bias = self.normalized_shape, self.weight, self.bias
    if not fits(input, weight, bias) or (weight is None and input.shape[-len(shape) :] != shape):
        return NotImplemented
    options = {"axis": _trailing(shape), "eps": self.eps}
    return _run("layer_norm", input, {"weight": weight, "bias": bias}, options, fused)


class _RMSNorm(Accelerated):
    def forward(self, x, *, fused=None):
        y = _computed("rms_norm", _rms_norm, self, x, fused)
        return super().forward(x) if y is NotImplemented and fused is None else y


def _rms_norm(self, input, fused):
    shape, weight, eps = self.normalized_shape, self.weight, self.eps
    if not fits(input, weight) or (weight is None and input.shape[-len(shape) :] != shape):
        return NotImplemented
    if eps is None:
        eps = torch.finfo(torch.float64 if input.dtype is torch.float64 else torch.float32).eps
    return _run("rms_norm", input, {"weight": weight}, {"axis": _trailing(shape), "eps": eps}, fused)


class _BatchNorm(Accelerated):
    def forward(self, input, *, fused=None):
        self._check_input_dim(input)
        y = _computed("batch_norm", _batch_norm, self, input, fused)
        return super().forward(input) if y is NotImplemented and fused is None else y


def _batch_norm(self, input, fused):
    running = self.running_mean, self.running_var
    if not fits(input, self.weight, self.bias, *running):
        return NotImplemented
    momentum = self.momentum
    if self.training and self.track_running_stats and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
    if self.training and not self.track_running_stats:
        running = None, None
    return _run_moving("batch_norm", self, input, running, self.training or running[0] is None, momentum, fused)


class _GroupNorm(Accelerated):
    def forward(self, input, *, fused=None):
        y = _computed("group_norm", _group_norm, self, input, fused)
        return super().forward(input) if y is NotImplemented and fused is None else y


def _group_norm(self, input, fused):
    if not fits(input, self.weight, self.bias):
        return NotImplemented
    options = {"num_groups": self.num_groups, "eps": self.eps, "channel_axis": 1}
    return _run("group_norm", input, {"weight": self.weight, "bias": self.bias}, options, fused)


class _InstanceNorm(Accelerated):
    def forward(self, input, *, fused=None):
        if fused is None:
            return super().forward(input)
        self._check_input_dim(input)
        one_sample = input.dim() == self._get_no_batch_dim()
        own = super().forward.__func__ is not nn.modules.instancenorm._InstanceNorm.forward
        if own or one_sample or (input.shape[1] != self.num_features and self.affine):  # of which the module warns
            return NotImplemented
        return self._apply_instance_norm(input, fused)

    def _apply_instance_norm(self, input, fused=None):  # what forward calls after its checks
        y = _computed("instance_norm", _instance_norm, self, input, fused)
        return super()._apply_instance_norm(input) if y is NotImplemented and fused is None else y


def _instance_norm(self, input, fused):
    running = self.running_mean, self.running_var
    if not fits(input, self.weight, self.bias, *running):
        return NotImplemented
    mode = self.training or not self.track_running_stats
    moved = [t.clone() if mode and t is not None else t for t in running]
    y = _run_moving("instance_norm", self, input, moved, mode, self.momentum, fused)
    if mode and running[0] is not None:  # as torch does: a checkpoint ends its second run at the last tensor saved
        torch._foreach_copy_(running, moved)
    return y


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


# The class whose forward is replaced, the method that must be its own, and what replaces it
REPLACED = (
    (nn.LayerNorm, "forward", _LayerNorm),
    (nn.RMSNorm, "forward", _RMSNorm),
    (nn.modules.batchnorm._BatchNorm, "forward", _BatchNorm),
    (nn.GroupNorm, "forward", _GroupNorm),
    (nn.modules.instancenorm._InstanceNorm, "_apply_instance_norm", _InstanceNorm),
)
