"""The norms of ONNX models: operators for :class:`onnx.reference.ReferenceEvaluator`, and a list of a model's norms.

:func:`session` runs a model with them; :data:`OPERATORS` are the classes alone, for the argument ``new_ops`` of an
evaluator; :func:`norms` lists what a model has. Every version of an operator that an opset may mean is understood.

Statistics have the precision of :mod:`normlib.ops` (at least float32, added up in float64), whatever ``stash_type``
asks for; that sets the dtype in which LayerNormalization returns Mean and InvStdDev.
"""

import os
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from .. import ops

__all__ = ["OPERATORS", "Norm", "norms", "session"]


def _schema(op_type, opset):
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:  # some optimizers write operators into models of an older opset
        return onnx.defs.get_schema(op_type)


class _Operator(OpRun):
    """An operator in the version that the model's opset means, with the attributes and defaults of that version."""

    def __init__(self, onnx_node, run_params):
        schema = _schema(onnx_node.op_type, run_params["opsets"][onnx_node.domain])
        self.version = schema.since_version
        super().__init__(onnx_node, run_params, schema)


def _parameter(value, x):
    """`value` in a dtype that the parameter of a normlib function may have beside `x`."""
    if value is None or value.dtype == x.dtype or (x.dtype.itemsize == 2 and value.dtype == np.float32):
        return value
    return value.astype(x.dtype if x.dtype.itemsize > 2 else np.float32)


def _over(x, axes, *parameters):
    """Whether each parameter, which ONNX lets broadcast, has no axis outside of `axes`; and those in full shape."""
    shape = tuple(x.shape[a] for a in axes)
    full = []
    for value in parameters:
        if value is not None and value.shape != shape:
            extra = max(value.ndim - len(shape), 0)
            if any(n != 1 for n in value.shape[:extra]):
                return False, parameters
            value = np.broadcast_to(value.reshape(value.shape[extra:]), shape)
        full.append(_parameter(value, x))
    return True, full


class LayerNormalization(_Operator):
    def _run(self, x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
        axes = tuple(range(axis % x.ndim, x.ndim))
        fits, (weight, shift) = _over(x, axes, scale, bias)
        if not fits:
            weight = shift = None
        y, *statistics = ops.layer_norm(x, weight, shift, axis=axes, eps=float(epsilon), return_stats=True)
        if not fits:
            y = (y * scale + (0 if bias is None else bias)).astype(x.dtype, copy=False)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(stash_type)
        return y, *(np.expand_dims(s.astype(dtype), axes) for s in statistics[: len(self.output) - 1])


class RMSNormalization(_Operator):
    def _run(self, x, scale, axis=-1, epsilon=1e-5, stash_type=1):
        if scale.dtype.itemsize > x.dtype.itemsize:  # the result has the dtype of the scale
            x = x.astype(scale.dtype)
        axes = tuple(range(axis % x.ndim, x.ndim))
        fits, (weight,) = _over(x, axes, scale)
        y = ops.rms_norm(x, weight if fits else None, axis=axes, eps=float(epsilon))
        return ((y if fits else y * scale).astype(scale.dtype, copy=False),)


class BatchNormalization(_Operator):
    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, momentum=0.9, training_mode=0, **older):
        if self.version < 7:
            training_mode = not older["is_test"]
        elif self.version < 14:
            training_mode = len(self.output) > 1
        shape = x.shape
        if not older.get("spatial", 1):  # a channel for each place in a sample
            x = x.reshape(len(x), -1)
        weight, bias, old_mean, old_var = (p.reshape(-1) for p in (scale, bias, mean, var))
        parameters = {"weight": _parameter(weight, x), "bias": _parameter(bias, x), "eps": float(epsilon)}
        if not training_mode:
            y = ops.batch_norm(x, **parameters, running_mean=_statistic(old_mean), running_var=_statistic(old_var))
            return (y.reshape(shape),)
        y, new_mean, new_var = _batch_norm(x, parameters)
        batch = [s.reshape(mean.shape) for s in (new_mean, new_var)]
        moved = [old * momentum + new * (1 - momentum) for old, new in zip((mean, var), batch, strict=True)]
        results = [s.astype(mean.dtype) for s in (*moved, *batch)]
        return y.reshape(shape), *results[: len(self.output) - 1]


