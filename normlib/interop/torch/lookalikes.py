"""Norms that models bring along, on normlib's kernels: what replaces their forward methods.

A class is taken by its form, which forms.py finds. What the form does not hold for, other dtypes or another number of
axes, goes through the class's own method; so does a model that is compiled, exported or traced.
"""

import functools

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules.module import _has_any_global_hook

from ...backends import active
from . import _bridge, shared
from ._graphs import activation_of
from ._tensors import fits
from .forms import Form, group_count
from .fusion import _hooked, _pays
from .modules import REPLACED, Accelerated, _BatchNorm, _run

_ONE = {torch.float64: torch.ones(1, dtype=torch.float64)}
_ONE |= dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.ones(1))


def _computed(name, input, tensors, options, fused=None):
    """What the kernels compute, or NotImplemented."""
    if (compiled := _bridge.compiled) is not None:
        y = compiled.run(name, input, tensors, {**options, **fused} if fused else options)
        if y is not NotImplemented or active().name == "cython":
            return y
    weight, axis = tensors["weight"], options.get("axis", 1)
    if "offset" in options:  # which the bridge alone knows
        options = {key: value for key, value in options.items() if key != "offset"}
        tensors = {**tensors, "weight": torch.add(weight, _ONE[weight.dtype])}
    wrong = weight is not None and weight.ndim == 1 and input.shape[axis] != len(weight)  # the class has words
    if wrong or not fits(input, *tensors.values()):
        return NotImplemented
    return _run(name, input, tensors, options, fused)


class _LookAlike(Accelerated):
    """A norm of a single tensor, of the form in `_normlib_form`; `_normlib_rules` has the options for the dtypes of
    input and weight that it holds for. What is here has names that no class of a model has."""

    _normlib_form: Form
    _normlib_rules: dict

    def forward(self, *args, fused=None, **kwargs):
        if len(args) == 1 and not kwargs and not is_dynamo_compiling():
            y = self._normlib_norm(args[0], fused)
            if y is not NotImplemented:
                return y
        return super().forward(*args, **kwargs) if fused is None else NotImplemented

    def _normlib_given(self, input):
        """Weight and bias as the kernels are to take them, and options; None where the form does not hold."""
        form, own = self._normlib_form, self._parameters
        weight = bias = None
        if form.weight:
            weight = own[form.weight] if form.weight in own else getattr(self, form.weight)
        if form.bias:
            bias = own[form.bias] if form.bias in own else getattr(self, form.bias)
        rule = self._normlib_rules.get((input.dtype, input.dtype if weight is None else weight.dtype))
        if rule is None or input.dim() not in form.ndims or not (form.autocast or not torch.is_autocast_enabled("cpu")):
            return None
        if bias is not None and bias.dtype is not weight.dtype:
            return None
        if form.offset == "own":
            weight = torch.add(weight, 1)
        if weight is not None and weight.dtype.itemsize < input.dtype.itemsize and "offset" not in rule:
            weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        eps = getattr(self, form.eps) if type(form.eps) is str else form.eps
        return weight, bias, {**rule, "eps": eps}


class _Rows(_LookAlike):
    """A norm over the last axes."""

    def _normlib_norm(self, input, fused):
        if (given := self._normlib_given(input)) is None:
            return NotImplemented
        weight, bias, options = given
        form, tensors = self._normlib_form, {"weight": weight}
        if weight is None and (size := getattr(self, "normalized_shape", None)) and input.shape[-len(size) :] != size:
            return NotImplemented
        if form.op == "layer_norm":
            tensors["bias"], bias = bias, None
        if (form.groups or bias is not None) and (fused or not input.is_contiguous()):
            return NotImplemented
        if form.groups:
            count = group_count(self, form.groups, input.shape[-1])
            tensors["weight"] = weight.view(count, -1)
            y = _computed(form.op, input.view(*input.shape[:-1], count, -1), tensors, options)
            return y if y is NotImplemented else y.view(input.shape)
        if form.in_order is not False and not input.is_contiguous():
            if form.in_order is None or fused or 0 in input.stride():
                return NotImplemented
            return _in_order(form.op, input, tensors, options)
        y = _computed(form.op, input, tensors, options, fused)
        return y if bias is None or y is NotImplemented else y + bias


def _in_order(name, input, tensors, options):
    """Over the last axis; the order of axes in memory stays, as elementwise operators leave it."""
    order = sorted(range(input.ndim), key=input.stride, reverse=True)
    back = sorted(range(input.ndim), key=order.__getitem__)
    y = _computed(name, input.permute(order), tensors, {**options, "axis": back[-1]})
    return y if y is NotImplemented else y.permute(back)


