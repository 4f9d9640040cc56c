"""normlib.interop.torch: the operators as torch wants them, and models whose norms change places."""

import copy
import doctest
import importlib
import operator
import pickle

import numpy as np
import pytest

import normlib

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

from model_norms import LlamaRMSNorm, SquareRMSNorm  # noqa: E402
from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.interop.torch._tensors import array, tensor  # noqa: E402

ops = torch.ops.normlib
C = 4  # channels, and features


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class FiveNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LayerNorm(6)
        self.rms = nn.RMSNorm((C, 5, 6))
        self.batch = nn.BatchNorm2d(C)
        self.group = nn.GroupNorm(2, C)
        self.instance = nn.InstanceNorm2d(C, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.layer(self.instance(self.group(self.batch(self.rms(x)))))


class GemmaRMSNorm(LlamaRMSNorm):
    """A class with the same attributes and another meaning, which is found by trying."""

    def forward(self, hidden_states):
        wide = hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (1 + self.weight) * wide


def randomized(module):
    """The module with parameters and buffers that are not 0 and 1."""
    for t in (*module.parameters(), *module.buffers()):
        if t.is_floating_point():
            t.data.uniform_(0.5, 1.5)
    return module


def pair(module):
    """A module as it is, and a copy of it that normlib computes."""
    randomized(module)
    return module, nt.accelerate(copy.deepcopy(module))


def close(found, expected, ulps=200):
    """Equal to rounding, for values of about 1."""
    eps = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(found, expected, rtol=ulps * eps, atol=ulps * eps)


# ---- the operators ----


def samples(requires_grad):
    """Arguments of each of the ten operators, several where the options decide what comes back."""

    def t(*shape):
        return (torch.rand(*shape) + 0.1).requires_grad_(requires_grad)

    rows, images = (2, 3, C), (3, C, 2, 2)
    statistics = torch.rand(C), torch.rand(C) + 0.5
    s64 = torch.rand(2, 3).double() + 0.5
    per_channel, per_sample, per_group = (torch.rand(*shape).double() + 0.5 for shape in ((C,), (3, C), (3, 2)))
    yield ops.layer_norm, (t(*rows), t(C), t(C), [-1], 1e-5)
    yield ops.layer_norm, (t(*rows).mT, None, None, [1], 1e-5)
    yield ops.rms_norm, (t(*rows), t(C), [2], 1e-5)
    yield ops.batch_norm, (t(*images), t(C), t(C), *statistics, True, 0.3, 1e-5, 1)
    yield ops.batch_norm, (t(*images), t(C), t(C), *statistics, False, 0.3, 1e-5, 1)
    yield ops.group_norm, (t(*images).to(memory_format=torch.channels_last), t(C), t(C), 2, 1e-5, 1)
    yield ops.instance_norm, (t(*images), None, None, *statistics, True, 0.3, 1e-5, 1)
    yield ops.layer_norm_backward, (t(*rows), t(*rows), t(C), s64, s64, [-1], True)
    yield ops.layer_norm_backward, (t(*rows), t(*rows), None, s64, s64, [-1], False)
    yield ops.rms_norm_backward, (t(*rows), t(*rows), t(C), s64, [-1], True)
    yield ops.batch_norm_backward, (t(*images), t(*images), t(C), per_channel, per_channel, True, 1, True)
    yield ops.group_norm_backward, (t(*images), t(*images), t(C), per_group, per_group, 2, 1, True)
    yield ops.instance_norm_backward, (t(*images), t(*images), t(C), per_sample, per_sample, True, 1, True)


NAMES = sorted({str(op) for op, _ in samples(False)})


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    assert len(NAMES) == 10
    for requires_grad in (False, True):
        tests = ["test_schema", "test_faketensor"] + ["test_autograd_registration"] * requires_grad
        if requires_grad != name.endswith("backward"):
            tests.append("test_aot_dispatch_dynamic")
        for op, arguments in samples(requires_grad):
            if str(op) == name:
                torch.library.opcheck(op.default, arguments, test_utils=tests)


GIVEN = torch.arange(C).double()
GRADIENTS = {
    "layer_norm": lambda x, w, b: nt.layer_norm(x, w, b, axis=1),
    "layer_norm of two axes": lambda x, w, b: nt.layer_norm(x, axis=(0, 2)),
    "rms_norm": lambda x, w, b: nt.rms_norm(x, w, axis=-2),
    "batch_norm": lambda x, w, b: nt.batch_norm(x, weight=w, bias=b, training=True),
    "batch_norm of given statistics": lambda x, w, b: nt.batch_norm(
        x, running_mean=GIVEN, running_var=GIVEN + 1, weight=w, bias=b
    ),
    "group_norm": lambda x, w, b: nt.group_norm(x, 2, w, b),
    "group_norm, channels first of all": lambda x, w, b: nt.group_norm(x.transpose(0, 1), 2, w, b, channel_axis=0),
    "instance_norm": lambda x, w, b: nt.instance_norm(x, weight=w, bias=b),
    "instance_norm, channels last": lambda x, w, b: nt.instance_norm(x.mT, weight=w, bias=b, channel_axis=-1),
}


def small_problem():
    """x, weight and bias in float64 that require gradients."""
    shapes = (2, C, 3), (C,), (C,)
    return [torch.rand(*shape, dtype=torch.float64).add_(0.5).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("case", GRADIENTS)
def test_first_and_second_derivatives(case):
    x, w, b = small_problem()
    function = GRADIENTS[case]
    assert gradcheck(function, (x, w, b), check_batched_grad=case == "layer_norm")
    assert gradgradcheck(function, (x, w, b))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("case", GRADIENTS)
def test_under_the_transforms_of_torch_func(case):
    x, w, b = small_problem()
    function = GRADIENTS[case]
    expected = torch.autograd.grad(function(x, w, b).sin().sum(), x)[0]
    close(torch.func.grad(lambda x: function(x, w, b).sin().sum())(x), expected)
    tangent = torch.rand_like(x)
    jvp = torch.func.jvp(lambda x: function(x, w, b), (x,), (tangent,))[1]
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x, w, b), x).reshape(x.numel(), x.numel())
    close(jvp.flatten(), jacobian @ tangent.flatten())
    batch = torch.rand(2, *x.shape, dtype=x.dtype)
    close(torch.vmap(lambda x: function(x, w, b))(batch), torch.stack([function(x, w, b) for x in batch]))


