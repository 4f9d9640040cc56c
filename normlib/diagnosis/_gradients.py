"""Gradients against those of the model, and against the known wrong ones: statistics taken for constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._identify import distance
from ._model import FIRST, Array, Held, Norm, gather
from ._probe import Probe
from ._report import Evidence, Finding, at_worst, numbers

PLACES = 48  # how many elements of x a difference is taken for
SAME = 1e-3  # a difference that rounding in float32 does not make


def differences(
    function: Callable[[Array], Array], at: Array, dy: Array, places: Array | None = None, step: float = 2.0**-12
) -> Array:
    """The gradient of ``sum(dy * function(at))`` by central differences of fourth order (Fornberg 1988), at some
    places."""
    places = np.arange(at.size) if places is None else places
    found = np.empty(places.size)
    for n, i in enumerate(places):
        values = []
        for k in (-2, -1, 1, 2):
            other = at.copy()
            other.reshape(-1)[i] += k * step
            values.append(float((dy * function(other)).sum()))
        found[n] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return found


def gradients(probe: Probe, norm: Norm) -> list[Finding]:
    """What is wrong with the gradients of x, weight and bias, where the subject has any."""
    x, given = probe.random(1, 1), probe.given()
    dy = probe.random(0.5, 1)
    try:
        found = probe.subject.gradients(dy.copy(), x.copy(), {name: a.copy() for name, a in given.items()})
    except NotImplementedError:
        return []
    if not found:
        return []
    if found["x"].shape != x.shape:
        evidence = Evidence("x and dy of that shape", f"dx of shape {x.shape}", f"shape {found['x'].shape}")
        words = "the gradient of x has another shape"
        return [Finding("wrong_gradient", "fault", words, evidence, "return one value an element")]
    places = probe.rng.permutation(x.size)[:PLACES]
    return [*_of_x(norm, dy, x, given, found["x"], places), *_of_parameters(norm, dy, x, given, found)]


def _of_x(norm: Norm, dy: Array, x: Array, given: dict[str, Array], dx: Array, places: Array) -> list[Finding]:
    full, found = differences(lambda a: norm(a, **given), x, dy, places), dx.reshape(-1)[places]
    if distance(found, full) < SAME:
        return []
    w, b = (norm.along(given.get(name), x.ndim) for name in ("weight", "bias"))
    first = FIRST[norm.first](x, np.ones(()) if w is None else w, np.zeros(()) if b is None else b)
    mean, deviation = norm.statistics(gather(np.broadcast_to(first, x.shape), norm.labels(x.shape))[0])
    known = {
        "gradient_constants": (Held(mean, deviation), "the gradient takes the statistics for constants: dx = rstd * g",
                               "dx = rstd * (g - mean(g) - z * mean(g * z)), g = dy * weight; detach nothing"),
        "gradient_without_mean": (Held(mean=mean), "the gradient lacks the correction of the mean, mean(g)",
                                  "subtract mean(g)"),
        "gradient_without_variance": (Held(deviation=deviation),
                                      "the gradient lacks the correction of the variance, z * mean(g * z)",
                                      "subtract z * mean(g * z)"),
    }  # fmt: skip
    name, words, cure = "wrong_gradient", "the gradient of x is not that of the output", "hold it against normlib's, or finite differences"
    for candidate, (held, told, how) in known.items():
        wrong = differences(lambda a, held=held: norm(a, **given, held=held), x, dy, places)
        if distance(found, wrong) < SAME:
            name, words, cure = candidate, told, how
            break
    return [Finding(name, "fault", words, at_worst("random dy", x.reshape(-1)[places], full, found), cure)]


def _of_parameters(norm: Norm, dy: Array, x: Array, given: dict[str, Array], found: dict[str, Array]) -> list[Finding]:
    wrong = []
    for role in given.keys() & found.keys():
        got = found[role]
        full = differences(lambda a, role=role: norm(x, **{**given, role: a}), given[role], dy)
        if got.size == full.size and distance(got.reshape(-1), full) < SAME:
            continue
        rows = x.size // full.size
        name, words = f"wrong_{role}_gradient", f"the gradient of the {role} is not that of the output"
        if got.size > full.size:
            name, words = f"{role}_gradient_not_summed", f"the gradient of the {role} is not summed over the rows: it has shape {got.shape}"
        elif distance(got.reshape(-1) * rows, full) < SAME or distance(got.reshape(-1) * x.shape[0], full) < SAME:
            name, words = f"{role}_gradient_averaged", f"the gradient of the {role} is a mean over rows, not a sum"
        evidence = Evidence("random x and dy", numbers(full[:4]), numbers(got.reshape(-1)[:4]))
        cure = "dweight = sum(dy * z)" if role == "weight" else "dbias = sum(dy)"
        wrong.append(Finding(name, "fault", words, evidence, f"{cure} over all that a {role} was used for"))
    return sorted(wrong, key=lambda finding: finding.name)
