"""The registry of backends: who computes the norms.

``cython`` (compiled) is chosen where it was built, else ``numpy``; the environment variable
``NORMLIB_BACKEND``, :func:`set_default` and :func:`use` choose another one. What the chosen backend has
no function for, or declines, falls to ``cython`` and then to ``numpy``, unless ``strict=True``.

A backend is any object (a module, an instance, a namespace) with some of the functions below. Their
arguments are positional and already checked: native, aligned arrays; ``axis`` a sorted tuple of
non-negative integers, ``channel_axis`` a non-negative integer; parameters contiguous, or None;
statistics contiguous and float64; never an empty array. Each function fills ``out``, which has the
shape and dtype of ``x``, may have any memory layout and may be exactly ``x`` or ``dy``, and returns the
rest as a tuple::

    {functions}

Statistics are float64 in the shape of ``x`` without the reduced axes: ``(C,)`` for batch norm,
``(N, num_groups)`` and ``(N, C)`` for group and instance norm, whose sample axis is the first axis other
than ``channel_axis``. ``mean`` and ``var`` (biased) are None where those of ``x`` are wanted, else they
are used and returned, with rstd either way (also where ``var`` over- or underflows). Gradients of parameters
are float64, float32 or of the dtype of the parameter (of ``x`` without one), and None each where
``weight_grads`` is False.

What is computed in the same pass comes by name, after these, where it is given: ``activation`` and
``gate_activation``, strings; ``negative_slope``, a float; ``gate_first`` and ``round_first``, which are True;
``residual``, ``dsum``, ``add`` and ``gate``, of the shape and dtype of ``x``; ``bias`` in the backward functions;
``sum``, ``dadd`` and ``dgate``, like ``x``, to fill. A function that has no such argument is not called. With
``out_dtype``, the name of a dtype, ``out`` has that one. With ``quantize``, ``out`` is int8, and ``scale`` is given,
one a row, or ``new_scale`` is to be filled.

A function declines a call by returning ``NotImplemented`` or raising ``NotImplementedError`` before it
has written to ``out``. Two attributes are optional: ``direct``, a dict from the name of an operation to a
function that gets the raw arguments of the public one (all, positional, in the order of its signature)
and returns its result or ``NotImplemented``; and ``copies(op, x, axis)``, whether such an ``x`` is copied
first, for :func:`which`.

A package offers a backend to all its users by an entry point in the group ``normlib.backends``, whose
name is the backend's name and whose object is the backend. It is imported when it is asked for.
"""

import functools
import inspect
import os
import threading
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from . import _arguments, _kernels, _results, numpy_backend
from ._call import Call
from .description import FUNCTIONS, Role

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

__all__ = [
    "OPERATIONS",
    "active",
    "available",
    "register",
    "set_default",
    "unregister",
    "use",
    "which",
]

OPERATIONS = tuple(FUNCTIONS)
GROUP = "normlib.backends"
BUILT_IN = ("cython", "numpy")
__doc__ = (__doc__ or "").replace("{functions}", "\n    ".join(map(str, FUNCTIONS.values())))

_registry: dict[str, object] = {"numpy": numpy_backend}
_reported: set[str] = set()  # the plugins that `available` has warned of
_lock = threading.RLock()  # of the registry; never held while a plugin is imported, which may register itself


def _renew_lock():
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # in a child the thread that held the lock is not there to release it
    os.register_at_fork(after_in_child=_renew_lock)


class Table:
    """What a choice of backend comes to: ``<op>_direct`` for each operation, and `candidates`, the
    functions to try in turn as (name of the backend, function)."""

    def __init__(self, name: str, strict: bool = False) -> None:
        chosen = _find(name)
        self.name, self.strict = name, strict
        names = [name] if strict or name == "numpy" else [name, "cython", "numpy"]
        order = [(n, _registry[n]) for n in dict.fromkeys(names) if n in _registry]
        self.candidates = {
            op: [(n, getattr(backend, op)) for n, backend in order if getattr(backend, op, None)]
            for op in OPERATIONS
        }
        direct = getattr(chosen, "direct", None) or {}
        for op, description in FUNCTIONS.items():
            function = direct.get(op, _decline)
            if name != "cython" and op in direct:
                function = _results.guarded(description, name, function)
            setattr(self, f"{op}_direct", function)


