"""The audit of checkpoints: what it reads from each format, each finding on a checkpoint with that fault, its words."""

import json
import os
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec

import checkpoints as make
import numpy as np
import pytest

from normlib import cli
from normlib.audit import RULES, Unreadable, audit
from normlib.audit._against import CURES

LAST = "layers.2.input_layernorm"


def rules(report):
    return {finding.rule for finding in report.findings}


def found(report, rule):
    """The names and words of the findings of a rule."""
    return [(finding.norms, finding.words) for finding in report.findings if finding.rule == rule]


# -- formats ----

WRITERS = {
    "safetensors": lambda path, arrays: make.safetensors(path / "model.safetensors", arrays),
    "torch": lambda path, arrays: make.torch(path / "model.pt", arrays),
    "gguf": lambda path, arrays: make.gguf(path / "model.gguf", arrays, {"general.name": "x"}),
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_formats_give_the_same_norms_and_values(tmp_path, form, dtype):
    arrays = {
        name: make.bfloat16(array) if dtype == "bfloat16" else array.astype(dtype)
        for name, array in make.bert().items()
    }
    report = audit(WRITERS[form](tmp_path, arrays))
    assert report.format == form
    assert len(report.norms) == 7
    for norm in report.norms:
        assert (norm.kind, norm.width, norm.eps) == ("layer_norm", 8, None)
        for key in ("weight", "bias"):
            tensor, array = norm.tensors[key], arrays[f"{norm.name}.{key}"]
            assert (tensor.dtype, tensor.shape) == (dtype, (8,))
            wide = array.astype(np.uint32) << 16 if dtype == "bfloat16" else array
            exact = wide.view(np.float32) if dtype == "bfloat16" else wide
            np.testing.assert_array_equal(tensor.values(), exact.astype(np.float64))
            values = report.values[norm.name][key]
            assert (values.low, values.high) == (exact.min(), exact.max())


def test_a_healthy_checkpoint_has_no_findings(tmp_path):
    report = audit(make.folder(tmp_path, make.llama(), make.LLAMA))
    assert (report.findings, report.status) == ((), 0)
    assert [norm.name for norm in report.norms][-1] == "model.norm"
    assert {norm.kind for norm in report.norms} == {"rms_norm"}
    assert {(norm.eps, norm.eps_from) for norm in report.norms} == {(1e-6, "config.json, rms_norm_eps")}
    assert audit(make.gguf(tmp_path / "x.gguf", make.in_gguf(make.llama()), make.GGUF)).findings == ()
    assert audit(make.folder(tmp_path / "bert", make.bert(), make.BERT)).findings == ()


def test_shards_are_one_checkpoint(tmp_path):
    arrays = make.llama()
    names = sorted(arrays)
    index = {}
    for i, part in enumerate((names[:4], names[4:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        make.safetensors(tmp_path / file, {name: arrays[name] for name in part})
        index |= dict.fromkeys(part, file)
    (tmp_path / "config.json").write_text(json.dumps(make.LLAMA))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert len(audit(tmp_path).norms) == 7
    assert audit(tmp_path).findings == ()
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(Unreadable, match=r"model-00001-of-00002\.safetensors is not a regular file"):
        audit(tmp_path)


def test_a_training_checkpoint_of_torch_holds_its_state_dict_within(tmp_path):
    arrays = make.resnet()
    inner = make.state_dict(arrays)[2:-1]
    optimizer = make.unicode("optimizer") + b"}(" + make.unicode("lr") + b"G" + bytes(8) + b"u"
    pickle = b"\x80\x02}(" + make.unicode("model") + inner + optimizer + b"u."
    report = audit(make.torch(tmp_path / "x.pt", arrays, pickle), ignore=["eps-missing"])
    assert [norm.name for norm in report.norms] == [f"layer1.{i}.bn1" for i in range(3)]
    assert {norm.kind for norm in report.norms} == {"batch_norm"}


def test_a_view_with_strides_is_read(tmp_path):
    base = np.arange(16, dtype=np.float32)
    report = audit(make.torch(tmp_path / "x.pt", {"norm.weight": base}, make.state_dict({"norm.weight": base[::2]})))
    np.testing.assert_array_equal(report.norms[0].weight.values(), base[::2])


def test_q8_0_is_decoded(tmp_path):
    gguf = pytest.importorskip("gguf")
    weight = np.random.default_rng(0).normal(1, 0.1, 64).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    stored = gguf.quants.quantize(weight[None], kind)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc"])
    writer.add_array("some.numbers", [[1, 2], [3, 4]])
    writer.add_tensor("output_norm.weight", stored[0], raw_dtype=kind)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    report = audit(tmp_path / "x.gguf")
    assert (report.norms[0].width, report.norms[0].eps) == (64, 1e-5)
    np.testing.assert_array_equal(report.norms[0].weight.values(), gguf.quants.dequantize(stored, kind)[0])
    assert found(report, "quantized") == [(("output_norm",), "parameters in Q8_0")]


def test_the_library_of_safetensors_writes_what_is_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = make.bert()
    numpy.save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for norm in audit(tmp_path).norms:
        np.testing.assert_array_equal(norm.bias.values(), arrays[f"{norm.name}.bias"].astype(np.float64))


def test_norms_alone_are_read(tmp_path):
    """A weight of 64 GB between two norms, which no disk here holds: a hole in the file."""
    size = 1 << 36
    norm = {"dtype": "F32", "shape": [2]}
    header = {
        "a_norm.weight": norm | {"data_offsets": [0, 8]},
        "big.weight": {"dtype": "U8", "shape": [size], "data_offsets": [8, 8 + size]},
        "b_norm.weight": norm | {"data_offsets": [8 + size, 16 + size]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + np.float32([2, 3]).tobytes())
        file.seek(size, 1)
        file.write(np.float32([4, 5]).tobytes())
    tracemalloc.start()
    try:
        report = audit(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [report.values[name]["weight"].low for name in ("a_norm", "b_norm")] == [2, 4]
    assert peak < 1 << 20


# -- which tensors are norms, of what kind, with which eps and placement ----


def test_what_is_no_norm_is_left_out(tmp_path):
    arrays = make.layers(2, **{
        "layers.#.linear.weight": (4, 4), "layers.#.linear.bias": (4,), "layers.#.act.weight": (1,),
        "layers.#.ls1.gamma": (4,), "layers.#.norm1.linear.weight": (8, 4), "layers.#.norm1.linear.bias": (8,),
        "layers.#.conv.weight": (4, 4, 3), "layers.#.conv.weight_norm.weight": (4,), "cls_token": (1, 1, 4),
        "layers.#.norm2.weight": (4,), "layers.#.norm2.bias": (4,), "stack.1.weight": (4,), "stack.1.bias": (4,),
    })  # fmt: skip
    names = [norm.name for norm in audit(make.safetensors(tmp_path / "x.safetensors", arrays)).norms]
    assert names == ["layers.0.norm2", "layers.1.norm2", "stack.1"]


@pytest.mark.parametrize(
    ("arrays", "config", "kind", "why"),
    [
        ({"bn1.weight": 4, "bn1.running_mean": 4, "bn1.running_var": 4}, {}, "batch_norm", "running statistics"),
        ({"block.gn1.weight": 4, "block.gn1.bias": 4}, {}, "group_norm", "its name"),
        ({"net.0.weight": (4, 4, 3), "net.1.weight": 4, "net.1.bias": 4}, {}, "group_norm", "a convolution before it"),
        ({"ln_f.weight": 4, "ln_f.bias": 4}, {}, "layer_norm", "biases"),
        ({"norm.gamma": 4, "norm.beta": 4}, {}, "layer_norm", "biases"),
        ({"norm.weight": 4}, {}, "rms_norm", "no biases"),
        ({"norm.weight": 4}, {"model_type": "mpt"}, "layer_norm", "the architecture, mpt"),
        ({"norm.weight": 4}, {"model_type": "new", "rms_norm_eps": 1e-5}, "rms_norm", "the key rms_norm_eps"),
        ({"norm.weight": 4, "norm.bias": 4}, {"model_type": "t5"}, "rms_norm", "the architecture, t5"),
    ],
)
def test_kinds(tmp_path, arrays, config, kind, why):
    arrays = {name: np.full(shape, 1.5, np.float32) for name, shape in arrays.items()}
    (norm,) = audit(make.folder(tmp_path, arrays, config)).norms
    assert (norm.kind, norm.kind_from) == (kind, why)
    assert norm.placement == ""  # there are no blocks that it could end


@pytest.mark.parametrize(
    ("config", "eps", "source"),
    [
        ({"rms_norm_eps": 1e-5}, 1e-5, "config.json, rms_norm_eps"),
        ({"layer_norm_epsilon": 1e-5, "rms_norm_eps": 1e-6}, 1e-6, "config.json, rms_norm_eps"),
        ({"text_config": {"rms_norm_eps": 1e-5, "model_type": "llama"}}, 1e-5, "config.json, rms_norm_eps"),
        ({"model_type": "llama"}, 1e-6, "not in the file; the default of llama"),
        ({"rms_norm_eps": "1e-5"}, None, ""),
        ({}, None, ""),
    ],
)
def test_eps_and_where_it_comes_from(tmp_path, config, eps, source):
    (norm,) = audit(make.folder(tmp_path, {"norm.weight": np.float32([1, 2])}, config)).norms
    assert (norm.eps, norm.eps_from) == (eps, source)


def test_parts_of_a_model_have_configurations_of_their_own(tmp_path):
    arrays = make.layers(1, **{
        "model.vision_tower.layers.0.layer_norm1.weight": (4,), "model.vision_tower.layers.0.layer_norm1.bias": (4,),
        "model.language_model.layers.0.input_layernorm.weight": (4,),
    })  # fmt: skip
    config = {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "rms_norm_eps": 1e-6},
        "vision_config": {"model_type": "siglip_vision_model", "layer_norm_eps": 1e-5},
    }
    text, vision = audit(make.folder(tmp_path, arrays, config)).norms
    assert (text.kind, text.eps, text.offset, text.placement) == ("rms_norm", 1e-6, True, "sandwich")
    assert (vision.kind, vision.eps, vision.offset, vision.placement) == ("layer_norm", 1e-5, False, "pre")
    del config["text_config"]["rms_norm_eps"]
    text, _ = audit(make.folder(tmp_path, arrays, config)).norms
    assert (text.offset, text.eps, text.eps_from) == (True, 1e-6, "not in the file; the default of gemma3_text")


@pytest.mark.parametrize(
    ("model", "names", "expected"),
    [
        ("llama", ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm"], ["pre", "pre", "QK"]),
        ("gemma2", ["input_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"], ["sandwich"] * 3),
        ("olmo2", ["post_attention_layernorm", "post_feedforward_layernorm"], ["res-post"] * 2),
        ("bert", ["attention.output.LayerNorm", "output.LayerNorm"], ["post"] * 2),
        ("gpt2", ["ln_1", "ln_2"], ["pre", "pre"]),
        ("bart", ["self_attn_layer_norm", "final_layer_norm"], ["post", "post"]),
        ("unknown", ["some_norm"], [""]),
    ],
)
def test_placements(tmp_path, model, names, expected):
    arrays = make.layers(1, **{f"model.layers.#.{name}.weight": (4,) for name in names}, **{"model.norm.weight": (4,)})
    report = audit(make.folder(tmp_path, arrays, {"model_type": model}))
    placements = {norm.name: norm.placement for norm in report.norms}
    assert [placements[f"model.layers.0.{name}"] for name in names] == expected
    assert placements["model.norm"] == "final"


def test_places_have_one_name_in_all_formats(tmp_path):
    """What the norms of transformers are called in GGUF; a block with four norms takes a name for another place."""
    shapes = {f"model.layers.#.{name}.weight": (4,) for name in ("input_layernorm", "post_attention_layernorm")}
    two = make.layers(2, **shapes)
    four = two | make.layers(2, **{f"model.layers.#.{n}_feedforward_layernorm.weight": (4,) for n in ("pre", "post")})
    roles = ({norm.role for norm in audit(make.folder(tmp_path, arrays, {})).norms} for arrays in (two, four))
    names = {"attn_norm", "ffn_norm"}, {"attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"}
    assert [*roles] == [{f"blk.{i}.{name}" for i in range(2) for name in of} for of in names]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("LLAMA", ["model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm", "model.norm"]),
        ("QWEN3", ["model.layers.1.self_attn.q_norm", "model.layers.1.self_attn.k_norm"]),
        ("GEMMA2", [f"model.layers.1.{name}_layernorm" for name in
                    ("input", "post_attention", "pre_feedforward", "post_feedforward")]),
        ("GPT2", ["transformer.h.1.ln_1", "transformer.h.1.ln_2", "transformer.ln_f"]),
        ("BERT", ["embeddings.LayerNorm", "encoder.layer.1.attention.output.LayerNorm",
                  "encoder.layer.1.output.LayerNorm"]),
    ],
)  # fmt: skip
def test_places_are_called_as_the_converter_of_gguf_calls_them(tmp_path, model, names):
    gguf = pytest.importorskip("gguf")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model], 2)
    arrays = {f"{name}.weight": np.float32([1, 2]) for name in [*names, "layers.0.norm"]}
    norms = {norm.name: norm.role for norm in audit(make.safetensors(tmp_path / "x.safetensors", arrays)).norms}
    assert [norms[name] for name in names] == [table.get_name(name) for name in names]


@pytest.mark.parametrize("form", WRITERS)
def test_norms_with_a_weight_for_each_head(tmp_path, form):
    weight = np.arange(8, dtype=np.float32).reshape(2, 4)
    (norm,) = audit(WRITERS[form](tmp_path, {"blk.0.attn_q_norm.weight": weight, "blk.0.attn_k.weight": weight})).norms
    assert (norm.placement, norm.width, norm.weight.shape) == ("QK", 8, (2, 4))


# -- findings: each on a checkpoint with that fault ----


def changed(arrays, **changes):
    """Arrays with those whose names end so replaced by what a function makes of them; None leaves them out."""
    result = dict(arrays)
    for end, change in changes.items():
        matching = [name for name in arrays if name.endswith(end.replace("__", "."))]
        assert matching, end
        for name in matching:
            result[name] = None if change is None else change(arrays[name])
    return {name: array for name, array in result.items() if array is not None}


def first_nan(array):
    return np.concatenate([[np.float32(np.nan)], array[1:]])


def first_zero(array):
    return np.concatenate([[np.float32(0)], array[1:]])


NORMS_OF_LLAMA = 7
FAULTS = {
    "parameter-missing": (
        make.bert, {"layer__1__output__LayerNorm__bias": None}, make.BERT, ["encoder.layer.1.output.LayerNorm"],
    ),
    "16-bit": (make.llama, {"model__norm__weight": lambda a: a.astype("f2")}, make.LLAMA, ["model.norm"]),
    "quantized": (make.llama, {"model__norm__weight": lambda a: a.astype(np.int8)}, make.LLAMA, ["model.norm"]),
    "eps-missing": (make.llama, {}, {"model_type": "llama"}, NORMS_OF_LLAMA),
    "eps-unusual": (make.llama, {}, make.LLAMA | {"rms_norm_eps": 1e-12}, NORMS_OF_LLAMA),
    "weights-about-0": (make.llama, {"norm__weight": lambda a: a - a.mean()}, make.LLAMA, NORMS_OF_LLAMA),
    "weights-about-2": (make.llama, {"norm__weight": lambda a: 1 + a}, make.LLAMA, NORMS_OF_LLAMA),
    "not-finite": (make.llama, {"layers__1__input_layernorm__weight": first_nan}, make.LLAMA,
                   ["model.layers.1.input_layernorm"]),
    "all-ones": (make.llama, {"model__norm__weight": np.ones_like}, make.LLAMA, ["model.norm"]),
    "layer-as-rms": (make.bert, {}, make.LLAMA, 7),
    "batch-in-sequence": (
        lambda: make.llama() | {f"model.layers.1.conv.bn.{k}": np.ones(4, "f4") * 2 for k in
                                ("weight", "bias", "running_mean", "running_var")},
        {}, make.LLAMA, ["model.layers.1.conv.bn"],
    ),
    "norm-after-norm": (
        lambda: make.bert() | {f"encoder.norm.{k}": np.ones(8, "f4") * 2 for k in ("weight", "bias")}, {}, make.BERT,
        ["encoder.norm"],
    ),
    "dead-channel": (make.resnet, {"1__bn1__running_var": first_zero}, {}, ["layer1.1.bn1"]),
    "layers-missing": (make.llama, {"layers__1__input_layernorm__weight": None}, make.LLAMA,
                       ["model.layers.*.input_layernorm"]),
    "too-few-layers": (make.llama, {}, make.LLAMA | {"num_hidden_layers": 5}, ["layers 3 to 4"]),
}  # fmt: skip
OF_GRAPHS = {"taken-apart", "folded"}  # which test_audit_onnx.py has


def test_each_rule_has_a_checkpoint_with_that_fault():
    assert FAULTS.keys() | OF_GRAPHS == RULES.keys()


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_found_and_named(tmp_path, rule):
    arrays, changes, config, names = FAULTS[rule]
    arrays = arrays()
    report = audit(make.folder(tmp_path / "faulty", changed(arrays, **changes), config))
    assert [name for norms, _ in found(report, rule) for name in norms] == names or (
        sum(len(norms) for norms, _ in found(report, rule)) == names
    )
    if changes:
        assert rule not in rules(audit(make.folder(tmp_path / "sound", arrays, config)))
    assert rule not in rules(audit(tmp_path / "faulty", ignore=[rule]))


def test_of_an_unknown_architecture_most_norms_tell_what_is_missing(tmp_path):
    arrays = make.layers(3, **{f"a.#.norm.{key}": (4,) for key in ("weight", "bias")})
    for missing in ("bias", "weight"):
        broken = {name: array for name, array in arrays.items() if name != f"a.1.norm.{missing}"}
        report = audit(make.safetensors(tmp_path / "x.safetensors", broken))
        assert found(report, "parameter-missing") == [(("a.1.norm",), f"layer_norm without its {missing}")]
    half = {name: array for name, array in arrays.items() if name not in ("a.1.norm.bias", "a.2.norm.bias")}
    report = audit(make.safetensors(tmp_path / "x.safetensors", half))
    assert found(report, "parameter-missing") == []


def test_what_multiplies_is_what_counts(tmp_path):
    """Weights about 0 are right for an offset, and those about 1 wrong."""
    arrays = make.llama()
    gemma = {"model_type": "gemma", "rms_norm_eps": 1e-6}
    offsets = changed(arrays, norm__weight=lambda a: a - 1)
    assert audit(make.folder(tmp_path, offsets, gemma)).findings == ()
    folded = make.folder(tmp_path, changed(arrays, norm__weight=lambda a: 1 + a / 10), gemma)
    assert rules(audit(folded)) == {"weights-about-2"}
    zeros = make.folder(tmp_path, changed(arrays, norm__weight=np.zeros_like), gemma)
    assert rules(audit(zeros)) == {"all-ones"}
    in_gguf = {"general.architecture": "gemma", "gemma.attention.layer_norm_rms_epsilon": 1e-6}
    assert audit(make.gguf(tmp_path / "a.gguf", make.in_gguf(arrays), in_gguf)).findings == ()
    assert rules(audit(make.gguf(tmp_path / "b.gguf", make.in_gguf(offsets), in_gguf))) == {"weights-about-0"}


def test_the_wrong_key_of_gguf_is_a_layer_norm_loaded_as_another(tmp_path):
    arrays = make.layers(2, **{"blk.#.attn_norm.weight": (4,), "blk.#.attn_norm.bias": (4,)})
    wrong = {"general.architecture": "gpt2", "gpt2.attention.layer_norm_rms_epsilon": 1e-5}
    assert rules(audit(make.gguf(tmp_path / "x.gguf", arrays, wrong))) == {"layer-as-rms"}
    right = {"general.architecture": "gpt2", "gpt2.attention.layer_norm_epsilon": 1e-5}
    assert rules(audit(make.gguf(tmp_path / "x.gguf", arrays, right))) == set()


def test_layers_of_another_make_lack_nothing(tmp_path):
    """Every fourth layer has attention and its norms of queries, as in Qwen3-Next; the others have none to lack."""
    arrays = make.llama(8)
    for i in range(8):
        del arrays[f"model.layers.{i}.self_attn.q_proj.weight"]
        inner = "self_attn.q_norm" if i % 4 == 3 else "linear_attn.norm"
        arrays[f"model.layers.{i}.{inner}.weight"] = np.float32([1, 0.5])
    assert audit(make.folder(tmp_path, arrays, make.LLAMA)).findings == ()


def test_architectures_that_fix_eps_in_their_code_miss_no_key(tmp_path):
    arrays = make.layers(2, **{f"layers.#.self_attn_layer_norm.{key}": (4,) for key in ("weight", "bias")})
    report = audit(make.folder(tmp_path, arrays, {"model_type": "bart"}))
    assert report.findings == ()
    assert {(norm.eps, norm.eps_from) for norm in report.norms} == {(1e-5, "the code of bart")}


# -- against the origin ----


def as_gguf(path, arrays, **metadata):
    return make.gguf(path, make.in_gguf(arrays), make.GGUF | metadata)


def against(tmp_path, converted, config=make.LLAMA, arrays=None):
    """What differs from a Llama in safetensors; the other findings are left out."""
    origin = make.folder(tmp_path / "origin", make.llama() if arrays is None else arrays, config)
    return [f for f in audit(converted, against=origin).findings if f.rule in CURES]


def test_a_faithful_conversion_changes_nothing(tmp_path):
    assert against(tmp_path, as_gguf(tmp_path / "x.gguf", make.llama())) == []
    assert against(tmp_path, make.folder(tmp_path / "x", make.llama(), make.LLAMA)) == []
    assert against(tmp_path, make.torch(tmp_path / "x.pt", make.llama()), {}) == []


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        ("norm-missing", None, "rms_norm of the origin is not there"),
        ("dtype-changed", lambda a: a.astype("f8"), "weight: float32 became float64"),
        ("values-changed", lambda a: a.astype("f2"), "weight: rounded to float16, 8 of 8 values by at most"),
        ("values-changed", make.bfloat16, "weight: other values, 8 of 8 values by at most"),  # cut off
        ("values-changed", lambda a: np.nextafter(a, np.float32(9)), "weight: other values, 8 of 8 values by at most"),
        ("values-changed", lambda a: a[:4], "weight: 8 values became 4"),
        ("permuted", lambda a: a[::-1], "weight: the same values in another order"),
    ],
)
def test_what_a_conversion_changed(tmp_path, rule, change, words):
    arrays = changed(make.llama(), model__norm__weight=change)
    changes = {found.rule: found for found in against(tmp_path, as_gguf(tmp_path / "x.gguf", arrays))}
    assert words in changes[rule].words
    assert changes[rule].norms == ("model.norm" if rule == "norm-missing" else "output_norm",)
    other_dtype = change is not None and arrays["model.norm.weight"].dtype != np.float32
    assert changes.keys() == {rule} | ({"dtype-changed"} if other_dtype else set())


