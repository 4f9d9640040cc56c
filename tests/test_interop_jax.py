"""The norms as functions of JAX: the bits of the NumPy functions, gradients, jit and vmap."""

import contextlib
import doctest
import functools
import re

import numpy as np
import pytest

import normlib
from normlib.description import FUNCTIONS
from normlib.ops import OPS
from normlib.testing._fused import arrays, together

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from normlib.interop import jax as interop  # noqa: E402

DTYPES = ["float32", "float16", "bfloat16"]
MODE = OPS["instance_norm"].mode


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def narrow():
    """JAX's default, which the benchmark changes for its process."""
    with jax.enable_x64(False):
        yield


def draw(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(1, 2, shape), dtype)


def functions(op, shape=(3, 4, 5)):
    """The function of JAX, the one of NumPy, and x, weight and bias for them."""
    x = draw(*shape)
    size = shape[-1] if OPS[op].kind == "feature" else shape[1]
    parameters = [draw(size, seed=1), draw(size, seed=2)][: len(OPS[op].parameters)]
    options = {"num_groups": 2} if OPS[op].has_groups else {}
    if OPS[op].mode is not None:
        options[OPS[op].mode] = True

    def call(module):
        def function(x, *parameters, **fused):
            named = dict(zip(OPS[op].parameters, parameters, strict=False))
            return getattr(module, op)(x, **named, **options, **fused)

        return function

    return call(interop), call(normlib), x, parameters


