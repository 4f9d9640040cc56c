"""scikit-learn's StandardScaler by the kernels: its checks, its results, and the digits that it loses."""

import doctest
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy import sparse
from sklearn import clone, config_context, preprocessing
from sklearn.utils.estimator_checks import estimator_checks_generator

from normlib.interop import sklearn as interop
from normlib.interop.sklearn import StandardScaler

pd = pytest.importorskip("pandas")

ATTRIBUTES = ["mean_", "var_", "scale_", "n_samples_seen_", "n_features_in_"]
CHECKS = [  # those of the array API want libraries of other devices, for what is scikit-learn's own code
    (estimator, check)
    for given in (StandardScaler(), StandardScaler(with_mean=False), StandardScaler(with_std=False))
    for estimator, check in estimator_checks_generator(given)
    if "array_api" not in check.func.__name__
]


def draw(n=200, columns=6, dtype="float64", loc=5.0, seed=0):
    return np.random.default_rng(seed).normal(loc, 3, (n, columns)).astype(dtype)


def holes(x, seed=1):
    """x with NaN here and there, and a column of nothing else."""
    x = x.copy()
    x[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
    x[:, -1] = np.nan
    return x


def flat(x):
    """x with columns that are constant, one of a value whose sums are rounded."""
    x = x.copy()
    x[:, 0], x[:, 1] = 0.1, 0
    return x


def reference(x, **options):
    """scikit-learn's scaler of x, which warns of columns of NaN."""
    with np.errstate(all="ignore"):
        return preprocessing.StandardScaler(**options).fit(x)


def assert_same_state(ours, theirs, within=1e-12):
    """The statistics are the same but for rounding."""
    for name in ATTRIBUTES:
        mine, expected = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (expected is None), name
        if expected is not None:
            assert np.shape(mine) == np.shape(expected), name
            np.testing.assert_allclose(mine, expected, rtol=within, atol=within, err_msg=name)


def assert_near(actual, expected):
    """They differ by some roundings of the largest element."""
    assert actual.dtype == expected.dtype
    eps = 4 * np.finfo(actual.dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=eps, atol=eps * np.nanmax(np.abs(expected), initial=0))


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=lambda value: getattr(value, "func", type(value)).__name__)
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


DATA = {
    "rows": draw(),
    "columns": np.asfortranarray(draw()),
    "float32": draw(dtype="float32"),
    "float16": draw(dtype="float16"),
    "integers": np.arange(60).reshape(20, 3) ** 2,
    "a list": [[1.0, 2.0], [3.0, 5.0]],
    "a row": draw(1),
    "every other": draw()[::2, ::3],
    "holes": holes(draw()),
    "a row with a hole": np.array([[1.0, np.nan]]),
    "constant columns": flat(draw()),
    "constant columns of float32": flat(draw(dtype="float32")),
    "tiny": draw() * 1e-100,
}


@pytest.mark.parametrize(
    "options", [{}, {"with_mean": False}, {"with_std": False}, {"with_mean": False, "with_std": False}]
)
@pytest.mark.parametrize("x", DATA.values(), ids=DATA)
def test_results_are_those_of_scikit_learn(x, options):
    ours, theirs = StandardScaler(**options).fit(x), reference(x, **options)
    scaled = theirs.transform(x)
    assert_same_state(ours, theirs, within=1e-7 if scaled.itemsize < 8 else 1e-12)
    assert_near(ours.transform(x), scaled)
    assert_near(ours.inverse_transform(scaled), theirs.inverse_transform(scaled))


@pytest.mark.parametrize("x", DATA.values(), ids=DATA)
def test_fit_transform_has_the_bits_of_fit_and_transform(x):
    np.testing.assert_array_equal(StandardScaler().fit_transform(x), StandardScaler().fit(x).transform(x))


CHUNKED = {
    "full": draw(1000),
    "holes": holes(draw(1000)),
    "float32": draw(1000, dtype="float32"),
    "constant columns": flat(draw(1000, dtype="float32")),
}


@pytest.mark.parametrize("x", CHUNKED.values(), ids=CHUNKED)
@pytest.mark.parametrize("step", [1, 64, 999])
def test_chunks_come_to_the_statistics_of_the_whole(x, step):
    scaler = StandardScaler()
    for i in range(0, len(x), step):
        scaler.partial_fit(x[i : i + step])
    assert_same_state(scaler, reference(x), within=1e-7 if x.itemsize < 8 else 1e-12)


def test_fit_forgets_what_was_before_and_partial_fit_goes_on_in_a_copy():
    x, y = draw(), draw(seed=1, loc=-3)
    scaler = StandardScaler().fit(y)
    for again in (scaler.fit, scaler.fit_transform):
        again(x)
        assert_same_state(scaler, reference(x))
    scaler = pickle.loads(pickle.dumps(scaler))
    assert_same_state(scaler.partial_fit(y), reference(np.concatenate([x, y])))
    assert not hasattr(clone(scaler), "mean_")


def test_float32_columns_far_from_zero_keep_their_digits():
    """scikit-learn 1.9 rounds the mean to float32 before it is subtracted."""
    x = draw(20000, dtype="float32", loc=1e5)
    wide = x.astype(np.float64)
    true = (wide - wide.mean(0)) / wide.std(0)
    theirs = preprocessing.StandardScaler().fit_transform(x)
    scaler = StandardScaler()
    ours = scaler.fit_transform(x)
    assert ours.dtype == np.float32
    assert np.abs(ours - true).max() < 1e-6
    assert np.abs(theirs - true).max() > 1e-4
    np.testing.assert_array_equal(scaler.inverse_transform(ours), x)