def test_the_norm_of_a_head_is_not_the_last_of_the_blocks(tmp_path):
    """That of RoBERTa follows a dense layer."""
    head = {f"lm_head.layer_norm.{key}": np.float32([1, 2]) for key in ("weight", "bias")}
    report = audit(make.folder(tmp_path, make.bert() | head, make.BERT | {"model_type": "roberta"}))
    assert (report.findings, report.norms[-1].name, report.norms[-1].placement) == ((), "lm_head.layer_norm", "")


def test_names_of_any_letters(tmp_path):
    names = ["²", "a.².norm", "layers.²", "٣.norm", "layers.9999999999999.norm", "..", "norm.", "", "é.bn1"]
    arrays = {f"{name}.{key}": np.float32([1, 2]) for name in names for key in ("weight", "bias")}
    report = audit(make.safetensors(tmp_path / "x.safetensors", arrays), ignore=["eps-missing"])
    assert ({norm.name for norm in report.norms}, report.findings) == (set(names), ())


def test_another_eps(tmp_path):
    other = as_gguf(tmp_path / "x.gguf", make.llama(), **{"llama.attention.layer_norm_rms_epsilon": 1e-5})
    (change,) = against(tmp_path, other)
    assert (change.rule, change.words, len(change.norms)) == ("eps-changed", "eps 1e-06 became 1e-05", 7)
    (change,) = against(tmp_path, make.torch(tmp_path / "x.pt", make.llama()))
    assert (change.rule, change.words) == ("eps-changed", "eps 1e-06 is no longer in the file")


