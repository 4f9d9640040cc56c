"""ONNX Runtime: a model of one node, run with its inputs and outputs bound. It has forward passes only.

Of a fused pass the model has one node for the sum and the norm, which ONNX Runtime has, and nodes for what follows; its
parameters are constants. It is run with all that the optimiser does and without: the faster one counts.
"""

import itertools

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from normlib.bench.calls import Contender, seconds
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


# What ONNX Runtime has of its own: norms of a sum, which is their fourth output, and activations in float32.
_OF_SUMS = {"layer_norm": "SkipLayerNormalization", "rms_norm": "SkipSimplifiedLayerNormalization"}
_ACTIVATIONS = {
    "relu": ("Relu", "", {}),
    "leaky_relu": ("LeakyRelu", "", {"alpha": 0.01}),
    "silu": ("QuickGelu", "com.microsoft", {"alpha": 1.0}),
    "gelu": ("Gelu", "com.microsoft", {}),
}
_LEVELS = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


class Peer:
    """ONNX Runtime's CPU provider."""

    version = onnxruntime.__version__

    def __init__(self, threads: int):
        self.threads = threads

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the bound session, None for what is backward, in training or without a kernel."""
        batch_statistics = case.norm == "batch_norm" and case.training
        if case.backward or batch_statistics:
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
            if case.fused:
                data = {name: given[name] for name in case.reads}
                nodes = _fused_nodes(case, helper.make_node(operator, list(inputs), ["y"], **attributes))
                constants = {name: value for name, value in inputs.items() if name != "x"}
                sessions = [self._session(nodes, opset, data, constants, level) for level in _LEVELS]
                return min((_bound(session, data, case) for session in sessions), key=lambda c: seconds(c.call))
            nodes = [helper.make_node(operator, list(inputs), ["y"], **attributes)]
            return _bound(self._session(nodes, opset, inputs), inputs, case)
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error) or "INVALID_GRAPH" in str(error):
                return None
            raise

    def _session(self, nodes: list, opset: int, inputs: dict, constants: dict | None = None, level=_LEVELS[0]):
        """Return a session of the nodes, whose outputs are those of the last one and the sum, if there is one."""
        kind = _TYPES[inputs["x"].dtype.name]

        def described(name, value):
            return helper.make_tensor_value_info(name, _TYPES[value.dtype.name], value.shape)

        results = [name for name in ("y", "sum") if any(name in node.output for node in nodes)]
        graph = helper.make_graph(
            nodes,
            "pass",
            [described(name, value) for name, value in inputs.items()],
            [helper.make_tensor_value_info(name, kind, inputs["x"].shape) for name in results],
            [
                helper.make_tensor(name, _TYPES[value.dtype.name], value.shape, value.tobytes(), raw=True)
                for name, value in (constants or {}).items()
            ],
        )
        domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4
        options.graph_optimization_level = level
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _fused_nodes(case: Case, norm) -> list:
    """Return the nodes of a fused pass, which begin with the norm."""
    if "residual" in case.fused:
        x, *parameters = norm.input
        inputs, outputs = [x, "residual", *parameters], ["y", "", "", "sum"]
        return [helper.make_node(_OF_SUMS[case.norm], inputs, outputs, domain="com.microsoft", epsilon=case.eps)]
    nodes = [norm]
    if "add" in case.fused:
        nodes.append(helper.make_node("Add", ["y", "add"], ["y"]))
    if case.activation:
        operator, domain, attributes = _ACTIVATIONS[case.activation]
        nodes.append(helper.make_node(operator, ["y"], ["y"], domain=domain, **attributes))
    for number, (node, following) in enumerate(itertools.pairwise(nodes)):
        node.output[0] = following.input[0] = f"y{number}"
    return nodes


def _value(array: np.ndarray) -> onnxruntime.OrtValue:
    if array.dtype.name == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _bound(session: onnxruntime.InferenceSession, inputs: dict, case: Case) -> Contender:
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, _value(value))
    results = [np.zeros_like(inputs["x"], order="C") for _ in session.get_outputs()]
    given = case.out or case.dtype == "bfloat16"  # which has no other way back to NumPy
    for output, result in zip(session.get_outputs(), results, strict=True):
        if given:
            binding.bind_ortvalue_output(output.name, _value(result))
        else:
            binding.bind_output(output.name, "cpu")

    def outputs(_):
        return results if given else [value.numpy() for value in binding.get_outputs()]

    def call():
        session.run_with_iobinding(binding)

    return Contender(call, outputs)
