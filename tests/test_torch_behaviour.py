"""A norm that normlib computes behaves as torch's own, in all that is done with modules.

An action with a module gives the same with torch's own as with what a `way` makes of it: dtypes, strides, what autograd
knows, and values to rounding.
"""

import contextlib
import copy
import functools
import inspect
import io
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from unittest import mock

import pytest
import support

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.interop.torch import _bridge  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@contextlib.contextmanager
def without_bridge():
    environment = mock.patch.dict(os.environ, NORMLIB_TORCH_BRIDGE="0")
    with environment, mock.patch.multiple(_bridge, compiled=None, reason=""):
        yield


# How normlib comes to compute: what is done with a module, and the context of all that is done with it then
WAYS = {"accelerate": (nt.accelerate, contextlib.nullcontext)}
if _bridge.load(build=True):
    WAYS["accelerate in Python"] = nt.accelerate, without_bridge
    WAYS["install"] = lambda module: module, nt.install
C = 8  # channels, and features
MODULES = {
    "LayerNorm": (lambda: nn.LayerNorm(C), (3, 6, C)),
    "LayerNorm of an image": (lambda: nn.LayerNorm((6, C), bias=False), (2, 5, 6, C)),
    "RMSNorm": (lambda: nn.RMSNorm(C), (3, 6, C)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(C), (6, C)),
    "BatchNorm1d of series": (lambda: nn.BatchNorm1d(C, momentum=None), (3, C, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(C), (3, C, 5, 6)),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(C, track_running_stats=False), (2, C, 3, 5, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, C), (3, C, 5, 6)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(C), (3, C, 6)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(C, affine=True), (3, C, 5, 6)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(C, affine=True, track_running_stats=True), (2, C, 3, 5, 6)),
}
LAYOUTS = {  # of what r draws, in a shape s
    "contiguous": lambda r, s: r(*s),
    "transposed": lambda r, s: r(*s[:-2], s[-1], s[-2]).mT,
    "channels last": lambda r, s: r(s[0], *s[2:], s[1]).movedim(-1, 1),
    "samples last": lambda r, s: r(*s[1:], s[0]).movedim(-1, 0),
    "every second": lambda r, s: r(*s[:-1], 2 * s[-1])[..., ::2],
    "half of the channels": lambda r, s: r(s[0], 2 * s[1], *s[2:])[:, : s[1]],
    "half of the channels, which are last": lambda r, s: r(s[0], *s[2:], 2 * s[1]).movedim(-1, 1)[:, : s[1]],
    "repeated": lambda r, s: (r(1, *s[1:]) if len(s) > 2 else r(s[0], 1)).expand(s),
    "overlapping": lambda r, s: r(500).as_strided(s, [1 + 2 * i for i in reversed(range(len(s)))]),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NARROW = [torch.bfloat16, torch.float16]
# Of the largest value. torch adds the gradients of 16-bit parameters up in 16 bits.
ULPS = {torch.float64: 4000, torch.float32: 4000, torch.float16: 16, torch.bfloat16: 16}

every_module = pytest.mark.parametrize("name", MODULES)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of what is small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The way without the bridge is that of test_interop_torch.py on NumPy; all cases of it are for the campaign.
@pytest.fixture(params=[pytest.param(w, marks=pytest.mark.long if "Python" in w else ()) for w in WAYS])
def way(request):
    return request.param


def made(name, dtype=torch.float32):
    """A module whose parameters and buffers are not 0 and 1."""
    torch.manual_seed(0)
    module = MODULES[name][0]()
    for t in (*module.parameters(), *module.buffers()):
        if t.is_floating_point():
            t.data.uniform_(0.5, 1.5)
    return module.to(dtype)


def given(name, layout="contiguous", dtype=torch.float32):
    torch.manual_seed(1)
    return LAYOUTS[layout](lambda *shape: torch.randn(shape).to(dtype), MODULES[name][1])


@contextlib.contextmanager
def computed(way, module):
    """A copy of the module that normlib computes."""
    change, context = WAYS[way]
    with context():
        yield change(copy.deepcopy(module))


def agree(way, module, action, precision=None):
    """The action gives the same with torch's own module as with what normlib computes, to rounding in the dtype of each
    result, or in that of `precision`."""
    expected = action(copy.deepcopy(module))
    with computed(way, module) as own:
        found = action(own)
    same(found, expected, precision)


def like(way, module, action, precision=None):
    """The same, or an exception of the same class."""
    try:
        action(copy.deepcopy(module))
    except Exception as error:
        refused = error
    else:
        agree(way, module, action, precision)
        return
    with computed(way, module) as own, pytest.raises(Exception) as caught:
        action(own)
    assert caught.type is type(refused), f"{caught.value!r}, where torch has {refused!r}"


def same(found, expected, precision=None, where=""):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        expected, found = (list(results.values()) for results in (expected, found))
    if isinstance(expected, (tuple, list)):
        assert len(found) == len(expected), where
        for i, pair in enumerate(zip(found, expected, strict=True)):
            same(*pair, precision, f"{where}[{i}]")
    elif isinstance(expected, torch.Tensor):
        assert facts(found) == facts(expected), where
        if expected.device.type != "meta":
            dtype = (precision or expected.dtype) if expected.is_floating_point() else expected.dtype
            near(found.detach().double(), expected.detach().double(), dtype, where)
    else:
        assert found == expected, where


def facts(t):
    """All that programs ask a tensor, but its values."""
    asked = ("dtype", "shape", "device", "layout", "requires_grad", "is_leaf")
    return {
        "type": type(t),
        "strides": strides(t),
        "inference": t.is_inference(),
        "recorded": t.grad_fn is not None,
        **{name: getattr(t, name) for name in asked},
    }


def strides(t):
    """Those that lead to other elements, or that torch judges memory formats by."""
    return [stride for n, stride in zip(t.shape, t.stride(), strict=True) if t.numel() and (n > 1 or t.ndim in (4, 5))]


def near(found, expected, dtype, where):
    assert torch.equal(found.isnan(), expected.isnan()), where
    if not dtype.is_floating_point:
        assert torch.equal(found, expected), where
    elif expected.numel():
        found, expected = found.nan_to_num(), expected.nan_to_num()
        largest = max(expected.abs().max().item(), 1e-2)
        error = (found - expected).abs().max().item() / largest
        assert error <= ULPS[dtype] * torch.finfo(dtype).eps, f"{where} differs by {error:.2g}"


def gradients(y, tensors):
    torch.manual_seed(2)
    dy = torch.randn(y.shape).to(y.device, y.dtype)
    return torch.autograd.grad(y, [t for t in tensors if t.requires_grad], dy)


def step(module, x, run=None):
    """What a step of training and one of evaluation leave behind."""
    left = []
    for training in (True, False):
        module.train(training)
        t = x.detach().requires_grad_()
        y = (module if run is None else run)(t)
        left += [y, *gradients(y, [t, *module.parameters()]), *(b.clone() for b in module.buffers())]
    return left


# ---- dtypes and strides ----


# Every layout in float32, and two of them in the others
FEW = "transposed", "channels last"
ARRAYS = [(dtype, layout) for dtype in DTYPES for layout in LAYOUTS if dtype is torch.float32 or layout in FEW]


@pytest.mark.share(2)
@pytest.mark.parametrize(("dtype", "layout"), ARRAYS, ids=str)
@every_module
def test_results_gradients_and_running_statistics(way, name, dtype, layout):
    agree(way, made(name, dtype), lambda module: step(module, given(name, layout, dtype)))


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "half of the channels, which are last"])
@every_module
def test_axes_of_one_element(way, name, layout):
    x, module = given(name, layout), made(name)
    rows = len(getattr(module, "normalized_shape", ()))
    free = [axis for axis in range(x.ndim - rows) if rows or axis != 1]
    for axes in [*((axis,) for axis in free), free[::2], free[:2], free[-2:]]:
        one = functools.reduce(lambda t, axis: t.narrow(axis, 0, 1), axes, x)
        like(way, module, lambda module, one=one: step(module, one))


