"""What is wrong with a norm: each difference between the model that was found and the norm that is meant."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ._catalogue import Severity
from ._identify import Unexplained, rounded
from ._identify import epsilon as identified_eps
from ._intent import TITLES, Intent
from ._model import Array, Norm
from ._probe import Probe
from ._report import Evidence, Finding, at_worst, finding

TINY = 1e-13  # an eps that nobody writes down
CLEAR = 0.01  # a difference, relative to the output, that needs no larger one beside it
USUAL_EPS = {"rms_norm": 1e-6}


@dataclass(frozen=True)
class Difference:
    """A finding by name, the fields of the model in which it lies, and what its words speak of."""

    name: str
    fields: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    severity: Severity | None = None


def rows(found: Norm, right: Norm, shape: tuple[int, ...]) -> Iterator[Difference]:
    """Differences in what shares statistics."""
    ours, theirs = right.labels(shape), found.labels(shape)
    if np.array_equal(ours, theirs):
        return
    fields = ("axes", "channel_axis", "groups", "interleaved")
    if found.interleaved and found.groups == right.groups:
        yield Difference("interleaved_groups", fields, {"n": found.groups})
    elif found.groups and right.groups and found.axes == right.axes:
        yield Difference("wrong_groups", fields, {"n": found.groups, "right": right.groups})
    else:
        name = "couples_examples" if _couples(theirs) and not _couples(ours) else "wrong_axis"
        yield Difference(name, fields, {"found": over(found, shape), "right": over(right, shape)})


def _couples(labels: Array) -> bool:
    """Whether examples, along the first axis, share statistics."""
    return bool(np.isin(labels[0], labels[1:]).any())


# Where the mean is subtracted, from x and in the variance: of a layer norm and of an RMS norm.
CENTRE = {
    (True, False, False): "rms_for_layer",
    (True, False, True): "mean_not_subtracted",
    (True, True, False): "variance_not_centered",
    (False, True, True): "layer_for_rms",
    (False, True, False): "mean_subtracted",
    (False, False, True): "variance_centered",
}


def centre(found: Norm, right: Norm) -> Iterator[Difference]:
    """Differences in what the mean is subtracted from."""
    if name := CENTRE.get((right.subtracts, found.subtracts, found.centered)):
        yield Difference(name, ("subtracts", "centered"))


def denominator(found: Norm, n: int) -> Iterator[Difference]:
    """Differences in what divides, eps aside."""
    if found.power == 0:
        yield Difference("no_division", ("power",))
    elif found.power != 1:
        yield Difference("no_root", ("power",), {"power": found.power})
    if found.ddof:
        name = "unbiased_variance" if found.ddof == 1 else "sum_of_squares"
        yield Difference(name, ("ddof",), {"n": n, "less": n - 1})
    if found.scale != 1:
        yield Difference("scaled", ("scale",), {"scale": found.scale})


PLACES = {"deviation": "eps_on_deviation", "reciprocal": "eps_outside_root", "floor": "eps_as_floor"}


def epsilon(found: Norm, right: Norm) -> Iterator[Difference]:
    """Differences in eps."""
    values = {"eps": found.eps, "right": right.eps}
    if found.power == 0 or found.eps == right.eps == 0:
        return
    if found.eps == 0:
        yield Difference("no_eps", ("eps",), values)
        return
    if found.place in PLACES:
        yield Difference(PLACES[found.place], ("place", "eps"), values)
    if found.place in ("variance", "deviation") and abs(found.eps - right.eps) > 0.03 * right.eps:
        yield Difference("eps_value", ("eps",), values)


MULTIPLIES = {
    "w": "unit_offset_missing",
    "1 + w": "unit_offset",
    "2 + w": "unit_offset_twice",
    "(1 + w)^2": "weight_twice",
    "w^2": "weight_twice",
    "1": "weight_ignored",
    "b": "bias_multiplies",
}
ADDS = {"0": "bias_ignored", "w": "weight_added", "b * factor": "bias_before_weight", "-b": "bias_subtracted"}


def parameters(found: Norm, right: Norm, given: set[str], strict: bool) -> Iterator[Difference]:
    """Differences in what is made of weight and bias; an offset that nobody spoke of is a note."""
    if found.first != "x":
        yield Difference("parameters_first", ("first", "multiplies", "adds"), {"first": found.first})
        return
    if (found.multiplies, found.adds) == ("b", "w"):
        yield Difference("swapped", ("multiplies", "adds"))
        return
    if "weight" in given and found.multiplies != right.multiplies:
        name = MULTIPLIES[found.multiplies]
        severity: Severity | None = "note" if name == "unit_offset" and not strict else None
        yield Difference(name, ("multiplies",), {"factor": found.multiplies}, severity)
    if "bias" in given and found.adds in ADDS:
        yield Difference(ADDS[found.adds], ("adds",))


def findings(probe: Probe, found: Norm, intent: Intent) -> list[Finding]:
    """The differences, each with an input that shows it: expected is the norm that was found with that one cured."""
    shape, right = probe.shape, intent.norm(found, probe.shape)
    if found.eps == 0 and intent.eps is None:
        right = replace(right, eps=USUAL_EPS.get(str(intent.op), 1e-5))
    strict = intent.told or intent.unit_offset is not None
    differences = [
        *rows(found, right, shape),
        *centre(found, right),
        *denominator(found, found.row_length(shape)),
        *epsilon(found, right),
        *parameters(found, right, set(probe.shapes), strict),
    ]
    return [_shown(probe, found, right, difference) for difference in differences]


def of_dtype(probe: Probe, found: Norm) -> list[Finding]:
    """An eps that is hardly there may be that of the dtype: torch's RMSNorm has such a one by default."""
    if not 0 < found.eps < TINY:
        return []
    other = rounded(identified_eps(probe, found, "float32").eps)
    if abs(other - found.eps) < 0.03 * found.eps:
        return []
    x, given = probe.random(0, 2.0**-14), probe.given()
    evidence = at_worst("float32 rows near 0", x, found(x, **given), probe(x, given, "float32"))
    return [finding("eps_of_dtype", evidence, eps=found.eps, other=other)]


