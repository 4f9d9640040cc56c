"""The registry: choosing a backend, falling to the next one, plugins that work and plugins that do not."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import normlib
from normlib import backends

pytestmark = pytest.mark.thread_unsafe(reason="registers and chooses backends for the process")
X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def numpy_by_default():
    with backends.use("numpy"):
        yield


def constant(value):
    def layer_norm(x, weight, bias, axis, eps, out):
        out[...] = value
        return np.zeros(x.shape[:-1]), np.ones(x.shape[:-1])

    return layer_norm


def declines(*_):
    return NotImplemented


def refuses(*_):
    raise NotImplementedError


class TestChoice:
    def test_available(self):
        names = backends.available()
        assert "numpy" in names
        assert names.index("numpy") == ("cython" in names)

    def test_use_as_context_manager(self, register):
        register("seven", layer_norm=constant(7))
        with backends.use("seven") as chosen:
            assert chosen is not None
            assert (normlib.layer_norm(X) == 7).all()
            with backends.use("numpy"):
                assert (normlib.layer_norm(X) != 7).all()
            assert (normlib.layer_norm(X) == 7).all()
        assert (normlib.layer_norm(X) != 7).all()

    def test_use_again(self, register):
        """Each entry chooses, each exit goes back to what was there before it: also nested, and in another thread."""
        register("seven", layer_norm=constant(7))

        def name():
            return backends.active().name

        first = name()
        chosen = backends.use("seven")
        with chosen:
            with backends.use("numpy"), chosen:
                assert name() == "seven"
            assert name() == "seven"
        assert name() == first
        for before in ("numpy", "seven"):
            with backends.use(before):
                with chosen:
                    assert name() == "seven"
                assert name() == before

        def elsewhere():
            default = name()
            with chosen:
                inside = name()
            return inside == "seven" and name() == default

        assert run_in_thread(elsewhere)

    def test_use_as_call(self, register):
        register("seven", layer_norm=constant(7))
        backends.use("seven")
        assert (normlib.layer_norm(X) == 7).all()
        backends.use("numpy")
        assert (normlib.layer_norm(X) != 7).all()

    def test_an_error_leaves_the_choice(self, register):
        register("seven", layer_norm=constant(7))
        with backends.use("seven"):
            with pytest.raises(ValueError, match="there is no backend"):
                backends.use("none")
            assert (normlib.layer_norm(X) == 7).all()
        with pytest.raises(KeyError), backends.use("seven"):
            raise KeyError
        assert (normlib.layer_norm(X) != 7).all()

    def test_threads_choose_for_themselves(self, register):
        numbers = range(4)
        for number in numbers:
            register(f"backend {number}", layer_norm=constant(number))
        barrier, seen = threading.Barrier(len(numbers)), {}

        def work(number):
            seen[number] = set()
            for _ in range(50):
                with backends.use(f"backend {number}"):
                    barrier.wait()
                    seen[number].add(float(normlib.layer_norm(X).max()))

        threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == {number: {float(number)} for number in numbers}
        assert (normlib.layer_norm(X) != 7).all()

    def test_tasks_choose_for_themselves(self, register):
        for number in range(3):
            register(f"backend {number}", layer_norm=constant(number))

        async def work(number):
            with backends.use(f"backend {number}"):
                for _ in range(5):
                    await asyncio.sleep(0)
                    assert (normlib.layer_norm(X) == number).all()

        async def all_at_once():
            await asyncio.gather(*map(work, range(3)))

        asyncio.run(all_at_once())

    def test_set_default_reaches_other_threads(self, register):
        register("seven", layer_norm=constant(7))
        seen = []
        name = run_in_thread(lambda: backends.active().name)
        backends.set_default("seven")
        try:
            seen.append(run_in_thread(lambda: float(normlib.layer_norm(X).max())))
            assert float(normlib.layer_norm(X).max()) != 7  # this one has chosen numpy
            with backends.use(None):
                assert (normlib.layer_norm(X) == 7).all()
        finally:
            backends.set_default(name)
        assert seen == [7]
        assert run_in_thread(lambda: backends.active().name) == name

    def test_unknown_name_lists_those_there_are(self):
        names = ", ".join(repr(name) for name in backends.available())
        with pytest.raises(ValueError, match=f"^there is no backend 'nmupy', only {names}"):
            backends.use("nmupy")

    @pytest.mark.parametrize("name", [7, b"numpy", backends])
    def test_a_name_is_a_string(self, name):
        with pytest.raises(TypeError, match="expected a string"):
            backends.use(name)


def run_in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


class TestFallingToTheNext:
    def test_missing_operations_and_declined_calls(self, register):
        expected = normlib.rms_norm(X)
        for name, functions in {
            "lacking": {"layer_norm": constant(7)},
            "declining": {"layer_norm": constant(7), "rms_norm": declines},
            "refusing": {"layer_norm": constant(7), "rms_norm": refuses},
        }.items():
            register(name, **functions)
            with backends.use(name):
                np.testing.assert_allclose(normlib.rms_norm(X), expected, rtol=1e-6)
                assert backends.which("rms_norm") != name
                assert backends.which("layer_norm") == name
            with backends.use(name, strict=True), pytest.raises(NotImplementedError) as caught:
                normlib.rms_norm(X)
            assert str(caught.value) == f"rms_norm: backend {name!r} does not take this call, and strict=True"

    def test_which_sees_what_is_declined(self, register):
        def only_float32(x, *rest):
            return constant(7)(x, *rest) if x.dtype == np.float32 else NotImplemented

        register("narrow", layer_norm=only_float32)
        with backends.use("narrow"):
            assert backends.which("layer_norm") == "narrow"
            assert backends.which("layer_norm", "float64") != "narrow"
            assert backends.which("layer_norm", x=X.astype(float)) != "narrow"

    def test_which_says_what_is_copied(self, register):
        def copies(op, x, axis):
            assert op == "layer_norm"
            assert axis == (2,)
            return not x.flags.c_contiguous

        register("copying", layer_norm=constant(7), copies=copies)
        with backends.use("copying"):
            assert backends.which("layer_norm").copies is False
            assert backends.which("layer_norm", x=X).copies is False
            for axis in (None, 2, -1, (2,), [-1]):
                assert backends.which("layer_norm", x=X[:, ::2], axis=axis).copies is True
            with pytest.raises(ValueError, match="axis is 3, expected"):
                backends.which("layer_norm", x=X, axis=3)

    @pytest.mark.parametrize("op", backends.OPERATIONS)
    def test_which_of_what_the_operation_refuses(self, op):
        few, shape = ("one axis", ()) if op.startswith(("layer", "rms")) else ("2 axes", (3,))
        words = re.escape(f"{op}: x has shape {shape}, expected at least {few}")
        with pytest.raises(ValueError, match=f"^{words}$"):
            backends.which(op, x=np.ones(shape))
        with pytest.raises(TypeError, match=f"^{op}: x has dtype complex128, expected float64, float32"):
            backends.which(op, x=np.ones((2, 3, 4), complex))
        with pytest.raises(ValueError, match=f"^{op}: (channel_)?axis is 3, expected -3 to 2 for x with 3 axes"):
            backends.which(op, x=X, axis=3)

    @pytest.mark.parametrize("op", backends.OPERATIONS)
    def test_which_of_integers(self, op):
        assert backends.which(op, x=np.ones((2, 3, 4), int)) == backends.which(op, "float64")

    @pytest.mark.parametrize("op", backends.OPERATIONS)
    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
    def test_numpy_takes_everything(self, op, dtype):
        choice = backends.which(op, dtype)
        assert choice == "numpy"
        assert isinstance(choice, str)
        assert choice.copies is False

    def test_which_of_an_unknown_operation(self):
        with pytest.raises(ValueError, match=r"^there is no operation 'norm', only layer_norm, layer_norm_backward"):
            backends.which("norm")

    def test_which_chooses_nothing(self, register):
        register("seven", layer_norm=constant(7))
        table = backends.active()
        backends.which("layer_norm")
        assert backends.active() is table

    def test_direct(self, register):
        """Raw public arguments in public order; NotImplemented goes the general way."""
        calls, result = [], X + 1

        def direct(*args):
            calls.append(args)
            return NotImplemented if args[4] == 0 else result

        register("quick", layer_norm=constant(7), direct={"layer_norm": direct})
        with backends.use("quick"):
            assert normlib.layer_norm(X, "weight", bias="bias", eps=1, out="out") is result
            assert (normlib.layer_norm(X, eps=0) == 7).all()
        assert calls[0] == (X, "weight", "bias", -1, 1, "out", False)
        assert len(calls) == 2


class TestEnvironment:
    def run(self, code, **environment):
        env = {**os.environ, **environment}
        command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code]  # of kernels that are missing
        result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return result.stdout.strip(), result.stderr

    CODE = "import normlib; print(normlib.backends.which('layer_norm'))"

    def test_variable(self):
        assert self.run(self.CODE, NORMLIB_BACKEND="numpy")[0] == "numpy"

    def test_default(self):
        expected = "cython" if "cython" in backends.available() else "numpy"
        assert self.run(self.CODE, NORMLIB_BACKEND="")[0] == expected

    def test_unknown_name(self):
        """Importing is safe; the first call says what there is."""
        out, err = self.run("import normlib; print('imported'); normlib.layer_norm([1.0])", NORMLIB_BACKEND="mkl")
        assert out == "imported"
        assert "ValueError: NORMLIB_BACKEND: there is no backend 'mkl', only" in err

    def test_import_loads_nothing_optional(self):
        code = "import normlib, sys; print(*{'ml_dtypes', 'importlib.metadata', 'argparse'} & set(sys.modules))"
        assert self.run(code) == ("", "")


class TestRegister:
    def test_twice(self, register):
        register("seven", layer_norm=constant(7))
        with pytest.raises(ValueError, match=r"^backend 'seven' is already registered$"):
            backends.register("seven", SimpleNamespace(layer_norm=constant(8)))
        with backends.use("seven"):
            assert (normlib.layer_norm(X) == 7).all()

    @pytest.mark.parametrize("name", ["numpy", "cython"])
    def test_built_in_names(self, name):
        with pytest.raises(ValueError, match=f"^backend '{name}' is already registered$"):
            backends.register(name, SimpleNamespace(layer_norm=constant(8)))
        with pytest.raises(ValueError, match="is built in and stays"):
            backends.unregister(name)

    @pytest.mark.parametrize(
        ("name", "candidate", "text"),
        [
            ("", SimpleNamespace(layer_norm=declines), "the name of a backend is '', expected a non-empty string"),
            (None, SimpleNamespace(layer_norm=declines), "the name of a backend is None, expected a non-empty string"),
            ("bad", SimpleNamespace(layernorm=declines), "backend 'bad' has none of the functions layer_norm, "),
            ("bad", SimpleNamespace(layer_norm=7), "backend 'bad': layer_norm is 7, expected a function"),
            ("bad", SimpleNamespace(layer_norm=declines, direct=[1]),
             "backend 'bad': direct is [1], expected a dict of operations"),
            ("bad", SimpleNamespace(layer_norm=declines, direct={"norm": declines}),
             "backend 'bad': direct is {'norm'"),
            ("bad", SimpleNamespace(layer_norm=declines, direct={"rms_norm": 7}),
             "backend 'bad': rms_norm is 7, expected a function"),
        ],
    )  # fmt: skip
    def test_what_is_no_backend(self, name, candidate, text):
        before = backends.available()
        with pytest.raises(TypeError) as caught:
            backends.register(name, candidate)
        assert str(caught.value).startswith(text)
        assert backends.available() == before

    def test_unregister_unknown(self):
        with pytest.raises(ValueError, match=r"^backend 'seven' is not registered$"):
            backends.unregister("seven")


class TestWrongResults:
    """A backend that errs is named, and nothing but `out` has changed."""

    @pytest.mark.parametrize(
        ("returned", "text"),
        [
            (None, "returned NoneType, expected a tuple (mean, rstd)"),
            ((np.zeros((3, 4)),), "returned tuple, expected a tuple (mean, rstd)"),
            ((np.zeros(3), np.ones((3, 4))),
             "returned mean as float64 of shape (3,), expected float64 of shape (3, 4)"),
            ((np.zeros((3, 4)), np.ones((3, 4), np.float32)),
             "returned rstd as float32 of shape (3, 4), expected float64 of shape (3, 4)"),
            ((0.0, 1.0), "returned mean as float, expected a NumPy array"),
        ],
    )  # fmt: skip
    def test_statistics(self, register, returned, text):
        register("wrong", layer_norm=lambda *_: returned)
        with backends.use("wrong"), pytest.raises(RuntimeError) as caught:
            normlib.layer_norm(X)
        assert str(caught.value) == f"layer_norm: backend 'wrong' {text}"

    @pytest.mark.parametrize(
        ("returned", "wanted", "text"),
        [
            ((np.zeros(4), None), True, "returned dbias as NoneType, expected a NumPy array"),
            ((np.zeros(4), np.zeros(4, int)), True,
             "returned dbias as int64 of shape (4,), expected float64 or float32 of shape (4,)"),
            ((np.zeros(4), None), False, "returned dweight unasked, expected None"),
        ],
    )  # fmt: skip
    def test_gradients(self, register, returned, wanted, text):
        register("wrong", batch_norm_backward=lambda *_: returned)
        with backends.use("wrong"), pytest.raises(RuntimeError) as caught:
            normlib.batch_norm_backward(X, X, mean=np.zeros(4), rstd=np.ones(4), weight_grads=wanted)
        assert str(caught.value) == f"batch_norm_backward: backend 'wrong' {text}"

    def test_exceptions_name_the_backend(self, register):
        def fails(*_):
            raise KeyError("kernel")

        register("failing", batch_norm=fails)
        running = np.zeros(4), np.ones(4)
        with backends.use("failing"), pytest.raises(RuntimeError) as caught:
            normlib.batch_norm(X, training=True, running_mean=running[0], running_var=running[1])
        assert str(caught.value) == "batch_norm: backend 'failing' raised KeyError: 'kernel'"
        assert isinstance(caught.value.__cause__, KeyError)
        assert (running[0] == 0).all()
        assert (running[1] == 1).all()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package by hand: a module and the metadata of an entry point."""
    monkeypatch.syspath_prepend(tmp_path)
    registered = dict(backends._registry)

    def add(name, code, value=None, package=None):
        package = package or f"{name}-package"
        module = f"{package}_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[normlib.backends]\n{name} = {value or module}\n")
        return module

    yield add
    backends._registry.clear()
    backends._registry.update(registered)
    backends._reported.clear()


