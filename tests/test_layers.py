"""The layers: the functions' results, and what only a layer has (state, modes, freezing, order of calls)."""

import copy
import inspect
import pickle
import warnings

import numpy as np
import pytest
from ml_dtypes import bfloat16

import normlib
from normlib.description import ACTIVATIONS, FUSED, Option

LAYERS = {
    "LayerNorm": lambda **k: normlib.LayerNorm((6, 5), **k),
    "LayerNorm no bias": lambda **k: normlib.LayerNorm((6, 5), bias=False, **k),
    "LayerNorm plain": lambda **k: normlib.LayerNorm((6, 5), elementwise_affine=False, **k),
    "RMSNorm": lambda **k: normlib.RMSNorm(5, **k),
    "RMSNorm offset": lambda **k: normlib.RMSNorm(5, unit_offset=True, **k),
    "RMSNorm plain": lambda **k: normlib.RMSNorm(5, elementwise_affine=False, **k),
    "BatchNorm": lambda **k: normlib.BatchNorm(4, **k),
    "BatchNorm untracked": lambda **k: normlib.BatchNorm(4, track_running_stats=False, **k),
    "BatchNorm last": lambda **k: normlib.BatchNorm(5, channel_axis=-1, **k),
    "GroupNorm": lambda **k: normlib.GroupNorm(2, 4, **k),
    "GroupNorm last": lambda **k: normlib.GroupNorm(5, 5, channel_axis=-1, **k),
    "GroupNorm plain": lambda **k: normlib.GroupNorm(2, 4, affine=False, **k),
    "InstanceNorm": lambda **k: normlib.InstanceNorm(4, **k),
    "InstanceNorm tracked": lambda **k: normlib.InstanceNorm(4, affine=True, track_running_stats=True, **k),
}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(params=LAYERS)
def build(request):
    return LAYERS[request.param]


def sample(rng, dtype=np.float64):
    return rng.normal(1, 2, size=(3, 4, 6, 5)).astype(dtype)


def randomize(layer, rng):
    for value in layer.parameters().values():
        value[...] = rng.normal(1, 0.5, size=value.shape)
    return layer


@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_derivative_of_forward(build, training, rng):
    layer = randomize(build(dtype=np.float64), rng)
    layer(sample(rng))  # moves the running statistics away from 0 and 1
    layer.train(training)
    x, dy = sample(rng), sample(rng)

    def loss():
        return float((layer(x) * dy).sum())

    loss()
    check_gradients(layer, loss, [(x, layer.backward(dy))], rng)


def check_gradients(layer, loss, gradients, rng):
    """Pairs of an array and its gradient, and the layer's parameters, against finite differences of the loss."""
    found, parameters = layer.gradients(), layer.parameters()
    assert found.keys() == parameters.keys()
    for array, gradient in [*gradients, *((parameters[name], found[name]) for name in found)]:
        direction = rng.normal(size=array.shape)
        start, h, slope = array.copy(), 1e-3, 0.0
        for step, factor in ((2, -1), (1, 8), (-1, -8), (-2, 1)):  # fourth-order central difference
            array[...] = start + step * h * direction
            slope += factor * loss() / (12 * h)
        array[...] = start
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-7, abs=1e-7)


FUNCTIONS = {
    normlib.LayerNorm: (normlib.layer_norm, normlib.layer_norm_backward, {"axis": (-2, -1)}),
    normlib.RMSNorm: (normlib.rms_norm, normlib.rms_norm_backward, {}),
    normlib.BatchNorm: (normlib.batch_norm, normlib.batch_norm_backward, {"training": True}),
    normlib.GroupNorm: (normlib.group_norm, normlib.group_norm_backward, {"num_groups": 2}),
    normlib.InstanceNorm: (normlib.instance_norm, normlib.instance_norm_backward, {}),
}
each_layer = pytest.mark.parametrize("name", [cls.__name__ for cls in FUNCTIONS])


