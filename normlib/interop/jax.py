"""The five norms as functions of JAX: under ``jit``, ``grad`` (reverse mode) and ``vmap``, on the CPU.

Arguments and results are those of :mod:`normlib.ops`, with two differences that follow from JAX: gradients come from
``jax.grad``, so that there are no backward functions and no statistics to carry, and nothing is changed in place, so
that running statistics which move are returned.

A result has the bits of the NumPy function of the same name. For the backward pass, statistics are kept in float64, as
the numerics contract asks, also where JAX has no float64: as two 32-bit integers each.
"""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _arguments as a
from .._call import Call
from ..description import FUNCTIONS, ROLES
from ..ops import OPS

try:
    from .._kernels import from_xla as xla
except ImportError:  # there are no compiled kernels
    xla = None

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5):
    """Layer normalization, :func:`normlib.layer_norm`.

    Parameters
    ----------
    x, weight, bias : jax.Array
        What to normalize, and parameters of its shape over `axis`.
    axis : int or tuple of int, default -1
        The axes that are normalized over.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    jax.Array

    Examples
    --------
    >>> import jax
    >>> from normlib.interop.jax import layer_norm
    >>> x = jax.numpy.array([[1.0, 3.0], [10.0, 30.0]])
    >>> layer_norm(x, eps=0).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    >>> jax.grad(lambda bias: (x * layer_norm(x, bias=bias)).sum())(jax.numpy.zeros(2)).tolist()
    [11.0, 33.0]
    """
    return _run("layer_norm", x, weight, bias, axis, eps)


def rms_norm(x, weight=None, *, axis=-1, eps=1e-6):
    """Root mean square normalization, :func:`normlib.rms_norm`; see :func:`layer_norm` for the arguments."""
    return _run("rms_norm", x, weight, axis, eps)


@a.by_name
def batch_norm(
    x,
    *positional,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
):
    """Batch normalization, :func:`normlib.batch_norm`.

    Parameters
    ----------
    x : jax.Array
        What to normalize, of two or more axes.
    weight, bias, running_mean, running_var : jax.Array, optional
        One value a channel.
    training : bool, default False
        Whether to use the statistics of `x` and move the running ones. Static under ``jit``, as are the following.
    momentum : float, default 0.1
        The weight of the batch in the update.
    eps : float, default 1e-5
        Added to the variance.
    channel_axis : int, default 1
        The axis of the channels; -1 for channels-last.

    Returns
    -------
    y : jax.Array
        The normalized array.
    running_mean, running_var : jax.Array
        Only in training with running statistics: the new ones, through which no gradient flows.

    Examples
    --------
    >>> import jax
    >>> from normlib.interop.jax import batch_norm
    >>> zero, one = jax.numpy.zeros(2), jax.numpy.ones(2)
    >>> x = jax.numpy.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, mean, var = batch_norm(x, running_mean=zero, running_var=one, training=True, momentum=0.5, eps=0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [1.0, 10.0], [1.5, 100.5])
    """
    if positional:
        raise a.misplaced("batch_norm", len(positional))
    running = running_mean, running_var, training, momentum
    return _run("batch_norm", x, weight, bias, *running, eps, channel_axis)


def group_norm(x, num_groups, weight=None, bias=None, *, eps=1e-5, channel_axis=1):
    """Group normalization, :func:`normlib.group_norm`; see :func:`batch_norm` for the arguments."""
    return _run("group_norm", x, num_groups, weight, bias, eps, channel_axis)


@a.by_name
def instance_norm(
    x,
    *positional,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    channel_axis=1,
):
    """Instance normalization, :func:`normlib.instance_norm`; see :func:`batch_norm` for arguments and results.

    `use_input_stats` is what `training` is there.
    """
    if positional:
        raise a.misplaced("instance_norm", len(positional))
    running = running_mean, running_var, use_input_stats, momentum
    return _run("instance_norm", x, weight, bias, *running, eps, channel_axis)


class _Spec(NamedTuple):
    """What is static of a call. Axes are counted from the end, where a batch axis in front does not change them."""

    op: str
    axis: tuple[int, ...] | int
    eps: float
    num_groups: int | None = None
    mode: bool = False
    momentum: float = 0.0
    operands: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def function(self):
        return FUNCTIONS[self.op + "_backward" * ("dy" in self.operands)]


# -- checks, as those of the NumPy functions: arrays without memory of their own stand for traced ones ----


def _array(op, name, value):
    if value is None:
        return None
    try:
        value = jnp.asarray(value)
    except TypeError as error:
        raise TypeError(f"{op}: {name} cannot be made an array: {error}") from error
    if name == "x" and (dtype := a.computed(value.dtype)) != value.dtype:
        return value.astype(jax.dtypes.canonicalize_dtype(dtype))
    return value


def _stand_in(value):
    return None if value is None else np.broadcast_to(np.zeros((), value.dtype), value.shape)


