"""The operators for ONNX's evaluator: the ONNX project's own tests, and what each version of an operator means."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import normlib

onnx = pytest.importorskip("onnx")
from normlib.interop import onnx as interop  # noqa: E402

RUNTIME = "com.microsoft"

# As many as ONNX 1.23 has of each; a later release may add some.
COUNTS = {
    "LayerNormalization": 19,
    "RMSNormalization": 19,
    "BatchNormalization": 4,
    "GroupNormalization": 2,
    "InstanceNormalization": 2,
    "MeanVarianceNormalization": 1,
}


@pytest.fixture(scope="module")
def node_cases():
    """The cases whose model is a single node of one of the norms (the rest spell the same ones out in other nodes)."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            if "norm" in module.name or "variance" in module.name:
                importlib.import_module(f"{node.__name__}.{module.name}")  # adds its cases to the list
    return [case for case in node._NodeTestCases if case.model.graph.node[0].op_type in COUNTS]


def check(session, inputs, expected, rtol=1e-3, atol=1e-7, case=""):
    """The tolerances are those of ONNX; the weights of some models are inputs too, with a default."""
    results = session.run(None, dict(zip(session.input_names, inputs, strict=False)))
    for name, result, value in zip(session.output_names, results, expected, strict=True):
        assert result.dtype == value.dtype, (case, name)
        assert result.shape == value.shape, (case, name)
        np.testing.assert_allclose(result, value, rtol=rtol, atol=atol, err_msg=f"{case}: {name}")


@pytest.mark.parametrize("kind", COUNTS)
def test_onnx_node_cases(backend, node_cases, kind):
    found = [case for case in node_cases if case.model.graph.node[0].op_type == kind]
    assert len(found) >= COUNTS[kind]
    for case in found:
        for inputs, outputs in case.data_sets:
            check(interop.session(case.model), inputs, outputs, rtol=1e-5, atol=1e-5, case=case.name)


def test_onnx_models_that_torch_wrote_at_opset_6():
    from onnx.backend.test.loader import load_model_tests

    kinds = ("pytorch-converted", "pytorch-operator")
    folders = [Path(case.model_dir) for kind in kinds for case in load_model_tests(kind=kind)]
    folders = [folder for folder in folders if interop.norms(folder / "model.onnx")]
    assert len(folders) >= 6

    def tensor(path):
        return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))

    for folder in folders:
        data = folder / "test_data_set_0"
        inputs = [tensor(data / f"input_{i}.pb") for i in range(len(list(data.glob("input_*"))))]
        outputs = [tensor(data / f"output_{i}.pb") for i in range(len(list(data.glob("output_*"))))]
        check(interop.session(folder / "model.onnx"), inputs, outputs, case=folder.name)


def model_of(op, inputs, outputs=("y",), opset=23, **attributes):
    """A model of one node; nothing in it is typed."""
    node = onnx.helper.make_node(op, inputs, outputs, **attributes)
    values = [[onnx.ValueInfoProto(name=name) for name in names if name] for names in (inputs, outputs)]
    graph = onnx.helper.make_graph([node], "one", *values)
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(RUNTIME, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets)


def run(op, *inputs, outputs=("y",), opset=23, **attributes):
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    model = model_of(op, names, outputs, opset, **attributes)
    return interop.session(model).run(None, {n: v for n, v in zip(names, inputs, strict=True) if n})


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(1, 2, shape).astype(dtype)


def standardized(x, axes, epsilon=1e-5):
    x = x.astype(np.float64)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon), mean, 1 / np.sqrt(var + epsilon)


def close(found, expected, rtol=1e-5, atol=1e-5):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=rtol, atol=atol)


BATCH = draw(4, 3, 5), draw(3, seed=1), draw(3, seed=2), draw(3, seed=3), np.abs(draw(3, seed=4)) + 1


def normalized(x, scale, bias, mean, var):
    shape = (-1, *(1 for _ in x.shape[2:]))
    scale, bias, mean, var = (p.reshape(shape).astype(np.float64) for p in (scale, bias, mean, var))
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


