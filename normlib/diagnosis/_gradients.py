"""Gradients against those of the model, and against the known wrong ones: statistics taken for constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ._identify import distance
from ._model import FIRST, Array, Held, Norm, gather
from ._probe import NoAnswer, Probe
from ._report import Evidence, Finding, at_worst, finding, numbers

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
        found = probe.gradients(dy, x, given)
    except NoAnswer as error:
        return [finding("no_gradient", Evidence("random x and dy", "gradients", str(error)))]
    if not found:
        return []
    if found["x"].shape != x.shape:
        evidence = Evidence("x and dy of that shape", f"dx of shape {x.shape}", f"shape {found['x'].shape}")
        return [finding("wrong_gradient", evidence)]
    places = probe.rng.permutation(x.size)[:PLACES]
    return [*_of_x(norm, dy, x, given, found["x"], places), *_of_parameters(norm, dy, x, given, found, places)]


def _of_x(norm: Norm, dy: Array, x: Array, given: dict[str, Any], dx: Array, places: Array) -> list[Finding]:
    full, found = differences(lambda a: norm(a, **given), x, dy, places), dx.reshape(-1)[places]
    if distance(found, full) < SAME:
        return []
    w, b = (norm.along(given.get(name), x.ndim) for name in ("weight", "bias"))
    first = FIRST[norm.first](x, np.ones(()) if w is None else w, np.zeros(()) if b is None else b)
    mean, deviation = norm.statistics(gather(np.broadcast_to(first, x.shape), norm.labels(x.shape))[0])
    known = {
        "gradient_constants": Held(mean, deviation),
        "gradient_without_mean": Held(mean=mean),
        "gradient_without_variance": Held(deviation=deviation),
    }
    name = "wrong_gradient"
    for candidate, held in known.items():
        wrong = differences(partial(norm, **given, held=held), x, dy, places)
        if distance(found, wrong) < SAME:
            name = candidate
            break
    return [finding(name, at_worst("random dy", x.reshape(-1)[places], full, found))]


def _with(norm: Norm, x: Array, role: str, others: dict[str, Any], value: Array) -> Array:
    return norm(x, **{**others, role: value})


def _of_parameters(
    norm: Norm, dy: Array, x: Array, given: dict[str, Any], found: dict[str, Any], chosen: Array
) -> list[Finding]:
    wrong = []
    for role in sorted(given.keys() & found.keys()):
        size, got = given[role].size, found[role].reshape(-1)
        places = np.unique(chosen % size)
        others = {name: value for name, value in given.items() if name != role}
        full = differences(partial(_with, norm, x, role, others), given[role], dy, places)
        name = "wrong_parameter_gradient"
        if got.size > size:
            name = "gradient_not_summed"
        elif got.size == size:
            got = got[places]
            if distance(got, full) < SAME:
                continue
            if any(distance(got * count, full) < SAME for count in (x.size // size, x.shape[0])):
                name = "gradient_averaged"
        evidence = Evidence("random x and dy", numbers(full[:4]), numbers(got[:4]))
        wrong.append(finding(name, evidence, role=role, shape=found[role].shape))
    return wrong
