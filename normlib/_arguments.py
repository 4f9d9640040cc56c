"""Checks of public arguments, and the canonical form in which backends get them.

Each function takes the name of the operation first: errors say which function, which argument, what
was expected and what came.
"""

import contextvars
import functools
import inspect
import operator
import sys
import warnings

import numpy as np

from .description import DTYPES, FUNCTIONS

_WORDS = "float64, float32, float16 or bfloat16"


_told: set[str] = set()  # the functions that have warned of rows


def by_name(function, more=()):
    """Lets a function show the signature without its `*positional`, which catches what must be named, and with `more`
    keywords for its `**fused`."""
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    shown += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in more]
    function.__signature__ = signature.replace(parameters=shown)
    return function


def fusible(function, fused=None):
    """Shows in the signature and the docstring of a public function what `**fused` stands for."""
    fused = FUNCTIONS[function.__name__].fused.values() if fused is None else fused
    by_name(function, [a.name for a in fused])
    if function.__doc__:
        text = "".join(f"    {a.name} : {a.documented}, optional\n        {a.words}\n" for a in fused)
        before, mark, after = function.__doc__.partition("\n    Returns\n    -------\n")
        function.__doc__ = f"{before}{text}{mark}{after}"
    return function


def misplaced(op, count):
    """The error for arguments after x without a name, of which torch's order and ours differ."""
    call = f"{op}(x, running_mean=..., running_var=..., weight=..., bias=...)"
    came = "1 argument" if count == 1 else f"{count} arguments"
    return TypeError(f"{op}: {came} after x came without a name, expected names: {call}")


def warn(text, category):
    """Warn of the line outside this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def warn_of_rows(op, x, channel_axis):
    """Warn once where x may be one image, whose rows are taken for samples."""
    shape = () if op in _told else np.shape(x)
    if len(shape) == 3 and channel_axis % 3 != 1:
        channel_axis %= 3
        sample = 0 if channel_axis else 1
        if shape[sample] > 1:
            _told.add(op)
            warn(
                f"{op}: x has shape {tuple(shape)}, and its axis {sample} is taken for {shape[sample]} samples; "
                f"if it is one image, give x[np.newaxis] with channel_axis={channel_axis - 3} (this is said once)",
                UserWarning,
            )


def convert(op, name, value, dtype=None):
    try:
        return np.asarray(value, dtype)
    except MemoryError:
        raise
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{op}: {name} cannot be made an array: {error}") from error


def _canonical(array):
    """`array` in native byte order, aligned."""
    if array.dtype.isnative and array.flags.aligned:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def _has_dtype(value):
    return not isinstance(value, (list, tuple, int, float))


@functools.lru_cache(64)
def _is_taken(dtype):
    return dtype.name in DTYPES  # NumPy composes the name anew each time


def computed(dtype):
    """The dtype of the result for an x of `dtype`: integers promote as beside a float32."""
    return np.result_type(dtype, np.float32) if dtype.kind in "biu" else dtype


def array(op, x, name="x", ndim=1):
    """`x` as an array of one of the four dtypes."""
    x = convert(op, name, x)
    dtype = computed(x.dtype)
    if not _is_taken(dtype):
        raise TypeError(f"{op}: {name} has dtype {x.dtype}, expected {_WORDS}, or integers")
    if x.ndim < ndim:
        words = "one axis" if ndim == 1 else f"{ndim} axes"
        raise ValueError(f"{op}: {name} has shape {x.shape}, expected at least {words}")
    return _canonical(x if dtype is x.dtype else x.astype(dtype))


def like_x(op, name, value, x, words="the dtype of x"):
    """An array of the shape and dtype of x."""
    value = convert(op, name, value, None if _has_dtype(value) else x.dtype)
    if value.dtype.name != x.dtype.name:
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, expected {x.dtype.name}, {words}")
    if value.shape != x.shape:
        raise ValueError(f"{op}: {name} has shape {value.shape}, expected {x.shape}, the shape of x")
    return _canonical(value)


def float_dtype(op, name, value):
    """One of the four dtypes, by its name or as one of NumPy's."""
    if not isinstance(value, (str, type, np.dtype)):
        raise TypeError(f"{op}: {name} is {value!r}, expected {_WORDS}")
    if isinstance(value, str) and value not in DTYPES:
        raise ValueError(f"{op}: {name} is {value!r}, expected {_WORDS}")
    if isinstance(value, str) and value == "bfloat16":
        return bfloat16(op, name)
    dtype = convert(op, name, [], value).dtype
    if not _is_taken(dtype) or not dtype.isnative:
        raise TypeError(f"{op}: {name} is {dtype}, expected {_WORDS}")
    return dtype


def bfloat16(op, name):
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(f"{op}: {name} has dtype bfloat16, which needs the package ml_dtypes") from None
    return np.dtype(ml_dtypes.bfloat16)


def mask(op, name, value, x):
    """Booleans that broadcast against x, in its shape."""
    value = convert(op, name, value)
    if value.dtype != bool:
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, expected bool")
    try:
        return np.broadcast_to(value, x.shape)
    except ValueError:
        words = f"expected one that broadcasts to {x.shape}, the shape of x"
        raise ValueError(f"{op}: {name} has shape {value.shape}, {words}") from None


