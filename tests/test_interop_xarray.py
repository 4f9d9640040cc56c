"""The norms on labelled arrays: those of the NumPy functions, with labels kept and arrays of Dask lazy."""

import doctest

import numpy as np
import pytest

import normlib

xr = pytest.importorskip("xarray")
pd = pytest.importorskip("pandas")

from normlib.interop import xarray as interop  # noqa: E402

SHAPE = {"time": 4, "band": 6, "y": 5, "x": 7}


def scene(*dims, dtype="float32", seed=0):
    """An array with labels of several kinds, a name and attributes; of the dimensions named, or of all."""
    dims = dims or tuple(SHAPE)
    values = np.random.default_rng(seed).normal(1e3, 2, [SHAPE[d] for d in dims]).astype(dtype)
    coords = {"time": pd.date_range("2024-01-01", periods=4), "band": list("abcdef"), "y": np.arange(5) * 10.0}
    x = xr.DataArray(values, dims=dims, name="radiance", attrs={"units": "W", "long_name": "light"})
    x = x.assign_coords({d: c for d, c in coords.items() if d in dims} | {"scene": 7})
    return x.assign_coords(month=x.time.dt.month) if "time" in dims else x


def parameters(*dims, seed=1):
    a, b = (scene(*dims, seed=seed + i).drop_vars("scene") / 1e3 for i in (0, 1))
    return {"weight": a, "bias": b}


def same(y, expected):
    np.testing.assert_array_equal(np.asarray(y), np.asarray(expected))


def close(y, expected):
    np.testing.assert_allclose(np.asarray(y), np.asarray(expected), rtol=0, atol=1e-6)


# -- what is computed ----


@pytest.mark.parametrize("dim", ["time", "x", ["y", "x"], ("x", "y"), ["band", "x"], ...])
def test_layer_norm_is_over_the_named_dimensions(dim):
    x = scene()
    dims = [*x.dims] if dim is ... else np.atleast_1d(dim)
    y = interop.layer_norm(x, dim, eps=0.1)
    same(y, normlib.layer_norm(x.values, axis=tuple(x.dims.index(d) for d in dims), eps=0.1))
    assert y.dtype == x.dtype


def test_rms_norm_is_over_the_named_dimensions():
    x = scene()
    weight = scene("band", seed=1)
    expected = normlib.rms_norm(x.values, weight.values, axis=1, eps=0.1)
    same(interop.rms_norm(x, "band", weight=weight, eps=0.1), expected)


def test_batch_norm_has_a_mean_for_each_channel():
    x, given = scene(), parameters("band")
    plain = {name: value.values for name, value in given.items()}
    same(interop.batch_norm(x, "band", **given, eps=0.1), normlib.batch_norm(x.values, **plain, eps=0.1))


@pytest.mark.parametrize("samples", ["time", ["time", "y"], ["y", "time"], ()])
@pytest.mark.parametrize("name", ["group_norm", "instance_norm"])
def test_samples_are_normalized_apart(name, samples):
    x, given = scene(), parameters("band")
    plain = {key: value.values for key, value in given.items()}
    groups = (3,) if name == "group_norm" else ()
    named = [samples] if isinstance(samples, str) else samples
    y = getattr(interop, name)(x, *groups, "band", sample_dim=samples, **given, eps=0.1)
    parts = x.stack(sample=named) if named else x.expand_dims("sample")
    parts = parts.transpose("sample", "band", ...)
    expected = getattr(normlib, name)(parts.values, *groups, **plain, eps=0.1)
    expected = parts.copy(data=expected)
    expected = expected.unstack("sample") if named else expected[0]
    close(y, expected.transpose(*x.dims))


