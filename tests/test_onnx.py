"""The ONNX project's own node tests of the five norms, by its stored inputs and outputs."""

import warnings

import numpy as np
import pytest

import normlib

onnx = pytest.importorskip("onnx")

# As many as ONNX 1.23 has of each; a later release may add some.
COUNTS = {
    "LayerNormalization": 19,
    "RMSNormalization": 19,
    "BatchNormalization": 4,
    "GroupNormalization": 2,
    "InstanceNormalization": 2,
}


@pytest.fixture(scope="module")
def node_cases():
    """The cases whose model is a single node of one of the norms (the rest spell the same ones out in other nodes)."""
    from onnx.backend.test.loader import load_node_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_node_model_tests()
    return [case for case in found if case.model.graph.node[0].op_type in COUNTS]


def axes_from(first, x):
    return tuple(range(first % x.ndim, x.ndim))


def layer_normalization(x, weight, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes = axes_from(axis, x)
    y, mean, rstd = normlib.layer_norm(x, weight, bias, axis=axes, eps=epsilon, return_stats=True)
    return [y, np.expand_dims(mean, axes), np.expand_dims(rstd, axes)]


def rms_normalization(x, weight, *, axis=-1, epsilon=1e-5, stash_type=1):
    return [normlib.rms_norm(x, weight, axis=axes_from(axis, x), eps=epsilon)]


def batch_normalization(x, weight, bias, mean, var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
    if not training_mode:
        return [normlib.batch_norm(x, weight, bias, running_mean=mean, running_var=var, eps=epsilon)]
    # ONNX keeps the biased variance, and weights the old value with its momentum.
    n = x.size // x.shape[1]
    new_mean, new_var = mean.copy(), np.zeros_like(var)
    running = {"running_mean": new_mean, "running_var": new_var, "momentum": 1 - momentum}
    y = normlib.batch_norm(x, weight, bias, **running, training=True, eps=epsilon)
    return [y, new_mean, momentum * var + new_var * (n - 1) / n]


def group_normalization(x, weight, bias, *, num_groups, epsilon=1e-5, stash_type=1):
    return [normlib.group_norm(x, num_groups, weight, bias, eps=epsilon)]


def instance_normalization(x, weight, bias, *, epsilon=1e-5):
    return [normlib.instance_norm(x, weight, bias, eps=epsilon)]


FUNCTIONS = {
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
}


@pytest.mark.parametrize("kind", COUNTS)
def test_node_cases(backend, node_cases, kind):
    found = [case for case in node_cases if case.model.graph.node[0].op_type == kind]
    assert len(found) >= COUNTS[kind]
    for case in found:
        (node,) = case.model.graph.node
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for inputs, outputs in case.data_sets:
            results = FUNCTIONS[kind](*inputs, **attributes)
            for name, result, expected in zip(node.output, results, outputs, strict=False):
                assert result.shape == expected.shape, (case.name, name)
                np.testing.assert_allclose(
                    result, expected, rtol=1e-5, atol=1e-5, err_msg=f"{case.name}: {name}"
                )
            assert len(results) >= len(outputs), case.name