def choice(op, name, value, choices, more=", or None"):
    if not isinstance(value, str) or value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{op}: {name} is {value!r}, expected {' or '.join(map(repr, choices))}{more}")
    return value


def scales(op, value, dtype, shape, words):
    """Those of a quantized result, a number or one for each row, in the working type."""
    value = convert(op, "scale", value)
    if value.dtype.kind not in "biu" and not _is_taken(value.dtype):
        raise TypeError(f"{op}: scale has dtype {value.dtype}, expected {_WORDS}")
    if value.shape not in ((), shape):
        raise ValueError(f"{op}: scale has shape {value.shape}, expected {shape}, {words}, or a number")
    value = value.astype(np.result_type(dtype, np.float32), copy=False)
    return np.require(np.broadcast_to(value, shape), requirements=["C", "A"])


def keywords(place, given, names):
    """The error that Python gives to a keyword that a signature has not."""
    for name in given:
        if name not in names:
            raise TypeError(f"{place}() got an unexpected keyword argument {name!r}")


def wanted(function, fused):
    """What is given of the arguments for the same pass; an error where the function has no such argument."""
    keywords(function.name, fused, function.fused)
    return {name: value for name, value in fused.items() if value is not None}


def weight_and_dtype(op, name, value, x, shapes, meaning):
    """`value` contiguous, in the dtype of x or, beside a 16-bit x, its own or float32; None stays None. Its shape is
    the first of `shapes`, with or without axes before it that broadcast to the second.
    And the dtype of its gradient, which is that of `value` as it was given."""
    if value is None:
        return None, x.dtype
    value = convert(op, name, value, None if _has_dtype(value) else x.dtype)
    if not _is_taken(value.dtype):
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, expected {_WORDS}")
    shape, kept = shapes
    leading = value.shape[: max(0, value.ndim - len(shape))]
    if value.shape[len(leading) :] != shape or not _broadcasts(leading, kept):
        more = f", or axes before it that broadcast to {kept}" if leading else ""
        raise ValueError(f"{op}: {name} has shape {value.shape}, expected {shape}, {meaning}{more}")
    value = _canonical(value)
    wanted = value.dtype if value.dtype == x.dtype else np.result_type(x.dtype, np.float32)
    return np.ascontiguousarray(value, wanted), value.dtype


def _broadcasts(leading, kept):
    own = kept[len(kept) - len(leading) :]
    return len(leading) <= len(kept) and all(n in (1, k) for n, k in zip(leading, own, strict=True))


def not_sizes(op, weight, x):
    """An error where `weight` is what torch has in its place, the sizes of the axes to normalize over."""
    if isinstance(weight, (list, tuple)) and 1 < len(weight) <= x.ndim and all(isinstance(n, int) for n in weight):
        count = len(weight)
        if tuple(weight) == x.shape[-count:]:
            axis = tuple(range(-count, 0))
            raise TypeError(f"{op}: weight is {weight!r}, sizes of the last axes of x, expected axis={axis} for these")


def statistic(op, name, value, shape, meaning, dtypes=("float64", "float32")):
    """`value` as a contiguous float64 array."""
    value = convert(op, name, value, None if _has_dtype(value) else np.float64)
    if value.dtype.name not in dtypes:
        words = _WORDS if dtypes is DTYPES else "float64 or float32"
        raise TypeError(f"{op}: {name} has dtype {value.dtype}, expected {words}")
    if value.shape != shape:
        raise ValueError(f"{op}: {name} has shape {value.shape}, expected {shape}, {meaning}")
    return np.require(value, np.float64, ["C", "A"])


def running(op, mean, var, shape, update):
    """Whether there are running statistics; checks that they can be used, or updated in place."""
    if mean is None and var is None:
        return False
    for name, value in (("running_mean", mean), ("running_var", var)):
        if value is None:
            raise ValueError(f"{op}: {name} is None, expected both running_mean and running_var or neither")
        statistic(op, name, value, shape, "one value a channel", DTYPES)
        if update and not isinstance(value, np.ndarray):
            raise TypeError(
                f"{op}: {name} is a {type(value).__name__}, expected a NumPy array, to be updated in place"
            )
        if update and not value.flags.writeable:
            raise ValueError(f"{op}: {name} is read-only, expected a writeable array, to be updated in place")
    return True


def constant(value, shape):
    """A float64 copy of a running statistic, repeated to `shape`."""
    return np.array(np.broadcast_to(np.asarray(value, np.float64), shape), order="C")


def integer(op, name, value, words="an integer"):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected {words}") from None


def _axis(op, name, axis, ndim, words="an integer"):
    index = integer(op, name, axis, words)
    if not -ndim <= index < ndim:
        raise ValueError(f"{op}: {name} is {index}, expected -{ndim} to {ndim - 1} for x with {ndim} axes")
    return index % ndim


