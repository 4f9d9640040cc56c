"""The norms on arrays of Dask: the bits of NumPy's functions in a chunk, the same exactness across chunks, and neither
depends on who computes what, or when."""

import doctest
import io
import os
import signal
import time

import numpy as np
import pytest
from ml_dtypes import bfloat16

import normlib
from normlib.testing import Case, dtypes
from normlib.testing import _checks as checks

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

from dask.callbacks import Callback  # noqa: E402
from dask.diagnostics import ProgressBar  # noqa: E402

from normlib.interop import dask as interop  # noqa: E402

DTYPES = [dtype.name for dtype in dtypes()]
SHAPE = (6, 8, 5, 9)

# Of each norm, some arguments with chunks that hold all that a mean is of, and chunks that do not.
INSIDE = {
    "layer_norm": [({"axis": -1}, (4, 3, 2, 9)), ({"axis": (1, -1)}, (1, 8, 2, 9))],
    "rms_norm": [({"axis": 1}, (4, 8, 2, 3)), ({"axis": (0, 1, 2, 3)}, (6, 8, 5, 9))],
    "batch_norm": [({"channel_axis": 1}, (6, 3, 5, 9)), ({"channel_axis": -1}, (6, 8, 5, 5))],
    "group_norm": [
        ({"channel_axis": 1, "num_groups": 4}, (4, 6, 5, 9)),
        ({"channel_axis": -1, "num_groups": 3}, (1, 8, 5, 3)),
    ],
    "instance_norm": [({"channel_axis": 1}, (4, 3, 5, 9)), ({"channel_axis": 0}, (4, 3, 5, 9))],
}
ACROSS = {
    "layer_norm": [
        ({"axis": -1}, (4, 3, 5, 4)),
        ({"axis": (0, 2)}, (1, 8, 2, 9)),
        ({"axis": (0, 1, 2, 3)}, (4, 3, 5, 9)),
    ],
    "rms_norm": [({"axis": 1}, (6, 3, 5, 9)), ({"axis": (1, 3)}, (6, 3, 2, 5))],
    "batch_norm": [({"channel_axis": 1}, (2, 8, 5, 9)), ({"channel_axis": -1}, (4, 8, 2, 5))],
    "group_norm": [
        ({"channel_axis": 1, "num_groups": 4}, (4, 8, 2, 9)),  # chunks of all groups
        ({"channel_axis": 1, "num_groups": 2}, (4, 2, 5, 9)),  # of half a group
        ({"channel_axis": -1, "num_groups": 3}, (6, 3, 5, 4)),  # of a group and a part of the next
        ({"channel_axis": 0, "num_groups": 2}, (2, 8, 2, 9)),
    ],
    "instance_norm": [({"channel_axis": 1}, (6, 8, 2, 9)), ({"channel_axis": 0}, (4, 3, 2, 9))],
}  # fmt: skip


def every(table):
    return pytest.mark.parametrize(
        ("op", "options", "chunks"),
        [pytest.param(op, *call, id=f"{op}-{i}") for op, calls in table.items() for i, call in enumerate(calls)],
    )


def lazily(case, chunks, **changes):
    """The lazy result of a case, and its x, weight and bias."""
    x, weight, bias, _ = case.inputs()
    given = {"weight": weight, "bias": bias} if "bias" in case.description.parameters else {"weight": weight}
    given |= {"eps": case.eps, **case.options, **case.companions(), **changes}
    return getattr(interop, case.op)(da.from_array(x, chunks=chunks), **given), (x, weight, bias)


def same(y, expected):
    assert checks.same_bits(np.asarray(y), np.asarray(expected))


def exact(case, chunks):
    """Within 4 ulps of the largest value of each row, against extended precision."""
    y, given = lazily(case, chunks)
    assert y.chunks == da.empty(case.shape, chunks=chunks).chunks
    assert y.dtype == case.result
    found = y.compute(scheduler="sync")
    assert found.dtype == case.result
    expected = checks.expected_forward(case, *given)
    assert checks._row_error(case, found, expected.y, expected.scale) <= 4, str(case)


# -- what is computed ----


