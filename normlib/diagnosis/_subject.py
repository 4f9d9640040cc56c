"""What is probed: functions and modules of any framework, called alike, with arrays of NumPy in float64."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ._model import Array

Given = dict[str, Any]  # weight and bias by name

# How others call the two parameters.
NAMES = {
    "weight": ("weight", "gamma", "scale", "gain", "w", "g"),
    "bias": ("bias", "beta", "shift", "offset", "b"),
}
EPS = ("eps", "epsilon", "variance_epsilon", "norm_eps")


class Result(NamedTuple):
    """An output: its values in float64, and the dtype that it had."""

    values: Array
    dtype: str


class Arrays(NamedTuple):
    """The arrays that a function takes: how to make one from float64, and how to come back."""

    name: str
    make: Callable[[Array, str], Any]
    take: Callable[[Any], Result]
    around: Callable[[], Any] = contextlib.nullcontext
    narrow: tuple[str, ...] = ()  # the dtypes of 16 bits that are usual there
    differentiate: Callable[..., list[Array]] | None = None  # (fn, dy, inputs): the gradients of sum(dy * fn(*inputs))


def of_numpy(value: Any) -> Result:
    """An array of NumPy, or what becomes one, as a result."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"the result is a {type(value).__name__}, expected an array")
    return Result(array.astype(np.float64), array.dtype.name)


def only_numpy(value: Any) -> Result:
    """The same of NumPy's own arrays and numbers: those of others tell whose arrays a function takes."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"the result is a {type(value).__name__}, expected an array of NumPy")
    return of_numpy(value)


NUMPY = Arrays("NumPy", lambda a, dtype: a.astype(dtype), only_numpy)


class Subject:
    """One function or module. Subclasses say how it is called, and what else it has."""

    decays: ClassVar[bool] = False  # momentum is the weight of the past, as in Keras and Flax
    label = ""
    channels_last = False
    arrays = NUMPY
    modal = False  # whether it may tell training from evaluation

    def __init__(self, label: str) -> None:
        self.label = label
        self.shapes: dict[str, tuple[int, ...] | None] = {}  # of its parameters; None: whatever fits
        self.initial: Given = {}
        self.hints: dict[str, Any] = {}  # eps, momentum, num_groups: what it says of itself
        self.features: tuple[int, ...] | None = None  # the lengths of the axes along which its parameters lie

    def call(self, x: Array, given: Given, dtype: str = "float64", training: bool | None = None) -> Result:
        """The output for x and parameters, given in a dtype; `training` None is the mode that norms are known by."""
        raise NotImplementedError

    def gradients(self, dy: Array, x: Array, given: Given) -> Given | None:
        """Those of x and of the parameters by name, or None where there is no telling."""
        return None

    def running(self) -> tuple[Array, Array] | None:
        """Running mean and variance."""
        return None

    def set_running(self, mean: Array, var: Array) -> None:
        """Put others in their place."""
        raise NotImplementedError

    def threads(self) -> tuple[Callable[[], int], Callable[[int], None]] | None:
        """What tells the number of threads, and what sets it, where there is such a thing."""
        torch = sys.modules["torch"] if self.arrays.name == "torch" else None
        return None if torch is None else (torch.get_num_threads, torch.set_num_threads)


class Function(Subject):
    """A function of x, and of weight and bias where it takes them."""

    def __init__(
        self,
        fn: Callable[..., Any],
        parameters: Sequence[str],
        keywords: Mapping[str, str] | None = None,
        backward: Callable[..., Any] | None = None,
        arrays: Arrays = NUMPY,
    ) -> None:
        own = fn.func if isinstance(fn, functools.partial) else fn
        super().__init__(getattr(own, "__name__", type(own).__name__))
        self.fn, self.order, self.arrays, self.backward = fn, tuple(parameters), arrays, backward
        self.keywords = dict(keywords or {})  # of parameters that go by name alone: how they are called
        self.shapes = dict.fromkeys((*self.order, *self.keywords))

    def call(self, x: Array, given: Given, dtype: str = "float64", training: bool | None = None) -> Result:
        with self.arrays.around():
            arrays = [self.arrays.make(a, dtype) for a in (x, *(given[name] for name in self.order))]
            named = {word: self.arrays.make(given[name], dtype) for name, word in self.keywords.items()}
            return self.arrays.take(first(self.fn(*arrays, **named)))

    def gradients(self, dy: Array, x: Array, given: Given) -> Given | None:
        names = ["x", *self.order]
        inputs = [x, *(given[name] for name in self.order)]
        if self.backward is not None:
            count = len(self.order) + 2 if accepts(self.backward, len(self.order) + 2) else 2
            with self.arrays.around():
                made = [self.arrays.make(a, "float64") for a in (dy, *inputs)]
                found = self.backward(*made[:count])
                found = found if isinstance(found, (tuple, list)) else [found]
                taken = [None if g is None else self.arrays.take(g).values for g in found]
            return {name: g for name, g in zip(names, taken, strict=False) if g is not None}
        if self.arrays.differentiate is None:
            return None
        others = {word: self.arrays.make(given[name], "float64") for name, word in self.keywords.items()}
        found = self.arrays.differentiate(functools.partial(self.fn, **others), dy, inputs)
        return dict(zip(names, found, strict=True))


def first(result: Any) -> Any:
    """The output, where statistics come with it."""
    return result[0] if isinstance(result, (tuple, list)) else result


def accepts(fn: Callable[..., Any], count: int) -> bool:
    """Whether a function takes so many positional arguments."""
    try:
        inspect.signature(fn).bind(*[None] * count)
    except TypeError:
        return False
    return True


def named(name: str) -> str | None:
    """Whether a name is that of a weight or a bias: ``gamma``, ``norm.weight``."""
    last = name.rpartition(".")[2].lower()
    return next((ours for ours, theirs in NAMES.items() if last in theirs), None)


def read_signature(fn: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, str], float | None]:
    """Which parameters a function takes after x, in its order, which by name alone, and its eps by default."""
    try:
        arguments = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return (), {}, None
    positional = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    eps = next((a.default for a in arguments if a.name.lower() in EPS and isinstance(a.default, float)), None)
    found: list[str] = []
    for argument in positional[1:]:
        role = named(argument.name)
        if role is None and argument.default is argument.empty:
            raise ValueError(
                f"diagnose: {getattr(fn, '__name__', fn)} takes {argument.name!r}, expected x, a weight, a bias and "
                "arguments with defaults; bind others by functools.partial, or name them by parameters="
            )
        if role is None or role in found:
            break
        found.append(role)
    by_name = {
        role: a.name for a in arguments if a.kind is a.KEYWORD_ONLY and (role := named(a.name)) not in (None, *found)
    }
    return tuple(found), {str(role): name for role, name in by_name.items()}, eps