def axes(op, axis, ndim):
    """`axis` as a sorted tuple of non-negative integers."""
    words = "an integer or a tuple of integers"
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    result = sorted(_axis(op, "axis", a, ndim, words) for a in given)
    if not result:
        raise ValueError(f"{op}: axis is empty, expected at least one axis")
    if len(set(result)) < len(result):
        raise ValueError(f"{op}: axis is {axis!r}, expected each axis once")
    return tuple(result)


def channel(op, channel_axis, ndim):
    return _axis(op, "channel_axis", channel_axis, ndim)


def groups(op, num_groups, channels):
    num_groups = integer(op, "num_groups", num_groups)
    if num_groups < 1 or channels % num_groups:
        words = f"a divisor of the {channels} channels of x"
        raise ValueError(f"{op}: num_groups is {num_groups}, expected {words}")
    return num_groups


def _real(op, name, value):
    if isinstance(value, (str, bytes, bool)):
        raise TypeError(f"{op}: {name} is {value!r}, expected a number")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} is {value!r}, expected a number") from None


def epsilon(op, eps):
    eps = _real(op, "eps", eps)
    if not 0 <= eps < float("inf"):
        raise ValueError(f"{op}: eps is {eps}, expected a finite number >= 0")
    return eps


def quietly(function):
    """`function` without NumPy's warnings, in a context of its own: no interrupt leaves the error state changed."""

    def ignoring(*args, **options):
        np.seterr(all="ignore")
        return function(*args, **options)

    @functools.wraps(function)
    def quiet(*args, **options):
        return contextvars.copy_context().run(ignoring, *args, **options)

    return quiet


def to_odd(values):
    """float32 with a last bit of 1 where that is not exact: what is rounded to 16 bits from there is rounded once
    (Boldo, Melquiond 2008)."""
    narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    inexact = (narrow != values) & ~np.isnan(values)
    bits[inexact] = (bits[inexact] - (np.abs(narrow[inexact]) > np.abs(values[inexact]))) | np.uint32(1)
    return narrow


def zero_by_zero():
    """What NumPy does at 0 / 0, which a constant row is if eps is 0: what np.errstate says, by default a warning."""
    if np.geterr()["invalid"] == "warn":
        warn("invalid value encountered in a norm: x is constant along the axes and eps is 0", RuntimeWarning)
    else:
        np.divide(0.0, np.zeros(1))


def fraction(op, momentum):
    momentum = _real(op, "momentum", momentum)
    if not 0 <= momentum <= 1:
        raise ValueError(f"{op}: momentum is {momentum}, expected a number from 0 to 1")
    return momentum


def slope(op, value, activation):
    value = _real(op, "negative_slope", value)
    if not np.isfinite(value):
        raise ValueError(f"{op}: negative_slope is {value}, expected a finite number")
    if activation != "leaky_relu":
        raise ValueError(f"{op}: negative_slope is given without activation='leaky_relu'")
    return value


def flag(op, name, value, words="True or False"):
    if not isinstance(value, (bool, np.bool)):
        raise TypeError(f"{op}: {name} is {value!r}, expected {words}")
    return bool(value)


def weight_grads(op, value, weight):
    return weight is not None if value is None else flag(op, "weight_grads", value, "True, False or None")


def output(op, out, x, large, small=(), name="out", dtype=None, words="the shape of x"):
    """The array for the backend to fill, and the one that the caller sees: another one where writing
    to it at once could change an input (`large` ones have the shape of x) before it was read. It has the dtype of x,
    or another `dtype`."""
    dtype = x.dtype if dtype is None else dtype
    if out is None:
        fresh = empty_like(x, dtype)
        return fresh, fresh
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{op}: {name} is a {type(out).__name__}, expected a NumPy array")
    if out.dtype.name != dtype.name:
        raise TypeError(f"{op}: {name} has dtype {out.dtype}, expected {dtype.name}, the dtype of the result")
    if out.shape != x.shape:
        raise ValueError(f"{op}: {name} has shape {out.shape}, expected {x.shape}, {words}")
    if not out.flags.writeable:
        raise ValueError(f"{op}: {name} is read-only, expected a writeable array")
    target = np.asarray(out)
    direct = (
        target.dtype.isnative
        and target.flags.aligned
        and not _may_overlap_itself(target)
        and not any(_overlap(target, a) and not _same_elements(target, a) for a in large)
        and not any(a is not None and _overlap(target, a) for a in small)
    )
    return (target if direct else np.empty_like(x, dtype)), target


def empty_like(x, dtype):
    """An output for `x` that lies in memory as that of a ufunc would."""
    if 0 not in x.strides:
        return np.empty_like(x, dtype)
    # np.empty_like takes a broadcast axis for the innermost
    flags = [["readonly"], ["writeonly", "allocate"]]
    return np.nditer([x, None], ["zerosize_ok"], flags, [x.dtype, dtype]).operands[1]


def _overlap(a, b):
    return np.may_share_memory(a, b, max_work=1000)


def _same_elements(a, b):
    same = a.__array_interface__["data"][0] == b.__array_interface__["data"][0] and a.strides == b.strides
    return same and a.dtype == b.dtype


def _may_overlap_itself(array):
    extent = array.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < extent:
            return True
        extent += stride * (size - 1)
    return False