@pytest.mark.parametrize(
    ("opset", "attributes"),
    [(6, {"is_test": 1}), (7, {}), (9, {}), (13, {}), (14, {}), (15, {"training_mode": 0}), (23, {})],
)
def test_batch_normalization_that_is_trained_uses_the_given_statistics_at_every_opset(opset, attributes):
    (y,) = run("BatchNormalization", *BATCH, opset=opset, **attributes)
    close(y, normalized(*BATCH))


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes"),
    [
        (6, ("y", "m", "v", "sm", "sv"), {}),
        (7, ("y", "m", "v", "sm", "sv"), {}),
        (9, ("y", "m", "v", "sm", "sv"), {}),
        (14, ("y", "m", "v"), {"training_mode": 1}),
        (15, ("y", "m", "v"), {"training_mode": 1}),
        (15, ("y",), {"training_mode": 1}),
    ],
)
def test_batch_normalization_in_training_averages_the_biased_variance(opset, outputs, attributes):
    x, scale, bias, mean, var = BATCH
    found = run("BatchNormalization", *BATCH, opset=opset, outputs=outputs, momentum=0.7, **attributes)
    own_mean, own_var = x.mean((0, 2)), x.var((0, 2))
    moved = [0.7 * mean + 0.3 * own_mean, 0.7 * var + 0.3 * own_var]
    expected = [normalized(x, scale, bias, own_mean, own_var), *moved, own_mean, own_var][: len(outputs)]
    for result, value in zip(found, expected, strict=True):
        close(result, value)


def test_batch_normalization_without_spatial_has_a_channel_for_each_place():
    x = draw(4, 3, 5)
    scale, bias, mean, var = (np.abs(draw(3, 5, seed=i)) + 1 for i in range(1, 5))
    (y,) = run("BatchNormalization", x, scale, bias, mean, var, opset=7, spatial=0)
    close(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias)


def test_batch_normalization_of_16_bits_has_parameters_and_statistics_of_their_own_dtypes():
    x, scale, bias, mean, var = BATCH
    expected = normalized(x.astype(np.float16), scale, bias, mean, var)
    (y,) = run("BatchNormalization", x.astype(np.float16), scale, bias, mean, var, opset=15)
    assert y.dtype == np.float16
    close(y, expected, rtol=2e-3, atol=2e-3)
    half = [p.astype(np.float16) for p in (scale, bias, mean, var)]
    (y,) = run("BatchNormalization", x, *half, opset=15)
    assert y.dtype == np.float32
    close(y, normalized(x, *half))
    y, m, v = run("BatchNormalization", x, *half, opset=15, outputs=("y", "m", "v"), training_mode=1)
    assert (y.dtype, m.dtype, v.dtype) == (np.float32, np.float16, np.float16)


def test_a_single_value_has_the_variance_0():
    x, scale, bias = draw(1, 3, 1), draw(3, seed=1), draw(3, seed=2)
    expected = np.broadcast_to(bias[:, None], x.shape)
    for y in run("InstanceNormalization", x, scale, bias, opset=6):
        close(y, expected)
    zero = np.zeros(3, np.float32)
    y, mean, var = run("BatchNormalization", x, scale, bias, zero, zero, outputs=("y", "m", "v"), training_mode=1)
    close(y, expected)
    close(mean, 0.1 * x.ravel())
    close(var, zero)


