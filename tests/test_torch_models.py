"""accelerate(model): what stands around the norms of a model, in the same pass."""

import copy
import pickle
import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.interop.torch import _graphs, fusion, modules  # noqa: E402

PAYS = fusion._pays

C = 8


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    torch._dynamo.reset()
    monkeypatch.setattr(fusion, "_pays", lambda *_: True)  # what torch would compute too


class ConvLayer(nn.Module):
    """As the networks of images of transformers write it."""

    def __init__(self, activation):
        super().__init__()
        self.convolution = nn.Conv2d(C, C, 3, padding=1, bias=False)
        self.normalization = nn.BatchNorm2d(C)
        self.activation = activation

    def forward(self, x):
        x = self.convolution(x)
        x = self.normalization(x)
        return self.activation(x)


class Bottleneck(nn.Module):
    """As torchvision writes it: one activation for all, in place, and a shortcut with a norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)
        self.conv2, self.bn2 = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C))
        self.stride = 1

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class UNetBlock(nn.Module):
    """As diffusers writes it, with an embedding of time."""

    def __init__(self):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, C), nn.Conv2d(C, C, 1)
        self.norm2, self.conv2 = nn.GroupNorm(2, C), nn.Conv2d(C, C, 1)
        self.time = nn.Linear(C, C)
        self.nonlinearity = nn.SiLU()
        self.dropout = nn.Dropout(0.0)

    def forward(self, x, time, *args, **kwargs):
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        h = h + self.time(self.nonlinearity(time))[:, :, None, None]
        h = self.nonlinearity(self.norm2(h))
        return x + self.conv2(self.dropout(h))


class Volume(nn.Module):
    """As networks of medicine have it."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.InstanceNorm2d(C, affine=True), nn.InstanceNorm2d(C)])

    def forward(self, x):
        return F.leaky_relu(self.norms[1](F.leaky_relu(self.norms[0](x), negative_slope=0.2)), 0.1, inplace=True)


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.RMSNorm(C, eps=1e-6)
        self.attention, self.mlp = nn.Linear(C, C), nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PostNorm(nn.Module):
    """As the output of BERT's layers."""

    def __init__(self):
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = nn.Linear(C, C), nn.LayerNorm(C, eps=1e-12), nn.Dropout(0.0)

    def forward(self, hidden_states, input_tensor):
        hidden_states = self.dropout(self.dense(hidden_states))
        return self.LayerNorm(hidden_states + input_tensor)


def image():
    return torch.randn(2, C, 5, 6)


MODELS = {  # what makes the model, its arguments, what is fused by default, what with fuse=True
    "SiLU": (lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.SiLU()), [image], ["silu"], ["silu"]),
    "ReLU": (lambda: ConvLayer(nn.ReLU()), [image], ["relu"], ["relu"]),
    "GELU": (lambda: ConvLayer(nn.GELU("tanh")), [image], ["gelu_tanh"], ["gelu_tanh"]),
    "LeakyReLU": (lambda: ConvLayer(nn.LeakyReLU(0.3, inplace=True)), [image], ["leaky_relu"], ["leaky_relu"]),
    "Hardswish": (lambda: ConvLayer(nn.Hardswish()), [image], [""], [""]),
    "ResNet": (Bottleneck, [image], ["relu", "", ""], ["relu", "add, relu", ""]),
    "UNet": (UNetBlock, [image, lambda: torch.randn(2, C)], ["silu", "silu"], ["silu", "residual, silu"]),
    "3-D": (Volume, [image], ["leaky_relu", "leaky_relu"], ["leaky_relu", "leaky_relu"]),
    "pre-norm": (PreNorm, [lambda: torch.randn(3, C)], ["", ""], ["", "residual"]),
    "post-norm": (PostNorm, [lambda: torch.randn(3, C)] * 2, [""], ["residual"]),
}  # fmt: skip


def randomized(module):
    for t in (*module.parameters(), *module.buffers()):
        if t.is_floating_point():
            t.data.uniform_(0.5, 1.5)
    return module


