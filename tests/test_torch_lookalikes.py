"""accelerate(model): the norms that models bring along, on the very classes of transformers, diffusers and timm."""

import copy
import importlib.util
import io
import sys
import types
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")

from model_norms import LlamaRMSNorm, SquareRMSNorm  # noqa: E402
from torch import nn  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.interop.torch import lookalikes, modules  # noqa: E402

C = 8
F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def taken(monkeypatch):
    """A list with an element for each call that normlib computes."""
    seen = []
    for module in (lookalikes, modules):

        def spy(*arguments, own=module._computed):
            y = own(*arguments)
            seen.extend([True] * (y is not NotImplemented))
            return y

        monkeypatch.setattr(module, "_computed", spy)
    return seen


def randomized(module):
    for t in (*module.parameters(), *module.buffers()):
        if t.is_floating_point():
            t.data.uniform_(0.3, 1.5)
    return module


def pair(module):
    """A module as it is, and a copy that normlib computes."""
    randomized(module)
    return module, nt.accelerate(copy.deepcopy(module))


def step(module, arguments):
    """The result, and all gradients."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in arguments]
    y = module(*leaves)
    return y.detach(), *torch.autograd.grad(y.double().sin().sum(), [*leaves, *module.parameters()])


def same(found, expected, exact=False, width=4):
    """Equal in dtype, place in memory and value: to the bit for `exact`, but for what float32 has rounded to the other
    side; otherwise to rounding in the narrowest dtype."""
    narrow = max(torch.finfo(t.dtype).eps for t in (*found, *expected))
    for i, (a, e) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype is e.dtype
        if i == 0:
            assert a.stride() == e.stride()
        if exact and i == 0:
            assert (a != e).double().mean() < 0.02
        tolerance = (width if i == 0 else 4 * width) * narrow
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * float(e.double().abs().max()))


def of(package, path, *arguments, **options):
    """What makes a module of a class by its path in a package."""
    module, name = path.rsplit(".", 1)

    def make():
        pytest.importorskip(package)
        return getattr(importlib.import_module(f"{package}.{module}"), name)(*arguments, **options)

    return make


def model(path, *arguments, **options):
    """The same of one in transformers: model.Class."""
    name, cls = path.split(".")
    return of("transformers", f"models.{name}.modeling_{name}.{cls}", *arguments, **options)


def timm(name, *arguments, **options):
    """The same of one in timm.layers, which is taken alone where there is no torchvision: timm as a whole wants it."""

    def make():
        if "timm.layers" not in sys.modules:
            spec = importlib.util.find_spec("timm") or pytest.skip("timm is not installed")
            with pytest.MonkeyPatch.context() as patch:
                if importlib.util.find_spec("torchvision") is None:
                    package, misc = types.ModuleType("timm"), types.ModuleType("torchvision.ops.misc")
                    package.__path__ = list(spec.submodule_search_locations)
                    misc.FrozenBatchNorm2d = nn.Identity
                    patch.setitem(sys.modules, "timm", package)
                    for key in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
                        patch.setitem(sys.modules, key, misc)
                importlib.import_module("timm.layers")
        return getattr(sys.modules["timm.layers"], name)(*arguments, **options)

    return make


# ---- the classes ----

ROWS, IMAGES = (4, 3, C), (2, C, 5, 6)
EXACT = {  # in 16 bits too, to the bit
    "Llama": (model("llama.LlamaRMSNorm", C), ROWS),
    "Olmo2, which multiplies in float32": (model("olmo2.Olmo2RMSNorm", C), ROWS),
    "GPT-OSS": (model("gpt_oss.GptOssRMSNorm", C), ROWS),
    "Helium": (model("helium.HeliumRMSNorm", C), ROWS),
    "T5": (model("t5.T5LayerNorm", C), ROWS),
    "Gemma 3, by 1 + weight": (model("gemma3.Gemma3RMSNorm", C), ROWS),
    "Nemotron, where 1 + weight is rounded": (model("nemotron.NemotronLayerNorm1P", C), ROWS),
    "Gemma 3n without a weight": (model("gemma3n.Gemma3nRMSNorm", C, with_scale=False), ROWS),
    "Qwen3's of queries and keys": (model("qwen3.Qwen3RMSNorm", C), (2, 4, 3, C)),
    "Llama 4": (model("llama4.Llama4TextL2Norm"), (2, 4, 3, C)),
    "Cohere, a layer norm": (model("cohere.CohereLayerNorm", C), ROWS),
    "OLMo, with an eps in the code": (model("olmo.OlmoLayerNorm", C), ROWS),
    "ConvNeXt": (model("convnext.ConvNextLayerNorm", C), (2, 5, 6, C)),
    "ConvNeXt, channels first": (model("convnext.ConvNextLayerNorm", C, data_format="channels_first"), IMAGES),
    "SAM": (model("sam.SamLayerNorm", C, data_format="channels_first"), IMAGES),
    "SqueezeBERT": (model("squeezebert.SqueezeBertLayerNorm", C), (2, C, 5)),
    "diffusers' in float32": (of("diffusers", "models.normalization.FP32LayerNorm", C), ROWS),
    "diffusers": (of("diffusers", "models.normalization.RMSNorm", C, 1e-6), ROWS),
    "diffusers, with a bias": (of("diffusers", "models.normalization.RMSNorm", C, 1e-6, bias=True), ROWS),
    "Krea 2": (of("diffusers", "models.transformers.transformer_krea2.Krea2RMSNorm", C), ROWS),
    "Stable Cascade": (of("diffusers", "models.unets.unet_stable_cascade.SDCascadeLayerNorm", C), IMAGES),
    "timm": (timm("LayerNorm", C), ROWS),
    "timm, channels first": (timm("LayerNorm2d", C), IMAGES),
    "timm, an RMS norm": (timm("RmsNorm", C), ROWS),
    "timm, an RMS norm in float32, channels first": (timm("RmsNorm2dFp32", C), IMAGES),
    "timm, a group norm": (timm("GroupNorm", C, num_groups=2), IMAGES),
    "Bit, with an activation": (
        model("bit.BitGroupNormActivation", types.SimpleNamespace(num_groups=2, hidden_act="relu"), C), IMAGES,
    ),
    "Bailing, gated by sigmoid": (model("bailing_hybrid.BailingHybridRMSNormGated", C), (ROWS, ROWS)),
    "Falcon H1, gated, in groups": (model("falcon_h1.FalconH1RMSNormGated", C, n_groups=2), (ROWS, ROWS)),
}  # fmt: skip
ROUNDED = {  # in 16 bits these round more often than normlib
    "Deberta": (model("deberta.DebertaLayerNorm", C), ROWS),
    "ViTDet, channels first": (model("vitdet.VitDetLayerNorm", C), IMAGES),
    "DETR, a frozen batch norm": (model("detr.DetrFrozenBatchNorm2d", C), IMAGES),
    "Qwen3-Next, gated": (model("qwen3_next.Qwen3NextRMSNormGated", C), (ROWS, ROWS)),
    "Mamba 2, gated before": (model("mamba2.MambaRMSNormGated", C, C), (ROWS, ROWS)),
    "Bamba, gated before, in groups": (model("bamba.BambaRMSNormGated", C, 4), (ROWS, ROWS)),
    "timm, an RMS norm, channels first": (timm("RmsNorm2d", C), IMAGES),
    "timm, a batch norm with an activation": (timm("BatchNormAct2d", C, act_layer=nn.SiLU), IMAGES),
    "timm, a layer norm with an activation": (timm("LayerNormAct", C), ROWS),
    "diffusers, of channels": (of("diffusers", "models.autoencoders.autoencoder_kl_ltx2.PerChannelRMSNorm"), IMAGES),
}
CLASSES = EXACT | ROUNDED


def inputs(shapes, dtype=F32):
    shapes = shapes if type(shapes[0]) is tuple else (shapes,)
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_a_model_is_taken_with_its_dtype_and_rounding(taken, name, dtype):
    make, shapes = CLASSES[name]
    reference, module = pair(make().to(dtype))
    arguments = inputs(shapes, dtype)
    same(step(module, arguments), step(reference, arguments), exact=name in EXACT and dtype is not F32)
    assert len(taken) == 1
    with torch.no_grad():
        same([module.eval()(*arguments)], [reference.eval()(*arguments)])
    assert len(taken) == 2
    assert nt.restore(module).__class__ is type(reference)


@pytest.mark.parametrize("name", ["Llama", "Cohere, a layer norm", "SAM", *ROUNDED])
def test_every_backend_takes_them(backend, taken, name):
    make, shapes = CLASSES[name]
    reference, module = pair(make().bfloat16())
    arguments = inputs(shapes, BF16)
    same(step(module, arguments), step(reference, arguments))
    assert len(taken) == 1


@pytest.mark.parametrize("name", CLASSES)
def test_an_input_of_16_bits_with_a_weight_of_float32(taken, name):
    """As under autocast: some give 16 bits back, some float32."""
    make, shapes = CLASSES[name]
    reference, module = pair(make())
    arguments = inputs(shapes, BF16)
    gates_first = name == "Bamba, gated before, in groups" or name.startswith("Mamba")
    for cast in (False, True):
        with torch.autocast("cpu", BF16, enabled=cast):
            try:
                expected = step(reference, arguments)
            except RuntimeError:  # torch's own mix fewer dtypes
                continue
            same(step(module, arguments), expected)
    assert taken or gates_first


@pytest.mark.parametrize("name", ["Llama", "Gemma 3n without a weight", "Mamba 2, gated before", "SAM", "Deberta"])
def test_what_a_form_does_not_hold_for_is_the_own_method(taken, name):
    make, shapes = CLASSES[name]
    reference, module = pair(make().double())
    arguments = inputs(shapes, F64)
    if name != "SAM":  # which computes in float64
        assert all(map(torch.equal, step(module, arguments), step(reference, arguments)))
        assert not taken
    reference, module = pair(make())
    strided = [torch.randn(*t.shape, 2)[..., 0] for t in arguments]
    same(step(module, strided), step(reference, strided))
    meta = copy.deepcopy(module).to("meta")(*(t.float().to("meta") for t in arguments))
    assert meta.shape == reference(*(t.float() for t in arguments)).shape


@pytest.mark.parametrize("name", [name for name in CLASSES if CLASSES[name][1] is ROWS and "bias" not in name])
def test_the_order_of_axes_in_memory_is_that_of_the_class(taken, name):
    reference, module = pair(CLASSES[name][0]())
    for x in (torch.randn(2, C, 5).mT, torch.randn(2, 5, 2 * C)[..., ::2], torch.randn(3, 2, 4, C).transpose(1, 2)):
        same(step(module, [x]), step(reference, [x]))
    assert len(taken) == 3


@pytest.mark.parametrize("name", [name for name in CLASSES if CLASSES[name][1] is IMAGES])
def test_images_in_channels_last_memory(taken, name):
    reference, module = pair(CLASSES[name][0]())
    x = torch.randn(2, C, 5, 6).to(memory_format=torch.channels_last)
    same(step(module, [x]), step(reference, [x]))
    assert len(taken) == 1


def test_a_subclass_whose_method_takes_more_keeps_it(taken):
    reference, module = pair(model("pe_audio.PeAudioMaskedGroupNorm", 2, C)())
    x, mask = torch.randn(2, C, 5), torch.ones(2, C, 5)
    same(step(module, [x]), step(reference, [x]))
    assert len(taken) == 1
    assert torch.equal(module(x, mask), reference(x, mask))
    assert torch.equal(module(x, padding_mask=mask), reference(x, padding_mask=mask))


def test_what_follows_in_the_class_is_in_the_pass_where_it_pays(taken, monkeypatch):
    reference, module = pair(timm("BatchNormAct2d", C, act_layer=nn.SiLU)())
    x, fused, hooked = torch.randn(IMAGES), [], []
    joined = lookalikes.activation_of
    monkeypatch.setattr(lookalikes, "activation_of", lambda act: fused.append(act) or joined(act))
    for pays in (False, True):
        monkeypatch.setattr(lookalikes, "_pays", lambda *_, pays=pays: pays)
        same(step(module, [x]), step(reference, [x]))
        same(list(module.buffers())[:2], list(reference.buffers())[:2])
    module.act.register_forward_hook(lambda act, given, y: hooked.append(y))
    same(step(module, [x]), step(reference, [x]))
    assert (len(taken), len(fused), len(hooked)) == (3, 2, 1)


# ---- models ----


def language(config, cls, **more):
    pytest.importorskip("transformers")
    transformers = importlib.import_module("transformers")
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "max_position_embeddings": 16}
    return getattr(transformers, cls)(getattr(transformers, config)(**sizes, **more))


TOKENS = {"input_ids": torch.arange(5)[None]}


def stable_diffusion():
    diffusers = pytest.importorskip("diffusers")
    return diffusers.SD3Transformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
        caption_projection_dim=16, pooled_projection_dim=16, out_channels=16, pos_embed_max_size=8, qk_norm="rms_norm",
    )  # fmt: skip


LATENTS = {
    "hidden_states": torch.ones(1, 16, 8, 8).cumsum(-1) / 8, "encoder_hidden_states": torch.ones(1, 3, 16),
    "pooled_projections": torch.ones(1, 16), "timestep": torch.tensor([3]),
}  # fmt: skip
MODELS = {
    "Llama": (lambda: language("LlamaConfig", "LlamaModel"), TOKENS, 5),
    "OLMo 2": (lambda: language("Olmo2Config", "Olmo2Model"), TOKENS, 9),
    "Qwen3": (lambda: language("Qwen3Config", "Qwen3Model"), TOKENS, 9),
    "Gemma 3": (lambda: language("Gemma3TextConfig", "Gemma3TextModel"), TOKENS, 13),
    "Stable Diffusion 3": (stable_diffusion, LATENTS, 16),
}


@pytest.mark.parametrize("way", ["bfloat16", "autocast"])
@pytest.mark.parametrize("name", MODELS)
def test_no_norm_of_a_model_is_missed(taken, name, way):
    make, given, count = MODELS[name]
    reference, accelerated = (m.eval() for m in pair(make()))
    if way == "bfloat16":
        reference, accelerated = reference.bfloat16(), accelerated.bfloat16()
        given = {key: t.bfloat16() if t.is_floating_point() else t for key, t in given.items()}
    with torch.inference_mode(), torch.autocast("cpu", BF16, enabled=way == "autocast"):
        found, expected = accelerated(**given)[0], reference(**given)[0]
    assert len(taken) == count == len(nt.report(accelerated))
    same([found], [expected], width=40)


@pytest.mark.parametrize("assign", [False, True])
def test_a_model_is_accelerated_on_the_meta_device_and_gets_its_weights_later(taken, assign):
    reference = randomized(MODELS["Llama"][0]().eval())
    built = MODELS["Llama"][0]().eval()
    rotary = copy.deepcopy(built.rotary_emb)
    nt.accelerate(built.to("meta"))
    assert all(norm.accelerated for norm in nt.report(built))
    if not assign:
        built.to_empty(device="cpu")
    built.load_state_dict(reference.state_dict(), assign=assign)
    built.rotary_emb = rotary
    with torch.no_grad():
        same([built(**TOKENS)[0]], [reference(**TOKENS)[0]], width=40)
    assert len(taken) == 5


@pytest.mark.parametrize("cls", [nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d])
def test_a_lazy_norm_is_accelerated_when_it_gets_its_size(taken, cls):
    reference, module = cls(affine=True), nt.accelerate(cls(affine=True))
    assert nt.report(module)[0].accelerated
    assert isinstance(module, cls)
    for _ in range(2):
        x = torch.randn(IMAGES if "2d" in cls.__name__ else (5, C))
        same([module(x)], [reference(x)])
    assert taken
    assert isinstance(module, cls.cls_to_become)
    assert all(map(torch.equal, module.buffers(), copy.deepcopy(module).buffers()))
    assert type(nt.restore(module)) is cls.cls_to_become
    assert type(nt.restore(nt.accelerate(cls()))) is cls


def test_a_synchronized_batch_norm_is_a_batch_norm_where_there_is_nobody_else(taken):
    reference, module = pair(nn.SyncBatchNorm(C))
    for training in (True, False):
        x = torch.randn(IMAGES)
        same(step(module.train(training), [x]), step(reference.train(training), [x]))
        same(list(module.buffers())[:2], list(reference.buffers())[:2])
    assert len(taken) == 2


# ---- what is said of them ----


def test_the_report_is_printed_on_request(capsys):
    norms = nn.Sequential(nn.LayerNorm(C), model("mobilebert.NoNorm", C)())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nt.accelerate(norms, verbose=True) is norms
    assert capsys.readouterr().out == f"{nt.report(norms)}\n"
    assert str(nt.report(norms)).splitlines()[1:] == [
        "0       LayerNorm  accelerated",
        "1       NoNorm     it computes something else than a layer norm over the last axis or the channels",
    ]


LEFT = {
    "it computes something else than weight": [
        timm("SimpleNorm", C), model("pocket_tts.PocketTTSTimestepNorm", C),
        of("diffusers", "models.autoencoders.autoencoder_kandinsky6_sr.Kandinsky6VAERMSNorm", C),
    ],
    "it computes something else than a layer norm": [of("diffusers", "models.normalization.GlobalResponseNorm", C)],
    "it computes something else than BatchNorm2d, from which": [timm("SplitBatchNorm2d", C)],
    "running_var: not accounted for by": [timm("EvoNorm2dB1", C)],
    "it holds modules that it computes with: linear": [of("diffusers", "models.normalization.AdaGroupNorm", C, C, 2)],
    "it cannot be tried: ": [model("xlstm.xLSTMMultiHeadLayerNorm", 2, 4)],
}  # fmt: skip


@pytest.mark.parametrize(("why", "make"), [(why, make) for why, makes in LEFT.items() for make in makes])
def test_what_is_left_alone_and_why(why, make):
    module = make()
    with pytest.warns(UserWarning, match=why):
        nt.accelerate(module)
    assert not isinstance(module, modules.Accelerated)
    norm, *_ = nt.report(module)
    assert norm.why.startswith(why)


def test_of_an_adaptive_norm_the_norm_inside_is_taken(taken):
    reference, module = pair(of("diffusers", "models.normalization.AdaLayerNormZero", C, bias=True)())
    assert [(norm.name, norm.accelerated) for norm in nt.report(module)] == [("norm", True)]
    x, emb = torch.randn(2, 3, C), torch.randn(2, C)
    same([module(x, emb=emb)[0]], [reference(x, emb=emb)[0]], width=20)
    assert len(taken) == 1


# ---- classes that only look like one ----


class WithScaleRMSNorm(LlamaRMSNorm):
    def __init__(self, size):
        super().__init__(size)
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.factor


class DropoutRMSNorm(LlamaRMSNorm):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class EvaluationRMSNorm(LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x) if self.training else super().forward(x) * 1.5


class FixedEpsRMSNorm(LlamaRMSNorm):
    """Its eps is elsewhere."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class ConstantRMSNorm(LlamaRMSNorm):
    """Another gradient: the mean square is taken for a constant."""

    def forward(self, x):
        mean = x.detach().pow(2).mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(mean + self.variance_epsilon)


class OtherBiasLayerNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x) + self.bias


class OtherAxisLayerNorm(nn.LayerNorm):
    """A layer norm of rows, and of something else where there are four axes."""

    def forward(self, x):
        return super().forward(x) if x.ndim != 4 else super().forward(x) * 2


class DropoutBatchNorm2d(nn.BatchNorm2d):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (WithScaleRMSNorm, "factor: not accounted for"),
        (SquareRMSNorm, "something else"),
        (DropoutRMSNorm, "something else"),
        (EvaluationRMSNorm, "something else"),
        (FixedEpsRMSNorm, "something else"),
        (ConstantRMSNorm, "something else"),
        (OtherBiasLayerNorm, "something else"),
        (DropoutBatchNorm2d, "something else than BatchNorm2d, from which it derives"),
    ],
)
def test_a_class_that_only_looks_like_a_norm_is_left_alone(cls, why):
    norm = cls(C)
    before, random = copy.deepcopy(norm.state_dict()), torch.get_rng_state()
    versions = [p._version for p in norm.parameters()]
    with pytest.warns(UserWarning, match=why):
        nt.accelerate(norm)
    assert type(norm) is cls
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())
    assert [p._version for p in norm.parameters()] == versions
    assert torch.equal(random, torch.get_rng_state())
    assert norm.training


