"""What the public functions promise around the arithmetic: memory, layouts, running statistics, empty arrays."""

import inspect
import re
import warnings

import ml_dtypes
import numpy as np
import pytest

import normlib
from normlib import _arguments
from normlib.ops import OPS

RNG = np.random.default_rng(3)
NAMES = list(OPS)


def problem(name, x):
    """Keywords of the forward function for `x` of shape (N, C, ...), parameters included."""
    op = OPS[name]
    axis = -1 if op.kind == "feature" else 1
    shape = op.parameter_shape(x.shape, axis)
    found = {op.axis_name: axis} | ({"num_groups": 2} if op.has_groups else {})
    dtype = x.dtype if x.dtype.kind not in "biu" else np.float32
    return found, {key: np.linspace(0.5, 1.5, shape[0]).astype(dtype) for key in op.parameters}


def forward(name, x, **options):
    found, parameters = problem(name, x)
    return OPS[name].forward(x, **found, **parameters, **options)


def backward(name, dy, x, **options):
    op = OPS[name]
    found, parameters = problem(name, x)
    _, *statistics = forward(name, x, return_stats=True)
    statistics = dict(zip(op.statistics, statistics, strict=True))
    return op.backward(dy, x, weight=parameters["weight"], **found, **statistics, **options)


def random(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
class TestMemory:
    def test_overlapping_output(self, backend, name):
        """The result that no overlap would give, however out lies over the inputs."""
        x, dy = random(5, 4, 6), random(5, 4, 6)
        expected, (dx, *_) = forward(name, x), backward(name, dy, x)
        for shift in (0, 1, 6, 24):
            for first, second in ((0, shift), (shift, 0)):
                buffer = np.zeros(x.size + 24, np.float32)
                source, out = (buffer[s : s + x.size].reshape(x.shape) for s in (first, second))
                source[...] = x
                assert forward(name, source, out=out) is out
                np.testing.assert_array_equal(out, expected)
                source[...] = x
                assert backward(name, dy, source, out=out)[0] is out
                np.testing.assert_array_equal(out, dx)
                source[...] = dy
                backward(name, source, x, out=out)
                np.testing.assert_array_equal(out, dx)

    def test_output_over_the_input_backwards(self, backend, name):
        x = random(5, 4, 6)
        expected = forward(name, x)
        forward(name, x, out=x[::-1, ::-1, ::-1])
        np.testing.assert_array_equal(x[::-1, ::-1, ::-1], expected)

    def test_output_over_a_parameter(self, backend, name):
        x = random(5, 4, 6)
        found, parameters = problem(name, x)
        expected = OPS[name].forward(x, **found, **parameters)
        out = np.zeros_like(x)
        for key, value in parameters.items():
            lying = np.lib.stride_tricks.as_strided(out.ravel()[7:], value.shape, (4,))
            lying[...] = value
            OPS[name].forward(x, **found, **{**parameters, key: lying}, out=out)
            np.testing.assert_array_equal(out, expected)

    def test_gradient_in_place_of_either_input(self, backend, name):
        x, dy = random(5, 4, 6), random(5, 4, 6)
        expected = backward(name, dy, x)
        for take in ("dy", "x", "both"):
            given = {"dy": dy.copy(), "x": x.copy()}
            if take == "both":
                both = x.copy()
                np.testing.assert_array_equal(backward(name, both, both, out=both)[0], backward(name, x, x)[0])
                continue
            results = backward(name, **given, out=given[take])
            assert results[0] is given[take]
            for result, value in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result, value)

    @pytest.mark.parametrize("kind", ["byteswapped", "misaligned", "subclass", "strided", "reversed"])
    def test_given_outputs(self, backend, name, kind):
        x = random(5, 4, 6)
        out = {
            "byteswapped": lambda: np.zeros(x.shape, ">f4"),
            "misaligned": lambda: np.zeros(x.nbytes + 1, np.uint8)[1:].view("f4").reshape(x.shape),
            "subclass": lambda: np.zeros(x.shape, "f4").view(np.recarray),
            "strided": lambda: np.zeros((5, 8, 12), "f4")[:, ::2, ::2],
            "reversed": lambda: np.zeros(x.shape, "f4")[::-1, :, ::-1],
        }[kind]()
        assert forward(name, x, out=out) is out
        np.testing.assert_array_equal(np.asarray(out), forward(name, x))

    def test_output_with_elements_that_share_memory(self, backend, name):
        x = np.broadcast_to(random(1, 4, 6), (5, 4, 6)).copy()
        out = np.lib.stride_tricks.as_strided(np.zeros((4, 6), np.float32), x.shape, (0, 24, 4))
        forward(name, x, out=out)
        np.testing.assert_array_equal(out, forward(name, x))

    @pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1), (1, 0, 2)])
    def test_output_lies_as_the_input(self, backend, name, order):
        x = random(4, 4, 4).transpose(order)
        y = forward(name, x)
        assert y.strides == x.strides == np.positive(x).strides
        assert backward(name, x, x)[0].strides == x.strides
        view = np.broadcast_to(random(4, 1, 6), (4, 4, 6))  # not to be copied from: elements share memory
        assert forward(name, view).strides == np.positive(view).strides

    def test_inputs_stay_as_they_are(self, backend, name):
        x, dy = random(5, 4, 6), random(5, 4, 6)
        x.flags.writeable = dy.flags.writeable = False
        kept = x.copy(), dy.copy()
        backward(name, dy, x)
        np.testing.assert_array_equal(x, kept[0])
        np.testing.assert_array_equal(dy, kept[1])

    def test_array_likes(self, backend, name):
        x = random(3, 4, 5, dtype=np.float64)
        found, parameters = problem(name, x)
        expected = OPS[name].forward(x, **found, **parameters)
        listed = OPS[name].forward(x.tolist(), **found, **{key: value.tolist() for key, value in parameters.items()})
        np.testing.assert_array_equal(listed, expected)
        y = OPS[name].forward(x.view(np.recarray), **found, **parameters)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(OPS[name].forward(memoryview(x), **found, **parameters), expected)

    def test_lists_beside_a_narrow_array(self, backend, name):
        """A list has no dtype of its own: it takes that of x."""
        x = random(3, 4, 4)
        found, parameters = problem(name, x)
        y = OPS[name].forward(x, **found, **{key: [1, 2, 0.5, 4] for key in parameters})
        assert y.dtype == np.float32
        arrays = {key: np.float32([1, 2, 0.5, 4]) for key in parameters}
        np.testing.assert_array_equal(y, OPS[name].forward(x, **found, **arrays))

    def test_gradients_of_parameters(self, backend, name):
        x, dy = random(5, 4, 6), random(5, 4, 6)
        op = OPS[name]
        found, parameters = problem(name, x)
        _, *statistics = forward(name, x, return_stats=True)
        statistics = dict(zip(op.statistics, statistics, strict=True))
        ones = np.ones_like(parameters["weight"])
        _, *wanted = op.backward(dy, x, **found, **statistics, weight_grads=True)
        _, *default = op.backward(dy, x, weight=ones, **found, **statistics)
        for gradient, other in zip(wanted, default, strict=True):
            assert gradient.dtype == np.float32
            assert gradient.shape == ones.shape
            np.testing.assert_array_equal(gradient, other)
        for unwanted in ({}, {"weight": ones, "weight_grads": False}):
            _, *gradients = op.backward(dy, x, **unwanted, **found, **statistics)
            assert gradients == [None] * len(op.parameters)
        narrow = {key: value.astype(np.float32) for key, value in statistics.items()}
        close = op.backward(dy, x, weight=ones, **found, **narrow)[0]
        np.testing.assert_allclose(close, op.backward(dy, x, weight=ones, **found, **statistics)[0], atol=1e-5)

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("wide", [False, True])
    def test_dtypes_of_results(self, backend, name, dtype, wide):
        x, dy = random(5, 4, 6, dtype=dtype), random(5, 4, 6, dtype=dtype)
        op = OPS[name]
        found, parameters = problem(name, x)
        if wide:
            parameters = {key: value.astype(np.float32) for key, value in parameters.items()}
        y, *statistics = op.forward(x, **found, **parameters, return_stats=True)
        given = dict(zip(op.statistics, statistics, strict=True))
        dx, *gradients = op.backward(dy, x, weight=parameters["weight"], **found, **given)
        assert y.dtype == dx.dtype == dtype
        assert all(s.dtype == np.float64 for s in statistics)
        assert all(g.dtype == parameters["weight"].dtype for g in gradients)

    @pytest.mark.parametrize("shape", [(0, 4, 6), (5, 4, 0), (0, 4, 0)])
    def test_empty(self, backend, name, shape):
        op = OPS[name]
        x = np.empty(shape, np.float32)
        found = {op.axis_name: -1 if op.kind == "feature" else 1} | ({"num_groups": 2} if op.has_groups else {})
        weight = np.ones(op.parameter_shape(shape, found[op.axis_name]), np.float32)
        mode = {op.mode: True} if op.mode else {}
        running = {"running_mean": np.zeros(4), "running_var": np.ones(4)} if op.mode else {}
        y, *statistics = op.forward(x, weight=weight, **found, **mode, **running, return_stats=True)
        assert y.shape == shape
        expected = op.statistics_shape(shape, found[op.axis_name], found.get("num_groups"))
        assert all(s.shape == expected and np.isnan(s).all() for s in statistics)
        assert [set(array.tolist()) for array in running.values()] == [{0}, {1}][: len(running)]
        given = dict(zip(op.statistics, statistics, strict=True))
        dx, *gradients = op.backward(x, x, weight=weight, **found, **given)
        assert dx.shape == shape
        assert all(g.shape == weight.shape and not g.any() for g in gradients)
        out = np.empty_like(x)
        assert op.forward(x, **found, out=out) is out


