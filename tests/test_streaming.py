"""Outputs of many megabytes go past the caches. They have the bits of the same rows computed a few at a time, which do
not, wherever the output begins and wherever its rows begin."""

import numpy as np
import pytest

import normlib
from normlib.testing import dtypes

BYTES = 9 << 20  # above the size from which on outputs are streamed
DTYPES = [dtype.name for dtype in dtypes()]
EPSILON = {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}
rng = np.random.default_rng(7)


def at_offset(shape, dtype, offset):
    """An empty array that begins `offset` elements behind a 64-byte line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(int(np.prod(shape)) * itemsize + 128 + offset * itemsize, np.uint8)
    start = -raw.ctypes.data % 64 + offset * itemsize
    return raw[start : start + int(np.prod(shape)) * itemsize].view(dtype).reshape(shape)


def filled(shape, dtype, offset=3):
    x = at_offset(shape, dtype, offset)
    x[...] = rng.standard_normal(shape, dtype=np.float32)
    return x


def assert_same_bits(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()


def rows_of(d, dtype):
    return BYTES // (d * np.dtype(dtype).itemsize) + 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 7, 33, 64, 97, 150, 256, 1000, 1024, 3001, 70001])
@pytest.mark.parametrize("offset", [0, 1, 5])
def test_rows(d, dtype, offset):
    x, weight, bias = filled((rows_of(d, dtype), d), dtype), filled((d,), dtype), filled((d,), dtype)
    out = at_offset(x.shape, dtype, offset)
    part = slice(3, 11)
    y, mean, rstd = normlib.layer_norm(x, weight, bias, out=out, return_stats=True)
    small = normlib.layer_norm(x[part], weight, bias, return_stats=True)
    assert_same_bits((y[part], mean[part], rstd[part]), small)
    assert np.array_equal(normlib.layer_norm(x.copy(), weight, bias), y)
    assert_same_bits((normlib.rms_norm(x, weight, out=out)[-5:],), (normlib.rms_norm(x[-5:], weight),))
    dx, *_ = normlib.layer_norm_backward(x, x, weight, mean=mean, rstd=rstd, out=out)
    expected, *_ = normlib.layer_norm_backward(x[part], x[part], weight, mean=mean[part], rstd=rstd[part])
    assert_same_bits((dx[part],), (expected,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("shape", [(8, 12, 49), (8, 12, 169), (24, 300, 9), (40, 7, 1030)], ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_samples(shape, dtype, last, offset):
    channels = shape[1]
    samples = BYTES // (np.dtype(dtype).itemsize * shape[1] * shape[2]) + 1
    axis = -1 if last else 1
    full = (samples, shape[2], channels) if last else (samples, *shape[1:])
    x, weight, bias = filled(full, dtype), filled((channels,), dtype), filled((channels,), dtype)
    out = at_offset(full, dtype, offset)
    part = slice(2, 5)
    groups = next(g for g in (4, 3, 7) if channels % g == 0)
    y, mean, rstd = normlib.group_norm(x, groups, weight, bias, channel_axis=axis, out=out, return_stats=True)
    small = normlib.group_norm(x[part], groups, weight, bias, channel_axis=axis, return_stats=True)
    assert_same_bits((y[part], mean[part], rstd[part]), small)
    given = {"channel_axis": axis, "mean": mean, "rstd": rstd}
    dx, *_ = normlib.group_norm_backward(x, x, groups, weight, out=out, **given)
    given = {"channel_axis": axis, "mean": mean[part], "rstd": rstd[part]}
    assert_same_bits((dx[part],), normlib.group_norm_backward(x[part], x[part], groups, weight, **given)[:1])
    running = {"running_mean": np.zeros(channels), "running_var": np.ones(channels)}
    y = normlib.batch_norm(x, weight=weight, bias=bias, channel_axis=axis, out=out, **running)
    small = normlib.batch_norm(x[part], weight=weight, bias=bias, channel_axis=axis, **running)
    assert_same_bits((y[part],), (small,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "length"), [(300, 9), (96, 49), (41, 196), (20, 1030), (3, 5000)])
@pytest.mark.parametrize("gap", [0, 3])
def test_batch_norm_a_few_channels_at_a_time(channels, length, gap, dtype):
    """Channels know nothing of each other: some, which do not stream, have the bits that they have among all."""
    samples = BYTES // (np.dtype(dtype).itemsize * channels * length) + 1
    full = (samples, channels + gap, length + gap)
    x, dy = filled(full, dtype)[:, :channels, :length], filled(full, dtype, 1)[:, :channels, :length]
    weight, out = filled((channels,), dtype), np.full(full, 7, dtype)
    part = slice(1, 3)
    out = out[:, :channels, :length]
    y, mean, rstd = normlib.batch_norm(x, weight=weight, training=True, out=out, return_stats=True)
    small = normlib.batch_norm(x[:, part], weight=weight[part], training=True, return_stats=True)
    assert_same_bits((y[:, part], mean[part], rstd[part]), small)
    for training in (True, False):
        given = {"mean": mean[part], "rstd": rstd[part], "training": training}
        expected = normlib.batch_norm_backward(dy[:, part], x[:, part], weight[part], **given)
        given = {"mean": mean, "rstd": rstd, "training": training}
        onto = dy.copy()
        dx, dweight, dbias = normlib.batch_norm_backward(onto, x, weight, out=onto, **given)
        assert_same_bits((dx[:, part], dweight[part], dbias[part]), expected)
    out[:, :channels, :length] = 7
    assert (out == 7).all()


@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17, 40])
@pytest.mark.parametrize("length", [1, 49, 260])
def test_channels_of_a_group(channels, length):
    """More and fewer than are written at once; in place, and a sample at a time, which does not stream."""
    groups = 6
    shape = (BYTES // (4 * groups * channels * length) + 1, groups * channels, length)
    x, dy, weight = filled(shape, "float32"), filled(shape, "float32", 1), filled(shape[1:2], "float32")
    y, mean, rstd = normlib.group_norm(x, groups, weight, weight, return_stats=True)
    part = slice(1, 3)
    small = normlib.group_norm(x[part], groups, weight, weight, return_stats=True)
    assert_same_bits((y[part], mean[part], rstd[part]), small)
    dx, dweight, dbias = normlib.group_norm_backward(dy, x, groups, weight, mean=mean, rstd=rstd)
    small = normlib.group_norm_backward(dy[part], x[part], groups, weight, mean=mean[part], rstd=rstd[part])
    assert_same_bits((dx[part],), small[:1])
    found = normlib.group_norm_backward(dy, x, groups, weight, mean=mean, rstd=rstd, out=dy)
    assert_same_bits(found, (dx, dweight, dbias))
    assert_same_bits((normlib.group_norm(x, groups, weight, weight, out=x),), (y,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(70, 33, 1030), (600, 300, 9)], ids=str)
def test_batch_norm_in_both_memory_orders(shape, dtype):
    shape = (BYTES // (np.dtype(dtype).itemsize * shape[1] * shape[2]) + 1, *shape[1:])
    x, dy, weight = filled(shape, dtype), filled(shape, dtype), filled(shape[1:2], dtype)
    for order in (lambda a: a, lambda a: np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2)):
        x, dy = order(x), order(dy)
        y, mean, rstd = normlib.batch_norm(x, weight=weight, training=True, return_stats=True)
        part = slice(3, 5)  # with given statistics a part stands for the whole, and does not stream
        some = normlib.batch_norm(x[part], weight=weight, running_mean=mean, running_var=1 / rstd**2, eps=0)
        y, some = y[part].astype(np.float64), some.astype(np.float64)
        assert np.allclose(y, some, rtol=0, atol=4 * EPSILON[dtype] * np.abs(y).max())
        given = {"mean": mean, "rstd": rstd, "training": False}
        dx = normlib.batch_norm_backward(dy, x, weight, **given)[0]
        assert_same_bits((dx[part],), normlib.batch_norm_backward(dy[part], x[part], weight, **given)[:1])


@pytest.mark.parametrize("megabytes", [4, 5, 6, 7])
@pytest.mark.parametrize("shape", [(96, 11, 24), (150, 16, 16)], ids=str)
def test_backward_passes_stream_sooner(megabytes, shape):
    samples = (megabytes << 20) // (4 * int(np.prod(shape)))
    x, dy = filled((samples, *shape), "float32"), filled((samples, *shape), "float32", 1)
    weight = filled(shape[-1:], "float32")
    part = slice(1, 4)
    _, mean, rstd = normlib.layer_norm(x, return_stats=True)
    dx = normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd)[0]
    expected = normlib.layer_norm_backward(dy[part], x[part], weight, mean=mean[part], rstd=rstd[part])[0]
    assert_same_bits((dx[part],), (expected,))
    for axis in (1, -1):
        _, mean, rstd = normlib.instance_norm(x, channel_axis=axis, return_stats=True)
        dx = normlib.instance_norm_backward(dy, x, channel_axis=axis, mean=mean, rstd=rstd)[0]
        given = {"channel_axis": axis, "mean": mean[part], "rstd": rstd[part]}
        assert_same_bits((dx[part],), normlib.instance_norm_backward(dy[part], x[part], **given)[:1])


@pytest.mark.parametrize("op", ["batch_norm", "layer_norm"])
def test_new_results_of_256_megabytes(op):
    """Their pages are mapped before the tasks along a strided axis."""
    along = {"batch_norm": {"training": True}, "layer_norm": {"axis": 0}}[op]
    x = np.zeros((1 << 16, 32, 32), np.float32)
    x[::999] = rng.standard_normal((1, 32, 32))
    y = getattr(normlib, op)(x, **along)
    assert np.array_equal(y, getattr(normlib, op)(x, out=x, **along))


@pytest.mark.parametrize("d", [33, 1000, 1024])
def test_in_place(d):
    x, dy = filled((rows_of(d, "float32"), d), "float32"), filled((rows_of(d, "float32"), d), "float32", 1)
    weight = filled((d,), "float32")
    y, mean, rstd = normlib.layer_norm(x, weight, return_stats=True)
    dx, dweight, dbias = normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd)
    onto = dy.copy()
    found = normlib.layer_norm_backward(onto, x, weight, mean=mean, rstd=rstd, out=onto)
    assert_same_bits(found, (dx, dweight, dbias))
    assert_same_bits((normlib.layer_norm(x, weight, out=x),), (y,))


def test_rows_apart_in_memory():
    """Rows of a wider array: the elements between them are left alone."""
    wide = filled((4000, 1500), "float32")
    x, out = wide[:, 100:1100], np.full((4000, 1300), np.float32(7))
    y = normlib.layer_norm(x, out=out[:, 50:1050])
    assert_same_bits((y,), (normlib.layer_norm(x.copy()),))
    assert (out[:, :50] == 7).all()
    assert (out[:, 1050:] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [49, 3136, 4100])
@pytest.mark.parametrize("offset", [0, 3])
def test_strided_axis(width, offset, dtype):
    shape = (BYTES // (np.dtype(dtype).itemsize * 96 * width) + 1, 96, width)
    x, weight, bias = filled(shape, dtype), filled((96,), dtype), filled((96,), dtype)
    out = at_offset(shape, dtype, offset)
    y, mean, rstd = normlib.layer_norm(x, weight, bias, axis=1, out=out, return_stats=True)
    part = slice(1, 2)
    assert_same_bits((y[part],), (normlib.layer_norm(x[part], weight, bias, axis=1),))
    dy = filled(shape, dtype, 1)
    small = normlib.layer_norm_backward(dy[part], x[part], weight, mean=mean[part], rstd=rstd[part], axis=1)[:1]
    found = normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd, axis=1, out=out)
    assert_same_bits((found[0][part],), small)
    assert_same_bits(normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd, axis=1, out=dy), found)


@pytest.mark.parametrize("gap", [1, 8])
def test_strided_axis_of_a_wider_array(gap):
    """What lies between the rows of the output is left alone, where whole lines are written too."""
    wide = filled((4, 96, 7000 + gap), "float32")
    x, out = wide[..., :7000], np.full(wide.shape, np.float32(7))
    y, mean, rstd = normlib.layer_norm(x, axis=1, out=out[..., :7000], return_stats=True)
    assert_same_bits((y,), (normlib.layer_norm(x.copy(), axis=1),))
    dx, *_ = normlib.layer_norm_backward(x, x, mean=mean, rstd=rstd, axis=1, out=out[..., :7000])
    assert_same_bits((dx,), normlib.layer_norm_backward(x.copy(), x.copy(), mean=mean, rstd=rstd, axis=1)[:1])
    assert (out[..., 7000:] == 7).all()
