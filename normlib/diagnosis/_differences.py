"""What is wrong with a norm: each difference between the model that was found and the norm that is meant, in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ._identify import Unexplained
from ._intent import TITLES, Intent
from ._model import Array, Norm
from ._probe import Probe
from ._report import Evidence, Finding, Severity, at_worst

CLEAR = 0.01  # a difference, relative to the output, that needs no larger one beside it
USUAL_EPS = {"rms_norm": 1e-6}
PARAMETERS = ("first", "multiplies", "adds")
ROWS = ("axes", "channel_axis", "groups", "interleaved")
CENTRE = ("subtracts", "centered")


@dataclass(frozen=True)
class Difference:
    """A difference of some fields, and what it is called."""

    name: str
    fields: tuple[str, ...]
    words: str
    cure: str
    severity: Severity = "fault"


def centre(found: Norm, right: Norm) -> Iterator[Difference]:
    """Differences in what the mean is subtracted from."""
    if (found.subtracts, found.centered) == (right.subtracts, right.centered):
        return
    yield {
        (True, False, False): Difference(
            "rms_for_layer", CENTRE, "an RMSNorm where a LayerNorm is meant: the mean is not subtracted at all",
            "subtract the mean from x, and divide by the deviation of the result",
        ),
        (True, False, True): Difference(
            "mean_not_subtracted", CENTRE, "the mean is not subtracted: x itself is divided by the standard deviation",
            "divide x - mean, not x",
        ),
        (True, True, False): Difference(
            "variance_not_centered", CENTRE,
            "the mean is subtracted from x, but not in the variance: the result is divided by the root mean square of x",
            "take the variance of x - mean",
        ),
        (False, True, True): Difference(
            "layer_for_rms", CENTRE, "a LayerNorm where an RMSNorm is meant: the mean is subtracted",
            "leave the mean out: x / sqrt(mean(x^2) + eps)",
        ),
        (False, True, False): Difference(
            "mean_subtracted", CENTRE, "the mean is subtracted, which an RMSNorm does not", "divide x itself",
        ),
        (False, False, True): Difference(
            "variance_centered", CENTRE, "divided by the standard deviation, where an RMSNorm divides by the root mean square",
            "take the mean of x^2, without subtracting the mean",
        ),
    }[right.subtracts, found.subtracts, found.centered]  # fmt: skip


def rows(found: Norm, right: Norm, shape: tuple[int, ...]) -> Iterator[Difference]:
    """Differences in what shares statistics."""
    ours, theirs = right.labels(shape), found.labels(shape)
    if np.array_equal(ours, theirs):
        return
    words = f"statistics run over {over(found, shape)}, where {over(right, shape)} {'are' if len(right.axes) > 1 else 'is'} meant"
    if found.interleaved and found.groups == right.groups:
        words = f"the {found.groups} groups are interleaved: each takes every {found.groups}-th channel"
        yield Difference("interleaved_groups", ROWS, words, "let neighbouring channels form a group: reshape to "
                         "(samples, groups, channels / groups, ...)")  # fmt: skip
    elif found.groups and right.groups and found.axes == right.axes:
        words = f"{found.groups} groups where {right.groups} are meant"
        yield Difference("wrong_groups", ROWS, words, f"use {right.groups} groups")
    elif _couples(theirs) and not _couples(ours):
        cure = f"take statistics over {over(right, shape)} alone"
        yield Difference("couples_examples", ROWS, "examples are coupled, the output of one changes with its "
                         f"neighbours: {words}", cure)  # fmt: skip
    else:
        yield Difference("wrong_axis", ROWS, f"wrong axis: {words}", f"take statistics over {over(right, shape)}")


def _couples(labels: Array) -> bool:
    """Whether examples, along the first axis, share statistics."""
    return bool(np.isin(labels[0], labels[1:]).any())


def denominator(found: Norm, right: Norm, n: int) -> Iterator[Difference]:
    """Differences in what divides, eps aside."""
    if found.power == 0:
        yield Difference("no_division", ("power",), "nothing divides: the deviation of the output is that of x",
                         "divide by sqrt(variance + eps)")  # fmt: skip
    elif found.power != 1:
        words = "the root is missing: divided by the variance, not by its root"
        words = words if found.power == 2 else f"divided by the standard deviation to the power {found.power:g}"
        yield Difference("no_root", ("power",), words, "divide by sqrt(variance + eps)")
    if found.ddof == 1:
        yield Difference("unbiased_variance", ("ddof",), f"the variance is the unbiased one, divided by n - 1 = {n - 1}",
                         f"divide by n = {n}: ddof=0 in NumPy, unbiased=False or correction=0 in torch")  # fmt: skip
    elif found.ddof:
        yield Difference("sum_of_squares", ("ddof",), "divided by the root of the sum of squares, not of their mean",
                         f"divide the sum of squares by n = {n}")  # fmt: skip
    if found.scale != 1:
        yield Difference("scaled", ("scale",), f"the result is {found.scale:g} times what it should be", "leave the factor out")


def epsilon(found: Norm, right: Norm) -> Iterator[Difference]:
    """Differences in eps."""
    if found.power == 0 or (found.eps == 0 and right.eps == 0):
        return
    if found.eps == 0:
        yield Difference("no_eps", ("eps",), "there is no eps: a constant row is 0 / 0, and a tiny one is blown up",
                         f"divide by sqrt(variance + {right.eps:g})")  # fmt: skip
        return
    words = {
        "deviation": f"eps, {found.eps:g}, is added to the standard deviation, not to the variance",
        "reciprocal": f"eps, {found.eps:g}, is outside the root: it is added to 1 / sqrt(variance)",
        "floor": f"eps is a floor: the variance is not less than {found.eps:g} (the deviation {found.eps**0.5:g})",
    }
    names = {"deviation": "eps_on_deviation", "reciprocal": "eps_outside_root", "floor": "eps_as_floor"}
    if found.place != "variance":
        yield Difference(names[found.place], ("place", "eps"), words[found.place], "divide by sqrt(variance + eps)")
    if abs(found.eps - right.eps) > 0.03 * right.eps and found.place in ("variance", "deviation"):
        yield Difference("eps_value", ("eps",), f"eps is {found.eps:g}, not {right.eps:g}", f"use eps={right.eps:g}")


def parameters(found: Norm, right: Norm, given: set[str], strict: bool) -> Iterator[Difference]:
    """Differences in what is made of weight and bias; an offset that nobody spoke of is a note."""
    if found.first != "x":
        yield Difference("parameters_first", PARAMETERS, f"weight and bias come before the norm: {found.first} is normalized",
                         "normalize x, then multiply by the weight and add the bias")  # fmt: skip
        return
    if (found.multiplies, found.adds) == ("b", "w"):
        yield Difference("swapped", PARAMETERS, "weight and bias are swapped", "multiply by the weight, add the bias")
        return
    if "weight" in given and found.multiplies != right.multiplies:
        yield {
            "w": Difference("unit_offset_missing", ("multiplies",), "multiplied by w, where 1 + w is meant",
                            "multiply by 1 + w"),
            "1 + w": Difference("unit_offset", ("multiplies",), "multiplied by 1 + w, as Gemma's norms are",
                                "multiply by w; or keep it, and subtract 1 from the weights of a plain norm",
                                "fault" if strict else "note"),
            "2 + w": Difference("unit_offset_twice", ("multiplies",), "1 is added to the weight twice: multiplied by 2 + w",
                                "add 1 once: here, or where the checkpoint is converted"),
            "(1 + w)^2": Difference("weight_twice", ("multiplies",), "multiplied by 1 + w twice", "multiply once"),
            "w^2": Difference("weight_twice", ("multiplies",), "multiplied by the weight twice", "multiply once"),
            "1": Difference("weight_ignored", ("multiplies",), "the weight is not used", "multiply by it"),
            "b": Difference("bias_multiplies", ("multiplies",), "multiplied by the bias", "multiply by the weight"),
        }[found.multiplies]  # fmt: skip
    if "bias" in given and found.adds != "b":
        yield {
            "0": Difference("bias_ignored", ("adds",), "the bias is not used", "add it"),
            "w": Difference("weight_added", ("adds",), "the weight is added", "add the bias"),
            "b * factor": Difference("bias_before_weight", ("adds",), "the bias is added before the weight multiplies: (z + b) w",
                                     "multiply by the weight first: z w + b"),
            "-b": Difference("bias_subtracted", ("adds",), "the bias is subtracted", "add it"),
        }[found.adds]  # fmt: skip


def findings(probe: Probe, found: Norm, intent: Intent) -> list[Finding]:
    """The differences, each with an input that shows it: expected is the norm that was found with that one cured."""
    shape, right = probe.shape, intent.norm(found, probe.shape)
    if found.eps == 0 and intent.eps is None:
        right = replace(right, eps=USUAL_EPS.get(intent.op or "", 1e-5))
    strict = intent.told or intent.unit_offset is not None
    differences = [
        *rows(found, right, shape), *centre(found, right), *denominator(found, right, found.row_length(shape)),
        *epsilon(found, right), *parameters(found, right, set(probe.shapes), strict),
    ]  # fmt: skip
    return [_shown(probe, found, right, difference) for difference in differences]


def _shown(probe: Probe, found: Norm, right: Norm, difference: Difference) -> Finding:
    """A finding with the evidence of the input, of a few, that shows it best."""
    evidence = _neighbour(probe) if difference.name == "couples_examples" else _witness(probe, found, right, difference)
    return Finding(difference.name, difference.severity, difference.words, evidence, difference.cure)


def _witness(probe: Probe, found: Norm, right: Norm, difference: Difference) -> Evidence:
    """The first of some inputs that shows the difference, or else the one that shows most of it."""
    cured = replace(found, **{name: getattr(right, name) for name in difference.fields})
    ordinary, best, evidence = probe.random(2, 1), -1.0, None
    inputs = {"ordinary rows": ordinary, "rows near 0": ordinary * 2.0**-14, "rows of 5": np.full(probe.shape, 5.0),
              "large rows": ordinary * 2.0**14}  # fmt: skip
    if difference.name == "no_eps":
        inputs = dict(reversed(inputs.items()))
    plain = {name: np.full(s, float(name == "weight" and found.multiplies == "w")) for name, s in probe.shapes.items()}
    either = {"weight 1, bias 0": plain, "random weight and bias": probe.given()}
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
    return Finding("unexplained", "fault", error.words, Evidence(evidence.input, "a norm of x", evidence.got),
                   "no known mistake explains it: compare it with the formula step by step")  # fmt: skip


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
    fits = np.array_equal(right.labels(shape), found.labels(shape)) and found.centered == right.centered
    name = TITLES[str(intent.op)] if fits and found.subtracts == right.subtracts else "a norm"
    eps = "no eps" if found.eps == 0 else f"eps {found.eps:g}"
    eps += {"deviation": " beside the deviation", "reciprocal": " outside the root", "floor": " as a floor"}.get(found.place, "") * bool(found.eps)
    affine = [f"times {found.multiplies}"] * ("weight" in given and found.multiplies != "1")
    affine += [f"plus {found.adds}"] * ("bias" in given and found.adds != "0")
    mean = "" if found.subtracts and found.centered else ", mean not subtracted" if name == "a norm" else ""
    return f"{name} over {over(found, shape)}{mean}, {eps}" + "".join(f", {word}" for word in affine)
