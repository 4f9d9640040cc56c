"""torch.onnx.export of what calls normlib's operators: each translation computes what the operator does."""

import doctest
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ml_dtypes")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from torch import nn  # noqa: E402

import normlib.interop.torch as nt  # noqa: E402
from normlib.interop import onnx as interop  # noqa: E402
from normlib.ops import OPS  # noqa: E402

C = 8


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # of an exporter without torchvision
    yield
    logging.disable(logging.NOTSET)


class Calls(nn.Module):
    """Functions of the same tensors, one after the other."""

    def __init__(self, *functions):
        super().__init__()
        self.functions = functions

    def forward(self, *tensors):
        return tuple(function(*tensors) for function in self.functions)


def export(model, *tensors, **options):
    options |= {"custom_translation_table": interop.translations(), "verbose": False}
    return torch.onnx.export(model.eval(), tensors, **options).model_proto


def run(model, *tensors):
    given = [t.numpy() for t in tensors]
    return interop.session(model).run(None, dict(zip((i.name for i in model.graph.input), given, strict=False)))


def check(model, *tensors, tolerance=1e-5, **options):
    """The exported model, which returns what the model does."""
    exported = export(model, *tensors, **options)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model(*tensors))
    for i, (result, value) in enumerate(zip(run(exported, *tensors), expected, strict=True)):
        assert result.dtype == value.numpy().dtype, i
        assert result.shape == value.shape, i
        np.testing.assert_allclose(result, value.numpy(), rtol=tolerance, atol=tolerance, err_msg=str(i))
    return exported


def operators(exported):
    return {node.op_type for node in exported.graph.node}


def test_there_is_one_for_each_forward_operator():
    assert set(interop.translations()) == {getattr(torch.ops.normlib, name).default for name in OPS}


def test_layer_norm():
    x, weight, bias, more = torch.randn(2, 3, C), torch.randn(C), torch.randn(C), torch.randn(2, 3, C)
    check(
        Calls(
            lambda x, w, b, m: nt.layer_norm(x, w, b),
            lambda x, w, b, m: nt.layer_norm(x, axis=(1, 2), eps=0.1),
            lambda x, w, b, m: nt.layer_norm(x, axis=(0, 2)),
            lambda x, w, b, m: nt.layer_norm(x, w, b, residual=m, activation="gelu"),
            lambda x, w, b, m: nt.layer_norm(x, w, b, where=m > 0, activation="gelu_tanh"),
            lambda x, w, b, m: nt.layer_norm(x, m[:, :1], add=m, activation="sigmoid"),
            lambda x, w, b, m: nt.layer_norm(x, w, out_dtype="float64"),
        ),
        *(x, weight, bias, more),
    )


def test_rms_norm():
    x, weight, gate = torch.randn(2, 3, C), torch.randn(C), torch.randn(2, 3, C)
    exported = check(
        Calls(
            lambda x, w, g: nt.rms_norm(x, w),
            lambda x, w, g: nt.rms_norm(x, w, gate=g),
            lambda x, w, g: nt.rms_norm(x, w, gate=g, gate_first=True, gate_activation="sigmoid"),
            lambda x, w, g: nt.rms_norm(x, w, residual=g),
            lambda x, w, g: nt.rms_norm(x, w, where=g > 0),
        ),
        *(x, weight, gate),
    )
    assert "ReduceMean" in operators(exported)


def test_batch_norm():
    x, weight, bias, mean, var = torch.randn(2, C, 5), torch.randn(C), torch.randn(C), torch.randn(C), torch.rand(C) + 1
    check(
        Calls(
            lambda x, w, b, m, v: nt.batch_norm(x, running_mean=m, running_var=v, weight=w, bias=b, activation="relu"),
            lambda x, w, b, m, v: nt.batch_norm(x, running_mean=m, running_var=v, add=x),
            lambda x, w, b, m, v: nt.batch_norm(x.mT, running_mean=m, running_var=v, bias=b, channel_axis=-1),
            lambda x, w, b, m, v: nt.batch_norm(x, weight=w, training=True),
        ),
        *(x, weight, bias, mean, var),
    )


