"""Calls of one shape, checked once: :func:`prepare`."""

import copy
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from . import _arguments, _kernels, backends, ops
from ._call import Call
from .description import DTYPES, FUNCTIONS, REQUIRED

if TYPE_CHECKING:
    from typing import Unpack

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    class _Arguments(TypedDict, total=False):
        weight: ArrayLike | None
        bias: ArrayLike | None
        axis: int | tuple[int, ...] | list[int]
        eps: float
        num_groups: int
        channel_axis: int
        running_mean: ArrayLike | None
        running_var: ArrayLike | None
        training: bool
        use_input_stats: bool
        momentum: float
        activation: Literal["relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid"] | None
        negative_slope: float | None
        round_first: bool | None
        out_dtype: DTypeLike | None

    _Norm = Literal["layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"]

__all__ = ["Plan", "prepare"]

PER_CALL = ("x", "out", "return_stats")  # arguments of a function that a plan is not given
BESIDE = ("activation", "negative_slope", "round_first", "out_dtype")  # what it takes of `fused`


class Plan:
    """A call of a norm that was checked once, for arrays of one dtype, shape and memory layout.

    It comes from :func:`prepare`. ``plan(x)`` and ``plan(x, out)`` are the function's result, with the same bits.
    Several threads may call one plan at the same time.
    """

    def __init__(self, op, like, y, options, table):
        self.op = op
        self._forms = {"x": (like.dtype, like.shape, _steps(like)), "out": (y.dtype, y.shape, _steps(y))}
        self._options = options
        self._held = [(name, a) for name, a in options.items() if isinstance(a, np.ndarray)]
        self._function, self._table = getattr(ops, op), table

    def __call__(self, x: "NDArray[Any]", out: "NDArray[Any] | None" = None) -> "NDArray[Any]":
        """The result for an `x` like that of the plan, in `out` if that is given."""
        self._check("x", x)
        if out is not None:
            self._check("out", out)
            self._check_memory(x, out)
        return backends.by(self._table, self._function, x, out=out, **self._options)

    def _check(self, name, given):
        where = f"plan of {self.op}: {name}"
        dtype, shape, steps = self._forms[name]
        if type(given) is not np.ndarray:
            raise TypeError(f"{where} is a {type(given).__name__}, expected a NumPy array")
        if given.dtype != dtype:
            raise TypeError(f"{where} has dtype {given.dtype}, expected {dtype}")
        if given.shape != shape:
            raise ValueError(f"{where} has shape {given.shape}, expected {shape}")
        if _steps(given) != steps:
            words = f"{steps} along the axes of more than one element"
            raise ValueError(f"{where} has strides {given.strides}, expected {words}")
        if not given.flags.aligned:
            raise ValueError(f"{where} is not aligned, expected an aligned array")
        if name == "out" and not given.flags.writeable:
            raise ValueError(f"{where} is read-only, expected a writeable array")

    def _check_memory(self, x, out):
        same = x.ctypes.data == out.ctypes.data and self._forms["x"] == self._forms["out"]
        for name, array in [*([] if same else [("x", x)]), *self._held]:
            if np.may_share_memory(out, array):
                expected = "memory of its own, or x itself" if name == "x" else "memory of its own"
                raise ValueError(f"plan of {self.op}: out shares memory with {name}, expected {expected}")

    def __repr__(self) -> str:
        dtype, shape, _ = self._forms["x"]
        return f"<plan of {self.op} for {dtype} of shape {shape}>"

    def __reduce__(self):
        raise TypeError(f"{self!r} holds memory of this process, expected a plan that is prepared where it is used")