class _Default(Table):
    """The table of whoever has chosen none: resolved at first use, replaced by `set_default`."""

    def __init__(self) -> None:
        pass

    def __getattr__(self, attribute):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        reason = missing()
        if reason is not None and _wrongly_asked(reason):
            raise ImportError(reason)
        name = os.environ.get("NORMLIB_BACKEND") or ("cython" if reason is None else "numpy")
        try:
            _resolve(Table(name))
        except (ImportError, ValueError) as error:
            raise type(error)(f"NORMLIB_BACKEND: {error}") from error
        return getattr(self, attribute)


def _resolve(table):
    """Make the default this table."""
    _default.__dict__ = table.__dict__  # one assignment: other threads see all of it or nothing
    _default.__class__ = Table  # a class with `__getattr__` would cost each call some 20 ns


def _decline(*_):
    return NotImplemented


_default = _Default()
_active: ContextVar[Table] = ContextVar("normlib_backend", default=_default)
_left: ContextVar[tuple[Table, ...]] = ContextVar("normlib_left", default=())  # what the blocks of `use` go back to
_taken: ContextVar[str] = ContextVar("normlib_taken")  # the backend that took the last call of the general way
active = _active.get


def missing() -> str | None:
    """Why there is no compiled backend; None where there is one, which is then in the registry."""
    if _kernels.backend is not None:
        _registry.setdefault("cython", _kernels.backend)
        return None
    return _kernels.info()["reason"]


def _wrongly_asked(reason: str) -> bool:
    """Whether the kernels are missing because a variable asks for what there is not, which is an error."""
    return bool(os.environ.get("NORMLIB_ISA")) or reason.startswith("NORMLIB_CACHES")


def warn_if_missing() -> None:
    """Warn that the kernels are missing, unless ``NORMLIB_BACKEND`` asks for NumPy anyway."""
    reason = missing()
    if reason is not None and os.environ.get("NORMLIB_BACKEND") != "numpy" and not _wrongly_asked(reason):
        words = "set NORMLIB_BACKEND=numpy where that is meant"
        message = f"normlib runs on NumPy, many times slower than its compiled kernels: {reason} ({words})"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _check(name, backend):
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a backend is {name!r}, expected a non-empty string")
    try:
        functions = {op: getattr(backend, op) for op in OPERATIONS if hasattr(backend, op)}
        direct = getattr(backend, "direct", None) or {}
    except Exception as error:
        words = f"its functions cannot be read: {type(error).__name__}: {error}"
        raise TypeError(f"backend {name!r}: {words}") from error
    if not functions:
        raise TypeError(f"backend {name!r} has none of the functions {', '.join(OPERATIONS)}")
    if not isinstance(direct, dict) or not direct.keys() <= set(OPERATIONS):
        raise TypeError(f"backend {name!r}: direct is {direct!r}, expected a dict of operations")
    for op, function in [*functions.items(), *direct.items()]:
        if not callable(function):
            raise TypeError(f"backend {name!r}: {op} is {function!r}, expected a function")


def _entry_points():
    """Plugins by name, loaded or not, and those whose name is taken."""
    from importlib.metadata import entry_points

    found, surplus = {}, []
    for point in entry_points(group=GROUP):
        if point.name in BUILT_IN or point.name in found:
            surplus.append(point)
        else:
            found[point.name] = point
    return found, surplus


def _describe(point):
    package = f" of package {point.dist.name}" if point.dist else ""
    return f"backend plugin {point.name!r} ({point.value}{package})"


def _load(point):
    """Import a plugin; whatever it raises becomes an ImportError that names it."""
    try:
        backend = point.load()
        _check(point.name, backend)
    except (Exception, SystemExit) as error:
        raise ImportError(
            f"{_describe(point)} could not be loaded: {type(error).__name__}: {error}", name=point.name
        ) from error
    return _registry.setdefault(point.name, backend)


