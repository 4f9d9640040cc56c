"""Backends of others that misbehave: the error names them, and nothing else has changed."""

import os
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import support

import normlib
from normlib import backends

pytestmark = pytest.mark.thread_unsafe(reason="registers backends with the process")
ROOT = Path(__file__).resolve().parents[1]
X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
NORMAL = (np.zeros((3, 4)), np.ones((3, 4)))


@pytest.fixture(autouse=True)
def unchanged():
    """Registry, choice and number of threads are after a test what they were before it."""
    backends.available()
    before = dict(backends._registry), backends.active(), normlib.get_num_threads()
    yield
    for name in ("rogue", "other"):
        if name in backends._registry:
            backends.unregister(name)
    assert (backends._registry, backends.active(), normlib.get_num_threads()) == before


def rogue(**functions):
    backends.register("rogue", SimpleNamespace(**functions))
    return backends.use("rogue")


def fails_with(error):
    def fails(*_):
        raise error

    return fails


ERRORS = [KeyError("kernel"), TypeError("x"), ValueError(), RuntimeError("out of luck"), StopIteration(7)]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("direct", [False, True])
def test_an_exception_names_the_backend(direct, error):
    fails = fails_with(error)
    functions = {"layer_norm": fails, "direct": {"layer_norm": fails} if direct else {}}
    with rogue(**functions), pytest.raises(RuntimeError) as caught:
        normlib.layer_norm(X)
    assert str(caught.value) == f"layer_norm: backend 'rogue' raised {type(error).__name__}: {error}"
    assert caught.value.__cause__ is error


def test_an_interrupt_is_not_the_backend_s_fault():
    with rogue(layer_norm=fails_with(KeyboardInterrupt())), pytest.raises(KeyboardInterrupt):
        normlib.layer_norm(X)


@pytest.mark.parametrize(
    ("returned", "stats", "text"),
    [
        (None, False, "y as NoneType, expected a NumPy array"),
        ("result", False, "y as str, expected a NumPy array"),
        (X[0], False, "y as float32 of shape (4, 5), expected float32 of shape (3, 4, 5)"),
        (X.astype(float), False, "y as float64 of shape (3, 4, 5), expected float32 of shape (3, 4, 5)"),
        (X, True, "ndarray, expected a tuple (y, mean, rstd)"),
        ((X, *NORMAL), False, "y as tuple, expected a NumPy array"),
        ((X, NORMAL[0]), True, "tuple, expected a tuple (y, mean, rstd)"),
        ((X, NORMAL[0], 1.0), True, "rstd as float, expected a NumPy array"),
    ],
)
def test_what_a_direct_function_returns(returned, stats, text):
    with rogue(rms_norm=print, direct={"layer_norm": lambda *_: returned}), pytest.raises(RuntimeError) as caught:
        normlib.layer_norm(X, return_stats=stats)
    assert str(caught.value) == f"layer_norm: backend 'rogue' returned {text}"


def test_what_a_direct_backward_function_returns():
    results = [(X, None, None), (None, None, None), (X, None)]
    with rogue(layer_norm=print, direct={"layer_norm_backward": lambda *_: results.pop(0)}):
        dx, dweight, dbias = normlib.layer_norm_backward(X, X, mean=NORMAL[0], rstd=NORMAL[1])
        assert dx is X
        assert dweight is dbias is None
        for text in ("dx as NoneType, expected a NumPy array", r"tuple, expected a tuple \(dx, dweight, dbias\)"):
            with pytest.raises(RuntimeError, match=f"^layer_norm_backward: backend 'rogue' returned {text}"):
                normlib.layer_norm_backward(X, X, mean=NORMAL[0], rstd=NORMAL[1])


def test_declining_by_an_exception_goes_the_general_way():
    def declines(*_):
        raise NotImplementedError

    expected = normlib.layer_norm(X)
    with rogue(rms_norm=print, direct={"layer_norm": declines}):
        assert np.array_equal(normlib.layer_norm(X), expected)


class TestCallingBack:
    def test_on_another_backend(self):
        def layer_norm(x, weight, bias, axis, eps, out):
            with backends.use("numpy"):
                _, mean, rstd = normlib.layer_norm(x, weight, bias, axis=axis, eps=eps, out=out, return_stats=True)
            return mean, rstd

        with backends.use("numpy"):
            expected = normlib.layer_norm(X)
        with rogue(layer_norm=layer_norm):
            assert np.array_equal(normlib.layer_norm(X), expected)
            assert backends.active().name == "rogue"

    def test_on_itself_for_ever(self):
        def layer_norm(x, weight, bias, axis, eps, out):
            return normlib.layer_norm(x, weight, bias, axis=axis, eps=eps, return_stats=True)[1:]

        with rogue(layer_norm=layer_norm), pytest.raises(RuntimeError) as caught:
            normlib.layer_norm(X)
        text = "layer_norm: backend 'rogue' raised RecursionError: maximum recursion depth exceeded"
        assert str(caught.value).startswith(text)
        assert len(str(caught.value)) < 200

    def test_unregistering_itself(self):
        def layer_norm(x, weight, bias, axis, eps, out):
            backends.unregister("rogue")
            out[...] = 7
            return NORMAL

        with rogue(layer_norm=layer_norm):
            assert (normlib.layer_norm(X) == 7).all()
            with pytest.raises(RuntimeError, match="raised ValueError: backend 'rogue' is not registered"):
                normlib.layer_norm(X)

    def test_registering_itself(self):
        def layer_norm(*_):
            backends.register("rogue", SimpleNamespace(rms_norm=print))

        text = "layer_norm: backend 'rogue' raised ValueError: backend 'rogue' is already registered"
        with rogue(layer_norm=layer_norm), pytest.raises(RuntimeError, match=text):
            normlib.layer_norm(X)

    def test_of_two_the_first_cause_is_named_too(self):
        def layer_norm(*_):
            with backends.use("other"):
                normlib.layer_norm(X)

        backends.register("other", SimpleNamespace(layer_norm=fails_with(KeyError("kernel"))))
        with rogue(layer_norm=layer_norm), pytest.raises(RuntimeError) as caught:
            normlib.layer_norm(X)
        inner = "layer_norm: backend 'other' raised KeyError: 'kernel'"
        assert str(caught.value) == f"layer_norm: backend 'rogue' raised RuntimeError: {inner}"