@pytest.mark.share(2)
@each_layer
@pytest.mark.parametrize(
    "beside", [(), ("add",), ("residual",), ("residual", "add"), ("gate",), ("residual", "add", "gate")], ids="+".join
)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_the_layer_gives_what_the_functions_give(name, activation, beside, rng):
    fused = {"activation": activation, **({"negative_slope": 0.25} if activation == "leaky_relu" else {})}
    layer = randomize(LAYERS[name](eps=1e-3, **fused), rng)
    forward, backward, options = FUNCTIONS[type(layer)]
    x, dy, dsum = (sample(rng, np.float32) for _ in range(3))
    arrays = {key: sample(rng, np.float32) for key in beside}
    options = {**options, "weight": layer.weight, **fused}
    bias = {} if layer.bias is None else {"bias": layer.bias}
    *results, rstd = forward(x, **options, **bias, **arrays, eps=1e-3, return_stats=True)
    statistics = {"rstd": rstd} if name == "RMSNorm" else {"mean": results.pop(), "rstd": rstd}

    found = layer(x, **arrays)
    check_same(found if "residual" in beside else [found], results)
    summed = results[-1] if "residual" in beside else x
    after = {key: arrays[key] for key in beside if key != "residual"}
    dx, *gradients = backward(dy, summed, **options, **bias, **statistics, **after, dsum=dsum)
    found = layer.backward(dy, dsum)
    gradients, companions = gradients[: len(gradients) - len(after)], gradients[len(gradients) - len(after) :]
    check_same(found if after else [found], [dx, *companions])
    check_same(layer.gradients().values(), (gradient for gradient in gradients if gradient is not None))


@each_layer
@pytest.mark.parametrize("gate_activation", [None, "sigmoid"])
def test_a_layer_of_what_is_gated_first(name, gate_activation, rng):
    layer = randomize(LAYERS[name](gate_activation=gate_activation), rng)
    plain = LAYERS[name]()
    plain.load_state_dict(layer.state_dict())
    x, gate, dy = (sample(rng, np.float64) for _ in range(3))
    share = 1 / (1 + np.exp(-gate))
    rise = share * (1 - share)
    opened, slope = (share, rise) if gate_activation else (gate * share, share + gate * rise)
    np.testing.assert_allclose(layer(x, gate=gate, gate_first=True), plain(x * opened), rtol=1e-12, atol=1e-12)
    dx, dgate = layer.backward(dy)
    du = plain.backward(dy)
    np.testing.assert_allclose(dx, du * opened, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dgate, du * x * slope, rtol=1e-11, atol=1e-11)
    for key, gradient in plain.gradients().items():
        np.testing.assert_allclose(layer.gradients()[key], gradient, rtol=1e-5)


@pytest.mark.parametrize("beside", [(), ("residual", "add", "gate")], ids="+".join)
def test_groups_of_the_last_axis_are_norms_of_their_own(beside, rng):
    layer = randomize(normlib.RMSNorm(12, num_groups=3, activation="silu"), rng)
    x, dy = (rng.standard_normal((4, 5, 12)).astype(np.float32) for _ in range(2))
    arrays = {key: rng.standard_normal((4, 5, 12)).astype(np.float32) for key in beside}
    more = {"gate_first": True} if "gate" in arrays else {}
    found = layer(x, **arrays, **more)
    back = layer.backward(dy)
    for first in (0, 4, 8):
        part = np.s_[..., first : first + 4]
        one = normlib.RMSNorm(4, activation="silu")
        one.weight[...] = layer.weight[first : first + 4]
        expected = one(x[part], **{key: a[part] for key, a in arrays.items()}, **more)
        check_same([a[part] for a in found] if beside else [found[part]], expected if beside else [expected])
        expected = one.backward(dy[part])
        check_same([a[part] for a in back] if beside else [back[part]], expected if beside else [expected])
        np.testing.assert_array_equal(layer.grad_weight[first : first + 4], one.grad_weight)
    assert repr(layer) == "RMSNorm(12, eps=1e-06, num_groups=3, activation='silu')"
    for wrong in (5, 24):
        with pytest.raises(ValueError, match=f"^RMSNorm: num_groups is {wrong}, expected a divisor"):
            normlib.RMSNorm(12, num_groups=wrong)


def check_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_gradients_accumulate_until_zero_grad(rng):
    layer = normlib.LayerNorm(5)
    x = sample(rng, np.float32)
    layer(x)
    layer.backward(x)
    once = layer.grad_weight.copy()
    layer(x)
    layer.backward(x)
    np.testing.assert_array_equal(layer.grad_weight, 2 * once)
    layer.zero_grad()
    assert layer.gradients() == {}
    layer(x)
    layer.backward(x)
    np.testing.assert_array_equal(layer.grad_weight, once)


