"""Errors of a norm in float32, beside those of normlib and torch on the same rows."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..testing._reference import ulp_error
from ._identify import pattern
from ._intent import Intent
from ._model import Array, Norm, gather, round_to
from ._probe import Probe

RATIOS = (0, 1000)  # mean/std


def accuracy(probe: Probe, norm: Norm, intent: Intent) -> dict[str, tuple[float, float]]:
    """The largest errors in ulps of the largest output of a row, at mean/std of 0 and 1000, by library."""
    given = probe.given()
    peers: dict[str, Callable[[Array], Array]] = {"itself": lambda x: probe(x, given, "float32")}
    peers["normlib"] = functools.partial(_ours, norm, intent, given)
    if "torch" in sys.modules and (theirs := _torch(norm, intent, given, probe.shape)):
        peers["torch"] = theirs
    found: dict[str, list[float]] = {name: [] for name in peers}
    labels = norm.labels(probe.shape)
    for ratio in RATIOS:
        _, back, _ = pattern(probe, norm)
        template = gather(np.zeros(probe.shape), labels)[0]
        x = round_to(back(np.asarray(probe.rng.normal(ratio, 1, template.shape))), "float32")
        expected = gather(norm(x, **given), labels)[0]
        for name, function in peers.items():
            y = gather(np.asarray(function(x), dtype=np.float64), labels)[0].astype(np.float32)
            found[name].append(ulp_error(y, expected, axis=1))
    return {name: (errors[0], errors[1]) for name, errors in found.items()}


def _effective(norm: Norm, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters as a plain norm takes them."""
    offset = norm.multiplies == "1 + w"
    return {name: (a + offset * (name == "weight")).astype(np.float32) for name, a in given.items()}


def _ours(norm: Norm, intent: Intent, given: dict[str, Any], x: Array) -> Array:
    parameters, x = _effective(norm, given), x.astype(np.float32)
    options: dict[str, Any] = {"eps": norm.eps}
    if intent.op in ("layer_norm", "rms_norm"):
        options["axis"] = norm.axes
        if intent.op == "rms_norm":
            bias = parameters.pop("bias", None)
            y = ops.rms_norm(x, **parameters, **options)
            return y if bias is None else y + bias
        sizes = tuple(x.shape[axis] for axis in norm.axes)
        parameters = {
            name: a if a.shape == sizes else _spread(norm, a, x.shape, sizes) for name, a in parameters.items()
        }
    else:
        options["channel_axis"] = norm.parameter_axes[0] if norm.parameter_axes else 1
        if intent.op == "group_norm":
            options["num_groups"] = norm.groups or (1 if not norm.channel_axis else x.shape[norm.channel_axis])
        if intent.op == "batch_norm":
            options["training"] = True
    with np.errstate(all="ignore"):
        return np.asarray(getattr(ops, str(intent.op))(x, **parameters, **options))


def _spread(norm: Norm, parameter: Array, shape: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
    """A parameter over the axes of the statistics."""
    along = norm.along(parameter, len(shape))
    assert along is not None
    kept = tuple(axis for axis in range(len(shape)) if axis not in norm.axes)
    return np.broadcast_to(along.squeeze(kept), sizes).astype(np.float32)


def _torch(
    norm: Norm, intent: Intent, given: dict[str, Any], shape: tuple[int, ...]
) -> Callable[[Array], Array] | None:
    """The same by torch, where it has the norm."""
    import torch
    from torch.nn import functional as F

    w, b = (
        None if (a := _effective(norm, given).get(name)) is None else torch.from_numpy(a) for name in ("weight", "bias")
    )
    trailing = norm.axes == tuple(range(len(shape) - len(norm.axes), len(shape)))
    sizes = [shape[axis] for axis in norm.axes]
    calls: dict[str, Callable[[Any], Any]] = {}
    if trailing:
        calls["layer_norm"] = lambda x: F.layer_norm(x, sizes, w, b, norm.eps)
        if b is None:
            calls["rms_norm"] = lambda x: F.rms_norm(x, sizes, w, norm.eps)
    if norm.parameter_axes in ((1,), ()):
        calls["batch_norm"] = lambda x: F.batch_norm(x, None, None, w, b, True, 0.1, norm.eps)
        calls["group_norm"] = lambda x: F.group_norm(x, norm.groups or 1, w, b, norm.eps)
        calls["instance_norm"] = lambda x: F.instance_norm(x, None, None, w, b, True, 0.1, norm.eps)
    call = calls.get(str(intent.op))
    if call is None:
        return None

    def run(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(call(torch.from_numpy(x.astype(np.float32))).numpy())

    return run
