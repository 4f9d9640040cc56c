"""Training, evaluation and running statistics of modules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._catalogue import Severity
from ._identify import LOOSE, distance
from ._intent import Intent
from ._model import ADDS, MULTIPLIES, Array, Norm
from ._probe import Probe
from ._report import Evidence, Finding, at_worst, finding, numbers


def modes(probe: Probe, norm: Norm, intent: Intent) -> list[Finding]:
    """What is wrong with the two modes of a module, given the model of the one by which it is known."""
    if not probe.subject.modal or probe.subject.running() is None:
        return alike(probe)
    (channel,) = norm.parameter_axes or (1,)
    axes = tuple(axis for axis in range(len(probe.shape)) if axis != channel)
    if intent.op == "instance_norm":
        axes = intent.norm(norm, probe.shape).axes
    return [*_training(probe, channel, axes), *_evaluation(probe, norm)]


def alike(probe: Probe) -> list[Finding]:
    """A norm without running statistics has one mode."""
    if not probe.subject.modal or probe.subject.running() is not None:
        return []
    x, given = probe.random(1, 2), probe.given()
    trained, evaluated = (probe(x, given, training=training) for training in (True, False))
    if np.array_equal(trained, evaluated, equal_nan=True):
        return []
    evidence = at_worst("the same input in evaluation (expected) and in training (got)", x, evaluated, trained)
    return [finding("train_eval_differ", evidence)]


def _statistics(x: Array, channel: int, axes: tuple[int, ...]) -> tuple[Array, Array, int]:
    """Mean and biased variance of each channel over some axes, averaged over those that are left, and of how many
    elements they are."""
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    others = tuple(axis for axis in range(x.ndim) if axis != channel)
    return mean.mean(others), var.mean(others), math.prod(x.shape[axis] for axis in axes)


def _training(probe: Probe, channel: int, axes: tuple[int, ...]) -> list[Finding]:
    """Do the running statistics follow the batch's, by how much, and by which variance."""
    subject, x = probe.subject, probe.random(2, 1.5)
    old = tuple(np.full(s.shape, fill) for s, fill in zip(subject.running() or (), (0.25, 5.0), strict=True))
    subject.set_running(*old)
    probe(x, training=True)
    old, new = (tuple(s.reshape(-1) for s in statistics) for statistics in (old, subject.running() or ()))
    mean, var, n = _statistics(x, channel, axes)
    if np.array_equal(new[0], old[0]) and np.array_equal(new[1], old[1]):
        towards = f"running_mean moves from {numbers(old[0][:3])} towards {numbers(mean[:3])}"
        return [finding("running_not_updated", Evidence("one batch in training", towards, "it stays"))]
    share = float(np.median((new[0] - old[0]) / (mean - old[0])))
    expected = old[0] + share * (mean - old[0])
    if np.abs(new[0] - expected).max() > LOOSE * np.abs(mean).max():
        towards = f"from {numbers(old[0][:3])} towards {numbers(mean[:3])}"
        return [finding("running_mean_wrong", Evidence("one batch in training", towards, numbers(new[0][:3])))]
    return [*_momentum(probe, share, old[0], mean, new[0]), *_variance(probe, share, old[1], var, new[1], n)]


def _momentum(probe: Probe, share: float, old: Array, mean: Array, new: Array) -> list[Finding]:
    """The share of a batch in the running statistics, against the momentum of the module."""
    nominal = probe.subject.hints.get("momentum")
    if probe.subject.hints.get("cumulative"):
        return []
    right = (0.1 if share > 0.5 else share) if nominal is None else 1 - nominal if probe.subject.decays else nominal
    if abs(share - right) < 0.02 * max(share, right):
        return []
    name = "momentum_reversed" if abs(share + right - 1) < 0.02 else "momentum_wrong"
    given = f"one batch of mean {numbers(mean[:3])}, running mean {numbers(old[:3])}"
    evidence = Evidence(given, numbers((old + right * (mean - old))[:3]), numbers(new[:3]))
    return [finding(name, evidence, share=share, right=right)]