def test_chunks_that_drift_far_from_zero_keep_their_digits():
    chunks = [draw(100, loc=3e6 + 10 * i, seed=i) for i in range(20)]
    scaler = StandardScaler()
    for chunk in chunks:
        scaler.partial_fit(chunk)
    exact = np.concatenate(chunks) - 3e6  # without rounding: they lie within a factor of two
    np.testing.assert_allclose(scaler.var_, exact.var(0), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_only_without_copy_the_rows_are_written_to(dtype):
    x = draw(dtype=dtype)
    x.flags.writeable = False
    scaler = StandardScaler()
    expected = scaler.fit_transform(x)
    scaler.inverse_transform(scaler.transform(x))
    for scale in (
        lambda rows: StandardScaler(copy=False).fit_transform(rows),
        lambda rows: scaler.transform(rows, copy=False),
        lambda rows: clone(scaler).set_params(copy=False).fit(rows).transform(rows),
    ):
        rows = x.copy()
        assert np.shares_memory(scale(rows), rows)
        np.testing.assert_array_equal(rows, expected)
    scaler.inverse_transform(rows, copy=False)
    assert_near(rows, x)
    for scale in (clone(scaler).set_params(copy=False).fit_transform, lambda rows: scaler.transform(rows, copy=False)):
        np.testing.assert_array_equal(scale(x), expected)  # x cannot be written to


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform", "transform"])
def test_infinity_is_an_error_that_changes_nothing(method):
    x = draw()
    scaler = StandardScaler().partial_fit(x)
    bad = x.copy()
    bad[3, 2], bad[4, 1] = np.inf, np.nan
    with pytest.raises(ValueError, match="Input X contains infinity"):
        getattr(scaler if "partial" in method or method == "transform" else clone(scaler), method)(bad)
    assert_same_state(scaler.partial_fit(x), reference(np.concatenate([x, x])))


@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64"])
def test_a_dataframe_keeps_its_labels(dtype):
    x = draw(30, 3)
    frame = pd.DataFrame(x, columns=["a", "b", "c"], index=range(100, 130)).astype(dtype)
    if dtype == "Float64":
        frame.loc[107, "b"], x[7, 1] = pd.NA, np.nan
    scaler = StandardScaler().set_output(transform="pandas")
    scaled = scaler.fit_transform(frame)
    assert list(scaled.columns) == list(scaler.feature_names_in_) == ["a", "b", "c"]
    assert list(scaled.index) == list(frame.index)
    assert list(scaler.get_feature_names_out()) == ["a", "b", "c"]
    np.testing.assert_allclose(scaled, preprocessing.StandardScaler().fit_transform(x), rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(scaler.transform(frame), scaled)
    with pytest.raises(ValueError, match="feature names"):
        scaler.transform(frame.rename(columns={"a": "z"}))


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_array])
def test_sparse_matrices_are_left_to_scikit_learn(form):
    x = form(np.where(draw() > 6, draw(), 0))
    with pytest.raises(ValueError, match="Cannot center sparse matrices"):
        StandardScaler().fit(x)
    ours, theirs = (kind(with_mean=False).fit(x) for kind in (StandardScaler, preprocessing.StandardScaler))
    assert_same_state(ours, theirs)
    for method in ("transform", "inverse_transform"):
        np.testing.assert_array_equal(getattr(ours, method)(x).toarray(), getattr(theirs, method)(x).toarray())


def test_weights_are_left_to_scikit_learn_and_so_is_what_follows():
    x, y, weights = draw(), draw(seed=1), np.random.default_rng(2).random(200)
    ours, theirs = StandardScaler(), preprocessing.StandardScaler()
    for scaler in (ours, theirs):
        scaler.partial_fit(y).partial_fit(x, sample_weight=weights).partial_fit(y)
    assert_same_state(ours, theirs)
    expected = theirs.fit_transform(x, sample_weight=weights)
    np.testing.assert_allclose(ours.fit_transform(x, sample_weight=weights), expected, rtol=1e-12, atol=1e-12)


def test_arrays_of_other_libraries_are_left_to_scikit_learn_under_its_dispatch(monkeypatch):
    strict = pytest.importorskip("array_api_strict")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    x = draw()
    with config_context(array_api_dispatch=True), np.errstate(invalid="ignore"):
        scaled = StandardScaler().fit_transform(strict.asarray(x))
    assert isinstance(scaled, type(strict.asarray(x)))
    np.testing.assert_allclose(np.asarray(scaled), StandardScaler().fit_transform(x), rtol=1e-12, atol=1e-12)


def test_callbacks_are_called():
    called = []

    class Recorder:
        def setup(self, estimator, context):
            called.append("setup")

        def teardown(self, estimator, context):
            called.append("teardown")

        def on_fit_task_begin(self, estimator, context, **more):
            called.append("begin")

        def on_fit_task_end(self, estimator, context, **more):
            called.append("end")

    StandardScaler().set_callbacks(Recorder()).fit_transform(draw())
    assert called == ["setup", "begin", "end", "teardown"]


def test_examples_run():
    assert doctest.testmod(interop).failed == 0