def test_gradients_have_the_dtype_of_the_parameter(rng):
    x = sample(rng, np.float16)
    for dtype in (np.float16, np.float32):
        layer = normlib.LayerNorm(5, dtype=dtype)
        assert layer(x).dtype == np.float16
        layer.backward(x)
        assert layer.grad_weight.dtype == layer.grad_bias.dtype == dtype


# -- what stands around a norm ----


@pytest.mark.parametrize("training", [True, False])
def test_backward_is_the_derivative_of_all_that_is_around_the_norm(build, training, rng):
    layer = randomize(build(dtype=np.float64, activation="silu"), rng)
    layer(sample(rng))
    layer.train(training)
    x, residual, add, dy, dsum = (sample(rng) for _ in range(5))

    def loss():
        y, total = layer(x, residual=residual, add=add)
        return float((y * dy).sum() + (total * dsum).sum())

    loss()
    dx, dadd = layer.backward(dy, dsum=dsum)
    check_gradients(layer, loss, [(x, dx), (residual, dx), (add, dadd)], rng)


def test_gradients_behind_an_activation_accumulate(build, rng):
    layer, x = randomize(build(activation="gelu", dtype=np.float64), rng), sample(rng)
    seen = []
    for _ in range(2):
        layer(x, add=x)
        layer.backward(x)
        seen.append(layer.gradients())
    once, twice = seen
    assert once.keys() == layer.parameters().keys()
    check_same(twice.values(), (2 * gradient for gradient in once.values()))


def test_a_layer_keeps_what_its_forward_was_given(rng):
    """A forward without `add` goes back without it, whatever came before."""
    layer, x = normlib.LayerNorm(5, activation="relu"), sample(rng, np.float32)
    layer(x, residual=x, add=x)
    y = layer(x)
    dx = layer.backward(x)
    other = normlib.LayerNorm(5, activation="relu")
    check_same([y, dx], [other(x), other.backward(x)])


def test_what_comes_beside_integers_is_in_the_dtype_of_the_result(rng):
    layer, x = normlib.LayerNorm(5), np.arange(10, dtype=np.uint8).reshape(2, 5)
    y, total = layer(x, residual=np.float32([[0.5] * 5] * 2))
    assert (y.dtype, total.dtype) == (np.float32, np.float32)
    assert total[0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert layer.backward(y).dtype == np.float32


@pytest.mark.parametrize("cls", FUNCTIONS)
def test_signatures_and_docstrings_name_each_option_of_the_description(cls):
    functions_alone = {"gate_first", "quantize", "out_dtype", "round_first"}
    options = [option.name for option in FUSED if isinstance(option, Option) and option.name not in functions_alone]
    assert list(inspect.signature(cls).parameters)[-len(options) :] == options
    assert all(f"    {name} : " in cls.__doc__ for name in options)


@each_layer
def test_bad_arrays_beside_x_are_named(name, rng):
    layer, x = LAYERS[name](), sample(rng, np.float32)
    with pytest.raises(ValueError, match=rf"^{name}: add has shape \(4, 6, 5\), expected \(3, 4, 6, 5\), the shape"):
        layer(x, add=x[0])
    with pytest.raises(TypeError, match=f"^{name}: residual has dtype float64, expected float32, the dtype of x"):
        layer(x, residual=x.astype(np.float64))
    layer(x)
    with pytest.raises(ValueError, match=rf"^{name}.backward: dsum has shape \(4, 6, 5\), expected \(3, 4, 6, 5\)"):
        layer.backward(x, dsum=x[0])
    assert layer.backward(x).shape == x.shape  # as if the wrong call had not been


# -- a weight to which 1 is added ----


def test_unit_offset_is_the_norm_of_gemma(rng):
    x, w = sample(rng), rng.normal(size=5)
    layer = normlib.RMSNorm(5, unit_offset=True, dtype=np.float64)
    layer.load_state_dict({"weight": w})
    rms = np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layer(x), x / rms * (1 + w), rtol=1e-14)


