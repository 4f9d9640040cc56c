"""One array, many memory layouts: each function returns an array of the same values laid out in another way."""

import numpy as np


def _strided(a):
    spread = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    spread[..., ::2] = a
    return spread[..., ::2]


def _padded(a):
    room = np.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
    room[..., : a.shape[-1]] = a
    return room[..., : a.shape[-1]]


def _negative(a):
    flip = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[flip])[flip]


def _readonly(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _misaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


# Orders of the axes in memory, outermost first. The last bits of a result may depend on them, on nothing else here.
ORDERS = {
    "contiguous": lambda n: tuple(range(n)),
    "channels_last": lambda n: (0, *range(2, n), 1) if n > 1 else (0,),
    "channels_first": lambda n: (0, n - 1, *range(1, n - 1)) if n > 1 else (0,),
    "transposed": lambda n: (*range(1, n), 0),
    "fortran": lambda n: tuple(reversed(range(n))),
}


def in_order(order, layout="contiguous"):
    """A layout, with the axes lying in memory in the given order."""

    def lay_out(a):
        axes = ORDERS[order](a.ndim)
        return LAYOUTS[layout](a.transpose(axes)).transpose(np.argsort(axes))

    return lay_out


LAYOUTS = {
    "contiguous": lambda a: np.array(a, order="C"),
    **{order: in_order(order) for order in ORDERS if order != "contiguous"},
    "strided": _strided,
    "padded": _padded,
    "negative": _negative,
    "readonly": _readonly,
    "misaligned": _misaligned,
    "byteswapped": lambda a: a.astype(a.dtype.newbyteorder(), order="C"),
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "broadcast_last": lambda a: np.broadcast_to(a[..., :1], a.shape),
}
UNWRITABLE = frozenset({"readonly", "broadcast", "broadcast_last"})


def has_layout(layout, dtype):
    """Whether `dtype` can be laid out so: ml_dtypes has no byte-swapped bfloat16."""
    return layout != "byteswapped" or np.dtype(dtype).name != "bfloat16"


def shares_order(x, y):
    """Whether y lies in memory as NumPy would lay out a ufunc's result for x."""
    return y.strides == np.empty_like(x, y.dtype, subok=False).strides or 1 in x.shape or x.size == 0
