"""Batch norm over several ranks, here threads: the bits of one that has the whole batch, however it is shared out."""

import itertools
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import ranks
from ml_dtypes import bfloat16

import normlib
from normlib import sync
from normlib.testing import dtypes

DTYPES = [dtype.name for dtype in dtypes()]
SHARES = [(12,), (6, 6), (1, 11), (0, 12), (5, 0, 7), (3, 3, 3, 3), (12, 0, 0), (1, 2, 3, 4, 2)]
C = 5


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def batch(rng):
    """x, dy, weight, bias and which elements take part; one channel is left out."""
    x, dy = rng.normal(3, 2, (12, C, 4)), rng.normal(size=(12, C, 4))
    inside = rng.random(x.shape) < 0.7
    inside[:, 2] = False
    return x, dy, rng.normal(size=C), rng.normal(size=C), inside


def step(x, dy, weight=None, bias=None, inside=None, group=None, channel_axis=1, dtype=np.float64):
    """Forward and backward: y, dx, and what is the same on all ranks."""
    running = np.zeros(C, dtype), np.ones(C, dtype)
    options = {"channel_axis": channel_axis, "where": inside, "group": group}
    y, mean, rstd = sync.batch_norm(
        x, weight=weight, bias=bias, running_mean=running[0], running_var=running[1], return_stats=True, **options
    )
    dx, *gradients = sync.batch_norm_backward(dy, x, weight, mean=mean, rstd=rstd, **options)
    return y, dx, mean, rstd, *running, *gradients


def shared(sizes, x, dy, weight=None, bias=None, inside=None, **options):
    """The same on several ranks: y and dx put together, the rest of each rank."""
    parts = [ranks.shares(array, sizes) for array in (x, dy)]
    parts.append([None] * len(sizes) if inside is None else ranks.shares(inside, sizes))
    calls = list(zip(*parts, ranks.groups(len(sizes)), strict=True))
    found = ranks.together(lambda c: step(c[0], c[1], weight, bias, c[2], group=c[3], **options), calls)
    for outcome in found:
        assert not isinstance(outcome, Exception), outcome
    return [np.concatenate([outcome[i] for outcome in found]) for i in (0, 1)], [outcome[2:] for outcome in found]


def bits(arrays):
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays]


