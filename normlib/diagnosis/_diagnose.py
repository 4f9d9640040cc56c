"""The steps of a diagnosis."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import _differences, _gradients, _modes, _numerics
from ._accuracy import accuracy
from ._frameworks import subject_of
from ._identify import Unexplained, identify
from ._intent import Intent, intent_of
from ._model import Norm
from ._probe import Probe, probe_of
from ._report import Diagnosis, Evidence, Finding, at_worst, finding

DTYPES = ("float16", "bfloat16")


def diagnose(
    fn: Any,
    like: str | None = None,
    *,
    shape: Sequence[int] | None = None,
    parameters: Sequence[str] | None = None,
    backward: Callable[..., Any] | None = None,
    dtype: str | None = None,
    **options: Any,
) -> Diagnosis:
    r"""Say what a function or module that should be a norm computes, and what is wrong with it.

    It is asked for the outputs of chosen inputs, and a model is found that gives the same:

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \mathrm{eps}}} \cdot \mathrm{weight} + \mathrm{bias},

    with all that may be wrong in it: what shares statistics, where the mean is subtracted, the divisor of the variance,
    eps and its place, what is made of weight and bias. A finding is a difference between that model and the norm that
    is meant. Gradients, running statistics, 16 bits, rows far from zero and large ones are held against the model.

    Parameters
    ----------
    fn : callable or module
        A function of x, and of weight and bias where it takes them, on arrays of NumPy, torch or JAX; a
        ``torch.nn.Module``, a module of ``flax.nnx``, a built layer of Keras, an object with `forward` (and maybe
        `backward`, `train`, `eval`) and arrays of NumPy; a node or model of ONNX. A copy of a module is probed.
    like : {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"}, optional
        What is meant. By default what its name speaks of, or else the right norm that is nearest.
    shape : sequence of int, optional
        That of x: examples first. By default one that its parameters fit, with axes of different lengths.
    parameters : sequence of {"weight", "bias"}, optional
        What a function takes after x, in its order. By default as its arguments are called: weight, gamma, scale;
        bias, beta, shift.
    backward : callable, optional
        The gradients of a function: ``backward(dy, x, weight, bias)``, or ``backward(dy, x)``, which returns that of x,
        or those of all. Those of torch and JAX are taken by their own differentiation.
    dtype : {"float16", "bfloat16"}, optional
        Which arrays of 16 bits it has to take. By default both in torch and JAX, and none in NumPy.
    **options
        What more is meant, as of the functions of normlib: `axis`, `channel_axis`, `num_groups`, `eps`, and
        `unit_offset=True` where the weight counts from 1. By default what a module or a signature says of itself.

    Returns
    -------
    Diagnosis
        Its text says everything; `findings`, `ok` and `to_json()` are for programs.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or `fn` cannot be called with any array of a shape that it should take.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> def layer_norm(x, weight, bias):
    ...     mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
    ...     return (x - mean) / (std + 1e-6) * weight + bias
    >>> diagnosis = normlib.diagnose(layer_norm)
    >>> [finding.name for finding in diagnosis.faults]
    ['unbiased_variance', 'eps_on_deviation']
    >>> print(diagnosis.faults[0].cure)
    divide by n = 16: ddof=0 in NumPy, unbiased=False or correction=0 in torch
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is asked for values that a norm seldom sees
        return _diagnose(fn, like, shape, parameters, backward, dtype, options)


def _diagnose(
    fn: Any,
    like: str | None,
    shape: Sequence[int] | None,
    parameters: Sequence[str] | None,
    backward: Callable[..., Any] | None,
    dtype: str | None,
    options: dict[str, Any],
) -> Diagnosis:
    subject = subject_of(fn, parameters, backward)
    intent = intent_of(subject, like, options)
    if dtype not in (None, *DTYPES):
        raise ValueError(f"diagnose: dtype is {dtype!r}, expected one of {', '.join(DTYPES)}, or None")
    probe = probe_of(subject, intent, shape)
    if early := _modes.fixed_in_training(probe) or _random(probe):
        return Diagnosis(subject.label, "not identified", None, intent.op, [early])
    try:
        norm, misfit = identify(probe)
    except Unexplained as error:
        found = [_differences.unexplained(error), *_modes.alike(probe)]
        return Diagnosis(subject.label, "not identified", None, intent.op, found)
    narrow = (dtype,) if dtype else probe.subject.arrays.narrow
    return _held_against(probe, norm, misfit, intent.settled(norm, probe.shape), narrow)


def _held_against(probe: Probe, norm: Norm, misfit: float, intent: Intent, narrow: tuple[str, ...]) -> Diagnosis:
    """The diagnosis of a subject that a model fits."""
    found: list[Finding] = []
    if intent.op == "layer_norm" and not intent.told and not (norm.subtracts or norm.centered):
        intent = replace(intent, op="rms_norm")
        found.append(_only_named(probe, norm))
    differences = _differences.findings(probe, norm, intent)
    found += differences
    found += _differences.of_dtype(probe, norm)
    found += _modes.modes(probe, norm, intent)
    found += _gradients.gradients(probe, norm)
    coarse = _numerics.precision(probe, norm, misfit)
    found += coarse or [
        *_numerics.far_rows(probe, norm),
        *_numerics.large_rows(probe, norm),
        *_numerics.narrow(probe, norm, narrow),
        *_numerics.bits(probe, norm),
    ]
    what = _differences.describe(norm, intent, probe.shape, set(probe.shapes))
    found.sort(key=lambda one: one.severity)
    diagnosis = Diagnosis(probe.subject.label, what, norm, intent.op, found)
    if all(one.severity == "note" for one in differences):
        diagnosis.accuracy = accuracy(probe, norm, intent)
    return diagnosis


def _random(probe: Probe) -> Finding | None:
    """Whether two calls with the same input differ."""
    x, given = probe.random(1, 2), probe.given()
    y, again = probe(x, given), probe(x, given)
    if np.array_equal(y, again, equal_nan=True):
        return None
    evidence = at_worst("the same input twice", x, y, again)
    return finding("random", evidence)


def _only_named(probe: Probe, norm: Norm) -> Finding:
    """A module that is called layer norm, and is an RMS norm as a whole: T5's is."""
    x, given = probe.random(2, 1), probe.given()
    evidence = at_worst("rows", x, replace(norm, subtracts=True, centered=True)(x, **given), probe(x, given))
    evidence = Evidence(evidence.input, f"of a LayerNorm: {evidence.expected}", evidence.got)
    return finding("named_layer", evidence)