def pair(name, fuse=True):
    make, arguments, *_ = MODELS[name]
    model = randomized(make())
    return model, nt.accelerate(copy.deepcopy(model), fuse=fuse), [argument() for argument in arguments]


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def step(model, arguments):
    """The result, all gradients, and the buffers after it."""
    leaves = [t.detach().clone().requires_grad_() for t in arguments]
    y = model(*leaves)
    wanted = [*leaves, *(p for p in model.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(y.float().sin().sum(), wanted)
    return [y, *gradients, *model.buffers()]


@pytest.fixture
def calls(monkeypatch):
    """What is fused in each call of a norm, in the words of the report."""
    seen, own = [], modules._computed

    def spy(op, slowly, module, x, fused):
        y = own(op, slowly, module, x, fused)
        if fused and y is not NotImplemented:
            words = ("residual" in fused and "residual", "add" in fused and "add", fused.get("activation"))
            seen.append(", ".join(filter(None, words)))
        return y

    monkeypatch.setattr(modules, "_computed", spy)
    return seen


# ---- what is fused ----


@pytest.mark.parametrize("name", MODELS)
def test_the_report_says_what_is_fused(name):
    make, _, plain, fused = MODELS[name]
    assert [n.fused for n in nt.report(nt.accelerate(make()))] == plain
    assert [n.fused for n in nt.report(nt.accelerate(make(), fuse=True))] == fused


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_results_gradients_and_buffers_are_those_of_the_model(backend, calls, name, fuse, training):
    reference, model, arguments = pair(name, fuse)
    for _ in range(2):
        for found, expected in zip(
            step(model.train(training), arguments), step(reference.train(training), arguments), strict=True
        ):
            close(found, expected, 1e-3)
    with torch.inference_mode():
        close(model(*arguments), reference(*arguments))
    words = [words for words in MODELS[name][3 if fuse else 2] if words]
    if name == "UNet":  # whose residual is of another shape
        words = ["silu", "silu"]
    assert calls == words * 3


@pytest.mark.parametrize("name", MODELS)
def test_models_of_16_bits_and_autocast(name):
    reference, model, arguments = pair(name)
    reference.bfloat16(), model.bfloat16()
    narrow = [t.bfloat16() for t in arguments]
    for found, expected in zip(step(model, narrow), step(reference, narrow), strict=True):
        assert found.dtype is expected.dtype
        close(found.float(), expected.float(), 0.2 * max(1, expected.abs().max().item()))
    reference, model, arguments = pair(name)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model(*arguments), reference(*arguments)
    assert found.dtype is expected.dtype
    close(found.float(), expected.float(), 0.2)


def test_channels_last_stays():
    reference, model, (x,) = pair("ResNet")
    x = x.to(memory_format=torch.channels_last)
    y = model(x)
    close(y, reference(x), 1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", MODELS)
def test_compiled_and_exported_models_are_those_of_torch(name):
    reference, model, arguments = pair(name)
    model.eval(), reference.eval()
    expected = reference(*arguments)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), expected)
    program = torch.export.export(model, tuple(arguments))
    assert torch.equal(program.module()(*arguments), expected)
    assert not any(str(node.target).startswith("normlib.") for node in program.graph.nodes)


# ---- what does not change ----


@pytest.mark.parametrize("name", MODELS)
def test_restore_gives_the_very_same_model_back(name):
    reference, model, arguments = pair(name)
    model(*arguments)
    nt.restore(model)
    assert all(type(m) is type(r) for m, r in zip(model.modules(), reference.modules(), strict=True))
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in reference.modules()]
    model.eval(), reference.eval()
    model.load_state_dict(reference.state_dict())
    assert torch.equal(model(*arguments), reference(*arguments))


