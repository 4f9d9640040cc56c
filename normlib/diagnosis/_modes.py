"""Training, evaluation and running statistics of modules."""

from __future__ import annotations

import numpy as np

from ._identify import LOOSE, distance
from ._model import ADDS, MULTIPLIES, Array, Norm, gather
from ._probe import Probe
from ._report import Evidence, Finding, Severity, at_worst, numbers


def modes(probe: Probe, norm: Norm) -> list[Finding]:
    """What is wrong with the two modes of a module, given the model of the one by which it is known."""
    if not probe.subject.modal or probe.subject.running() is None:
        return alike(probe)
    return [*_training(probe, norm), *_evaluation(probe, norm)]


def alike(probe: Probe) -> list[Finding]:
    """A norm without running statistics has one mode."""
    if not probe.subject.modal or probe.subject.running() is not None:
        return []
    x, given = probe.random(1, 2), probe.given()
    trained, evaluated = (probe(x, given, training=training) for training in (True, False))
    if np.array_equal(trained, evaluated, equal_nan=True):
        return []
    return [Finding("train_eval_differ", "fault", "training and evaluation differ, and there are no running statistics",
                    at_worst("the same input in evaluation (expected) and in training (got)", x, evaluated, trained),
                    "take statistics of the input in both, and leave what is random out of the norm")]  # fmt: skip


def _statistics(norm: Norm, x: Array) -> tuple[Array, Array, int]:
    """Mean and biased variance of each channel, and how many elements they are of; samples are averaged over."""
    template, _ = gather(x, norm.labels(x.shape))
    channel = norm.parameter_axes[0] if norm.parameter_axes else 1
    channels = gather(np.broadcast_to(np.arange(x.shape[channel]).reshape(
        [-1 if axis == channel else 1 for axis in range(x.ndim)]), x.shape), norm.labels(x.shape))[0][:, 0]  # fmt: skip
    mean, var = (np.array([values[channels == c].mean() for c in range(x.shape[channel])])
                 for values in (template.mean(axis=1), template.var(axis=1)))  # fmt: skip
    return mean, var, template.shape[1]


def _training(probe: Probe, norm: Norm) -> list[Finding]:
    """Do the running statistics follow the batch's, by how much, and by which variance."""
    subject, x = probe.subject, probe.random(2, 1.5)
    old = tuple(np.full(s.shape, fill) for s, fill in zip(subject.running() or (), (0.25, 5.0), strict=True))
    subject.set_running(*old)
    probe(x, training=True)
    new = subject.running()
    assert new is not None
    mean, var, n = _statistics(norm, x)
    if np.array_equal(new[0], old[0]) and np.array_equal(new[1], old[1]):
        return [Finding("running_not_updated", "fault", "running statistics are not updated in training",
                        Evidence("one batch in training", f"running_mean moves from {numbers(old[0][:3])} towards "
                                 f"{numbers(mean[:3])}", "it stays"),
                        "let them follow: running += momentum * (batch - running), in place")]  # fmt: skip
    share = float(np.median((new[0] - old[0]) / (mean - old[0])))
    expected = old[0] + share * (mean - old[0])
    if np.abs(new[0] - expected).max() > LOOSE * np.abs(mean).max():
        return [Finding("running_mean_wrong", "fault", "the running mean does not follow the mean of the batch",
                        Evidence("one batch in training", f"from {numbers(old[0][:3])} towards {numbers(mean[:3])}",
                                 numbers(new[0][:3])), "running += momentum * (batch - running)")]  # fmt: skip
    return [*_momentum(probe, share, old[0], mean, new[0]), *_variance(probe, share, old[1], var, new[1], n)]


def _momentum(probe: Probe, share: float, old: Array, mean: Array, new: Array) -> list[Finding]:
    """The share of a batch in the running statistics, against the momentum of the module."""
    nominal = probe.subject.hints.get("momentum")
    if probe.subject.hints.get("cumulative"):
        return []
    right = (0.1 if share > 0.5 else share) if nominal is None else 1 - nominal if probe.subject.decays else nominal
    if abs(share - right) < 0.02 * max(share, right):
        return []
    reverse = abs(share + right - 1) < 0.02
    words = "momentum is the other way round" if reverse else "the momentum is another"
    evidence = Evidence(f"one batch of mean {numbers(mean[:3])}, running mean {numbers(old[:3])}",
                        numbers((old + right * (mean - old))[:3]), numbers(new[:3]))  # fmt: skip
    return [Finding("momentum_reversed" if reverse else "momentum_wrong", "fault",
                    f"{words}: a batch weighs {share:.3g} in the running statistics, not {right:.3g}",
                    evidence, "running += momentum * (batch - running)")]  # fmt: skip