def _variance(probe: Probe, share: float, old: Array, var: Array, new: Array, n: int) -> list[Finding]:
    """Whether the running variance is the unbiased one of PyTorch, or biased."""
    learnt = float(np.median((new - (1 - share) * old) / (share * var)))
    unbiased = n / (n - 1)
    if abs(learnt - unbiased) < 0.3 * (unbiased - 1):
        return []
    expected = (1 - share) * old + share * var * unbiased
    given = f"one batch of {n} elements a channel, running variance {numbers(old[:3])}"
    evidence = Evidence(given, numbers(expected[:3]), numbers(new[:3]))
    if abs(learnt - 1) > 0.3 * (unbiased - 1):
        return [finding("running_variance_wrong", evidence, learnt=learnt)]
    usual = probe.subject.decays
    words = ", as in Keras and Flax" * usual
    return [finding("biased_running_variance", evidence, "note" if usual else None, usual=words, factor=unbiased)]


def _evaluation(probe: Probe, norm: Norm) -> list[Finding]:
    """Evaluation takes the running statistics, and leaves them alone."""
    subject, x, given = probe.subject, probe.random(2, 1.5), probe.given()
    running = subject.running()
    assert running is not None
    drawn: Any = probe.rng.uniform(-1, 1, running[0].shape), probe.rng.uniform(1, 3, running[1].shape)
    subject.set_running(*drawn)
    mean, var = subject.running() or drawn
    y, found = probe(x, given, training=False), []
    after = subject.running() or running
    if not (np.array_equal(after[0], mean) and np.array_equal(after[1], var)):
        stays = f"running_mean stays {numbers(mean[:3])}"
        evidence = Evidence("one batch in evaluation", stays, numbers(after[0][:3]))
        found.append(finding("running_updated_in_eval", evidence))
    expected = _fixed(norm, x, given, mean, var)
    if min(distance(y, expected), distance(y, _fixed(norm, x, given, *after))) > 1e-3:
        name = "eval_uses_batch" if distance(y, norm(x, **given)) < LOOSE else "evaluation_wrong"
        found.append(finding(name, at_worst("a batch in evaluation", x, expected, y)))
    return found


def _fixed(norm: Norm, x: Array, given: dict[str, Any], mean: Array, var: Array) -> Array:
    """The norm with given statistics a channel."""
    axes = norm.parameter_axes or (1,)
    lie: Any = Norm((), parameter_axes=axes).along
    m, v = lie(mean, x.ndim), lie(var, x.ndim)
    w, b = (lie(given[name], x.ndim) if name in given else np.full((), fill)
            for name, fill in (("weight", 1.0), ("bias", 0.0)))  # fmt: skip
    factor = MULTIPLIES[norm.multiplies](w, b)
    return np.asarray((x - m) / np.sqrt(v + norm.eps) * factor + ADDS[norm.adds](w, b, factor))


def fixed_in_training(probe: Probe) -> Finding | None:
    """Whether a module takes its running statistics in training too: then nothing moves with one element."""
    subject = probe.subject
    if subject.running() is None:
        return None
    x = probe.random(1, 2)
    running = subject.running()
    y = probe(x, training=True)
    if running is not None:
        subject.set_running(*running)
    evaluated = probe(x, training=False)
    other = x.copy()
    other[(0,) * x.ndim] += 10
    if running is not None:
        subject.set_running(*running)
    moved = np.abs(probe(other, training=True) - y) > 1e-6 * np.abs(y).max()
    if moved.sum() > 1 or distance(y, evaluated) > LOOSE:
        return None
    severity: Severity = "note" if "frozen" in subject.label.lower() else "fault"
    evidence = at_worst("the outputs of training, beside one element that moves", x, evaluated, y)
    return finding("train_uses_running", Evidence(evidence.input, "they move", "they stay"), severity)
