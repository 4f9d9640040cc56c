"""Every norm in NumPy: the fallback where nothing is compiled, and the oracle of the tests.

All work is done in float64, whatever the dtype of ``x``, and rounded once at the end (to 16 bits
through float32). An array is first laid out as rows of elements that share their statistics, which
makes each sum run along contiguous memory: NumPy then adds pairwise, and the result of a row depends
neither on the memory layout nor on the other rows. Large arrays are worked on in blocks of rows: their
float64 copies stay small, and an interrupt need not wait for the whole.

The functions follow the protocol of :mod:`normlib.backends`; they trust their arguments.
"""

import math
from functools import partial

import numpy as np

from ._arguments import quietly, to_odd
from .description import FUNCTIONS

__all__ = list(FUNCTIONS)

BLOCK = 1 << 24  # elements of a block of rows


class _Rows:
    """How an array falls into rows: transposed by `order` to `shape` and then, in C order, to `kept` rows, the shape of
    the statistics; the first `whole` axes are the same in both. The axes of parameters, of `parameter_shape` or with
    leading axes, are those at `places` of it."""

    def __init__(self, order, shape, kept, whole, parameter_shape, places):
        self.order, self.shape, self.kept, self.whole = order, tuple(shape), tuple(kept), whole
        self.parameter_shape, self.places = tuple(parameter_shape), tuple(places)

    def take(self, array):
        """A float64 copy of `array` as a matrix with one row for each statistic."""
        rows = np.array(array.transpose(self.order), dtype=np.float64, order="C")
        return rows.reshape(math.prod(self.kept), -1)

    def put(self, rows, out):
        rows = rows.reshape(self.shape)
        out.transpose(self.order)[...] = rows if out.dtype.itemsize > 2 else rows.astype(np.float32)

    def parameter(self, values):
        """Such that they broadcast in float64."""
        spread = [1] * len(self.shape)
        for place, size in zip(reversed(self.places), reversed(values.shape), strict=False):
            spread[place] = size
        order = np.argsort(self.places[len(self.places) - values.ndim :])
        return values.astype(np.float64).transpose(order).reshape(spread)

    def place(self, shape, axis):
        """The axis of a parameter of `shape` along one of the layout; None where its values are the same along that."""
        place = self.places.index(axis) - (len(self.places) - len(shape)) if axis in self.places else -1
        return place if place >= 0 and shape[place] != 1 else None

    def gather(self, rows, shape):
        """The sum of `rows` over everything that shares a parameter of `shape`."""
        own = [axis for axis in self.places if self.place(shape, axis) is not None]
        rest = [axis for axis in range(len(self.shape)) if axis not in own]
        columns = np.ascontiguousarray(rows.reshape(self.shape).transpose(own + rest))
        return columns.reshape(math.prod(shape), -1).sum(axis=1).reshape(shape)


def _normal(v):
    """The share of a normal distribution below v."""
    return np.asarray(_erfc(-v / math.sqrt(2)), np.float64) / 2


def _sigmoid(v):
    e = np.exp(-np.abs(v))
    return np.where(v < 0, e, 1.0) / (1 + e)


def _of_tanh(v):
    """z, with gelu_tanh(v) = v / (1 + exp(-z)), and dz/dv."""
    factor = math.sqrt(8 / math.pi)
    return factor * (v + 0.044715 * v**3), factor * (1 + 3 * 0.044715 * v**2)


def _weighted(v, share):
    return np.where(np.isneginf(v), -0.0, v * share)  # of -inf the limit


def _relu_slope(v, slope=0.0):
    return np.where(v <= 0, slope, 1.0)


def _silu_slope(v):
    share = _sigmoid(v)
    return share + np.where(np.isinf(v), 0, v) * share * _sigmoid(-v)


def _gelu_slope(v):
    density = np.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)
    return _normal(v) + np.where(np.isinf(v), 0, v) * density


def _gelu_tanh_slope(v):
    z, dz = _of_tanh(v)
    share = _sigmoid(z)
    return share + np.where(np.isinf(v), 0, v * share * _sigmoid(-z) * dz)