def _shown(probe: Probe, found: Norm, right: Norm, difference: Difference) -> Finding:
    name = difference.name
    evidence = _neighbour(probe) if name == "couples_examples" else _witness(probe, found, right, difference)
    return finding(name, evidence, difference.severity, **difference.values)


def _witness(probe: Probe, found: Norm, right: Norm, difference: Difference) -> Evidence:
    """The first of some inputs that shows the difference, or else the one that shows most of it."""
    cured = replace(found, **{name: getattr(right, name) for name in difference.fields})
    ordinary, best, evidence = probe.random(2, 1), -1.0, None
    inputs = {"ordinary rows": ordinary, "rows near 0": ordinary * 2.0**-14, "rows of 5": np.full(probe.shape, 5.0),
              "large rows": ordinary * 2.0**14}  # fmt: skip
    if difference.name == "no_eps":
        inputs = dict(reversed(inputs.items()))
    plain, drawn = probe.plain(found), probe.given()
    either = {", ".join(f"{name} {a.flat[0]:g}" for name, a in plain.items()): plain, "random weight and bias": drawn}
    for (parameters, given), (words, x) in itertools.product(either.items(), inputs.items()):
        got, expected = probe(x, given), cured(x, **given)
        with np.errstate(all="ignore"):
            error = float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
        error = error if np.isfinite(error) else 1.0
        if error > best and np.isfinite(expected).all() and expected.any():
            told = f"{words}, {parameters}" if probe.shapes else words
            best, evidence = error, at_worst(told, x, expected, got)
        if best > CLEAR:
            break
    assert evidence is not None
    return evidence


def _neighbour(probe: Probe) -> Evidence:
    """An example twice, beside another neighbour."""
    x = probe.random(0, 1)
    other = x.copy()
    other[1:] = probe.random(3, 2)[1:]
    y, changed = probe(x), probe(other)
    seen = at_worst("", x[0], y[0], changed[0])
    return Evidence(f"the first example as before, others beside it{seen.input}", seen.expected, seen.got)


def unexplained(error: Unexplained) -> Finding:
    """A subject that no model fits."""
    evidence = at_worst("ordinary rows", error.x, np.zeros_like(error.y), error.y)
    return finding(error.name, Evidence(evidence.input, "a norm of x", evidence.got), words=error.words)


# -- words ----


def over(norm: Norm, shape: tuple[int, ...]) -> str:
    """The axes of its statistics."""
    axes, last = norm.axes, len(shape) - 1
    if not axes and not norm.groups:
        return "nothing"
    words = "the last axis" if axes == (last,) else f"axis {axes[0]}" if len(axes) == 1 else f"axes {axes}"
    words = "all axes" if axes == tuple(range(last + 1)) and last else words
    if not norm.groups:
        return words
    groups = f"{norm.groups} {'interleaved ' * norm.interleaved}groups of axis {norm.channel_axis}"
    return f"{words} and {groups}" if axes else groups


def describe(found: Norm, intent: Intent, shape: tuple[int, ...], given: set[str]) -> str:
    """What was found, in one line."""
    right = intent.norm(found, shape)
    fits = np.array_equal(right.labels(shape), found.labels(shape))
    fits = fits and (found.subtracts, found.centered) == (right.subtracts, right.centered)
    parts = [f"{TITLES[str(intent.op)] if fits else 'a norm'} over {over(found, shape)}"]
    if found.power:
        parts.append(f"eps {found.eps:g}{BESIDE[found.place]}" if found.eps else "no eps")
    if "weight" in given and found.multiplies != "1":
        parts.append(f"times {found.multiplies}")
    if "bias" in given and found.adds != "0":
        parts.append(f"plus {found.adds}")
    return ", ".join(parts)


BESIDE = {"variance": "", "deviation": " on the deviation", "reciprocal": " outside the root", "floor": " as a floor"}