def _find(name):
    if not isinstance(name, str):
        raise TypeError(f"the name of a backend is {name!r}, expected a string")
    reason = missing()
    if name in _registry:
        return _registry[name]
    points, _ = _entry_points()
    if name in points:
        return _load(points[name])
    names = ", ".join(repr(n) for n in [*_names(), *(n for n in points if n not in _registry)])
    hint = f" ('cython' is not available: {reason})" if name == "cython" else ""
    raise ValueError(f"there is no backend {name!r}, only {names}{hint}")


def _names():
    return sorted(_registry, key=lambda name: (name != "cython", name != "numpy", name))


def register(name: str, backend: object) -> None:
    """Add a backend.

    Parameters
    ----------
    name : str
        The name by which :func:`use` finds it.
    backend : object
        Anything with some of the functions that :mod:`normlib.backends` describes.

    Raises
    ------
    ValueError
        If the name is taken.
    TypeError
        If `backend` has none of the functions, or something that cannot be called in place of one.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import normlib
    >>> def layer_norm(x, weight, bias, axis, eps, out):
    ...     return NotImplemented  # declines everything: the next backend computes it
    >>> normlib.backends.register("modest", SimpleNamespace(layer_norm=layer_norm))
    >>> with normlib.backends.use("modest"):
    ...     normlib.layer_norm([1.0, 3.0], eps=0)
    array([-1.,  1.])
    >>> normlib.backends.unregister("modest")
    """
    _check(name, backend)
    with _lock:
        missing()
        if name in _registry or name == "cython":
            raise ValueError(f"backend {name!r} is already registered")
        _registry[name] = backend


def unregister(name: str) -> None:
    """Remove a backend that was registered; a table that is in use keeps it."""
    with _lock:
        if name in BUILT_IN:
            raise ValueError(f"backend {name!r} is built in and stays")
        if name not in _registry:
            raise ValueError(f"backend {name!r} is not registered")
        del _registry[name]


def available() -> list[str]:
    """The names of all backends that can be used: the compiled one first, then NumPy, then the others.

    Plugins are imported for this; one that fails is left out with a warning that names it.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import normlib
    >>> "numpy" in normlib.backends.available()
    True
    """
    missing()
    points, surplus = _entry_points()
    failures = [(point, "the name is taken") for point in surplus]
    for name, point in points.items():
        if name not in _registry:
            try:
                _load(point)
            except ImportError as error:
                failures.append((point, f"{type(error.__cause__).__name__}: {error.__cause__}"))
    names = _names()
    for point, reason in failures:
        if _describe(point) not in _reported:
            _reported.add(_describe(point))
            warnings.warn(f"{_describe(point)} is left out: {reason}", RuntimeWarning, stacklevel=2)
    return names


class use:
    """Choose the backend of this thread or task, from now on or for a ``with`` block.

    The choice is held in a :class:`contextvars.ContextVar`: other threads and tasks do not see it
    (:func:`set_default` changes the backend of all that have chosen none).

    Parameters
    ----------
    name : str or None
        A backend of :func:`available`; None for the default.
    strict : bool, default False
        Whether an operation that the backend lacks or declines is an error, not the next backend's.

    Raises
    ------
    ValueError
        If there is no such backend.
    ImportError
        If it is a plugin that cannot be loaded.

    Examples
    --------
    >>> import normlib
    >>> with normlib.backends.use("numpy"):
    ...     str(normlib.backends.which("layer_norm"))
    'numpy'
    """

    def __init__(self, name: str | None, *, strict: bool = False) -> None:
        self._table = _default if name is None else Table(name, strict)
        self._before: Table | None = _active.get()  # until it is entered
        _active.set(self._table)

    def __enter__(self) -> "use":
        now = _active.get()
        before, self._before = self._before, None
        _left.set((*_left.get(), now if before is None or now is not self._table else before))
        _active.set(self._table)
        return self

    def __exit__(self, *_: object) -> None:
        *outer, before = _left.get()
        _left.set(tuple(outer))
        _active.set(before)


def set_default(name: str, *, strict: bool = False) -> None:
    """Choose the backend of all threads and tasks that have not chosen one by :func:`use`.

    Parameters
    ----------
    name : str
        A backend of :func:`available`.
    strict : bool, default False
        As in :func:`use`.
    """
    _resolve(Table(name, strict))


