"""Safetensors: eight bytes of length, a header in JSON, tensors one after another.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ._checkpoint import BYTES, HEADER, TENSORS, File, Tensor, Unreadable

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    file = File(path)
    length = int.from_bytes(file.bytes(0, 8, "the length of the header"), "little")
    if length > HEADER:
        raise file.fails(f"the header says it has {length} bytes, expected at most {HEADER}")
    header = parse(file.bytes(8, length, "the header"), f"{path}: the header")
    header.pop("__metadata__", None)
    if len(header) > TENSORS:
        raise file.fails(f"the header has {len(header)} tensors, expected at most {TENSORS}")
    return {name: _tensor(file, name, entry, 8 + length) for name, entry in header.items()}


def _tensor(file: File, name: str, entry: Any, start: int) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(first), int(last)]}:
            pass
        case _:
            raise file.fails(f"tensor {name!r} is {str(entry)[:80]}, expected dtype, shape and two data_offsets")
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise file.fails(f"tensor {name!r} has shape {str(shape)[:80]}, expected sizes from 0 on")
    if not 0 <= first <= last <= file.size - start:
        raise file.fails(f"tensor {name!r} has data_offsets {first}, {last}, but {file.size - start} bytes follow")
    dtype = DTYPES.get(dtype, dtype[:40])
    if dtype in BYTES and last - first != math.prod(shape) * BYTES[dtype]:
        raise file.fails(f"tensor {name!r} has {last - first} bytes, but shape {shape} of {dtype}")
    path = file.path  # opened again for each norm: shards are many, and open files few
    return Tensor(name, dtype, tuple(shape), lambda: File(path).bytes(start + first, last - first, name))


def parse(text: bytes, what: str) -> dict[str, Any]:
    """An object in JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"audit: {what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Unreadable(f"audit: {what} is a {type(found).__name__} in JSON, expected an object")
    return found