def near(found, expected, ulps, axes=(0, 2)):
    """Within so many ulps of the largest value of the channel."""
    wide = np.asarray(expected, np.float64)
    unit = np.finfo(np.float32).eps if found.dtype.itemsize == 4 else float(np.finfo(np.float64).eps)
    if found.dtype.itemsize == 2:
        unit = 2.0**-10 if found.dtype == np.float16 else 2.0**-7
    error = np.abs(np.asarray(found, np.float64) - wide).max(axis=axes)
    assert (error <= ulps * unit * np.abs(wide).max(axis=axes)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_bits_do_not_depend_on_how_the_batch_is_shared_out(backend, dtype, masked, batch):
    x, dy, weight, bias, inside = batch
    given = x.astype(dtype), dy.astype(dtype), weight, bias, inside if masked else None
    expected = step(*given)
    for sizes in SHARES:
        (y, dx), rest = shared(sizes, *given)
        assert bits((y, dx)) == bits(expected[:2]), sizes
        for own in rest:
            assert bits(own) == bits(expected[2:]), sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_nor_on_the_order_of_the_ranks(dtype, batch):
    """Which the statistics cannot see: a sum of integers has no order."""
    x, dy, weight, bias, _ = batch
    expected = bits(step(x.astype(dtype), dy.astype(dtype), weight, bias)[2:])
    order = np.r_[8:12, 0:3, 3:8]
    _, rest = shared((4, 3, 5), x.astype(dtype)[order], dy.astype(dtype)[order], weight, bias)
    assert [bits(own) for own in rest] == [expected] * 3


def test_nor_on_the_backend_as_far_as_statistics_go(batch):
    found = {}
    for name in set(normlib.backends.available()) & {"cython", "numpy"}:
        with normlib.backends.use(name):
            found[name] = bits(step(*batch)[2:])
    assert len(set(map(str, found.values()))) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last(backend, dtype, batch):
    x, dy, weight, bias, inside = batch
    expected = step(x.astype(dtype), dy.astype(dtype), weight, bias, inside)
    last = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x.astype(dtype), dy.astype(dtype), inside)]
    (y, dx), rest = shared((5, 0, 7), last[0], last[1], weight, bias, last[2], channel_axis=-1)
    for own in rest:
        assert bits(own) == bits(expected[2:])
    near(np.moveaxis(y, -1, 1), expected[0], 2)
    near(np.moveaxis(dx, -1, 1), expected[1], 2)
    strided = [np.moveaxis(a, -1, 1) for a in last]  # the same elements, named as channels first
    near(step(strided[0], strided[1], weight, bias, strided[2])[0], expected[0], 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_batch_norm_of_the_whole(backend, dtype, masked, batch):
    x, dy, weight, bias, inside = batch
    x, dy, where = x.astype(dtype), dy.astype(dtype), inside if masked else None
    running = np.zeros(C), np.ones(C)
    y, mean, rstd = normlib.batch_norm(
        x, weight=weight, bias=bias, running_mean=running[0], running_var=running[1], training=True, where=where,
        return_stats=True,
    )  # fmt: skip
    dx, dweight, dbias = normlib.batch_norm_backward(
        dy, x, weight, mean=mean, rstd=rstd, training=True, where=where, weight_grads=True
    )
    (found_y, found_dx), rest = shared((5, 0, 7), x, dy, weight, bias, where)
    near(found_y, y, 2)
    near(found_dx, dx, 4)
    for own in rest:
        single = 4e-7 if x.dtype.itemsize < 8 else 1e-14  # the whole is summed in float32 where x is narrower
        scale = [np.abs(expected).max(initial=0, where=np.isfinite(expected)) for expected in (mean, rstd, *running)]
        for a, b, largest in zip(own[:4], (mean, rstd, *running), scale, strict=True):
            np.testing.assert_allclose(a, b, rtol=single, atol=single * largest)
        for gradient, expected in ((own[4], dweight), (own[5], dbias)):
            np.testing.assert_allclose(gradient, expected, rtol=single, atol=single * np.abs(expected).max())
        assert own[4].dtype == own[5].dtype == dweight.dtype


def exact(channel, weight, bias, eps):
    """The outputs of a channel, from sums of fractions."""
    getcontext().prec = 60
    values = [Fraction(float(v)) for v in channel.ravel()]
    mean = sum(values) / len(values)
    var = sum((v - mean) ** 2 for v in values) / len(values) + Fraction(eps)
    decimal = [Decimal(f.numerator) / Decimal(f.denominator) for f in [v - mean for v in values] + [var]]
    return [d / decimal[-1].sqrt() * Decimal(weight) + Decimal(bias) for d in decimal[:-1]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("ratio", [0, 1, 1e3, 1e6])
def test_within_4_ulps_far_from_zero(backend, dtype, ratio, rng):
    x = rng.normal(ratio, 1, (9, C, 7)).astype(dtype)
    for weight, bias in ((np.ones(C), np.zeros(C)), (rng.normal(size=C), rng.normal(size=C))):
        (y, _), _ = shared((4, 5), x, x, weight.astype(dtype), bias.astype(dtype))
        for c in range(C):
            values = exact(x[:, c], float(weight.astype(dtype)[c]), float(bias.astype(dtype)[c]), 1e-5)
            unit = Decimal(float(np.spacing(np.abs(y[:, c]).max())))
            for found, expected in zip(y[:, c].ravel(), values, strict=True):
                assert abs(Decimal(float(found)) - expected) <= 4 * unit


def test_the_gradient_is_that_of_the_loss_of_all_ranks(rng):
    """Finite differences: a step of one element on one rank changes the outputs of all."""
    x, slopes = rng.normal(3, 2, (5, 2)), rng.normal(size=(5, 2))
    parameters, sizes = (rng.normal(size=2), rng.normal(size=2)), (2, 3)

    def loss(x, weight, bias):
        def own(call):
            y = sync.batch_norm(call[0], weight=weight, bias=bias, group=call[2])
            return (y * call[1]).sum()

        calls = zip(ranks.shares(x, sizes), ranks.shares(slopes, sizes), ranks.groups(2), strict=True)
        return sum(ranks.together(own, list(calls)))

    def backward(call):
        _, mean, rstd = sync.batch_norm(call[0], weight=parameters[0], return_stats=True, group=call[2])
        return sync.batch_norm_backward(call[1], call[0], parameters[0], mean=mean, rstd=rstd, group=call[2])

    calls = zip(ranks.shares(x, sizes), ranks.shares(slopes, sizes), ranks.groups(2), strict=True)
    first, second = ranks.together(backward, list(calls))
    assert bits(first[1:]) == bits(second[1:])
    h, found = 1e-5, (np.concatenate((first[0], second[0])), *first[1:])
    for which, gradient in enumerate(found):
        for index in np.ndindex(gradient.shape):
            values = []
            for sign in (1, -1):
                moved = [a.copy() for a in (x, *parameters)]
                moved[which][index] += sign * h
                values.append(loss(*moved))
            assert gradient[index] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-8)


def test_without_a_weight_gradients_come_too(batch):
    """In the dtype of the weight, or else of x."""
    x, dy, weight, *_ = batch
    x, dy = x.astype(np.float32), dy.astype(np.float32)
    _, mean, rstd = sync.batch_norm(x, return_stats=True)
    given = {"mean": mean, "rstd": rstd}
    ones = sync.batch_norm_backward(dy, x, np.ones(C, np.float32), **given)
    assert bits(sync.batch_norm_backward(dy, x, **given)) == bits(ones)
    assert [a.dtype for a in sync.batch_norm_backward(dy, x, weight, **given)] == [np.float32, np.float64, np.float64]


# -- running statistics ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16])
def test_running_statistics_are_moved_as_batch_norm_moves_them(dtype, batch):
    """By the unbiased variance of the true count; where a channel has no value, not at all."""
    x, dy, _, _, inside = batch
    inside[:, 3] = False
    inside[4, 3, 1] = True  # a single value, whose variance nobody knows
    _, rest = shared((5, 0, 7), x, dy, inside=inside, dtype=dtype)
    n, wide = inside.sum(axis=(0, 2)), np.where(inside, x, np.nan)
    for own in rest:
        mean, var = own[2:4]
        for c in range(C):
            values = wide[:, c][inside[:, c]]
            new_mean = 0.1 * values.mean() if n[c] > 0 else 0
            new_var = 0.9 + 0.1 * values.var(ddof=1) if n[c] > 1 else 1
            np.testing.assert_allclose(float(mean[c]), new_mean, rtol=float(8 * np.spacing(dtype(1))), atol=1e-15)
            np.testing.assert_allclose(float(var[c]), new_var, rtol=float(8 * np.spacing(dtype(1))))
        assert mean.dtype == var.dtype == dtype


@pytest.mark.parametrize("momentum", [0, 0.3, 1])
def test_momentum(momentum, batch):
    x = batch[0]
    running, theirs = (np.full(C, 2.0), np.full(C, 3.0)), (np.full(C, 2.0), np.full(C, 3.0))
    options = {"momentum": momentum}
    sync.batch_norm(x, running_mean=running[0], running_var=running[1], **options)
    normlib.batch_norm(x, running_mean=theirs[0], running_var=theirs[1], training=True, **options)
    np.testing.assert_allclose(running, theirs, rtol=1e-14)


def test_a_batch_of_nothing_changes_nothing(batch):
    x, dy, weight, bias, _ = batch
    (y, dx), rest = shared((0, 0), x[:0], dy[:0], weight, bias)
    assert y.shape == dx.shape == (0, C, 4)
    for mean, rstd, running_mean, running_var, dweight, dbias in rest:
        assert np.isnan([mean, rstd]).all()
        assert (running_mean.tolist(), running_var.tolist()) == ([0] * C, [1] * C)
        assert not dweight.any()
        assert not dbias.any()


def test_no_channels(backend):
    empty = np.empty((3, 0, 2))
    y, mean, rstd = sync.batch_norm(empty, return_stats=True)
    assert (y.shape, mean.shape, rstd.shape) == ((3, 0, 2), (0,), (0,))
    assert sync.batch_norm_backward(empty, empty, mean=mean, rstd=rstd)[0].shape == (3, 0, 2)


# -- values and outputs ----


def test_nan_and_infinity_stay_in_their_channel(backend, batch):
    x, dy, weight, bias, _ = batch
    expected = step(x, dy, weight, bias)
    x, dy = x.copy(), dy.copy()
    x[3, 1, 2], x[4, 2, 0], dy[11, 4, 3] = np.nan, np.inf, np.nan
    with np.errstate(invalid="ignore"):
        (y, dx), rest = shared((4, 8), x, dy, weight, bias)
    assert bits([y[:, [0, 3, 4]], dx[:, [0, 3]]]) == bits([expected[0][:, [0, 3, 4]], expected[1][:, [0, 3]]])
    assert np.isnan(y[:, [1, 2]]).all()
    assert np.isnan(dx[:, [1, 2, 4]]).all()
    for own in rest:
        for array, strange in zip(own, [(1, 2)] * 4 + [(1, 2, 4), (4,)], strict=True):
            assert np.flatnonzero(~np.isfinite(array)).tolist() == list(strange)


def test_what_lies_outside_does_no_harm_and_comes_out_as_0(batch):
    x, dy, weight, bias, inside = batch
    clean = shared((4, 8), x, dy, weight, bias, inside)
    spoilt = np.where(inside, x, np.nan), np.where(inside, dy, np.inf)
    found = shared((4, 8), *spoilt, weight, bias, inside)
    assert bits(found[0]) == bits(clean[0])
    assert [bits(own) for own in found[1]] == [bits(own) for own in clean[1]]
    assert not found[0][0][~inside].any()
    assert not found[0][1][~inside].any()


def test_where_broadcasts(batch):
    x, dy = batch[:2]
    few = np.arange(12).reshape(12, 1, 1) % 3 > 0
    full = np.broadcast_to(few, x.shape)
    assert bits(step(x, dy, inside=few)) == bits(step(x, dy, inside=full))


def test_a_constant_channel_comes_out_as_the_bias(batch):
    x, dy, weight, bias, _ = batch
    x = x.copy()
    x[:, 1] = 1e6 + 1 / 3
    (y, _), rest = shared((5, 7), x, dy, weight, bias)
    np.testing.assert_allclose(y[:, 1], bias[1], rtol=1e-15)
    assert rest[0][1][1] == 1 / np.sqrt(1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_and_in_place(backend, dtype, batch):
    x, dy = (a.astype(dtype) for a in batch[:2])
    weight, bias = batch[2:4]
    y, dx, mean, rstd, *_ = step(x, dy, weight, bias)
    out, own_x, own_dy = np.full_like(x, 9), x.copy(), dy.copy()
    assert sync.batch_norm(x, weight=weight, bias=bias, out=out) is out
    assert sync.batch_norm(own_x, weight=weight, bias=bias, out=own_x) is own_x
    given = {"weight": weight, "mean": mean, "rstd": rstd}
    assert sync.batch_norm_backward(own_dy, x, **given, out=own_dy)[0] is own_dy
    into_x = x.copy()
    assert sync.batch_norm_backward(dy, into_x, **given, out=into_x)[0] is into_x
    assert bits([out, own_x]) == bits([y, y])
    assert bits([own_dy, into_x]) == bits([dx, dx])


def test_inputs_stay_and_the_layout_comes_back(batch):
    x, dy, weight, bias, inside = batch
    x = np.asfortranarray(x)
    before = bits([x, dy, weight, bias, inside])
    y, dx, *_ = step(x, dy, weight, bias, inside)
    assert bits([x, dy, weight, bias, inside]) == before
    assert y.strides == dx.strides == x.strides


def test_integers_are_taken_as_floats():
    x = np.arange(12).reshape(4, 3)
    assert bits([sync.batch_norm(x)]) == bits([sync.batch_norm(x.astype(np.float64))])


@pytest.mark.parametrize("shape", [(6, C), (6, C, 3, 2), (6, C, 2, 1, 3)])
def test_any_number_of_axes(shape, rng):
    x, dy = rng.normal(size=(2, *shape))
    flat = step(x.reshape(6, C, -1), dy.reshape(6, C, -1))
    found = step(x, dy)
    assert bits(a.reshape(6, C, -1) for a in found[:2]) == bits(flat[:2])
    assert bits(found[2:]) == bits(flat[2:])


# -- errors ----

X = np.arange(24.0).reshape(4, 3, 2)
GIVEN = {"mean": np.zeros(3), "rstd": np.ones(3)}
WRONG = [
    ({"x": "x"}, TypeError, "batch_norm: x has dtype <U1, expected float64"),
    ({"x": X[0, 0]}, ValueError, r"batch_norm: x has shape \(2,\), expected at least 2 axes"),
    ({"x": np.ma.array(X)}, TypeError, "sync.batch_norm: x is a masked array, expected its data, and where=~mask"),
    ({"eps": -1}, ValueError, "batch_norm: eps is -1.0, expected a finite number >= 0"),
    ({"momentum": 2}, ValueError, "batch_norm: momentum is 2.0, expected a number from 0 to 1"),
    ({"channel_axis": 3}, ValueError, "batch_norm: channel_axis is 3, expected -3 to 2"),
    ({"weight": np.ones(2)}, ValueError, r"batch_norm: weight has shape \(2,\), expected \(3,\)"),
    ({"bias": np.ones((4, 3))}, ValueError, r"sync.batch_norm: bias has shape \(4, 3\), expected \(3,\)"),
    ({"where": 1.0}, TypeError, "batch_norm: where has dtype float64, expected bool"),
    ({"where": np.ones(7, bool)}, ValueError, r"batch_norm: where has shape \(7,\), expected one that broadcasts"),
    ({"out": np.ones((4, 3))}, ValueError, r"batch_norm: out has shape \(4, 3\), expected \(4, 3, 2\)"),
    ({"return_stats": 3}, TypeError, "batch_norm: return_stats is 3, expected True or False"),
    ({"running_mean": np.ones(3)}, ValueError, "batch_norm: running_var is None, expected both"),
    (
        {"running_mean": np.ones(3), "running_var": [1.0] * 3},
        TypeError,
        "running_var is a list, expected a NumPy array",
    ),
]
WRONG_BACKWARD = [
    ({"dy": X[:2]}, ValueError, r"batch_norm_backward: dy has shape \(2, 3, 2\), expected \(4, 3, 2\)"),
    ({"dy": X.astype(np.float32)}, TypeError, "batch_norm_backward: dy has dtype float32, expected float64"),
    ({"weight": np.ones((4, 3))}, ValueError, r"sync.batch_norm_backward: weight has shape \(4, 3\), expected \(3,\)"),
    ({"mean": np.ones(2)}, ValueError, r"batch_norm_backward: mean has shape \(2,\), expected \(3,\)"),
    ({"rstd": None}, TypeError, "batch_norm_backward: rstd has dtype object, expected float64"),
    ({"out": X[:2]}, ValueError, r"batch_norm_backward: out has shape \(2, 3, 2\), expected \(4, 3, 2\)"),
]


def forward(**changes):
    return sync.batch_norm(**{"x": X, **changes})


def backward(**changes):
    return sync.batch_norm_backward(**{"dy": X, "x": X, **GIVEN, **changes})


@pytest.mark.parametrize(
    ("function", "changes", "error", "words"),
    [(forward, *case) for case in WRONG] + [(backward, *case) for case in WRONG_BACKWARD],
)
def test_what_does_not_fit_is_an_error_on_all_ranks(function, changes, error, words):
    """A rank that cannot take part still tells the others, which would wait for it."""
    with pytest.raises(error, match=words):
        function(**changes)
    running = np.zeros(3), np.ones(3)
    good = {"running_mean": running[0], "running_var": running[1]} if function is forward else {}
    calls = [(good, group) if group.rank != 1 else (changes, group) for group in ranks.groups(3)]
    first, wrong, last = ranks.together(lambda call: function(group=call[1], **call[0]), calls)
    assert type(wrong) is error
    assert type(first) is type(last) is RuntimeError
    place = "sync.batch_norm" if function is forward else "sync.batch_norm_backward"
    assert str(first) == str(last) == f"{place}: rank 1 has failed: {wrong}"
    assert (running[0].tolist(), running[1].tolist()) == ([0] * 3, [1] * 3)


DIFFERENT = {
    "eps is 1e-05 on rank 0 and 0.001 on rank 1": (forward, {"eps": 1e-3}),
    "momentum is 0.1 on rank 0 and 0.2 on rank 1": (forward, {"momentum": 0.2}),
    "channels is 3 on rank 0 and 2 on rank 1": (forward, {"x": X[:, :2]}),
    "dtype is float64 on rank 0 and float32 on rank 1": (forward, {"x": X.astype(np.float32)}),
    "function is sync.batch_norm on rank 0 and sync.batch_norm_backward on rank 1": (backward, {}),
}


@pytest.mark.parametrize("words", DIFFERENT)
def test_ranks_that_disagree_get_one_error(words):
    running = [(np.zeros(3), np.ones(3)) for _ in range(3)]

    def own(group):
        if group.rank == 1:
            function, changes = DIFFERENT[words]
            return function(group=group, **changes)
        mean, var = running[group.rank]
        return forward(running_mean=mean, running_var=var, group=group)

    found = ranks.together(own, ranks.groups(3))
    assert [type(outcome) for outcome in found] == [ValueError] * 3
    assert len({str(outcome).partition(": ")[2] for outcome in found}) == 1
    assert str(found[0]) == f"sync.batch_norm: {words}, expected the same on all ranks"
    assert all(mean.tolist() == [0] * 3 and var.tolist() == [1] * 3 for mean, var in running)


def test_ranks_may_differ_in_all_else(batch):
    """In the size and number of axes of shares, whether there is a weight, where the channels are."""
    x, _, weight, bias, _ = batch
    calls = [
        {"x": x[:5], "weight": weight, "bias": bias},
        {"x": np.moveaxis(x[5:8], 1, -1), "channel_axis": -1},
        {"x": x[8:, :, :, None], "running_mean": np.zeros(C), "running_var": np.ones(C)},
    ]
    found = ranks.together(
        lambda call: sync.batch_norm(group=call[1], return_stats=True, **call[0]),
        list(zip(calls, ranks.groups(3), strict=True)),
    )
    _, mean, rstd = sync.batch_norm(x, return_stats=True)
    assert [bits(outcome[1:]) for outcome in found] == [bits([mean, rstd])] * 3


def test_one_value_a_channel_is_too_few_over_all_ranks_alone():
    one = X[:1, :, :1]
    calls = list(zip([one, one[:0]], ranks.groups(2), strict=True))
    found = ranks.together(lambda call: sync.batch_norm(call[0], group=call[1]), calls)
    for outcome in found:
        assert type(outcome) is ValueError
        assert str(outcome) == "sync.batch_norm: all ranks together have one value a channel, expected more"
    found = ranks.together(lambda group: sync.batch_norm(one + group.rank, eps=0, group=group), ranks.groups(2))
    assert [y.ravel().tolist() for y in found] == [[-1] * 3, [1] * 3]


@pytest.mark.parametrize("group", [3, "world", object()])
def test_a_group_has_a_method_to_gather(group):
    with pytest.raises(TypeError, match=rf"group is a {type(group).__name__}, expected a method allgather\(bytes\)"):
        sync.batch_norm(X, group=group)


def test_a_group_that_breaks_leaves_running_statistics_as_they_were():
    class Broken:
        def allgather(self, message):
            raise ConnectionError("rank 1 is gone")

    norm = normlib.SyncBatchNorm(3, group=Broken())
    with pytest.raises(ConnectionError, match="rank 1 is gone"):
        norm(X)
    assert (norm.running_mean.tolist(), norm.running_var.tolist()) == ([0] * 3, [1] * 3)
    assert norm.num_batches_tracked == 0
    with pytest.raises(RuntimeError, match="there is no forward to go back through"):
        norm.backward(X)


def test_what_is_exchanged_does_not_grow_with_the_batch():
    """A count and 8 integers a channel, 10 for float64, and a line that says who calls for what."""

    class Alone:
        def allgather(self, message):
            self.size = len(message.partition(b"\n")[2])
            return [message]

    for dtype, integers in (("float32", 8), ("float64", 10), ("float16", 8)):
        sizes = set()
        for samples in (2, 500):
            group = Alone()
            sync.batch_norm(np.ones((samples, C, 3), dtype), group=group)
            sizes.add(group.size)
        assert len(sizes) == 1
        assert sizes.pop() <= (1 + integers + 2) * 8 * C


# -- the layer ----


def layers(count, *arguments, **options):
    return [normlib.SyncBatchNorm(*arguments, group=group, **options) for group in ranks.groups(count)]


def trained(norms, x, dy, sizes):
    """One step of each rank: y and dx put together."""
    calls = list(zip(norms, ranks.shares(x, sizes), ranks.shares(dy, sizes), strict=True))
    found = ranks.together(lambda call: (call[0](call[1]), call[0].backward(call[2])), calls)
    for outcome in found:
        assert not isinstance(outcome, Exception), outcome
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_layers_of_all_ranks_are_one_layer(momentum, batch, rng):
    """Two steps, the second from what the first has left; uneven shares, of which one is empty once."""
    x, dy, weight, bias, _ = batch
    options = {"momentum": momentum, "dtype": np.float64}
    alone, norms = normlib.SyncBatchNorm(C, **options), layers(3, C, **options)
    for norm in (alone, *norms):
        norm.weight[...], norm.bias[...] = weight, bias
    for sizes, shift in (((5, 0, 7), 0), ((4, 4, 4), 1)):
        expected = alone(x + shift), alone.backward(dy)
        assert bits(trained(norms, x + shift, dy, sizes)) == bits(expected)
        for norm in norms:
            for name in ("running_mean", "running_var", "num_batches_tracked", "grad_weight", "grad_bias"):
                assert bits([getattr(norm, name)]) == bits([getattr(alone, name)]), name
    theirs = normlib.BatchNorm(C, **options)
    for shift in (0, 1):
        theirs(x + shift)
    np.testing.assert_allclose(alone.running_mean, theirs.running_mean, rtol=1e-14)
    np.testing.assert_allclose(alone.running_var, theirs.running_var, rtol=1e-14)


def test_evaluation_is_that_of_batch_norm_and_asks_nobody(batch):
    x, dy = batch[:2]

    class Nobody:
        def allgather(self, message):
            raise AssertionError("evaluation has asked the others")

    norm, theirs = normlib.SyncBatchNorm(C), normlib.BatchNorm(C)
    norm(x)
    theirs.load_state_dict(norm.state_dict())
    norm.group = Nobody()
    assert bits([norm.eval()(x), norm.backward(dy)]) == bits([theirs.eval()(x), theirs.backward(dy)])
    assert bits([norm.grad_weight, norm.grad_bias]) == bits([theirs.grad_weight, theirs.grad_bias])


def test_without_running_statistics_evaluation_shares_too(batch):
    x = batch[0]
    norms = [norm.eval() for norm in layers(2, C, track_running_stats=False)]
    found = ranks.together(lambda call: call[0](call[1]), list(zip(norms, ranks.shares(x, (5, 7)), strict=True)))
    assert bits([np.concatenate(found)]) == bits([sync.batch_norm(x)])


def test_the_layer_is_a_batch_norm(batch):
    x, dy = batch[:2]
    norm = normlib.SyncBatchNorm(C, eps=1e-3, affine=False)
    assert repr(norm) == f"SyncBatchNorm({C}, eps=0.001, momentum=0.1, affine=False, track_running_stats=True)"
    assert list(normlib.SyncBatchNorm(C).state_dict()) == list(normlib.BatchNorm(C).state_dict())
    norm(x)
    norm.backward(dy)
    with pytest.raises(RuntimeError, match=r"SyncBatchNorm.backward: there is no forward to go back through"):
        norm.backward(dy)
    with pytest.raises(ValueError, match=r"SyncBatchNorm: x has shape \(12, 4\), expected 5 channels along axis 1"):
        norm(x[:, :4, 0])
    with pytest.raises(TypeError, match="add"):  # nothing is fused
        norm(x, add=x)


def test_a_mask_and_parameters_that_are_frozen(batch):
    x, dy, *_, inside = batch
    norms = layers(2, C)
    for norm in norms:
        norm.freeze()
    calls = list(zip(norms, *(ranks.shares(a, (5, 7)) for a in (x, dy, inside)), strict=True))
    found = ranks.together(lambda c: (c[0](c[1], where=c[3]), c[0].backward(c[2])), calls)
    y, dx = (np.concatenate(parts) for parts in zip(*found, strict=True))
    expected = step(x, dy, np.ones(C, np.float32), np.zeros(C, np.float32), inside)
    assert bits([y, dx]) == bits(expected[:2])
    for norm in norms:
        assert norm.grad_weight is None or not norm.grad_weight.any()


def test_gradients_of_parameters_add_up_over_steps(batch):
    x, dy = batch[:2]
    norms = layers(2, C, dtype=np.float64)
    for _ in range(2):
        trained(norms, x, dy, (5, 7))
    once = step(x, dy, np.ones(C), np.zeros(C))[-2:]
    for norm, (name, expected) in itertools.product(norms, zip(("grad_weight", "grad_bias"), once, strict=True)):
        assert bits([getattr(norm, name)]) == bits([expected + expected])