GOOD = """
    import numpy as np

    def layer_norm(x, weight, bias, axis, eps, out):
        out[...] = 7
        return np.zeros(x.shape[:-1]), np.ones(x.shape[:-1])
"""


class TestPlugins:
    def test_is_loaded_when_asked_for(self, install):
        module = install("seven", GOOD)
        normlib.layer_norm(X)
        backends.use("numpy")
        assert module not in sys.modules
        with backends.use("seven"):
            assert module in sys.modules
            assert (normlib.layer_norm(X) == 7).all()
        assert "seven" in backends.available()

    def test_is_listed_unloaded(self, install):
        module = install("seven", GOOD)
        with pytest.raises(ValueError, match="'seven'"):
            backends.use("none")
        assert module not in sys.modules

    @pytest.mark.parametrize(
        ("code", "value", "reason"),
        [
            ("import a_module_that_is_not_there", None, "ModuleNotFoundError: No module named 'a_module_that"),
            ("raise OSError('no such device')", None, "OSError: no such device"),
            ("def broken(:", None, "SyntaxError: "),
            ("", None, "TypeError: backend 'broken' has none of the functions layer_norm, "),
            ("layer_norm = 7", None, "TypeError: backend 'broken': layer_norm is 7, expected a function"),
            ("", "json:missing", "AttributeError: module 'json' has no attribute 'missing'"),
        ],
    )
    def test_broken(self, install, code, value, reason):
        before = backends.available()
        module = install("broken", code, value)
        described = f"backend plugin 'broken' ({value or module} of package broken-package)"
        with pytest.warns(RuntimeWarning) as warned:
            assert backends.available() == before
        assert str(warned[0].message).startswith(f"{described} is left out: {reason}")
        assert warned[0].filename == __file__
        assert backends.available() == before  # and says it once
        with pytest.raises(ImportError) as caught:
            backends.use("broken")
        assert str(caught.value).startswith(f"{described} could not be loaded: {reason}")
        np.testing.assert_allclose(normlib.layer_norm([1.0, 3.0], eps=0), [-1, 1])

    def test_name_of_a_built_in(self, install):
        before = backends.available()
        install("numpy", GOOD, package="impostor")
        with pytest.warns(RuntimeWarning, match="of package impostor.* is left out: the name is taken"):
            assert backends.available() == before
        assert (normlib.layer_norm(X) != 7).all()

    def test_two_of_one_name(self, install):
        install("seven", GOOD, package="first")
        install("seven", GOOD, package="second")
        with pytest.warns(RuntimeWarning, match="'seven'.* is left out: the name is taken"):
            assert backends.available().count("seven") == 1

    def test_name_that_was_registered(self, install, register):
        register("seven", layer_norm=constant(9))
        install("seven", GOOD)
        with backends.use("seven"):
            assert (normlib.layer_norm(X) == 9).all()