def test_a_norm_that_the_origin_lacks(tmp_path):
    more = make.llama() | {"extra_norm.weight": np.float32([3, 4, 5])}
    (change,) = against(tmp_path, make.folder(tmp_path / "x", more, make.LLAMA))
    assert (change.rule, change.norms) == ("norm-added", ("extra_norm",))


def test_offsets_are_folded_in_or_lost(tmp_path):
    """The conversion to GGUF adds the 1 of Gemma's 1 + w."""
    origin = changed(make.llama(), norm__weight=lambda a: a - 1)
    gemma = {"model_type": "gemma", "rms_norm_eps": 1e-6}
    metadata = {"general.architecture": "gemma", "gemma.attention.layer_norm_rms_epsilon": 1e-6}

    def converted(change):
        return make.gguf(tmp_path / "x.gguf", make.in_gguf(changed(origin, norm__weight=change)), metadata)

    (change,) = against(tmp_path, converted(lambda a: a + 1), gemma, origin)
    assert (change.rule, len(change.norms)) == ("offset-folded", 7)
    (change,) = against(tmp_path, converted(lambda a: a), gemma, origin)
    assert (change.rule, len(change.norms)) == ("offset-changed", 7)
    first, *_ = against(tmp_path, converted(lambda a: a + 2), gemma, origin)
    assert first.rule == "values-changed"
    (change,) = against(tmp_path, make.folder(tmp_path / "x", make.llama(), gemma))
    assert (change.rule, len(change.norms)) == ("offset-changed", 7)


