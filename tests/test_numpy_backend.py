"""The NumPy backend against values worked out by hand, exact arithmetic and finite differences.

It is the oracle of the other tests, so nothing here leans on another backend or on its own layout of rows.
"""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import normlib
from normlib.ops import OPS

MODE = OPS["instance_norm"].mode


@pytest.fixture(autouse=True)
def numpy_backend():
    with normlib.backends.use("numpy", strict=True):
        yield


def same(actual, expected):
    """To the last few bits of float64: the values by hand are short, their quotients are rounded."""
    np.testing.assert_allclose(actual, expected, rtol=4e-16, atol=4e-16)


class TestByHand:
    """eps is chosen so that rstd is a short number."""

    def test_layer_norm(self):
        # mean 3 and variance 9; mean 10 and variance 16, with eps 9 rstd is 1/sqrt(18) and 1/5
        y, mean, rstd = normlib.layer_norm([[0.0, 0.0, 6.0, 6.0]], [1, 2, 3, 4], [0, 0, 0, 5], eps=0, return_stats=True)
        same(y, [[-1, -2, 3, 9]])
        same(mean, [3])
        same(rstd, [1 / 3])
        same(normlib.layer_norm([6.0, 6.0, 14.0, 14.0], eps=9), [-0.8, -0.8, 0.8, 0.8])

    def test_layer_norm_backward(self):
        # z = [-1, -1, 1, 1], g = [3, 0, 0, 0]: mean(g) = 3/4, mean(g z) = -3/4
        x, dy = [[0.0, 0.0, 6.0, 6.0]], [[1.5, 0.0, 0.0, 0.0]]
        dx, dweight, dbias = normlib.layer_norm_backward(dy, x, [2, 7, 7, 7], mean=[3], rstd=[1 / 3])
        same(dx, [[0.5, -0.5, 0, 0]])
        same(dweight, [-1.5, 0, 0, 0])
        same(dbias, [1.5, 0, 0, 0])

    def test_layer_norm_over_two_axes(self):
        # the row over axes 0 and 2 of sample 0 is 0, 2, 4, 6 (mean 3, variance 5), that of sample 1 ten times it
        x = np.array([[[0.0, 2.0], [0.0, 20.0]], [[4.0, 6.0], [40.0, 60.0]]])
        y, mean, rstd = normlib.layer_norm(x, axis=(0, 2), eps=0, return_stats=True)
        same(mean, [3, 30])
        same(rstd, [1 / math.sqrt(5), 1 / math.sqrt(500)])
        for row in (y[:, 0, :], y[:, 1, :]):
            same(row.ravel(), np.array([-3, -1, 1, 3]) / math.sqrt(5))

    def test_rms_norm(self):
        # mean square 25; with eps 11, 36
        same(normlib.rms_norm([1.0, 7.0], [10, 100], eps=0), [2, 140])
        y, rstd = normlib.rms_norm([1.0, 7.0], eps=11, return_stats=True)
        same(y, [1 / 6, 7 / 6])
        same(rstd, 1 / 6)

    def test_rms_norm_backward(self):
        # z = [0.2, 1.4], g = [25, 0]: mean(g z) = 2.5, dx = 0.2 (g - 2.5 z)
        dx, dweight = normlib.rms_norm_backward([[5.0, 0.0]], [[1.0, 7.0]], [5, 3], rstd=[0.2])
        same(dx, [[4.9, -0.7]])
        same(dweight, [1, 0])

    def test_batch_norm_training(self):
        # channel 0: 0, 0, 6, 6 (mean 3, variance 9, unbiased 12); channel 1: 1, 1, 3, 3 (2, 1, 4/3)
        x = np.array([[[0.0, 0.0], [1.0, 3.0]], [[6.0, 6.0], [1.0, 3.0]]])
        running_mean, running_var = np.array([1.0, 0.0]), np.array([2.0, 1.0])
        y, mean, rstd = normlib.batch_norm(
            x, weight=[1, 2], bias=[0, 1], running_mean=running_mean, running_var=running_var, training=True,
            momentum=0.5, eps=0, return_stats=True,
        )  # fmt: skip
        same(y, [[[-1, -1], [-1, 3]], [[1, 1], [-1, 3]]])
        same(mean, [3, 2])
        same(rstd, [1 / 3, 1])
        same(running_mean, [2, 1])
        same(running_var, [7, 7 / 6])

    def test_batch_norm_evaluation(self):
        running_mean, running_var = np.array([1.0, 2.0]), np.array([9.0, 25.0])
        running = {"running_mean": running_mean, "running_var": running_var}
        y = normlib.batch_norm([[4.0, 7.0]], weight=[1, 2], bias=[0, 1], **running, eps=0)
        same(y, [[1, 3]])
        same(running_mean, [1, 2])
        same(running_var, [9, 25])

    def test_batch_norm_backward(self):
        x, dy = [[0.0], [0.0], [6.0], [6.0]], [[3.0], [0.0], [0.0], [0.0]]
        dx, dweight, dbias = normlib.batch_norm_backward(dy, x, [2.0], mean=[3], rstd=[1 / 3])
        same(dx, [[1], [-1], [0], [0]])
        same(dweight, [-3])
        same(dbias, [3])
        dx, *_ = normlib.batch_norm_backward(dy, x, [2.0], mean=[3], rstd=[1 / 3], training=False)
        same(dx, [[2], [0], [0], [0]])

    def test_group_norm(self):
        # two groups of two channels: 0, 0, 6, 6 (mean 3, variance 9) and 1, 1, 3, 3 (2, 1)
        x = np.array([[[0.0, 0.0], [6.0, 6.0], [1.0, 3.0], [3.0, 1.0]]])
        y, mean, rstd = normlib.group_norm(x, 2, [1, 2, 3, 4], [0, 0, 0, 1], eps=0, return_stats=True)
        same(y, [[[-1, -1], [2, 2], [-3, 3], [5, -3]]])
        same(mean, [[3, 2]])
        same(rstd, [[1 / 3, 1]])

    def test_group_norm_backward(self):
        # the first group as in layer_norm_backward, where each weight serves two elements; the second gets nothing
        x = [[[0.0, 0.0], [6.0, 6.0], [1.0, 3.0], [3.0, 1.0]]]
        dy = [[[1.5, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
        mean, rstd = [[3, 2]], [[1 / 3, 1]]
        dx, dweight, dbias = normlib.group_norm_backward(dy, x, 2, [2, 7, 7, 7], mean=mean, rstd=rstd)
        same(dx, [[[0.5, -0.5], [0, 0], [0, 0], [0, 0]]])
        same(dweight, [-1.5, 0, 0, 0])
        same(dbias, [1.5, 0, 0, 0])

    def test_instance_norm(self):
        # per sample and channel: 0, 6 (mean 3, variance 9, unbiased 18) and 1, 3 (2, 1, 2)
        x = np.array([[[0.0, 6.0]], [[1.0, 3.0]]])
        running_mean, running_var = np.array([0.5]), np.array([2.0])
        y, mean, rstd = normlib.instance_norm(
            x, weight=[2], bias=[1], running_mean=running_mean, running_var=running_var, momentum=0.5, eps=0,
            return_stats=True,
        )  # fmt: skip
        same(y, [[[-1, 3]], [[-1, 3]]])
        same(mean, [[3], [2]])
        same(rstd, [[1 / 3], [1]])
        same(running_mean, [1.5])  # halfway to (3 + 2) / 2
        same(running_var, [6])  # halfway to (18 + 2) / 2

    def test_instance_norm_with_running_statistics(self):
        y, mean, rstd = normlib.instance_norm(
            [[[4.0]], [[7.0]]], running_mean=[1.0], running_var=[9.0], **{MODE: False}, eps=0, return_stats=True
        )
        same(y, [[[1]], [[2]]])
        same(mean, [[1], [1]])
        same(rstd, [[1 / 3], [1 / 3]])

    def test_instance_norm_backward(self):
        x = [[[0.0, 0.0, 6.0, 6.0]], [[1.0, 3.0, 1.0, 3.0]]]
        dy = [[[3.0, 0.0, 0.0, 0.0]], [[0.0, 4.0, 0.0, 0.0]]]
        dx, dweight, dbias = normlib.instance_norm_backward(dy, x, [1.0], mean=[[3], [2]], rstd=[[1 / 3], [1]])
        # second row: z = [-1, 1, -1, 1], mean(g) = mean(g z) = 1
        same(dx, [[[0.5, -0.5, 0, 0]], [[0, 2, 0, -2]]])
        same(dweight, [1])
        same(dbias, [7])
        dx, *_ = normlib.instance_norm_backward(dy, x, mean=[[3], [2]], rstd=[[1 / 3], [1]], **{MODE: False})
        same(dx, [[[1, 0, 0, 0]], [[0, 4, 0, 0]]])


# Exact arithmetic. An element's index says which statistic and which parameter it has part in.
CASES = [
    ("layer_norm", (3, 31), {"axis": -1}),
    ("layer_norm", (4, 3, 5), {"axis": (0, 2)}),
    ("layer_norm", (2, 7, 3), {"axis": 1}),
    ("rms_norm", (3, 31), {"axis": -1}),
    ("rms_norm", (4, 3, 5), {"axis": (0, 2)}),
    ("batch_norm", (7, 3), {"channel_axis": 1, "training": True}),
    ("batch_norm", (2, 3, 2, 4), {"channel_axis": 1, "training": True}),
    ("batch_norm", (2, 4, 3), {"channel_axis": -1, "training": True}),
    ("group_norm", (2, 6, 5), {"channel_axis": 1, "num_groups": 3}),
    ("group_norm", (2, 5, 6), {"channel_axis": 2, "num_groups": 2}),
    ("group_norm", (4, 2, 5), {"channel_axis": 0, "num_groups": 2}),
    ("instance_norm", (2, 3, 11), {"channel_axis": 1}),
    ("instance_norm", (2, 4, 3, 3), {"channel_axis": -1}),
    ("instance_norm", (3, 2, 5), {"channel_axis": 0}),
]


def statistic_of(name, shape, options, index):
    if "axis" in options:
        axis = options["axis"] if isinstance(options["axis"], tuple) else (options["axis"],)
        return tuple(i for a, i in enumerate(index) if a not in {b % len(shape) for b in axis})
    channel_axis = options["channel_axis"] % len(shape)
    channel = index[channel_axis]
    if name == "batch_norm":
        return (channel,)
    sample = index[0 if channel_axis else 1]
    size = shape[channel_axis] // options.get("num_groups", shape[channel_axis])
    return sample, channel // size


def parameter_of(shape, options, index):
    if "axis" in options:
        axis = options["axis"] if isinstance(options["axis"], tuple) else (options["axis"],)
        return tuple(i for a, i in enumerate(index) if a in {b % len(shape) for b in axis})
    return (index[options["channel_axis"]],)


def fractions(array):
    return {index: Fraction(float(array[index])) for index in np.ndindex(array.shape)}


def collected(keys, values):
    groups = {}
    for index, key in keys.items():
        groups.setdefault(key, []).append(values[index])
    return groups


def mean_of(values):
    return sum(values) / len(values)


def decimal(value):
    value = Fraction(value)
    return Decimal(value.numerator) / Decimal(value.denominator)


def exact(name, options, x, weight, bias, eps, dy):
    """Outputs, statistics and gradients to 60 digits, each a dict from index to value."""
    rows = {index: statistic_of(name, x.shape, options, index) for index in np.ndindex(x.shape)}
    cells = {index: parameter_of(x.shape, options, index) for index in np.ndindex(x.shape)}
    x, dy, weight = fractions(x), fractions(dy), fractions(weight)
    bias = None if bias is None else fractions(bias)
    mean = {row: mean_of(v) if bias is not None else Fraction(0) for row, v in collected(rows, x).items()}
    rest = {i: x[i] - mean[rows[i]] for i in x}
    var = {row: mean_of([v * v for v in values]) for row, values in collected(rows, rest).items()}
    rstd = {row: 1 / decimal(v + Fraction(eps)).sqrt() for row, v in var.items()}
    z = {i: decimal(rest[i]) * rstd[rows[i]] for i in x}
    y = {i: z[i] * decimal(weight[cells[i]]) + (decimal(bias[cells[i]]) if bias is not None else 0) for i in x}
    g = {i: decimal(dy[i] * weight[cells[i]]) for i in x}
    along = {row: mean_of(v) for row, v in collected(rows, {i: g[i] * z[i] for i in x}).items()}
    across = {row: mean_of(v) if bias is not None else 0 for row, v in collected(rows, g).items()}
    return {
        "y": y,
        "mean": {row: decimal(m) for row, m in mean.items()},
        "rstd": rstd,
        "dx": {i: rstd[rows[i]] * (g[i] - across[rows[i]] - z[i] * along[rows[i]]) for i in x},
        "dweight": {k: sum(v) for k, v in collected(cells, {i: decimal(dy[i]) * z[i] for i in x}).items()},
        "dbias": {k: decimal(sum(v)) for k, v in collected(cells, dy).items()},
    }


def ulps(actual, expected):
    """The largest error of `actual`, in ulps of its dtype at the largest expected value."""
    largest = max(abs(v) for v in expected.values())
    error = max(abs(decimal(float(actual[index])) - value) for index, value in expected.items())
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[actual.dtype.name]
    return float(error / decimal(2.0 ** (math.floor(math.log2(largest)) - bits)))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize(("name", "shape", "options"), CASES, ids=lambda v: str(v))
def test_float64_against_exact_arithmetic(name, shape, options, offset):
    rng = np.random.default_rng(5)
    op = OPS[name]
    axis = options[op.axis_name]
    x, dy = rng.standard_normal(shape) + offset, rng.standard_normal(shape)
    parameters = [rng.uniform(0.5, 2, op.parameter_shape(shape, axis)) for _ in op.parameters]
    y, *statistics = op.forward(x, weight=parameters[0], **options, eps=1e-3, return_stats=True, **(
        {"bias": parameters[1]} if "bias" in op.parameters else {}))  # fmt: skip
    statistics = dict(zip(op.statistics, statistics, strict=True))
    dx, *gradients = op.backward(dy, x, weight=parameters[0], **options, **statistics)

    with localcontext() as context:
        context.prec = 60
        bias = parameters[1] if "bias" in op.parameters else None
        expected = exact(name, options, x, parameters[0], bias, 1e-3, dy)
        assert ulps(y, expected["y"]) <= 2.5
        for key, value in statistics.items():
            assert value.dtype == np.float64
            assert ulps(value, expected[key]) <= 2
        if offset <= 1e3:  # beyond, the rounding of mean to float64 alone moves z by more
            slack = 1 + offset * 4
            assert ulps(dx, expected["dx"]) <= 4 * slack
            for key, value in zip(("dweight", "dbias"), gradients, strict=False):
                assert ulps(value, expected[key]) <= 4 * slack


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_narrow_results_are_rounded_once(dtype):
    """Half an ulp, and for 16 bits the trace of the float32 in between."""
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((2, 3, 33)).astype(dtype)
    weight, bias = rng.uniform(0.5, 2, (2, 33)).astype(np.float32)
    y, mean, rstd = normlib.layer_norm(x, weight, bias, return_stats=True)
    dx, dweight, dbias = normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd)
    with localcontext() as context:
        context.prec = 60
        expected = exact("layer_norm", {"axis": -1}, x, weight, bias, 1e-5, dy)
        results = {"y": y, "dx": dx, "dweight": dweight, "dbias": dbias}
        assert all(ulps(actual, expected[key]) <= 0.501 for key, actual in results.items())
    assert y.dtype == dx.dtype == dtype
    assert dweight.dtype == dbias.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [*CASES, ("batch_norm", (4, 3, 2), {"channel_axis": 1, "training": False}),
     ("instance_norm", (2, 3, 5), {"channel_axis": 1, MODE: False})],
    ids=lambda v: str(v),
)  # fmt: skip
def test_gradients_against_finite_differences(name, shape, options):
    """f'(t) = (f(t - 2h) - 8 f(t - h) + 8 f(t + h) - f(t + 2h)) / 12h, for every element of every argument."""
    rng = np.random.default_rng(7)
    op = OPS[name]
    x, dy = rng.standard_normal((2, *shape))
    arguments = {"x": x}
    for key in op.parameters:
        arguments[key] = rng.uniform(0.5, 2, op.parameter_shape(shape, options[op.axis_name]))
    given = {}
    if options.get(op.mode) is False:
        given = {key: rng.uniform(0.5, 2, arguments["weight"].shape) for key in ("running_mean", "running_var")}

    def loss():
        return np.vdot(dy, op.forward(**arguments, **options, **given))

    _, *statistics = op.forward(**arguments, **options, **given, return_stats=True)
    statistics = dict(zip(op.statistics, statistics, strict=True))
    found = op.backward(dy, x, weight=arguments["weight"], **statistics, **options)
    h = 1e-3
    for gradient, array in zip(found, arguments.values(), strict=True):
        for index in np.ndindex(array.shape):
            kept, slope = array[index], 0.0
            for step, factor in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
                array[index] = kept + step * h
                slope += factor * loss()
            array[index] = kept
            assert gradient[index] == pytest.approx(slope / (12 * h), rel=1e-8, abs=1e-8)


class TestExtremes:
    @pytest.mark.parametrize("scale", [np.float32(1e18), np.float32(3e37), np.float64(1e200), np.float64(4e307)])
    def test_large_rows(self, scale):
        x = np.array([-3, -1, 1, 3], scale.dtype) * scale
        expected = np.array([-3, -1, 1, 3]) / math.sqrt(5)
        np.testing.assert_allclose(normlib.layer_norm(x), expected, rtol=2e-7)
        np.testing.assert_allclose(normlib.rms_norm(x), expected, rtol=2e-7)
        np.testing.assert_allclose(normlib.batch_norm(x[:, None], training=True)[:, 0], expected, rtol=2e-7)

    def test_tiny_rows_without_eps(self):
        x = np.array([-3, -1, 1, 3]) * 1e-200
        same(normlib.layer_norm(x, eps=0), np.array([-3, -1, 1, 3]) / math.sqrt(5))
        same(normlib.rms_norm(x, eps=0), np.array([-3, -1, 1, 3]) / math.sqrt(5))

    def test_constant_rows(self):
        x = np.full((2, 5), 0.1)
        assert not normlib.layer_norm(x).any()
        with np.errstate(invalid="ignore"):
            assert np.isnan(normlib.layer_norm(x, eps=0)).all()  # 0 / 0

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nonfinite_values_stay_in_their_row(self, bad):
        x = np.random.default_rng(8).standard_normal((3, 7))
        clean = normlib.layer_norm(x)
        x[1, 2] = bad
        y = normlib.layer_norm(x)
        assert np.isnan(y[1]).all()
        np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])

    def test_nothing_warns(self, recwarn):
        x = np.array([[np.inf, 1.0], [1e200, -1e200], [0, 1e-200]])
        _, mean, rstd = normlib.layer_norm(x, eps=0, return_stats=True)
        normlib.layer_norm_backward(x, x, mean=mean, rstd=rstd)
        normlib.batch_norm(np.float16([[6e4], [-6e4], [np.inf]]), weight=[6e4], training=True)
        normlib.batch_norm(np.float16([[6e4], [-6e4]]), weight=[6e4], bias=[6e4], training=True)
        assert not recwarn.list


@pytest.mark.parametrize("name", OPS)
def test_bits_do_not_depend_on_layout_or_batch(name):
    op = OPS[name]
    x = np.random.default_rng(9).standard_normal((3, 6, 40)).astype(np.float32)
    options = {"num_groups": 2} if op.has_groups else {}
    if op.mode:
        options[op.mode] = True
    expected = op.forward(x, **options)
    for order in itertools.permutations(range(3)):
        view = x.transpose(order).copy().transpose(np.argsort(order))
        y = op.forward(view, **options)
        np.testing.assert_array_equal(y, expected)
        assert y.strides == view.strides
    if name != "batch_norm":
        np.testing.assert_array_equal(op.forward(x[1:2], **options), expected[1:2])