def test_channels_may_stand_anywhere():
    x = scene("y", "x", "band")
    y = interop.instance_norm(x, "band")
    assert y.dims == x.dims
    same(y, normlib.instance_norm(x.values[np.newaxis], channel_axis=-1)[0])


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", "int64"])
def test_dtypes_are_those_of_the_numpy_functions(dtype):
    x = scene(dtype=dtype)
    expected = normlib.layer_norm(x.values, axis=3)
    y = interop.layer_norm(x, "x")
    assert y.dtype == expected.dtype
    assert interop.layer_norm(x.chunk(time=1), "x").dtype == expected.dtype
    same(y, expected)


# -- parameters ----


def test_parameters_find_their_dimensions_by_name():
    x, given = scene("time", "y", "x"), parameters("x", "y")
    plain = {name: value.values.T for name, value in given.items()}
    same(interop.layer_norm(x, ["y", "x"], **given), normlib.layer_norm(x.values, **plain, axis=(1, 2)))


def test_parameters_may_lack_dimensions_or_have_those_of_rows():
    x, weight = scene("time", "y", "x"), scene("time", seed=1) / 1e3
    bias = scene("x", seed=2) / 1e3
    expected = normlib.layer_norm(x.values, axis=(1, 2)) * weight.values[:, None, None] + bias.values
    close(interop.layer_norm(x, ["y", "x"], weight=weight, bias=bias), expected)
    close(interop.layer_norm(x, "y", weight=2.0), 2 * normlib.layer_norm(x.values, axis=1))
    close(interop.batch_norm(x, "y", weight=2.0), 2 * normlib.batch_norm(x.values))


def test_plain_parameters_have_the_order_of_dim():
    x = scene("time", "y", "x")
    weight = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    expected = normlib.layer_norm(x.values, weight.T, axis=(1, 2))
    same(interop.layer_norm(x, ["x", "y"], weight=weight), expected)
    same(interop.layer_norm(x, ["y", "x"], weight=weight.T), expected)


def test_parameters_may_be_integers():
    x, weight = scene("time", "x"), np.arange(7)
    expected = normlib.layer_norm(x.values, weight.astype(float))
    for given in (weight, weight.tolist(), xr.DataArray(weight, dims="x")):
        same(interop.layer_norm(x, "x", weight=given), expected)


# -- missing values ----


def test_missing_values_stay_missing_and_take_no_part():
    x = scene(dtype="float64")
    x = x.where(np.random.default_rng(1).random(x.shape) < 0.8)
    y = interop.layer_norm(x, ["time", "x"], eps=0, where=x.notnull())
    xr.testing.assert_equal(y.isnull(), x.isnull())
    expected = (x - x.mean(["time", "x"])) / x.std(["time", "x"])
    close(y, expected)


@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm"])
def test_a_mask_may_lack_dimensions(name):
    x = scene()
    land = xr.DataArray(np.random.default_rng(1).random((7, 5)) < 0.5, dims=["x", "y"])
    options = {} if name == "batch_norm" else {"sample_dim": ["time", "y"]}
    groups = (2,) if name == "group_norm" else ()
    norm = getattr(interop, name)
    y = norm(x, *groups, "band", **options, where=land)
    full = norm(x, *groups, "band", **options, where=land.transpose().broadcast_like(x).values)
    same(y, full)
    assert (y.isnull() == ~land).all()
    moved = norm(x.where(land, 1e9), *groups, "band", **options, where=land)
    same(y, moved)


# -- labels ----


@pytest.mark.parametrize("dims", [("time", "band", "y", "x"), ("x", "band", "time", "y")])
def test_labels_stay(dims):
    x = scene(*dims)
    x.encoding = {"dtype": "int16", "scale_factor": 0.01}
    x.time.encoding = {"units": "days since 2000-01-01"}
    weight = scene("band", seed=1).assign_coords(scene=8, instrument="A")
    for y in (interop.layer_norm(x, "band", weight=weight), interop.batch_norm(x, "band", weight=weight)):
        xr.testing.assert_identical(y.copy(data=x.values), x)
        assert y.encoding == {}  # else a file would round it to multiples of 0.01
        assert y.time.encoding == x.time.encoding
    assert x.encoding["dtype"] == "int16"


