"""normlib.diagnose of JAX, Flax, Keras and ONNX."""

import importlib
import os

import numpy as np
import pytest

import normlib
import normlib.cli

C = 12


def found(*arguments, **options):
    """Faults and notes, but for the overflow of squares, which all but normlib's have, and the last bits."""
    ignored = {"overflow", "thread_dependent_bits", "batch_dependent_bits"}
    diagnosis = normlib.diagnose(*arguments, **options)
    return diagnosis.what, sorted({finding.name for finding in diagnosis.findings} - ignored)


# ---- JAX and Flax ----


def layer_norm_of_jax(wrong):
    jnp, lax = importlib.import_module("jax.numpy"), importlib.import_module("jax.lax")

    def layer_norm(x, scale, bias, eps=1e-6):
        wide = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
        mean = wide.mean(-1, keepdims=True)
        var = jnp.square(wide - mean).mean(-1, keepdims=True)
        if wrong == "constants":
            mean, var = lax.stop_gradient(mean), lax.stop_gradient(var)
        z = (wide - mean) * lax.rsqrt(var + (1e-3 if wrong == "eps" else eps))
        return (z * (bias if wrong == "swapped" else scale) + (scale if wrong == "swapped" else bias)).astype(x.dtype)

    return layer_norm


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (None, []),
        ("constants", ["gradient_constants"]),
        ("eps", ["eps_value"]),
        ("swapped", ["swapped"]),
    ],
)
def test_functions_of_jax(wrong, names):
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    fn = layer_norm_of_jax(wrong)
    assert found(jax.jit(fn) if wrong is None else fn)[1] == names
    assert jax.config.jax_enable_x64 == before


@pytest.mark.parametrize(
    ("name", "options", "what", "quirks"),
    [
        ("LayerNorm", {}, "LayerNorm over the last axis, eps 1e-06, times w, plus b", ["naive_variance"]),
        ("RMSNorm", {}, "RMSNorm over the last axis, eps 1e-06, times w", []),
        (
            "BatchNorm", {"use_fast_variance": False}, "BatchNorm over axis 0, eps 1e-05, times w, plus b",
            ["biased_running_variance"],
        ),
    ],
)  # fmt: skip
def test_the_norms_of_flax_have_the_quirks_that_they_have(name, options, what, quirks):
    nnx = pytest.importorskip("flax.nnx")
    assert found(getattr(nnx, name)(C, rngs=nnx.Rngs(0), **options)) == (what, quirks)


# ---- Keras ----


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "what", "quirks"),
    [
        ("LayerNormalization", (), (4, 6, C), "LayerNorm over the last axis, eps 0.001, times w, plus b", []),
        ("RMSNormalization", (), (4, 6, C), "RMSNorm over the last axis, eps 1e-06, times w", []),
        (
            "BatchNormalization", (), (8, C), "BatchNorm over axis 0, eps 0.001, times w, plus b",
            ["biased_running_variance", "naive_variance"],
        ),
        (
            "GroupNormalization", (3,), (4, 6, C),
            "GroupNorm over axis 1 and 3 groups of axis 2, eps 0.001, times w, plus b", ["naive_variance"],
        ),
    ],
)  # fmt: skip
def test_the_norms_of_keras_have_the_quirks_that_they_have(name, arguments, shape, what, quirks):
    pytest.importorskip("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layer = getattr(keras.layers, name)(*arguments)
    with pytest.raises(ValueError, match=f"diagnose: {name} is not built"):
        normlib.diagnose(layer)
    layer.build(shape)
    before = [np.array(weight) for weight in layer.get_weights()]
    assert found(layer) == (what, quirks)
    assert all(map(np.array_equal, before, layer.get_weights()))


# ---- ONNX ----


def node(op, count, **attributes):
    helper = pytest.importorskip("onnx").helper
    pytest.importorskip("onnxruntime")
    return helper.make_node(op, ["x", "scale", "b"][:count], ["y"], **attributes)


@pytest.mark.parametrize(
    ("op", "count", "attributes", "what", "quirks"),
    [
        ("LayerNormalization", 3, {}, "LayerNorm over the last axis, eps 1e-05, times w, plus b", []),
        ("LayerNormalization", 2, {"epsilon": 1e-3}, "LayerNorm over the last axis, eps 0.001, times w", []),
        ("RMSNormalization", 2, {}, "RMSNorm over the last axis, eps 1e-05, times w", []),
        ("SimplifiedLayerNormalization", 2, {}, "RMSNorm over the last axis, eps 1e-05, times w", []),
        ("InstanceNormalization", 3, {}, "InstanceNorm over axes (2, 3), eps 1e-05, times w, plus b", []),
        (
            "GroupNormalization", 3, {"num_groups": 4},
            "GroupNorm over axes (2, 3) and 4 groups of axis 1, eps 1e-05, times w, plus b", ["naive_variance"],
        ),
    ],
)  # fmt: skip
def test_nodes_of_onnx(op, count, attributes, what, quirks):
    assert found(node(op, count, **attributes)) == (what, quirks)


def test_a_model_of_onnx_with_its_weights_inside(tmp_path, capsys):
    made, helper = node("LayerNormalization", 3), importlib.import_module("onnx").helper
    kind = 1  # float32
    held = [helper.make_tensor(name, kind, [C], np.full(C, 0.5)) for name in ("scale", "b")]
    ends = [helper.make_tensor_value_info(name, kind, [None, None, C]) for name in ("x", "y")]
    graph = helper.make_graph([made], "layer_norm", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    importlib.import_module("onnx").save(model, tmp_path / "norm.onnx")
    target = str(tmp_path / "norm.onnx")
    assert normlib.cli.main(["diagnose", target, "--shape", "3,5,12"]) == 0
    assert "LayerNorm over the last axis, eps 1e-05, times w, plus b" in capsys.readouterr().out


def test_a_node_with_more_inputs_is_refused():
    onnx = pytest.importorskip("onnx")
    batch = onnx.helper.make_node("BatchNormalization", ["x", "w", "b", "m", "v"], ["y"])
    with pytest.raises(ValueError, match="diagnose: BatchNormalization takes 5 inputs, expected x, weight and bias"):
        normlib.diagnose(batch)
