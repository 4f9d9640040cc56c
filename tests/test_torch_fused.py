"""normlib.interop.torch: what stands around a norm, in the functions and operators."""

import inspect

import numpy as np
import pytest

import normlib

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.description import ACTIVATIONS, FUNCTIONS, OPS  # noqa: E402

C = 4
NORMS = {
    "layer_norm": lambda x, w, b, **fused: nt.layer_norm(x, w, b, axis=1, **fused),
    "rms_norm": lambda x, w, b, **fused: nt.rms_norm(x, w, axis=-2, **fused),
    "batch_norm": lambda x, w, b, **fused: nt.batch_norm(x, weight=w, bias=b, training=True, **fused),
    "group_norm": lambda x, w, b, **fused: nt.group_norm(x, 2, w, b, **fused),
    "instance_norm": lambda x, w, b, **fused: nt.instance_norm(x, weight=w, bias=b, **fused),
}
TORCH = {
    "relu": F.relu,
    "leaky_relu": lambda h: F.leaky_relu(h, 0.2),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "sigmoid": torch.sigmoid,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def problem(dtype=torch.float64):
    """x, weight and bias, then residual, add and gate, which require gradients."""
    shapes = [(2, C, 3), (C,), (C,), *[(2, C, 3)] * 3]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def combinations():
    """Names of tensors that are given, and options."""
    for activation in ACTIVATIONS:
        yield ("add",), {"activation": activation, **({"negative_slope": 0.2} if activation == "leaky_relu" else {})}
    yield ("residual",), {}
    yield ("add",), {}
    yield ("gate",), {}
    yield ("gate",), {"gate_first": True}
    yield ("residual", "add", "gate"), {"activation": "silu", "gate_first": True, "gate_activation": "sigmoid"}
    yield ("residual", "add", "gate"), {"activation": "gelu", "gate_activation": "sigmoid"}


def called(norm, given, options):
    """A function of all tensors of a problem, of which those that are not given do not matter."""

    def function(x, w, b, residual, add, gate):
        named = {"residual": residual, "add": add, "gate": gate}
        return NORMS[norm](x, w, b, **{key: named[key] for key in given}, **options)

    return function


def apart(norm, given, options):
    """The same in separate steps."""

    def function(x, w, b, residual, add, gate):
        total = x + residual if "residual" in given else x
        opened = TORCH[options.get("gate_activation", "silu")](gate) if "gate" in given else None
        first = options.get("gate_first")
        y = NORMS[norm](total * opened if first else total, w, b)
        y = y + add if "add" in given else y
        y = TORCH[options["activation"]](y) if "activation" in options else y
        y = y * opened if "gate" in given and not first else y
        return (y, total) if "residual" in given else y

    return function


def tuples(result):
    return result if isinstance(result, tuple) else (result,)


def gradients(result, tensors):
    """Those of a sum in which each result and each element of it has its own part."""
    total = sum((t * torch.linspace(1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sin().sum() for t in tuples(result))
    return torch.autograd.grad(total, tensors, allow_unused=True)


def same(found, expected, ulps=500):
    for a, e in zip(found, expected, strict=True):
        if e is None:
            assert a is None
        else:
            eps = torch.finfo(e.dtype).eps
            torch.testing.assert_close(a, e, rtol=ulps * eps, atol=ulps * eps)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_values_and_gradients_are_those_of_the_separate_steps(backend, norm, dtype):
    for given, options in combinations():
        tensors = problem(dtype)
        y = called(norm, given, options)(*tensors)
        wide = [t.detach().double().requires_grad_() for t in tensors]
        expected = apart(norm, given, options)(*wide)
        unused = [None if t is None else t.to(dtype) for t in gradients(expected, wide)]
        ulps = 500 if dtype is not torch.bfloat16 else 30
        same(tuples(y), [t.to(dtype) for t in tuples(expected)], ulps)
        same(gradients(y, tensors), unused, ulps)


@pytest.mark.parametrize("norm", NORMS)
def test_first_and_second_derivatives(norm):
    tensors = problem()
    for given, options in combinations():
        function = called(norm, given, options)
        if options.get("activation") not in ("relu", "leaky_relu"):  # which have none at 0
            assert gradcheck(function, tensors)
            assert gradgradcheck(function, tensors)
    assert gradcheck(function, tensors, check_batched_grad=norm == "layer_norm")


@pytest.mark.parametrize("norm", NORMS)
def test_derivatives_of_given_statistics(norm):
    if OPS[norm].mode is None:
        return
    w, b, x = torch.randn(C).double(), torch.randn(C).double(), torch.randn(2, C, 3).double()
    running = {"running_mean": torch.randn(C).double(), "running_var": torch.rand(C).double() + 0.5}
    options = {**running, "weight": w, "bias": b, OPS[norm].mode: False, "activation": "silu"}

    def function(x):
        return getattr(nt, norm)(x, **options)

    assert gradcheck(function, x.requires_grad_())
    assert gradgradcheck(function, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("norm", NORMS)
def test_under_the_transforms_of_torch_func(norm):
    tensors = [t.detach() for t in problem()]
    for given, options in combinations():
        function = called(norm, given, options)

        def loss(*tensors, function=function):
            return sum(t.sin().sum() for t in tuples(function(*tensors)))

        leaves = [t.clone().requires_grad_() for t in tensors]
        expected = torch.autograd.grad(loss(*leaves), leaves, allow_unused=True)
        expected = [torch.zeros_like(t) if g is None else g for g, t in zip(expected, tensors, strict=True)]
        same(torch.func.grad(loss, argnums=tuple(range(6)))(*tensors), expected, 1e5)
        batch = torch.stack([tensors[0], tensors[0] + 1])
        found = torch.vmap(lambda x, function=function: function(x, *tensors[1:]))(batch)
        alone = [tuples(function(x, *tensors[1:])) for x in batch]
        same(tuples(found), [torch.stack(pair) for pair in zip(*alone, strict=True)], 1e4)


@pytest.mark.parametrize("norm", NORMS)
def test_opcheck(norm):
    operator = getattr(torch.ops.normlib, norm)
    options = {"num_groups": 2, "axis": [1], "channel_axis": 1, "eps": 1e-5, "momentum": 0.1, "training": True,
               "use_input_stats": True}  # fmt: skip
    for given, fused in combinations():
        x, w, b, *rest = problem(torch.float32)
        tensors = {"x": x, "weight": w, "bias": b, "running_mean": torch.zeros(C), "running_var": torch.ones(C)}
        named = dict(zip(("residual", "add", "gate"), rest, strict=True))
        function = FUNCTIONS[norm]
        arguments = [tensors.get(a.name, options.get(a.name)) for a in (*function.roles, *function.options) if a.torch]
        torch.library.opcheck(operator.default, arguments, fused | {key: named[key] for key in given})


@pytest.mark.parametrize("norm", NORMS)
def test_opcheck_of_the_backward_operator(norm):
    function = FUNCTIONS[f"{norm}_backward"]
    op = OPS[norm]
    options = {"num_groups": 2, "axis": [1], "channel_axis": 1, "training": True, "use_input_stats": True,
               "weight_grads": True}  # fmt: skip
    x, w, b, dy, add, gate = (t.detach() for t in problem(torch.float32))
    statistic = torch.rand(op.statistics_shape(x.shape, 1, 2 if op.has_groups else None)).double() + 0.5
    values = {"dy": dy, "x": x, "weight": w, "mean": statistic, "rstd": statistic, **options}
    arguments = [values[a.name] for a in (*function.roles, *function.options) if a.torch]
    operator = getattr(torch.ops.normlib, function.name).default
    for fused in (
        {"dsum": add},
        {"add": add, "activation": "silu"},
        {"gate": gate, "gate_first": True},
        {"dsum": dy, "add": add, "gate": gate, "activation": "leaky_relu", "negative_slope": 0.3},
    ):
        if "bias" in op.parameters and "activation" in fused:
            fused["bias"] = b
        tests = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
        torch.library.opcheck(operator, arguments, fused, test_utils=tests)


@pytest.mark.parametrize("norm", NORMS)
def test_compile_and_export_hold_one_operator_and_give_the_same_bits(norm):
    given, options = ("residual", "add", "gate"), {"activation": "silu"}
    function = called(norm, given, options)
    tensors = problem(torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*tensors), function(*tensors), strict=True):
        assert torch.equal(found, expected)
    found, expected = (gradients(f(*tensors), tensors) for f in (compiled, function))
    assert all(torch.equal(a, e) for a, e in zip(found, expected, strict=True) if e is not None)

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    program = torch.export.export(Module(), tuple(t.detach() for t in tensors))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(f"normlib.{norm}.default") == 1
    assert not any("silu" in target or "add" in target for target in targets)


def test_traces_expect_the_strides_that_come():
    x = torch.randn(2, C, 5, 6).to(memory_format=torch.channels_last)
    for norm in ("batch_norm", "instance_norm"):
        operator = getattr(torch.ops.normlib, norm)
        fused = {"residual": torch.randn(2, C, 5, 6), "add": x, "activation": "silu"}
        results = operator(x, None, None, None, None, True, 0.1, 1e-5, 1, **fused)
        with torch._subclasses.FakeTensorMode() as mode:
            fused = {key: mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for key, t in fused.items()}
            fakes = operator(mode.from_tensor(x), None, None, None, None, True, 0.1, 1e-5, 1, **fused)
        assert [t.stride() for t in results] == [t.stride() for t in fakes]


def test_only_the_gradient_of_the_sum():
    x, w, b, residual, *_ = problem()
    _, total = nt.layer_norm(x, w, b, axis=1, residual=residual)
    assert torch.equal(total, x + residual)
    dx, dw, dresidual = torch.autograd.grad((total**2).sum(), (x, w, residual), allow_unused=True)
    assert torch.equal(dx, 2 * total)
    assert torch.equal(dresidual, dx)
    assert dw is None


def test_a_mask():
    x, w, b, *_ = problem()
    where = torch.tensor([True, False, True, True]).view(1, C, 1)
    y = nt.layer_norm(x, w, b, axis=1, where=where, activation="silu")
    expected = normlib.layer_norm(
        x.detach().numpy(), w.detach().numpy(), b.detach().numpy(), axis=1, where=where.numpy(), activation="silu"
    )
    assert np.array_equal(y.detach().numpy(), expected)
    assert gradcheck(lambda *t: nt.layer_norm(*t, axis=1, where=where, activation="silu"), (x, w, b))
    with pytest.raises(NotImplementedError, match="layer_norm: where is given, which is not there under transforms"):
        torch.vmap(lambda x: nt.layer_norm(x, axis=1, where=where))(x.detach()[None])


def test_a_result_of_another_dtype():
    x, w, b, residual, *_ = (t.detach().requires_grad_() for t in problem(torch.bfloat16))
    for dtype in ("float32", torch.float32):
        y, total = nt.layer_norm(x, w, b, axis=1, residual=residual, out_dtype=dtype, activation="silu")
        assert y.dtype is torch.float32
        assert total.dtype is torch.bfloat16
        expected = F.silu(nt.layer_norm(total.detach().float(), w.float(), b.float(), axis=1))
        same([y], [expected])
        assert [g.dtype for g in gradients((y, total), (x, w, residual))] == [torch.bfloat16] * 3
    y = nt.rms_norm(x.float(), out_dtype="bfloat16")
    assert torch.equal(y, nt.rms_norm(x.float()).bfloat16())
    assert torch.vmap(lambda x: nt.rms_norm(x, out_dtype="float64"))(x).dtype is torch.float64
    torch.library.opcheck(torch.ops.normlib.rms_norm.default, (x, w, [1], 1e-5), {"out_dtype": "float32"})


def test_the_reference_code_of_llama_rounds_first():
    x, w, *_ = problem(torch.bfloat16)
    y = nt.rms_norm(x, w, axis=1, round_first=True)
    expected = w[:, None] * nt.rms_norm(x, axis=1)
    assert torch.equal(y, expected)
    same(gradients(y, (x, w)), gradients(expected, (x, w)), 30)


LEADING = {  # calls whose weight has leading axes, beside a bias that has some or none
    "layer_norm": (lambda x, w, b, **f: nt.layer_norm(x, w, b, axis=2, **f), (2, 1, 3), (3,)),
    "rms_norm": (lambda x, w, b, **f: nt.rms_norm(x, w, axis=1, **f), (1, 3, C), (C,)),
    "batch_norm": (lambda x, w, b, **f: nt.batch_norm(x, weight=w, bias=b, training=True, **f), (2, C), (2, C)),
    "group_norm": (lambda x, w, b, **f: nt.group_norm(x, 2, w, b, **f), (2, C), (1, C)),
    "instance_norm": (
        lambda x, w, b, **f: nt.instance_norm(x, weight=w, bias=b, channel_axis=0, **f), (C, 2), (2,),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:.*its axis 1 is taken")
@pytest.mark.parametrize("norm", LEADING)
def test_parameters_a_sample(norm):
    function, *shapes = LEADING[norm]
    x, w, b = (torch.randn(s).double().requires_grad_() for s in ((2, C, 3), *shapes))
    for fused in ({}, {"activation": "silu"}):
        assert gradcheck(lambda *t, fused=fused: function(*t, **fused), (x, w, b))
        assert gradgradcheck(lambda *t, fused=fused: function(*t, **fused), (x, w, b))
        mapped = torch.vmap(lambda x, fused=fused: function(x, w, b, **fused))(x[None])
        same([mapped[0]], [function(x, w, b, **fused)])
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found, expected = (gradients(f(x, w, b), (x, w, b)) for f in (compiled, function))
    assert all(torch.equal(a, e) for a, e in zip(found, expected, strict=True) if e is not None)


def test_signatures_and_schemas_name_all_that_has_a_type_in_torch():
    for name, function in FUNCTIONS.items():
        named = [a.name for a in function.fused.values() if a.torch]
        schema = getattr(torch.ops.normlib, name).default._schema
        assert [a.name for a in schema.arguments][-len(named) :] == named
        if not function.backward:
            assert list(inspect.signature(getattr(nt, name)).parameters)[-len(named) :] == named
            assert all(f"    {key} : " in getattr(nt, name).__doc__ for key in named)
    without = {a.name for f in FUNCTIONS.values() for a in f.fused.values() if not a.torch}
    assert without == {"residual_out", "quantize", "scale"}


def test_errors_say_what_came():
    x = torch.rand(3, 4)
    for fused, error, words in [
        ({"activation": "tanh"}, ValueError, "layer_norm: activation is 'tanh', expected"),
        ({"add": x[0]}, ValueError, r"layer_norm: add has shape \(4,\), expected \(3, 4\)"),
        ({"add": x.to("meta")}, ValueError, "layer_norm: add is on device meta, expected cpu"),
        ({"residual": x.double()}, TypeError, "layer_norm: residual has dtype float64, expected float32"),
        ({"residual": x, "residual_out": x}, TypeError, "layer_norm: residual_out is given"),
        ({"bias2": x}, TypeError, "unexpected keyword argument 'bias2'"),
    ]:
        with pytest.raises(error, match=words):
            nt.layer_norm(x, **fused)