def test_group_normalization_has_a_scale_for_each_group_before_opset_21_and_for_each_channel_since():
    x = draw(2, 6, 4)
    z = standardized(x.reshape(2, 3, 8), 2)[0].reshape(x.shape)
    groups, channels = (draw(3, seed=1), draw(3, seed=2)), (draw(6, seed=1), draw(6, seed=2))
    for opset, (scale, bias) in ((18, groups), (20, groups), (21, channels), (23, channels)):
        (y,) = run("GroupNormalization", x, scale, bias, opset=opset, num_groups=3)
        scale, bias = (np.repeat(p, 6 // len(p))[:, None] for p in (scale, bias))
        close(y, z * scale + bias)


def test_the_wrong_number_of_scales_is_an_error_that_names_it():
    x = draw(2, 6, 4)
    with pytest.raises(ValueError, match=r"group_norm: weight has shape \(3,\), expected \(6,\)"):
        run("GroupNormalization", x, draw(3), draw(3), opset=21, num_groups=3)


@pytest.mark.parametrize("stash_type", [onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_layer_normalization_returns_statistics_in_the_type_of_the_stash(dtype, stash_type):
    pytest.importorskip("ml_dtypes")
    x, scale, bias = draw(2, 3, 4, 5, dtype=dtype), draw(4, 5, dtype=dtype), draw(4, 5, dtype=dtype, seed=1)
    outputs = ("y", "mean", "inverse")
    y, *statistics = run("LayerNormalization", x, scale, bias, outputs=outputs, axis=-2, stash_type=stash_type)
    z, *expected = standardized(x, (2, 3))
    assert y.dtype == dtype
    close(y, z * scale + bias, rtol=3e-3, atol=3e-3)
    wide = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(stash_type))
    for found, value in zip(statistics, expected, strict=True):
        assert found.dtype == wide
        close(found, value, rtol=1e-6 if wide == np.float32 else 2**-8)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (1,), (), (1, 5), (4, 1), (1, 1, 1, 5), (3, 4, 5), (2, 1, 1, 1)])
def test_scales_broadcast(shape):
    x, scale = draw(2, 3, 4, 5), draw(*shape, seed=1)
    for bias in (draw(*shape, seed=2), draw(5, seed=2)):
        (y,) = run("LayerNormalization", x, scale, bias, axis=2)
        close(y, standardized(x, (2, 3))[0] * scale + bias)
    (y,) = run("LayerNormalization", x, scale, axis=2)
    close(y, standardized(x, (2, 3))[0] * scale)
    (y,) = run("RMSNormalization", x, scale, axis=2)
    close(y, x / np.sqrt((x.astype(np.float64) ** 2).mean((2, 3), keepdims=True) + 1e-5) * scale)


@pytest.mark.parametrize(("of_x", "of_scale"), [("float16", "float32"), ("float32", "float16"), ("float32", "float64")])
def test_rms_normalization_has_the_dtype_of_its_scale(of_x, of_scale):
    x, scale = draw(3, 8, dtype=of_x), draw(8, dtype=of_scale, seed=1)
    (y,) = run("RMSNormalization", x, scale)
    assert y.dtype == of_scale
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-5) * scale
    close(y, expected, rtol=2e-3 if of_scale == "float16" else 1e-6)


def test_mean_variance_normalization():
    x = draw(3, 4, 5, 6)
    x[:, 1] = 7  # constant: 0, not 0 / 0
    for attributes, axes in (({}, (0, 2, 3)), ({"axes": [0]}, (0,)), ({"axes": [-1, 1]}, (1, 3))):
        (y,) = run("MeanVarianceNormalization", x, opset=13, **attributes)
        std = x.astype(np.float64).std(axes, keepdims=True)
        close(y, (x - x.astype(np.float64).mean(axes, keepdims=True)) / (std + 1e-9))
    (y,) = run("MeanVarianceNormalization", draw(1, 3, 1, 1))
    assert y.ravel().tolist() == [0, 0, 0]


def test_rows_far_from_zero_stay_accurate():
    x = draw(4, 64) + np.float32(1e5)
    (y,) = run("LayerNormalization", x, np.ones(64, np.float32))
    close(y, standardized(x, 1)[0], rtol=1e-6, atol=1e-6)