def test_a_layer_norm_that_became_an_rms_norm(tmp_path):
    arrays = make.layers(2, **{"a.#.norm.weight": (4,), "a.#.norm.bias": (4,)})
    without = {name: array for name, array in arrays.items() if name.endswith("weight")}
    changes = against(tmp_path, make.safetensors(tmp_path / "x.safetensors", without), {}, arrays)
    assert [(change.rule, len(change.norms)) for change in changes] == [("kind-changed", 2), ("parameter-lost", 2)]


def test_norms_with_other_names_are_known_by_their_bits(tmp_path):
    arrays = make.llama()
    renamed = {name.replace("input_layernorm", "some_norm"): a for name, a in arrays.items()}
    for i, j in ((0, 7), (1, 6), (2, 5)):  # in another order
        renamed = {name.replace(f"model.layers.{i}.", f"m.layers.{j}."): a for name, a in renamed.items()}
    config = make.LLAMA | {"num_hidden_layers": 8}
    assert against(tmp_path, make.folder(tmp_path / "x", renamed, config)) == []
    faulty = changed(renamed, layers__6__some_norm__weight=lambda a: a * 3)
    (change,) = against(tmp_path, make.folder(tmp_path / "x", faulty, config))
    assert (change.rule, change.norms) == ("values-changed", ("m.layers.6.some_norm",))