def test_attributes_go_where_xarray_is_told_to_drop_them():
    with xr.set_options(keep_attrs=False):
        y = interop.layer_norm(scene(), "time")
    assert y.attrs == {}
    assert y.name == "radiance"


def test_x_is_not_written_to():
    x = scene()
    before = x.copy(deep=True)
    interop.layer_norm(x, "x", where=x > 1e3)
    xr.testing.assert_identical(x, before)


# -- datasets ----


def test_a_dataset_normalizes_what_has_the_dimensions():
    ds = xr.Dataset({"a": scene(), "b": scene("x", "time", seed=1), "c": scene("y"), "d": ("time", list("wxyz"))})
    ds.attrs["title"] = "a scene"
    y = interop.layer_norm(ds, "time", eps=0)
    for name in "ab":
        xr.testing.assert_identical(y[name], interop.layer_norm(ds[name], "time", eps=0))
    xr.testing.assert_identical(y[["c", "d"]], ds[["c", "d"]])
    assert y.attrs == ds.attrs
    bands = xr.Dataset({"a": scene(), "wavelength": ("band", np.arange(6.0)), "offset": 1.0})
    xr.testing.assert_identical(interop.batch_norm(bands, "band").drop_vars("a"), bands.drop_vars("a"))
    xr.testing.assert_identical(interop.layer_norm(bands, ...).offset, bands.offset)
    assert [*y.data_vars] == [*ds.data_vars]


def test_operands_of_a_dataset_may_be_datasets():
    ds = xr.Dataset({"a": scene(), "b": scene("x", "time", seed=1)})
    ds["a"][0, 0, 0, 0] = np.nan
    y = interop.layer_norm(ds, "time", weight=xr.Dataset({"a": 2.0, "b": 3.0}), where=ds.notnull())
    assert y.a.isnull().sum() == 1
    xr.testing.assert_identical(y.b, interop.layer_norm(ds.b, "time", weight=3.0))


# -- Dask ----

CALLS = {
    "layer_norm": lambda x, **given: interop.layer_norm(x, "x", **given),
    "layer_norm of two": lambda x, **given: interop.layer_norm(x, ["y", "x"], **given),
    "rms_norm": lambda x, **given: interop.rms_norm(x, "x", where=given["where"]),
    "batch_norm": lambda x, **given: interop.batch_norm(x, "band", **given),
    "group_norm": lambda x, **given: interop.group_norm(x, 2, "band", sample_dim="time", **given),
    "instance_norm": lambda x, **given: interop.instance_norm(x, "band", sample_dim="time", **given),
}
CHUNKS = {"batch_norm": {"band": 2}, "group_norm": {"time": 1}, "instance_norm": {"time": 3, "band": 1}}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_dask_stay_lazy(name):
    da = pytest.importorskip("dask.array")
    from dask.callbacks import Callback

    x, computed = scene(), []
    given = {"where": x > 998}
    if name.startswith(("batch", "group", "instance")):
        given |= parameters("band")
    expected = CALLS[name](x, **given)
    chunks = CHUNKS.get(name, {"time": 1, "band": 4})
    for where in (given["where"], given["where"].chunk(time=2, x=3)):
        with Callback(pretask=lambda key, *_: computed.append(key)):
            y = CALLS[name](x.chunk(chunks), **given | {"where": where})
        assert computed == []
        assert isinstance(y.data, da.Array)
        assert y.dtype == expected.dtype
        xr.testing.assert_identical(y.compute(scheduler="threads"), expected)
        assert y.chunksizes == x.chunk(chunks).chunksizes