def formula(op, x, weight=None, bias=None, where=None):
    """The norm in JAX's own words, of one sample or more; where: of the elements inside."""
    if OPS[op].kind == "feature":
        z, axes, shape = x, (-1,), (-1,)
    else:
        shape = (-1, *(1 for _ in x.shape[2:]))
        axes = {"batch_norm": (0, *range(2, x.ndim)), "instance_norm": tuple(range(2, x.ndim))}.get(op)
        z = x
        if op == "group_norm":
            z, axes = x.reshape(x.shape[0], 2, -1), (2,)
    inside = None if where is None else where.reshape(z.shape)
    mean = 0 if op == "rms_norm" else z.mean(axes, keepdims=True, where=inside)
    eps = 1e-6 if op == "rms_norm" else 1e-5
    var = ((z - mean) ** 2).mean(axes, keepdims=True, where=inside)
    y = ((z - mean) / jnp.sqrt(var + eps)).reshape(x.shape)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def loss(function):
    return lambda *arrays: (jnp.sin(function(*arrays)) ** 2).sum()


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def same_bits(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_the_kernels_are_called_without_python():
    assert interop._has_handler() == ("cython" in normlib.backends.available())


def test_xla_that_takes_no_handler_calls_python(monkeypatch):
    def refuse(*args, **options):
        raise ValueError("of another version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    if interop._has_handler():
        with pytest.warns(UserWarning, match="XLA calls Python for the norms, which takes longer: of another version"):
            assert not interop._has_handler.__wrapped__()
        monkeypatch.undo()
        assert interop._has_handler.__wrapped__()


@pytest.mark.parametrize("op", OPS)
def test_without_kernels_xla_calls_the_numpy_functions(op, monkeypatch):
    ours, _, x, parameters = functions(op)
    arrays = (x, *parameters)
    every = tuple(range(len(arrays)))

    def results():
        return ours(*arrays), jax.grad(loss(ours), every)(*arrays)

    expected = results()
    monkeypatch.setattr(interop, "_has_handler", lambda: False)
    interop._batchable.cache_clear()
    assert "pure_callback" in str(jax.make_jaxpr(ours)(*arrays))
    found = results()
    interop._batchable.cache_clear()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_results_have_the_bits_of_the_numpy_functions(op, dtype):
    ours, numpys, x, parameters = functions(op)
    x, *parameters = (array.astype(dtype) for array in (x, *parameters))
    expected = numpys(np.asarray(x), *map(np.asarray, parameters))
    same_bits(ours(x, *parameters), expected)
    same_bits(jax.jit(ours)(x, *parameters), expected)
    same_bits(ours(x), numpys(np.asarray(x)))


@pytest.mark.parametrize("op", OPS)
def test_gradients_are_those_of_the_formula(op):
    ours, _, x, parameters = functions(op)
    arrays = (x, *parameters)
    every = tuple(range(len(arrays)))
    expected = jax.jit(jax.grad(loss(functools.partial(formula, op)), every))(*arrays)
    close(jax.jit(jax.grad(loss(ours), every))(*arrays), expected)
    if op == "layer_norm":  # outside of jit
        close(jax.grad(loss(ours), every)(*arrays), expected)
        close(jax.grad(loss(ours))(x), jax.grad(loss(functools.partial(formula, op)))(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_have_the_dtypes_of_what_they_belong_to(dtype):
    x, weight, bias = draw(4, 6, dtype=dtype), draw(6, seed=1), draw(6, dtype=dtype, seed=2)
    gradients = jax.jit(jax.grad(loss(interop.layer_norm), (0, 1, 2)))(x, weight, bias)
    assert [g.dtype.name for g in gradients] == [dtype, "float32", dtype]
    alone = jax.jit(jax.grad(lambda bias: loss(interop.layer_norm)(x, None, bias)))(bias)
    assert alone.dtype == bias.dtype
    expected = jax.jit(jax.grad(lambda bias: loss(functools.partial(formula, "layer_norm"))(x, None, bias)))(bias)
    np.testing.assert_allclose(alone.astype("float32"), expected.astype("float32"), rtol=0.05, atol=0.1)


def test_gradients_far_from_zero_stay_accurate():
    """The statistics are kept in float64, which a mean of 1e6 needs, though JAX has none."""
    x, dy = draw(4, 64) + 1e6, draw(4, 64, seed=1)
    wide, dy_wide = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    _, mean, rstd = normlib.layer_norm(wide, return_stats=True)
    expected, *_ = normlib.layer_norm_backward(dy_wide, wide, mean=mean, rstd=rstd)
    (dx,) = jax.vjp(interop.layer_norm, x)[1](dy)
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("op", OPS)
def test_vmap_is_the_function_of_each(op, shared):
    """The values, a gradient for each, and the gradient of all; with one set of parameters, or one for each."""
    ours, _, _, parameters = functions(op)
    x = draw(2, 3, 4, 5)
    if shared:
        axes, arrays = (0, *(None for _ in parameters)), (x, *parameters)
    else:
        axes, arrays = 0, (x, *(jnp.stack([p, p + 1]) for p in parameters))
    every = tuple(range(len(arrays)))

    @functools.partial(jax.jit, static_argnums=0)
    def results(function, *arrays):
        mapped = jax.vmap(function, axes)
        each = jax.vmap(jax.grad(loss(function), every), axes)
        return mapped(*arrays), each(*arrays), jax.grad(loss(mapped), every)(*arrays)

    close(results(ours, *arrays), results(functools.partial(formula, op), *arrays))


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_vmap_makes_one_call_for_all_samples(op):
    ours, _, _, parameters = functions(op)
    x = draw(6, 2, 3, 4, 5)
    inner, outer = ((axis, *(None for _ in parameters)) for axis in (0, 1))
    twice = jax.vmap(jax.vmap(ours, inner), outer)
    same_bits(twice(x, *parameters)[1, 2], ours(x[2, 1], *parameters))
    for function, calls in ((twice, 1), (jax.grad(loss(twice), (0, 1)), 3)):
        text = str(jax.make_jaxpr(function)(x, *parameters))
        assert "scan" not in text  # as a call for each would be
        assert len(re.findall(r" (?:pure_callback|ffi_call)\[", text)) == calls


def test_vmap_of_a_function_of_one_row():
    x, weight = draw(3, 7, 5), draw(5, seed=1)
    rows = jax.vmap(jax.vmap(lambda row: interop.rms_norm(row, weight)))
    same_bits(rows(x), normlib.rms_norm(np.asarray(x), np.asarray(weight)))


@pytest.mark.parametrize("of_x", [0, None])
def test_vmap_over_cotangents(of_x):
    x, dy = draw(4, 6), draw(3, 4, 6, seed=1)
    x = jnp.stack([x, x + 1, x * 2]) if of_x == 0 else x

    @functools.partial(jax.jit, static_argnums=0)
    def backward(function, x, dy):
        return jax.vmap(lambda x, dy: jax.vjp(function, x)[1](dy), (of_x, 0))(x, dy)

    close(backward(interop.layer_norm, x, dy), backward(functools.partial(formula, "layer_norm"), x, dy))


@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_running_statistics_that_move_are_returned(op):
    x, mean, var = draw(3, 4, 5), draw(4, seed=1), jnp.abs(draw(4, seed=2)) + 1
    mode, options = OPS[op].mode, {"momentum": 0.3}
    expected = [np.array(mean), np.array(var)]
    y = getattr(normlib, op)(
        np.asarray(x), running_mean=expected[0], running_var=expected[1], **{mode: True}, **options
    )
    step = jax.jit(functools.partial(getattr(interop, op), **{mode: True}, **options))
    found = step(x, running_mean=mean, running_var=var)
    for result, value in zip(found, (y, *expected), strict=True):
        same_bits(result, value)

    def through_running(x):
        return step(x, running_mean=mean, running_var=var)[1].sum()

    assert not jax.grad(through_running)(x).any()


@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_running_statistics_in_evaluation_are_constants(op):
    x, mean, var = draw(3, 4, 5), draw(4, seed=1), jnp.abs(draw(4, seed=2)) + 1
    weight = draw(4, seed=3)
    arrays = (x, weight, mean, var)

    def ours(x, weight, mean, var):
        return getattr(interop, op)(x, weight=weight, running_mean=mean, running_var=var, **{OPS[op].mode: False})

    def theirs(x, weight, mean, var):
        weight, mean, var = (p[:, None] for p in (weight, mean, var))
        return (x - mean) / jnp.sqrt(var + 1e-5) * weight

    @functools.partial(jax.jit, static_argnums=0)
    def results(function, x, *constants):
        axes, batch, gradient = (0, None, None, None), jnp.stack([x, x + 1]), jax.grad(loss(function), (0, 1))
        one, all_of_them = (x, *constants), (batch, *constants)
        mapped = jax.vmap(function, axes)(*all_of_them), jax.vmap(gradient, axes)(*all_of_them)
        return function(*one), gradient(*one), mapped

    close(results(ours, *arrays), results(theirs, *arrays))


@pytest.mark.parametrize(
    ("op", "options", "shape"),
    [
        ("layer_norm", {"axis": 1}, (3, 4, 5)),
        ("layer_norm", {"axis": (0, -1)}, (3, 4, 5)),
        ("rms_norm", {"axis": (1, 2)}, (3, 4, 5)),
        ("batch_norm", {"channel_axis": -1, "training": True}, (3, 5, 4)),
        ("batch_norm", {"channel_axis": 0, "training": True}, (4, 3, 5)),
        ("group_norm", {"channel_axis": -1, "num_groups": 2}, (3, 5, 4)),
        ("instance_norm", {"channel_axis": 0}, (4, 3, 5)),
    ],
)
def test_any_axes(op, options, shape):
    x = draw(*shape)
    ours = functools.partial(getattr(interop, op), **options)
    y, *statistics = getattr(normlib, op)(np.asarray(x), return_stats=True, **options)
    same_bits(ours(x), y)
    dy = draw(*shape, seed=1)
    named = dict(zip(OPS[op].statistics, statistics, strict=True))
    dx, *_ = getattr(normlib, f"{op}_backward")(np.asarray(dy), np.asarray(x), **named, **options)
    same_bits(jax.vjp(ours, x)[1](dy)[0], dx)
    batch = jnp.stack([x, 2 * x])
    for result, sample in zip(jax.vmap(ours)(batch), batch, strict=True):
        close(result, ours(sample))


# -- what is computed in the same pass --

SETS = [(op, fused) for op in OPS for fused in together(FUNCTIONS[op])]
names = ["-".join([op, *(k if v is True else v for k, v in fused.items())]) for op, fused in SETS]
each_set = pytest.mark.parametrize(("op", "fused"), SETS, ids=names)
# Pairs for a norm of features and one of channels, all keywords together for each norm.
MANY = [(op, f) for op, f in SETS if len(f) > 2 or (len(f) == 2 and op in ("layer_norm", "batch_norm"))]
each_pair = pytest.mark.parametrize(("op", "fused"), MANY)
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "sigmoid": jax.nn.sigmoid,
}


def fused_functions(op, fused):
    """The function of JAX, the one of NumPy, its formula and the arrays for them: x, parameters, and those beside x."""
    ours, numpys, x, parameters = functions(op)
    beside = arrays(FUNCTIONS[op], fused)
    options = {name: value for name, value in fused.items() if name not in beside}
    if "where" in options:
        options["where"] = np.arange(x.size).reshape(x.shape) % 4 != 1

    def call(function):
        def with_beside(x, *values):
            extra = dict(zip(beside, values[len(parameters) :], strict=True))
            return function(x, *values[: len(parameters)], **extra, **options)

        return with_beside

    def steps(x, *parameters, residual=0, add=0, activation=None, where=None, **gated):
        total = x + residual
        opened = ACTIVATIONS[gated.get("gate_activation", "silu")](gated["gate"]) if "gate" in gated else 1
        before, behind = (opened, 1) if gated.get("gate_first") else (1, opened)
        y = formula(op, total * before, *parameters, where=where) + add
        y = (y if activation is None else ACTIVATIONS[activation](y)) * behind
        y = y if where is None else jnp.where(where, y, 0)
        return (y, total) if "residual" in beside else y

    values = [x, *parameters, *(draw(*x.shape, seed=5 + n) for n in range(len(beside)))]
    return call(ours), call(numpys), call(steps), values


def loss_of_all(function):
    return lambda *arrays: sum((jnp.sin(part) ** 2).sum() for part in jax.tree.leaves(function(*arrays)))


@pytest.mark.share(3)
@each_set
def test_fused_results_have_the_bits_of_the_numpy_functions(op, fused):
    ours, numpys, _, values = fused_functions(op, fused)
    for dtype in DTYPES:
        typed = [value.astype(dtype) for value in values]
        expected = numpys(*map(np.asarray, typed))
        for found in (ours(*typed), jax.jit(ours)(*typed)):
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                same_bits(a, b)


@contextlib.contextmanager
def float64():
    """For all threads: without the kernels XLA calls Python from one of its own."""
    jax.config.update("jax_enable_x64", True)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.share(3)
@each_pair
def test_fused_gradients_are_those_of_the_formula(op, fused):
    """Of all arguments at once, and of each member of a batch, which share parameters."""
    ours, _, steps, values = fused_functions(op, fused)
    values = [np.asarray(value, np.float64) for value in values]
    every, count = tuple(range(len(values))), len(OPS[op].parameters)
    batch = [v if 1 <= i <= count else np.stack([v, v[::-1]]) for i, v in enumerate(values)]
    axes = tuple(None if 1 <= i <= count else 0 for i in every)

    @functools.partial(jax.jit, static_argnums=0)
    def results(function, values, batch):
        gradient = jax.grad(loss_of_all(function), every)
        return gradient(*values), jax.vmap(function, axes)(*batch), jax.vmap(gradient, axes)(*batch)

    with float64():
        close(results(ours, values, batch), results(steps, values, batch))


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_vmap_makes_one_call_of_fused_passes_too(op):
    ours, _, _, values = fused_functions(op, {"residual": True, "add": True, "activation": "silu", "gate": True})
    count = len(OPS[op].parameters)
    axes = tuple(None if 1 <= i <= count else 0 for i in range(len(values)))
    batch = [v if axis is None else jnp.stack([v, v]) for v, axis in zip(values, axes, strict=True)]
    text = str(jax.make_jaxpr(jax.vmap(jax.grad(loss_of_all(ours)), axes))(*batch))
    assert "scan" not in text


@pytest.mark.parametrize("op", OPS)
def test_fused_passes_without_kernels_call_the_numpy_functions(op, monkeypatch):
    ours, _, _, values = fused_functions(op, {"residual": True, "add": True, "activation": "leaky_relu", "gate": True})
    every = tuple(range(len(values)))

    def results():
        return ours(*values), jax.grad(loss_of_all(ours), every)(*values)

    expected = results()
    monkeypatch.setattr(interop, "_has_handler", lambda: False)
    interop._batchable.cache_clear()
    found = results()
    interop._batchable.cache_clear()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_fused_passes_move_running_statistics(op):
    x, mean, var = draw(3, 4, 5), jnp.zeros(4), jnp.ones(4)
    options = {OPS[op].mode: True, "activation": "relu"}
    expected = [np.array(mean), np.array(var)]
    moved = dict(zip(("running_mean", "running_var"), expected, strict=True))
    results = getattr(normlib, op)(np.asarray(x), residual=np.asarray(x), **moved, **options)
    found = getattr(interop, op)(x, residual=x, running_mean=mean, running_var=var, **options)
    for result, value in zip(found, (*results, *expected), strict=True):
        same_bits(result, value)
    fixed = {**moved, OPS[op].mode: False, "activation": "silu"}
    given = {name: jnp.asarray(value) for name, value in moved.items()}
    same_bits(getattr(interop, op)(x, **fixed | given), getattr(normlib, op)(np.asarray(x), **fixed))


def test_options_reach_the_kernels():
    x = draw(3, 8)
    for fused in ({"activation": "leaky_relu", "negative_slope": -2.5}, {"gate": x, "gate_activation": "sigmoid"}):
        plain = {name: np.asarray(v) if isinstance(v, jax.Array) else v for name, v in fused.items()}
        same_bits(interop.rms_norm(x, **fused), normlib.rms_norm(np.asarray(x), **plain))


@pytest.mark.parametrize("options", [{"out_dtype": "float32"}, {"round_first": True}])
def test_results_of_another_dtype_and_roundings(options):
    x, weight = draw(4, 9, dtype="bfloat16"), draw(9, seed=1)
    function = functools.partial(interop.rms_norm, activation="silu", **options)
    expected = normlib.rms_norm(np.asarray(x), np.asarray(weight), activation="silu", **options)
    same_bits(function(x, weight), expected)
    gradients = jax.jit(jax.grad(lambda *values: function(*values).astype("float32").sum(), (0, 1)))(x, weight)
    assert [g.dtype.name for g in gradients] == ["bfloat16", "float32"]
    plain = jax.grad(lambda *values: interop.rms_norm(*values, activation="silu").astype("float32").sum())(x, weight)
    np.testing.assert_allclose(gradients[0].astype("float32"), plain.astype("float32"), rtol=0.05, atol=0.05)


def test_an_option_that_the_handler_has_not_heard_of_goes_through_python(monkeypatch):
    x = draw(3, 8)
    expected = normlib.rms_norm(np.asarray(x), activation="silu")
    if interop.xla is not None:
        monkeypatch.setattr(interop.xla, "OPTIONS", ())
    interop._batchable.cache_clear()
    function = functools.partial(interop.rms_norm, activation="silu")
    assert "pure_callback" in str(jax.make_jaxpr(function)(x))
    same_bits(function(x), expected)
    interop._batchable.cache_clear()


@pytest.mark.parametrize(("op", "options"), [("layer_norm", {"axis": (0, -1)}), ("group_norm", {"channel_axis": -1})])
def test_arrays_beside_x_may_have_any_axes(op, options):
    options = options | ({"num_groups": 2} if OPS[op].has_groups else {})
    x, residual, gate = (draw(3, 5, 4, seed=n) for n in range(3))
    found = getattr(interop, op)(x, residual=residual, gate=gate, **options)
    x, residual, gate = map(np.asarray, (x, residual, gate))
    expected = getattr(normlib, op)(x, residual=residual, gate=gate, **options)
    for result, value in zip(found, expected, strict=True):
        same_bits(result, value)


@pytest.mark.parametrize("op", OPS)
def test_a_mask_lets_no_nan_through(op):
    """A mask of whole positions along any axes, with NaN outside: neither results nor gradients see it."""
    ours, numpys, x, parameters = functions(op)
    where = np.array([True, True, False, True, True])
    x = x.at[..., 2].set(np.nan)
    same_bits(ours(x, *parameters, where=where), numpys(*map(np.asarray, (x, *parameters)), where=where))

    def of_all(x, *parameters):
        return (ours(x, *parameters, where=where) ** 2).sum()

    gradient = jax.grad(of_all, tuple(range(1 + len(parameters))))
    each = jax.vmap(gradient, (0, *(None for _ in parameters)))
    for gradients in (gradient(x, *parameters), each(jnp.stack([x, x]), *parameters)):
        assert all(np.isfinite(g).all() for g in gradients)
    last = {"axis": 0} if OPS[op].kind == "feature" else {"channel_axis": -1}
    options = last | ({"num_groups": 5} if OPS[op].has_groups else {}) | ({OPS[op].mode: True} if OPS[op].mode else {})
    x, where = draw(3, 4, 5), np.arange(60).reshape(3, 4, 5) % 4 != 1
    found, expected = (getattr(f, op)(x, where=where, **options) for f in (interop, normlib))
    close(found, expected)


def test_an_empty_batch_is_fine():
    weight = draw(4)
    assert interop.layer_norm(jnp.ones((0, 4)), weight).shape == (0, 4)
    dx, dweight = jax.grad(loss(interop.layer_norm), (0, 1))(jnp.ones((0, 4)), weight)
    assert dx.shape == (0, 4)
    assert dweight.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: interop.layer_norm("x"), "TypeError: layer_norm: x cannot be made an array"),
        (lambda x: interop.layer_norm(x.astype(complex)), "TypeError: layer_norm: x has dtype complex64, expected"),
        (lambda x: interop.layer_norm(x, x), "ValueError: layer_norm: weight has shape (2, 3), expected (3,), the"),
        (lambda x: interop.rms_norm(x, x[0].astype(int)), "TypeError: rms_norm: weight has dtype int32"),
        (lambda x: interop.rms_norm(x[0, 0]), "ValueError: rms_norm: x has shape (), expected at least one axis"),
        (lambda x: interop.rms_norm(x, axis=2), "ValueError: rms_norm: axis is 2, expected -2 to 1"),
        (lambda x: interop.rms_norm(x, eps=-1), "ValueError: rms_norm: eps is -1"),
        (lambda x: interop.group_norm(x, 2), "ValueError: group_norm: num_groups is 2, expected a divisor of the 3"),
        (lambda x: interop.batch_norm(x, x[0], x[1]), "TypeError: batch_norm: 2 arguments after x came without a name"),
        (lambda x: interop.instance_norm(x, x[0]), "TypeError: instance_norm: 1 argument after x came without a name"),
        (lambda x: interop.batch_norm(x, training=1), "TypeError: batch_norm: training is 1, expected True or"),
        (lambda x: interop.batch_norm(x, training=True, momentum=2), "ValueError: batch_norm: momentum is 2"),
        (lambda x: interop.batch_norm(x[:1], training=True), "ValueError: batch_norm: x has shape (1, 3), expected"),
        (lambda x: interop.batch_norm(x, running_mean=x[0]), "ValueError: batch_norm: running_var is None, expected"),
        (lambda x: interop.instance_norm(x), "ValueError: instance_norm: x has shape (2, 3), expected more than one"),
        (lambda x: interop.instance_norm(x, **{MODE: False}), f"ValueError: instance_norm: {MODE} is"),
        (lambda x: interop.layer_norm(x, add=x[0]), "ValueError: layer_norm: add has shape (3,), expected (2, 3), the"),
        (lambda x: interop.layer_norm(x, residual=x.astype("float16")), "TypeError: layer_norm: residual has dtype"),
        (lambda x: interop.rms_norm(x, activation="swish"), "ValueError: rms_norm: activation is 'swish', expected"),
        (lambda x: interop.rms_norm(x, gate_activation="silu"), "ValueError: rms_norm: gate_activation is given"),
        (lambda x: interop.rms_norm(x, quantize="int8"), "TypeError: rms_norm() got an unexpected keyword argument 'q"),
        (lambda x: interop.group_norm(x, 3, act=1), "TypeError: group_norm() got an unexpected keyword argument 'act'"),
    ],
)
def test_wrong_arguments_name_function_and_argument(call, message):
    for function in (call, jax.jit(call)):
        with pytest.raises((TypeError, ValueError)) as caught:
            function(jnp.ones((2, 3)))
        assert f"{type(caught.value).__name__}: {caught.value}".startswith(message)