def test_functions_are_those_of_normlib(backend):
    x, w, b = (t.detach() for t in small_problem())
    named = {"weight": w, "bias": b}
    for found, expected in [
        (nt.layer_norm(x, w, b, axis=1, eps=0.1), normlib.layer_norm(x.numpy(), w.numpy(), b.numpy(), axis=1, eps=0.1)),
        (nt.rms_norm(x, w, axis=1, eps=0.1), normlib.rms_norm(x.numpy(), w.numpy(), axis=1, eps=0.1)),
        (nt.batch_norm(x, **named, eps=0.1), normlib.batch_norm(x, **named, eps=0.1)),
        (nt.group_norm(x, 2, w, b, eps=0.1), normlib.group_norm(x.numpy(), 2, w.numpy(), b.numpy(), eps=0.1)),
        (nt.instance_norm(x, **named, eps=0.1), normlib.instance_norm(x, **named, eps=0.1)),
    ]:
        assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_and_arrays_share_their_memory(dtype):
    t = torch.rand(3, 4).to(dtype)
    a = array("layer_norm", "x", t)
    assert a.ctypes.data == t.data_ptr()
    back = tensor(a, dtype)
    assert back.data_ptr() == t.data_ptr()
    assert back.dtype is dtype
    assert torch.equal(back, t)