_erfc = np.frompyfunc(math.erfc, 1, 1)
# Each activation and its derivative.
ACTIVATIONS = {
    "relu": (lambda v: np.where(v <= 0, 0, v), _relu_slope),
    "leaky_relu": (lambda v, slope: np.where(v <= 0, v * slope, v), _relu_slope),
    "silu": (lambda v: _weighted(v, _sigmoid(v)), _silu_slope),
    "gelu": (lambda v: _weighted(v, _normal(v)), _gelu_slope),
    "gelu_tanh": (lambda v: _weighted(v, _sigmoid(_of_tanh(v)[0])), _gelu_tanh_slope),
    "sigmoid": (_sigmoid, lambda v: _sigmoid(v) * _sigmoid(-v)),
}


def _activate(v, fused, slope=False):
    """An activation, or its derivative, of v."""
    name = fused["activation"]
    more = [fused.get("negative_slope", 0.01)] if name == "leaky_relu" else []
    return ACTIVATIONS[name][slope](v, *more)


def _opened(layout, fused, slope=False):
    """What a gate lets through, or its derivative."""
    gate = layout.take(fused["gate"]).reshape(layout.shape)
    return ACTIVATIONS[fused["gate_activation"]][slope](gate)


def _gated(layout, rows, fused, dtype):
    """Rows times what a gate that comes first lets through, rounded."""
    u = (rows.reshape(layout.shape) * _opened(layout, fused)).reshape(rows.shape)
    u = u if dtype.itemsize > 2 else u.astype(np.float32)
    return u.astype(dtype).astype(np.float64)


def _features(x, axis):
    kept = tuple(i for i in range(x.ndim) if i not in axis)
    count, shape = len(kept), [x.shape[i] for i in kept + axis]
    parameter_shape = shape[count:]
    return _Rows(kept + axis, shape, shape[:count], count, parameter_shape, range(x.ndim))


def _channels(x, channel_axis):
    order = (channel_axis, *(i for i in range(x.ndim) if i != channel_axis))
    channels = (x.shape[channel_axis],)
    return _Rows(order, [x.shape[i] for i in order], channels, 1, channels, (1, 0))


def _groups(x, channel_axis, num_groups):
    sample, *space = (i for i in range(x.ndim) if i != channel_axis)
    order, channels = (sample, channel_axis, *space), x.shape[channel_axis]
    kept = (x.shape[sample], num_groups)
    return _Rows(order, [x.shape[i] for i in order], kept, 1, (channels,), (0, 1))


def _blocks(layout):
    """The axis along which a large array is cut, and its parts, none for any other: where each lies in arrays like x,
    in statistics, along that axis. It is one of the statistics; in channel norms the first, channels or samples."""
    axes = range(layout.whole)
    axis = max(axes, key=layout.shape.__getitem__, default=0)
    count, size = math.ceil(math.prod(layout.shape) / BLOCK), layout.shape[axis]
    if count == 1 or axis not in axes or size == 1:
        return axis, []
    whole, step = (slice(None),), math.ceil(size / count)
    parts = [slice(first, first + step) for first in range(0, size, step)]
    return axis, [((*whole * layout.order[axis], p), (*whole * axis, p), p) for p in parts]


def _at(place, array):
    return None if array is None else array[place]


def _parameter_at(layout, axis, part, values):
    """What a block needs of a parameter."""
    place = None if values is None else layout.place(values.shape, axis)
    return values if place is None else values[(slice(None),) * place + (part,)]


def _fused_at(layout, axis, block, fused):
    """The arguments for the same pass of one block."""
    i, s, part = block
    places = dict.fromkeys(fused, i) | {"scale": s, "new_scale": s}
    found = {
        key: _parameter_at(layout, axis, part, value) if key == "bias" else value[places[key]]
        for key, value in fused.items()
        if isinstance(value, np.ndarray)
    }
    return fused | found


def _times(factor, values):
    """0 where the factor is, whatever it is multiplied by."""
    return np.where(factor == 0, 0, factor * values)