def test_copies_and_pickles_fuse_again(calls):
    model = nt.accelerate(randomized(nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.SiLU())))
    x = image()
    expected = model.eval()(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        assert torch.equal(other(x), expected)
        assert [n.fused for n in nt.report(other)] == ["silu"]
    assert calls == ["silu"] * 4


def test_a_later_call_fuses_more_or_less():
    model = Bottleneck()
    for fuse, expected in [(False, ["relu", "", ""]), (True, ["relu", "add, relu", ""]), (False, ["relu", "", ""])]:
        assert [n.fused for n in nt.report(nt.accelerate(model, fuse=fuse))] == expected


def test_names_parameters_and_training_stay():
    reference, model, _ = pair("ResNet")
    assert list(model.state_dict()) == list(reference.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in reference.named_modules()]
    assert [m.training for m in model.modules()] == [m.training for m in reference.modules()]
    assert isinstance(model, Bottleneck)


# ---- when the own method runs ----


def test_a_changed_module_is_taken_as_it_is_now(calls):
    model = nt.accelerate(randomized(ConvLayer(nn.SiLU()).eval()))
    x = image()
    model.activation = nn.Tanh()
    close(model(x), nn.functional.tanh(model.normalization(model.convolution(x))))
    assert calls == []
    sequence = nt.accelerate(nn.Sequential(nn.BatchNorm2d(C), nn.SiLU()).eval())
    sequence.append(nn.Tanh())
    close(sequence(x), F.silu(sequence[0](x)).tanh())
    assert [type(m).__name__ for m in sequence[:2]] == ["BatchNorm2d", "SiLU"]
    close(sequence[:2](x), F.silu(sequence[0](x)))


def test_a_changed_attribute_is_seen(calls):
    class Switched(ConvLayer):
        tanh = False

        def __init__(self, activation):
            super().__init__(activation)
            self.twice = False

        def forward(self, x):
            y = super().forward(x)
            return y + y if self.twice else y

    model = nt.accelerate(Switched(nn.SiLU()).eval())
    y = model(image())
    assert len(calls) == 1
    model.twice = True
    torch.manual_seed(0)
    assert model(image()).shape == y.shape
    assert len(calls) == 1


def test_hooks_see_what_they_saw(calls):
    reference, model, (x,) = pair("ReLU", fuse=False)
    seen = []
    for m in (reference, model):
        m.normalization.register_forward_hook(lambda module, args, y: seen.append(y.detach().clone()))
    close(model.eval()(x), reference.eval()(x))
    close(seen[0], seen[1])
    assert seen[0].min() < 0
    assert calls == []
    _, other, _ = pair("ReLU", fuse=False)
    other.normalization.forward = lambda x: x + 5  # as wrappers do
    close(other(x), F.relu(other.convolution(x) + 5))


def test_a_norm_called_alone_is_a_norm():
    _, model, (x,) = pair("ReLU", fuse=False)
    assert model.eval().normalization(x).min() < 0


def test_what_the_kernels_do_not_take_goes_in_steps():
    reference, model, (x,) = pair("ResNet")
    reference.eval(), model.eval()
    weights = dict(model.named_parameters())
    found = torch.func.functional_call(model, weights, (x,))
    close(found, reference(x))
    close(torch.vmap(model)(x[None]), reference(x)[None])
    assert copy.deepcopy(model).to("meta")(x.to("meta")).shape == x.shape
    reference, model, (h, other) = pair("post-norm")
    close(model(h, other[:1]), reference(h, other[:1]))  # broadcast
    close(model(h, input_tensor=other), reference(h, input_tensor=other))


@pytest.mark.parametrize(
    ("activation", "dtype", "training", "evaluation"),
    [("ReLU", torch.float32, True, False), ("ReLU", torch.bfloat16, False, True), ("SiLU", torch.float32, True, True),
     ("Sigmoid", torch.bfloat16, False, True)],
)  # fmt: skip
def test_what_torch_computes_faster_is_left_to_it(calls, monkeypatch, activation, dtype, training, evaluation):
    """Whether an activation is in the pass of a norm in channels-last memory."""
    monkeypatch.setattr(fusion, "_pays", PAYS)
    reference = nn.Sequential(nn.BatchNorm2d(C), getattr(nn, activation)()).to(dtype)
    model = nt.accelerate(copy.deepcopy(reference))
    x = torch.randn(2, C, 6, 6, dtype=dtype).to(memory_format=torch.channels_last)
    close(model(x), reference(x), 1e-2)
    assert bool(calls) is training
    calls.clear()
    with torch.inference_mode():
        before = x.clone()
        close(model.eval()(x), reference.eval()(x), 1e-2)
        assert torch.equal(before, x)
    assert bool(calls) is evaluation


def test_symbols_trace_through():
    model = nt.accelerate(nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.SiLU()))
    graph = torch.fx.symbolic_trace(model).graph
    assert [node.op for node in graph.nodes].count("call_module") == 3


# ---- why something is not fused ----


class TwoUsers(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.LayerNorm(C), nn.GELU()

    def forward(self, x):
        y = self.norm(x)
        return self.act(y) + y


class Branching(TwoUsers):
    def forward(self, x):
        return self.act(self.norm(x)) if x.sum() > 0 else x


class Counting(TwoUsers):
    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, x):
        self.count += 1
        return self.act(self.norm(x))


class Configured(TwoUsers):
    def __init__(self):
        super().__init__()
        self.config = {"act": True}

    def forward(self, x):
        return self.act(self.norm(x)) if self.config["act"] else self.norm(x)


class Asking(TwoUsers):
    def forward(self, x):
        return self.act(self.norm(x if isinstance(x, torch.Tensor) else torch.cat(x)))


