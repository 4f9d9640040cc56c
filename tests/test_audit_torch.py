"""The audit of what torch makes: models exported to ONNX at batch 1, TorchScript, and what torch saves."""

import warnings

import checkpoints as make
import numpy as np
import pytest

from normlib.audit import audit

torch = pytest.importorskip("torch")

# -- exported by torch at batch 1 ----

LAST = (1, 6, 4, 4)


@pytest.fixture(scope="module")
def network():
    class RMSNorm(torch.nn.Module):
        """As in the models of transformers, with an offset or without."""

        def __init__(self, width, offset):
            super().__init__()
            self.weight, self.offset = torch.nn.Parameter(torch.rand(width) + 0.5), offset

        def forward(self, x):
            z = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
            return z * (1 + self.weight) if self.offset else z * self.weight

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.batch = torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6)
            self.free = torch.nn.BatchNorm2d(6, eps=1e-3)
            self.group = torch.nn.GroupNorm(2, 6, eps=1e-4)
            self.instance = torch.nn.InstanceNorm2d(6, affine=True)
            self.layer, self.plain = torch.nn.LayerNorm(4), torch.nn.LayerNorm(4, eps=1e-6)
            self.llama, self.gemma = RMSNorm(4, False), RMSNorm(4, True)

        def forward(self, x):
            x = self.batch(self.conv(x))
            for norm in (self.free, self.group, self.instance, self.layer, self.plain, self.llama, self.gemma):
                x = norm(torch.tanh(x) + x)
            return x

    torch.manual_seed(0)
    made = Network().eval()
    for parameter in made.parameters():
        torch.nn.init.uniform_(parameter, 0.2, 0.8)
    return made


def exported(network, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.ones(1, 3, 6, 6),), path, verbose=False, **options)
    return path


EXPECTED = {
    "free": ("batch_norm", 1e-3), "group": ("group_norm", 1e-4), "instance": ("instance_norm", 1e-5),
    "layer": ("layer_norm", 1e-5), "plain": ("layer_norm", 1e-6), "llama": ("rms_norm", 1e-6),
    "gemma": ("rms_norm", 1e-6),
}  # fmt: skip


@pytest.mark.parametrize("options", [{"dynamo": True}, {"opset_version": 17, "dynamo": False},
                                     {"opset_version": 14, "dynamo": False}])  # fmt: skip
def test_each_norm_of_a_model_arrived(tmp_path, network, options):
    """By its name, or its weight; and what was taken apart, or folded into a convolution, is said."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    report = audit(exported(network, tmp_path / "x.onnx", **options))
    assert {norm.name: (norm.kind, norm.eps) for norm in report.norms} == EXPECTED
    state = network.state_dict()
    for norm in report.norms:
        weight = state[f"{norm.name}.weight"].double().numpy()
        folded = norm.name == "gemma" and not norm.offset
        np.testing.assert_allclose(norm.weight.values(), weight + folded, rtol=1e-6)
    apart = {name for finding in report.findings if finding.rule == "taken-apart" for name in finding.norms}
    whole = {"free", "instance"} | ({"layer", "plain"} if options.get("opset_version") != 14 else set())
    assert apart == EXPECTED.keys() - whole
    folded = [finding for finding in report.findings if finding.rule == "folded"]
    assert [finding.norms for finding in folded] == ([("batch",)] if "opset_version" not in options else [])


def test_beside_its_origin_the_norm_that_a_convolution_took_in_is_missing(tmp_path, network):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    torch.save(network.state_dict(), tmp_path / "x.pt")
    report = audit(exported(network, tmp_path / "x.onnx", dynamo=True), against=tmp_path / "x.pt")
    missing = [name for finding in report.findings if finding.rule == "norm-missing" for name in finding.norms]
    assert missing == ["batch"]


# -- TorchScript, and what torch saves ----


@pytest.mark.parametrize("made", ["trace", "script"])
def test_torchscript_is_read_without_running_it(tmp_path, network, made):
    one = torch.nn.Sequential(*(getattr(network, name) for name in ("free", "group", "instance", "layer", "plain")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(one) if made == "script" else torch.jit.trace(one, torch.ones(LAST))
    script.save(tmp_path / "x.pt")
    report = audit(tmp_path / "x.pt")
    assert report.format == "torchscript"
    expected = [EXPECTED[name] for name in ("free", "group", "instance", "layer", "plain")]
    assert [(norm.kind, norm.eps) for norm in report.norms] == expected
    np.testing.assert_array_equal(report.norms[1].bias.values(), network.group.bias.detach().numpy())
    follows = [finding.norms for finding in report.findings if finding.rule == "norm-after-norm"]
    assert follows == [("1",), ("2",), ("3",), ("4",)]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_what_the_tests_write(tmp_path, zipped):
    arrays = make.resnet()
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    state["layer1.0.bn1.num_batches_tracked"] = torch.tensor(7)
    state["half_norm.weight"] = torch.arange(6.0).bfloat16()[::2]
    state["shared_norm.weight"] = torch.nn.Parameter(state["layer1.0.bn1.weight"][2:5])
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    report = audit(tmp_path / "x.pt")
    assert [norm.name for norm in report.norms] == ["half_norm", *(f"layer1.{i}.bn1" for i in range(3)), "shared_norm"]
    np.testing.assert_array_equal(report.norms[0].weight.values(), [0, 2, 4])
    np.testing.assert_array_equal(report.norms[4].weight.values(), arrays["layer1.0.bn1.weight"][2:5])
    for norm in report.norms[1:4]:
        for key, tensor in norm.tensors.items():
            np.testing.assert_array_equal(tensor.values(), arrays[f"{norm.name}.{key}"])