@pytest.mark.parametrize("dtype", [bfloat16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dtype_of_x", [bfloat16, np.float16, np.float32, np.float64])
def test_unit_offset_is_the_function_with_1_added(dtype, dtype_of_x, rng):
    """In the precision of the finer of the two: 1 + w is not rounded to 16 bits."""
    x, dy = sample(rng, dtype_of_x), sample(rng, dtype_of_x)
    layer = randomize(normlib.RMSNorm(5, unit_offset=True, dtype=dtype), rng)
    weight = 1 + layer.weight.astype(np.float64 if np.float64 in (dtype, dtype_of_x) else np.float32)
    y, rstd = normlib.rms_norm(x, weight, return_stats=True)
    dx, dweight = normlib.rms_norm_backward(dy, x, weight, rstd=rstd)
    check_same([layer(x), layer.backward(dy)], [y, dx])
    check_same([layer.grad_weight], [dweight.astype(dtype)])


def test_with_unit_offset_the_weight_starts_at_0_and_is_what_is_stored():
    layer, x = normlib.RMSNorm(2, unit_offset=True), np.float32([[3, 4]])
    assert layer.state_dict()["weight"].tolist() == [0, 0]
    check_same([layer(x)], [normlib.RMSNorm(2)(x)])
    layer.parameters()["weight"] += 1  # an optimizer's step in place
    assert layer.state_dict()["weight"].tolist() == [1, 1]
    check_same([layer(x)], [2 * normlib.RMSNorm(2)(x)])
    layer.reset_parameters()
    assert layer.weight.tolist() == [0, 0]


# -- order of calls ----


def test_backward_without_forward_is_an_error(build, rng):
    with pytest.raises(RuntimeError, match=r"backward: there is no forward .* call forward\(x\) first"):
        build().backward(sample(rng))


def test_backward_twice_is_an_error(build, rng):
    layer, x = build(), sample(rng, np.float32)
    layer(x)
    layer.backward(x)
    with pytest.raises(RuntimeError, match="call forward"):
        layer.backward(x)


def test_a_forward_that_failed_leaves_nothing_to_go_back_through(rng):
    layer, x = normlib.BatchNorm(4), sample(rng, np.float32)
    layer(x)
    with pytest.raises(ValueError, match="more than one value"):
        layer(x[:1, :, :1, :1])
    with pytest.raises(RuntimeError):
        layer.backward(x)
    assert layer.num_batches_tracked == 1


def test_a_backward_that_failed_can_be_repeated(rng):
    layer, x = normlib.LayerNorm(5), sample(rng, np.float32)
    layer(x)
    with pytest.raises(ValueError, match="dy has shape"):
        layer.backward(x[0])
    assert layer.backward(x).shape == x.shape


def test_backward_after_eval_uses_the_mode_of_its_forward(rng):
    x, dy = sample(rng, np.float32), sample(rng, np.float32)
    one, other = normlib.BatchNorm(4), normlib.BatchNorm(4)
    one(x)
    other(x)
    other.eval()
    np.testing.assert_array_equal(one.backward(dy), other.backward(dy))


# -- freezing ----


@pytest.fixture
def asked(register):
    """What a backend is asked for as `weight_grads`; it declines every call."""
    seen = []

    def backward(*args):
        seen.append(args[-2])
        return NotImplemented

    register("listener", layer_norm_backward=backward, batch_norm_backward=backward)
    with normlib.backends.use("listener"):
        yield seen


def test_frozen_parameters_cost_no_gradient_work(rng, asked):
    x = sample(rng, np.float32)
    layer = normlib.LayerNorm(5).freeze()
    layer(x)
    frozen_dx = layer.backward(x)
    assert asked == [False]
    assert layer.gradients() == {}
    assert layer.requires_grad == {"weight": False, "bias": False}
    layer.unfreeze()
    layer(x)
    np.testing.assert_array_equal(layer.backward(x), frozen_dx)
    assert asked == [False, True]
    assert layer.gradients().keys() == {"weight", "bias"}


def test_no_parameters_no_gradient_work(rng, asked):
    layer, x = normlib.BatchNorm(4, affine=False), sample(rng, np.float32)
    layer(x)
    layer.backward(x)
    assert asked == [False]


def test_one_parameter_can_be_frozen(rng):
    layer, x = normlib.BatchNorm(4), sample(rng, np.float32)
    layer(x)
    layer.backward(x)
    layer.freeze("bias")
    assert layer.grad_bias is None  # freezing forgets
    layer(x)
    layer.backward(x)
    assert list(layer.gradients()) == ["weight"]
    assert repr(layer).endswith("frozen: bias")
    layer.unfreeze("bias")
    assert layer.requires_grad == {"weight": True, "bias": True}


def test_freezing_what_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="no parameter 'bias', there are: weight"):
        normlib.RMSNorm(3).freeze("bias")
    with pytest.raises(ValueError, match="there are: none"):
        normlib.InstanceNorm(3).unfreeze("weight")


# -- running statistics ----


def test_running_statistics_of_batch_norm_by_hand():
    layer = normlib.BatchNorm(1, momentum=0.25, dtype=np.float64)
    layer(np.array([[1.0], [3.0]]))  # mean 2, unbiased variance 2
    assert layer.running_mean.tolist() == [0.5]
    assert layer.running_var.tolist() == [1.25]
    layer(np.array([[4.0], [4.0]]))
    assert layer.running_mean.tolist() == [1.375]
    assert layer.running_var.tolist() == [0.9375]
    assert layer.num_batches_tracked == 2
    before = layer.state_dict()
    y = layer.eval()(np.array([[1.375]]))  # one value a channel is fine in evaluation
    assert y.tolist() == [[0.0]]
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_momentum_none_is_the_plain_average(rng):
    batches = rng.normal(3, 2, size=(5, 16, 4))
    layer = normlib.BatchNorm(4, momentum=None, dtype=np.float64)
    for batch in batches:
        layer(batch)
    np.testing.assert_allclose(layer.running_mean, batches.mean(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, batches.var(axis=1, ddof=1).mean(axis=0), rtol=1e-12)
    assert layer.num_batches_tracked == 5


def test_instance_norm_tracks_the_mean_over_samples(rng):
    x = sample(rng)
    layer = normlib.InstanceNorm(4, momentum=1.0, track_running_stats=True, dtype=np.float64)
    layer(x)
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, x.var(axis=(2, 3), ddof=1).mean(axis=0), rtol=1e-12)
    expected = (x - layer.running_mean[:, None, None]) / np.sqrt(layer.running_var[:, None, None] + 1e-5)
    np.testing.assert_allclose(layer.eval()(x), expected, rtol=1e-9, atol=1e-12)


def test_untracked_layers_use_the_input_in_evaluation_too(rng):
    x = sample(rng, np.float32)
    for layer in (normlib.BatchNorm(4, track_running_stats=False), normlib.InstanceNorm(4)):
        np.testing.assert_array_equal(layer(x), layer.eval()(x))
        assert "running_mean" not in layer.state_dict()


def test_reset(rng):
    layer = normlib.BatchNorm(4)
    fresh = layer.state_dict()
    randomize(layer, rng)(sample(rng, np.float32))
    layer.reset_parameters()
    layer.reset_running_stats()
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, fresh[name])


