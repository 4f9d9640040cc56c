"""The norms of a graph of ONNX: operators that are one, and those that a norm was taken apart into."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ._checkpoint import Norm, Tensor, shortest


@dataclass
class Node:
    """A node; `scopes` are the modules of torch that it comes from, and their classes."""

    op: str = ""
    name: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    scopes: list[list[str]] = field(default_factory=lambda: [[], []])

    def input(self, at: int = 0) -> str:
        """The name of an input; empty where there is none."""
        return self.inputs[at] if at < len(self.inputs) else ""


@dataclass
class Graph:
    """A graph, or a function: nodes in order, tensors that are constant."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Operator(NamedTuple):
    """An operator that is a norm: kind, places of weight, bias and running mean, eps where the node is silent."""

    kind: str
    weight: int | None
    bias: int | None
    eps: float
    running: int | None = None


OPERATORS = {
    "LayerNormalization": Operator("layer_norm", 1, 2, 1e-5),
    "RMSNormalization": Operator("rms_norm", 1, None, 1e-5),
    "BatchNormalization": Operator("batch_norm", 1, 2, 1e-5, 3),
    "InstanceNormalization": Operator("instance_norm", 1, 2, 1e-5),
    "GroupNormalization": Operator("group_norm", 1, 2, 1e-5),
    "MeanVarianceNormalization": Operator("layer_norm", None, None, 1e-9),
    # Those of ONNX Runtime
    "SimplifiedLayerNormalization": Operator("rms_norm", 1, None, 1e-5),
    "SkipLayerNormalization": Operator("layer_norm", 2, 3, 1e-12),
    "SkipSimplifiedLayerNormalization": Operator("rms_norm", 2, None, 1e-12),
    "EmbedLayerNormalization": Operator("layer_norm", 5, 6, 1e-12),
    "GroupNorm": Operator("group_norm", 1, 2, 1e-5),
    "SkipGroupNorm": Operator("group_norm", 1, 2, 1e-5),
    "GatedRMSNorm": Operator("rms_norm", 1, None, 1e-5),
}
SAME = ("Cast", "Identity", "Dropout", "CastLike")  # what changes no value
FRAMES = (*SAME, "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
STEPS = 8  # of such nodes in a row
READERS = 64  # of a value that are looked at
CLASS = re.compile(r"norm|^RMS$|\bLN\b", re.IGNORECASE)
ENDINGS = re.compile(r"[._/](weight|gamma|scale|bias|beta|w_0|b_0)$")


def norms_of(graph: Graph, names: Counter[str]) -> tuple[list[Norm], list[tuple[str, str, str]]]:
    """The norms in the order of the nodes, under names of which each is taken once; and notes: rule, norm and words."""
    search = _Search(graph)
    found = [part for node in graph.nodes for part in (search.operator(node), search.apart(node)) if part is not None]
    norms, notes, ends = [], [], {}
    for part in found:
        name = search.name(part)
        names[name] += 1
        if names[name] > 1:
            name = f"{name} ({names[name]})"
        norms.append(part.norm(name))
        ends[id(part.last)] = name
    for part, norm in zip(found, norms, strict=True):
        before = search.above(part.x, FRAMES)
        if before is not None and id(before) in ends:
            notes.append(("norm-after-norm", norm.name, f"follows {ends[id(before)]}"))
    notes += search.vanished(found)
    return norms, notes


@dataclass
class _Part:
    """A norm of a graph: its nodes, and what was found out."""

    kind: str
    x: str
    nodes: list[Node]
    eps: float | None
    tensors: dict[str, Tensor]
    offset: bool = False
    groups: int | None = None

    @property
    def last(self) -> Node:
        return self.nodes[-1]

    def norm(self, name: str) -> Norm:
        width = next((t.size for t in self.tensors.values()), None)
        source = "the graph" if self.eps is not None else ""
        operator = " ".join(node.op for node in self.nodes)
        return Norm(name, self.kind, width, self.eps, source, offset=self.offset, operator=operator,
                    groups=self.groups, kind_from="the graph", tensors=self.tensors)  # fmt: skip


class _Search:
    """Looks for norms in a graph, from node to node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = {name: node for node in graph.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self.readers.setdefault(name, []).append(node)

    # -- from node to node ----

    def above(self, name: str, over: tuple[str, ...] = SAME) -> Node | None:
        """The node that computes a value, but for those that leave it as it is."""
        return self._up(name, over)[1]

    def source(self, name: str) -> str:
        """The name of a value, before those that leave it as it is."""
        return self._up(name, SAME)[0]

    def _up(self, name: str, over: tuple[str, ...]) -> tuple[str, Node | None]:
        for _ in range(STEPS):
            node = self.maker.get(name)
            if node is None or node.op not in over or not node.inputs:
                return name, node
            name = node.inputs[0]
        return name, None

    def below(self, node: Node, ops: tuple[str, ...], over: tuple[str, ...] = SAME) -> tuple[Node, str] | None:
        """The node of one of `ops` that reads the only value of another, and the name under which it does."""
        for _ in range(STEPS):
            if not node.outputs:
                return None
            name = node.outputs[0]
            readers = self.readers.get(name, [])[:READERS]
            if found := next((reader for reader in readers if reader.op in ops), None):
                return found, name
            if len(readers) != 1 or readers[0].op not in over:
                return None
            node = readers[0]
        return None

    def constant(self, name: str) -> Tensor | None:
        """The tensor that a value is; of a quantized one that which is stored, by a dtype that is not decoded."""
        found = self.graph.tensors.get(self.source(name))
        node = self.above(name) if found is None else None
        if node is not None and node.op == "DequantizeLinear":
            found = self.graph.tensors.get(node.input())
            return None if found is None else replace(found, dtype=f"{found.dtype} and a scale")
        return found

    def number(self, name: str) -> float | None:
        """The value of a constant of one element."""
        tensor = self.constant(name)
        if tensor is None:
            node = self.above(name)
            value = node.attributes.get("value_float") if node is not None and node.op == "Constant" else None
            return value if isinstance(value, float) else None
        values = tensor.values() if tensor.size == 1 else None
        return None if values is None else float(values[0])

    # -- a norm ----

    def operator(self, node: Node) -> _Part | None:
        of = OPERATORS.get(node.op)
        if of is None or node.domain not in ("", "ai.onnx", "com.microsoft") or not node.inputs:
            return None
        places = {"weight": of.weight, "bias": of.bias}
        if of.running:
            places |= {"running_mean": of.running, "running_var": of.running + 1}
        tensors = {
            key: tensor
            for key, at in places.items()
            if at is not None and at < len(node.inputs) and (tensor := self.constant(node.inputs[at])) is not None
        }
        eps = node.attributes.get("epsilon", of.eps)
        groups = node.attributes.get("num_groups", node.attributes.get("groups"))
        groups = groups if isinstance(groups, int) else None
        part = _Part(of.kind, node.inputs[0], [node], shortest(eps), tensors, groups=groups)
        return self.grouped(part) if node.op == "InstanceNormalization" else part

    def grouped(self, part: _Part) -> _Part:
        """The group norm that an instance norm is of, between two reshapes: torch writes it so before opset 21."""
        before, after = self.maker.get(part.x), self.below(part.last, ("Reshape",), ())
        if before is None or before.op != "Reshape" or after is None or "weight" not in part.tensors:
            return part
        groups = part.tensors["weight"].size
        return self.affine(
            _Part("group_norm", before.input(), [before, part.last, after[0]], part.eps, {}, groups=groups)
        )

    def apart(self, node: Node) -> _Part | None:
        """The norm of which `node` takes the root: sqrt(mean((x - mean(x))^2) + eps), without the mean of x in an
        RMSNorm; then a division, or a product with the inverse, and weight and bias."""
        inverse = self.root(node)
        total = self.above(node.input()) if inverse is not None else None
        if total is None or total.op != "Add" or len(total.inputs) != 2:
            return None
        given = [self.number(name) for name in total.inputs]
        if (given[0] is None) == (given[1] is None):
            return None
        eps, inner = (given[0], total.inputs[1]) if given[0] is not None else (given[1], total.inputs[0])
        average = self.above(inner)
        square = self.above(average.input()) if average is not None and average.op == "ReduceMean" else None
        if average is None or square is None or not self.is_square(square):
            return None
        centred, x, first = self.centred(square.inputs[0])
        kind = ("instance_norm" if self.over_pixels(average) else "layer_norm") if first else "rms_norm"
        last = self.divided(node, inverse is True, {self.source(square.inputs[0]), x})
        if last is None:
            return None
        nodes = [*first, *([centred] if centred else []), square, average, total, node, *last]
        return self.affine(_Part(kind, x, nodes, shortest(eps), {}))

    def root(self, node: Node) -> bool | None:
        """Whether a node computes the inverse of a root; None if it is no root."""
        if node.op == "Sqrt" and node.inputs:
            return False
        if node.op == "Pow" and len(node.inputs) == 2:
            return {0.5: False, -0.5: True}.get(self.number(node.inputs[1]) or 0)
        return None

    def is_square(self, node: Node) -> bool:
        if node.op == "Pow" and len(node.inputs) == 2:
            return self.number(node.inputs[1]) == 2
        return node.op == "Mul" and len(node.inputs) == 2 and self.source(node.inputs[0]) == self.source(node.inputs[1])

    def centred(self, name: str) -> tuple[Node | None, str, list[Node]]:
        """Of x - mean(x): the subtraction, x, and the mean; of anything else that it is x."""
        node = self.above(name)
        if node is not None and node.op == "Sub" and len(node.inputs) == 2:
            mean = self.above(node.inputs[1])
            if (
                mean is not None
                and mean.op == "ReduceMean"
                and self.source(mean.input()) == self.source(node.inputs[0])
            ):
                return node, self.source(node.inputs[0]), [mean]
        return None, self.source(name), []

    def over_pixels(self, average: Node) -> bool:
        axes = average.attributes.get("axes")
        if axes is None and len(average.inputs) > 1 and (tensor := self.constant(average.inputs[1])) is not None:
            values = tensor.values()
            axes = [] if values is None else [int(n) for n in values]
        return isinstance(axes, list) and len(axes) > 1 and 1 not in axes and -1 not in axes[:-2] and 2 in axes

    def divided(self, node: Node, inverse: bool, numerators: set[str]) -> list[Node] | None:
        """The nodes from the root to x divided by it."""
        nodes: list[Node] = []
        if not inverse:
            found = self.below(node, ("Div", "Reciprocal"))
            if found is None:
                return None
            node, root = found
            nodes.append(node)
            if node.op == "Div" and node.input(1) == root:
                if self.source(node.inputs[0]) in numerators:
                    return nodes
                if self.number(node.inputs[0]) != 1:
                    return None
        found = self.below(node, ("Mul",))
        if found is None:
            return None
        product, name = found
        others = [self.source(other) for other in product.inputs if other != name]
        if not others or others[0] not in numerators:
            return None
        return [*nodes, product]

    def affine(self, part: _Part) -> _Part:
        """With weight and bias, where products and sums with constants follow."""
        for key, op in (("weight", "Mul"), ("bias", "Add")):
            found = self.below(part.last, (op,))
            if found is None:
                continue
            node, name = found
            others = [other for other in node.inputs if other != name]
            tensor = self.constant(others[0]) if others else None
            if tensor is None and key == "weight" and others and (sum_ := self.above(others[0])) is not None:
                tensor = self.offset(sum_)
                part.offset = tensor is not None
            if tensor is None or (tensor.size == 1 and not part.tensors):
                continue
            part.tensors[key] = tensor
            part.nodes.append(node)
        return part

    def offset(self, node: Node) -> Tensor | None:
        """The weight in 1 + weight."""
        if node.op != "Add" or len(node.inputs) != 2:
            return None
        for one, other in (node.inputs, node.inputs[::-1]):
            if self.number(one) == 1:
                return self.constant(other)
        return None

    # -- names ----

    def name(self, part: _Part) -> str:
        """That of the module of torch; else of the weight; else of the node."""
        main = next((node for node in part.nodes if node.op in OPERATORS), part.nodes[0])
        if (module := module_of(main)) is not None:
            return module[0]
        weight = part.tensors.get("weight", part.tensors.get("bias"))
        if weight is not None and ENDINGS.search(weight.name):
            return ENDINGS.sub("", weight.name)
        if main.name.startswith("/"):  # torch's exporter of before: /module/inner/Operator
            return main.name.strip("/").rpartition("/")[0].replace("/", ".") or main.name
        return main.name or (main.outputs[0] if main.outputs else "")

    def vanished(self, found: list[_Part]) -> Iterator[tuple[str, str, str]]:
        """The modules of torch that are norms, of which no norm arrived, and what is in their place."""
        arrived = {id(node) for part in found for node in part.nodes}
        modules: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            if (module := module_of(node)) is not None and module[1]:
                modules.setdefault(module[0], []).append(node)
        for name, nodes in modules.items():
            if not any(id(node) in arrived for node in nodes):
                yield "folded", name, f"is not in the graph; in its place: {' '.join(node.op for node in nodes[:12])}"


def module_of(node: Node) -> tuple[str, bool] | None:
    """The module of torch that a node comes from, and whether it is a norm by its class."""
    names, classes = node.scopes
    for name, of in zip(names[::-1], classes[::-1], strict=False):
        if name and not of.startswith("aten.") and CLASS.search(of.rpartition(".")[2]):
            return name, True
    inner = [n for n, of in zip(names, classes, strict=False) if n and not of.startswith("aten.")]
    return (inner[-1], False) if inner else None
