"""normlib.diagnose: mistakes that were planted are named, and nothing else; right norms are found right."""

import doctest
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import planted
import pytest

import normlib
from normlib import cli
from normlib.diagnosis import Norm
from normlib.diagnosis._catalogue import CATALOGUE


def faults(*arguments, **options):
    return sorted(finding.name for finding in normlib.diagnose(*arguments, **options).faults)


def found(*arguments, **options):
    """Faults and notes, but for the overflow of squares at 1e18, which few norms are free of."""
    return sorted({finding.name for finding in normlib.diagnose(*arguments, **options).findings} - {"overflow"})


def words(two):
    return "; ".join(two.values())


# ---- mistakes in what is computed ----


@pytest.mark.parametrize("wrong", planted.singles(), ids=words)
def test_a_planted_fault_is_named_and_nothing_else(wrong):
    assert found(planted.planted(**wrong), "layer_norm", eps=1e-5) == planted.names(**wrong)


@pytest.mark.parametrize("wrong", planted.pairs()[::5], ids=words)
def test_two_faults_at_once_are_both_named(wrong):
    assert found(planted.planted(**wrong), "layer_norm", eps=1e-5) == planted.names(**wrong)


def rms_norm(x, weight, eps=1e-6):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * weight


def l2_norm(x, weight):
    return x / np.sqrt(np.square(x).sum(-1, keepdims=True) + 1e-6) * weight


def centered_rms_norm(x, weight):
    return planted.planted()(x, weight, 0 * weight)


def half_centered(x, weight):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * weight


def by_deviation(x, weight):
    return x / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight


def batch_norm(x, weight, bias):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * weight + bias


def naive_layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(np.square(x).mean(-1, keepdims=True) - mean * mean + 1e-5) * weight + bias


def coarse_mean(x, weight, bias):
    """In float32: the mean has 17 bits."""
    mean = x.mean(-1, keepdims=True, dtype=np.float32)
    mean = (mean.view(np.int32) & ~0x7F).view(np.float32)
    return (x - mean) / np.sqrt(np.square(x - mean).mean(-1, keepdims=True) + 1e-5) * weight + bias


def half_layer_norm(x, weight, bias):
    half = x.astype(np.float16)
    mean, var = (s.astype(x.dtype) for s in (half.mean(-1, keepdims=True), half.var(-1, keepdims=True)))
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def twice_rounded(x, weight):
    wide = x.astype(np.float32)
    return weight * (wide / np.sqrt(np.square(wide).mean(-1, keepdims=True) + np.float32(1e-6))).astype(x.dtype)


def half_squares(x, weight):
    square = np.square(x).astype(np.float32)
    return (x.astype(np.float32) / np.sqrt(square.mean(-1, keepdims=True) + np.float32(1e-6)) * weight).astype(x.dtype)


def half_throughout(x, weight):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + x.dtype.type(1e-6)) * weight


NOISE = np.random.default_rng(0)


def noisy(x):
    return planted.planted()(x, np.ones(x.shape[-1]), np.zeros(x.shape[-1])) + NOISE.normal(size=x.shape)


