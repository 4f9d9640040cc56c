"""The five norms as functions of JAX: under ``jit``, ``grad`` (reverse mode) and ``vmap``, on the CPU.

Arguments and results are those of :mod:`normlib.ops`, with two differences that follow from JAX: gradients come from
``jax.grad``, so that there are no backward functions and no statistics to carry, and nothing is changed in place, so
that running statistics which move are returned.

A result has the bits of the NumPy function of the same name. For the backward pass, statistics are kept in float64, as
the numerics contract asks, also where JAX has no float64: as two 32-bit integers each.

What stands around a norm is computed in the same pass, by the keywords of the NumPy functions: the sum of ``x`` and a
``residual`` is returned after ``y``, and the gradient that reaches it goes to both. Nothing but their inputs is kept
for the backward pass.
"""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import _arguments as a
from .._call import Call
from ..description import ACTIVATIONS, DATA, FUNCTIONS, FUSED_RESULTS, ROLES, Option, Role
from ..ops import OPS

try:
    from .._kernels import from_xla as xla
except ImportError:  # there are no compiled kernels
    xla = None

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


_OMITTED = ("residual_out", "quantize", "scale")  # nothing is written in place, and int8 has no gradient


def _fusible(function):
    """Shows in the signature what `**fused` stands for."""
    return a.by_name(function, [name for name in FUNCTIONS[function.__name__].fused if name not in _OMITTED])


@_fusible
def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, **fused):
    """Layer normalization, :func:`normlib.layer_norm`.

    Parameters
    ----------
    x, weight, bias : jax.Array
        What to normalize, and parameters of its shape over `axis`.
    axis : int or tuple of int, default -1
        The axes that are normalized over.
    eps : float, default 1e-5
        Added to the variance.
    **fused
        What else is computed in the same pass, as in the NumPy function: arrays of the shape of `x`, and options,
        which are static under ``jit``.

    Returns
    -------
    y : jax.Array
        The normalized array.
    sum : jax.Array
        Only with `residual`: the sum, rounded to the dtype of `x`, which is what was normalized.

    Examples
    --------
    >>> import jax
    >>> from normlib.interop.jax import layer_norm
    >>> x = jax.numpy.array([[1.0, 3.0], [10.0, 30.0]])
    >>> layer_norm(x, eps=0).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    >>> jax.grad(lambda bias: (x * layer_norm(x, bias=bias)).sum())(jax.numpy.zeros(2)).tolist()
    [11.0, 33.0]
    >>> y, stream = layer_norm(x, residual=-x / 2, activation="relu", eps=0)
    >>> y.tolist(), stream.tolist()
    ([[0.0, 1.0], [0.0, 1.0]], [[0.5, 1.5], [5.0, 15.0]])
    """
    return _run("layer_norm", fused, x, weight, bias, axis, eps)


@_fusible
def rms_norm(x, weight=None, *, axis=-1, eps=1e-6, **fused):
    """Root mean square normalization, :func:`normlib.rms_norm`; see :func:`layer_norm` for the arguments."""
    return _run("rms_norm", fused, x, weight, axis, eps)


@_fusible
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
    **fused,
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
    **fused
        As in :func:`layer_norm`.

    Returns
    -------
    y : jax.Array
        The normalized array.
    sum : jax.Array
        Only with `residual`, as in :func:`layer_norm`.
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
    return _run("batch_norm", fused, x, weight, bias, *running, eps, channel_axis)


@_fusible
def group_norm(x, num_groups, weight=None, bias=None, *, eps=1e-5, channel_axis=1, **fused):
    """Group normalization, :func:`normlib.group_norm`; see :func:`batch_norm` for the arguments."""
    return _run("group_norm", fused, x, num_groups, weight, bias, eps, channel_axis)


@_fusible
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
    **fused,
):
    """Instance normalization, :func:`normlib.instance_norm`; see :func:`batch_norm` for arguments and results.

    `use_input_stats` is what `training` is there.
    """
    if positional:
        raise a.misplaced("instance_norm", len(positional))
    running = running_mean, running_var, use_input_stats, momentum
    return _run("instance_norm", fused, x, weight, bias, *running, eps, channel_axis)


class _Spec(NamedTuple):
    """What is static of a call. Axes are counted from the end, where a batch axis in front does not change them."""

    op: str
    axis: tuple[int, ...] | int
    eps: float
    num_groups: int | None = None
    mode: bool = False
    momentum: float = 0.0
    fused: tuple[tuple[str, Any], ...] = ()  # the options of what is computed in the same pass
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


