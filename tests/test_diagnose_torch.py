"""normlib.diagnose of torch: modules with planted mistakes, and those of torch and transformers as they are."""

import functools
import importlib

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

import normlib  # noqa: E402

C = 12
LAYER = "LayerNorm over the last axis, eps 1e-05, times w, plus b"
RMS = "RMSNorm over the last axis, eps 1e-06, times w"


def names_in(diagnosis):
    """Faults and notes, but for the overflow of squares, which all but normlib's have, and bits that threads change."""
    ignored = {"overflow", "thread_dependent_bits", "batch_dependent_bits"}
    return sorted({finding.name for finding in diagnosis.findings} - ignored)


def found(*arguments, **options):
    return names_in(normlib.diagnose(*arguments, **options))


# ---- planted mistakes ----


class LayerNorm(nn.Module):
    """A layer norm in float32, written by hand; its steps are methods, for what is wrong with them."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(C)), nn.Parameter(torch.zeros(C)), 1e-5

    def wide(self, x):
        return x.double() if x.dtype == torch.float64 else x.float()

    def mean(self, x):
        return x.mean(-1, keepdim=True)

    def rstd(self, centered):
        return torch.rsqrt(centered.square().mean(-1, keepdim=True) + self.eps)

    def affine(self, z, dtype):
        return (z * self.weight + self.bias).to(dtype)

    def forward(self, x):
        wide = self.wide(x)
        centered = wide - self.mean(wide)
        return self.affine(centered * self.rstd(centered), x.dtype)


class Constants(LayerNorm):
    def mean(self, x):
        return super().mean(x.detach())

    def rstd(self, centered):
        return super().rstd(centered.detach())


class ConstantMean(LayerNorm):
    def forward(self, x):
        wide = self.wide(x)
        rstd = self.rstd(wide - self.mean(wide))
        return self.affine((wide - self.mean(wide).detach()) * rstd, x.dtype)


class ConstantVariance(LayerNorm):
    def rstd(self, centered):
        return super().rstd(centered).detach()


class ConstantWeight(LayerNorm):
    def affine(self, z, dtype):
        return (z * self.weight.detach() + self.bias).to(dtype)


class HalfStatistics(LayerNorm):
    def wide(self, x):
        return x


class RoundedFirst(LayerNorm):
    def affine(self, z, dtype):
        return z.to(dtype) * self.weight.to(dtype) + self.bias.to(dtype)


class Dropout(LayerNorm):
    def affine(self, z, dtype):
        return super().affine(nn.functional.dropout(z, 0.3, self.training), dtype)


class Offset(LayerNorm):
    def affine(self, z, dtype):
        return (z * (1 + self.weight.float()) + self.bias).to(dtype)


class Swapped(LayerNorm):
    def affine(self, z, dtype):
        return (z * self.bias + self.weight).to(dtype)


class Naive(LayerNorm):
    def forward(self, x):
        wide = self.wide(x)
        mean = super().mean(wide)
        rstd = torch.rsqrt(super().mean(wide.square()) - mean.square() + self.eps)
        return self.affine((wide - mean) * rstd, x.dtype)


class OtherEps(LayerNorm):
    def __init__(self):
        super().__init__()
        self.eps = 1e-6

    def rstd(self, centered):
        return torch.rsqrt(centered.square().mean(-1, keepdim=True) + 1e-5)


class Unbiased(Constants):
    def rstd(self, centered):
        return torch.rsqrt(centered.detach().square().sum(-1, keepdim=True) / (C - 1) + self.eps)


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (LayerNorm, []),
        (Constants, ["gradient_constants"]),
        (ConstantMean, ["gradient_without_mean"]),
        (ConstantVariance, ["gradient_without_variance"]),
        (ConstantWeight, ["wrong_parameter_gradient"]),
        (HalfStatistics, ["statistics_16"]),
        (RoundedFirst, ["double_rounding"]),
        (Dropout, ["train_eval_differ"]),
        (Offset, ["unit_offset"]),
        (Swapped, ["swapped"]),
        (Naive, ["naive_variance"]),
        (OtherEps, ["eps_value"]),
        (Unbiased, ["gradient_constants", "unbiased_variance"]),
    ],
)
def test_planted_mistakes(cls, names):
    assert found(cls(), "layer_norm") == names


class BatchNorm(nn.BatchNorm1d):
    """torch's, with what follows its running statistics in other ways."""

    def step(self, x):
        return self.momentum, x.var(0)

    def forward(self, x):
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        momentum, var = self.step(x)
        with torch.no_grad():
            self.running_mean += momentum * (x.mean(0) - self.running_mean)
            self.running_var += momentum * (var - self.running_var)
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


