"""The audit of graphs of ONNX: operators, what norms were taken apart into, weights in every form."""

import numpy as np
import pytest

from normlib.audit import Unreadable, audit

onnx = pytest.importorskip("onnx")

HEAD = '<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'


def model(path, body, weights=None, opset=21, inputs="float[1, 3, 4] x", outputs="float[1, 3, 4] y"):
    """A model in ONNX's own words, with weights as initializers."""
    proto = onnx.parser.parse_model(f"{HEAD.format(opset=opset)} g ({inputs}) => ({outputs}) {{ {body} }}")
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.save(proto, path)
    return path


W = {"w": np.float32([1, 2, 0.5, 3]), "b": np.float32([0, 1, -1, 2])}
C3 = {"s": np.float32([1, 2, 3]), "c": np.float32([0, 1, 2]), "m": np.float32([0, 0, 1]), "v": np.float32([1, 2, 4])}
TWO = {"two": np.float32(2), "eps": np.float32(1e-5), "one": np.float32(1), "half": np.float32(-0.5)}
AXES = {"axes": np.int64([-1])}

OPERATORS = {
    "y = LayerNormalization <epsilon = 1e-6> (x, w, b)": ("layer_norm", 1e-6, 4, ["weight", "bias"]),
    "y = LayerNormalization (x, w)": ("layer_norm", 1e-5, 4, ["weight"]),
    "y = RMSNormalization <epsilon = 1e-6> (x, w)": ("rms_norm", 1e-6, 4, ["weight"]),
    "y = BatchNormalization (x, s, c, m, v)": (
        "batch_norm", 1e-5, 3, ["weight", "bias", "running_mean", "running_var"]
    ),
    "y = InstanceNormalization (x, s, c)": ("instance_norm", 1e-5, 3, ["weight", "bias"]),
    "y = GroupNormalization <num_groups = 3> (x, s, c)": ("group_norm", 1e-5, 3, ["weight", "bias"]),
    "y = MeanVarianceNormalization (x)": ("layer_norm", 1e-9, None, []),
    "y = SimplifiedLayerNormalization (x, w)": ("rms_norm", 1e-5, 4, ["weight"]),
    "y = com.microsoft.SkipLayerNormalization (x, x, w, b)": ("layer_norm", 1e-12, 4, ["weight", "bias"]),
    "y = com.microsoft.SkipSimplifiedLayerNormalization (x, x, w)": ("rms_norm", 1e-12, 4, ["weight"]),
}  # fmt: skip


@pytest.mark.parametrize("body", OPERATORS)
def test_operators(tmp_path, body):
    opset = 23 if "= RMS" in body else 21
    (norm,) = audit(model(tmp_path / "x.onnx", body, W | C3, opset)).norms
    assert (norm.kind, norm.eps, norm.width, list(norm.tensors)) == OPERATORS[body]
    for tensor in norm.tensors.values():
        np.testing.assert_array_equal(tensor.values(), (W | C3)[tensor.name])


ROOT = "q = Pow (c, two) v = ReduceMean (q, axes) u = Add (v, eps)"
APART = {
    "layer": ("m = ReduceMean (x, axes) c = Sub (x, m)", "r = Sqrt (u) z = Div (c, r) t = Mul (z, w) y = Add (t, b)"),
    "layer, by a power": ("m = ReduceMean (x, axes) c = Sub (x, m)", "r = Pow (u, half) z = Mul (r, c) y = Mul (w, z)"),
    "rms": ("c = Identity (x)", "r = Sqrt (u) i = Reciprocal (r) z = Mul (x, i) y = Mul (z, w)"),
    "rms, one over the root": ("c = Cast <to = 1> (x)", "r = Sqrt (u) i = Div (one, r) z = Mul (c, i) y = Mul (z, w)"),
    "rms, with an offset": (
        "c = Identity (x)", "r = Sqrt (u) z = Div (x, r) k = Cast <to = 1> (z) o = Add (w, one) y = Mul (k, o)"
    ),
    "rms, without weight": ("c = Identity (x)", "r = Sqrt (u) y = Div (x, r)"),
}  # fmt: skip


@pytest.mark.parametrize("form", APART)
def test_norms_that_were_taken_apart(tmp_path, form):
    before, after = APART[form]
    report = audit(model(tmp_path / "x.onnx", f"{before} {ROOT} {after}", W | TWO | AXES))
    (norm,) = report.norms
    assert norm.kind == ("layer_norm" if form.startswith("layer") else "rms_norm")
    assert norm.eps == 1e-5
    assert norm.offset == ("offset" in form)
    assert list(norm.tensors) == {"layer": ["weight", "bias"], "rms, without weight": []}.get(form, ["weight"])
    words = [finding.words for finding in report.findings if finding.rule == "taken-apart"]
    assert words == [f"taken apart into {norm.operator}"]
    assert norm.operator.split()[-1] in ("Add", "Mul", "Div")