def layouts():
    """Tensors in the orders of axes, gaps and repetitions that torch's own operators tell apart."""
    last, last_3d = torch.channels_last, torch.channels_last_3d
    yield torch.randn(3, C)
    yield torch.randn(C, 3).mT
    yield torch.randn(1, C).expand(3, C)
    yield torch.randn(3, C, 6)
    yield torch.randn(3, 6, C).transpose(1, 2)
    yield torch.randn(C, 3, 6).transpose(0, 1)
    yield torch.randn(3, C, 12)[..., ::2]
    yield torch.randn(3, 6, 1).transpose(1, 2)  # one channel
    for x in (torch.randn(3, C, 5, 6), torch.randn(1, C, 5, 6), torch.randn(3, C, 1, 6), torch.randn(3, 1, 5, 6)):
        yield x
        yield x.to(memory_format=last)
    yield torch.randn(3, C, 6, 5).mT
    yield torch.randn(3, 6, 5, C).permute(0, 3, 2, 1)
    yield torch.randn(3, 2 * C, 5, 6)[:, :C]
    yield torch.randn(3, 2 * C, 5, 6).to(memory_format=last)[:, ::2]
    yield torch.randn(3, C, 1, 1).expand(3, C, 5, 6)
    yield torch.randn(1, C, 5, 6).as_strided((1, C, 5, 6), (7, 30, 6, 1))
    yield torch.randn(2, C, 3, 5, 6)
    yield torch.randn(2, C, 3, 5, 6).to(memory_format=last_3d)
    yield torch.randn(2, 2 * C, 3, 5, 6).to(memory_format=last_3d)[:, :C]


