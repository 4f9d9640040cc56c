"""``torch.ops.normlib`` in operators of ONNX, for the exporter of torch.

Where ONNX has an operator for a norm it is used, as runtimes have kernels for these and fuse them with others; else the
formula, that of an RMSNorm as ONNX Runtime knows it. 16 bits are normalized in float32.
"""

import inspect
import math

from onnx_ir import DataType
from onnxscript import opset18 as op

from ...description import FUNCTIONS
from ...ops import OPS
from ..torch._formulas import _order

_TYPES = {"int[]": list[int], "float": float, "int": int, "bool": bool, "str": str}
_DTYPES = {
    "float16": DataType.FLOAT16,
    "bfloat16": DataType.BFLOAT16,
    "float32": DataType.FLOAT,
    "float64": DataType.DOUBLE,
}


def translation(name):
    """The translation of an operator, with its arguments: by their types the exporter tells tensors from options."""

    def translate(*tensors, **options):
        given = signature.bind(*tensors, **options)
        given.apply_defaults()
        return _translated(name, **given.arguments)

    function, empty, parameters = FUNCTIONS[name], inspect.Parameter.empty, []
    for argument in (*function.roles, *function.options, *function.fused.values()):
        if argument.torch:
            default = None if argument.name in function.fused else empty
            hint = _TYPES.get(argument.torch.removesuffix("?"), empty)
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(argument.name, kind, default=default, annotation=hint))
    signature = inspect.Signature(parameters)
    translate.__name__, translate.__signature__ = name, signature
    translate.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not empty}
    return translate


def _translated(name, x, **given):
    """What the operator returns: y, the statistics, running statistics, the sum with a residual."""
    norm, running = OPS[name], given.get("running_mean")
    fixed = norm.mode is not None and not given[norm.mode] and running is not None
    if running is not None and not fixed:
        raise NotImplementedError(f"{name}: running statistics that move have no translation; export model.eval()")
    # Of what is computed the exporter tells neither shape nor dtype
    work = DataType.DOUBLE if x.dtype == DataType.DOUBLE else DataType.FLOAT
    given |= {"shape": x.shape, "work": work}
    total = x if given["residual"] is None else op.Add(x, given["residual"])
    wide = _cast(total, x.dtype, work)
    gate = given["gate"]
    opened = None if gate is None else _ACTIVATIONS[given["gate_activation"] or "silu"](_as(gate, work), None)
    if given["gate_first"]:
        wide = op.Mul(wide, opened)
    z, mean, rstd = _fixed(norm, wide, given) if fixed else _normalized(norm, wide, given)
    y = _by_operator(norm, wide, given, fixed)
    if y is None:
        z = _cast(_cast(z, work, x.dtype), x.dtype, work) if given.get("round_first") else z
        y = _affine(norm, z, given)
    if given["add"] is not None:
        y = op.Add(y, _as(given["add"], work))
    if given["activation"] is not None:
        y = _ACTIVATIONS[given["activation"]](y, given["negative_slope"])
    if gate is not None and not given["gate_first"]:
        y = op.Mul(y, opened)
    if given["where"] is not None:
        y = op.Where(given["where"], y, op.CastLike(0.0, y))
    y = _cast(y, work, x.dtype if given["out_dtype"] is None else _DTYPES[given["out_dtype"]])
    statistics = [s for s, kept in ((mean, "mean"), (rstd, "rstd")) if kept in norm.statistics]
    still = [_nothing() for _ in range(2 * ("running_mean" in given))]
    return y, *statistics, *still, _nothing() if given["residual"] is None else total