def test_a_class_that_is_a_norm_for_some_inputs_is_one_for_these(taken):
    reference, module = pair(OtherAxisLayerNorm(C))
    for shape in ((4, C), (4, 3, C), (2, 4, 3, C)):
        x = torch.randn(shape)
        same(step(module, [x]), step(reference, [x]))
    assert len(taken) == 2


def test_a_bias_that_is_loaded_later_is_added():
    """It is 0 when the module is built."""
    reference = of("diffusers", "models.normalization.RMSNorm", C, 1e-6, bias=True)()
    module = nt.accelerate(copy.deepcopy(reference))
    randomized(reference)
    module.load_state_dict(reference.state_dict())
    x = torch.randn(3, C)
    same(step(module, [x]), step(reference, [x]))


# ---- what does not change ----


@pytest.mark.parametrize("name", ["Llama", "SAM", "Mamba 2, gated before", "Bit, with an activation"])
def test_copies_pickles_and_restored_modules(taken, name):
    make, shapes = CLASSES[name]
    reference, module = pair(make())
    arguments = inputs(shapes)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for other in (copy.deepcopy(module), torch.load(saved, weights_only=False)):
        assert type(other) is type(module)
        assert all(map(torch.equal, step(other, arguments), step(copy.deepcopy(module), arguments)))
    assert len(taken) == 4
    assert vars(nt.restore(module)).keys() == vars(reference).keys()
    assert all(map(torch.equal, step(module, arguments), step(reference, arguments)))