@pytest.mark.parametrize(("dtype", "of_parameters"), [("uint8", "float16"), ("int32", None), ("float32", "float16")])
def test_dtypes_beside_each_other(dtype, of_parameters):
    """Integers are computed in floats; a parameter keeps its dtype in its gradient."""
    x = jnp.arange(12).reshape(3, 4).astype(dtype)
    weight = jnp.linspace(1, 2, 4, dtype=of_parameters)
    for function in (interop.layer_norm, jax.jit(interop.layer_norm)):
        same_bits(function(x, weight), normlib.layer_norm(np.float32(x), np.float32(weight)))
    assert jax.grad(lambda weight: interop.layer_norm(x, weight).sum())(weight).dtype == weight.dtype


def test_in_float64():
    with jax.enable_x64(True):
        x = draw(3, 4, dtype="float64")
        same_bits(interop.layer_norm(x), normlib.layer_norm(np.asarray(x)))
        dx = jax.jit(jax.grad(loss(interop.layer_norm)))(x)
        assert dx.dtype == "float64"
        expected = jax.jit(jax.grad(loss(functools.partial(formula, "layer_norm"))))(x)
        np.testing.assert_allclose(dx, expected, rtol=1e-9, atol=1e-12)


def test_the_examples_of_the_module():
    result = doctest.testmod(interop)
    assert result.attempted > 0
    assert result.failed == 0