@every(INSIDE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chunk_that_holds_its_means_has_the_bits_of_the_whole(op, options, chunks, dtype):
    for changes in ({"affine": "none"}, {"offset": 1e3}, {"fused": {"where": True}}):
        case = Case(op, SHAPE, options, dtype, **changes)
        y, given = lazily(case, chunks)
        assert len([name for name in y.dask.layers if "moments" in name]) == 0
        assert y.chunks == da.empty(SHAPE, chunks=chunks).chunks
        assert y.dtype == case.result
        same(y.compute(scheduler="sync"), checks.call_forward(case, *given))


@every(ACROSS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_means_that_span_chunks_are_exact(op, options, chunks, dtype):
    offset = {"float64": 1e6, "float32": 1e6, "float16": 100, "bfloat16": 10}[dtype]
    exact(Case(op, SHAPE, options, dtype, offset=offset), chunks)
    exact(Case(op, SHAPE, options, dtype, affine="none"), chunks)


@every(ACROSS)
@pytest.mark.parametrize("values", ["large", "outlier"])
def test_values_of_any_size(op, options, chunks, values):
    exact(Case(op, SHAPE, options, "float32", values=values), chunks)


@every(ACROSS)
def test_what_is_outside_takes_no_part(op, options, chunks):
    """There is NaN."""
    for dtype in ("float64", "bfloat16"):
        exact(Case(op, SHAPE, options, dtype, offset=10, fused={"where": True}), chunks)


def test_integers_are_taken_as_floats():
    x = np.random.default_rng(1).integers(-9, 9, (6, 4))
    for dtype in (np.int64, np.uint8, bool):
        y = interop.batch_norm(da.from_array(x.astype(dtype), chunks=(4, 4)))
        expected = normlib.batch_norm(x.astype(dtype))
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(y.compute(), expected, rtol=0, atol=1e-6)


def test_nan_and_infinity_stay_in_their_row():
    x = np.random.default_rng(1).normal(size=(6, 4))
    x[1, 0], x[2, 3] = np.nan, np.inf
    for norm in (interop.layer_norm, interop.rms_norm):
        y = norm(da.from_array(x, chunks=(4, 2))).compute()
        assert np.isnan(y[1:3]).any(axis=1).all()
        np.testing.assert_allclose(np.delete(y, [1, 2], 0), np.delete(getattr(normlib, norm.__name__)(x), [1, 2], 0))


def test_a_constant_row_without_eps_is_nan_with_a_warning():
    x = da.ones((2, 4), chunks=(2, 2))
    with pytest.warns(RuntimeWarning, match="x is constant along the axes and eps is 0"):
        y = interop.layer_norm(x, eps=0).compute(scheduler="sync")
    assert np.isnan(y).all()


def test_a_row_with_nothing_inside_is_zero():
    x, where = np.full((2, 4), 7.0), np.zeros((2, 4), bool)
    same(interop.layer_norm(da.from_array(x, chunks=2), bias=np.ones(4), where=where).compute(), np.zeros((2, 4)))


@pytest.mark.parametrize(("shape", "chunks"), [((0, 4), (1, 2)), ((4, 0), (2, 1)), ((4, 0, 6), 3), ((4, 4, 0), 2)])
def test_arrays_without_elements(shape, chunks):
    x = da.zeros(shape, chunks=chunks, dtype="float32")
    for norm in (interop.layer_norm, interop.rms_norm, interop.batch_norm, interop.instance_norm):
        same(norm(x).compute(), np.zeros(shape, "float32"))
    same(interop.group_norm(x, 2).compute(), np.zeros(shape, "float32"))


def test_chunks_may_be_empty():
    x = np.random.default_rng(1).normal(size=(12, 4))
    lazy = da.from_array(x, chunks=((0, 5, 0, 7), (1, 0, 3)))
    for norm in ("layer_norm", "batch_norm"):
        np.testing.assert_allclose(getattr(interop, norm)(lazy).compute(), getattr(normlib, norm)(x), rtol=1e-12)
    np.testing.assert_allclose(interop.group_norm(lazy, 2).compute(), normlib.group_norm(x, 2), rtol=1e-12)


@pytest.mark.parametrize("chunks", [(6, 4, 9), (2, 3, 4)])
def test_running_statistics_are_applied_chunk_by_chunk(chunks):
    x = np.random.default_rng(1).normal(5, 2, (6, 4, 9)).astype("float32")
    given = {"running_mean": np.arange(4.0), "running_var": np.arange(1, 5), "weight": np.ones(4, "float32")}
    given = {name: value.astype("float32") for name, value in given.items()}
    y = interop.batch_norm(da.from_array(x, chunks=chunks), **given)
    assert not any("moments" in name for name in y.dask.layers)
    same(y.compute(), normlib.batch_norm(x, **given))


# -- parameters and masks ----


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, bfloat16])
def test_parameters_may_be_lazy_and_of_any_dtype(lazy, dtype):
    x, weight = np.random.default_rng(1).normal(size=(2, 6, 4)).astype("float32"), np.arange(1, 5).astype(dtype)
    given = da.from_array(weight, chunks=3) if lazy else weight
    y = interop.layer_norm(da.from_array(x, chunks=(1, 6, 3)), given)
    np.testing.assert_allclose(y.compute(), normlib.layer_norm(x, weight), rtol=1e-5, atol=1e-6)
    inside = interop.batch_norm(da.from_array(x, chunks=(2, 6, 4)), channel_axis=2, bias=weight)
    same(inside.compute(), normlib.batch_norm(x, channel_axis=2, bias=weight))
    assert interop.layer_norm(da.from_array(x, chunks=2), [1, 2, 3, 4]).dtype == x.dtype


