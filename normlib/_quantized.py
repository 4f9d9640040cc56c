"""Quantized arrays back to numbers."""

import numpy as np

from . import _arguments as a
from . import _arrays


def dequantize(q, scale, *, axis=-1, dtype=None, out=None):
    """What :func:`layer_norm` or :func:`rms_norm` quantized, as numbers: ``q * scale``.

    Parameters
    ----------
    q : array_like
        Integers.
    scale : array_like
        A number, or the shape of `q` without `axis`.
    axis : int, or tuple or list of int, default -1
        The axes that share a scale.
    dtype : dtype, optional
        That of the result; by default that of `scale`, or float32 for a number.
    out : ndarray, optional
        Where to put the result.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> q, scale = normlib.layer_norm(np.float32([[1, 2, 4]]), quantize="int8")
    >>> q
    array([[-102,  -25,  127]], dtype=int8)
    >>> normlib.dequantize(q, scale).round(2)
    array([[-1.07, -0.26,  1.34]], dtype=float32)
    """
    name = "dequantize"
    kind, like = _arrays.kind_of(q), q
    q, scale, filled = (_arrays.numpy_of(name, n, v) for n, v in (("q", q), ("scale", scale), ("out", out)))
    q = a.convert(name, "q", q)
    if q.dtype.kind not in "iu":
        raise TypeError(f"{name}: q has dtype {q.dtype}, expected integers")
    axes = a.axes(name, axis, q.ndim)
    working = np.dtype(np.float32) if isinstance(scale, (int, float)) else a.array(name, scale, "scale", ndim=0).dtype
    shape = tuple(n for i, n in enumerate(q.shape) if i not in axes)
    scale = a.scales(name, scale, working, shape, f"the shape of q without axis={axis}")
    dtype = working if dtype is None else a.float_dtype(name, "dtype", dtype)
    filled, seen = a.output(name, filled, q, [q], [scale], dtype=dtype, words="the shape of q")
    product = np.result_type(dtype, working, np.float32)
    np.multiply(q, np.expand_dims(scale, axes), out=filled, dtype=product, casting="unsafe")
    if filled is not seen:
        seen[...] = filled
    return kind.returned(filled, like) if out is None else out