class Between(TwoUsers):
    def forward(self, x):
        y = self.norm(x)
        x.mul_(2)
        return self.act(y) + x


class WithoutGradients(TwoUsers):
    def inner(self, x):
        with torch.no_grad():
            return self.act(self.norm(x))

    def forward(self, x):
        return self.inner(x) + x


class Drawing(TwoUsers):
    def forward(self, x):
        return self.act(self.norm(x)) if random.random() < 2 else x


class Noisy(TwoUsers):
    def forward(self, x):
        return self.act(self.norm(x)) + 0 * torch.randn(C)


class Decorated(TwoUsers):
    @torch.no_grad()
    def forward(self, x):
        return self.act(self.norm(x))


class AskingForGradients(TwoUsers):
    def forward(self, x):
        return self.act(self.norm(x)) if torch.is_grad_enabled() else x


class TooSoon(TwoUsers):
    def forward(self, x):
        x = x + x.detach()
        y = self.norm(x)
        return self.act(y + x)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (TwoUsers, "an activation follows, and others use the output too"),
        (Branching, "its forward cannot be traced: TraceError: "),
        (Counting, "its forward changes attributes"),
        (Configured, "its forward reads config, a dict, which may change"),
        (Asking, "its forward calls isinstance"),
        (AskingForGradients, "its forward calls is_grad_enabled"),
        (WithoutGradients, "its forward calls no_grad"),
        (Decorated, "its forward is no plain method"),
        (Drawing, "its forward draws random numbers"),
        (Noisy, "its forward draws random numbers"),
        (Between, "others use its input before all that is fused is there"),
        (TooSoon, "an add comes before, whose sum is used too soon"),
    ],
)
def test_a_report_says_why_not(cls, why):
    model = cls()
    x = torch.randn(3, C)
    expected, drawn = model(x.clone()), (random.getstate(), torch.get_rng_state())
    nt.accelerate(model, fuse=True)
    (norm,) = nt.report(model)
    assert random.getstate() == drawn[0]
    assert torch.equal(torch.get_rng_state(), drawn[1])
    assert norm.accelerated
    assert why in norm.apart
    assert why in str(nt.report(model))
    close(model(x.clone()), expected)
    if cls is Counting:
        assert model.count == 2


def test_a_report_says_what_fuse_would_take():
    model = nt.accelerate(nn.Sequential(Bottleneck()))
    assert str(nt.report(model)).splitlines() == [
        "module          class",
        "0.bn1           BatchNorm2d  accelerated, with relu",
        "0.bn2           BatchNorm2d  accelerated; an add follows, which fuse=True takes",
        "0.downsample.1  BatchNorm2d  accelerated",
    ]
    (norm,) = nt.report(nt.accelerate(PostNorm()))
    assert norm.words == "accelerated; residual: with fuse=True"


def test_activations_are_known_by_what_they_do():
    class NewGELUActivation(nn.Module):
        def forward(self, x):
            return 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))

    known = [nn.ReLU(), nn.SiLU(True), nn.GELU(), nn.GELU("tanh"), nn.Sigmoid(), NewGELUActivation()]
    names = ["relu", "silu", "gelu", "gelu_tanh", "sigmoid", "gelu_tanh"]
    assert [_graphs.activation_of(m)["activation"] for m in known] == names
    assert _graphs.activation_of(nn.LeakyReLU(0.3)) == {"activation": "leaky_relu", "negative_slope": 0.3}
    for other in (nn.ReLU6(), nn.ELU(), nn.PReLU(), nn.Tanh(), nn.GLU(), nn.Identity(), nn.RReLU()):
        assert _graphs.activation_of(other) is None


def test_blocks_of_real_models():
    pytest.importorskip("transformers")
    from transformers import EfficientNetConfig, ResNetConfig
    from transformers.models.efficientnet.modeling_efficientnet import EfficientNetBlock
    from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

    config = EfficientNetConfig(hidden_act="swish")
    efficient = EfficientNetBlock(config, C, C, 1, 4, 3, 0.0, True, False).eval()
    resnet = ResNetBottleNeckLayer(4 * C, 4 * C, activation=ResNetConfig().hidden_act).eval()
    cases = [(efficient, image(), ["silu", "silu", ""]), (resnet, torch.randn(2, 4 * C, 5, 5), ["relu", "relu", ""])]
    for model, x, fused in cases:
        randomized(model)
        expected = model(x)
        assert [n.fused for n in nt.report(nt.accelerate(model))] == fused
        close(model(x), expected, 1e-4)
