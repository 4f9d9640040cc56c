"""How a subject is asked: in which shape, dtype and kind of arrays, and with which parameters."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from ._frameworks import kinds
from ._intent import Intent
from ._model import ADDS, MULTIPLIES, Array, Norm, round_to
from ._subject import Function, Given, Result, Subject

SIZES = (3, 5, 4, 7, 6)  # of the axes that are not those of the parameters


class NoAnswer(ValueError):
    """A subject has raised an error for what it was asked."""


class Probe:
    """A subject that answers for one shape; its parameters are 1 unless others are given."""

    def __init__(
        self, subject: Subject, shape: Sequence[int], axes: tuple[int, ...], dtype: str, seed: int = 0
    ) -> None:
        self.subject, self.shape, self.dtype = subject, tuple(shape), dtype
        self.parameter_axes = axes
        self.bias = 1.0
        self.rng = np.random.default_rng(seed)
        sizes = tuple(self.shape[axis] for axis in axes)
        self.shapes = {name: fixed or sizes for name, fixed in subject.shapes.items()}

    def ask(
        self, x: Array, given: Given | None = None, dtype: str | None = None, training: bool | None = None
    ) -> Result:
        """The answer with its dtype; it does not see the arrays themselves, so that it may write to them."""
        given = self.ones() if given is None else given
        arrays = {name: np.array(a) for name, a in given.items()}
        try:
            with np.errstate(all="ignore"):
                return self.subject.call(np.array(x), arrays, dtype or self.dtype, training)
        except Exception as error:  # what others wrote may raise anything
            asked = f"{self.subject.arrays.name}, {dtype or self.dtype}, shape {x.shape}"
            raise NoAnswer(f"diagnose: {self.subject.label} ({asked}): {type(error).__name__}: {error}") from error

    def __call__(
        self, x: Array, given: Given | None = None, dtype: str | None = None, training: bool | None = None
    ) -> Array:
        return self.ask(x, given, dtype, training).values

    def gradients(self, dy: Array, x: Array, given: Given) -> Given | None:
        """Those of the subject, if it has any."""
        try:
            return self.subject.gradients(dy.copy(), x.copy(), {name: a.copy() for name, a in given.items()})
        except Exception as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error

    def ones(self) -> Given:
        """Weights and biases of 1: a swap of the two changes nothing, and neither takes the other's effect away."""
        return {name: np.full(shape, self.bias if name == "bias" else 1.0) for name, shape in self.shapes.items()}

    def plain(self, norm: Norm) -> Given:
        """Weights and biases with which a model multiplies by 1 and adds 0, where there are such."""
        for w, b in ((1.0, 0.0), (0.0, 0.0), (-1.0, 0.0), (0.0, 1.0)):
            factor = MULTIPLIES[norm.multiplies](w, b)
            if factor == 1 and ADDS[norm.adds](w, b, factor) == 0:
                return {name: np.full(shape, w if name == "weight" else b) for name, shape in self.shapes.items()}
        return self.ones()

    def given(self, dtype: str = "float16") -> Given:
        """Weights and biases that all differ, exact in every dtype."""
        found = {}
        for name, shape in self.shapes.items():
            values = self.rng.uniform(0.5, 2, shape) * (self.rng.choice([-1, 1], shape) if name == "bias" else 1)
            found[name] = round_to(round_to(values, dtype), "bfloat16")
        return found

    def random(self, mean: float, deviation: float, dtype: str = "float32") -> Array:
        """Normal values that the dtype holds exactly."""
        return round_to(self.rng.normal(mean, deviation, self.shape), dtype)

    def of_shape(self, shape: Sequence[int]) -> Probe:
        """The same for another number of samples."""
        return Probe(self.subject, shape, self.parameter_axes, self.dtype)


def probe_of(subject: Subject, intent: Intent, shape: Sequence[int] | None) -> Probe:
    """A probe that gets an answer of its own shape.

    Raises
    ------
    ValueError
        If no shape, kind of array and dtype is answered; the message tells how the first attempt failed.
    """
    shapes = [tuple(shape)] if shape is not None else list(_shapes(subject, intent))
    failures: list[str] = []
    ways = kinds() if isinstance(subject, Function) else [subject.arrays]
    for candidate, arrays, dtype in itertools.product(shapes, ways, ("float64", "float32")):
        for axes in _parameter_axes(subject, intent, candidate):
            trial = copy.copy(subject)
            trial.arrays = arrays
            probe = Probe(trial, candidate, axes, dtype)
            try:
                y = probe(probe.random(0, 1))
            except NoAnswer as error:
                failures.append(str(error).partition(": ")[2])
                continue
            if y.shape == candidate:
                return probe
            failures.append(f"{subject.label} ({arrays.name}, {dtype}, shape {candidate}): y has shape {y.shape}")
    told = min(failures, key=len) if failures else f"{subject.label}: no shape fits its parameters"
    raise ValueError(f"diagnose: it could not be called, expected y of the shape of x; try shape=. {told}")


def _shapes(subject: Subject, intent: Intent) -> Iterator[tuple[int, ...]]:
    """Shapes that a norm of this kind may take, whose axes differ in length."""
    known = subject.features
    if intent.op in ("layer_norm", "rms_norm", None):
        feature = known or (16,)
        a, b, c, *_ = (n for n in SIZES if n not in feature)
        yield (a, b, *feature)
        yield (b, *feature)
        yield (a, *feature, b, c)
        yield (a, *feature, b)
        return
    last = subject.channels_last or intent.channel_axis == -1
    for channels in [math.prod(known)] if known else ([24, 64] if intent.op == "group_norm" else [8]):
        a, b, c, d, *_ = (n for n in SIZES if n != channels)
        batch = [(12 + (channels == 12),), (d + 2, a), (c, a, b), (a, 2, b, c)]
        samples = [(a, b, c), (a, b + 3)] if intent.op != "group_norm" else [(a, b, c), (a, b), (a,)]
        for n, *places in batch if intent.op == "batch_norm" else samples:
            yield (n, *places, channels) if last else (n, channels, *places)


def _parameter_axes(subject: Subject, intent: Intent, shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The axes of x along which the parameters may lie."""
    known = subject.features
    likely = intent.parameter_axes(shape, subject.channels_last)
    options = [likely, (len(shape) - 1,), (1,) if len(shape) > 1 else (0,)]
    if known is not None:
        trailing = tuple(range(len(shape) - len(known), len(shape)))
        options = [trailing, likely, *((axis,) for axis in range(len(shape)))]
        options = [axes for axes in options if tuple(shape[a] for a in axes) == known]
        options = options or [(axis,) for axis, n in enumerate(shape) if n == math.prod(known)]
    yield from dict.fromkeys(options if subject.shapes else options[:1])
