"""PyTorch eager, by the functions that its modules and its autograd end in.

Where there are two entries to the same kernel (a binding that allocates, an operator with ``out``) the faster
one on this case is taken.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from normlib.bench.calls import Contender, seconds
from normlib.bench.cases import Case
from normlib.bench.peers import steps

aten = torch.ops.aten
# activation -> itself in place, and the gradient from that of its result and what it was applied to
ACTIVATIONS = {
    "relu": (torch.relu_, lambda dy, v, out: aten.threshold_backward.grad_input(dy, v, 0, grad_input=out)),
    "leaky_relu": (
        lambda v: torch._C._nn.leaky_relu_(v, 0.01),
        lambda dy, v, out: aten.leaky_relu_backward.grad_input(dy, v, 0.01, False, grad_input=out),
    ),
    "silu": (torch._C._nn.silu_, lambda dy, v, out: aten.silu_backward.grad_input(dy, v, grad_input=out)),
    "gelu": (torch._C._nn.gelu_, lambda dy, v, out: aten.gelu_backward.grad_input(dy, v, grad_input=out)),
}


class Peer:
    """PyTorch's native forward and backward operators."""

    version = torch.__version__

    def __init__(self, threads: int):
        torch.set_num_threads(threads)

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the fastest entry to the native operator."""
        if case.norm not in _MAKERS:
            return None
        with torch.inference_mode():
            if case.fused:
                return fused(case, given)
            entries, outputs = make(case, given)
            call = fastest(entries)
        return contender(call, outputs)


def make(case: Case, given: dict) -> tuple[list[functools.partial], Callable]:
    """Return the entries to the operator, the allocating one first, and what picks the outputs from its result."""
    given = {**given, "out": None if given["out"] is None else np.zeros_like(given["out"])}
    tensors = {name: tensor(value) if isinstance(value, np.ndarray) else value for name, value in given.items()}
    return _MAKERS[case.norm](case, tensors)


def contender(call: Callable, outputs: Callable) -> Contender:
    """Return what is timed, run without autograd's bookkeeping."""
    return Contender(call, lambda result: [array(part) for part in outputs(result)], torch.inference_mode)


def fastest(entries: list) -> Callable:
    """Return the entry that takes the shortest time."""
    return min(entries, key=seconds)


def fused(case: Case, given: dict, choose: Callable = fastest) -> Contender:
    """Return the steps of a fused pass one after another, as modules and their autograd take them."""

    def norm(given):
        entries, outputs = make(case, given)
        return choose(entries), outputs

    add, *activation = (lambda a, b, out: torch.add(a, b, out=out)), *ACTIVATIONS.get(case.activation, ())
    call, outputs = steps.chained(case, given, norm, (add, *activation), tensor)
    return contender(call, outputs)


def tensor(value: np.ndarray) -> torch.Tensor:
    """Return a tensor over the same memory."""
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def array(value: torch.Tensor) -> np.ndarray:
    """Return the values as NumPy has them; bfloat16 as float32."""
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


def _present(parts) -> list:
    return [part for part in parts if part is not None]


def _with_out(native, operator, arguments: tuple, case: Case, given: dict, moved) -> list:
    """Return the entries of a forward operator: allocating and, where the case has ``out``, writing to it."""
    entries = [functools.partial(native, *arguments)]
    if case.out:
        _, *statistics = native(*arguments)
        outs = {"out0": moved(given["out"])} | {f"out{i}": part for i, part in enumerate(statistics, 1)}
        if operator is aten.native_batch_norm.out:
            outs = dict(zip(("out", "save_mean", "save_invstd"), outs.values(), strict=True))
        entries.append(functools.partial(operator, *arguments, **outs))
    return entries


def _features_last(case: Case):
    """Return the ways to and from a view with the features in the last axis, as torchvision's LayerNorm2d goes."""
    if case.layout != "channel_axis":
        return (lambda t: t), (lambda t: t)
    return (lambda t: t.movedim(1, -1)), (lambda t: t.movedim(-1, 1))


def _channels_second(case: Case):
    """Return the ways to and from a view with the channels in axis 1."""
    if case.layout != "channels_last":
        return (lambda t: t), (lambda t: t)
    return (lambda t: t.movedim(-1, 1)), (lambda t: t.movedim(1, -1))


def _layer_norm(case: Case, given: dict) -> tuple[list, Any]:
    moved, back = _features_last(case)
    x, weight, bias = moved(given["x"]), given["weight"], given["bias"]
    forward = (x, [x.shape[-1]], weight, bias, case.eps)
    if not case.backward:
        entries = _with_out(torch.native_layer_norm, aten.native_layer_norm.out, forward, case, given, moved)
        return entries, lambda result: [back(result[0])]
    _, mean, rstd = torch.native_layer_norm(*forward)
    mask = [True, weight is not None, bias is not None]
    arguments = (moved(given["dy"]), x, [x.shape[-1]], mean, rstd, weight, bias, mask)
    entry = functools.partial(aten.native_layer_norm_backward.default, *arguments)
    return [entry], lambda result: [back(result[0]), *_present(result[1:])]