def test_group_norm():
    x, weight, bias = torch.randn(3, C, 5, 6), torch.randn(C), torch.randn(C)
    check(
        Calls(
            lambda x, w, b: nt.group_norm(x, 4, w, b, activation="silu"),
            lambda x, w, b: nt.group_norm(x, 2, residual=x),
            lambda x, w, b: nt.group_norm(x.movedim(1, 3), 4, w, b, channel_axis=-1),
            lambda x, w, b: nt.group_norm(x, 4, w, where=x[:, :1] > 0),
            lambda x, w, b: torch.ops.normlib.group_norm(x, w, b, 4, 1e-5, 1)[:3],
        ),
        *(x, weight, bias),
    )


def test_instance_norm():
    x, weight, mean, var = torch.randn(3, C, 5), torch.randn(C), torch.randn(C), torch.rand(C) + 1
    given = {"activation": "leaky_relu", "negative_slope": 0.2}
    check(
        Calls(
            lambda x, w, m, v: nt.instance_norm(x, weight=w, **given),
            lambda x, w, m, v: nt.instance_norm(x, running_mean=m, running_var=v, use_input_stats=False),
            lambda x, w, m, v: torch.ops.normlib.instance_norm(x, w, None, m, v, False, 0.1, 1e-5, 1)[:3],
            lambda x, w, m, v: torch.ops.normlib.instance_norm(x.mT, w, None, None, None, True, 0.1, 1e-5, 2)[:3],
            lambda x, w, m, v: torch.ops.normlib.instance_norm(x, None, None, None, None, True, 0.1, 1e-5, 0)[:3],
        ),
        *(x, weight, mean, var),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(dtype):
    x, weight = torch.randn(4, C, dtype=dtype), torch.randn(C, dtype=dtype)
    wide = torch.randn(C, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    check(
        Calls(
            lambda x, w, v: nt.rms_norm(x, w, round_first=dtype is torch.float16),
            lambda x, w, v: nt.layer_norm(x, v, residual=x),
            lambda x, w, v: nt.batch_norm(x, running_mean=v, running_var=v * v + 1),
        ),
        *(x, weight, wide),
        tolerance=2e-3 if dtype is torch.float16 else 1e-12,
    )


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm1, self.act = nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.SiLU()
        self.norm2, self.norm3, self.norm4 = nn.GroupNorm(2, C), nn.LayerNorm(C), nn.RMSNorm(C)

    def forward(self, x):
        x = self.norm2(self.act(self.norm1(self.conv(x)))).flatten(2).mT
        return self.norm4(x + self.norm3(x))


def test_an_accelerated_model_has_the_operators_of_onnx():
    model = nt.accelerate(Block().eval(), fuse=True)
    exported = check(model, torch.randn(2, 3, 8, 9), dynamic_shapes={"x": {0: "n", 2: "height"}})
    assert {"InstanceNormalization", "LayerNormalization"} <= operators(exported)
    assert "BatchNormalization" not in operators(exported)  # folded into the convolution, as it is one
    assert not exported.functions
    other = torch.randn(3, 3, 6, 9)
    with torch.no_grad():
        np.testing.assert_allclose(run(exported, other)[0], model(other), rtol=1e-5, atol=1e-5)


def test_running_statistics_that_move_are_an_error_in_words():
    def moving(x, mean, var):
        return nt.batch_norm(x, running_mean=mean, running_var=var, training=True)

    with pytest.raises(torch.onnx.errors.OnnxExporterError) as raised:
        export(Calls(moving), torch.randn(2, C), torch.zeros(C), torch.ones(C))
    causes = [raised.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert str(causes[-1]) == "batch_norm: running statistics that move have no translation; export model.eval()"


def test_the_example():
    (found,) = (t for t in doctest.DocTestFinder().find(interop) if t.name.endswith("translations"))
    assert doctest.DocTestRunner().run(found).failed == 0
