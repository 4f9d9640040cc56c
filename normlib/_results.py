"""What backends of others raise and return: where it is amiss, the error names them."""

import numpy as np

from ._arguments import computed


def blame(op, name, error):
    """Raise the error of a backend as one that names it; once, also where the backend calls itself through normlib."""
    if name in ("cython", "numpy") or getattr(error, "backend", None) == name:
        raise error
    failure = RuntimeError(f"{op}: backend {name!r} raised {type(error).__name__}: {error}")
    failure.backend = name
    raise failure from error


def check(op, name, returned, expected):
    """Check what the function of a backend returned by what a :class:`normlib._call.Call` expects."""
    words = ", ".join(result[0] for result in expected)
    if not isinstance(returned, (tuple, list)) or len(returned) != len(expected):
        raise _amiss(op, name, type(returned).__name__, f"a tuple ({words})")
    for value, (what, shape, dtypes) in zip(returned, expected, strict=True):
        if shape is None:
            if value is not None:
                raise _amiss(op, name, f"{what} unasked", "None")
        elif not isinstance(value, np.ndarray):
            raise _amiss(op, name, f"{what} as {type(value).__name__}", "a NumPy array")
        elif value.shape != shape or value.dtype.name not in dtypes:
            raise _wrong(op, name, what, value, " or ".join(dtypes), shape)


def guarded(function, name, direct):
    """The direct function of a plugin: what it raises or returns amiss names it."""
    op, at = function.name, function.names.index("x")
    names = [result.name for result in function.results]

    def guard(*arguments):
        *args, fused = arguments
        if fused:  # of which it has not heard
            return NotImplemented
        try:
            returned = direct(*args)
        except NotImplementedError:
            return NotImplemented
        except Exception as error:
            blame(op, name, error)
        if returned is NotImplemented:
            return returned
        wanted = names if function.backward or args[-1] else names[:1]
        values = returned if len(wanted) > 1 else [returned]
        if not isinstance(values, (tuple, list)) or len(values) != len(wanted):
            raise _amiss(op, name, type(returned).__name__, f"a tuple ({', '.join(wanted)})")
        for what, value in zip(wanted, values, strict=True):
            if not isinstance(value, np.ndarray) and not (function.backward and value is None and what != "dx"):
                raise _amiss(op, name, f"{what} as {type(value).__name__}", "a NumPy array")
        x = np.asarray(args[at])
        dtype = computed(x.dtype)
        if (values[0].shape, values[0].dtype.name) != (x.shape, dtype.name):
            raise _wrong(op, name, names[0], values[0], dtype, x.shape)
        return returned

    return guard


def _amiss(op, name, came, expected):
    return RuntimeError(f"{op}: backend {name!r} returned {came}, expected {expected}")


def _wrong(op, name, what, value, dtype, shape):
    return _amiss(op, name, f"{what} as {value.dtype} of shape {value.shape}", f"{dtype} of shape {shape}")