# -- words ----


def test_a_report_in_words(tmp_path):
    arrays = changed(make.llama(1), model__norm__weight=first_nan)
    report = audit(make.folder(tmp_path, arrays, make.LLAMA | {"num_hidden_layers": 1}))
    lines = str(report).splitlines()
    assert lines[0] == f"{tmp_path / 'model.safetensors'}: safetensors, llama, 3 norms"
    assert lines[2].split() == ["name", "norm", "width", "eps", "eps", "from", "place", "times", "dtype", "weight"]
    row = lines[3].split()
    assert row[:4] == ["model.layers.0.input_layernorm", "RMSNorm", "8", "1e-06"]
    assert row[4:9] == ["config.json,", "rms_norm_eps", "pre", "w", "float32"]
    assert "not-finite: model.norm: 1 of 8 values of weight are NaN or infinite" in lines
    assert lines[-1] == "1 finding"
    assert repr(report) == f"Report({str(tmp_path / 'model.safetensors')!r}), 3 norms, 1 finding"


def test_a_card(tmp_path):
    assert audit(make.folder(tmp_path, make.llama(), make.LLAMA)).card().splitlines() == [
        "| norm | count | placement | eps | times | dtype |",
        "|---|---|---|---|---|---|",
        "| RMSNorm | 6 | pre | 1e-06 | weight | float32 |",
        "| RMSNorm | 1 | final | 1e-06 | weight | float32 |",
    ]


