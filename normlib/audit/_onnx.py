"""ONNX models: their graphs and functions, by walking over the file; weights are not read, but those of norms.

The messages: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import array
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._checkpoint import BYTES, TENSORS, Checkpoint, File, Norm, Tensor
from ._graph import Graph, Node, norms_of
from ._protobuf import Span, Wire, signed

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
    16: "bfloat16", 17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz",
}  # fmt: skip
DEPTH = 32  # of graphs in graphs
SCOPES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


def read(path: Path) -> Checkpoint:
    """The norms of a model, and its initializers by name."""
    file = File(path)
    reader = _Reader(file)
    graphs: list[Graph] = []
    config: dict[str, Any] = {}
    for number, value in reader.wire.fields(Span(0, file.size)):
        if number == 7:
            reader.graph(reader.wire.message(value), graphs, 0)
        elif number == 25:
            reader.graph(reader.wire.message(value), graphs, 0, function=True)
        elif number == 8:
            domain, version = _entry(reader, value, 1, 2)
            if domain in ("", "ai.onnx"):
                config["opset"] = version
        elif number == 14:
            key, text = _entry(reader, value, 1, 2)
            config[str(key)] = text
    if not graphs:
        raise file.fails("no graph in it, expected a model of ONNX")
    norms: list[Norm] = []
    notes: list[tuple[str, str, str]] = []
    tensors: dict[str, Tensor] = {}
    names: Counter[str] = Counter()
    for graph in graphs:
        found, more = norms_of(graph, names)
        norms += found
        notes += more
        tensors |= graph.tensors
    return Checkpoint(path, "onnx", tensors, config, "the metadata", norms, notes)


def _entry(reader: _Reader, value: int | float | Span, first: int, second: int) -> tuple[Any, Any]:
    """Two fields of a message: of a pair of strings, of an opset."""
    found: dict[int, Any] = {first: "", second: ""}
    for number, inner in reader.wire.fields(reader.wire.message(value)):
        if number in found:
            found[number] = reader.wire.text(inner) if isinstance(inner, Span) else inner
    return found[first], found[second]


@dataclass
class _Attribute:
    value: Any = None
    graphs: list[Span] = field(default_factory=list)


class _Reader:
    def __init__(self, file: File) -> None:
        self.file, self.wire, self.seen = file, Wire(file), 0

    def graph(self, span: Span, graphs: list[Graph], depth: int, function: bool = False) -> None:
        """Reads a graph, or a function, and all inside; appends them."""
        if depth > DEPTH:
            raise self.file.fails(f"graphs are nested more than {DEPTH} deep")
        nodes_at, found, inner = 7 if function else 1, Graph(), []
        graphs.append(found)
        for number, value in self.wire.fields(span):
            if number == nodes_at:
                node, subgraphs = self.node(self.wire.message(value))
                found.nodes.append(node)
                inner += subgraphs
                if node.op == "Constant" and isinstance(node.attributes.get("value"), Tensor) and node.outputs:
                    found.tensors[node.outputs[0]] = node.attributes["value"]
            elif number == 5 and not function:
                tensor = self.tensor(self.wire.message(value))
                found.tensors[tensor.name] = tensor
        self.sorted(found)
        for part in inner:
            self.graph(part, graphs, depth + 1)

    def sorted(self, graph: Graph) -> None:
        """ONNX wants nodes after what they read; one that reads what comes later is in a cycle, or out of order."""
        made = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
        for i, node in enumerate(graph.nodes):
            for name in node.inputs:
                if made.get(name, -1) >= i:
                    what = f"node {node.name or node.op!r} reads {name[:80]!r}, which is computed after it"
                    raise self.file.fails(f"{what}: a cycle, or nodes out of order")

    def count(self) -> None:
        self.seen += 1
        if self.seen > 2 * TENSORS:
            raise self.file.fails(f"it has more than {2 * TENSORS} nodes and tensors")

    def node(self, span: Span) -> tuple[Node, list[Span]]:
        self.count()
        wire, node, graphs = self.wire, Node(), []
        for number, value in wire.fields(span):
            match number:
                case 1:
                    node.inputs.append(wire.text(value))
                case 2:
                    node.outputs.append(wire.text(value))
                case 3:
                    node.name = wire.text(value)
                case 4:
                    node.op = wire.text(value)
                case 7:
                    node.domain = wire.text(value)
                case 5:
                    name, attribute = self.attribute(wire.message(value))
                    node.attributes[name] = attribute.value
                    graphs += attribute.graphs
                case 9:
                    key, text = _entry(self, value, 1, 2)
                    if key in (SCOPES, CLASSES):
                        node.scopes[key == CLASSES] = _strings(text)
        return node, graphs

    def attribute(self, span: Span) -> tuple[str, _Attribute]:
        name, found, ints = "", _Attribute(), []
        for number, value in self.wire.fields(span):
            if number == 1:
                name = self.wire.text(value)
            elif number == 2 and isinstance(value, float):
                found.value = value
            elif number == 3 and isinstance(value, int):
                found.value = signed(value)
            elif number == 4 and isinstance(value, Span) and value.stop - value.start < 256:
                found.value = self.wire.text(value)
            elif number == 5:
                found.value = self.tensor(self.wire.message(value))
            elif number in (6, 11):
                found.graphs.append(self.wire.message(value))
            elif number == 8:
                ints += [signed(value)] if isinstance(value, int) else []
                if isinstance(value, Span) and value.stop - value.start < 256:
                    ints += self.wire.varints(value)
        found.value = ints if ints else found.value
        return name, found

    def tensor(self, span: Span) -> Tensor:
        self.count()
        dims: list[int] = []
        kind, name, data, external = 0, "", [], {}
        for number, value in self.wire.fields(span):
            if number == 1:
                dims += self.wire.varints(value) if isinstance(value, Span) else [signed(value)]
                if len(dims) > 64:
                    raise self.file.fails("a tensor has more than 64 axes")
            elif number == 2:
                kind = signed(value) if isinstance(value, int) else 0
            elif number == 8:
                name = self.wire.text(value)
            elif number in (4, 5, 7, 9, 10):
                data.append((number, value))
            elif number == 13:
                key, text = _entry(self, value, 1, 2)
                external[key] = text
        if any(not 0 <= n < 1 << 48 for n in dims):
            raise self.file.fails(f"tensor {name[:80]!r} has shape {dims}, expected sizes from 0 on")
        made = Tensor(name, DTYPES.get(kind, f"type {kind}"), tuple(dims), None)
        stored = self._external(external, made) if external else lambda: self._data(data, made)
        return Tensor(made.name, made.dtype, made.shape, stored)

    def _data(self, data: list[tuple[int, int | float | Span]], tensor: Tensor) -> bytes:
        """The bytes of a tensor, from raw_data or lists of numbers."""
        parts, expected = [], tensor.size * BYTES[tensor.dtype]
        stored = sum(value.stop - value.start if isinstance(value, Span) else 1 for _, value in data)
        if stored > 10 * expected:  # a varint of a byte has ten at most
            raise self.file.fails(f"tensor {tensor.name[:80]!r} is stored in {stored} bytes, expected {expected}")
        for number, value in data:
            if isinstance(value, Span) and number in (4, 9, 10):  # floats and doubles are packed as they are
                parts.append(self.file.bytes(value.start, value.stop - value.start, tensor.name))
            elif isinstance(value, float):
                parts.append(array.array("f" if number == 4 else "d", [value]).tobytes())
            else:
                numbers: Iterator[int] = self.wire.varints(value) if isinstance(value, Span) else iter([signed(value)])
                width = BYTES[tensor.dtype]
                parts.append(b"".join((n % (1 << 8 * width)).to_bytes(width, "little") for n in numbers))
        raw = b"".join(parts)
        if len(raw) != expected:
            raise self.file.fails(f"tensor {tensor.name[:80]!r} has {len(raw)} bytes, expected {expected}")
        return raw

    def _external(self, entries: dict[str, str], tensor: Tensor) -> Any:
        """How to read a tensor from the file beside the model; None where that is not there."""
        location = entries.get("location", "")
        if not location or Path(location).name != location or "\\" in location:
            raise self.file.fails(f"a tensor lies in {location[:80]!r}, expected a file beside the model")
        path, start = self.file.path.parent / location, entries.get("offset", "0")
        if not path.is_file() or tensor.dtype not in BYTES:
            return None
        if not (start.isascii() and start.isdigit() and len(start) < 20):
            raise self.file.fails(f"a tensor lies at offset {start[:40]!r}, expected a number")
        return lambda: File(path).bytes(int(start), tensor.size * BYTES[tensor.dtype], tensor.name)


def _strings(text: str) -> list[str]:
    """The list of strings that torch writes into the metadata of a node."""
    return re.findall(r"'([^']*)'", text)
