"""The C interface as Python sees it: addresses, ctypes functions and the table, for code that computes without Python.

The functions are those of ``normlib.h``, in the folder that :func:`normlib.get_include` names; the header documents
them. C and C++ get them by its ``normlib_import()``, Cython by ``from normlib.capi cimport rms_norm_rows``,
:class:`scipy.LowLevelCallable` and numba by this module's name and theirs.
"""

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _kernels

if _kernels.backend is None:
    raise ImportError(f"normlib.capi: there are no compiled kernels to call: {_kernels.info()['reason']}")

from ._kernels.capi import __pyx_capi__
from ._kernels.from_c import table
from .description import ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FUNCTIONS", "Array", "address", "function", "table", "table_address"]

FUNCTIONS = tuple(__pyx_capi__)
_TYPES: dict[str, type[Any]] = {
    "int": ctypes.c_int,
    "ptrdiff_t": ctypes.c_ssize_t,
    "double": ctypes.c_double,
    "char const *": ctypes.c_char_p,
}


def _capsule(name):
    try:
        return __pyx_capi__[name]
    except KeyError:
        raise ValueError(f"normlib.capi: there is no function {name!r}, only {', '.join(FUNCTIONS)}") from None


def _signature(capsule):
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return get_name(capsule)


def _pointer(capsule):
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return get_pointer(capsule, _signature(capsule))


def address(name: str) -> int:
    """The address of a function of ``normlib.h``, for any language that can call one.

    Parameters
    ----------
    name : str
        One of `FUNCTIONS`.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If there is no such function.
    """
    return _pointer(_capsule(name))


def table_address() -> int:
    """The address of the table of all functions, for ``normlib_use()`` in code that does not know Python.h."""
    return _pointer(table)


def function(name: str) -> "Callable[..., int]":
    """A function of ``normlib.h`` for ctypes, its argument types set; numba's compiled code can call it too.

    Arrays are passed as addresses: ``x.ctypes.data`` where the function takes raw memory, ``byref(Array(x))`` where it
    takes a ``normlib_array``; None is NULL. The GIL is released during the call.

    Parameters
    ----------
    name : str
        One of `FUNCTIONS`.

    Returns
    -------
    callable
        It returns the status: 0, or what :func:`error_text <function>` of the same interface puts into words.

    Examples
    --------
    >>> import numpy as np
    >>> from normlib.capi import function
    >>> layer_norm_rows = function("layer_norm_rows")
    >>> x, y = np.array([[1.0, 3.0], [0.0, -6.0]]), np.empty((2, 2))
    >>> layer_norm_rows(0, 2, 2, x.ctypes.data, None, None, 0.0, y.ctypes.data, 1)
    0
    >>> y
    array([[-1.,  1.],
           [ 1., -1.]])
    >>> function("error_text")(layer_norm_rows(0, 2, 2, None, None, None, 0.0, y.ctypes.data, 1))
    b'x: NULL, but it is needed here'
    """
    result, _, rest = _signature(_capsule(name)).decode().partition("(")
    kinds = [part.strip() for part in rest.rstrip(")").split(",") if part.strip() != "void"]
    prototype = ctypes.CFUNCTYPE(_TYPES[result.strip()], *(_TYPES.get(kind, ctypes.c_void_p) for kind in kinds))
    return prototype(address(name))


class Array(ctypes.Structure):
    """A ``normlib_array`` that describes a NumPy array, for ctypes: ``byref(Array(x))``.

    Parameters
    ----------
    a : ndarray
        Of float64, float32, float16, bfloat16 or, for a mask, bool, aligned and in native byte order. It is kept alive,
        not copied.
    """

    if TYPE_CHECKING:
        data: int | None
        dtype: int
        ndim: int
        shape: ctypes._Pointer[ctypes.c_ssize_t]
        strides: ctypes._Pointer[ctypes.c_ssize_t]

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
    )

    def __init__(self, a: np.ndarray) -> None:
        if not isinstance(a, np.ndarray):
            raise TypeError(f"normlib.capi.Array: a is a {type(a).__name__}, expected a NumPy array")
        if a.dtype.name not in ELEMENTS or not a.dtype.isnative:
            taken = f"{', '.join(ELEMENTS)} in native byte order"
            raise TypeError(f"normlib.capi.Array: a has dtype {a.dtype}, expected {taken}")
        axes = ctypes.c_ssize_t * a.ndim
        super().__init__(a.ctypes.data, ELEMENTS.index(a.dtype.name), a.ndim, axes(*a.shape), axes(*a.strides))
        self.array = a
