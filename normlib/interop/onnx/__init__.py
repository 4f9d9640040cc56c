"""The norms of ONNX models: operators for :class:`onnx.reference.ReferenceEvaluator`, and a list of a model's norms.

:func:`session` runs a model with them; :data:`OPERATORS` are the classes alone, for the argument ``new_ops`` of an
evaluator; :func:`norms` lists what a model has. Every version of an operator that an opset may mean is understood,
and what ONNX Runtime makes of norms as it optimizes a model.

Statistics have the precision of :mod:`normlib.ops` (at least float32, added up in float64), whatever ``stash_type``
asks for; that sets the dtype in which LayerNormalization returns Mean and InvStdDev.
"""

import inspect
import os
from dataclasses import dataclass, field

import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import RuntimeContextError

from ...ops import OPS
from ._operators import FUNCTIONS as FUNCTIONS_OF_ONNX
from ._operators import schema_of
from ._runtime import DOMAIN
from ._runtime import FUNCTIONS as FUNCTIONS_OF_RUNTIME

__all__ = ["OPERATORS", "Norm", "norms", "session", "translations"]

_FUNCTIONS = FUNCTIONS_OF_ONNX | FUNCTIONS_OF_RUNTIME
OPERATORS = list(_FUNCTIONS)


_ADVICE = "take the model before it was optimized, or by ORT_ENABLE_BASIC at most"


class _Evaluator(ReferenceEvaluator):
    """An evaluator that has the operators also in the functions of a model, to which ``new_ops`` is not passed on."""

    def __init__(self, proto, *args, new_ops=None, **kwargs):
        super().__init__(proto, *args, new_ops=[*(new_ops or ()), *OPERATORS], **kwargs)

    def _load_impl(self, node, *types):
        try:
            return super()._load_impl(node, *types)
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, RuntimeContextError):  # the evaluator has an answer to that one
                raise
            of = f" of {node.domain}" if node.domain else ""
            words = f"session: node {node.name!r} of {node.output[0]!r} asks for the operator {node.op_type}{of}"
            why = f"ONNX Runtime writes such nodes: {_ADVICE}" if node.domain.startswith(DOMAIN) else error
            raise type(error)(f"{words}, which the evaluator does not have; {why}") from error


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


def translations():
    """What `torch.onnx.export` has to know of normlib's operators: for its argument ``custom_translation_table``.

    Returns
    -------
    dict
        For ``torch.ops.normlib.layer_norm`` and the other four forward operators a function that writes it in operators
        of ONNX, what is fused with it included.

    Raises
    ------
    ImportError
        Without torch, or onnxscript, which torch's exporter needs too.

    Examples
    --------
    >>> import torch
    >>> import normlib.interop.torch as nt
    >>> from normlib.interop.onnx import norms, translations
    >>> model = nt.accelerate(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))).eval()
    >>> table = translations()
    >>> program = torch.onnx.export(model, (torch.ones(2, 4),), custom_translation_table=table, verbose=False)
    >>> [norm.op_type for norm in norms(program.model_proto)]
    ['LayerNormalization']
    """
    import torch

    from ._translations import translation

    return {getattr(torch.ops.normlib, name).default: translation(name) for name in OPS}


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
        The names of its values.
    attributes : dict
        Its attributes, defaults included; the name of the function's attribute where a function passes one on.
    shape : tuple of int or None
        The shape of the scale, where the model holds it.
    path : tuple of str
        Where it is: empty in the model's graph, else the names of the attributes, or of the function, that lead to it.
    domain : str
        That of the operator: empty, or "com.microsoft" for what ONNX Runtime writes.
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
    domain: str = ""


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
_OPERATORS = {(operator.op_domain, operator.__name__): operator for operator in OPERATORS}


def _norms(graph, opsets, path, shapes):
    """The norms of a graph or function; `shapes` are those of the initializers around it."""
    shapes = shapes | {i.name: tuple(i.dims) for i in getattr(graph, "initializer", ())}
    for node in graph.node:
        if node.domain in _DOMAINS and node.op_type == "Constant":
            shapes.update((node.output[0], tuple(a.t.dims)) for a in node.attribute if a.name == "value")
        elif (operator := _OPERATORS.get((node.domain.removeprefix("ai.onnx"), node.op_type))) is not None:
            yield _norm(node, operator, opsets, path, shapes)
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _norms(subgraph, opsets, (*path, f"{node.name or node.op_type}.{attribute.name}"), shapes)


def _norm(node, operator, opsets, path, shapes):
    version, defaults = _since(operator, opsets)
    given = {a.name: a.ref_attr_name or onnx.helper.get_attribute_value(a) for a in node.attribute}
    return Norm(
        op_type=node.op_type,
        version=version,
        function=_FUNCTIONS[operator],
        name=node.name,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=defaults | given,
        shape=shapes.get(node.input[operator.scale_at]) if len(node.input) > operator.scale_at else None,
        path=path,
        domain=node.domain,
    )


def _since(operator, opsets):
    """The version of an operator and the defaults of its attributes; ONNX Runtime has one version of its own."""
    if operator in FUNCTIONS_OF_RUNTIME:
        given = inspect.signature(operator._run).parameters.values()
        return 1, {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    schema = schema_of(operator.__name__, next(o.version for o in opsets if o.domain in _DOMAINS))
    return schema.since_version, {
        name: onnx.helper.get_attribute_value(a.default_value)
        for name, a in schema.attributes.items()
        if a.default_value.type
    }