def _rms_norm(case: Case, given: dict) -> tuple[list, Any]:
    moved, back = _features_last(case)
    x, weight = moved(given["x"]), given["weight"]
    forward = (x, [x.shape[-1]], weight, case.eps)
    if not case.backward:
        entries = [functools.partial(torch.rms_norm, *forward), functools.partial(torch._fused_rms_norm, *forward)]
        return entries, lambda result: [back(result[0] if isinstance(result, tuple) else result)]
    # There is no native backward on the CPU: the formula in tensors, or autograd through the forward.
    _, rstd = torch._fused_rms_norm(*forward)
    dy = moved(given["dy"])
    entries = [functools.partial(_rms_norm_backward, dy, x, weight, rstd)]
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [part.detach().clone().requires_grad_() for part in _present([x, weight])]
        y = torch.rms_norm(leaves[0], [x.shape[-1]], leaves[1] if len(leaves) > 1 else None, case.eps)
    entries.append(functools.partial(torch.autograd.grad, y, leaves, dy, retain_graph=True))
    return entries, lambda result: [back(result[0]), *result[1:]]


def _rms_norm_backward(dy, x, weight, rstd):
    z = x * rstd
    g = dy if weight is None else dy * weight
    dx = (rstd * (g - z * (g * z).mean(-1, keepdim=True))).to(x.dtype)
    if weight is None:
        return (dx,)
    return dx, (dy * z).reshape(-1, x.shape[-1]).sum(0).to(weight.dtype)


def _batch_norm(case: Case, given: dict) -> tuple[list, Any]:
    moved, back = _channels_second(case)
    x, weight, bias = moved(given["x"]), given["weight"], given["bias"]
    running = given["running_mean"].clone(), given["running_var"].clone()
    forward = (x, weight, bias, *running, case.training, 0.1, case.eps)
    if not case.backward:
        entries = _with_out(torch.native_batch_norm, aten.native_batch_norm.out, forward, case, given, moved)
        return entries, lambda result: [back(result[0])]
    _, mean, rstd = torch.native_batch_norm(*forward)
    mask = [True, weight is not None, bias is not None]
    if not case.training:
        running = given["running_mean"], given["running_var"]
    entry = functools.partial(
        aten.native_batch_norm_backward.default,
        moved(given["dy"]),
        x,
        weight,
        *running,
        mean,
        rstd,
        case.training,
        case.eps,
        mask,
    )
    return [entry], lambda result: [back(result[0]), *_present(result[1:])]


def _group_norm(case: Case, given: dict) -> tuple[list, Any]:
    moved, back = _channels_second(case)
    if case.layout == "channels_last" and len(case.shape) == 3:  # taken as an image of one row
        moved, back = (lambda t: t.movedim(-1, 1).unsqueeze(2)), (lambda t: t.squeeze(2).movedim(1, -1))
    x, weight, bias = moved(given["x"]), given["weight"], given["bias"]
    sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), case.groups)
    if not case.backward:
        entries = _with_out(
            torch.native_group_norm, aten.native_group_norm.out, (x, weight, bias, *sizes, case.eps), case, given, moved
        )
        return entries, lambda result: [back(result[0])]
    _, mean, rstd = torch.native_group_norm(x, weight, bias, *sizes, case.eps)
    entry = functools.partial(
        aten.native_group_norm_backward.default,
        moved(given["dy"]),
        x,
        mean,
        rstd,
        weight,
        *sizes,
        [True, weight is not None, bias is not None],
    )
    return [entry], lambda result: [back(result[0]), *_present(result[1:])]


def _instance_norm(case: Case, given: dict) -> tuple[list, Any]:
    # torch.instance_norm is BatchNorm of one sample with N * C channels; GroupNorm of C groups is often the faster.
    moved, back = _channels_second(case)
    x, weight, bias = moved(given["x"]), given["weight"], given["bias"]
    samples, channels = x.shape[:2]
    sizes = (samples, channels, x[0, 0].numel(), channels)
    grouped = (x, weight, bias, *sizes, case.eps)
    if not case.backward:
        entries = _with_out(torch.native_group_norm, aten.native_group_norm.out, grouped, case, given, moved)
        entries.append(functools.partial(torch.instance_norm, x, weight, bias, None, None, True, 0.1, case.eps, False))
        return entries, lambda result: [back(result[0] if isinstance(result, tuple) else result)]
    dy, mask = moved(given["dy"]), [True, weight is not None, weight is not None]
    _, mean, rstd = torch.native_group_norm(*grouped)
    entries = [functools.partial(aten.native_group_norm_backward.default, dy, x, mean, rstd, weight, *sizes, mask)]
    single = x.reshape(1, samples * channels, *x.shape[2:])
    repeated = [None if t is None else t.repeat(samples) for t in (weight, bias)]
    _, mean, rstd = torch.native_batch_norm(single, *repeated, None, None, True, 0.1, case.eps)
    saved = (single, repeated[0], None, None, mean, rstd, True, case.eps, mask)
    entries.append(functools.partial(_instance_norm_backward, dy, saved))
    return entries, lambda result: [back(result[0]), *_present(result[1:])]


def _instance_norm_backward(dy, saved):
    """Do what autograd does, with what it saved: the backward pass of that BatchNorm."""
    dx, *gradients = aten.native_batch_norm_backward.default(dy.reshape(saved[0].shape), *saved)
    return (dx.view(dy.shape), *(part.view(dy.shape[:2]).sum(0) for part in gradients if part is not None))


_MAKERS = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
