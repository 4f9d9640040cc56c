"""Arrays of more than 2^31 elements: rows that overlap in 8 MB, and 9 GB of them. The campaign runs both."""

import math

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from support import memory

import normlib

ROWS = (1 << 21) + 32  # of 1024 elements
rng = np.random.default_rng(0)
pytestmark = pytest.mark.skipif("cython" not in normlib.backends.available(), reason="NumPy works on copies, of 17 GB")


def windows(buffer):
    """Rows that overlap, each one element further on: of as many elements as one likes, in 8 MB."""
    return as_strided(buffer, (ROWS, 1024), (buffer.itemsize,) * 2)


def rows_forward(x, out):
    found = normlib.layer_norm(x, out=out, return_stats=True)[1:]
    for values, expected in zip(found, normlib.layer_norm(x[SOME], return_stats=True)[1:], strict=True):
        assert np.array_equal(values[SOME], expected)


def rows_backward(x, out):
    dy, weight = x[::-1], np.ones(1024, np.float32)
    stats = {"mean": np.zeros(ROWS), "rstd": np.ones(ROWS)}
    _, dweight, dbias = normlib.layer_norm_backward(dy, x, weight, **stats, out=out)
    position = 700
    product = (dy[:, position] * x[:, position]).astype(np.float64)
    np.testing.assert_allclose(dweight[position], product.sum(), atol=1e-5 * np.abs(product).sum())
    np.testing.assert_allclose(dbias[position], dy[:, position].sum(dtype=np.float64), atol=1.0)


def columns_forward(x, out):
    """Channels last: a sample is one position of 1024 channels."""
    _, mean, _ = normlib.batch_norm(x[:, None], channel_axis=-1, training=True, out=out[:, None], return_stats=True)
    for channel in (0, 700, 1023):
        np.testing.assert_allclose(mean[channel], x[:, channel].mean(dtype=np.float64), atol=1e-7)


SOME = [0, 1, (1 << 20) + 1, ROWS - 2, ROWS - 1]


@pytest.mark.long
@pytest.mark.parametrize("call", [rows_forward, rows_backward, columns_forward])
def test_overlapping_rows(call):
    """Statistics and gradients of parameters; the output overlaps itself, so that it says nothing."""
    buffer = rng.standard_normal(ROWS + 1023, dtype=np.float32)
    x, out = windows(buffer), windows(np.empty_like(buffer))
    assert x.size > 1 << 31
    with normlib.backends.use("cython", strict=True):
        call(x, out)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["rows", "strided axis", "channels first", "channels last", "one row"])
def test_nine_gigabytes(layout):
    """In place; what lies at both ends and around the 2^31st element is what the same rows give alone."""
    if memory() < 11 << 30:
        pytest.skip("needs 11 GB of memory")
    x = np.empty((ROWS, 1024), np.float32)
    assert x.size > 1 << 31
    block = rng.standard_normal((1 << 10, 1024), dtype=np.float32)
    for first in range(0, ROWS, len(block)):
        part = x[first : first + len(block)]
        np.add(block[: len(part)], first, out=part)
    if layout == "rows":
        some = [0, 1, ROWS - 4, ROWS - 3, ROWS - 2, ROWS - 1]
        expected = normlib.layer_norm(x[some])
        assert np.array_equal(normlib.layer_norm(x, out=x)[some], expected)
    elif layout == "strided axis":
        columns = [0, 511, 1023]
        expected = normlib.layer_norm(x[:, columns].copy(), axis=0)
        assert np.array_equal(normlib.layer_norm(x, axis=0, out=x)[:, columns], expected)
    elif layout == "one row":
        one = x.reshape(-1)
        parts = (x[i : i + (1 << 16)] for i in range(0, ROWS, 1 << 16))
        mean = math.fsum(float(part.sum(dtype=np.float64)) for part in parts) / x.size
        y, found, rstd = normlib.layer_norm(one, out=one, return_stats=True)
        assert abs(found - mean) < 1e-9 * abs(mean)
        assert np.isfinite(y[[0, -1, 1 << 31]]).all()
        assert rstd > 0
    else:
        shape, axis = ((-1, 8, 64, 64), 1) if layout == "channels first" else ((-1, 64, 64, 8), -1)
        samples = x.reshape(shape)
        some = [0, 1, len(samples) - 2, len(samples) - 1]
        expected = normlib.group_norm(samples[some], 4, channel_axis=axis)
        assert np.array_equal(normlib.group_norm(samples, 4, channel_axis=axis, out=samples)[some], expected)