def _stand_ins(values):
    return {
        name: np.broadcast_to(np.zeros((), value.dtype), value.shape) if isinstance(value, jax.Array) else value
        for name, value in values.items()
    }


def _run(name, fused, *values):
    """The norm `name` of what its public function was given, in the order of that of NumPy."""
    function, op = FUNCTIONS[name], OPS[name]
    given = dict(zip(function.names, (*values, None, False), strict=True))  # without out and return_stats
    arrays = {role.name: _array(name, role.name, given[role.name]) for role in function.roles}
    beside = a.wanted(function, fused)
    for key in beside.keys() & set(_OMITTED):
        raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
    beside |= {key: _array(name, key, value) for key, value in beside.items() if isinstance(function.fused[key], Role)}
    checked = Call(function, (given | _stand_ins(arrays)).values(), _stand_ins(beside), in_place=False)
    found, axis, ndim = checked.values, checked.axis, checked.x.ndim
    for key in op.parameters:
        if arrays[key] is not None and arrays[key].shape != checked.parameter_shape:
            words = f"expected {checked.parameter_shape}, {checked.words}, without leading axes"
            raise ValueError(f"{name}: {key} has shape {arrays[key].shape}, {words}")
        arrays[key] = None if arrays[key] is None else arrays[key].astype(found[key].dtype)
    in_place = "where" not in beside  # no kernel goes through others in place, nor through columns with a mask
    if op.of_features:
        source, to = axis, tuple(range(-len(axis), 0))
        if in_place and axis == tuple(range(axis[0], axis[-1] + 1)):
            to = tuple(i - ndim for i in axis)
    else:
        source, to = axis, (axis if axis in (1, ndim - 1) and in_place else 1) - ndim  # the samples come first
    options = {key: value for key, value in checked.fused.items() if isinstance(function.fused[key], Option)}
    if "out_dtype" in options:
        options["out_dtype"] = jax.dtypes.canonicalize_dtype(options["out_dtype"]).name
    mode, momentum = found.get("mean") is None, found.get("momentum", 0.0)
    spec = _Spec(name, to, found["eps"], found.get("num_groups"), mode, momentum, tuple(sorted(options.items())))
    arrays |= {key: jnp.broadcast_to(value, checked.x.shape) for key, value in beside.items() if key not in options}
    arrays |= {key: jnp.moveaxis(arrays[key], source, to) for key in arrays.keys() & DATA}
    y, *others = _norm(spec, _given(**arrays))
    if op.per_sample:
        a.warn_of_rows(name, y, axis)
    sums, moved = (others[:1], others[1:]) if "residual" in arrays else ([], others)
    results = (*(jnp.moveaxis(value, to, source) for value in (y, *sums)), *map(jax.lax.stop_gradient, moved))
    return results if len(results) > 1 else results[0]


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
    names = [role.name for role in FUNCTIONS[spec.op].fused_results if role.of in arrays]
    names += [name for name in ("running_mean", "running_var") if spec.mode and name in arrays]
    return _bind(spec, arrays, ("y", *names, *more))


def _norm_forward(spec, arrays):
    found = _results(spec, arrays, OPS[spec.op].statistics)
    statistics = {name: found.pop(name) for name in OPS[spec.op].statistics}
    if "residual" in arrays:
        arrays = arrays | dict.fromkeys(("x", "residual"), found["sum"])
    return tuple(found.values()), (arrays, statistics)


