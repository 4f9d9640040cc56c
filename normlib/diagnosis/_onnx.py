"""Nodes and models of ONNX as functions, run by ONNX Runtime, or by the reference evaluator where it is missing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from ._model import Array
from ._subject import Function, named

INTERNAL = ("SimplifiedLayerNormalization",)  # operators of ONNX Runtime alone, under the default domain
OPSET = 23  # the first with RMSNormalization


def function(given: Any, backward: Callable[..., Any] | None) -> Function:
    """A function of x, and of weight and bias where the node takes them; those of a model may be initializers."""
    import onnx

    if isinstance(given, onnx.NodeProto):
        roles = dict(zip(("x", "weight", "bias"), given.input, strict=False))
        if len(given.input) > 3:
            raise ValueError(f"diagnose: {given.op_type} takes {len(given.input)} inputs, expected x, weight and bias")
        label = given.op_type
    else:
        given, roles = _opened(given)
        label = given.graph.name
    runs: dict[tuple[str, int], Callable[[dict[str, Any]], Array]] = {}

    def run(*arrays: Array) -> Array:
        key = arrays[0].dtype.name, arrays[0].ndim
        if key not in runs:
            model = _of_node(given, arrays) if isinstance(given, onnx.NodeProto) else given
            runs[key] = _runner(model)
        return runs[key](dict(zip(roles.values(), arrays, strict=True)))

    made = Function(run, list(roles)[1:], backward=backward)
    made.label = label
    return made


def _of_node(node: Any, arrays: tuple[Array, ...]) -> Any:
    """A model of one node."""
    import onnx
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    inputs = [
        helper.make_tensor_value_info(name, kind, [None] * a.ndim) for name, a in zip(node.input, arrays, strict=True)
    ]
    outputs = [helper.make_tensor_value_info(node.output[0], kind, [None] * arrays[0].ndim)]
    opsets = [helper.make_opsetid("", 17 if node.op_type in INTERNAL else OPSET)]
    model = helper.make_model(helper.make_graph([node], node.op_type, inputs, outputs), opset_imports=opsets)
    model.ir_version = min(model.ir_version, 10)
    if node.op_type not in INTERNAL:
        onnx.checker.check_model(model)
    return model


def _opened(model: Any) -> tuple[Any, dict[str, str]]:
    """A model whose weight and bias are inputs, and which input is what."""
    from onnx import helper

    model = copy.deepcopy(model)
    held = {t.name: t for t in model.graph.initializer}
    free = [v.name for v in model.graph.input if v.name not in held]
    if len(free) != 1:
        raise ValueError(f"diagnose: the model takes {', '.join(free)}, expected one input beside its parameters")
    roles = {"x": free[0]}
    for name, tensor in held.items():
        role = named(name.replace("_", ".").replace("/", "."))
        if role is None or role in roles:
            continue
        roles[role] = name
        model.graph.initializer.remove(tensor)
        if name not in (v.name for v in model.graph.input):
            model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return model, roles


def _runner(model: Any) -> Callable[[dict[str, Any]], Array]:
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda inputs: np.asarray(session.run(None, inputs)[0])
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda inputs: np.asarray(next(iter(evaluator.run(None, inputs))))
