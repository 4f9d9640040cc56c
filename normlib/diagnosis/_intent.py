"""What a subject is meant to be: as its user says, as its name says, or else the right norm that is nearest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ._model import Norm
from ._subject import Subject

OPS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
OPTIONS = ("axis", "channel_axis", "num_groups", "eps", "unit_offset")
TITLES = dict(zip(OPS, ("LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "InstanceNorm"), strict=True))
# What a name tells, without its underscores and capitals; the first that is found counts.
WORDS = {
    "instance_?norm": "instance_norm",
    "group_?norm": "group_norm",
    "batch_?norm": "batch_norm",
    "rms_?norm|simplified_?layer_?norm": "rms_norm",
    "layer_?norm": "layer_norm",
}


@dataclass(frozen=True)
class Intent:
    """The norm that is meant, as far as it is known; `told` says whether by the user, not by a name alone."""

    op: str | None = None
    axis: tuple[int, ...] | None = None
    channel_axis: int | None = None
    num_groups: int | None = None
    eps: float | None = None
    unit_offset: bool | None = None
    told: bool = False

    def parameter_axes(self, shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
        """The axes of x along which weight and bias should lie."""
        ndim = len(shape)
        if self.op in ("layer_norm", "rms_norm", None):
            return tuple(sorted(axis % ndim for axis in self.axis)) if self.axis else (ndim - 1,)
        last = channels_last and self.channel_axis is None
        return ((-1 if last else 1 if self.channel_axis is None else self.channel_axis) % ndim,)

    def settled(self, found: Norm, shape: tuple[int, ...]) -> Intent:
        """With a norm where none is spoken of: the one that is nearest to what was found."""
        if self.op is not None:
            return self
        op = nearest(found, shape)
        apart = (
            op in ("layer_norm", "rms_norm") and 0 not in found.axes
        )  # no right norm but batch norm couples examples
        return replace(self, op=op, axis=found.axes if apart and self.axis is None else self.axis)

    def norm(self, found: Norm, shape: tuple[int, ...]) -> Norm:
        """The right norm: of the kind that is meant, and else as what was found."""
        op = self.op
        rms = op == "rms_norm"
        right = Norm(
            (), subtracts=not rms, centered=not rms, place="variance", parameter_axes=found.parameter_axes,
            eps=found.eps if self.eps is None else self.eps,
            multiplies="1 + w" if self.unit_offset else "w",
        )  # fmt: skip
        ndim = len(shape)
        if op in ("layer_norm", "rms_norm"):
            axes = (
                tuple(sorted(axis % ndim for axis in self.axis)) if self.axis else found.parameter_axes or (ndim - 1,)
            )
            return replace(right, axes=axes)
        channel = found.parameter_axes[0] if self.channel_axis is None and found.parameter_axes else self.channel_axis
        channel = (1 if channel is None else channel) % ndim
        if op == "batch_norm":
            return replace(right, axes=tuple(axis for axis in range(ndim) if axis != channel))
        sample = 0 if channel else 1
        places = tuple(axis for axis in range(ndim) if axis not in (sample, channel))
        if op == "instance_norm":
            return replace(right, axes=self.axis or places)
        groups = self.num_groups or found.groups or 1
        return replace(right, axes=places, channel_axis=channel, groups=groups)


def nearest(found: Norm, shape: tuple[int, ...]) -> str:
    """The right norm whose rows are most like those found."""
    kept = [axis for axis in range(len(shape)) if axis not in found.axes]
    if found.groups:
        return "group_norm"
    if kept == [found.parameter_axes[0] if found.parameter_axes else 1] and kept[0] and 0 in found.axes:
        return "batch_norm"
    if len(kept) == 2 and kept[0] == 0 and found.parameter_axes == (kept[1],):
        return "instance_norm"
    return "layer_norm" if found.subtracts or found.centered else "rms_norm"


def of_name(name: str) -> str | None:
    """The norm that a name speaks of."""
    return next((op for words, op in WORDS.items() if re.search(words, name, re.IGNORECASE)), None)


def intent_of(subject: Subject, like: str | None, options: Mapping[str, Any]) -> Intent:
    """What is meant, by the user's words, then by the subject's own."""
    if like is not None and like not in OPS:
        raise ValueError(f"diagnose: like is {like!r}, expected one of {', '.join(OPS)}")
    given = dict(options)
    if unknown := given.keys() - set(OPTIONS):
        raise TypeError(f"diagnose: unknown argument {min(unknown)!r}, expected of {', '.join(OPTIONS)}")
    if isinstance(given.get("axis"), int):
        given["axis"] = (given["axis"],)
    if given.get("axis") is not None:
        given["axis"] = tuple(given["axis"])
    hints = subject.hints
    if given.get("eps") is None:
        given["eps"] = hints.get("eps")
    if given.get("unit_offset") is None:
        given["unit_offset"] = _unit_offset(subject)
    if given.get("num_groups") is None:
        given["num_groups"] = hints.get("num_groups") if (hints.get("num_groups") or 0) > 0 else None
    return Intent(op=like or of_name(subject.label), told=like is not None, **given)


def _unit_offset(subject: Subject) -> bool | None:
    """Whether the weight counts from 1: so a module starts with zeros. None where nothing tells."""
    if "unit_offset" in subject.hints:
        return bool(subject.hints["unit_offset"])
    if re.search("1p|zero_?centered|gemma", subject.label, re.IGNORECASE):
        return True
    weight = subject.initial.get("weight")
    if weight is None or not (weight == weight.flat[0]).all() or weight.flat[0] not in (0, 1):
        return None
    return not weight.any()