NESTED = """
<ir_version: 10, opset_import: ["": 21, "local": 1]>
nested (bool which, float[N, 4] x) => (float[N, 4] y)
<float[4] w = {1, 2, 3, 4}>
{
    h = local.twice <e = 0.5> (x, w)
    y = If (which) <
        then_branch = then_graph () => (float[N, 4] t) { t = LayerNormalization <axis = 1> (h, w) },
        else_branch = else_graph () => (float[N, 4] e) { e = local.twice <e = 0.25> (h, w) }
    >
}
<domain: "local", opset_import: ["": 21]>
twice <e> (x, w) => (y)
{
    a = LayerNormalization <epsilon: float = @e> (x, w)
    y = Add (a, a)
}
"""


@pytest.fixture
def nested():
    return onnx.parser.parse_model(NESTED)


def test_a_session_has_the_operators_in_subgraphs_and_functions(nested, monkeypatch):
    called = []

    def layer_norm(*args, eps, **options):
        called.append(eps)
        return normlib.layer_norm(*args, eps=eps, **options)

    monkeypatch.setattr(normlib.ops, "layer_norm", layer_norm)
    x, w = draw(3, 4), np.arange(1, 5)
    session = interop.session(nested)
    h = 2 * standardized(x, 1, 0.5)[0] * w
    (y,) = session.run(None, {"which": np.array(True), "x": x})
    close(y, standardized(h, 1)[0] * w)
    (y,) = session.run(None, {"which": np.array(False), "x": x})
    close(y, 2 * standardized(h, 1, 0.25)[0] * w)
    assert called == [0.5, np.float32(1e-5), 0.5, 0.25]


def test_norms_lists_graph_subgraphs_and_functions(nested):
    first, second = interop.norms(nested)
    assert first.op_type == second.op_type == "LayerNormalization"
    assert first.version == second.version == 17
    assert first.function == "layer_norm"
    assert first.inputs == ("h", "w")
    assert first.outputs == ("t",)
    assert first.attributes == {"axis": 1, "epsilon": np.float32(1e-5), "stash_type": 1}
    assert first.shape == (4,)
    assert first.path == ("If.then_branch",)
    assert second.attributes == {"axis": -1, "epsilon": "e", "stash_type": 1}
    assert second.shape is None
    assert second.path == ("local:twice",)


def test_norms_reads_a_file_without_its_weights(nested, tmp_path):
    model = model_of("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=0.001, opset=9)
    for name in "sbmv":
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(400, np.float32), name))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=100)
    x = draw(2, 400)
    (y,) = interop.session(path).run(None, {"x": x})
    close(y, (x - 1) / np.sqrt(1.001) + 1)
    (tmp_path / "weights").unlink()
    for given in (path, str(path)):
        (norm,) = interop.norms(given)
        assert norm.function == "batch_norm"
        assert norm.attributes == {"epsilon": np.float32(0.001), "momentum": np.float32(0.9)}
        assert norm.shape == (400,)


def test_an_operator_in_a_model_older_than_itself_means_its_latest_version():
    x = draw(3, 4)
    (y,) = run("LayerNormalization", x, np.ones(4, np.float32), opset=11)
    close(y, standardized(x, 1)[0])


def test_the_operators_alone():
    model = model_of("InstanceNormalization", ["x", "s", "b"])
    x = draw(2, 3, 7) * np.float32(1e-3) + np.float32(1e4)
    feeds = {"x": x, "s": np.ones(3, np.float32), "b": np.zeros(3, np.float32)}
    (y,) = onnx.reference.ReferenceEvaluator(model, new_ops=interop.OPERATORS).run(None, feeds)
    np.testing.assert_array_equal(y, normlib.instance_norm(x, weight=feeds["s"], bias=feeds["b"], eps=np.float32(1e-5)))
    with pytest.raises(TypeError, match="operator 'InstanceNormalization'"):
        interop.session(model).run(None, feeds | {"x": x.astype(int)})


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (7, 4, 5), (2, 2, 4, 5)])
def test_a_scale_that_does_not_broadcast_is_an_error_that_names_it(op, shape):
    words = rf"operator '{op}', node 'norm' of 'y': scale has shape {re.escape(str(shape))}, which does not broadcast"
    with pytest.raises(ValueError, match=words):
        run(op, draw(2, 4, 5), draw(*shape), axis=1, name="norm")