def _rounded(z, dtype, fused):
    """Normalized values before the weight: in 16 bits, if asked for."""
    return z.astype(np.float32).astype(dtype).astype(np.float64) if fused.get("round_first") else z


def _affine(layout, z, weight, bias=None, add=None):
    """z * weight + bias + add, in the place of z and the shape of the layout."""
    v = z.reshape(layout.shape)
    if weight is not None:
        v *= layout.parameter(weight)
    if bias is not None:
        v += layout.parameter(bias)
    if add is not None:
        v += layout.take(add).reshape(layout.shape)
    return v


def to_int8(rows, scale=None):
    """Rows in their working type, quantized, and the scale of each: max |y| / 127, or the one given. What the kernels
    do, step by step: a product with a factor, and where that would leave its range, all of it times a power of two."""
    one = rows.dtype.type
    least, up = (2.0**-120, 2.0**100) if one is np.float32 else (2.0**-1016, 2.0**100)
    whole = np.abs(rows).max(axis=1, keepdims=True, initial=0) if scale is None else scale.reshape(-1, 1)
    units = one(127 if scale is None else 1)
    up = np.where(np.abs(whole) < one(least), one(up), one(1))
    factor = np.where(np.isfinite(whole) & (whole != 0), units / (whole * up), one(0))
    q = np.clip(rows * up * factor, -127, 127)
    q = np.where(np.isnan(q), 0, np.rint(q))
    return q, np.where(np.isfinite(whole), whole / one(127), np.nan) if scale is None else scale


def _inside(layout, fused):
    """Which elements of the rows a mask lets in; True: all."""
    return layout.take(fused["where"]) != 0 if "where" in fused else True


def _mean_square(rows, count):
    """In halves: terms that are added one by one to a large one, or to equal ones, would all be rounded alike."""
    squares, width = rows * rows, rows.shape[1]
    while width > 1:
        half = (width + 1) // 2
        squares[:, : width - half] += squares[:, half:width]
        width = half
    return squares[:, 0] / count


def _moments(rows, centered, inside):
    """The rows less their mean, the mean, and the mean square of what is left; of what is inside, and 0 outside."""
    count = rows.shape[1] if inside is True else inside.sum(axis=1)
    if not centered:
        return rows.copy(), None, _mean_square(rows, count)
    mean = rows.sum(axis=1) / count
    rest = np.where(inside, rows - mean[:, None], 0)
    correction = rest.sum(axis=1) / count  # the rounding error of the first mean (Chan, Golub and LeVeque, 1983)
    rest = np.where(inside, rest - correction[:, None], 0)
    return rest, mean + correction, _mean_square(rest, count)


def _rstd(var, eps):
    """Rounded once where longdouble is wider than float64."""
    return (1 / np.sqrt(np.add(var, eps, dtype=np.longdouble))).astype(np.float64)


def _standardize(rows, eps, centered=True, inside=True):
    """The normalized rows, and mean, variance and rstd of each."""
    z, mean, var = _moments(rows, centered, inside)
    rstd = _rstd(var, eps)
    extreme = ~np.isfinite(var) | (var < 1e-290)
    extreme[extreme] = z[extreme].any(axis=1)
    z *= rstd[:, None]
    if extreme.any():  # squares beyond float64, or a mean of few bits: once more, scaled by a power of two
        peak = np.maximum(np.abs(rows[extreme]).max(axis=1), math.sqrt(eps))
        exponent = np.where(np.isfinite(peak), np.frexp(peak)[1], 0)
        among = inside if inside is True else inside[extreme]
        rest, center, square = _moments(np.ldexp(rows[extreme], -exponent[:, None]), centered, among)
        scale = _rstd(square, np.ldexp(np.ldexp(eps, -exponent), -exponent))
        z[extreme] = rest * scale[:, None]
        if centered:
            mean[extreme] = np.ldexp(center, exponent)
        var[extreme] = np.ldexp(square, 2 * exponent)
        rstd[extreme] = np.ldexp(scale, -exponent)
    return z, mean, var, rstd


