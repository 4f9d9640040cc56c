"""GGUF: metadata by key, then names, shapes and types of tensors, then these.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from ._checkpoint import HEADER, TENSORS, Checkpoint, File, Tensor

# Types of tensors, by number: name, elements and bytes of a block
TYPES = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 30: ("bfloat16", 1, 2), 28: ("float64", 1, 8), 24: ("int8", 1, 1),
    25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
STRINGS = 1 << 22  # of a vocabulary
KEPT = 256  # characters of a string: those of templates are of no use here


class _Header:
    """Reads a header from front to back."""

    def __init__(self, file: File) -> None:
        self.file, self.at, self.order = file, 4, "<"

    def number(self, code: str) -> Any:
        form = self.order + code
        raw = self.file.bytes(self.at, struct.calcsize(form), "the header")
        self.at += len(raw)
        return struct.unpack(form, raw)[0]

    def count(self, what: str, most: int) -> int:
        n: int = self.number("Q")
        if n > most:
            raise self.file.fails(f"the header says {n} {what}, expected at most {most}")
        return n

    def string(self) -> str:
        n = self.count("bytes of a string", HEADER)
        raw = self.file.bytes(self.at, n, "a string")
        self.at += n
        return raw.decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of metadata; None for an array, which is passed over: vocabularies are long."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.string()[:KEPT]
        if kind != ARRAY or depth > 3:
            raise self.file.fails(
                f"byte {self.at} has a value of type {kind}, expected 0 to 12, nested 3 times at most"
            )
        inner, n = self.number("I"), self.number("Q")
        if inner in NUMBERS:
            width = struct.calcsize(self.order + NUMBERS[inner])
            if n * width > self.file.size - self.at:
                raise self.file.fails(f"an array at byte {self.at} says it has {n} numbers, past the end of the file")
            self.at += n * width
            return None
        if n > STRINGS:
            raise self.file.fails(f"an array at byte {self.at} says it has {n} items, expected at most {STRINGS}")
        for _ in range(n):
            self.value(inner, depth + 1)
        return None


def read(path: Path) -> Checkpoint:
    """Metadata and tensors of a file."""
    header = _Header(file := File(path))
    version = header.number("I")
    if version & 0xFFFF == 0:  # of a machine of the other byte order
        header.order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (2, 3):
        raise file.fails(f"GGUF of version {version}, expected 2 or 3")
    tensors, keys = header.count("tensors", TENSORS), header.count("keys", 1 << 16)
    metadata = {}
    for _ in range(keys):
        key = header.string()
        metadata[key] = header.value(header.number("I"))
    entries = []
    for _ in range(tensors):
        name, axes = header.string(), header.number("I")
        if axes > 8:
            raise file.fails(f"tensor {name!r} has {axes} axes, expected at most 8")
        shape = tuple(header.number("Q") for _ in range(axes))[::-1]  # GGUF has the innermost first
        entries.append((name, shape, header.number("I"), header.number("Q")))
    alignment = metadata.get("general.alignment") or 32
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise file.fails(f"general.alignment is {alignment}, expected 1 to {1 << 20}")
    start = -(-header.at // alignment) * alignment
    found = {name: _tensor(file, name, shape, kind, start + at, header.order) for name, shape, kind, at in entries}
    if len(found) < len(entries):
        raise file.fails("a name of a tensor occurs twice")
    return Checkpoint(path, "gguf", found, metadata, "its metadata")


def _tensor(file: File, name: str, shape: tuple[int, ...], kind: int, start: int, order: str) -> Tensor:
    if kind not in TYPES:
        return Tensor(name, f"type {kind}", shape, None)
    dtype, block, width = TYPES[kind]
    size = math.prod(shape)
    count = -(-size // block) * width
    if start + count > file.size:
        raise file.fails(f"tensor {name!r} ends at byte {start + count}, but the file at {file.size}")
    if order == ">":  # values too are of the other byte order, which no machine of today writes
        return Tensor(name, dtype, shape, None)
    return Tensor(name, dtype, shape, lambda: file.bytes(start, count, name))