def group_norm(x, weight, bias, groups=4, interleaved=False, eps=1e-5):
    parts = (x.shape[1] // groups, groups) if interleaved else (groups, x.shape[1] // groups)
    divided = x.reshape(x.shape[0], *parts, *x.shape[2:])
    axes = (1 if interleaved else 2, *range(3, divided.ndim))
    z = (divided - divided.mean(axes, keepdims=True)) / np.sqrt(divided.var(axes, keepdims=True) + eps)
    along = (-1, *(1,) * (x.ndim - 2))
    return z.reshape(x.shape) * weight.reshape(along) + bias.reshape(along)


def instance_norm(x):
    """Of (samples, channels, length)."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def by_matrix(x):
    """Means by a product of matrices, which sums in another order for one row than for many."""
    ones = np.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    mean = np.concatenate([rows[:1].sum(-1, keepdims=True) / x.shape[-1]]) if len(x) == 1 else rows @ ones
    centered = rows - mean
    return (centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + x.dtype.type(1e-5))).reshape(x.shape)


@pytest.mark.parametrize(
    ("fn", "like", "options", "names"),
    [
        (l2_norm, "rms_norm", {}, ["sum_of_squares"]),
        (rms_norm, "layer_norm", {}, ["rms_for_layer"]),
        (centered_rms_norm, "rms_norm", {}, ["layer_for_rms"]),
        (half_centered, "rms_norm", {}, ["mean_subtracted"]),
        (by_deviation, "rms_norm", {}, ["variance_centered"]),
        (rms_norm, "rms_norm", {"unit_offset": True}, ["unit_offset_missing"]),
        (lambda x, w: rms_norm(x, (1 + w) ** 2), "rms_norm", {"unit_offset": True}, ["weight_twice"]),
        (lambda x, w: rms_norm(x, 2 + w), "rms_norm", {"unit_offset": True}, ["unit_offset_twice"]),
        (rms_norm, "rms_norm", {"eps": 1e-5}, ["eps_value"]),
        (batch_norm, "layer_norm", {}, ["couples_examples"]),
        (planted.planted(), "batch_norm", {"shape": (12, 3, 5), "channel_axis": -1}, ["wrong_axis"]),
        (naive_layer_norm, "layer_norm", {}, ["naive_variance"]),
        (coarse_mean, "layer_norm", {}, ["rounded_mean"]),
        (half_layer_norm, "layer_norm", {}, ["statistics_16"]),
        (half_throughout, "rms_norm", {"dtype": "float16"}, ["statistics_16"]),
        (half_squares, "rms_norm", {"dtype": "float16"}, ["overflow_16"]),
        (twice_rounded, "rms_norm", {"dtype": "float16"}, ["double_rounding"]),
        (functools.partial(group_norm, interleaved=True), "group_norm", {}, ["interleaved_groups"]),
        (functools.partial(group_norm, groups=8), "group_norm", {"num_groups": 4}, ["wrong_groups"]),
        (functools.partial(group_norm, groups=24), "group_norm", {"num_groups": 4}, ["wrong_axis"]),
        (instance_norm, "instance_norm", {"shape": (9, 8, 3), "axis": (0, 1)}, ["wrong_axis"]),  # an image: H, W, C
        (by_matrix, "layer_norm", {}, ["batch_dependent_bits"]),
        (noisy, "layer_norm", {}, ["random"]),
        (np.tanh, "layer_norm", {}, ["no_statistics"]),
        (lambda x: np.maximum(instance_norm(x), 0), "layer_norm", {}, ["unexplained"]),
        (lambda x: x - np.median(x, -1, keepdims=True), "layer_norm", {}, ["unexplained"]),
    ],
)  # fmt: skip
def test_other_mistakes(fn, like, options, names):
    assert found(fn, like, **options) == names


def test_the_offset_at_which_a_naive_variance_breaks_is_found():
    (fault,) = normlib.diagnose(naive_layer_norm).faults
    assert (
        fault.words == "the variance is E[x^2] - E[x]^2, which breaks at a mean of 1000 standard deviations in float32"
    )


def test_squares_that_overflow_are_a_note_with_the_size_of_the_rows():
    (note,) = normlib.diagnose(rms_norm).notes
    assert (note.name, note.words) == ("overflow", "squares overflow: rows of 5e+18 come out wrong in float32")


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-6, 1e-8, 1e-12])
@pytest.mark.parametrize("wrong", [{}, {"variance": "unbiased_variance"}])
def test_eps_is_estimated(eps, wrong, monkeypatch):
    monkeypatch.setitem(planted.DENOMINATOR, "other", lambda v: np.sqrt(v + eps))
    norm = normlib.diagnose(planted.planted(denominator="other", **wrong)).norm
    assert norm.eps == pytest.approx(eps, rel=1e-9)


@pytest.mark.parametrize("variance", [None, "unbiased_variance", "sum_of_squares"])
@pytest.mark.parametrize(
    ("place", "denominator"),
    [
        ("variance", lambda v: np.sqrt(v + 1e-4)),
        ("deviation", lambda v: np.sqrt(v) + 1e-4),
        ("reciprocal", lambda v: 1 / (1 / np.sqrt(v) + 1e-4)),
        ("floor", lambda v: np.sqrt(np.maximum(v, 1e-4))),
    ],
)
def test_eps_is_estimated_wherever_it_stands_beside_whatever_variance(place, denominator, variance, monkeypatch):
    monkeypatch.setitem(planted.DENOMINATOR, "other", denominator)
    wrong = {} if variance is None else {"variance": variance}
    norm = normlib.diagnose(planted.planted(denominator="other", **wrong)).norm
    assert (norm.place, norm.ddof) == (place, {None: 0, "unbiased_variance": 1, "sum_of_squares": 15}[variance])
    assert norm.eps == pytest.approx(1e-4, rel=1e-9)


# ---- gradients ----


def backward(dy, x, weight, bias, mean_g=True, mean_gz=True):
    centered = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-5)
    z, g = centered * rstd, dy * weight
    dx = g - mean_g * g.mean(-1, keepdims=True) - mean_gz * z * (g * z).mean(-1, keepdims=True)
    return rstd * dx, (dy * z).sum((0, 1)), dy.sum((0, 1))


def not_summed(dy, x, weight, bias):
    dx, _, dbias = backward(dy, x, weight, bias)
    centered = x - x.mean(-1, keepdims=True)
    return dx, dy * centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-5), dbias


def averaged(dy, x, weight, bias):
    dx, dweight, dbias = backward(dy, x, weight, bias)
    return dx, dweight, dbias / dy[..., 0].size


@pytest.mark.parametrize(
    ("gradients", "names"),
    [
        (backward, []),
        (lambda dy, x: backward(dy, x, 1, 0)[0], ["wrong_gradient"]),
        (functools.partial(backward, mean_g=False, mean_gz=False), ["gradient_constants"]),
        (functools.partial(backward, mean_g=False), ["gradient_without_mean"]),
        (functools.partial(backward, mean_gz=False), ["gradient_without_variance"]),
        (not_summed, ["gradient_not_summed"]),
        (averaged, ["gradient_averaged"]),
    ],
)
def test_gradients(gradients, names):
    assert found(planted.planted(), "layer_norm", backward=gradients) == names


def test_a_gradient_that_cannot_be_taken_is_a_note():
    def raises(dy, x):
        raise RuntimeError("there is none")

    (note,) = normlib.diagnose(planted.planted(), backward=raises).notes
    assert (note.name, note.evidence.got) == ("no_gradient", "RuntimeError: there is none")


def test_a_function_of_one_batch_size_is_taken():
    def fixed(x, weight, bias):
        return planted.planted()(x.reshape(3, 5, 16), weight, bias)

    assert found(fixed, shape=(3, 5, 16)) == []


def test_a_gradient_is_held_against_what_is_computed_not_against_what_is_meant():
    unbiased = planted.planted(variance="unbiased_variance")
    assert faults(unbiased, "layer_norm", backward=backward) == [
        "unbiased_variance",
        "wrong_gradient",
        "wrong_parameter_gradient",
    ]


# ---- training and evaluation ----


class HandBatchNorm:
    """A batch norm on NumPy; what is wrong with it is said by keywords."""

    def __init__(self, momentum=0.1, **wrong):
        self.weight, self.bias = np.ones(6), np.zeros(6)
        self.running_mean, self.running_var = np.zeros(6), np.ones(6)
        self.momentum, self.wrong, self.training = momentum, wrong, True

    def train(self):
        self.training = True

    def eval(self):
        self.training = False

    def __call__(self, x):
        mean, var = x.mean(0), x.var(0)
        if self.training in self.wrong.get("fixed", [False]):
            mean, var = self.running_mean.copy(), self.running_var.copy()
        y = (x - mean) / np.sqrt(var + 1e-5) * self.weight + self.bias
        if self.training in self.wrong.get("updates", [True]):
            share = 1 - self.momentum if "reversed" in self.wrong else self.momentum
            self.running_mean += share * (x.mean(0) - self.running_mean)
            self.running_var += share * (x.var(0, ddof="biased" not in self.wrong) - self.running_var)
        return y


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({}, []),
        ({"reversed": True}, ["momentum_reversed"]),
        ({"biased": True}, ["biased_running_variance"]),
        ({"updates": [True, False]}, ["running_updated_in_eval"]),
        ({"updates": []}, ["running_not_updated"]),
        ({"fixed": []}, ["eval_uses_batch"]),
        ({"fixed": [True, False]}, ["train_uses_running"]),
        ({"reversed": True, "biased": True}, ["biased_running_variance", "momentum_reversed"]),
        ({"updates": [True, False], "fixed": []}, ["eval_uses_batch", "running_updated_in_eval"]),
        ({"updates": [False]}, ["running_not_updated", "running_updated_in_eval"]),
    ],
)
def test_running_statistics(wrong, names):
    assert found(HandBatchNorm(**wrong), "batch_norm") == names


class ImageBatchNorm:
    """Running statistics that broadcast against images, and a batch norm that takes each sample alone."""

    def __init__(self, axes):
        self.axes, self.training = axes, True
        self.running_mean, self.running_var = np.zeros((1, 6, 1, 1)), np.ones((1, 6, 1, 1))
        self.num_features = 6

    def train(self):
        self.training = True

    def eval(self):
        self.training = False

    def forward(self, x):
        mean, var = x.mean(self.axes, keepdims=True), x.var(self.axes, keepdims=True)
        if not self.training:
            return (x - self.running_mean) / np.sqrt(self.running_var + 1e-5)
        over = (0, 2, 3)
        self.running_mean += 0.1 * (x.mean(over, keepdims=True) - self.running_mean)
        self.running_var += 0.1 * (x.var(over, keepdims=True, ddof=1) - self.running_var)
        return (x - mean) / np.sqrt(var + 1e-5)


@pytest.mark.parametrize(
    ("axes", "names"), [((0, 2, 3), []), ((2, 3), ["wrong_axis"]), ((1, 2, 3), ["wrong_axis"]), (1, ["wrong_axis"])]
)
def test_running_statistics_that_broadcast(axes, names):
    assert found(ImageBatchNorm(axes), "batch_norm", shape=(4, 6, 3, 5)) == names


def test_the_module_that_was_given_is_left_as_it_was():
    norm = HandBatchNorm()
    normlib.diagnose(norm)
    assert (norm.running_mean.tolist(), norm.weight.tolist()) == ([0.0] * 6, [1.0] * 6)


def test_training_and_evaluation_that_differ():
    class Half(normlib.LayerNorm):
        def forward(self, x, *arguments, **more):
            return super().forward(x, *arguments, **more) * (0.5 if self.training else 1)

        __call__ = forward

    assert found(Half(8)) == ["train_eval_differ"]


# ---- right norms ----


@pytest.mark.parametrize(
    ("norm", "what"),
    [
        (normlib.layer_norm, "LayerNorm over the last axis, eps 1e-05, times w, plus b"),
        (normlib.rms_norm, "RMSNorm over the last axis, eps 1e-06, times w"),
        (normlib.LayerNorm((5, 8)), "LayerNorm over axes (2, 3), eps 1e-05, times w, plus b"),
        (normlib.LayerNorm(8, eps=1e-12, bias=False), "LayerNorm over the last axis, eps 1e-12, times w"),
        (normlib.RMSNorm(8, unit_offset=True), "RMSNorm over the last axis, eps 1e-06, times 1 + w"),
        (normlib.BatchNorm(8), "BatchNorm over axis 0, eps 1e-05, times w, plus b"),
        (normlib.BatchNorm(8, momentum=None), "BatchNorm over axis 0, eps 1e-05, times w, plus b"),
        (normlib.BatchNorm(8, track_running_stats=False), "BatchNorm over axis 0, eps 1e-05, times w, plus b"),
        (normlib.GroupNorm(2, 8), "GroupNorm over axes (2, 3) and 2 groups of axis 1, eps 1e-05, times w, plus b"),
        (normlib.InstanceNorm(8, affine=True), "InstanceNorm over axes (2, 3), eps 1e-05, times w, plus b"),
        (
            normlib.InstanceNorm(8, affine=True, track_running_stats=True),
            "InstanceNorm over axes (2, 3), eps 1e-05, times w, plus b",
        ),
        (
            functools.partial(normlib.batch_norm, training=True),
            "BatchNorm over axis 0, eps 1e-05, times w, plus b",
        ),
        (
            functools.partial(normlib.group_norm, num_groups=4),
            "GroupNorm over axes (2, 3) and 4 groups of axis 1, eps 1e-05, times w, plus b",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else getattr(getattr(value, "func", value), "__name__", str(value)),
)
def test_the_norms_of_normlib_are_right(norm, what):
    diagnosis = normlib.diagnose(norm)
    assert (diagnosis.findings, diagnosis.what) == ([], what)
    assert set(diagnosis.accuracy) >= {"itself", "normlib"}
    assert max(diagnosis.accuracy["normlib"]) <= 4


@pytest.mark.parametrize(
    ("fn", "options", "op"),
    [
        (planted.planted(), {}, "layer_norm"),
        (rms_norm, {}, "rms_norm"),
        (batch_norm, {"shape": (12, 7)}, "batch_norm"),
        (functools.partial(group_norm, groups=3), {"shape": (3, 12, 5, 4)}, "group_norm"),
        (lambda x: instance_norm(x), {}, "layer_norm"),
        (lambda x: instance_norm(x), {"shape": (20,)}, "layer_norm"),
    ],
)
def test_without_a_word_of_what_is_meant_it_is_the_nearest_right_norm(fn, options, op):
    diagnosis = normlib.diagnose(fn, **options)
    assert (diagnosis.meant, diagnosis.faults) == (op, [])


def test_an_offset_of_the_weight_that_nobody_spoke_of_is_a_note():
    def norm(x, weight):
        return rms_norm(x, 1 + weight)

    assert sorted(finding.name for finding in normlib.diagnose(norm).notes) == ["overflow", "unit_offset"]
    assert faults(norm, "rms_norm") == ["unit_offset"]
    assert found(norm, "rms_norm", unit_offset=True) == []


@pytest.mark.parametrize("width", [2, 3, 1024])
def test_rows_may_be_short_or_long(width):
    diagnosis = normlib.diagnose(normlib.LayerNorm(width))
    assert (diagnosis.findings, diagnosis.norm.eps) == ([], 1e-5)


# ---- what is said ----


def test_nothing_of_it_is_imported_before_it_is_asked_for():
    program = """
import sys, normlib
assert "diagnose" in normlib.__all__ and "normlib.diagnosis" not in sys.modules
assert callable(normlib.diagnose) and "normlib.diagnosis" in sys.modules
assert not {"torch", "jax", "keras", "onnx"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_the_text_has_evidence_and_a_cure_and_the_json_has_it_all():
    diagnosis = normlib.diagnose(planted.planted(variance="unbiased_variance", denominator="no_eps"), "layer_norm")
    text = str(diagnosis)
    assert text.splitlines()[0].endswith("layer_norm: LayerNorm over the last axis, no eps, times w, plus b")
    for part in ("divided by n - 1 = 15", "ddof=0", "expected", "got", "a constant row is 0 / 0", "2 faults found"):
        assert part in text
    data = json.loads(diagnosis.to_json())
    assert [finding["name"] for finding in data["findings"]] == ["unbiased_variance", "no_eps"]
    assert (data["ok"], data["norm"]["ddof"], data["meant"]) == (False, 1, "layer_norm")


def test_evidence_is_what_really_came():
    wrong = planted.planted(rows="couples_examples")
    (fault,) = normlib.diagnose(wrong, "layer_norm").faults
    assert "the first example as before, others beside it" in fault.evidence.input
    assert fault.evidence.expected != fault.evidence.got


def test_parameters_of_other_names_are_told_in_their_order():
    def norm(x, shift, by):
        return planted.planted()(x, by, shift)

    assert normlib.diagnose(norm, parameters=["bias", "weight"]).ok
    assert faults(norm, parameters=["weight", "bias"]) == ["swapped"]


def test_a_model_computes_what_it_says():
    x = np.random.default_rng(0).normal(size=(3, 5))
    weight, bias = np.arange(1.0, 6), np.ones(5)
    norm = Norm((1,), eps=1e-5, parameter_axes=(1,))
    np.testing.assert_allclose(norm(x, weight, bias), normlib.layer_norm(x, weight, bias), rtol=1e-13)


def test_every_finding_of_the_catalogue_is_planted_in_a_test_and_told_of_in_the_docs():
    here = Path(__file__).parent
    tests = "".join(path.read_text() for path in (*here.glob("test_diagnose*.py"), here / "scripts" / "planted.py"))
    page = (here.parent / "docs" / "diagnose.md").read_text(encoding="utf-8")
    assert [name for name in CATALOGUE if f'"{name}"' not in tests] == []
    assert re.findall(r"^\| `([a-z0-9_]+)` \|", page, re.MULTILINE) == list(CATALOGUE)


def test_the_page_runs():
    page = Path(__file__).parents[1] / "docs" / "diagnose.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (failed, tried > 3) == (0, True)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: normlib.diagnose(3), TypeError, "fn is 3, expected a function, a module or an ONNX node"),
        (lambda: normlib.diagnose(np.tanh, "norm"), ValueError, "like is 'norm', expected one of layer_norm"),
        (lambda: normlib.diagnose(np.tanh, axes=1), TypeError, "unknown argument 'axes', expected of axis"),
        (lambda: normlib.diagnose(np.tanh, dtype="int8"), ValueError, "dtype is 'int8', expected one of float16"),
        (lambda: normlib.diagnose(np.tanh, parameters=["x"]), ValueError, "expected of 'weight', 'bias', not 'x'"),
        (lambda: normlib.diagnose(np.sum), ValueError, "it could not be called, expected y of the shape of x"),
        (lambda: normlib.diagnose(lambda x, running_mean: x), ValueError, "takes 'running_mean', expected x, a weight"),
    ],
)
def test_what_cannot_be_probed_is_an_error(call, error, message):
    with pytest.raises(error, match=f"diagnose: .*{message}"):
        call()