def rms(x, eps):
    return x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x.astype(np.float64)))


def in_groups(x, groups):
    """The normalized values of channels-last images."""
    parts = x.reshape(*x.shape[:3], groups, -1)
    return standardized(parts, (1, 2, 4))[0].reshape(x.shape)


X, SKIP, SCALE, SHIFT, BIAS = draw(2, 3, 8), draw(2, 3, 8, seed=1), *(draw(8, seed=s) for s in (2, 3, 4))
IMAGE = draw(2, 4, 5, 8)
OF_RUNTIME = {  # the operator, its inputs, outputs and attributes, and what comes out
    "SimplifiedLayerNormalization": (
        ("SimplifiedLayerNormalization", [X, SCALE], ["y", "r"], {"epsilon": 0.1}),
        [rms(X, 0.1) * SCALE, 1 / np.sqrt((X.astype(np.float64) ** 2).mean(-1, keepdims=True) + 0.1)],
    ),
    "the norm of a sum": (
        ("SkipLayerNormalization", [X, SKIP, SCALE, SHIFT, BIAS], ["y", "", "", "s"], {"domain": RUNTIME}),
        [standardized(X + SKIP + BIAS, 2, 1e-12)[0] * SCALE + SHIFT, X + SKIP + BIAS],
    ),
    "the norm of a sum with one of all samples": (
        ("SkipLayerNormalization", [X, SKIP[0], SCALE], ["y", "m", "r"], {"domain": RUNTIME, "epsilon": 0.1}),
        [standardized(X + SKIP[0], 2, 0.1)[0] * SCALE, *standardized(X + SKIP[0], 2, 0.1)[1:]],
    ),
    "the RMS norm of a sum": (
        ("SkipSimplifiedLayerNormalization", [X, SKIP, SCALE, BIAS], ["y", "", "", "s"], {"domain": RUNTIME}),
        [rms(X + SKIP + BIAS, 1e-12) * SCALE, X + SKIP + BIAS],
    ),
    "images": (
        ("GroupNorm", [IMAGE, SCALE, SHIFT], ["y"], {"domain": RUNTIME, "groups": 4, "activation": 1}),
        [silu(in_groups(IMAGE, 4) * SCALE + SHIFT)],
    ),
    "images in channels-first": (
        ("GroupNorm", [IMAGE.transpose(0, 3, 1, 2), SCALE, SHIFT], ["y"],
         {"domain": RUNTIME, "groups": 4, "activation": 0, "channels_last": 0}),
        [(in_groups(IMAGE, 4) * SCALE + SHIFT).transpose(0, 3, 1, 2)],
    ),
    "a sum of images": (
        ("SkipGroupNorm", [IMAGE, SCALE, SHIFT, X[:, 0], BIAS], ["y", "s"],
         {"domain": RUNTIME, "groups": 2, "activation": 0}),
        [in_groups(IMAGE + X[:, 0, None, None] + BIAS, 2) * SCALE + SHIFT, IMAGE + X[:, 0, None, None] + BIAS],
    ),
    "a gate": (
        ("GatedRMSNorm", [X, SCALE[:4], SKIP], ["y"], {"domain": RUNTIME}),
        [(rms(X.reshape(2, 3, 2, 4), 1e-5) * SCALE[:4]).reshape(X.shape) * silu(SKIP)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_RUNTIME)
def test_operators_that_onnx_runtime_writes(backend, case):
    (op, inputs, outputs, attributes), expected = OF_RUNTIME[case]
    found = run(op, *inputs, outputs=outputs, **attributes)
    assert len(found) == len(expected)
    for result, value in zip(found, expected, strict=True):
        assert result.dtype == np.float32
        close(result, value)


def test_embeddings_that_onnx_runtime_writes():
    words, segments = np.array([[1, 0, 2], [2, 2, 1]], np.int32), np.array([[0, 0, 1], [0, 1, 1]], np.int32)
    tables = draw(3, 8), draw(4, 8, seed=1), draw(2, 8, seed=2)
    mask = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    inputs = words, segments, *tables, SCALE, SHIFT, mask
    outputs = ("y", "count", "sum")
    y, count, total = run("EmbedLayerNormalization", *inputs, outputs=outputs, domain=RUNTIME)
    expected = tables[0][words] + tables[1][:3] + tables[2][segments]
    close(total, expected)
    close(y, standardized(expected, 2, 1e-12)[0] * SCALE + SHIFT)
    assert count.tolist() == [2, 3]
    inputs = words, None, *tables[:2], None, SCALE, SHIFT, None, words + 1
    (y,) = run("EmbedLayerNormalization", *inputs, domain=RUNTIME)
    close(y, standardized(tables[0][words] + tables[1][words + 1], 2, 1e-12)[0] * SCALE + SHIFT)


def test_a_skip_that_does_not_broadcast_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"operator 'SkipLayerNormalization', .*: skip has shape \(2, 8\)"):
        run("SkipLayerNormalization", X, SKIP[0, :2], SCALE, domain=RUNTIME)


OPTIMIZED = """
<ir_version: 10, opset_import: ["": 21]>
sums (float[N, 3, 8] x, float[N, 3, 8] skip) => (float[N, 3, 8] y)
<float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[8] b = {0, 1, 0, 1, 0, 1, 0, 1}>
{ s = Add (x, skip) y = LayerNormalization <epsilon = 0.5> (s, w, b) }
"""


def test_a_model_that_onnx_runtime_has_optimized(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    own = runtime.InferenceSession(onnx.parser.parse_model(OPTIMIZED).SerializeToString(), options)
    (norm,) = interop.norms(tmp_path / "optimized.onnx")
    assert (norm.domain, norm.op_type, norm.version) == (RUNTIME, "SkipLayerNormalization", 1)
    assert (norm.function, norm.shape, norm.attributes) == ("layer_norm", (8,), {"epsilon": 0.5})
    feeds = {"x": X, "skip": SKIP}
    (y,) = interop.session(tmp_path / "optimized.onnx").run(None, feeds)
    close(y, own.run(None, feeds)[0])


def test_norms_lists_the_defaults_of_operators_of_onnx_runtime():
    (norm,) = interop.norms(model_of("GroupNorm", ["x", "w", "b"], domain=RUNTIME, groups=4))
    assert norm.attributes == {"activation": 0, "channels_last": 1, "epsilon": 1e-5, "groups": 4}
    assert norm.function == "group_norm"


@pytest.mark.parametrize(("domain", "advice"), [(RUNTIME, "ORT_ENABLE_BASIC"), ("", ""), ("elsewhere", "elsewhere")])
def test_an_operator_that_the_evaluator_lacks_is_named_with_its_node(domain, advice):
    model = model_of("FusedMatMul", ["a", "b"], domain=domain, name="product")
    if domain == "elsewhere":
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    words = f"session: node 'product' of 'y' asks for the operator FusedMatMul.*{advice}"
    with pytest.raises((NotImplementedError, RuntimeError), match=words):
        interop.session(model)


def test_own_operators_come_before_those_of_normlib():
    class LayerNormalization(onnx.reference.op_run.OpRun):
        def _run(self, x, *args, **attributes):
            return (x + 1,)

    model = model_of("LayerNormalization", ["x", "w"])
    (y,) = interop.session(model, new_ops=[LayerNormalization]).run(None, {"x": np.zeros(2), "w": np.ones(2)})
    assert y.tolist() == [1, 1]


def test_the_examples_of_the_module():
    runner = doctest.DocTestRunner()
    for found in doctest.DocTestFinder().find(interop):
        if not found.name.endswith("translations"):  # which needs torch
            runner.run(found)
    result = runner.summarize()
    assert result.attempted > 0
    assert result.failed == 0