class Reversed(BatchNorm):
    def step(self, x):
        return 1 - self.momentum, x.var(0)


class Biased(BatchNorm):
    def step(self, x):
        return self.momentum, x.var(0, unbiased=False)


class ReversedAndBiased(BatchNorm):
    def step(self, x):
        return 1 - self.momentum, x.var(0, unbiased=False)


class Never(BatchNorm):
    def step(self, x):
        return 0.0, x.var(0)


class Faster(BatchNorm):
    def step(self, x):
        return 0.25, x.var(0)


class Deviation(BatchNorm):
    def step(self, x):
        return self.momentum, x.std(0)


class LastRow(BatchNorm):
    def step(self, x):
        self.running_mean += 0.1 * (x[-1] - x.mean(0)) if not self.running_mean.requires_grad else 0
        return self.momentum, x.var(0)


class AlwaysBatch(BatchNorm):
    def forward(self, x):
        y = super().forward(x)
        fresh = nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return y if self.training else fresh


class Halved(BatchNorm):
    def forward(self, x):
        return super().forward(x) * (1 if self.training else 0.5)


class AlwaysRunning(BatchNorm):
    def forward(self, x):
        training, self.training = self.training, False
        y = super().forward(x)
        self.training = training
        return y


class AlwaysTraining(BatchNorm):
    def forward(self, x):
        y = super().forward(x)
        if not self.training:
            with torch.no_grad():
                self.running_mean += 0.1 * (x.mean(0) - self.running_mean)
        return y


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (BatchNorm, []),
        (Reversed, ["momentum_reversed"]),
        (Biased, ["biased_running_variance"]),
        (ReversedAndBiased, ["biased_running_variance", "momentum_reversed"]),
        (Never, ["running_not_updated"]),
        (Faster, ["momentum_wrong"]),
        (Deviation, ["running_variance_wrong"]),
        (LastRow, ["running_mean_wrong"]),
        (AlwaysBatch, ["eval_uses_batch"]),
        (Halved, ["evaluation_wrong"]),
        (AlwaysRunning, ["train_uses_running"]),
        (AlwaysTraining, ["running_updated_in_eval"]),
    ],
)
def test_planted_mistakes_of_running_statistics(cls, names):
    quirks = {"statistics_16", "several_roundings"}  # of torch's batch norm in 16 bits
    assert sorted({*found(cls(C))} - quirks) == names


def test_a_function_of_tensors_is_given_tensors():
    def layer_norm(x, weight, bias):
        return nn.functional.layer_norm(x, x.shape[-1:], weight, bias)

    diagnosis = normlib.diagnose(layer_norm)
    assert (diagnosis.faults, diagnosis.what) == ([], "LayerNorm over the last axis, eps 1e-05, times w, plus b")


F = nn.functional


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (functools.partial(F.layer_norm, normalized_shape=(16,)), LAYER),
        (functools.partial(F.rms_norm, normalized_shape=(16,), eps=1e-6), RMS),
        (
            functools.partial(F.group_norm, num_groups=4),
            "GroupNorm over axes (2, 3) and 4 groups of axis 1, eps 1e-05, times w, plus b",
        ),
    ],
)  # fmt: skip
def test_the_functions_of_torch_with_the_rest_bound(function, what):
    diagnosis = normlib.diagnose(function)
    assert (diagnosis.what, names_in(diagnosis)) == (what, [])


def test_bits_that_threads_change():
    def rms_norm(x):
        y = nn.functional.rms_norm(x, x.shape[-1:], None, 1e-6)
        return torch.nextafter(y, 2 * y) if torch.get_num_threads() > 1 else y

    names = [finding.name for finding in normlib.diagnose(rms_norm).notes]
    assert "thread_dependent_bits" in names