class TestRunningStatistics:
    @pytest.fixture(params=["batch_norm", "instance_norm"])
    def name(self, request):
        return request.param

    @pytest.fixture(params=[np.float32, np.float64])
    def running(self, request):
        return {"running_mean": np.ones(4, request.param), "running_var": np.full(4, 2, request.param)}

    def mode(self, name, value):
        return {OPS[name].mode: value}

    def test_update(self, backend, name, running):
        x = random(5, 4, 6)
        along = (0, 2) if name == "batch_norm" else 2
        mean, var = x.mean(along, dtype=float), x.var(along, ddof=1, dtype=float)
        if name == "instance_norm":
            mean, var = mean.mean(0), var.mean(0)
        forward(name, x, **running, **self.mode(name, True), momentum=0.25)
        np.testing.assert_allclose(running["running_mean"], 0.75 + 0.25 * mean, rtol=1e-6)
        np.testing.assert_allclose(running["running_var"], 1.5 + 0.25 * var, rtol=1e-6)

    @pytest.mark.parametrize("momentum", [0, 1])
    def test_ends_of_momentum(self, backend, name, running, momentum):
        x = random(5, 4, 6)
        forward(name, x, **running, **self.mode(name, True), momentum=momentum)
        assert (running["running_mean"] == 1).all() == (momentum == 0)
        assert (running["running_var"] == 2).all() == (momentum == 0)

    def test_evaluation_reads_only(self, backend, name, running):
        for array in running.values():
            array.flags.writeable = False
        y, mean, rstd = forward(name, random(5, 4, 6), **running, **self.mode(name, False), eps=0.25, return_stats=True)
        assert y.shape == (5, 4, 6)
        assert (mean == 1).all()
        np.testing.assert_array_equal(rstd, 1 / 1.5)
        assert not any(np.shares_memory(mean, array) for array in running.values())

    def test_strided_and_byteswapped(self, backend, name):
        x = random(5, 4, 6)
        plain = {"running_mean": np.ones(4), "running_var": np.ones(4)}
        other = {"running_mean": np.ones(8)[::2], "running_var": np.ones(4, ">f8")[::-1]}
        forward(name, x, **plain, **self.mode(name, True))
        forward(name, x, **other, **self.mode(name, True))
        for key, value in plain.items():
            np.testing.assert_array_equal(other[key], value)

    def test_nothing_is_updated_by_a_call_that_fails(self, backend, name, running):
        x = random(5, 4, 6)
        for bad in ({"out": np.empty(3)}, {"eps": -1}, {"momentum": 2}, {"axis": 1}):
            with pytest.raises((TypeError, ValueError)):
                forward(name, x, **running, **self.mode(name, True), **bad)
        assert (running["running_mean"] == 1).all()
        assert (running["running_var"] == 2).all()

    def test_batch_statistics_without_running_ones(self, backend):
        x = random(5, 4, 6)
        np.testing.assert_array_equal(forward("batch_norm", x), forward("batch_norm", x, training=True))