@pytest.mark.parametrize("shape", [(6, 4, 9), (6, 1, 9), (4, 1), (9,), (1, 1, 1), ()])
def test_masks_broadcast(shape):
    rng = np.random.default_rng(1)
    x, where = rng.normal(size=(6, 4, 9)), rng.random(shape) < 0.8
    lazy = da.from_array(x, chunks=(4, 4, 5))
    expected = normlib.layer_norm(x, axis=(0, 2), where=where)
    chunks = tuple(min(n, c) for n, c in zip(shape, (4, 4, 5)[3 - len(shape) :], strict=True))
    beside = da.from_array(where, chunks=chunks)
    for given in (where, beside):
        y = interop.layer_norm(lazy, axis=(0, 2), where=given)
        np.testing.assert_allclose(y.compute(), expected, rtol=1e-12, atol=1e-15)


# -- laziness ----


def broken(x):
    raise AssertionError("computed")


@every(INSIDE | {f"{op} across": calls for op, calls in ACROSS.items()})
def test_nothing_is_computed_before_it_is_asked_for(op, options, chunks):
    x = da.ones(SHAPE, chunks=chunks).map_blocks(broken, dtype="float32", meta=np.empty((0,) * 4, "float32"))
    computed, op = [], op.split()[0]
    with Callback(pretask=lambda key, *_: computed.append(key)):
        y = getattr(interop, op)(x, **options, where=x > 0)
    assert computed == []
    assert (y.shape, y.dtype, y.chunks) == (x.shape, x.dtype, x.chunks)
    assert y._meta.shape == (0,) * 4
    assert y._meta.dtype == x.dtype
    with pytest.raises(AssertionError, match="computed"):
        y.compute(scheduler="sync")


@every({"layer_norm": [({"axis": 1}, (6, 8, 5, 9)), ({"axis": 1}, (6, 4, 5, 9))], "group_norm": ACROSS["group_norm"]})
def test_names_follow_from_the_arguments(op, options, chunks):
    x, weight = np.arange(2160.0).reshape(SHAPE), 1.0 + np.arange(SHAPE[options.get("channel_axis", 1)])

    def call(**more):
        return getattr(interop, op)(da.from_array(x, chunks=chunks), **options | more)

    y = call()
    assert y.name.startswith(f"{op}-")
    assert {*y.dask} == {*call().dask}
    others = [call(eps=0.1), call(where=x > 3), call(bias=weight), call(bias=2.0 * weight)]
    assert len({y.name, *(other.name for other in others)}) == 5


def test_a_pass_of_x_is_not_kept_for_the_next():
    """Each chunk is computed once for the moments and once for the result; where no mean spans chunks, once."""
    computed = []

    def block(block_id):
        computed.append(block_id)
        return np.ones((2, 3))

    x = da.map_blocks(block, chunks=((2, 2), (3, 3)), meta=np.empty((0, 0)))
    interop.layer_norm(x, axis=0).compute(scheduler="sync")
    assert sorted(computed) == sorted(2 * [(0, 0), (0, 1), (1, 0), (1, 1)])
    computed.clear()
    interop.layer_norm(x.persist(scheduler="sync"), axis=0).compute(scheduler="sync")
    assert len(computed) == 4


# -- the same bits ----


