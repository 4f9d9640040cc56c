"""Moments of chunks: those of all data at once, whoever took in which chunk and when."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from ml_dtypes import bfloat16

import normlib
from normlib import Moments


def exact(values):
    """Mean and biased variance, as fractions."""
    values = [Fraction(float(value)) for value in values]
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)


def ulps(found, expected):
    return abs(Fraction(float(found)) - expected) / Fraction(float(np.spacing(abs(float(expected)))))


@pytest.fixture
def rng():
    return np.random.default_rng(22)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("offset", "drift"), [(1e6, 0), (1e6, 1), (1e6, 1e3), (-1e9, 0.1), (3, 10), (0, 0)])
def test_the_result_is_that_of_all_at_once(offset, drift, dtype, rng):
    """In float32 the values are what float32 holds; of a mean near 0 the deviation is the scale."""
    chunks = [rng.normal(offset + drift * i, 1, rng.integers(1, 90)).astype(dtype) for i in range(13)]
    mean, var = exact(np.concatenate(chunks))
    total = Moments()
    for chunk in chunks:
        total.update(chunk)
    assert total.count == sum(map(len, chunks))
    assert ulps(total.var, var) <= 4
    scale = max(abs(mean), Fraction(float(np.sqrt(float(var)))))
    assert abs(Fraction(float(total.mean)) - mean) <= 4 * Fraction(float(np.spacing(float(scale))))


def test_a_drift_that_batch_norm_does_not_see(rng):
    """Its running variance is the mean of those of the batches; what lies between the batches is not in it."""
    norm, total = normlib.BatchNorm(1, momentum=None), Moments(channel_axis=1)
    chunks = [rng.normal(5 * i, np.sqrt(3), (1000, 1)) for i in range(10)]
    for chunk in chunks:
        norm(chunk)
        total.update(chunk)
    assert norm.running_var[0] == pytest.approx(3, rel=0.05)
    assert total.var[0] == pytest.approx(np.concatenate(chunks).var(), rel=1e-14)
    assert total.var[0] > 200


def shared_out(chunks, workers, rng, **axis):
    """The chunks taken in by some workers, each in an order of its own, and merged in any order."""
    parts = [Moments(**axis) for _ in range(workers)]
    for i in rng.permutation(len(chunks)):
        parts[rng.integers(workers)].update(chunks[i], index=int(i))
    total = Moments(**axis)
    for i in rng.permutation(workers):
        total.merge(pickle.loads(pickle.dumps(parts[i])))
    return total


@pytest.mark.parametrize("count", [1, 2, 7, 8, 21])
@pytest.mark.parametrize("axis", [{}, {"channel_axis": 1}, {"axis": 0}, {"axis": (0, 2)}, {"axis": -1}])
def test_the_bits_do_not_depend_on_who_computed_what(axis, count, rng):
    chunks = [rng.normal(1e3 * i, 1, (4, 3, 5)) for i in range(count)]
    expected = Moments(**axis)
    for chunk in chunks:
        expected.update(chunk)
    for workers in (1, 2, 3, 5):
        found = shared_out(chunks, workers, rng, **axis)
        for name in ("count", "mean", "var"):
            assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


def test_what_is_kept_does_not_grow_with_the_chunks(rng):
    total = Moments(channel_axis=1)
    for _ in range(200):
        total.update(rng.normal(size=(2, 4)))
    assert len(total._nodes) <= 8  # 200 in binary has three ones
    assert len(pickle.dumps(total)) < 4000


@pytest.mark.parametrize("axis", [{}, {"channel_axis": 1}, {"channel_axis": -1}, {"axis": (1, 2)}, {"axis": 1}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16, np.int64])
def test_axes_and_dtypes(axis, dtype, rng):
    x = rng.normal(20, 9, (4, 3, 5)).astype(dtype)
    wide = x.astype(np.float64)
    over = axis.get("axis", None)
    if "channel_axis" in axis:
        over = tuple(i for i in range(3) if i != axis["channel_axis"] % 3)
    found = Moments(**axis).update(x[..., ::-1])
    np.testing.assert_allclose(found.mean, wide[..., ::-1].mean(axis=over), rtol=1e-14)
    np.testing.assert_allclose(found.var, wide[..., ::-1].var(axis=over), rtol=1e-13)
    assert (found.count == wide.size // found.mean.size).all()


def test_what_is_left_out(rng):
    x = rng.normal(size=(6, 3))
    inside = x > -0.5
    inside[:, 2] = False
    spoilt = np.where(inside, x, np.nan)
    total = Moments(channel_axis=1).update(spoilt[:4], where=inside[:4])
    total.update(np.ma.array(spoilt[4:], mask=~inside[4:]))
    assert total.count.tolist() == inside.sum(axis=0).tolist()
    assert np.isnan(total.mean[2])
    assert np.isnan(total.var[2])
    np.testing.assert_allclose(total.mean[:2], np.nanmean(spoilt[:, :2], axis=0), rtol=1e-14)
    np.testing.assert_allclose(total.var[:2], np.nanvar(spoilt[:, :2], axis=0), rtol=1e-14)


def test_nothing_one_value_and_nan(rng):
    one = Moments().update(3.5)
    assert (one.count, one.mean, one.var) == (1, 3.5, 0)
    assert one.update(np.empty(0)).update([1.5]).mean == 2.5
    empty = Moments(channel_axis=1).update(np.empty((0, 2)))
    assert empty.count.tolist() == [0, 0]
    assert np.isnan(empty.mean).all()
    x = np.array([[1.0, np.nan, np.inf], [3.0, 1.0, 1.0]])
    found = Moments(channel_axis=1).update(x)
    assert (found.mean[0], found.var[0]) == (2, 1)
    assert not np.isfinite(found.mean[1:]).any()
    assert np.isnan(found.var[1:]).all()


def test_without_indices_a_merge_comes_after_what_is_there(rng):
    a, b = rng.normal(size=(2, 5, 100))
    here, there = Moments(), Moments()
    for chunk in a:
        here.update(chunk)
    for chunk in b:
        there.update(chunk)
    before = pickle.dumps(there)
    assert here.merge(there).var == pytest.approx(np.var([a, b]), rel=1e-15)
    assert pickle.dumps(there) == before


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: Moments(0, channel_axis=1), TypeError, "Moments: axis and channel_axis are given, expected one"),
        (lambda m: Moments().mean, ValueError, r"Moments: there is no chunk, expected update\(x\) before"),
        (lambda m: m.update(np.ones((2, 4))), ValueError, r"the axes that stay have shape \(4,\), expected \(3,\)"),
        (lambda m: m.update(np.ones(3)), ValueError, "Moments.update: channel_axis is 1, expected -1 to 0"),
        (lambda m: m.update("x"), TypeError, "Moments.update: x"),
        (lambda m: m.update(np.ones((2, 3)), index=0), ValueError, "Moments.update: chunk 0 is there already"),
        (lambda m: m.update(np.ones((2, 3)), index=-1), ValueError, "index is -1, expected an int from 0 on"),
        (lambda m: m.update(np.ones((2, 3)), index=0.5), TypeError, "index is 0.5, expected an integer"),
        (lambda m: m.update(np.ones((2, 3)), where=[1.0]), TypeError, "Moments.update: where"),
        (lambda m: m.merge(m), ValueError, "Moments.merge: chunk 0 is there already, expected another index"),
        (lambda m: m.merge(np.ones(3)), TypeError, "Moments.merge: other is a ndarray, expected Moments"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(call, error, words):
    total = Moments(channel_axis=1).update(np.arange(12.0).reshape(4, 3), index=0)
    with pytest.raises(error, match=words):
        call(total)
    assert (total.count.tolist(), total.mean.tolist()) == ([4, 4, 4], [4.5, 5.5, 6.5])