class _Channels(_LookAlike):
    """A norm over the channels of images, or of each channel by statistics that stay."""

    def _normlib_norm(self, input, fused):
        if (given := self._normlib_given(input)) is None:
            return NotImplemented
        weight, bias, options = given
        form, tensors = self._normlib_form, {"weight": weight}
        if not (input.is_contiguous() or (input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last))):
            return NotImplemented
        if form.op == "rms_norm" and bias is not None:
            return NotImplemented
        if form.op != "rms_norm":
            tensors["bias"] = bias
        if form.op == "batch_norm":
            tensors |= {"running_mean": self.running_mean, "running_var": self.running_var}
            if any(t.dtype is not weight.dtype for t in tensors.values() if t is not None and weight is not None):
                return NotImplemented
        if not form.moved:
            return _computed(form.op, input, tensors, options, fused)
        if fused:
            return NotImplemented
        y = _computed(form.op, input.movedim(1, -1), tensors, {**options, "axis": -1})
        return y if y is NotImplemented else y.movedim(-1, 1)


class _Gated(_LookAlike):
    """The norm times an activation of a second tensor (Qwen3-Next), or of what was multiplied by that (Mamba 2); over
    groups of the channels, where the module has some."""

    takes_fused = False

    def forward(self, *args, **kwargs):
        if len(args) == 2 and not kwargs and args[1] is not None and not is_dynamo_compiling():
            y = self._normlib_gated(*args)
            if y is not NotImplemented:
                return y
        return super().forward(*args, **kwargs)

    def _normlib_norm(self, input, fused):  # without a gate
        return NotImplemented

    def _normlib_gated(self, input, gate):
        given = self._normlib_given(input)
        if given is None or gate.shape != input.shape or not input.is_contiguous() or not gate.is_cpu:
            return NotImplemented
        if gate.dtype is not input.dtype:  # which float32 takes whole
            if input.dtype is not torch.float32 or gate.dtype.itemsize > 2:
                return NotImplemented
            gate = gate.float()
        weight, _, options = given
        form, shape = self._normlib_form, input.shape
        if (count := group_count(self, form.groups, shape[-1])) > 1:
            input, gate, weight = (t.reshape(*t.shape[:-1], count, -1) for t in (input, gate, weight))
        fused = {"gate": gate, "gate_activation": form.gate, "gate_first": form.gate_first}
        y = _computed("rms_norm", input, {"weight": weight}, options, fused)
        return y if y is NotImplemented else y.view(shape)


class _SyncBatchNorm(_BatchNorm):
    """In training, where there are processes that share the batch, over all of them."""

    def forward(self, input, *, fused=None):
        if not (self.training and self._normlib_shares()):
            return super().forward(input, fused=fused)
        self._check_input_dim(input)
        return shared.batch_norm(self, input) if fused is None else NotImplemented

    def _normlib_shares(self):
        return torch.distributed.is_available() and torch.distributed.is_initialized()


class Shared(_SyncBatchNorm):
    """Also where there is one process alone, for the same bits."""

    def _normlib_shares(self):
        return True


class _Subclass:
    """A subclass of torch's norms with a forward method of its own that does the same."""

    def forward(self, *args, fused=None, **kwargs):
        if len(args) == 1 and not kwargs and not is_dynamo_compiling():
            y = super().forward(args[0], fused=fused or {})
            if y is not NotImplemented:
                return y
        return NotImplemented if fused else self._normlib_original.forward(self, *args, **kwargs)


class _Followed(_Subclass):
    """One that lets the modules inside follow: an activation."""

    takes_fused = False

    def forward(self, *args, **kwargs):
        children = [child for child in self._modules.values() if type(child) is not nn.Identity]
        if len(args) != 1 or kwargs or is_dynamo_compiling():
            return self._normlib_original.forward(self, *args, **kwargs)
        options = {}
        if len(children) == 1 and not (_hooked(children[0]) or _has_any_global_hook()):
            options = activation_of(children[0]) or {}
            if options and not _pays(options["activation"], None, args[0]):
                options = {}
        y = super(_Subclass, self).forward(args[0], fused=options)
        if y is NotImplemented:
            return self._normlib_original.forward(self, *args, **kwargs)
        for child in () if options else children:
            y = child(y)
        return y


class Lazy(Accelerated):
    """A norm that gets its size at its first call, and then the class that normlib computes with."""


_TORCH = (*REPLACED, (nn.SyncBatchNorm, "forward", _SyncBatchNorm))


@functools.cache
def mixin_of(cls, form):
    """What takes the place of the forward method of a class, or None; `form`: that of a class that is not torch's."""
    if form is not None and form.op != "torch":
        return _Gated if form.gate else _Channels if form.axis == 1 else _Rows
    found = None
    for original, method, replacement in _TORCH:
        if issubclass(cls, original) and (form is not None or getattr(cls, method) is getattr(original, method)):
            found = replacement
    if form is None:
        return found
    return type(f"_Own{found.__name__}", (_Followed if form.followed else _Subclass, found), {})


def names_of(form):
    """What the class that a form is taken by is told of it."""
    if form is None or form.op == "torch":
        return {}
    fixed = {"axis": form.axis} | ({"offset": True} if form.offset == "wide" else {})
    if form.op == "batch_norm":
        fixed = {"training": False, "momentum": 0.0, "channel_axis": 1}
    return {"_normlib_form": form, "_normlib_rules": {pair: fixed | dict(rule) for pair, rule in form.rules}}