def test_json_has_all_of_it(tmp_path):
    arrays = changed(make.bert(), layer__1__output__LayerNorm__weight=lambda a: np.full_like(a, np.nan))
    report = audit(make.folder(tmp_path, arrays, make.BERT))
    got = json.loads(report.json(), parse_constant=pytest.fail)
    assert [norm["name"] for norm in got["norms"]] == [norm.name for norm in report.norms]
    assert got["norms"][0]["parameters"]["bias"]["low"] == arrays["embeddings.LayerNorm.bias"].min()
    broken = next(norm for norm in got["norms"] if norm["name"] == "encoder.layer.1.output.LayerNorm")
    assert broken["parameters"]["weight"]["mean"] is None
    assert [finding["rule"] for finding in got["findings"]] == ["not-finite"]


def test_names_do_not_drive_a_terminal(tmp_path):
    name = "\x1b[2J\x9b31m\u202e" + "long" * 100 + "norm"
    report = audit(make.safetensors(tmp_path / "x.safetensors", {f"{name}.weight": np.float32([np.nan, 1])}))
    assert report.norms[0].name == name
    assert all(line.isprintable() for line in str(report).splitlines())
    assert max(map(len, str(report).splitlines())) < 700


# -- the command ----


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["sound"], 0, "no findings"),
        (["faulty"], 1, "eps-unusual"),
        (["faulty", "--ignore", "eps-unusual"], 0, "no findings"),
        (["faulty", "--against", "sound", "--ignore", "eps-unusual"], 1, "eps-changed"),
        (["faulty", "--card"], 1, "| RMSNorm | 6 | pre | 1e-12 |"),
        (["faulty", "--json"], 1, '"rule": "eps-unusual"'),
        (["absent"], 2, "absent does not exist"),
        (["broken.gguf"], 2, "broken.gguf: the header: bytes 4 to 8"),
        (["sound", "--against", "broken.gguf"], 2, "broken.gguf"),
        (["sound", "--ignore", "nothing"], 2, "ignore names 'nothing', expected some of parameter-missing"),
    ],
)
def test_exit_statuses(tmp_path, monkeypatch, capsys, args, status, words):
    make.folder(tmp_path / "sound", make.llama(), make.LLAMA)
    make.folder(tmp_path / "faulty", make.llama(), make.LLAMA | {"rms_norm_eps": 1e-12})
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["audit", *args]) == status
    captured = capsys.readouterr()
    assert words in (captured.err if status == 2 else captured.out)
    assert (captured.err == "") == (status != 2)
    if status == 2:
        assert captured.err.startswith("normlib audit: ")
        assert captured.err.count("\n") == 1


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"audit: path is a int, expected a path"):
        audit(3)
    with pytest.raises(TypeError, match=r"audit: ignore is a str, expected an iterable of names of rules"):
        audit(".", ignore="16-bit")


def test_nothing_is_imported_that_is_not_needed():
    """`import normlib` leaves the audit out, and the audit every library of the formats."""
    code = (
        "import sys, normlib; assert 'normlib.audit' not in sys.modules; import normlib.audit\n"
        "print([name for name in ('torch', 'onnx', 'gguf', 'safetensors', 'transformers', 'pickle') "
        "if name in sys.modules and name not in before])"
    )
    code = code.replace("; import normlib.audit", "; before = set(sys.modules); import normlib.audit")
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_the_table_of_architectures_is_that_of_transformers():
    """eps of each architecture that has a configuration with a key for it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from normlib.audit._architectures import ARCHITECTURES
    from normlib.audit._norms import EPS_KEYS

    checked = 0
    for name, usual in ARCHITECTURES.items():
        if name not in CONFIG_MAPPING or not usual.has_key:
            continue
        config = CONFIG_MAPPING[name]().to_dict()
        keys = [key for key in EPS_KEYS if isinstance(config.get(key), float)]
        assert all(config[key] in usual.eps for key in keys[:1]), name
        checked += len(keys[:1])
    assert checked > 40