@pytest.mark.parametrize(
    "body",
    [
        "q = Pow (x, two) v = ReduceMean (q, axes) u = Add (v, eps) y = Sqrt (u)",  # no division
        "q = Pow (x, two) v = ReduceMean (q, axes) u = Add (v, x) r = Sqrt (u) y = Div (x, r)",  # no eps
        "q = Pow (x, eps) v = ReduceMean (q, axes) u = Add (v, eps) r = Sqrt (u) y = Div (x, r)",  # no square
        "q = Pow (x, two) v = ReduceSum (q, axes) u = Add (v, eps) r = Sqrt (u) y = Div (x, r)",  # no mean
        "h = Sin (x) q = Pow (x, two) v = ReduceMean (q, axes) u = Add (v, eps) r = Sqrt (u) y = Div (h, r)",  # another
        "h = Sin (x) q = Pow (x, two) v = ReduceMean (q, axes) u = Add (v, eps) r = Pow (u, half) y = Mul (h, r)",
    ],
)
def test_what_only_looks_like_a_norm(tmp_path, body):
    assert audit(model(tmp_path / "x.onnx", body, TWO | AXES)).norms == ()


def test_norms_in_graphs_inside_and_in_functions(tmp_path):
    inner = onnx.parser.parse_graph("inner () => (float[1, 3, 4] t) { t = LayerNormalization (x, w) }")
    proto = onnx.load(model(tmp_path / "x.onnx", "y = local.f (x, w)", W))
    proto.opset_import.append(onnx.helper.make_opsetid("local", 1))
    node = onnx.helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=inner)
    proto.graph.node.append(node)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "flag"))
    proto.functions.append(onnx.helper.make_function(
        "local", "f", ["a", "k"], ["o"], [onnx.helper.make_node("RMSNormalization", ["a", "k"], ["o"], epsilon=1e-3)],
        [onnx.helper.make_opsetid("", 23)],
    ))  # fmt: skip
    onnx.save(proto, tmp_path / "x.onnx")
    norms = audit(tmp_path / "x.onnx").norms
    assert sorted(norm.kind for norm in norms) == ["layer_norm", "layer_norm", "rms_norm"]
    assert {norm.eps for norm in norms if norm.kind == "rms_norm"} == {1e-3}
    assert len({norm.name for norm in norms}) == 3


def test_weights_in_a_file_beside_the_model(tmp_path):
    proto = onnx.load(model(tmp_path / "x.onnx", "y = LayerNormalization (x, w, b)", W))
    onnx.save(proto, tmp_path / "x.onnx", save_as_external_data=True, location="x.data", size_threshold=0)
    assert (tmp_path / "x.data").exists()
    np.testing.assert_array_equal(audit(tmp_path / "x.onnx").norms[0].bias.values(), W["b"])
    (tmp_path / "x.data").unlink()
    report = audit(tmp_path / "x.onnx")
    assert (report.norms[0].width, report.values[report.norms[0].name]) == (4, {})


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_in_every_form(tmp_path, dtype, raw):
    values = [1.5, -2.0, 0.25, 3.0]
    kind = onnx.TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    tensor = onnx.helper.make_tensor("w", kind, [4], values)
    if raw:
        tensor = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), "w")
    proto = onnx.load(model(tmp_path / "x.onnx", "y = LayerNormalization (x, w)"))
    proto.graph.initializer.append(tensor)
    onnx.save(proto, tmp_path / "x.onnx")
    weight = audit(tmp_path / "x.onnx").norms[0].weight
    assert weight.dtype == dtype
    np.testing.assert_array_equal(weight.values(), values)


def test_quantized_weights(tmp_path):
    weights = {"q": np.int8([1, 2, 3, 4]), "scale": np.float32(0.1)}
    report = audit(model(tmp_path / "x.onnx", "w = DequantizeLinear (q, scale) y = LayerNormalization (x, w)", weights))
    assert [(f.rule, f.words) for f in report.findings] == [("quantized", "parameters in int8 and a scale")]
    assert report.norms[0].weight.values() is None


def test_a_norm_that_follows_a_norm(tmp_path):
    weights = W | {"shape": np.int64([1, 3, 4])}
    body = "n = LayerNormalization (x, w, b) k = Reshape (n, shape) y = LayerNormalization (k, w)"
    (finding,) = (f for f in audit(model(tmp_path / "x.onnx", body, weights)).findings if f.rule == "norm-after-norm")
    assert finding.norms == ("y",) or finding.norms[0].startswith("w")
    body = "n = LayerNormalization (x, w, b) k = Add (n, x) y = LayerNormalization (k, w)"
    report = audit(model(tmp_path / "x.onnx", body, weights))
    assert "norm-after-norm" not in {finding.rule for finding in report.findings}


def test_a_cycle_is_an_error(tmp_path):
    body = "a = Add (x, c) b = Sqrt (a) c = Mul (b, b) y = LayerNormalization (c, w)"
    with pytest.raises(Unreadable, match=r"reads 'c', which is computed after it: a cycle, or nodes out of order"):
        audit(model(tmp_path / "x.onnx", body, W))
