"""ONNX Runtime: a model of one node, run with its inputs and outputs bound. It has forward passes only."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from normlib.bench.calls import Contender
from normlib.bench.cases import Case

_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# norm -> operator, opset, its inputs. RMSNormalization of opset 23 is expanded into eight nodes by ONNX Runtime, which
# fuses the same pattern of an exported model into its own SimplifiedLayerNormalization: the faster of the two.
_NODES = {
    "layer_norm": ("LayerNormalization", 17, ("x", "weight", "bias")),
    "rms_norm": ("SimplifiedLayerNormalization", 17, ("x", "weight")),
    "batch_norm": ("BatchNormalization", 15, ("x", "weight", "bias", "running_mean", "running_var")),
    "group_norm": ("GroupNormalization", 21, ("x", "weight", "bias")),
    "instance_norm": ("InstanceNormalization", 17, ("x", "weight", "bias")),
}


class Peer:
    """ONNX Runtime's CPU provider."""

    version = onnxruntime.__version__

    def __init__(self, threads: int):
        self.threads = threads

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the bound session, None for what is fused, backward, in training or without a kernel."""
        batch_statistics = case.norm == "batch_norm" and case.training
        if case.fused or case.backward or batch_statistics:
            return None
        if case.layout in ("channels_last", "channel_axis", "strided"):
            return None
        if case.norm not in _NODES:
            return None
        operator, opset, names = _NODES[case.norm]
        x = given["x"]
        ones, zeros = np.ones(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
        standing_in = {"weight": ones, "bias": zeros}  # instance_norm without parameters: ONNX wants them
        inputs = {name: standing_in[name] if given[name] is None else given[name] for name in names}
        attributes: dict = {"epsilon": case.eps}
        if case.norm in ("layer_norm", "rms_norm"):
            attributes["axis"] = -1
        if case.norm == "group_norm":
            attributes["num_groups"] = case.groups
        try:
            session = self._session(operator, opset, inputs, attributes)
            return _bound(session, inputs, case)
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error) or "INVALID_GRAPH" in str(error):
                return None
            raise

    def _session(self, operator: str, opset: int, inputs: dict, attributes: dict) -> onnxruntime.InferenceSession:
        values = [
            helper.make_tensor_value_info(name, _TYPES[value.dtype.name], value.shape) for name, value in inputs.items()
        ]
        x = inputs["x"]
        y = helper.make_tensor_value_info("y", _TYPES[x.dtype.name], x.shape)
        node = helper.make_node(operator, list(inputs), ["y"], **attributes)
        model = helper.make_model(
            helper.make_graph([node], operator, values, [y]),
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=10,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _value(array: np.ndarray) -> onnxruntime.OrtValue:
    if array.dtype.name == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _bound(session: onnxruntime.InferenceSession, inputs: dict, case: Case) -> Contender:
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, _value(value))
    y = np.zeros_like(inputs["x"], order="C")
    given = case.out or case.dtype == "bfloat16"  # which has no other way back to NumPy
    if given:
        binding.bind_ortvalue_output("y", _value(y))
    else:
        binding.bind_output("y", "cpu")

    def outputs(_):
        return [y if given else binding.get_outputs()[0].numpy()]

    def call():
        session.run_with_iobinding(binding)

    return Contender(call, outputs)