@pytest.mark.parametrize("layout", ["contiguous", *FEW])
@every_module
def test_what_follows_may_view_a_result_and_change_it(way, name, layout):
    def action(module):
        x = given(name, layout).requires_grad_()
        y = module(x)
        return y.view(-1) if y.is_contiguous() else y.view(y.shape), *gradients(y.relu_(), [x])

    agree(way, made(name), action)


# Of InstanceNorm, torch (2.13) gives a wrong dx for a dy whose channels are last; its RMSNorm, which it computes by
# element, gives dx any order of axes that dy has
OTHERS = {"InstanceNorm": ("last",), "RMSNorm": ("last", "transposed")}
UPSTREAM = [
    (name, layout)
    for name in MODULES
    for layout in LAYOUTS
    if not any(word in layout for word in OTHERS.get(name.rstrip("123d"), ()))
]


@pytest.mark.share(2)
@pytest.mark.parametrize(("name", "layout"), UPSTREAM)
def test_gradients_that_come_in_another_order(way, name, layout):
    def action(module):
        x = given(name).requires_grad_()
        y = module(x)
        return torch.autograd.grad(y, [x, *module.parameters()], given(name, layout))

    agree(way, made(name), action)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@every_module
def test_16_bits_beside_float32_parameters(way, name, dtype):
    like(way, made(name), lambda module: step(module, given(name, dtype=dtype)), precision=dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@every_module
def test_float32_beside_parameters_of_16_bits(way, name, dtype):
    like(way, made(name, dtype), lambda module: step(module, given(name)), precision=dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@every_module
def test_autocast(way, name, dtype):
    def action(module, x):
        with torch.autocast("cpu", dtype):
            return step(module, x)

    for x in (given(name), given(name, dtype=dtype)):
        like(way, made(name), lambda module, x=x: action(module, x), precision=dtype)


# ---- what autograd knows ----


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@every_module
def test_without_gradients(way, name, layout, context):
    def action(module):
        with context():
            return module(given(name, layout)), module.eval()(given(name, layout))

    agree(way, made(name), action)


@every_module
def test_gradients_add_up(way, name):
    def action(module):
        x = given(name, "channels last").requires_grad_()
        for _ in range(2):
            module(x).sin().sum().backward()
        return x.grad, [p.grad for p in module.parameters()]

    agree(way, made(name), action)


@every_module
def test_gradients_of_some_tensors_alone(way, name):
    def action(module, x):
        y = module(x)
        return y, gradients(y, [x, *module.parameters()]) if y.requires_grad else ()

    module = made(name)
    agree(way, module, lambda module: action(module, given(name)))
    for p in list(module.parameters())[:1]:
        p.requires_grad_(False)
        agree(way, module, lambda module: action(module, given(name).requires_grad_()))
    agree(way, module.requires_grad_(False), lambda module: action(module, given(name)))
    agree(way, module, lambda module: action(module, given(name).requires_grad_()))


@every_module
def test_second_derivatives(way, name):
    def action(module):
        x = given(name, dtype=torch.float64).requires_grad_()
        y, wanted = module(x), [x, *module.parameters()]
        first = torch.autograd.grad(y.sin().sum(), wanted, create_graph=True)
        second = torch.autograd.grad(sum(t.cos().sum() for t in first), wanted)
        return [t.detach() for t in first], second

    agree(way, made(name, torch.float64), action)


@every_module
def test_what_autograd_refuses(way, name):
    def changed(module):
        x = given(name).requires_grad_()
        between = x * 1
        y = module(between)
        between.add_(1)
        y.sum().backward()

    def twice(module):
        y = module(given(name).requires_grad_())
        y.sum().backward()
        y.sum().backward()

    for action in (changed, twice):
        module = made(name)
        with pytest.raises(RuntimeError) as expected:
            action(copy.deepcopy(module))
        with computed(way, module) as own, pytest.raises(RuntimeError) as caught:
            action(own)
        assert str(caught.value)[:40] == str(expected.value)[:40]


@pytest.mark.parametrize("use_reentrant", [True, False])
@every_module
def test_checkpoints(way, name, use_reentrant):
    def action(module):
        x = given(name).requires_grad_()
        y = checkpoint(module, x, use_reentrant=use_reentrant)
        y.sin().sum().backward()
        return y, x.grad, [p.grad for p in module.parameters()], list(module.buffers())

    agree(way, made(name), action)


@every_module
def test_saved_tensors_may_be_stored_elsewhere(way, name):
    def action(module):
        with torch.autograd.graph.save_on_cpu():
            return step(module, given(name))

    agree(way, made(name), action)


# ---- hooks and parametrizations ----


@every_module
def test_hooks(way, name):
    def action(module):
        seen, of_parameters = [], {}
        module.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
        module.register_forward_hook(lambda module, given, y: seen.append(y.detach()) or y + 1)
        module.register_full_backward_pre_hook(lambda module, dy: (dy[0] * 3,))
        module.register_full_backward_hook(lambda module, dx, dy: seen.extend((*dx, *dy)))
        for key, p in module.named_parameters():
            p.register_hook(functools.partial(of_parameters.__setitem__, key))
        return step(module, given(name)), seen, dict(sorted(of_parameters.items()))

    agree(way, made(name), action)


class Exponential(nn.Module):
    def forward(self, x):
        return x.exp()


WITH_WEIGHTS = [name for name in MODULES if made(name).state_dict().keys() & {"weight"}]


def parametrized(name):
    """A module of a class of its own: torch makes one for each module and changes it when the parametrization goes."""
    module = made(name)
    parametrize.register_parametrization(module, "weight", Exponential())
    return module


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_parametrizations(way, name):
    def action(module):
        parametrize.register_parametrization(module, "weight", Exponential())
        left = step(module, given(name)), step(copy.deepcopy(module), given(name))
        parametrize.remove_parametrizations(module, "weight")
        return *left, step(module, given(name))

    agree(way, made(name), action)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_parametrizations_that_are_there_already(way, name):
    def action(module):
        left = step(module, given(name)), step(copy.deepcopy(module), given(name))
        parametrize.remove_parametrizations(module, "weight")
        return *left, step(module, given(name))

    expected = action(parametrized(name))
    change, context = WAYS[way]
    with context():
        same(action(change(parametrized(name))), expected)


@pytest.mark.parametrize("function", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weight_norm(way, name, function):
    agree(way, made(name), lambda module: step(function(module), given(name)))


# ---- the transforms of torch.func, and whoever intercepts operators ----


@every_module
def test_functional_calls_and_their_gradients(way, name):
    def action(module):
        x, weights = given(name), {key: 2 * p.detach() for key, p in module.named_parameters()}

        def loss(weights, x):
            return torch.func.functional_call(module, weights, (x,)).sin().sum()

        return torch.func.grad(loss, (0, 1))(weights, x), torch.func.jvp(module, (x,), (x.cos(),))

    agree(way, made(name).eval(), action)


@every_module
def test_vmap(way, name):
    x = torch.stack([given(name), given(name).cos()])
    agree(way, made(name).eval(), lambda module: torch.vmap(module)(x))
    agree(way, made(name).eval(), lambda module: torch.vmap(torch.func.grad(lambda x: module(x).sin().sum()))(x))


class Tagged(torch.Tensor):
    """A tensor of a class of its own."""


class Noting(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


@every_module
def test_tensors_of_other_classes_and_modes(way, name):
    agree(way, made(name), lambda module: module(given(name).as_subclass(Tagged)))
    agree(way, made(name), lambda module: module(nn.Parameter(given(name))))

    def noted(module):
        with Noting() as mode:
            y = module(given(name))
        assert mode.seen
        return y

    agree(way, made(name), noted)


@pytest.mark.parametrize("layout", FEW)
@every_module
def test_meta_tensors(way, name, layout):
    like(way, made(name).to("meta"), lambda module: step(module, given(name, layout).to("meta")))


@every_module
def test_fake_tensors(way, name):
    def action(module):
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            y = module(mode.from_tensor(given(name, "channels last")))
            return y.dtype, y.shape, y.stride()

    agree(way, made(name).eval(), action)


# ---- copies and files ----


def pickled(module):
    return pickle.loads(pickle.dumps(module))


def stored(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled, stored])
@every_module
def test_copies(way, name, copied):
    def action(module):
        other = copied(module)
        assert type(other) is type(module)
        assert repr(other) == repr(module)
        return step(other, given(name))

    agree(way, made(name), action)


@every_module
def test_states(way, name):
    other = made(name)
    for t in other.parameters():
        t.data.add_(1)

    def action(module):
        module.load_state_dict(other.state_dict(), strict=True)
        return [module.state_dict(), step(module, given(name))]

    agree(way, made(name), action)


# ---- tracing, compiling, exporting ----


@every_module
def test_traces(way, name):
    x = given(name)
    agree(way, made(name).eval(), lambda module: torch.jit.trace(module, x)(x.cos()))


@every_module
def test_scripts(way, name):
    agree(way, made(name), lambda module: step(torch.jit.script(module), given(name)))
    agree(way, made(name), lambda module: step(torch.jit.script(nn.Sequential(module)), given(name)))


@every_module
def test_exported_programs_hold_operators_of_torch(way, name):
    def action(module):
        program, file = torch.export.export(module, (given(name),)), io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file)
        targets = [str(node.target) for node in loaded.graph.nodes if node.op == "call_function"]
        return targets, loaded.module()(given(name).cos())

    agree(way, made(name).eval(), action)


@pytest.fixture(scope="module")
def worker():
    """Another process, spawned."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def compiled(way, name, backend):
    def action(module):
        torch._dynamo.reset()
        return step(module, given(name, "channels last"), torch.compile(module, fullgraph=True, backend=backend))

    like(way, made(name), action)


@pytest.mark.share(2)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@every_module
def test_compile(worker, way, name, compiler):
    worker.submit(compiled, way, name, compiler).result()


class OwnRMSNorm(nn.Module):
    """As models of language bring it along."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = 1e-6

    def forward(self, hidden_states):
        return self.weight * (hidden_states * torch.rsqrt(hidden_states.pow(2).mean(-1, keepdim=True) + self.eps))


def graphs_of_own_norms(way):
    """The same where a model brings its norms along, compiled and exported."""
    torch._dynamo.reset()
    x = given("RMSNorm")

    def compiled(module):
        return step(module, x, torch.compile(module, fullgraph=True, backend="aot_eager"))

    def exported(module):
        program = torch.export.export(module, (x,))
        return [str(node.target) for node in program.graph.nodes if node.op == "call_function"], program.module()(x)

    for action in (compiled, exported):
        agree(way, OwnRMSNorm(C), action)


def test_norms_that_models_bring_along(worker, way):
    worker.submit(graphs_of_own_norms, way).result()


def test_inductor(tmp_path):
    paths = [support.__file__.rpartition("/")[0], __file__.rpartition("/")[0]]
    code = f"import sys; sys.path[:0] = {paths}; import test_torch_behaviour as t"
    code += "; [t.compiled(way, 'LayerNorm', 'inductor') for way in t.WAYS]"
    support.python("-c", code, timeout=300, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))


def stepped(way, module, x):
    with WAYS[way][1]():
        return [t.detach() for t in step(module, x)]


def test_a_spawned_worker_takes_a_module(worker, way):
    for name in MODULES:
        with computed(way, made(name)) as module:
            found = worker.submit(stepped, way, module, given(name)).result()
        same(found, [t.detach() for t in step(made(name), given(name))])


# ---- errors ----


@every_module
def test_no_elements(way, name):
    for axis in range(len(MODULES[name][1])):
        x = given(name).narrow(axis, 0, 0)
        like(way, made(name), lambda module, x=x: step(module, x))


WRONG = {
    "two axes more": lambda x: x[:, :, None, None],
    "one axis less": lambda x: x[0],
    "two axes less": lambda x: x[0, 0],
    "no axis": lambda x: torch.tensor(1.0),
    "fewer at the end": lambda x: x[..., :3],
    "one at the end": lambda x: x[..., :1],
    "fewer channels": lambda x: x[:, :3],
    "one channel": lambda x: x[:, :1],
    "float64": lambda x: x.double(),
    "int32": lambda x: x.int(),
    "bool": lambda x: x.bool(),
    "complex64": lambda x: x.to(torch.complex64),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "None": lambda x: None,
    "a list": lambda x: x.tolist(),
    "an array": lambda x: x.numpy(),
}


@pytest.mark.share(3)
@pytest.mark.parametrize("wrong", WRONG)
@every_module
def test_what_does_not_fit_is_taken_or_refused_as_by_torch(way, name, wrong):
    x = WRONG[wrong](given(name))
    for training in (True, False):
        like(way, made(name).train(training), lambda module: module(x))


@every_module
def test_more_and_fewer_arguments(way, name):
    for arguments in ((), (given(name),) * 2):
        like(way, made(name), lambda module, arguments=arguments: module(*arguments))
    (argument,) = inspect.signature(made(name).forward).parameters
    agree(way, made(name), lambda module: module(**{argument: given(name)}))


# ---- the classes of accelerated modules ----


@every_module
def test_classes_equal_those_of_torch(name):
    own, cls = type(made(name)), type(nt.accelerate(made(name)))
    assert cls is not own
    assert cls == own
    assert own == cls
    assert hash(cls) == hash(own)
    assert {own: 1}[cls] == {cls: 1}[own] == 1
    assert cls != nn.Module
    assert cls != 1
    assert issubclass(cls, own)
    assert not issubclass(own, cls)
    assert not isinstance(made(name), cls)
    assert type(nt.restore(nt.accelerate(made(name)))) is own


def test_a_class_with_a_class_of_its_own():
    class Meta(type):
        pass

    class Norm(nn.LayerNorm, metaclass=Meta):
        pass

    module = nt.accelerate(Norm(C))
    assert type(module) == Norm  # noqa: E721
    assert isinstance(type(module), Meta)
    assert [norm.accelerated for norm in nt.report(module)] == [True]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_restore_leaves_parametrizations(name):
    before, after = parametrized(name), made(name)
    nt.accelerate(before)
    parametrize.register_parametrization(nt.accelerate(after), "weight", Exponential())
    for module in (before, after):
        nt.restore(module)
        assert "normlib" not in repr(module)
        assert not any(norm.accelerated for norm in nt.report(module))
        same(step(module, given(name)), step(parametrized(name), given(name)))
        parametrize.remove_parametrizations(module, "weight")
        assert type(module) is type(made(name))


def conv(relu=False):
    torch.manual_seed(0)
    norm = made("BatchNorm2d")
    return nn.Sequential(nn.Conv2d(C, C, 3), norm, *[nn.ReLU()] * relu)


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norms_fold_into_convolutions(relu):
    model, x = nt.accelerate(conv(relu).eval()), torch.randn(2, C, 5, 6)
    expected = conv(relu).eval()(x)
    names = [str(i) for i in range(len(model))]
    folded = torch.ao.quantization.fuse_modules(model, names)
    assert [type(m).__name__ for m in folded][1:] == ["Identity"] * len(names[1:])
    assert torch.allclose(folded(x), expected, atol=1e-5)
    folded = torch.fx.experimental.optimization.fuse(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert torch.allclose(folded(x), expected, atol=1e-5)
    assert nt.report(model)[0].accelerated
    joined = torch.ao.quantization.fuse_modules_qat(model.train(), names)
    assert any("normlib" in repr(m) for m in joined.modules() if isinstance(m, nn.BatchNorm2d))
    assert torch.allclose(joined(x), conv(relu)(x), atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
def test_a_script_is_told_to_be_that_of_torch(relu):
    model, x = nt.accelerate(conv(relu)), torch.randn(2, C, 5, 6)
    with pytest.warns(UserWarning, match="torch.jit.script takes torch's own norms"):
        script = torch.jit.script(model)
    same(step(script, x), step(conv(relu), x))
    again = nt.accelerate(copy.deepcopy(model))
    assert nt.report(again)[0].accelerated
    same(step(again, x), step(script, x))


def test_a_norm_that_is_restored_alone():
    model, x = nt.accelerate(conv(relu=True)), torch.randn(2, C, 5, 6)
    nt.restore(model[1])
    assert torch.equal(model(x), conv(relu=True)(x))