def norms_for(x):
    """A module of each norm, with statistics of the input and with given ones."""
    channels, dimensions = x.shape[1], max(x.ndim - 2, 1)
    yield nn.LayerNorm(x.shape[-1])
    yield nn.RMSNorm(x.shape[-1])
    yield LlamaRMSNorm(x.shape[-1])
    yield nn.GroupNorm(channels // 2 or 1, channels)
    for training in (True, False):
        yield getattr(nn, f"BatchNorm{dimensions}d")(channels).train(training)
        if x.ndim > 2:
            norm = getattr(nn, f"InstanceNorm{dimensions}d")
            yield norm(channels, affine=True, track_running_stats=True).train(training)


def strides(t):
    """Of the axes of several elements: those of others lead nowhere."""
    return [stride for n, stride in zip(t.shape, t.stride(), strict=True) if n > 1]


def test_results_have_the_strides_that_torch_gives_them():
    for x in layouts():
        for norm in norms_for(x):
            reference, module = pair(norm)
            x1, x2 = (x.detach().requires_grad_() for _ in range(2))
            expected, y = reference(x1), module(x2)
            case = f"{norm} on {tuple(x.shape)} with strides {x.stride()}"
            assert strides(y) == strides(expected), case
            with torch.no_grad():
                assert strides(module(x)) == strides(expected), case
            close(y, expected)
            dy = torch.randn(y.shape)
            upstream = [torch.empty_like(expected).copy_(dy)]
            if not isinstance(norm, LlamaRMSNorm):  # whose dx goes by that of dy
                upstream += [dy, torch.ones(()).expand(y.shape)]
            # Of InstanceNorm, torch (2.13) gives a wrong dx for a dy that is channels-last
            if y.ndim == 4 and not isinstance(norm, (nn.InstanceNorm2d, LlamaRMSNorm)):
                upstream.append(dy.to(memory_format=torch.channels_last))
            for dy in upstream:
                (wanted,) = torch.autograd.grad(expected, x1, dy, retain_graph=True)
                (dx,) = torch.autograd.grad(y, x2, dy, retain_graph=True)
                assert strides(dx) == strides(wanted), f"{case}, dy with strides {dy.stride()}"
                torch.testing.assert_close(dx, wanted, rtol=1e-3, atol=1e-3)


def test_results_are_viewed_as_those_of_torch():
    x = torch.randn(2, 8, 6).transpose(1, 2)
    assert nt.accelerate(nn.LayerNorm(8))(x).view(-1, 8).shape == (12, 8)
    one = torch.randn(1, C, 5, 6).as_strided((1, C, 5, 6), (7, 1, 24, C))
    reference, module = pair(nn.GroupNorm(2, C))
    assert module(one).stride() == reference(one).stride()
    module(one).relu_().sum().backward()  # in place, so that it may not be a view


def test_instance_norm_takes_a_channels_last_gradient():
    x = torch.randn(1, C, 5, 6, requires_grad=True)
    y, dy = nt.accelerate(nn.InstanceNorm2d(C))(x), torch.randn(1, C, 5, 6)
    found, expected = (
        torch.autograd.grad(y, x, t, retain_graph=True)[0] for t in (dy.to(memory_format=torch.channels_last), dy)
    )
    assert torch.equal(found, expected)


def test_traces_expect_the_strides_that_come():
    functions = [
        nt.layer_norm,
        nt.rms_norm,
        lambda x: nt.batch_norm(x, training=True),
        lambda x: nt.group_norm(x, 1),
        lambda x: nt.instance_norm(x) if x.ndim > 2 else x,
    ]
    for x in layouts():
        with torch._subclasses.FakeTensorMode() as mode:
            fake = mode.from_tensor(x)
            expected = [strides(f(fake)) for f in functions]
        assert [strides(f(x)) for f in functions] == expected, f"{tuple(x.shape)} with strides {x.stride()}"


def test_a_tensor_changed_before_backward_is_an_error():
    x = torch.rand(3, 4, requires_grad=True)
    between = x * 2
    y = nt.layer_norm(between)
    between.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_recomputed_under_checkpoint():
    x = torch.rand(3, 4, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(nt.layer_norm, x, use_reentrant=False)
    (found,) = torch.autograd.grad(y.sin().sum(), x)
    (expected,) = torch.autograd.grad(nt.layer_norm(x).sin().sum(), x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("module", ["", ".functional", ".models"])
def test_doctests(module):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(importlib.import_module(f"normlib.interop.torch{module}"), optionflags=flags)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize(("dtype", "result"), [("uint8", "float32"), ("bool", "float32"), ("int64", "float64")])
def test_integers_and_parameters_of_another_dtype(dtype, result):
    x = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype))
    weight = torch.linspace(1, 2, 4, dtype=torch.float64, requires_grad=True)
    expected = normlib.layer_norm(x.numpy(), weight.detach().numpy())
    recorded = torch.ops.normlib.layer_norm(x.to(getattr(torch, result)), weight, None, [-1], 1e-5)[0]
    traced = torch.jit.trace(nt.layer_norm, (x, weight), check_trace=False)(x, weight)
    for y in (nt.layer_norm(x, weight), recorded, traced):
        assert y.dtype is getattr(torch, result)
        assert np.array_equal(y.detach().numpy(), expected)
        (gradient,) = torch.autograd.grad(y.sin().sum(), weight)
        assert gradient.dtype is torch.float64


# ---- errors ----


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: nt.layer_norm(x.to("meta")), ValueError, "layer_norm: x is on device meta, expected cpu"),
        (
            lambda x: nt.batch_norm(x, weight=torch.ones(4, device="meta")),
            ValueError,
            "batch_norm: weight is on device meta, expected cpu",
        ),
        (lambda x: nt.rms_norm(x.to_sparse()), TypeError, "rms_norm: x has layout torch.sparse_coo, expected a dense"),
        (lambda x: nt.layer_norm(x.to(torch.complex64)), TypeError, "layer_norm: x has dtype complex64, expected"),
        (lambda x: nt.batch_norm(x, x[0], x[1]), TypeError, r"2 arguments .* batch_norm\(x, running_mean=\.\.\., run"),
        (lambda x: nt.instance_norm(x, x[0]), TypeError, "instance_norm: 1 argument after x came without a name"),
        (lambda x: nt.layer_norm(x.to(torch.float8_e4m3fn)), TypeError, "layer_norm: x has dtype float8_e4m3fn"),
        (lambda x: nt.layer_norm(x.numpy()), TypeError, "layer_norm: x is a ndarray, expected a torch.Tensor"),
        (lambda x: nt.group_norm(x, 3), ValueError, "group_norm: num_groups is 3, expected a divisor"),
        (lambda x: nt.layer_norm(x, x[0, :2]), ValueError, r"layer_norm: weight has shape \(2,\), expected \(4,\)"),
        (lambda x: nt.accelerate(x), TypeError, "accelerate: model is a Tensor, expected a torch.nn.Module"),
        (lambda x: nt.restore(None), TypeError, "restore: model is a NoneType, expected a torch.nn.Module"),
        (
            lambda x: nt.accelerate(torch.jit.trace(nn.LayerNorm(4), x)),
            TypeError,
            "accelerate: model is a .*, whose code is fixed",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_errors_say_what_came(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.rand(3, 4))


def test_a_lazily_negated_tensor_is_taken():
    z = torch.view_as_complex(torch.rand(3, 4, 2)).conj().imag
    assert z.is_neg()
    assert torch.equal(nt.layer_norm(z), nt.layer_norm(z.clone()))


# ---- modules ----

MODULES = {
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, C, 5, 6)),
    "LayerNorm of two axes, no bias": (lambda: nn.LayerNorm((5, 6), bias=False), (2, C, 5, 6)),
    "LayerNorm without parameters": (lambda: nn.LayerNorm(6, elementwise_affine=False), (2, 6)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (2, C, 6)),
    "RMSNorm with eps": (lambda: nn.RMSNorm((5, 6), eps=0.1, elementwise_affine=False), (2, 5, 6)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(C), (5, C)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(C), (2, C, 5, 6)),
    "BatchNorm3d, cumulative": (lambda: nn.BatchNorm3d(C, momentum=None), (2, C, 2, 3, 4)),
    "BatchNorm2d, not tracked": (lambda: nn.BatchNorm2d(C, affine=False, track_running_stats=False), (2, C, 5, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, C), (2, C, 5, 6)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(C), (2, C, 5)),
    "InstanceNorm2d, one sample": (lambda: nn.InstanceNorm2d(C, affine=True), (C, 5, 6)),
    "InstanceNorm3d, tracked": (lambda: nn.InstanceNorm3d(C, track_running_stats=True), (2, C, 2, 3, 4)),
    "LlamaRMSNorm": (lambda: LlamaRMSNorm(6), (2, 3, 6)),
    "GemmaRMSNorm": (lambda: GemmaRMSNorm(6), (2, 3, 6)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_modules_do_what_those_of_torch_do(backend, name, dtype):
    make, shape = MODULES[name]
    reference, module = pair(make())
    assert type(module) is not type(reference)
    for training in (True, True, False):
        reference.double().train(training)
        module.to(dtype).train(training)
        if dtype is torch.bfloat16:
            reference.load_state_dict(module.state_dict())
        x = torch.randn(shape).to(dtype).requires_grad_()
        wide = x.detach().double().requires_grad_()
        y, expected = module(x), reference(wide)
        dy = torch.randn(shape).to(dtype)
        found = torch.autograd.grad(y, [x, *module.parameters()], dy)
        gradients = torch.autograd.grad(expected, [wide, *reference.parameters()], dy.double())
        assert y.dtype is dtype
        # LlamaRMSNorm computes in float32, whatever x has
        ulps = 1e9 if name == "LlamaRMSNorm" and dtype is torch.float64 else 2 if dtype is torch.bfloat16 else 200
        for a, e in zip((y, *found), (expected, *gradients), strict=True):
            close(a, e.to(dtype), ulps=ulps * 4)
        for (key, a), e in zip(module.named_buffers(), reference.buffers(), strict=True):
            if key == "num_batches_tracked":
                assert torch.equal(a, e)
            else:
                close(a, e.to(a.dtype), ulps=8)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning", "error::torch.jit.TracerWarning")
def test_a_trace_without_gradients_does_not_depend_on_the_size():
    reference, module = pair(nn.BatchNorm2d(C).eval())
    with torch.no_grad():
        traced = torch.jit.trace(module, torch.randn(1, C, 8, 8))
        x = torch.randn(2, C, 9, 9)
        assert torch.equal(traced(x), reference(x))


def test_drop_in_modules_are_those_of_torch():
    arguments = {"LayerNorm": (6,), "RMSNorm": (6,), "GroupNorm": (2, C)}
    for name in [name for name in nt.__all__ if name[0].isupper()]:
        module = getattr(nt, name)(*arguments.get(name, (C,)))
        plain = getattr(nn, name)(*arguments.get(name, (C,)))
        assert isinstance(module, type(plain))
        plain.load_state_dict(module.state_dict())
        dimensions = int(name[-2]) if name.endswith("d") else 1
        x = torch.randn(2, C, *[6] * dimensions)
        close(module(x), plain(x))
        assert "NormlibBackward" in module(x.requires_grad_()).grad_fn.name() or not list(module.parameters())


def test_accelerate_changes_the_class_and_nothing_else():
    model = randomized(nn.Sequential(FiveNorms(), nn.Linear(6, 6), LlamaRMSNorm(6)))
    calls = []
    model[0].batch.register_forward_hook(lambda module, args, y: calls.append(type(module)))
    model[0].group.eval()
    before = copy.deepcopy(model)
    classes = [type(m) for m in model.modules()]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    x = torch.randn(2, C, 5, 6)

    assert nt.accelerate(model) is model
    assert nt.accelerate(model) is model  # a second time does nothing
    close(model(x), before(x))
    assert len(calls) == 2  # the copy has the hook too
    assert str(model).count("normlib") == 6
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert list(after) == list(tensors)
    assert all(after[name] is tensors[name] for name in tensors)
    assert list(model.state_dict()) == list(before.state_dict())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(isinstance(m, cls) for m, cls in zip(model.modules(), classes, strict=True))
    assert str(copy.deepcopy(model)).count("normlib") == 6
    loaded = pickle.loads(pickle.dumps(model[2]))
    assert type(loaded) is type(model[2])
    assert torch.equal(loaded(x), model[2](x))

    assert nt.restore(model) is model
    assert all(map(operator.is_, map(type, model.modules()), classes))
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in before.modules()]