def test_running_statistics_stay_after_an_error():
    running = {"running_mean": np.zeros(4), "running_var": np.ones(4)}
    for wrong in ((np.zeros(3), np.ones(4)), (np.zeros(4), np.ones(4, np.float32)), (np.zeros(4),), None):
        with pytest.raises(RuntimeError, match="backend 'rogue' returned"), rogue(batch_norm=lambda *_, w=wrong: w):
            normlib.batch_norm(X, training=True, **running)
        backends.unregister("rogue")
    assert not running["running_mean"].any()
    assert (running["running_var"] == 1).all()


def test_one_whose_functions_cannot_be_read():
    class Rogue:
        @property
        def layer_norm(self):
            raise OSError("no such device")

    with pytest.raises(TypeError) as caught:
        backends.register("rogue", Rogue())
    assert str(caught.value) == "backend 'rogue': its functions cannot be read: OSError: no such device"


class TestImport:
    """Modules that do things with normlib while they are imported as the entry point ``rogue``."""

    @pytest.fixture
    def install(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "rogue_module", raising=False)

        def add(code):
            (tmp_path / "rogue_module.py").write_text("import normlib, sys, types\n" + textwrap.dedent(code))
            info = tmp_path / "rogue-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rogue\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text("[normlib.backends]\nrogue = rogue_module\n")

        return add

    DESCRIBED = "backend plugin 'rogue' (rogue_module of package rogue) could not be loaded: "

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("normlib.backends.use('rogue')", "ImportError: backend plugin 'rogue' (rogue_module of package rogue)"),
            ("normlib.backends.set_default('rogue')", "ImportError: backend plugin 'rogue'"),
            ("normlib.backends.register('numpy', sys)", "TypeError: backend 'numpy' has none of the functions"),
            ("normlib.backends.register('cython', types.SimpleNamespace(rms_norm=print))",
             "ValueError: backend 'cython' is already registered"),
            ("normlib.layer_norm([1.0, 2.0], axis=7)", "ValueError: layer_norm: axis is 7"),
        ],
    )  # fmt: skip
    def test_what_fails(self, install, code, reason):
        install(code)
        with pytest.raises(ImportError) as caught:
            backends.use("rogue")
        assert str(caught.value).startswith(self.DESCRIBED + reason)

    def test_registering_itself_counts_once(self, install):
        install("""
            def layer_norm(*_):
                return NotImplemented

            normlib.backends.register("rogue", sys.modules[__name__])
        """)
        with backends.use("rogue"):
            assert backends.which("layer_norm") in ("cython", "numpy")
        assert backends.available().count("rogue") == 1


def installed(folder, module, source):
    """A package in `folder` that offers the backend "late" by its module."""
    (folder / f"{module}.py").write_text(textwrap.dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[normlib.backends]\nlate = {module}\n")


def test_a_module_that_registers_itself_may_be_imported_while_its_entry_point_is_asked_for(tmp_path):
    """Two locks, of the registry and of the import, are never waited for in opposite order."""
    source = """
        import time
        from normlib import backends
        def rms_norm(*args): return NotImplemented
        time.sleep(0.5)  # the other thread asks meanwhile
        import sys
        backends.register("late_too", sys.modules[__name__])
    """
    installed(tmp_path, "late_module", source)
    code = """
        import threading, time
        import normlib
        importing = threading.Thread(target=lambda: __import__("late_module"))
        importing.start()
        time.sleep(0.1)
        normlib.backends.use("late")
        importing.join()
        assert {"late", "late_too"} <= set(normlib.backends.available())
    """
    support.python("-c", textwrap.dedent(code), timeout=60, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")


def test_a_plugin_that_exits_is_one_that_fails(tmp_path):
    installed(tmp_path, "exit_module", "raise SystemExit(3)")
    code = """
        import warnings
        import normlib
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert "numpy" in normlib.backends.available()
        (warning,) = caught
        assert "backend plugin 'late' (exit_module" in str(warning.message), warning.message
        assert "SystemExit: 3" in str(warning.message), warning.message
        try:
            normlib.backends.use("late")
        except ImportError as error:
            assert "could not be loaded: SystemExit: 3" in str(error), error
        else:
            raise AssertionError("no error")
    """
    support.python("-c", textwrap.dedent(code), timeout=60, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