@quietly
def _forward(x, lay_out, weight, bias, eps, out, centered=True, given=(None, None), **fused):
    layout = lay_out(x)
    if "residual" in fused:
        x = np.add(x, fused.pop("residual"), out=fused.pop("sum"))
    axis, blocks = _blocks(layout)
    if blocks:
        parts = []
        for i, s, p in blocks:
            own, rest = [_at(s, statistic) for statistic in given], _fused_at(layout, axis, (i, s, p), fused)
            parameters = [_parameter_at(layout, axis, p, values) for values in (weight, bias)]
            parts.append(_forward(x[i], lay_out, *parameters, eps, out[i], centered, own, **rest))
        return [None if values[0] is None else np.concatenate(values, axis) for values in zip(*parts, strict=True)]
    rows, inside = layout.take(x), _inside(layout, fused)
    if "gate_first" in fused:
        rows = _gated(layout, rows, fused, x.dtype)
    if inside is not True:
        rows = np.where(inside, rows, 0)
    mean, var = given
    if var is None:
        z, mean, var, rstd = _standardize(rows, eps, centered, inside)
    else:
        mean, var = mean.ravel(), var.ravel()
        rstd = _rstd(var, eps)
        z = (rows - mean[:, None]) * rstd[:, None]
    y = _affine(layout, _rounded(z, x.dtype, fused), weight, bias, fused.get("add"))
    if "activation" in fused:
        y = _activate(y, fused)
    if "gate" in fused and "gate_first" not in fused:
        y = y * _opened(layout, fused)
    y = np.where(inside, y.reshape(rows.shape), 0)
    if "quantize" in fused:
        working = np.result_type(x.dtype, np.float32)
        y, scale = to_int8(y.astype(working), fused.get("scale"))
        if "new_scale" in fused:
            fused["new_scale"][...] = scale.reshape(layout.kept)
    layout.put(to_odd(y) if x.dtype.itemsize == 8 and out.dtype.itemsize == 2 else y, out)
    return [None if s is None else s.reshape(layout.kept) for s in (mean, var, rstd)]


@quietly
def _backward(dy, x, lay_out, weight, statistics, weight_grads, out, through=True, **fused):
    """dx = rstd * (g - mean(g) - z * mean(g * z)), where g = dy * weight and z = (x - mean) * rstd; the
    mean of g goes where no mean was subtracted, both go where the statistics are constants, not to be seen `through`.
    An activation comes first: dy times its derivative is the gradient that reaches the norm, and that of add. With a
    gate before the norm, what comes out reaches the product of x and what the gate lets through."""
    layout = lay_out(x)
    shapes = [layout.parameter_shape if weight is None else weight.shape]
    shapes.append(fused["bias"].shape if "bias" in fused else shapes[0])
    axis, blocks = _blocks(layout)
    if blocks:
        parts = []
        for i, s, p in blocks:
            own, rest = [_at(s, statistic) for statistic in statistics], _fused_at(layout, axis, (i, s, p), fused)
            some = _parameter_at(layout, axis, p, weight)
            parts.append(_backward(dy[i], x[i], lay_out, some, own, weight_grads, out[i], through, **rest))
        places = [layout.place(shape, axis) for shape in shapes]
        merged = zip(places, zip(*parts, strict=True), strict=True) if weight_grads else ()
        grads = [sum(grads) if place is None else np.concatenate(grads, place) for place, grads in merged]
        return tuple(grads) or (None, None)
    z, g, inside = layout.take(x), layout.take(dy), _inside(layout, fused)
    first = "gate_first" in fused
    if first:
        z = _gated(layout, z, fused, x.dtype)
    mean, rstd = statistics
    rstd = rstd.reshape(-1, 1)
    if mean is not None:
        z -= mean.reshape(-1, 1)
    z *= rstd
    count = z.shape[1]
    if inside is not True:
        z, g, count = np.where(inside, z, 0), np.where(inside, g, 0), inside.sum(axis=1, keepdims=True)
    if fused.keys() & {"activation", "gate"}:
        v = _affine(layout, _rounded(z, x.dtype, fused).copy(), weight, fused.get("bias"), fused.get("add"))
        factor = _activate(v, fused, slope=True) if "activation" in fused else np.ones_like(v)
        if "gate" in fused and not first:
            open_slope = _opened(layout, fused, slope=True) * (_activate(v, fused) if "activation" in fused else v)
            layout.put(np.where(inside, g * open_slope.reshape(g.shape), 0), fused["dgate"])
            factor = factor * _opened(layout, fused)
        factor = factor.reshape(g.shape)
        g = np.where(inside, _times(factor, g), 0)
    if "dadd" in fused:
        layout.put(g, fused["dadd"])
    if weight_grads:
        grads = layout.gather(g * _rounded(z, x.dtype, fused), shapes[0]), layout.gather(g, shapes[1])
    else:
        grads = None, None
    if weight is not None:
        g = (g.reshape(layout.shape) * layout.parameter(weight)).reshape(z.shape)
    if through:
        projection = np.sum(g * z, axis=1, keepdims=True) / count
        if mean is not None:
            g -= g.sum(axis=1, keepdims=True) / count
        g -= z * projection
    g *= rstd
    if inside is not True:
        g = np.where(inside, g, 0)
    if first:
        open_slope, opened = (_opened(layout, fused, slope).reshape(g.shape) for slope in (True, False))
        layout.put(np.where(inside, _times(open_slope, layout.take(x) * g), 0), fused["dgate"])
        g = np.where(inside, _times(opened, g), 0)
    if "dsum" in fused:
        g += layout.take(fused["dsum"])
    layout.put(g, out)
    return grads