def _run(name, *values):
    """The norm `name` of what its public function was given, in the order of that of NumPy."""
    function, op = FUNCTIONS[name], OPS[name]
    given = dict(zip(function.names, (*values, None, False), strict=True))  # without out and return_stats
    arrays = {role.name: _array(name, role.name, given[role.name]) for role in function.roles}
    stand_ins = {key: _stand_in(value) for key, value in arrays.items()}
    checked = Call(function, (given | stand_ins).values(), in_place=False)
    found, axis, ndim = checked.values, checked.axis, checked.x.ndim
    for key in op.parameters:
        if arrays[key] is not None and arrays[key].shape != checked.parameter_shape:
            words = f"expected {checked.parameter_shape}, {checked.words}, without leading axes"
            raise ValueError(f"{name}: {key} has shape {arrays[key].shape}, {words}")
        arrays[key] = None if arrays[key] is None else arrays[key].astype(found[key].dtype)
    if op.of_features:
        source, to = axis, tuple(range(-len(axis), 0))
        if axis == tuple(range(axis[0], axis[-1] + 1)):  # no kernel goes through others in place
            to = tuple(i - ndim for i in axis)
    else:
        source, to = axis, (axis if axis in (1, ndim - 1) else 1) - ndim  # the samples come first
    mode, momentum = found.get("mean") is None, found.get("momentum", 0.0)
    spec = _Spec(name, to, found["eps"], found.get("num_groups"), mode, momentum)
    arrays["x"] = jnp.moveaxis(arrays["x"], source, to)
    y, *moved = _norm(spec, _given(**arrays))
    if op.per_sample:
        a.warn_of_rows(name, y, axis)
    y = jnp.moveaxis(y, to, source)
    return (y, *map(jax.lax.stop_gradient, moved)) if moved else y


def _given(**arrays):
    """The arrays that are not None; a bias alone gets a weight of ones, whose dtype is then that of its gradient."""
    if arrays["weight"] is None and arrays.get("bias") is not None:
        arrays["weight"] = jnp.ones_like(arrays["bias"])
    return {name: value for name, value in arrays.items() if value is not None}


# -- the gradient ----


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm(spec, arrays):
    """y, and the running statistics that have moved."""
    return tuple(_results(spec, arrays).values())


def _results(spec, arrays, more=()):
    """The same by name, and `more`."""
    moved = [name for name in ("running_mean", "running_var") if spec.mode and name in arrays]
    return _bind(spec, arrays, ("y", *moved, *more))


def _norm_forward(spec, arrays):
    found = _results(spec, arrays, OPS[spec.op].statistics)
    statistics = {name: found.pop(name) for name in OPS[spec.op].statistics}
    return tuple(found.values()), (arrays, statistics)


def _norm_backward(spec, saved, cotangents):
    arrays, statistics = saved
    wanted = [f"d{name}" for name in OPS[spec.op].parameters] if "weight" in arrays else []
    given = {name: arrays[name] for name in ("x", "weight") if name in arrays} | statistics
    gradients = _bind(spec, {"dy": cotangents[0], **given}, ("dx", *wanted))
    found = {name.removeprefix("d"): gradient for name, gradient in gradients.items()}
    constant = {name: jnp.zeros_like(value) for name, value in arrays.items() if name not in found}
    return ({name: found[name].astype(arrays[name].dtype) for name in arrays.keys() & found} | constant,)


_norm.defvjp(_norm_forward, _norm_backward)


# -- the batch axis of vmap ----


def _bind(spec, arrays, results):
    """The named results of a norm, or of its gradient where dy is among the arrays. All of them go in the order of
    `ROLES`, as the handler of XLA has them."""
    operands, found = (tuple(sorted(names, key=ROLES.index)) for names in (arrays, results))
    values = _batchable(spec._replace(operands=operands, results=found))(*map(arrays.get, operands))
    values = dict(zip(found, values, strict=True))
    return {name: values[name] for name in results}


@functools.cache
def _batchable(spec):
    """The call of `spec`, with a rule for :func:`jax.vmap`."""

    @jax.custom_batching.custom_vmap
    def call(*operands):
        return tuple(_call(spec, operands))

    @call.def_vmap
    def rule(size, batched, *operands):
        if _joins(spec, batched):
            results = _joined(spec, size, batched, operands)
        else:  # one after the other, within JAX
            chosen = [value for value, is_batched in zip(operands, batched, strict=True) if is_batched]

            def one(values):
                values = iter(values)
                return call(*(next(values) if b else o for o, b in zip(operands, batched, strict=True)))

            results = jax.lax.map(one, chosen)
        return tuple(results), (True,) * len(spec.results)

    return call


def _of_samples(spec):
    """The operands and results that have a place for each sample."""
    per_sample = OPS[spec.op].kind == "feature" or OPS[spec.op].per_sample
    return {"x", "dy", "y", "dx"} | ({"mean", "rstd"} if per_sample else set())


def _joins(spec, batched):
    """Whether the members of the batch can be taken for more samples of one call."""
    op, own = OPS[spec.op], _of_samples(spec)
    if any(is_batched and name not in own for name, is_batched in zip(spec.operands, batched, strict=True)):
        return False
    if op.mode is None:
        return True
    return op.per_sample if spec.mode else own.issuperset(spec.results)