def test_16_bit_layers_keep_running_statistics_in_float32(rng):
    layer = normlib.BatchNorm(4, dtype=np.float16)
    layer(sample(rng, np.float16))
    assert layer.running_mean.dtype == layer.running_var.dtype == np.float32
    assert layer.eval()(sample(rng, np.float16)).dtype == np.float16


def test_an_empty_batch_changes_nothing():
    layer = normlib.BatchNorm(4)
    before = layer.state_dict()
    y = layer(np.empty((0, 4), np.float32))
    assert y.shape == (0, 4)
    assert layer.backward(y).shape == (0, 4)
    assert layer.grad_weight.tolist() == [0, 0, 0, 0]
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


# -- state ----


def test_state_goes_round(build, rng):
    one, other, x = randomize(build(), rng), build(), sample(rng, np.float32)
    one(x)
    assert other.load_state_dict(one.state_dict()) == ([], [])
    np.testing.assert_array_equal(one.eval()(x), other.eval()(x))
    assert list(one.state_dict()) == [n for n in TORCH_NAMES if n in one.state_dict()]


TORCH_NAMES = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_state_has_torchs_names():
    assert list(normlib.BatchNorm(2).state_dict()) == TORCH_NAMES
    assert list(normlib.LayerNorm(2).state_dict()) == TORCH_NAMES[:2]
    assert list(normlib.RMSNorm(2).state_dict()) == TORCH_NAMES[:1]
    assert list(normlib.GroupNorm(1, 2).state_dict("a.b.")) == ["a.b.weight", "a.b.bias"]
    assert normlib.InstanceNorm(2).state_dict() == {}


