"""The operators for ONNX's evaluator: the ONNX project's own tests, and what each version of an operator means."""

import doctest
import importlib
import pkgutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import normlib

onnx = pytest.importorskip("onnx")
from normlib.interop import onnx as interop  # noqa: E402

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
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def run(op, *inputs, outputs=("y",), opset=23, **attributes):
    names = [f"x{i}" for i in range(len(inputs))]
    model = model_of(op, names, outputs, opset, **attributes)
    return interop.session(model).run(None, dict(zip(names, inputs, strict=True)))


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

    monkeypatch.setattr(interop.ops, "layer_norm", layer_norm)
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


def test_own_operators_come_before_those_of_normlib():
    class LayerNormalization(onnx.reference.op_run.OpRun):
        def _run(self, x, *args, **attributes):
            return (x + 1,)

    model = model_of("LayerNormalization", ["x", "w"])
    (y,) = interop.session(model, new_ops=[LayerNormalization]).run(None, {"x": np.zeros(2), "w": np.ones(2)})
    assert y.tolist() == [1, 1]


def test_the_examples_of_the_module():
    result = doctest.testmod(interop)
    assert result.attempted > 0
    assert result.failed == 0