@pytest.mark.parametrize("name", NAMES)
class TestDtypes:
    """Parameters follow x, integers are computed in floats."""

    @pytest.mark.parametrize(
        ("dtype", "result"),
        [
            *((kind, np.float32) for kind in (np.bool_, np.uint8, np.int8, np.uint16, np.int16)),
            *((kind, np.float64) for kind in (np.uint32, np.int32, np.uint64, np.int64)),
        ],
    )
    def test_integers(self, backend, name, dtype, result):
        x = np.arange(60).reshape(3, 4, 5).astype(dtype)
        floats = x.astype(result)
        y = forward(name, x)
        assert y.dtype == result
        np.testing.assert_allclose(y, forward(name, floats), rtol=1e-6, atol=1e-6)
        out = np.empty(x.shape, result)
        assert forward(name, x, out=out) is out
        np.testing.assert_array_equal(out, y)
        dy = random(*x.shape, dtype=result)
        (dx, *gradients), (expected, *_) = backward(name, dy, x), backward(name, dy, floats)
        assert dx.dtype == result
        assert {gradient.dtype for gradient in gradients} == {np.dtype(np.float32)}  # of the parameters
        np.testing.assert_allclose(dx, expected, rtol=1e-6, atol=1e-6)

    def test_lists_of_integers(self, backend, name):
        x = np.arange(60).reshape(3, 4, 5)
        found, _ = problem(name, x)
        y = OPS[name].forward(x.tolist(), **found)
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y, OPS[name].forward(x.astype(float), **found))

    def test_the_dtype_of_the_result_is_asked_of_out_and_dy(self, backend, name):
        x = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
        with pytest.raises(TypeError, match="out has dtype uint8, expected float32, the dtype of the result"):
            forward(name, x, out=x)
        with pytest.raises(TypeError, match="dy has dtype float64, expected float32, the dtype of y"):
            backward(name, x.astype(float), x)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("other", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
    def test_parameters(self, backend, name, dtype, other):
        """They are cast once; y has the dtype of x, a gradient that of its parameter."""
        x, dy, op = random(5, 4, 6, dtype=dtype), random(5, 4, 6, dtype=dtype), OPS[name]
        found, parameters = problem(name, x)
        given = {key: value.astype(other) for key, value in parameters.items()}
        working = dtype if dtype == other else np.result_type(dtype, np.float32)
        cast = {key: value.astype(working) for key, value in given.items()}
        y, *statistics = op.forward(x, **found, **given, return_stats=True)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, op.forward(x, **found, **cast))
        statistics = dict(zip(op.statistics, statistics, strict=True))
        dx, *gradients = op.backward(dy, x, weight=given["weight"], **found, **statistics)
        expected, *wide = op.backward(dy, x, weight=cast["weight"], **found, **statistics)
        assert dx.dtype == dtype
        np.testing.assert_array_equal(dx, expected)
        for gradient, value in zip(gradients, wide, strict=True):
            assert gradient.dtype == other
            np.testing.assert_allclose(gradient.astype(float), value.astype(float), rtol=1e-2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ndim", [33, 64])
@pytest.mark.parametrize("layout", ["plain", "byteswapped", "strided", "reversed"])
def test_as_many_axes_as_numpy_has(backend, name, ndim, layout):
    few = random(3, 4, 5)
    op, many = OPS[name], (3, 4, *(1,) * (ndim - 3), 5)
    x, dy = few.reshape(many), random(*many)
    if layout == "byteswapped":
        x = x.astype(">f4")
    elif layout == "strided":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    elif layout == "reversed":
        x = np.ascontiguousarray(x.transpose()).transpose()
    modes = [{}] if op.mode is None else [
        {op.mode: mode, "running_mean": np.zeros(4), "running_var": np.ones(4)} for mode in (True, False)
    ]  # fmt: skip
    for mode in modes:
        np.testing.assert_allclose(forward(name, x, **mode).reshape(few.shape), forward(name, few, **mode), atol=1e-6)
    for found, expected in zip(backward(name, dy, x), backward(name, dy.reshape(few.shape), few), strict=True):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


class TestNamesWhereOrdersDiffer:
    """What a torch user would write is an error that shows the call meant."""

    @pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
    def test_running_statistics_come_by_name(self, backend, name):
        x, mean, var = random(5, 4, 6), np.zeros(4, np.float32), np.ones(4, np.float32)
        call = f"{name}(x, running_mean=..., running_var=..., weight=..., bias=...)"
        for given, came in (((mean,), "1 argument"), ((mean, var), "2 arguments"), ((mean, var, var, mean), "4 arg")):
            with pytest.raises(TypeError, match=rf"^{name}: {came}.* after x came without a name, .*") as caught:
                OPS[name].forward(x, *given)
            assert str(caught.value).endswith(f"expected names: {call}")

    @pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
    def test_the_signature_shows_no_other_arguments(self, name):
        names = list(inspect.signature(OPS[name].forward).parameters)
        assert names[:5] == ["x", "weight", "bias", "running_mean", "running_var"]

    @pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
    @pytest.mark.parametrize("kind", [tuple, list])
    def test_a_shape_is_no_weight(self, backend, name, kind):
        """An image of three channels, and in place of the weight what torch calls normalized_shape."""
        x = random(2, 4, 5, 3)
        sizes = kind(x.shape[1:])
        text = f"{name}: weight is {sizes!r}, sizes of the last axes of x, expected axis=(-3, -2, -1) for these"
        with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
            OPS[name].forward(x, sizes)
        assert OPS[name].forward(x, [4.0, 5.0, 3.0]).shape == x.shape


class TestOneImageOrManySamples:
    @pytest.fixture(autouse=True)
    def nothing_was_told(self, monkeypatch):
        monkeypatch.setattr(_arguments, "_told", set())

    @pytest.mark.parametrize(("name", "options"), [("group_norm", {"num_groups": 1}), ("instance_norm", {})])
    @pytest.mark.parametrize(("shape", "axis", "last"), [((8, 9, 3), -1, -1), ((8, 9, 3), 2, -1), ((3, 8, 9), 0, -3)])
    def test_rows_of_an_image_are_not_silently_samples(self, backend, name, options, shape, axis, last):
        image, function = random(*shape), OPS[name].forward
        rows = 0 if axis else 1
        text = f"{name}: x has shape {shape}, and its axis {rows} is taken for 8 samples; if it is one image, give "
        with pytest.warns(UserWarning, match=re.escape(f"{text}x[np.newaxis] with channel_axis={last}")) as caught:
            function(image, channel_axis=axis, **options)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function(image, channel_axis=axis, **options)  # it is said once
        y = function(image[np.newaxis], channel_axis=last, **options)[0]
        reduced = tuple(i for i in range(3) if name == "group_norm" or i != axis % 3)
        np.testing.assert_allclose(y.mean(reduced), 0, atol=1e-6)

    @pytest.mark.parametrize(
        ("shape", "axis"), [((8, 3, 9), 1), ((8, 3, 9), -2), ((1, 9, 3), -1), ((1, 8, 9, 3), -1), ((8, 3), -1)]
    )
    def test_other_shapes_leave_no_doubt(self, backend, shape, axis, recwarn):
        normlib.group_norm(random(*shape), 1, channel_axis=axis)
        assert not recwarn.list


def test_statistics_without_axes(backend):
    y, mean, rstd = normlib.layer_norm([1.0, 3.0], eps=0, return_stats=True)
    assert mean.shape == rstd.shape == ()
    assert isinstance(mean, np.ndarray)
    dx, *_ = normlib.layer_norm_backward([1.0, 1.0], [1.0, 3.0], mean=float(mean), rstd=float(rstd))
    np.testing.assert_allclose(dx, [0, 0], atol=1e-15)
    assert y.tolist() == [-1, 1]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("way", ["direct", "general"])
@pytest.mark.parametrize("name", NAMES)
class TestEpsZero:
    """A constant row is 0 / 0: NaN, and what NumPy's error state has for it."""

    def rows(self, name, way, dtype):
        x = random(3, 4, 5, dtype=dtype)
        x[...] = 0 if name == "rms_norm" else 3
        return x if way == "direct" else x.astype(x.dtype.newbyteorder())

    def test_it_warns_as_numpy_does(self, backend, name, way, dtype):
        x = self.rows(name, way, dtype)
        for more in ({}, {"return_stats": True}):
            with pytest.warns(RuntimeWarning, match="invalid value encountered") as caught:
                y = forward(name, x, eps=0, **more)
            assert len(caught) == 1
            assert caught[0].filename == __file__
            assert np.isnan(y[0] if more else y).all()
        with np.errstate(invalid="raise"), pytest.raises(FloatingPointError, match="invalid value"):
            forward(name, x, eps=0)

    def test_what_does_not_warn(self, backend, name, way, dtype, recwarn):
        x = self.rows(name, way, dtype)
        forward(name, x)
        with np.errstate(invalid="ignore"):
            forward(name, x, eps=0)
        x[...] = random(*x.shape)
        forward(name, x, eps=0)
        x[0, 0, 0] = np.nan  # of x, not of the division
        forward(name, x, eps=0)
        assert not recwarn.list


def test_a_warning_that_is_an_error_changes_no_running_statistics(backend):
    running = {"running_mean": np.zeros(4), "running_var": np.ones(4)}
    for x in (np.ones((3, 4)), np.ones((3, 4), ">f8")):
        with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
            normlib.batch_norm(x, **running, training=True, eps=0)
    assert not running["running_mean"].any()
