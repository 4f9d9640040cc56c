"""JAX under jit on the CPU: the formulas of the passes, as a JAX user writes them, fused by XLA.

The backward pass takes the saved statistics, as ours does, and computes again what an activation was applied to. 16-bit
inputs are computed in float32. Where ours is given ``out``, the outputs of the call before are donated, so that XLA
writes the next ones to the same memory.
"""

import functools
import os
import sys

import numpy as np

from normlib.bench.calls import Contender
from normlib.bench.cases import Case
from normlib.ops import OPS


class Peer:
    """jax.jit on the CPU device."""

    def __init__(self, threads: int):
        if "jax" not in sys.modules:  # XLA reads its number of threads once
            os.environ["NPROC"] = str(threads)
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        jax.config.update("jax_enable_x64", True)
        self.version = jax.__version__

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the jitted pass."""
        if case.norm not in ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"):
            return None
        import jax
        import jax.numpy as jnp

        names = ["x", "weight", "bias"]
        if case.norm == "batch_norm" and not case.training:
            names += ["running_mean", "running_var"]
        if case.backward:
            names += ["dy", "mean", "rstd"]
        names += [name for name in case.reads if name not in names]
        wide = np.float64 if case.dtype == "float64" else np.float32
        inputs = {name: given[name] for name in names if given.get(name) is not None}
        for name in inputs.keys() & {"mean", "rstd"}:
            inputs[name] = inputs[name].astype(wide)
        placed = {name: jnp.array(value) for name, value in inputs.items()}
        formula = functools.partial(_backward if case.backward else _forward, jnp, case, wide)

        def call():
            return jax.block_until_ready(function(placed))

        def call_with_out():
            nonlocal before
            result = jax.block_until_ready(function(placed, before))
            before = result[: len(before)]
            return result

        if case.out:
            function = jax.jit(lambda a, _: formula(a), donate_argnums=1, keep_unused=True)
            written = 1 if case.backward else case.writes
            before = tuple(jnp.zeros_like(placed["x"]) for _ in range(written))
        else:
            function = jax.jit(formula)
        return Contender(call_with_out if case.out else call, lambda result: [np.asarray(part) for part in result])


def _split(jnp, case: Case, a):
    """Return the view in which every reduced axis is an axis of its own, and those axes."""
    if case.norm in ("layer_norm", "rms_norm"):
        return a, ((1,) if case.layout == "channel_axis" else (-1,))
    channel = a.ndim - 1 if case.layout == "channels_last" else 1
    spatial = tuple(i for i in range(1, a.ndim) if i != channel)
    if case.norm == "batch_norm":
        return a, (0, *spatial)
    if case.norm == "instance_norm":
        return a, spatial
    grouped = a.reshape(*a.shape[:channel], case.groups, -1, *a.shape[channel + 1 :])
    return grouped, tuple(i for i in range(1, grouped.ndim) if i != channel)


def _parameter(case: Case, x, value, wide):
    """Return a parameter (or a statistic of channels) in the shape that broadcasts against x."""
    if value is None:
        return None
    axis = -1
    if case.layout == "channel_axis" or (OPS[case.norm].kind == "channel" and case.layout != "channels_last"):
        axis = 1
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.astype(wide).reshape(shape)


def _normalized(jnp, case: Case, wide, a, mean, rstd):
    x = a["x"].astype(wide)
    split, axes = _split(jnp, case, x)
    if mean is None and case.norm != "rms_norm":
        mean = split.mean(axes, keepdims=True)
    centered = split if mean is None else split - mean
    if rstd is None:
        rstd = 1 / jnp.sqrt((centered * centered).mean(axes, keepdims=True) + case.eps)
    return centered * rstd, rstd, axes


def _given_statistics(jnp, case: Case, wide, a):
    """Return mean and rstd, shaped to broadcast against the split view, where they are inputs."""
    if case.norm == "batch_norm" and not case.training:
        mean, var = (_parameter(case, a["x"], a[name], wide) for name in ("running_mean", "running_var"))
        return mean, 1 / jnp.sqrt(var + case.eps)
    if "rstd" not in a:
        return None, None
    split, axes = _split(jnp, case, a["x"])
    kept = [1 if i in axes or i - split.ndim in axes else n for i, n in enumerate(split.shape)]
    if case.norm == "group_norm":  # channels within a group are reduced as well
        group = split.ndim - 2 if case.layout == "channels_last" else 1
        kept = [n if i in (0, group) else 1 for i, n in enumerate(split.shape)]
    return tuple(None if a.get(name) is None else a[name].reshape(kept) for name in ("mean", "rstd"))


def _activation(case: Case):
    """Return the activation behind the norm."""
    from jax import nn

    return {
        "relu": nn.relu,
        "leaky_relu": nn.leaky_relu,
        "silu": nn.silu,
        "gelu": functools.partial(nn.gelu, approximate=False),
        None: lambda v: v,
    }[case.activation]


def _forward(jnp, case: Case, wide, a):
    sums = ()
    if "residual" in a:
        a = a | {"x": a["x"] + a["residual"]}
        sums = (a["x"],)
    mean, rstd = _given_statistics(jnp, case, wide, a)
    z, _, _ = _normalized(jnp, case, wide, a, mean, rstd)
    y = _activation(case)(_affine(case, wide, a, z))
    return (y.astype(a["x"].dtype), *sums)


def _affine(case: Case, wide, a, z):
    x = a["x"]
    y = z.reshape(x.shape)
    weight, bias = (_parameter(case, x, a.get(name), wide) for name in ("weight", "bias"))
    if weight is not None:
        y = y * weight
    if bias is not None and case.norm != "rms_norm":
        y = y + bias
    return y + a["add"].astype(wide) if "add" in a else y


def _backward(jnp, case: Case, wide, a):
    x, dy = a["x"], a["dy"].astype(wide)
    mean, rstd = _given_statistics(jnp, case, wide, a)
    z, rstd, axes = _normalized(jnp, case, wide, a, mean, rstd)
    weight = _parameter(case, x, a.get("weight"), wide)
    if case.activation:
        import jax

        (dy,) = jax.vjp(_activation(case), _affine(case, wide, a, z))[1](dy)
    g = (dy if weight is None else dy * weight).reshape(z.shape)
    dx = g
    if case.training:
        dx = dx - z * (g * z).mean(axes, keepdims=True)
        if case.norm != "rms_norm":
            dx = dx - g.mean(axes, keepdims=True)
    dx = (dx * rstd).reshape(x.shape)
    results = [(dx + a["dsum"].astype(wide) if "dsum" in a else dx).astype(x.dtype)]
    if weight is not None:
        others = tuple(i for i, n in enumerate(weight.shape) if n == 1)
        results.append((dy * z.reshape(x.shape)).sum(others).astype(x.dtype))
        if case.norm != "rms_norm":
            results.append(dy.sum(others).astype(x.dtype))
    if "add" in a:
        results.append(dy.astype(x.dtype))
    return tuple(results)