def test_state_is_a_copy_and_loading_is_in_place():
    layer = normlib.LayerNorm(2)
    weight = layer.weight
    layer.state_dict()["weight"][...] = 5
    assert layer.weight.tolist() == [1, 1]
    layer.load_state_dict({"weight": [2, 3], "bias": np.array([4.0, 5.0])})
    assert layer.weight is weight
    assert weight.tolist() == [2, 3]
    assert layer.bias.dtype == np.float32


def test_one_layer_out_of_a_checkpoint():
    checkpoint = {
        "a.norm.weight": np.array([2.0]),
        "a.norm.bias": np.array([3.0]),
        "b.norm.weight": np.ones(9),
    }
    layer = normlib.LayerNorm(1)
    assert layer.load_state_dict(checkpoint, prefix="a.norm.") == ([], [])
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([2.0], [3.0])
    with pytest.raises(ValueError, match=r"missing: c\.norm\.weight, c\.norm\.bias"):
        layer.load_state_dict(checkpoint, prefix="c.norm.")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": np.ones(2)}, "LayerNorm.load_state_dict: missing: bias"),
        (
            {"weight": np.ones(2), "bias": np.ones(2), "gamma": 1},
            "LayerNorm.load_state_dict: unexpected: gamma",
        ),
        (
            {"weight": np.ones(3), "bias": np.full(2, 9.0)},
            r"LayerNorm.load_state_dict: weight has shape \(3,\), expected \(2,\)",
        ),
        ({"weight": np.ones(2), "bias": np.array(["a", "b"])}, "bias has dtype <U1, expected real numbers"),
        ({"weight": np.ones(2), "bias": np.zeros(2, [("a", "f4")])}, "bias has dtype .*, expected real numbers"),
        ({"weight": np.ones(2), "bias": [[1.0], [1.0, 2.0]]}, "load_state_dict: bias cannot be made an array"),
        ({"gamma": np.ones(1)}, "missing: weight, bias; unexpected: gamma"),
    ],
)
def test_a_wrong_state_is_an_error_and_loads_nothing(state, message):
    layer = normlib.LayerNorm(2)
    with pytest.raises(ValueError, match=message):
        layer.load_state_dict(state)
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([1, 1], [0, 0])


def test_a_load_that_overflows_loads_nothing():
    layer = normlib.LayerNorm(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="overflow"):
            layer.load_state_dict({"weight": [2.0, 2.0], "bias": [1e300, 1.0]})
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([1, 1], [0, 0])