def _normalized(norm, x, given):
    """z = (x - mean) / root, the mean and 1 / root, of the statistics of x."""
    sizes, axis, groups = given["shape"], given[norm.axis_name], given.get("num_groups")
    ndim = len(sizes)
    reduced, framed, where = norm.reduced_axes(ndim, axis), x, given["where"]
    if groups is not None:  # an axis more: the groups before the channels of each
        c = axis % ndim
        parts = op.Constant(value_ints=[groups, sizes[c] // groups])
        shape = op.Concat(op.Shape(x, start=0, end=c), parts, op.Shape(x, start=c + 1), axis=0)
        framed = op.Reshape(x, shape)
        where = None if where is None else op.Reshape(op.Expand(where, op.Shape(x)), shape)
        reduced = sorted({i + (i > c) for i in reduced} | {c + 1})
    axes = op.Constant(value_ints=list(reduced))

    def inside(t):
        return t if where is None else op.Where(where, t, op.CastLike(0.0, t))

    def average(t):
        if where is None:
            return op.ReduceMean(t, axes, keepdims=1)
        count = op.ReduceSum(op.CastLike(op.Expand(where, op.Shape(framed)), t), axes, keepdims=1)
        return op.Div(op.ReduceSum(t, axes, keepdims=1), count)

    centered, mean = inside(framed), None
    if "mean" in norm.statistics:
        mean = average(centered)
        centered = inside(op.Sub(framed, mean))
    var = average(op.Pow(centered, op.CastLike(2.0, x)))
    root = op.Sqrt(op.Add(var, op.CastLike(given["eps"], x)))
    z = op.Div(centered, root)
    z = z if groups is None else op.Reshape(z, op.Shape(x))
    return z, *(_statistic(norm, s, axes, axis, ndim) for s in (mean, op.Reciprocal(root)))


def _statistic(norm, value, axes, axis, ndim):
    """A statistic as the operator returns it: in float64, without the axes that it was taken over."""
    if value is None:
        return None
    value = op.Squeeze(op.Cast(value, to=DataType.DOUBLE), axes)
    return op.Transpose(value, perm=[1, 0]) if norm.per_sample and axis in (0, -ndim) else value


def _fixed(norm, x, given):
    """The same of the statistics that are given."""
    axis, ndim = given["channel_axis"], len(given["shape"])
    mean, var = (_as(given[key], given["work"]) for key in ("running_mean", "running_var"))
    var = op.Add(var, op.CastLike(given["eps"], var))
    rstd = op.Reciprocal(op.Sqrt(var))
    z = op.Mul(op.Sub(x, _laid(norm, ndim, axis, mean, 1)), _laid(norm, ndim, axis, rstd, 1))
    statistics = [op.Cast(s, to=DataType.DOUBLE) for s in (mean, rstd)]
    if norm.per_sample:
        sizes = [op.Shape(x, start=a, end=a + 1) for a in (0 if axis % ndim else 1, axis % ndim)]
        statistics = [op.Expand(s, op.Concat(*sizes, axis=0)) for s in statistics]
    return z, *statistics


def _by_operator(norm, x, given, fixed):
    """y by an operator of ONNX; None where there is none for these axes and options."""
    ndim, axis, eps, work = len(given["shape"]), given[norm.axis_name], given["eps"], given["work"]
    parameters = [given.get(key) for key in ("weight", "bias")]
    of_x = all(t is None or len(t.shape) == (len(axis) if norm.of_features else 1) for t in parameters)
    if given["where"] is not None or given.get("round_first") or "mean" not in norm.statistics:
        return None
    if norm.of_features:
        count = len(axis)
        if not of_x or norm.reduced_axes(ndim, axis) != tuple(range(ndim - count, ndim)):
            return None
        filled = _filled(parameters, work, op.Shape(x, start=ndim - count))
        return _first(op.LayerNormalization(x, *filled, axis=-count, epsilon=eps))
    if axis % ndim != 1:
        return None
    if fixed:
        if norm.per_sample or not of_x:
            return None
        filled = _filled(parameters, work, op.Shape(x, start=1, end=2))
        statistics = (_as(given[key], work) for key in ("running_mean", "running_var"))
        return _first(op.BatchNormalization(x, *filled, *statistics, epsilon=eps))
    if not norm.per_sample:
        return None
    groups = given.get("num_groups") or given["shape"][1]
    rows = op.Reshape(x, op.Constant(value_ints=[0, groups, -1]))
    z = op.InstanceNormalization(rows, *_filled([None, None], work, op.Constant(value_ints=[groups])), epsilon=eps)
    return _affine(norm, op.Reshape(z, op.Shape(x)), given)


def _filled(parameters, work, shape):
    """Weight and bias; ones and zeros where there are none."""
    return [
        op.Expand(op.Cast(op.Constant(value_float=value), to=work), shape) if t is None else _as(t, work)
        for t, value in zip(parameters, (1.0, 0.0), strict=True)
    ]


def _first(results):
    return results[0] if isinstance(results, tuple) else results


def _affine(norm, z, given):
    for key, step in (("weight", op.Mul), ("bias", op.Add)):
        if given.get(key) is not None:
            t = given[key]
            laid = _laid(norm, len(given["shape"]), given[norm.axis_name], _as(t, given["work"]), len(t.shape))
            z = step(z, laid)
    return z


def _laid(norm, ndim, axis, t, axes):
    """A parameter of so many axes as it broadcasts against x."""
    if norm.of_channels and axes == 1:
        behind = ndim - 1 - axis % ndim
        return op.Unsqueeze(t, op.Constant(value_ints=list(range(1, behind + 1)))) if behind else t
    order, missing = _order(norm, ndim, axis), ndim - axes
    if order == sorted(order):
        return t
    t = op.Unsqueeze(t, op.Constant(value_ints=list(range(missing)))) if missing else t
    return op.Transpose(t, perm=[order.index(a) for a in range(ndim)])


def _as(t, dtype):
    """An argument in a dtype."""
    return _cast(t, t.dtype, dtype)


def _cast(t, of, to):
    return t if of == to else op.Cast(t, to=to)


def _nothing():
    return op.Constant(value_floats=[])


def _gelu(t, _):
    half = op.Mul(t, op.CastLike(0.5, t))
    return op.Mul(half, op.Add(op.Erf(op.Div(t, op.CastLike(math.sqrt(2), t))), op.CastLike(1.0, t)))


def _gelu_tanh(t, _):
    cube = op.Mul(op.CastLike(0.044715, t), op.Pow(t, op.CastLike(3.0, t)))
    inner = op.Mul(op.CastLike(math.sqrt(2 / math.pi), t), op.Add(t, cube))
    return op.Mul(op.Mul(op.CastLike(0.5, t), t), op.Add(op.CastLike(1.0, t), op.Tanh(inner)))


_ACTIVATIONS = {
    "relu": lambda t, _: op.Relu(t),
    "leaky_relu": lambda t, slope: op.LeakyRelu(t, alpha=0.01 if slope is None else slope),
    "silu": lambda t, _: op.Mul(t, op.Sigmoid(t)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "sigmoid": lambda t, _: op.Sigmoid(t),
}