def test_what_is_not_a_norm_that_it_knows_is_left_alone():
    class Own(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x) + 1

    class Named(nn.LayerNorm):
        pass

    model = nn.Sequential(Own(4), SquareRMSNorm(4), Named(4))
    classes = [type(m) for m in model]
    with pytest.warns(UserWarning, match=r"^accelerate: 2 of 3 norms are left alone \(1 Own: "):
        nt.accelerate(model)
    assert all(map(operator.is_, map(type, model), classes[:2]))
    assert "normlib" in str(model[2])
    assert [(n.name, n.kind, n.accelerated) for n in nt.report(model)] == [
        ("0", "Own", False), ("1", "SquareRMSNorm", False), ("2", "Named", True),
    ]  # fmt: skip
    lines = str(nt.report(model)).splitlines()
    assert lines[0] == "module  class"
    assert lines[2] == "1       SquareRMSNorm  it computes something else than weight * x / sqrt(mean(x^2) + eps)"
    assert lines[3] == "2       Named          accelerated"


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_left_alone_nothing_is_said():
    nt.accelerate(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), LlamaRMSNorm(4)))


def test_a_report_before_anything_is_accelerated():
    assert [n.why for n in nt.report(nn.Sequential(nn.LayerNorm(4), nn.ReLU()))] == ["not accelerated yet"]


