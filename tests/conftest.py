"""Every test that takes `backend` runs on each built-in backend that is available here.

``pytest --backend NAME`` (repeatable) or ``NORMLIB_TEST_BACKENDS=NAME,NAME`` chooses others: plugins too. Beside the
kernels NumPy takes every fourth of its tests; all of them where it is chosen, or alone, as once in ``.ci/run``. Of a
test that is marked ``share(n)`` every n-th set of parameters runs: ``NORMLIB_TEST_SHARE`` says which, 0 by default.
"""

import os
from collections import Counter
from types import SimpleNamespace

import pytest
import support

# Threads that wait would take the cores from the other workers; OpenMP and OpenBLAS read this when loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}

import normlib

SHARE = int(os.environ.get("NORMLIB_TEST_SHARE", "0"))

if "cython" in normlib.backends.available():
    from normlib._kernels import parallel

    parallel.guard(False)  # on a busy machine too, what is to run on several threads does


def pytest_addoption(parser):
    parser.addoption("--backend", action="append", help="test this backend alone (may be given several times)")


def pytest_collection_modifyitems(config, items):
    if support.LONG or "long" in config.getoption("-m"):
        return
    left_out = {item for item in items if item.get_closest_marker("long")}
    seen = Counter()
    for item in items:
        if (share := item.get_closest_marker("share")) and item not in left_out:
            test, n = (item.path, item.originalname, _backend_of(item)), share.args[0]
            i = seen[test]
            if (i + i // n - SHARE) % n:  # one further in each n, so that no value of a parameter is always left out
                left_out.add(item)
            seen[test] += 1
    if not _chosen(config) and "cython" in normlib.backends.available():
        of_numpy = [item for item in items if item not in left_out and _backend_of(item) == "numpy"]
        left_out |= {item for i, item in enumerate(of_numpy) if i % 4}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _backend_of(item):
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


def _chosen(config):
    chosen = config.getoption("--backend") or os.environ.get("NORMLIB_TEST_BACKENDS", "").split(",")
    return [name for name in chosen if name]


def _backends(config):
    return _chosen(config) or [name for name in ("cython", "numpy") if name in normlib.backends.available()]


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", _backends(metafunc.config), indirect=True)


@pytest.fixture
def backend(request):
    """The name of a backend that is in use, strictly: what it does not take is an error."""
    with normlib.backends.use(request.param, strict=True):
        yield request.param


@pytest.fixture
def register():
    """Registers a backend of some functions until the test ends."""
    names = []

    def register(name, **functions):
        normlib.backends.register(name, SimpleNamespace(**functions))
        names.append(name)

    yield register
    for name in names:
        normlib.backends.unregister(name)