@pytest.fixture(scope="module")
def numba_plugin(tmp_path_factory):
    """The folder into which pip has installed tests/plugin."""
    pytest.importorskip("numba")
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(Path(__file__).parent / "plugin", folder / "source")
    target = folder / "target"
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", target, source], check=True)
    return target


def with_plugin(folder, code, **environment):
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    code = textwrap.dedent(code)
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code]  # of kernels that are missing
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


class TestNumbaPlugin:
    def test_is_short(self):
        lines = (Path(__file__).parent / "plugin/normlib_numba.py").read_text().splitlines()
        assert sum(bool(line.strip()) for line in lines) < 40

    def test_is_found_and_loaded_late(self, numba_plugin):
        out = with_plugin(numba_plugin, """
            import sys, numpy, normlib
            normlib.layer_norm(numpy.ones((2, 3), numpy.float32))
            print("numba" in sys.modules, normlib.backends.available()[-1])
        """)  # fmt: skip
        assert out.split() == ["False", "numba"]

    def test_computes_what_it_takes(self, numba_plugin):
        out = with_plugin(numba_plugin, """
            import numpy, normlib
            from normlib import backends
            x = numpy.random.default_rng(0).standard_normal((3, 5, 7)).astype("f") + 100
            expected = normlib.layer_norm(x), normlib.rms_norm(x)
            with backends.use("numba"):
                for y, z in zip((normlib.layer_norm(x), normlib.rms_norm(x)), expected):
                    numpy.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
                print(backends.which("layer_norm"), backends.which("layer_norm", "float64"),
                      backends.which("layer_norm", x=x, axis=0), backends.which("batch_norm"))
        """, NORMLIB_BACKEND="numpy")  # fmt: skip
        first, *others = out.split()
        assert first == "numba"
        assert set(others) <= {"cython", "numpy"}

    def test_variable(self, numba_plugin):
        out = with_plugin(numba_plugin, "import normlib; print(normlib.backends.which('rms_norm'))",
                          NORMLIB_BACKEND="numba")  # fmt: skip
        assert out.strip() == "numba"

    def test_conforms(self, numba_plugin):
        out = with_plugin(numba_plugin, """
            from normlib.testing import check_backend
            report = check_backend("numba", ops=["layer_norm", "rms_norm"])
            print(report.ok, 0 < report.declined < sum(report.passed.values()))
        """)  # fmt: skip
        assert out.split() == ["True", "True"]