def prepare(op: "_Norm", like: "NDArray[Any]", **arguments: "Unpack[_Arguments]") -> Plan:
    """A norm for arrays of one dtype, shape and memory layout, which is called many times.

    What a function of normlib checks at each call is checked once. A call of the plan then looks only at what may have
    changed, and takes about a third of the time for one row.

    Parameters
    ----------
    op : {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"}
        The name of the function.
    like : ndarray
        An array of the dtype, shape and strides that all will have. Its values do not matter, and it is not kept.
    **arguments
        Those of the function by its names: weight, bias, axis, eps, num_groups, channel_axis, running statistics and
        modes, activation, negative_slope, round_first, out_dtype. It does not take what is another array at each call
        (residual, add, gate, where), what returns more than an array (return_stats, quantize), nor running
        statistics that each call would move.

    Returns
    -------
    Plan
        To be called as ``plan(x)`` or ``plan(x, out)``. It computes by the backend that is in use now.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit. In a call of the plan: if `x` is no NumPy array, or not of the dtype, shape and
        strides of `like`; if `out` is not of those of the result, not writeable, or shares memory with anything
        but an `x` that is the same array.

    Notes
    -----
    A plan keeps the arrays that it is given. Running statistics, and a weight or bias without gaps in the precision
    that is computed in (float64 beside float64, else float32), are not copied: values that are written there later
    count. Any other weight or bias is converted when the plan is made, and later values do not count.

    Examples
    --------
    >>> import numpy as np
    >>> import normlib
    >>> x, weight = np.array([[1.0, 7.0]]), np.array([1.0, 2.0])
    >>> plan = normlib.prepare("rms_norm", like=x, weight=weight, eps=0)
    >>> plan(x)
    array([[0.2, 2.8]])
    >>> out = np.empty_like(x)
    >>> plan(-x, out) is out
    True
    >>> plan
    <plan of rms_norm for float64 of shape (1, 2)>
    """
    function = FUNCTIONS.get(op) if isinstance(op, str) else None
    if function is None or function.backward:
        words = ", ".join(repr(name) for name, f in FUNCTIONS.items() if not f.backward)
        raise (ValueError if isinstance(op, str) else TypeError)(f"prepare: op is {op!r}, expected one of {words}")
    if type(like) is not np.ndarray:
        raise TypeError(f"prepare: like is a {type(like).__name__}, expected a NumPy array")
    if like.dtype.name not in DTYPES or not like.dtype.isnative:
        raise TypeError(f"prepare: like has dtype {like.dtype}, expected {', '.join(DTYPES)}")
    own = {a.name: a.default for a in function.arguments if a.name not in PER_CALL}
    beside = [name for name in BESIDE if name in function.fused]
    for name in arguments:
        if name not in own and name not in beside:
            raise TypeError(f"prepare: a plan of {op} takes no {name}, expected one of {', '.join([*own, *beside])}")
    options = own | {name: value for name, value in arguments.items() if name in own or value is not None}
    for name, value in options.items():
        if value is REQUIRED:
            raise TypeError(f"prepare: a plan of {op} needs {name}")
    fused = {name: options[name] for name in beside if name in options}
    values = [{"x": like, "out": None, "return_stats": False}.get(name, options.get(name)) for name in function.names]
    checked = Call(function, values, fused)
    if checked.moves:
        raise ValueError(f"prepare: a plan of {op} does not move running statistics, expected {function.op.mode}=False")
    working = np.result_type(like.dtype, np.float32)
    for name in function.op.parameters:
        if options[name] is not None:
            options[name] = checked.values[name].astype(working, copy=False)
    y = _arguments.empty_like(like, checked.out_dtype)
    table = backends.active()
    compiled = getattr(table, f"{op}_direct") is _kernels.direct(op)
    plain = Plan(op, like, y, options, copy.copy(table))  # which `set_default` does not change
    if not compiled:
        return plain
    values = [options.get(name, value) for name, value in zip(function.names, values, strict=True)]
    return _kernels.plan(plain, values, fused, like, y)


def _steps(a):
    """The strides along the axes of more than one element."""
    return tuple(stride for stride, n in zip(a.strides, a.shape, strict=True) if n > 1)