def test_tensors_of_16_bits():
    """torch's bfloat16, which NumPy does not know, as input, gradient and state."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LayerNorm(3).bfloat16()
    with torch.no_grad():
        theirs.weight.mul_(2.5)
    layer = normlib.LayerNorm(3)
    layer.load_state_dict(theirs.state_dict())
    assert layer.weight.tolist() == [2.5, 2.5, 2.5]
    x = torch.randn(2, 3).bfloat16()
    y = layer(x)
    assert y.dtype.name == "bfloat16"
    assert type(layer.backward(x)) is np.ndarray
    total = layer(x, residual=x, add=x)[1]
    assert [type(array) for array in (total, *layer.backward(x, dsum=x))] == 3 * [np.ndarray]
    np.testing.assert_allclose(y.astype(float), theirs(x).detach().double(), atol=0.02)


def test_a_call_goes_to_the_forward_of_a_subclass():
    class Twice(normlib.LayerNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    layer, x = Twice(3), np.float32([[1, 2, 6]])
    np.testing.assert_array_equal(layer(x), layer.forward(x))
    np.testing.assert_array_equal(layer(x), 2 * normlib.LayerNorm(3)(x))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64])
def test_an_input_of_another_dtype(build, dtype, rng):
    """Parameters follow: y is what the function gives for x, gradients have the dtype of the parameters."""
    layer, x = build(), np.abs(10 * sample(rng)).astype(dtype)
    y = layer(x)
    assert y.dtype == np.result_type(dtype, np.float32 if np.dtype(dtype).kind in "iu" else dtype)
    assert layer.backward(y).dtype == y.dtype
    assert all(gradient.dtype == np.float32 for gradient in layer.gradients().values())


def test_strict_false_reports_instead():
    layer = normlib.LayerNorm(2)
    assert layer.load_state_dict({"weight": [2, 2], "gamma": 1}, strict=False) == (["bias"], ["gamma"])
    assert layer.weight.tolist() == [2, 2]
    with pytest.raises(ValueError, match="weight has shape"):
        layer.load_state_dict({"weight": [1, 2, 3]}, strict=False)


def test_copy_and_pickle(build, rng):
    layer, x = randomize(build(), rng), sample(rng, np.float32)
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin.eval()(x), layer.eval()(x))


# -- arguments ----


@pytest.mark.parametrize(
    ("build_it", "error", "message"),
    [
        (
            lambda: normlib.LayerNorm(0),
            ValueError,
            "LayerNorm: a size in normalized_shape is 0, expected a positive",
        ),
        (lambda: normlib.LayerNorm(()), ValueError, r"normalized_shape is \(\)"),
        (lambda: normlib.LayerNorm((2, 3.5)), TypeError, "is 3.5, expected a positive int"),
        (
            lambda: normlib.RMSNorm(3, dtype=np.int32),
            TypeError,
            "RMSNorm: dtype is int32, expected one of float64",
        ),
        (lambda: normlib.BatchNorm("3"), TypeError, "BatchNorm: num_features is '3'"),
        (lambda: normlib.BatchNorm(3, momentum=1.5), ValueError, "BatchNorm: momentum is 1.5, expected a number from"),
        (lambda: normlib.BatchNorm(3, momentum="0.1"), TypeError, "BatchNorm: momentum is '0.1', expected a number"),
        (lambda: normlib.LayerNorm(3, eps=-1), ValueError, "LayerNorm: eps is -1.0, expected a finite number >= 0"),
        (lambda: normlib.RMSNorm(3, eps=None), TypeError, "RMSNorm: eps is None, expected a number"),
        (lambda: normlib.LayerNorm(None), TypeError, "a size in normalized_shape is None, expected a positive int"),
        (lambda: normlib.LayerNorm(3, dtype="single precision"), TypeError, "LayerNorm: dtype is 'single precision'"),
        (lambda: normlib.GroupNorm(2, 4, channel_axis="C"), TypeError, "GroupNorm: channel_axis is 'C', expected an"),
        (
            lambda: normlib.GroupNorm(3, 4),
            ValueError,
            "num_channels is 4, expected a multiple of num_groups=3",
        ),
        (lambda: normlib.GroupNorm(0, 4), ValueError, "num_groups is 0"),
        (lambda: normlib.LayerNorm(3, activation="mish"), ValueError, "LayerNorm: activation is 'mish', expected"),
        (lambda: normlib.BatchNorm(3, activation=1), TypeError, "BatchNorm: activation is 1, expected 'relu' or"),
        (lambda: normlib.GroupNorm(2, 4, negative_slope=0.1), ValueError, "GroupNorm: negative_slope is given without"),
        (
            lambda: normlib.InstanceNorm(4, activation="leaky_relu", negative_slope="steep"),
            TypeError,
            "InstanceNorm: negative_slope is 'steep', expected a number",
        ),
        (lambda: normlib.BatchNorm(3, weight=1), TypeError, r"BatchNorm.__init__\(\) got an unexpected .* 'weight'"),
        (lambda: normlib.RMSNorm(3, unit_offset=1), TypeError, "RMSNorm: unit_offset is 1, expected True or False"),
        (
            lambda: normlib.RMSNorm(3, elementwise_affine=False, unit_offset=True),
            ValueError,
            "RMSNorm: unit_offset is True, expected elementwise_affine=True",
        ),
    ],
)
def test_bad_constructor_arguments(build_it, error, message):
    with pytest.raises(error, match=message):
        build_it()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            lambda: normlib.LayerNorm((4, 5)),
            (3, 5, 4),
            r"LayerNorm: x has shape \(3, 5, 4\), expected \(\.\.\., 4, 5\)",
        ),
        (
            lambda: normlib.RMSNorm(4, elementwise_affine=False),
            (4, 3),
            r"RMSNorm: x has shape \(4, 3\), expected",
        ),
        (lambda: normlib.BatchNorm(4), (4, 3), "BatchNorm: x has shape .* expected 4 channels along axis 1"),
        (
            lambda: normlib.BatchNorm(4, affine=False),
            (4,),
            r"x has shape \(4,\), expected 4 channels along axis 1",
        ),
        (lambda: normlib.InstanceNorm(4, channel_axis=-1), (2, 4, 3), "expected 4 channels along axis -1"),
        (lambda: normlib.GroupNorm(2, 4, channel_axis=3), (2, 4, 3), "expected 4 channels along axis 3"),
    ],
)
def test_an_input_of_the_wrong_shape(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer()(np.ones(shape, np.float32))


def test_repr():
    assert repr(normlib.LayerNorm(768)) == "LayerNorm(768, eps=1e-05)"
    assert repr(normlib.LayerNorm((4, 5), bias=False)) == "LayerNorm((4, 5), eps=1e-05, bias=False)"
    plain = normlib.RMSNorm(3, eps=1e-8, elementwise_affine=False, dtype=np.float64)
    assert repr(plain) == "RMSNorm(3, eps=1e-08, elementwise_affine=False, dtype=float64)"
    assert repr(normlib.BatchNorm(3, momentum=None, channel_axis=-1)) == (
        "BatchNorm(3, eps=1e-05, momentum=None, affine=True, track_running_stats=True, channel_axis=-1)"
    )
    assert repr(normlib.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05, affine=True)"
    assert repr(normlib.InstanceNorm(4)) == (
        "InstanceNorm(4, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False)"
    )
    assert repr(normlib.RMSNorm(3, unit_offset=True)) == "RMSNorm(3, eps=1e-06, unit_offset=True)"
    assert repr(normlib.GroupNorm(2, 4, activation="leaky_relu", negative_slope=0.2)) == (
        "GroupNorm(2, 4, eps=1e-05, affine=True, activation='leaky_relu', negative_slope=0.2)"
    )


# -- torch as a peer ----


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: normlib.LayerNorm((6, 5)), lambda nn: nn.LayerNorm((6, 5))),
        (lambda: normlib.RMSNorm(5), lambda nn: nn.RMSNorm(5, eps=1e-6)),
        (lambda: normlib.BatchNorm(4), lambda nn: nn.BatchNorm2d(4)),
        (lambda: normlib.BatchNorm(4, momentum=None), lambda nn: nn.BatchNorm2d(4, momentum=None)),
        (lambda: normlib.GroupNorm(2, 4), lambda nn: nn.GroupNorm(2, 4)),
        (
            lambda: normlib.InstanceNorm(4, affine=True, track_running_stats=True),
            lambda nn: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        ),
    ],
)
def test_two_steps_of_training_as_torch_takes_them(ours, theirs, rng):
    torch = pytest.importorskip("torch")
    layer, peer = randomize(ours(), rng), theirs(torch.nn)
    peer.load_state_dict({name: torch.tensor(value) for name, value in layer.state_dict().items()})
    assert list(peer.state_dict()) == list(layer.state_dict())
    for _ in range(2):
        x, dy = sample(rng, np.float32), sample(rng, np.float32)
        x_peer = torch.tensor(x, requires_grad=True)
        y_peer = peer(x_peer)
        y_peer.backward(torch.tensor(dy))
        np.testing.assert_allclose(layer(x), y_peer.detach().numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer.backward(dy), x_peer.grad.numpy(), rtol=1e-4, atol=1e-5)
        for name, gradient in layer.gradients().items():
            np.testing.assert_allclose(gradient, getattr(peer, name).grad.numpy(), rtol=1e-4, atol=1e-4)
    for name, value in layer.state_dict().items():
        if name != "num_batches_tracked" or isinstance(layer, normlib.BatchNorm):  # torch's InstanceNorm never counts
            np.testing.assert_allclose(value, peer.state_dict()[name].numpy(), rtol=1e-5, atol=1e-6)
    x = sample(rng, np.float32)
    np.testing.assert_allclose(layer.eval()(x), peer.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-5)
    assert layer.load_state_dict(peer.state_dict()) == ([], [])
