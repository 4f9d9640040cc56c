"""Standardising data by SciPy, scikit-learn, Dask, xarray and normlib: time and error of each call of docs/from.md.

    python -m benchmarks.from_others

Rounds take turns, and the least time of each counts. Errors are the largest against the formula in longdouble.
"""

import time
import warnings

import numpy as np

import normlib

ROUNDS = 15
ROWS, LENGTH, OFFSET, DEVIATION = 64, 20_000, 1e5, 3.0
CHUNKS = 5


def calls(x):
    """What gives each row mean 0 and deviation 1, by name."""
    found = {
        "normlib": lambda: normlib.layer_norm(x, eps=0),
        "NumPy": lambda: (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True),
    }
    try:
        from scipy import stats

        found["SciPy"] = lambda: stats.zscore(x, axis=1)
    except ImportError:
        pass
    try:
        from sklearn import preprocessing

        found["scikit-learn"] = lambda: preprocessing.scale(x, axis=1)
    except ImportError:
        pass
    found |= calls_of_dask(x)
    try:
        import xarray as xr

        from normlib.interop.xarray import layer_norm
    except ImportError:
        return found
    a = xr.DataArray(x, dims=("sensor", "time"))
    found["normlib.interop.xarray"] = lambda: layer_norm(a, "time", eps=0)

    def expression():
        return (a - a.mean("time")) / a.std("time")

    def with_bottleneck(use):
        with xr.set_options(use_bottleneck=use, use_numbagg=False):
            return expression()

    found["xarray"] = lambda: with_bottleneck(False)
    try:
        import bottleneck  # noqa: F401
    except ImportError:
        return found
    return found | {"xarray with bottleneck": lambda: with_bottleneck(True)}


def calls_of_dask(x):
    """The same in chunks along the rows, on one thread."""
    try:
        import dask.array as da

        from normlib.interop.dask import layer_norm
    except ImportError:
        return {}
    a = da.from_array(x, chunks=(len(x), x.shape[1] // CHUNKS))

    def formula():
        return (a - a.mean(axis=1, keepdims=True)) / a.std(axis=1, keepdims=True)

    return {
        "normlib.interop.dask": lambda: layer_norm(a, eps=0).compute(scheduler="sync"),
        "Dask": lambda: formula().compute(scheduler="sync"),
    }


def exact(x):
    x = x.astype(np.longdouble)
    x -= x.mean(axis=1, keepdims=True)
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True))


def measure(x, rounds=ROUNDS):
    """(name, seconds, largest error) of each call on `x`."""
    found, expected = calls(x), exact(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says itself that its mean is off
        errors = {name: float(np.abs(np.asarray(call()) - expected).max()) for name, call in found.items()}
        least = dict.fromkeys(found, np.inf)
        for _ in range(rounds):
            for name, call in found.items():
                start = time.perf_counter()
                call()
                least[name] = min(least[name], time.perf_counter() - start)
    return [(name, least[name], errors[name]) for name in found]


def main():
    normlib.set_num_threads(1)  # as the others
    for dtype in ("float32", "float64"):
        x = np.random.default_rng(0).normal(OFFSET, DEVIATION, (ROWS, LENGTH)).astype(dtype)
        print(f"{dtype}, {ROWS} x {LENGTH}, mean {OFFSET:g}, deviation {DEVIATION:g}")
        rows = measure(x)
        for name, seconds, error in rows:
            print(f"  {name:24}{seconds * 1e3:8.2f} ms {seconds / rows[0][1]:6.1f} x   error {error:.1e}")


if __name__ == "__main__":
    main()