def _norm_backward(spec, saved, cotangents):
    arrays, statistics = saved
    function = FUNCTIONS[f"{spec.op}_backward"]
    spec = spec._replace(fused=tuple(option for option in spec.fused if option[0] in function.fused))
    dy = cotangents[0].astype(arrays["x"].dtype)
    taken = {"x", "weight", *function.fused} - ({"bias"} if not spec.fused else set())  # none without an activation
    given = {name: value for name, value in arrays.items() if name in taken} | {"dy": dy, **statistics}
    if "residual" in arrays:
        given["dsum"] = cotangents[1]
    wanted = [f"d{name}" for name in OPS[spec.op].parameters] if "weight" in arrays else []
    wanted += [role.name for role in function.fused_results if role.of in arrays]
    gradients = _bind(spec, given, ("dx", *wanted))
    found = {name.removeprefix("d"): gradient for name, gradient in gradients.items()}
    found["residual"] = found["x"]
    return ({name: found[name].astype(value.dtype) if name in found else None for name, value in arrays.items()},)


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
    return {"dx", *DATA} | ({"mean", "rstd"} if per_sample else set())


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

    sums = not own.issuperset(spec.results)  # over the samples of each member
    names = own.intersection(spec.results)
    if sums and (spec.fused or "where" in arrays):  # what reaches the norm is the gradient of add
        arrays.setdefault("add", jnp.zeros_like(arrays["x"]))
        names = names | {"dadd"}
    found = _bind(spec, arrays, names)
    results = {name: apart(value) for name, value in found.items()}
    if sums:
        wide = jnp.promote_types(arrays["x"].dtype, jnp.float32)
        first = {"gate", "gate_activation", "gate_first"} if "gate_first" in dict(spec.fused) else set()
        own_options = tuple(option for option in spec.fused if option[0] in first)
        given = {name: arrays[name] for name in arrays.keys() & {"x", "where", *first}}
        given = {name: value if value.dtype == bool else value.astype(wide) for name, value in given.items()}
        z = apart(_bind(spec._replace(fused=own_options), given, ["y"])["y"])
        dy = apart(found.get("dadd", arrays["dy"])).astype(wide)
        reduced = spec.axis if OPS[spec.op].kind == "feature" else (spec.axis,)
        summed = tuple(i for i in range(1, dy.ndim) if i - dy.ndim not in reduced)
        dtype = arrays["weight"].dtype
        results |= {"dweight": (dy * z).sum(summed).astype(dtype), "dbias": dy.sum(summed).astype(dtype)}
    return [results[name] for name in spec.results]


# -- the call ----


# Which argument each result has the shape and dtype of; running statistics have their own.
_LIKE = {role.name: role.of for results in FUSED_RESULTS for role in results}
_LIKE |= {"y": "x", "dx": "x", "dweight": "weight", "dbias": "weight"}


def _shapes(spec, operands):
    given = dict(zip(spec.operands, operands, strict=True))
    x, op = given["x"], OPS[spec.op]
    for name in spec.results:
        if name in op.statistics:
            shape = op.statistics_shape(x.shape, spec.axis, spec.num_groups)
            yield jax.ShapeDtypeStruct((*shape, 2), np.uint32)
        else:
            like = given[_LIKE.get(name, name)]
            dtype = dict(spec.fused).get("out_dtype", like.dtype) if name == "y" else like.dtype
            yield jax.ShapeDtypeStruct(like.shape, dtype)


def _call(spec, operands):
    results = tuple(_shapes(spec, operands))
    if _has_handler() and dict(spec.fused).keys() <= {"out_dtype", *xla.OPTIONS}:  # which the result has
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
        *map(_number, (spec.momentum, spec.eps)),
        *map(_number, map({"negative_slope": 0.01, **dict(spec.fused)}.get, xla.OPTIONS)),
    ]
    moved = [name for name in spec.results if name in spec.operands]
    aliases = {spec.operands.index(name): spec.results.index(name) for name in moved}
    call = jax.ffi.ffi_call("normlib", results, input_output_aliases=aliases)
    return call(*operands, spec=np.array(numbers, np.int64))


def _number(value):
    """An option as the handler has it: an activation by its number from 1 on, a float by its bits."""
    if isinstance(value, float):
        return int(np.float64(value).view(np.int64))
    return 1 + ACTIVATIONS.index(value) if isinstance(value, str) else int(value or 0)


def _on_the_host(spec, *operands):
    """The call on NumPy arrays."""
    op, function = OPS[spec.op], spec.function
    given = dict(zip(spec.operands, map(np.asarray, operands), strict=True))
    values = spec._asdict() | {op.axis_name: spec.axis, op.mode: spec.mode}
    options = {option.name: values[option.name] for option in function.options if option.name in values}
    options |= spec.fused
    first, *others = [role.name for role in function.results]
    beside = [role.name for role in function.fused_results if role.of in given]
    if function.backward:
        given |= {name: _wide(given[name]) for name in op.statistics}
        names = (first, *others, *beside)
        results = op.backward(**given, **options, weight_grads="dweight" in spec.results)
    else:
        if spec.mode:
            given |= {name: given[name].copy() for name in spec.results if name in given}
        names = (first, *beside, *others)
        results = op.forward(**given, **options, return_stats=True)
    found = given | dict(zip(names, results, strict=True))
    if not function.backward:
        found |= {name: _narrow(found[name]) for name in op.statistics}
    return tuple(found[name] for name in spec.results)


def _narrow(statistic):
    return np.ascontiguousarray(statistic)[..., None].view(np.uint32)


def _wide(statistic):
    return np.ascontiguousarray(statistic).view(np.float64)[..., 0]