def test_operands_in_memory_are_cut_as_x_is():
    dask = pytest.importorskip("dask")
    x = scene()
    given = {"where": x > 1e3, "weight": scene("x", seed=1)}
    expected = interop.layer_norm(x, "x", **given)
    with dask.config.set({"array.chunk-size": "16 B"}):  # by which Dask would cut them along x
        y = interop.layer_norm(x.chunk(time=1), "x", **given)
        assert y.chunksizes == x.chunk(time=1).chunksizes
        xr.testing.assert_identical(y.compute(), expected)


def test_a_lazy_mask_makes_the_result_lazy():
    da = pytest.importorskip("dask.array")
    x = scene()
    expected, mask = interop.layer_norm(x, "x", where=x > 1e3), (x > 1e3).chunk(x=2)
    for where in (mask, mask.data):
        y = interop.layer_norm(x, "x", where=where)
        assert isinstance(y.data, da.Array)
        xr.testing.assert_identical(y.compute(), expected)


@pytest.mark.parametrize(
    ("name", "chunks", "words"),
    [
        ("layer_norm", {"x": 3}, r"layer_norm: .*'x' in 3, expected one: x.chunk\(\{'x': -1\}\).*dask.layer_norm\("),
        ("layer_norm of two", {"y": 1, "x": 4}, r"'y' in 5, 'x' in 2, .*x.chunk\(\{'y': -1, 'x': -1\}\)"),
        ("batch_norm", {"time": 1}, r"batch_norm: .*'time' in 4"),
        ("group_norm", {"band": 3}, r"group_norm: .*'band' in 2"),
        ("instance_norm", {"y": 2}, r"instance_norm: .*'y' in 3"),
    ],
)
def test_chunks_that_cannot_work_say_how_to_rechunk(name, chunks, words):
    pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match=words):
        CALLS[name](scene().chunk(chunks), where=scene() > 0)


# -- errors ----

X = scene()
ERRORS = {
    "no array": (TypeError, "x is a ndarray, expected a DataArray", lambda: interop.layer_norm(X.values, "x")),
    "no such dim": (ValueError, "'z' is not among them", lambda: interop.layer_norm(X, "z")),
    "no variable": (ValueError, r"no numeric variable .*\['x', 'y'\]", lambda: interop.layer_norm(
        xr.Dataset({"a": X[..., 0], "b": X[:, :, 0]}), ["y", "x"])),
    "twice": (ValueError, "'band' is named twice", lambda: interop.instance_norm(X, "band", sample_dim="band")),
    "nothing left": (ValueError, "none is left", lambda: interop.batch_norm(scene("band"), "band")),
    "no dim": (ValueError, "none is left", lambda: interop.layer_norm(X, [])),
    "text": (TypeError, "layer_norm: x has dtype <U1", lambda: interop.layer_norm(X.band, "band")),
    "plain shape": (ValueError, r"weight has shape \(5,\), expected \(7,\)", lambda: interop.layer_norm(
        X, "x", weight=np.ones(5))),
    "other dim": (ValueError, "bias has the dimensions .*expected some of", lambda: interop.batch_norm(
        X, "band", bias=X[:, 0, 0, 0])),
    "other labels": (ValueError, "labels of weight are not those of x", lambda: interop.batch_norm(
        X, "band", weight=scene("band")[::-1])),
    "other size": (ValueError, "labels of where are not those of x", lambda: interop.layer_norm(
        X, "x", where=X[..., :3] > 0)),
    "a mask of numbers": (TypeError, "where has dtype float32", lambda: interop.layer_norm(X, "x", where=X)),
    "text for a weight": (TypeError, "layer_norm: weight has dtype <U1", lambda: interop.layer_norm(
        X, "band", weight=X.band)),
    "groups": (ValueError, "group_norm: num_groups", lambda: interop.group_norm(X, 4, "band")),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_is_wrong(case):
    kind, words, call = ERRORS[case]
    with pytest.raises(kind, match=words):
        call()


def test_doctests():
    failed, tried = doctest.testmod(interop)
    assert tried > 10
    assert failed == 0
