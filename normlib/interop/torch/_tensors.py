"""Between tensors and arrays: the same memory on both sides."""

import numpy as np
import torch
from torch.autograd import forward_ad

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

PLAIN = (torch.Tensor, torch.nn.Parameter)
DTYPES = {torch.float64, torch.float32, torch.float16} | (set() if bfloat16 is None else {torch.bfloat16})
_BATCHES = [torch._C._dispatch_key_parse(key) for key in ("Batched", "FuncTorchBatched")]
_transforms = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_trace = torch._C._get_tracing_state


class Closed(TypeError):
    """A tensor has no values of its own: it stands for others."""


def eager(x):
    """Whether the values of `x` may be read here and now: nothing traces, transforms or intercepts the operators."""
    return (
        type(x) in PLAIN and not _modes() and not _transforms() and forward_ad._current_level < 0 and _trace() is None
    )


def transformed():
    """Whether a transform of torch.func or a forward-mode derivative is under way."""
    return _transforms() or forward_ad._current_level >= 0


def fits(x, *parameters):
    """Whether the kernels may compute with these tensors of a module (or None) here and now, as torch would: with
    parameters of the dtype of x, or float32 ones beside 16 bits."""
    if torch.compiler.is_compiling() or not eager(x):
        return False
    dtype = x.dtype
    if not (x.is_cpu and dtype in DTYPES and x.layout is torch.strided and x.numel()):
        return False
    for t in parameters:
        if t is not None and not (type(t) in PLAIN and t.is_cpu):
            return False
        if t is not None and t.dtype is not dtype and not (t.dtype is torch.float32 and dtype.itemsize == 2):
            return False
    return True


def memory_format(t):
    """What torch calls the suggested memory format of `t`, that of the results of most of its operators: channels-last
    where the strides grow from the channels over the last axis to the first (``is_channels_last_strides_2d_s4`` of
    c10/core/MemoryFormat.h), also if there are gaps.
    """
    if t.ndim not in (4, 5) or t.layout is not torch.strided:
        return torch.contiguous_format
    shape, strides = t.shape, t.stride()
    least = strides[1]
    if least == 0 or least > strides[-1]:
        return torch.contiguous_format
    for axis in (1, *range(t.ndim - 1, 1, -1), 0):
        if shape[axis] == 0 or strides[axis] < least or (axis == 0 and least == strides[1]):
            return torch.contiguous_format
        least = strides[axis] * shape[axis] if shape[axis] > 1 else strides[axis]
    return torch.channels_last if t.ndim == 4 else torch.channels_last_3d


def arranged(t, form):
    """`t` with its axes in the order of a memory format, copied only where they are in another one: gaps may stay."""
    if t.layout is not torch.strided or t.is_contiguous(memory_format=form):
        return t
    strides = [stride for n, stride in zip(t.shape, t.stride(), strict=True) if n > 1]
    if form is not torch.contiguous_format and t.shape[1] > 1:
        strides.append(strides.pop(int(t.shape[0] > 1)))
    in_order = 0 not in strides and strides == sorted(set(strides), reverse=True)
    return t if in_order else t.contiguous(memory_format=form)


def strides_of(shape, form):
    """The strides of a dense tensor in a memory format, axes of one element included, which views are judged by."""
    return torch.empty(shape, device="meta", memory_format=form).stride()


def array(op, name, t):
    """The memory of `t` as an array; None stays None."""
    if t is None:
        return None
    try:
        if t.requires_grad:
            t = t.data
        if t.dtype is torch.bfloat16 and bfloat16 is not None:
            return t.view(torch.int16).numpy().view(bfloat16)
        return t.numpy()
    except (TypeError, RuntimeError, AttributeError):
        return _resolved(op, name, t)


def _resolved(op, name, t):
    """`t` without its lazy sign or conjugate, or an error that says what is wrong with it."""
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{op}: {name} is a {type(t).__name__}, expected a torch.Tensor")
    if t.layout is not torch.strided:
        raise TypeError(f"{op}: {name} has layout {t.layout}, expected a dense tensor")
    if t.device.type != "cpu":
        raise ValueError(f"{op}: {name} is on device {t.device}, expected cpu")
    keys = torch._C._dispatch_keys(t)
    if type(t) not in PLAIN or any(keys.has(key) for key in _BATCHES):
        raise Closed(f"{op}: {name} is a {type(t).__name__} without values of its own, expected a plain tensor")
    if t.is_neg() or t.is_conj():
        return array(op, name, t.resolve_neg().resolve_conj())
    if t.dtype is torch.bfloat16:
        raise TypeError(f"{op}: {name} has dtype bfloat16, which needs the package ml_dtypes (pip install ml_dtypes)")
    words = str(t.dtype).removeprefix("torch.")
    raise TypeError(f"{op}: {name} has dtype {words}, expected float64, float32, float16 or bfloat16")


def tensor(a, dtype=None):
    """An array as a tensor over the same memory; `dtype` only matters where it is bfloat16."""
    if dtype is torch.bfloat16:
        return torch.from_numpy(a.view(np.int16)).view(dtype)
    return torch.from_numpy(a)