def test_a_drop_in_module_stays_one_through_restore():
    model = nt.restore(nn.Sequential(nt.LayerNorm(4)))
    assert type(model[0]) is nt.LayerNorm


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_accelerated_modules_fall_back_to_their_own_forward():
    reference, module = pair(nn.LayerNorm(4))
    x = torch.randn(3, 4)
    expected = reference(x)
    assert copy.deepcopy(module).to("meta")(x.to("meta")).shape == (3, 4)
    assert torch.equal(torch.vmap(module)(x), torch.vmap(reference)(x))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert torch.autograd.forward_ad.unpack_dual(module(dual)).tangent is not None
    traced = torch.jit.trace(module, x)
    assert "aten::layer_norm" in str(traced.inlined_graph)
    close(traced(x), expected)
    with pytest.raises(RuntimeError, match="Given normalized_shape"):
        nt.accelerate(nn.LayerNorm(4, elementwise_affine=False))(torch.randn(3, 5))
    assert nt.accelerate(nn.RMSNorm(4).bfloat16())(x).dtype is torch.float32
    llama = nt.accelerate(LlamaRMSNorm(4))
    assert llama(x.bfloat16()).dtype is torch.float32  # as without


def test_a_training_step_has_the_same_loss_curve():
    def curve(model):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(12):
            x = torch.randn(4, C, 5, 6)
            loss = (model(x) - x.sin().mean(-1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    model = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), FiveNorms(), nn.ReLU(), nn.Linear(6, 1))
    losses, found = (curve(m) for m in pair(model))
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(found, losses, rtol=1e-4)