def layer_norm(x, weight, bias, axis, eps, out, **fused):
    mean, _, rstd = _forward(x, partial(_features, axis=axis), weight, bias, eps, out, **fused)
    return mean, rstd


def layer_norm_backward(dy, x, weight, mean, rstd, axis, weight_grads, out, **fused):
    return _backward(dy, x, partial(_features, axis=axis), weight, (mean, rstd), weight_grads, out, **fused)


def rms_norm(x, weight, axis, eps, out, **fused):
    return (_forward(x, partial(_features, axis=axis), weight, None, eps, out, centered=False, **fused)[2],)


def rms_norm_backward(dy, x, weight, rstd, axis, weight_grads, out, **fused):
    return _backward(dy, x, partial(_features, axis=axis), weight, (None, rstd), weight_grads, out, **fused)[:1]


def batch_norm(x, weight, bias, mean, var, channel_axis, eps, out, **fused):
    lay_out = partial(_channels, channel_axis=channel_axis)
    mean, var, rstd = _forward(x, lay_out, weight, bias, eps, out, given=(mean, var), **fused)
    return mean, rstd, var


def batch_norm_backward(dy, x, weight, mean, rstd, mode, channel_axis, weight_grads, out, **fused):
    lay_out = partial(_channels, channel_axis=channel_axis)
    return _backward(dy, x, lay_out, weight, (mean, rstd), weight_grads, out, mode, **fused)


def group_norm(x, num_groups, weight, bias, channel_axis, eps, out, **fused):
    lay_out = partial(_groups, channel_axis=channel_axis, num_groups=num_groups)
    mean, _, rstd = _forward(x, lay_out, weight, bias, eps, out, **fused)
    return mean, rstd


def group_norm_backward(dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out, **fused):
    lay_out = partial(_groups, channel_axis=channel_axis, num_groups=num_groups)
    return _backward(dy, x, lay_out, weight, (mean, rstd), weight_grads, out, **fused)


def instance_norm(x, weight, bias, mean, var, channel_axis, eps, out, **fused):
    lay_out = partial(_groups, channel_axis=channel_axis, num_groups=x.shape[channel_axis])
    mean, var, rstd = _forward(x, lay_out, weight, bias, eps, out, given=(mean, var), **fused)
    return mean, rstd, var


def instance_norm_backward(dy, x, weight, mean, rstd, mode, channel_axis, weight_grads, out, **fused):
    lay_out = partial(_groups, channel_axis=channel_axis, num_groups=x.shape[channel_axis])
    return _backward(dy, x, lay_out, weight, (mean, rstd), weight_grads, out, mode, **fused)