def _batch_norm(x, parameters):
    """The result in training, and mean and biased variance of the batch, which ONNX averages."""
    n = x.size // x.shape[1] if x.size else 0
    if n == 1:  # batch_norm refuses to estimate a variance from one value, ONNX has it as 0
        mean, var = x.reshape(-1).astype(np.float64), np.zeros(x.shape[1])
        return ops.batch_norm(x, **parameters, running_mean=mean, running_var=var), mean, var
    mean, var = np.zeros((2, x.shape[1]))
    y = ops.batch_norm(x, **parameters, running_mean=mean, running_var=var, training=True, momentum=1)
    return y, mean, var * (max(n - 1, 0) / max(n, 1))


def _statistic(value):
    return value.astype(np.float32) if value.dtype.itemsize == 2 else value


class GroupNormalization(_Operator):
    def _run(self, x, scale, bias, num_groups=None, epsilon=1e-5, stash_type=1):
        if self.version < 21:  # one value a group, a channel since
            scale, bias = (np.repeat(p, x.shape[1] // num_groups) for p in (scale, bias))
        return (ops.group_norm(x, num_groups, _parameter(scale, x), _parameter(bias, x), eps=float(epsilon)),)


class InstanceNormalization(_Operator):
    def _run(self, x, scale, bias, epsilon=1e-5, consumed_inputs=None):
        weight, bias = _parameter(scale, x), _parameter(bias, x)
        if x.size == x.shape[0] * x.shape[1]:  # one value a channel: of variance 0, which instance_norm refuses
            return (ops.group_norm(x, x.shape[1], weight, bias, eps=float(epsilon)),)
        return (ops.instance_norm(x, weight=weight, bias=bias, eps=float(epsilon)),)


class MeanVarianceNormalization(_Operator):
    """ONNX says in words that this divides by the standard deviation; its formula adds 1e-9 to that. Here 1e-18 is
    added to the variance: the same for constant values, and the same float32 where the deviation is above 0.03."""

    def _run(self, x, axes=(0, 2, 3)):
        kept = set(range(x.ndim)) - {a % x.ndim for a in axes}
        if len(kept) == 1 and x.size > x.shape[min(kept)]:  # batch_norm has the faster loops for scattered axes
            return (ops.batch_norm(x, training=True, channel_axis=min(kept), eps=1e-18),)
        return (ops.layer_norm(x, axis=tuple(axes), eps=1e-18),)


_FUNCTIONS = {
    LayerNormalization: "layer_norm",
    RMSNormalization: "rms_norm",
    BatchNormalization: "batch_norm",
    GroupNormalization: "group_norm",
    InstanceNormalization: "instance_norm",
    MeanVarianceNormalization: "layer_norm",
}

OPERATORS = list(_FUNCTIONS)


class _Evaluator(ReferenceEvaluator):
    """An evaluator that has the operators also in the functions of a model, to which ``new_ops`` is not passed on."""

    def __init__(self, proto, *args, new_ops=None, **kwargs):
        super().__init__(proto, *args, new_ops=[*(new_ops or ()), *OPERATORS], **kwargs)


def session(model, **options):
    """An evaluator of an ONNX model whose norms are normlib's, in its subgraphs and functions too.

    Parameters
    ----------
    model : onnx.ModelProto or path
        The model, or the file that has it.
    **options
        For :class:`onnx.reference.ReferenceEvaluator`; operators in ``new_ops`` come before normlib's.

    Returns
    -------
    onnx.reference.ReferenceEvaluator
        Its ``run(None, {name: array})`` returns the outputs.

    Examples
    --------
    >>> import numpy as np
    >>> import onnx
    >>> from normlib.interop.onnx import session
    >>> model = onnx.parser.parse_model('''
    ...     <ir_version: 10, opset_import: ["": 21]>
    ...     example (float[N, 2] x, float[2] w) => (float[N, 2] y) { y = LayerNormalization <epsilon = 0.0> (x, w) }''')
    >>> session(model).run(None, {"x": np.array([[1, 3]], np.float32), "w": np.ones(2, np.float32)})
    [array([[-1.,  1.]], dtype=float32)]
    """
    return _Evaluator(_loaded(model), **options)


def _loaded(model, **options):
    return onnx.load(model, **options) if isinstance(model, (str, os.PathLike)) else model


@dataclass(frozen=True)
class Norm:
    """A norm of a model.

    Attributes
    ----------
    op_type : str
        The operator.
    version : int
        Its version: the opset since which it means what it means in this model.
    function : str
        The function of normlib that computes it.
    name : str
        The name of the node; models need not give one.
    inputs, outputs : tuple of str
        The names of its values; the second and third input are the parameters.
    attributes : dict
        Its attributes, defaults included; the name of the function's attribute where a function passes one on.
    shape : tuple of int or None
        The shape of the scale, where the model holds it.
    path : tuple of str
        Where it is: empty in the model's graph, else the names of the attributes, or of the function, that lead to it.
    """

    op_type: str
    version: int
    function: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict = field(hash=False)
    shape: tuple[int, ...] | None = None
    path: tuple[str, ...] = ()


def norms(model):
    """The norms of an ONNX model in the order of its nodes, those in subgraphs and functions included.

    Parameters
    ----------
    model : onnx.ModelProto or path
        The model, or the file that has it; its weights are not read.

    Returns
    -------
    list of Norm

    Examples
    --------
    >>> import onnx
    >>> from normlib.interop.onnx import norms
    >>> model = onnx.parser.parse_model('''
    ...     <ir_version: 10, opset_import: ["": 21]>
    ...     example (float[N, 4] x, float[4] w, float[4] b) => (float[N, 4] y) {
    ...         y = GroupNormalization <num_groups = 2> (x, w, b)
    ...     }''')
    >>> for norm in norms(model):
    ...     print(norm.op_type, norm.function, norm.attributes["num_groups"], norm.inputs)
    GroupNormalization group_norm 2 ('x', 'w', 'b')
    """
    model = _loaded(model, load_external_data=False)
    found = list(_norms(model.graph, model.opset_import, (), {}))
    for function in model.functions:
        name = f"{function.domain}:{function.name}"
        found += _norms(function, function.opset_import or model.opset_import, (name,), {})
    return found


_DOMAINS = ("", "ai.onnx")  # two names of one
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_NAMES = {operator.__name__: function for operator, function in _FUNCTIONS.items()}


def _norms(graph, opsets, path, shapes):
    """The norms of a graph or function; `shapes` are those of the initializers around it."""
    shapes = shapes | {i.name: tuple(i.dims) for i in getattr(graph, "initializer", ())}
    for node in graph.node:
        if node.domain in _DOMAINS and node.op_type == "Constant":
            shapes.update((node.output[0], tuple(a.t.dims)) for a in node.attribute if a.name == "value")
        elif node.domain in _DOMAINS and node.op_type in _NAMES:
            yield _norm(node, opsets, path, shapes)
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _norms(subgraph, opsets, (*path, f"{node.name or node.op_type}.{attribute.name}"), shapes)


def _norm(node, opsets, path, shapes):
    opset = next(o.version for o in opsets if o.domain in _DOMAINS)
    schema = _schema(node.op_type, opset)
    attributes = {
        name: onnx.helper.get_attribute_value(a.default_value)
        for name, a in schema.attributes.items()
        if a.default_value.type
    } | {a.name: a.ref_attr_name or onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Norm(
        op_type=node.op_type,
        version=schema.since_version,
        function=_NAMES[node.op_type],
        name=node.name,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
        shape=shapes.get(node.input[1]) if len(node.input) > 1 else None,
        path=path,
    )