# ---- compile and export ----


class Functions(FiveNorms):
    """The norms of FiveNorms by normlib's functions."""

    def forward(self, x):
        moving = self.batch, self.instance
        batch, instance = ({"running_mean": m.running_mean, "running_var": m.running_var} for m in moving)
        x = nt.batch_norm(x, weight=self.batch.weight, bias=self.batch.bias, training=self.training, **batch)
        x = nt.group_norm(x, 2, self.group.weight, self.group.bias)
        x = nt.instance_norm(x, use_input_stats=self.training, **instance)
        return nt.rms_norm(nt.layer_norm(x, self.layer.weight, self.layer.bias), self.rms.weight)


@pytest.mark.parametrize("training", [True, False])
def test_compiled_functions_give_the_same_bits(training):
    eager = randomized(Functions()).train(training)
    model = copy.deepcopy(eager)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, C, 5, 6)
    y, expected = compiled(x), eager(x)
    assert torch.equal(y, expected)
    for t in (y, expected):
        t.sin().sum().backward()
    for found, wanted in zip(model.parameters(), eager.parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None)
        assert found.grad is None or torch.equal(found.grad, wanted.grad)
    for found, wanted in zip(model.buffers(), eager.buffers(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_model_is_that_of_torch(training):
    """Its compiler makes one loop of a norm and what stands around it."""
    reference, model = pair(randomized(FiveNorms()).train(training))
    x = torch.randn(2, C, 5, 6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), reference(x))
    assert nt.report(model)[0].accelerated
    assert not torch.equal(model(x), reference(x))


def test_whoever_intercepts_operators_sees_them():
    x = torch.randn(2, 4)
    traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: nt.rms_norm(x))(x)
    assert "normlib.rms_norm" in traced.code
    assert torch.equal(traced(x), nt.rms_norm(x))
    with torch._subclasses.FakeTensorMode():
        assert nt.layer_norm(torch.randn(2, 4)).shape == (2, 4)
    split = torch.fx.symbolic_trace(nt.accelerate(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))))
    assert [node.op for node in split.graph.nodes].count("call_module") == 2


def test_weights_from_elsewhere():
    model = nt.accelerate(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    x = torch.randn(3, 4)
    weights = dict(model.named_parameters())
    found = torch.func.grad(lambda weights: torch.func.functional_call(model, weights, (x,)).sin().sum())(weights)
    model(x).sin().sum().backward()
    for name, weight in weights.items():
        close(found[name], weight.grad)


def test_export_holds_the_operators():
    model, x = randomized(Functions()).eval(), torch.randn(2, C, 5, 6)
    program = torch.export.export(model, (x,))
    called = {str(node.target) for node in program.graph.nodes}
    assert {f"normlib.{name}.default" for name in normlib.ops.OPS} <= called
    assert torch.equal(program.module()(x), model(x))


def test_an_exported_model_is_that_of_torch():
    """It runs where there is no normlib."""
    reference, model = pair(randomized(FiveNorms()).eval())
    x = torch.randn(2, C, 5, 6)
    program = torch.export.export(model, (x,))
    assert not any("normlib" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(x), reference(x))
