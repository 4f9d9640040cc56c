"""Arrays of torch, of JAX and of the array API standard: taken without a copy, answered in kind."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import normlib
from normlib.ops import OPS
from normlib.testing import Case, dtypes, problems
from normlib.testing import _checks as checks

DTYPES = [dtype.name for dtype in dtypes()]


def bits(array):
    return np.ascontiguousarray(array).tobytes()


class Torch:
    """What a test needs of a library: to make an array of NumPy's, and NumPy's of that, and where it lies."""

    def __init__(self):
        self.torch = pytest.importorskip("torch")
        self.type = self.torch.Tensor
        self.dtypes = DTYPES
        self.stat = "float64"

    def make(self, a):
        if a.dtype.name == "bfloat16":
            return self.torch.from_numpy(a.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(np.asarray(a))

    def back(self, t):
        if t.dtype is self.torch.bfloat16:
            return t.view(self.torch.int16).numpy().view("bfloat16")
        return t.numpy()

    def address(self, t):
        return t.data_ptr()

    def dtype(self, t):
        return str(t.dtype).removeprefix("torch.")


class Jax:
    def __init__(self):
        self.jax = pytest.importorskip("jax")
        self.type = self.jax.Array
        wide = self.jax.config.jax_enable_x64
        self.dtypes = [name for name in DTYPES if wide or name != "float64"]
        self.stat = "float64" if wide else "float32"

    def make(self, a):
        return self.jax.numpy.array(a)

    def back(self, j):
        return np.asarray(j)

    def address(self, j):
        return j.unsafe_buffer_pointer()

    def dtype(self, j):
        return j.dtype.name


class Strict:
    def __init__(self):
        self.xp = pytest.importorskip("array_api_strict")
        self.type = type(self.xp.asarray(1.0))
        self.dtypes = ["float64", "float32"]
        self.stat = "float64"

    def make(self, a):
        return self.xp.from_dlpack(np.asarray(a))

    def back(self, s):
        return np.from_dlpack(s)

    def address(self, s):
        return np.from_dlpack(s).ctypes.data

    def dtype(self, s):
        return np.from_dlpack(s).dtype.name


@pytest.fixture(params=[Torch, Jax, Strict])
def library(request):
    return request.param()


@pytest.mark.parametrize("op", OPS)
def test_every_function_answers_in_kind_and_with_the_same_bits(backend, library, op):
    shape, options = problems(op)[0]
    for dtype in library.dtypes:
        case = Case(op, shape, options, dtype, "both")
        x, weight, bias, dy = case.inputs()
        y, *statistics = checks.call_forward(case, x, weight, bias, return_stats=True)
        theirs = [None if a is None else library.make(a) for a in (x, weight, bias, dy)]
        found, *found_statistics = checks.call_forward(case, *theirs[:3], return_stats=True)

        assert isinstance(found, library.type)
        assert library.dtype(found) == dtype
        assert found.shape == x.shape
        assert bits(library.back(found)) == bits(y)
        for ours, other in zip(statistics, found_statistics, strict=True):
            assert isinstance(other, library.type)
            assert library.dtype(other) == library.stat
            np.testing.assert_allclose(library.back(other), ours, rtol=1e-6)

        named = dict(zip(case.description.statistics, found_statistics, strict=True))
        gradients = checks.call_backward(case, theirs[3], theirs[0], theirs[1], **named)
        named = {name: library.back(value) for name, value in named.items()}
        for ours, other in zip(checks.call_backward(case, dy, x, weight, **named), gradients, strict=True):
            assert isinstance(other, library.type)
            assert library.dtype(other) == dtype
            assert bits(library.back(other)) == bits(ours)


def spied(monkeypatch, name="layer_norm"):
    """The arrays that reach the backend, and its results."""
    seen = SimpleNamespace(args=None, result=None)
    table = normlib.backends.active()
    direct = getattr(table, f"{name}_direct")

    def spy(*args):
        result = direct(*args)
        if result is not NotImplemented:
            seen.args, seen.result = args, result
        return result

    monkeypatch.setitem(table.__dict__, f"{name}_direct", spy)
    return seen


@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="the NumPy backend has no direct functions")
def test_nothing_is_copied(library, monkeypatch):
    seen = spied(monkeypatch)
    for dtype in library.dtypes:
        x, weight = (np.random.default_rng(0).normal(size=s).astype(dtype) for s in ((64, 256), (256,)))
        x, weight = library.make(x), library.make(weight)
        y = normlib.layer_norm(x, weight)
        assert [seen.args[i].ctypes.data for i in (0, 1)] == [library.address(x), library.address(weight)]
        assert seen.result.ctypes.data == library.address(y)


@pytest.mark.parametrize("library", [Torch, Strict], indirect=True)
def test_out_is_written_in_place_and_returned(backend, library):
    for dtype in library.dtypes:
        x = np.random.default_rng(0).normal(size=(6, 8)).astype(dtype)
        expected, mean, rstd = normlib.layer_norm(x, return_stats=True)
        out = library.make(np.zeros_like(x))
        assert normlib.layer_norm(library.make(x), out=out) is out
        assert bits(library.back(out)) == bits(expected)
        assert normlib.layer_norm(x, out=out) is out  # whatever x is
        given = library.make(x.copy())
        dx, *_ = normlib.layer_norm_backward(given, given, mean=mean, rstd=rstd, out=given)
        assert dx is given
        assert bits(library.back(given)) == bits(normlib.layer_norm_backward(x, x, mean=mean, rstd=rstd)[0])


@pytest.mark.parametrize("library", [Torch, Strict], indirect=True)
def test_running_statistics_are_moved_in_place(backend, library):
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    for function, mode in [(op.forward, op.mode) for op in OPS.values() if op.mode]:
        ours, theirs = ([np.zeros(3, np.float32), np.ones(3, np.float32)] for _ in range(2))
        function(x, running_mean=ours[0], running_var=ours[1], **{mode: True})
        given = [library.make(a) for a in theirs]
        function(library.make(x), running_mean=given[0], running_var=given[1], **{mode: True})
        for a, b in zip(ours, given, strict=True):
            assert bits(library.back(b)) == bits(a)


def test_x_decides_the_kind_of_the_results(library):
    x, weight = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    assert isinstance(normlib.layer_norm(library.make(x), weight), library.type)
    assert type(normlib.layer_norm(x, library.make(weight))) is np.ndarray
    _, mean, rstd = normlib.layer_norm(library.make(x), return_stats=True)
    assert type(normlib.layer_norm_backward(library.make(x), x, mean=mean, rstd=rstd)[0]) is np.ndarray
    dx, dweight, dbias = normlib.layer_norm_backward(x, library.make(x), mean=mean, rstd=rstd)
    assert isinstance(dx, library.type)
    assert dweight is dbias is None


def test_wrong_arguments_are_the_same_errors(library):
    with pytest.raises(TypeError, match="layer_norm: x has dtype complex64, expected float64, float32"):
        normlib.layer_norm(library.make(np.ones((2, 3), np.complex64)))
    x = library.make(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"layer_norm: weight has shape \(2,\), expected \(3,\)"):
        normlib.layer_norm(x, library.make(np.ones(2, np.float32)))
    with pytest.raises(ValueError, match="layer_norm: eps is -1"):
        normlib.layer_norm(x, eps=-1)


def test_integers_are_computed_in_floats(backend, library):
    wide = "float64" if "float64" in library.dtypes else "float32"
    for dtype, result in (("uint8", "float32"), ("int16", "float32"), ("bool", "float32"), ("int32", wide)):
        x = np.arange(12).reshape(3, 4).astype(dtype)
        y = normlib.layer_norm(library.make(x))
        assert isinstance(y, library.type)
        assert library.dtype(y) == result
        assert bits(library.back(y)) == bits(normlib.layer_norm(x).astype(result))


def test_parameters_of_another_dtype(backend, library):
    for dtype in library.dtypes:
        for other in library.dtypes:
            x = np.linspace(0, 1, 12).reshape(3, 4).astype(dtype)
            weight = np.linspace(1, 2, 4).astype(other)
            y, rstd = normlib.rms_norm(library.make(x), library.make(weight), return_stats=True)
            assert library.dtype(y) == dtype
            assert bits(library.back(y)) == bits(normlib.rms_norm(x, weight))
            _, dweight = normlib.rms_norm_backward(y, library.make(x), library.make(weight), rstd=rstd)
            assert library.dtype(dweight) == other


def test_an_array_without_elements(library):
    y, mean, _ = normlib.layer_norm(library.make(np.ones((0, 3), np.float32)), return_stats=True)
    assert (tuple(y.shape), tuple(mean.shape)) == ((0, 3), (0,))
    assert isinstance(y, library.type)
    y, mean, _ = normlib.layer_norm(library.make(np.ones(3, np.float32)), return_stats=True)
    assert isinstance(mean, library.type)
    assert tuple(mean.shape) == ()


def test_layers_take_them_and_answer_in_numpy(library):
    norm = normlib.LayerNorm(3)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    y = norm(library.make(x))
    assert type(y) is np.ndarray
    assert type(norm.backward(library.make(x))) is np.ndarray
    assert type(norm.grad_weight) is np.ndarray


# -- torch ----


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_a_tensor_keeps_its_order_in_memory(torch):
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
    y = normlib.group_norm(x, 3)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, torch.nn.functional.group_norm(x, 3))
    every_other = torch.randn(4, 6)[::2]
    torch.testing.assert_close(normlib.layer_norm(every_other), torch.nn.functional.layer_norm(every_other, (6,)))


def test_a_tensor_on_another_device_is_an_error(torch):
    x, w = torch.ones(2, 3, device="meta"), torch.ones(3, device="meta")
    message = "rms_norm: {0} is on the device meta, expected an array in the memory of the CPU: {0}.cpu()"
    with pytest.raises(ValueError, match=message.format("x")):
        normlib.rms_norm(x)
    with pytest.raises(ValueError, match=message.format("weight")):
        normlib.rms_norm(np.ones((2, 3), np.float32), w)
    with pytest.raises(ValueError, match=message.format("out")):
        normlib.rms_norm(torch.ones(2, 3), out=x)


def test_a_gradient_is_not_lost_silently(torch):
    x, weight = torch.ones(2, 3), torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"rms_norm: weight requires a gradient, which would be lost .*interop\.torch"):
        normlib.rms_norm(x, weight)
    assert not normlib.rms_norm(x, weight.detach()).requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert normlib.rms_norm(x, weight).tolist() == normlib.rms_norm(x).tolist()
            normlib.rms_norm(x, out=torch.empty(2, 3))


def test_autograd_notices_what_was_written(torch):
    x = torch.randn(4, 3)
    scale = torch.ones(4, 3, requires_grad=True)
    product = (scale * x).sum()  # keeps x for its backward
    normlib.layer_norm(x)
    normlib.batch_norm(torch.ones(2, 3), running_mean=x[0], running_var=x[1].abs())
    assert x._version == 0
    normlib.layer_norm(x, out=x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    mean, var = torch.zeros(3), torch.ones(3)
    normlib.batch_norm(x, running_mean=mean, running_var=var, training=True)
    assert (mean._version, var._version) == (1, 1)


@pytest.mark.parametrize("make", ["sparse", "float8"])
def test_what_torch_cannot_hand_over_is_an_error(torch, make):
    x = torch.ones(2, 3)
    x = x.to_sparse() if make == "sparse" else x.to(torch.float8_e4m3fn)
    with pytest.raises(TypeError, match="layer_norm: x cannot be made an array"):
        normlib.layer_norm(x)


# -- JAX, and the standard ----


def test_a_jax_array_cannot_be_written_to():
    jnp = pytest.importorskip("jax.numpy")
    x, zero, one = jnp.ones((2, 3)), jnp.zeros(3), jnp.ones(3)
    with pytest.raises(TypeError, match="layer_norm: out is a JAX array, which cannot be written to"):
        normlib.layer_norm(x, out=x)
    with pytest.raises(ValueError, match="batch_norm: running_mean is read-only"):
        normlib.batch_norm(x, running_mean=zero, running_var=one, training=True)
    assert normlib.batch_norm(x, running_mean=zero, running_var=one, eps=0).tolist() == x.tolist()


def test_under_a_transformation_of_jax_the_way_is_told():
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones((2, 3))
    grad = jax.grad(lambda x: normlib.layer_norm(x).sum())
    for function in (jax.jit(normlib.layer_norm), jax.vmap(normlib.layer_norm), grad):
        with pytest.raises(TypeError, match=r"layer_norm: x is being traced by JAX .* use normlib\.interop\.jax"):
            function(x)


class Elsewhere:
    """An array of a library that follows the standard, in the memory of a GPU."""

    device = "gpu:0"

    def __array_namespace__(self, api_version=None):
        raise AssertionError("not to be asked")

    def __dlpack__(self, **options):
        raise AssertionError("not to be asked")

    def __dlpack_device__(self):
        return 2, 0


def test_an_array_of_the_standard_on_another_device_is_an_error():
    with pytest.raises(ValueError, match="layer_norm: x is on the device gpu:0, expected an array in the"):
        normlib.layer_norm(Elsewhere())


def test_what_the_library_cannot_hand_over_is_an_error():
    class Broken(Elsewhere):
        def __dlpack_device__(self):
            return 1, 0

        def __dlpack__(self, **options):
            raise BufferError("not today")

    with pytest.raises(TypeError, match="layer_norm: x cannot be made an array: not today"):
        normlib.layer_norm(Broken())


def test_the_device_stays(library):
    if isinstance(library, Strict):
        x = library.xp.ones((2, 3), device=library.xp.Device("device1"))
        assert normlib.layer_norm(x).device == x.device
    elif isinstance(library, Jax):
        x = library.jax.device_put(np.ones((2, 3), np.float32), library.jax.devices("cpu")[0])
        assert normlib.layer_norm(x).committed
        assert not normlib.layer_norm(library.jax.numpy.ones((2, 3))).committed


# -- NumPy's own, and nobody's import ----


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize("kind", ["list", "tuple", "subclass", "matrix", "memoryview", "__array__"])
def test_what_numpy_knows_is_answered_by_numpy(kind):
    plain = np.array([[1.0, 3.0], [10.0, 30.0]])
    x = {
        "list": plain.tolist(),
        "tuple": tuple(map(tuple, plain.tolist())),
        "subclass": plain.view(Subclass),
        "matrix": plain.view(np.matrix),
        "memoryview": memoryview(plain),
        "__array__": SimpleNamespace(__array_interface__=plain.__array_interface__),
    }[kind]
    y = normlib.layer_norm(x, eps=0)
    assert type(y) is np.ndarray
    assert y.tolist() == [[-1, 1], [-1, 1]]


def test_importing_normlib_imports_no_library_of_others():
    names = ["torch", "jax", "onnx", "onnxruntime", "ml_dtypes", "scipy", "normlib.interop"]
    code = (
        "import sys, numpy as np, normlib; normlib.layer_norm([[1.0, 2.0]]); normlib.layer_norm(np.ones((2, 2)));"
        f"print([name for name in {names} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_libraries_are_looked_up_not_imported(monkeypatch):
    """A module of that name which is half imported, or is another one, does no harm."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "jax", importlib)
    assert normlib.layer_norm(memoryview(np.array([[1.0, 3.0]])), eps=0).tolist() == [[-1, 1]]