def _variance(probe: Probe, share: float, old: Array, var: Array, new: Array, n: int) -> list[Finding]:
    """Whether the running variance is the unbiased one of PyTorch, or biased."""
    learnt = float(np.median((new - (1 - share) * old) / (share * var)))
    unbiased = n / (n - 1)
    if abs(learnt - unbiased) < 0.3 * (unbiased - 1):
        return []
    expected = (1 - share) * old + share * var * unbiased
    evidence = Evidence(f"one batch of {n} elements a channel, running variance {numbers(old[:3])}",
                        numbers(expected[:3]), numbers(new[:3]))  # fmt: skip
    if abs(learnt - 1) < 0.3 * (unbiased - 1):
        usual = probe.subject.decays
        words = "the running variance is the biased one of the batch" + ", as in Keras and Flax" * usual
        return [Finding("biased_running_variance", "note" if usual else "fault", words, evidence,
                        f"multiply by n / (n - 1) = {unbiased:.4g} what the running variance learns")]  # fmt: skip
    return [Finding("running_variance_wrong", "fault", f"the running variance learns {learnt:.3g} times that of the batch",
                    evidence, "running_var += momentum * (var * n / (n - 1) - running_var)")]  # fmt: skip


def _evaluation(probe: Probe, norm: Norm) -> list[Finding]:
    """Evaluation takes the running statistics, and leaves them alone."""
    subject, x, given = probe.subject, probe.random(2, 1.5), probe.given()
    running = subject.running()
    assert running is not None
    mean, var = probe.rng.uniform(-1, 1, running[0].shape), probe.rng.uniform(1, 3, running[1].shape)
    subject.set_running(mean, var)
    mean, var = subject.running() or (mean, var)
    y, found = probe(x, given, training=False), []
    after = subject.running() or running
    if not (np.array_equal(after[0], mean) and np.array_equal(after[1], var)):
        found.append(Finding("running_updated_in_eval", "fault", "running statistics are updated in evaluation",
                             Evidence("one batch in evaluation", f"running_mean stays {numbers(mean[:3])}",
                                      numbers(after[0][:3])), "update them in training alone"))  # fmt: skip
    expected = _fixed(norm, x, given, mean, var)
    if min(distance(y, expected), distance(y, _fixed(norm, x, given, *after))) > 1e-3:
        batch = distance(y, norm(x, **given)) < LOOSE
        words = "evaluation takes the statistics of the batch" if batch else (
            "evaluation is not (x - running_mean) / sqrt(running_var + eps) * weight + bias")  # fmt: skip
        found.append(Finding("eval_uses_batch" if batch else "evaluation_wrong", "fault", words,
                             at_worst("a batch in evaluation", x, expected, y),
                             "take running_mean and running_var in evaluation, as they are"))  # fmt: skip
    return found


def _fixed(norm: Norm, x: Array, given: dict[str, Array], mean: Array, var: Array) -> Array:
    """The norm with given statistics a channel."""
    axes = norm.parameter_axes or (1,)
    lie = Norm((), parameter_axes=axes).along
    m, v = lie(mean, x.ndim), lie(var, x.ndim)
    w, b = (lie(given[name], x.ndim) if name in given else np.full((), fill)
            for name, fill in (("weight", 1.0), ("bias", 0.0)))  # fmt: skip
    assert m is not None and v is not None and w is not None and b is not None
    factor = MULTIPLIES[norm.multiplies](w, b)
    return (x - m) / np.sqrt(v + norm.eps) * factor + ADDS[norm.adds](w, b, factor)


def fixed_in_training(probe: Probe) -> Finding | None:
    """Whether a module takes its running statistics in training too: then nothing moves with one element."""
    subject = probe.subject
    if subject.running() is None:
        return None
    x = probe.random(1, 2)
    running = subject.running()
    y = probe(x, training=True)
    subject.set_running(*running) if running is not None else None
    evaluated = probe(x, training=False)
    other = x.copy()
    other[(0,) * x.ndim] += 10
    if running is not None:
        subject.set_running(*running)
    moved = np.abs(probe(other, training=True) - y) > 1e-6 * np.abs(y).max()
    if moved.sum() > 1 or distance(y, evaluated) > LOOSE:
        return None
    severity: Severity = "note" if "frozen" in subject.label.lower() else "fault"
    return Finding("train_uses_running", severity, "training takes the running statistics, not those of the batch",
                   at_worst("one element moved, in training: the outputs beside it (expected to move too)", x, evaluated, y),
                   "take mean and variance of the batch in training")  # fmt: skip