def by(table, function, *args, **options):
    """The result of a function while a table is in use."""
    token = _active.set(table)
    try:
        return function(*args, **options)
    finally:
        _active.reset(token)


def run(call, filled):
    """Let the candidates for a :class:`normlib._call.Call` fill arrays until one takes it; what it returns, checked."""
    table, op = _active.get(), call.name
    for name, function in table.candidates[op]:
        try:
            arguments, fused = call.canonical(filled)
            if fused and not _knows(function, frozenset(fused)):
                continue
            returned = function(*arguments, **fused)
        except NotImplementedError:
            continue
        except Exception as error:
            _results.blame(op, name, error)
        if returned is not NotImplemented:
            if name not in BUILT_IN:
                _results.check(op, name, returned, call.expected)
            _taken.set(name)
            return returned
    raise NotImplementedError(f"{op}: backend {table.name!r} does not take this call, and strict=True")


@functools.lru_cache(256)
def _knows(function, names):
    """Whether the function of a backend takes these arguments for the same pass."""
    taken = inspect.signature(function).parameters
    return names.issubset(taken) or any(p.kind is p.VAR_KEYWORD for p in taken.values())


class Choice(str):
    """The name of a backend; `copies` says whether it copies the array first."""

    copies: bool = False


def which(
    op: str,
    dtype: "DTypeLike" = "float32",
    *,
    x: "ArrayLike | None" = None,
    axis: int | tuple[int, ...] | None = None,
) -> "Choice":
    """The backend that computes an operation.

    The operation is tried on `x`, or on a few elements of the dtype, since a backend may decline a call.

    Parameters
    ----------
    op : str
        A name of :data:`OPERATIONS`, for example ``"layer_norm_backward"``.
    dtype : dtype-like, default "float32"
        Of ``x``, where no `x` is given.
    x : array, optional
        An array whose shape and memory layout count.
    axis : int or tuple of int, optional
        ``axis`` or ``channel_axis`` of the operation; by default the operation's own default.

    Returns
    -------
    str
        The name, with an attribute ``copies``: whether `x` in its layout is copied to another one first.
        False where no `x` is given.

    Raises
    ------
    ValueError, TypeError
        If there is no such operation, or it does not take `x`, the dtype or `axis`.

    Examples
    --------
    >>> import normlib
    >>> with normlib.backends.use("numpy"):
    ...     choice = normlib.backends.which("group_norm", "float64")
    >>> choice, choice.copies
    ('numpy', False)
    """
    if op not in OPERATIONS:
        raise ValueError(f"there is no operation {op!r}, only {', '.join(OPERATIONS)}")
    norm = FUNCTIONS[op].op
    given = np.ones((2, 2, 2), _dtype(dtype)) if x is None else _arguments.convert(op, "x", x)
    sample = _arguments.array(op, given, ndim=1 if norm.of_features else 2)
    if axis is None:
        axis = -1 if norm.of_features else 1
    axis = _arguments.axes(op, axis, sample.ndim) if norm.of_features else _arguments.channel(op, axis, sample.ndim)
    call = Call(FUNCTIONS[op], [_sample(argument, norm, sample, axis) for argument in FUNCTIONS[op].arguments])
    table = _active.get()
    _taken.set(table.candidates[op][0][0] if table.candidates[op] else table.name)
    if sample.size:
        with np.errstate(all="ignore"):
            run(call, call.outputs()[0])
    choice = Choice(_taken.get())
    copies = getattr(_registry.get(choice), "copies", None)
    if x is not None and copies is not None:
        choice.copies = sample is not given or bool(copies(op, sample, axis))
    return choice


def _dtype(dtype):
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def _sample(argument, norm, x, axis):
    """A value of an argument for a call on x."""
    if argument.name in ("x", "dy"):
        return x
    if argument.name in ("axis", "channel_axis"):
        return axis
    if isinstance(argument, Role) and argument.kind == "statistic":
        return np.ones(norm.statistics_shape(x.shape, axis, 1 if norm.has_groups else None))
    if argument.name == "weight" or (isinstance(argument, Role) and argument.kind == "running"):
        return np.ones(norm.parameter_shape(x.shape, axis), x.dtype if argument.name == "weight" else np.float64)
    return 1 if argument.name == "num_groups" else argument.default