@every(ACROSS)
def test_the_bits_do_not_depend_on_who_computes_what_and_when(op, options, chunks):
    case = Case(op, SHAPE, options, "float64", offset=1e6)
    rng = np.random.default_rng(2)

    def late(block):
        time.sleep(rng.random() * 2e-3)
        return block

    y, (x, weight, bias) = lazily(case, chunks)
    expected = y.compute(scheduler="sync")
    for split_every, workers in ((2, 1), (3, 2), (64, 5)):
        given = {"weight": weight} if op == "rms_norm" else {"weight": weight, "bias": bias}
        slow = da.from_array(x, chunks=chunks).map_blocks(late, meta=np.empty((0,) * 4))
        with dask.config.set(split_every=split_every):
            y = getattr(interop, op)(slow, **given, **options, eps=case.eps)
        same(y.compute(scheduler="threads", num_workers=workers), expected)


def cancelling(length, columns):
    """Columns of terms from 1 to 1e60 and their negatives, whose sum shows in which order it was taken."""
    rng = np.random.default_rng(4)
    terms = 10 ** rng.uniform(0, 60, (length // 2, columns))
    return rng.permuted(np.concatenate([terms, -terms]), axis=0)


def test_the_tree_of_moments_is_the_same_whatever_that_of_dask():
    x = cancelling(26, 40)
    results = set()
    for split_every in (2, 3, 5, 64):
        with dask.config.set(split_every=split_every):
            y = interop.batch_norm(da.from_array(x, chunks=(2, 40)), eps=0)
        results.add(y.compute(scheduler="sync").tobytes())
    assert len(results) == 1
    assert (
        len({np.add.accumulate(x[order], axis=0)[-1].tobytes() for order in (slice(None), slice(None, None, -1))}) == 2
    )


def test_the_bits_of_a_group_do_not_depend_on_other_groups():
    x = np.concatenate([cancelling(6, 40), cancelling(6, 40)[::-1], cancelling(6, 40) / 3]).T
    y = interop.group_norm(da.from_array(x, chunks=(40, 2)), 3, eps=0).compute(scheduler="sync")
    for part in (slice(0, 6), slice(6, 12), slice(12, 18)):
        alone = interop.group_norm(da.from_array(x[:, part], chunks=(40, 2)), 1, eps=0)
        same(y[:, part], alone.compute(scheduler="sync"))


@pytest.mark.parametrize(
    ("op", "options", "chunks", "others"),
    [
        ("layer_norm", {"axis": 1}, (6, 3, 5, 9), [(1, 3, 5, 9), (4, 3, 1, 4)]),
        ("rms_norm", {"axis": (1, 2)}, (6, 3, 2, 9), [(1, 3, 2, 9), (4, 3, 2, 4)]),
        ("batch_norm", {"channel_axis": 1}, (2, 8, 5, 9), [(2, 1, 5, 9), (2, 3, 5, 9)]),
        ("group_norm", {"channel_axis": 1, "num_groups": 4}, (6, 8, 2, 9), [(1, 8, 2, 9), (4, 4, 2, 9), (2, 2, 2, 9)]),
        ("instance_norm", {"channel_axis": 1}, (6, 8, 2, 9), [(1, 8, 2, 9), (4, 3, 2, 9)]),
    ],
)
def test_the_bits_of_a_row_depend_on_the_chunks_of_that_row_alone(op, options, chunks, others):
    case = Case(op, SHAPE, options, "float64", offset=1e6)
    expected = lazily(case, chunks)[0].compute(scheduler="sync")
    for other in others:
        same(lazily(case, other)[0].compute(scheduler="sync"), expected)


def test_the_progress_bar_of_dask_sees_the_tasks():
    out = io.StringIO()
    with ProgressBar(out=out, dt=0.01, minimum=0):
        interop.batch_norm(da.ones((6, 4), chunks=2)).compute(scheduler="threads")
    assert "100% Completed" in out.getvalue()


# -- on workers of their own ----


def cluster(tmp_path, **options):
    distributed = pytest.importorskip("distributed")
    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", local_directory=str(tmp_path), **options
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("workers")) as workers, workers.get_client() as client:
        yield client


@pytest.mark.parametrize("op", ["layer_norm", "group_norm"])
def test_workers_give_the_same_bits(client, op):
    options, chunks = ACROSS[op][1]
    case = Case(op, SHAPE, options, "float32", offset=1e6, fused={"where": True})
    y, (x, weight, bias) = lazily(case, chunks)
    expected = y.compute(scheduler="sync")
    same(client.compute(y).result(), expected)
    kept = client.persist(da.from_array(x, chunks=chunks))
    y = getattr(interop, op)(kept, weight=weight, bias=bias, where=case.inside, eps=case.eps, **options)
    same(client.compute(y).result(), expected)


def mortal(folder, fatal, block_id):
    """A chunk. To compute the middle one for the time numbered `fatal`, from 0 on, kills the worker."""
    if block_id == (2, 1):
        time = len(os.listdir(folder))
        open(os.path.join(folder, str(time)), "w").close()
        if time == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    return np.random.default_rng(block_id).normal(1e6, 1, (50, 40))


@pytest.mark.parametrize("fatal", [0, 1], ids=["at the moments", "at the result"])
@pytest.mark.parametrize("op", ["batch_norm", "layer_norm"])
def test_a_worker_that_dies_changes_nothing(client, tmp_path, op, fatal):
    def x(fatal, folder):
        os.mkdir(folder)
        meta = np.empty((0, 0))
        return da.map_blocks(mortal, folder, fatal, chunks=((50,) * 5, (40,) * 3), dtype=meta.dtype, meta=meta)

    norm = getattr(interop, op)
    expected = norm(x(None, str(tmp_path / "immortal"))).compute(scheduler="sync")
    same(client.compute(norm(x(fatal, str(tmp_path / "mortal")))).result(timeout=60), expected)
    assert len(os.listdir(tmp_path / "mortal")) >= 3  # twice as it should, and once in vain


def peak():
    """The most bytes that this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def on_disk(folder, chunks, mebibytes=4):
    """An array of Zarr in chunks of so many MiB, which compress to almost nothing; far from zero, with a drift."""
    zarr = pytest.importorskip("zarr")
    width = mebibytes << 18
    shape = (8, width // 8)
    x = zarr.create_array(str(folder / "x.zarr"), shape=(chunks, *shape), chunks=(1, *shape), dtype="float32")
    pattern = np.tile(np.random.default_rng(3).normal(size=(8, 64)), width // 512)
    for i in range(chunks):
        x[i] = pattern + 1e5 + i
    return da.from_zarr(x)


def through(x, client, folder):
    """Normalizes `x` from disk to disk; returns how much more memory than before a worker took at most."""
    before = client.run(peak)
    interop.batch_norm(x).to_zarr(str(folder / "y.zarr"))
    growth = max(after - before.get(worker, 0) for worker, after in client.run(peak).items())
    y = da.from_zarr(str(folder / "y.zarr"))
    assert y.shape == x.shape
    total = normlib.Moments(channel_axis=1)
    for i in range(len(x)):
        total.update(x[i : i + 1].compute(scheduler="sync"))
    for i in (0, len(x) // 2, len(x) - 1):
        block = x[i : i + 1].compute(scheduler="sync")
        expected = normlib.batch_norm(block, running_mean=total.mean, running_var=total.var)
        same(y[i : i + 1].compute(scheduler="sync"), expected)
    return growth


def test_a_worker_holds_a_few_chunks_at_a_time(client, tmp_path):
    x = on_disk(tmp_path, chunks=60)
    through(x[:4], client, tmp_path / "first")  # what is loaded once
    assert through(x, client, tmp_path) < 12 * x.nbytes // 60


@pytest.mark.long
def test_an_array_of_many_times_the_memory_of_the_workers(tmp_path):
    """4 GiB through two workers of 384 MiB, of which Python and its modules take some 200; none spills to disk."""
    with cluster(tmp_path / "workers", memory_limit="384 MiB") as workers, workers.get_client() as client:
        x = on_disk(tmp_path, chunks=512, mebibytes=8)
        through(x, client, tmp_path)
        assert not any(client.run(lambda dask_worker: dask_worker.data.spilled_total.disk).values())


# -- errors ----

X = da.ones((6, 4, 9), chunks=(4, 4, 5))
UNKNOWN = X[da.arange(6, chunks=4) > 2]
WHERE = da.ones((6, 4, 9), chunks=(4, 4, 5), dtype=bool)
ERRORS = {
    "no array of Dask": (TypeError, r"layer_norm: x is a ndarray, expected .*: dask.array.from_array\(x, ",
        lambda: interop.layer_norm(np.ones(3))),
    "masked": (TypeError, r"layer_norm: x has chunks of MaskedArray, .* where=~da.ma.getmaskarray\(x\)",
        lambda: interop.layer_norm(da.ma.masked_equal(X, 0))),
    "no axes": (ValueError, r"layer_norm: x has shape \(\), expected at least one axis",
        lambda: interop.layer_norm(da.ones(()))),
    "one axis": (ValueError, r"batch_norm: x has shape \(3,\), expected at least 2 axes",
        lambda: interop.batch_norm(da.ones(3))),
    "dtype": (TypeError, "rms_norm: x has dtype complex128", lambda: interop.rms_norm(X.astype(complex))),
    "axis": (ValueError, "layer_norm: axis is 3, expected -3 to 2", lambda: interop.layer_norm(X, axis=3)),
    "channel_axis": (ValueError, "instance_norm: channel_axis is 3", lambda: interop.instance_norm(X, channel_axis=3)),
    "groups": (ValueError, "group_norm: num_groups is 3, expected a divisor of", lambda: interop.group_norm(X, 3)),
    "eps": (ValueError, "layer_norm: eps is -1.0", lambda: interop.layer_norm(X, eps=-1)),
    "shape": (ValueError, r"weight has shape \(5,\), expected \(9,\), the shape of x over axis",
        lambda: interop.layer_norm(X, np.ones(5))),
    "lazy shape": (ValueError, r"bias has shape \(9,\), expected \(4,\), the size of x along channel_axis=1",
        lambda: interop.batch_norm(X, bias=da.ones(9))),
    "text for a weight": (TypeError, "weight has dtype <U1", lambda: interop.layer_norm(X, np.array(list("x" * 9)))),
    "one running statistic": (ValueError, "batch_norm: running_var is None, expected both",
        lambda: interop.batch_norm(X, running_mean=np.zeros(4))),
    "running shape": (ValueError, r"running_mean has shape \(9,\), expected \(4,\)",
        lambda: interop.batch_norm(X, running_mean=np.zeros(9), running_var=np.ones(9))),
    "no mask": (TypeError, "where has dtype float64, expected bool", lambda: interop.layer_norm(X, where=X)),
    "mask shape": (ValueError, r"where has shape \(6, 9\), expected one that broadcasts to \(6, 4, 9\)",
        lambda: interop.layer_norm(X, where=np.ones((6, 9), bool))),
    "mask axes": (ValueError, r"where has shape \(1, 6, 4, 9\), expected one that broadcasts",
        lambda: interop.layer_norm(X, where=WHERE[np.newaxis])),
    "chunks of a weight": (ValueError, r"weight has other chunks .* \[0\], .*weight.rechunk\(\{0: x.chunks\[2\]\}\)",
        lambda: interop.layer_norm(X, da.ones(9))),
    "chunks of a mask": (ValueError, r"where.rechunk\(\{0: x.chunks\[1\], 1: x.chunks\[2\]\}\)",
        lambda: interop.layer_norm(X, where=WHERE[0].rechunk(2))),
    "unknown channels": (ValueError, r"group_norm: x has chunks of unknown sizes .*\[0\].*: x.compute_chunk_sizes\(\)",
        lambda: interop.group_norm(UNKNOWN, 2, channel_axis=0)),
    "a weight along unknown": (ValueError, r"x.compute_chunk_sizes\(\)",
        lambda: interop.layer_norm(UNKNOWN, np.ones(3), axis=0)),
    "an unknown weight": (ValueError, r"weight.compute_chunk_sizes\(\)",
        lambda: interop.layer_norm(X, UNKNOWN[:, 0, 0], axis=0)),
    "a mask along unknown": (ValueError, r"x.compute_chunk_sizes\(\)",
        lambda: interop.layer_norm(UNKNOWN, where=np.ones((3, 4, 9), bool))),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_is_wrong_and_how_to_rechunk(case):
    kind, words, call = ERRORS[case]
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize("op", ["layer_norm", "batch_norm"])
def test_elsewhere_sizes_need_not_be_known(op):
    x = np.random.default_rng(1).normal(size=(12, 4, 6))
    some = x[x[:, 0, 0] > 0]
    lazy = da.from_array(x, chunks=(5, 4, 3))
    lazy = lazy[lazy[:, 0, 0] > 0]
    y = getattr(interop, op)(lazy, where=lazy > -1)
    np.testing.assert_allclose(y.compute(), getattr(normlib, op)(some, where=some > -1), rtol=1e-12, atol=1e-15)


def test_doctests():
    failed, tried = doctest.testmod(interop)
    assert tried > 10
    assert failed == 0