# ---- the command line ----

PROGRAM = """
import numpy as np

def right(x, weight, bias):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-5) * weight + bias

def gradients(dy, x):
    return dy

def wrong(x):
    return x / (x.std(-1, keepdims=True) + 1e-5)

class Norm:
    def __init__(self):
        self.weight = np.ones(6)

    def forward(self, x):
        return right(x, self.weight, 0)
"""


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["right"], 0, "no fault found"),
        (["wrong", "--like", "layer_norm"], 1, "the mean is not subtracted"),
        (["right", "--eps", "1e-6"], 1, "eps is 1e-05, not 1e-06"),
        (["right", "--backward", "norms_of_a_user:gradients"], 1, "gradient"),
        (["right", "--shape", "4,16", "--axis", "0", "--like", "layer_norm"], 1, "wrong axis"),
        (["Norm()"], 0, "LayerNorm over the last axis, eps 1e-05, times w"),
        (["Norm"], 0, "LayerNorm over the last axis, eps 1e-05, times w"),
    ],
)
def test_the_command_says_it_and_its_status_is_for_scripts(arguments, status, text, tmp_path, monkeypatch, capsys):
    (tmp_path / "norms_of_a_user.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    name, *options = arguments
    assert cli.main(["diagnose", f"norms_of_a_user:{name}", *options]) == status
    assert text in capsys.readouterr().out
    assert cli.main(["diagnose", f"norms_of_a_user:{name}", *options, "--json"]) == status
    assert json.loads(capsys.readouterr().out)["ok"] is (status == 0)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("numpy", "target is 'numpy', expected MODULE:NAME or a file of ONNX"),
        ("numpy:no_such", "NameError"),
        ("no_such_module:f", "ModuleNotFoundError"),
        ("numpy:sum", "could not be called"),
    ],
)
def test_the_command_tells_what_it_could_not_probe(target, text, capsys):
    assert cli.main(["diagnose", target]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"normlib diagnose: {target}: ")
    assert text in captured.err