@pytest.mark.parametrize("name", ["Llama", "ConvNeXt, channels first"])
def test_compiled_and_exported_it_is_the_class_itself(taken, name):
    make, shapes = CLASSES[name]
    reference, module = (m.eval() for m in pair(make()))
    arguments = inputs(shapes)
    torch._dynamo.reset()
    expected = reference(*arguments)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(*arguments), expected)
    program = torch.export.export(module, tuple(arguments))
    assert torch.equal(program.module()(*arguments), expected)
    assert not taken


def test_derivatives_of_gradients(taken):
    reference, module = pair(CLASSES["Llama"][0]())
    for dtype, tolerance in ((F32, 1e-4), (BF16, 0.05)):
        x, results = torch.randn(3, C).to(dtype), []
        for m in (reference.to(dtype), module.to(dtype)):
            leaf = x.clone().requires_grad_()
            (dx,) = torch.autograd.grad(m(leaf).float().sin().sum(), leaf, create_graph=True)
            results.append(torch.autograd.grad(dx.float().square().sum(), [leaf, m.weight]))
        for found, expected in zip(*results, strict=True):
            scale = float(expected.float().abs().max())
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)
    assert len(taken) == 2


@pytest.mark.parametrize("own", [BF16, F32], ids=lambda dtype: str(dtype)[6:])
def test_a_residual_and_an_activation_join_the_pass(taken, own):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act = LlamaRMSNorm(C), nn.ReLU()

        def forward(self, x, residual):
            x = x + residual
            return self.act(self.norm(x)) + 2 * x

    reference = Block().to(own)
    block = nt.accelerate(copy.deepcopy(reference), fuse=True)
    assert nt.report(block)[0].fused == "residual, relu"
    arguments = [torch.randn(3, C).bfloat16() for _ in range(2)]
    same(step(block, arguments), step(reference, arguments), exact=True)
    assert len(taken) == 1


def test_nothing_around_a_trial_changes_it_or_is_changed():
    threads, expected = torch.get_num_threads(), LlamaRMSNorm(C)
    torch.set_num_threads(2)
    try:
        contexts = (torch.inference_mode(), torch.no_grad(), torch.device("meta"), torch.autocast("cpu", BF16))
        for size, context in enumerate(contexts, 2):  # sizes that were not tried before
            with context:
                norm = nt.accelerate(LlamaRMSNorm(size))
            assert isinstance(norm, type(expected))
            assert nt.report(norm)[0].accelerated
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_modules_alike_are_tried_once(monkeypatch):
    trials = []
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda *a, own=LlamaRMSNorm.forward: trials.append(1) or own(*a))
    nt.accelerate(LlamaRMSNorm(C + 9))
    count = len(trials)
    nt.accelerate(nn.Sequential(*(LlamaRMSNorm(C + 9) for _ in range(50))))
    assert len(trials) == count > 0