def _joined(spec, size, batched, operands):
    own, merge = _of_samples(spec), OPS[spec.op].kind == "channel"
    arrays = {}
    for name, value, is_batched in zip(spec.operands, operands, batched, strict=True):
        if name in own and not is_batched:
            value = jnp.broadcast_to(value, (size, *value.shape))
        if name in own and merge:
            value = value.reshape(size * value.shape[1], *value.shape[2:])
        arrays[name] = value

    def apart(value):
        return value.reshape(size, value.shape[0] // size, *value.shape[1:]) if merge else value

    found = _bind(spec, arrays, [name for name in spec.results if name in own])
    results = {name: apart(value) for name, value in found.items()}
    if len(found) < len(spec.results):  # sums over the samples of each member
        wide = jnp.promote_types(arrays["x"].dtype, jnp.float32)
        z = apart(_bind(spec, {"x": arrays["x"].astype(wide)}, ["y"])["y"])
        dy = apart(arrays["dy"]).astype(wide)
        reduced = spec.axis if OPS[spec.op].kind == "feature" else (spec.axis,)
        summed = tuple(i for i in range(1, dy.ndim) if i - dy.ndim not in reduced)
        dtype = arrays["weight"].dtype
        results |= {"dweight": (dy * z).sum(summed).astype(dtype), "dbias": dy.sum(summed).astype(dtype)}
    return [results[name] for name in spec.results]


# -- the call ----


def _shapes(spec, operands):
    given = dict(zip(spec.operands, operands, strict=True))
    x, op = given["x"], OPS[spec.op]
    for name in spec.results:
        if name in op.statistics:
            shape = op.statistics_shape(x.shape, spec.axis, spec.num_groups)
            yield jax.ShapeDtypeStruct((*shape, 2), np.uint32)
        else:
            like = given[{"y": "x", "dx": "x", "dweight": "weight", "dbias": "weight"}.get(name, name)]
            yield jax.ShapeDtypeStruct(like.shape, like.dtype)


def _call(spec, operands):
    results = tuple(_shapes(spec, operands))
    if _has_handler():
        return _through_xla(spec, operands, results)
    return jax.pure_callback(functools.partial(_on_the_host, spec), results, *operands)


@functools.cache
def _has_handler():
    """Whether the compiled kernels are there, and XLA takes their handler."""
    if xla is None:
        return False
    jax.devices("cpu")  # if XLA were to start later, a handler that it does not take would keep it from that
    for version in xla.VERSIONS:
        xla.declare(version)
        try:
            jax.ffi.register_ffi_target("normlib", xla.handler, platform="cpu")
        except Exception as error:  # whatever this version of XLA raises
            reason = error
        else:
            return True
    warnings.warn(f"normlib.interop.jax: XLA calls Python for the norms, which takes longer: {reason}", stacklevel=2)
    return False


def _through_xla(spec, operands, results):
    """The call by the handler of `_kernels/from_xla.pyx`, which documents the numbers."""
    op, ndim = OPS[spec.op], operands[spec.operands.index("x")].ndim
    numbers = [
        list(FUNCTIONS).index(spec.function.name),
        sum(1 << ROLES.index(name) for name in spec.operands),
        sum(1 << ROLES.index(name) for name in spec.results),
        spec.axis + ndim if op.of_channels else 0,
        0 if op.of_channels else sum(1 << (i + ndim) for i in spec.axis),
        spec.num_groups or 0,
        spec.mode,
        *np.array([spec.momentum, spec.eps]).view(np.int64).tolist(),
    ]
    moved = [name for name in spec.results if name in spec.operands]
    aliases = {spec.operands.index(name): spec.results.index(name) for name in moved}
    call = jax.ffi.ffi_call("normlib", results, input_output_aliases=aliases)
    return call(*operands, spec=np.array(numbers, np.int64))


def _on_the_host(spec, *operands):
    """The call on NumPy arrays."""
    op, function = OPS[spec.op], spec.function
    given = dict(zip(spec.operands, map(np.asarray, operands), strict=True))
    values = spec._asdict() | {op.axis_name: spec.axis, op.mode: spec.mode}
    options = {option.name: values[option.name] for option in function.options if option.name in values}
    if function.backward:
        given |= {name: _wide(given[name]) for name in op.statistics}
        results = op.backward(**given, **options, weight_grads=len(spec.results) > 1)
        return tuple(results[: len(spec.results)])
    if spec.mode:
        given |= {name: given[name].copy() for name in spec.results if name in given}
    y, *statistics = op.forward(**given, **options, return_stats=True)
    found = given | {"y": y} | {n: _narrow(s) for n, s in zip(op.statistics, statistics, strict=True)}
    return tuple(found[name] for name in spec.results)


def _narrow(statistic):
    return np.ascontiguousarray(statistic)[..., None].view(np.uint32)


def _wide(statistic):
    return np.ascontiguousarray(statistic).view(np.float64)[..., 0]