def test_a_module_stays_as_it_was():
    module = nn.BatchNorm1d(C)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    threads = torch.get_num_threads()
    normlib.diagnose(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (module.training, module.weight.dtype, torch.get_num_threads()) == (True, torch.float32, threads)


# ---- torch's own ----

IN_16_BITS = ["statistics_16"]  # on the CPU torch rounds mean and rstd of a batch norm to 16 bits


@pytest.mark.parametrize(
    ("module", "what", "quirks"),
    [
        (nn.LayerNorm(C), "LayerNorm over the last axis, eps 1e-05, times w, plus b", []),
        (nn.LayerNorm((5, C)), "LayerNorm over axes (2, 3), eps 1e-05, times w, plus b", []),
        (nn.LayerNorm(C, elementwise_affine=False), "LayerNorm over the last axis, eps 1e-05", []),
        (nn.RMSNorm(C, eps=1e-6), "RMSNorm over the last axis, eps 1e-06, times w", []),
        (nn.RMSNorm(C), "RMSNorm over the last axis, eps 2.2e-16, times w", ["eps_of_dtype"]),
        (nn.BatchNorm1d(C), "BatchNorm over axis 0, eps 1e-05, times w, plus b", IN_16_BITS),
        (nn.BatchNorm2d(C), "BatchNorm over axes (0, 2, 3), eps 1e-05, times w, plus b", IN_16_BITS),
        (nn.BatchNorm2d(C, momentum=None), "BatchNorm over axes (0, 2, 3), eps 1e-05, times w, plus b", IN_16_BITS),
        (nn.BatchNorm3d(C, affine=False), "BatchNorm over axes (0, 2, 3, 4), eps 1e-05", IN_16_BITS),
        (nn.GroupNorm(3, C), "GroupNorm over axes (2, 3) and 3 groups of axis 1, eps 1e-05, times w, plus b", []),
        (nn.GroupNorm(1, C), "GroupNorm over axes (1, 2, 3), eps 1e-05, times w, plus b", []),
        (nn.InstanceNorm2d(C, affine=True), "InstanceNorm over axes (2, 3), eps 1e-05, times w, plus b", IN_16_BITS),
        (
            nn.InstanceNorm2d(C, track_running_stats=True), "InstanceNorm over axes (2, 3), eps 1e-05", IN_16_BITS,
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_norms_of_torch_have_the_quirks_that_they_have(module, what, quirks):
    diagnosis = normlib.diagnose(module)
    assert (diagnosis.what, names_in(diagnosis)) == (what, quirks)
    assert diagnosis.ok is (quirks != IN_16_BITS)


def test_the_quirk_of_a_batch_norm_in_16_bits_is_real():
    """With mean and rstd rounded to float16 the bits are torch's, without they are not."""
    torch.manual_seed(0)
    x = (torch.randn(64, C) * 1.5 + 0.5).half()
    y, wide = nn.BatchNorm1d(C).half()(x).detach().double().numpy(), x.double().numpy()
    mean, rstd = wide.mean(0), 1 / np.sqrt(wide.var(0) + 1e-5)
    exact = ((wide - mean) * rstd).astype(np.float16)
    rounded = ((wide - np.float16(mean)) * np.float16(rstd)).astype(np.float16)
    assert (y == rounded).mean() > 0.99 > 0.9 > (y == exact).mean()


# ---- those of transformers ----

ROUNDED = ["double_rounding"]
CHANNELS = "LayerNorm over axis 1, eps 1e-06, times w, plus b"


@pytest.mark.parametrize(
    ("path", "options", "what", "quirks"),
    [
        ("llama.LlamaRMSNorm", {}, RMS, ROUNDED),
        ("qwen3.Qwen3RMSNorm", {}, RMS, ROUNDED),
        ("mistral.MistralRMSNorm", {}, RMS, ROUNDED),
        ("t5.T5LayerNorm", {}, RMS, ["double_rounding", "named_layer"]),
        ("olmo2.Olmo2RMSNorm", {}, RMS, []),
        ("gpt_oss.GptOssRMSNorm", {}, RMS, []),
        ("gemma.GemmaRMSNorm", {}, "RMSNorm over the last axis, eps 1e-06, times 1 + w", []),
        ("gemma3.Gemma3RMSNorm", {}, "RMSNorm over the last axis, eps 1e-06, times 1 + w", []),
        ("nemotron.NemotronLayerNorm1P", {}, LAYER.replace("w", "1 + w"), ["several_roundings"]),
        ("cohere.CohereLayerNorm", {}, "LayerNorm over the last axis, eps 1e-05, times w", []),
        ("olmo.OlmoLayerNorm", {}, "LayerNorm over the last axis, eps 1e-05", []),
        ("deberta.DebertaLayerNorm", {}, "LayerNorm over the last axis, eps 1e-12, times w, plus b", ROUNDED),
        ("convnext.ConvNextLayerNorm", {"data_format": "channels_first"}, CHANNELS, []),
        ("vitdet.VitDetLayerNorm", {}, CHANNELS, ["statistics_16"]),
    ],
)  # fmt: skip
def test_the_norms_of_transformers_have_the_quirks_that_they_have(path, options, what, quirks):
    pytest.importorskip("transformers")
    name, cls = path.split(".")
    module = getattr(importlib.import_module(f"transformers.models.{name}.modeling_{name}"), cls)(C, **options)
    diagnosis = normlib.diagnose(module)
    assert (diagnosis.what, names_in(diagnosis)) == (what, quirks)
