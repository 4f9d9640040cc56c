"""What the readers of all formats give: the tensors of a file by name, each of which is read alone."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

HEADER = 1 << 24  # bytes of a header that is parsed as a whole; those of models of 10^12 parameters are smaller
ELEMENTS = 1 << 22  # of a norm; the widest have some 10^5
TENSORS, NORMS, NAME = 1 << 18, 1 << 16, 1 << 10  # tensors or nodes, norms, letters of a name: more than any model has

# The dtypes that are read, by the name under which a reader knows them
NUMPY = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1", "bool": "u1",
}  # fmt: skip
BYTES = {name: np.dtype(code).itemsize for name, code in NUMPY.items()}
FLOATS = ("float64", "float32", "float16", "bfloat16")


class Unreadable(ValueError):
    """A file that is no checkpoint of a known format, is cut off, or asks for more than a checkpoint does."""

    def __init__(self, words: str) -> None:
        super().__init__(plain(words, 800))


def plain(text: str, most: int = 100) -> str:
    """Text as it may be printed: names of a file may be long, or hold what drives a terminal."""
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 3] + "..."


class File:
    """A regular file, mapped: what is read is checked to lie within."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise Unreadable(f"audit: {path} is not a regular file")
        with path.open("rb") as file:
            self.size = file.seek(0, 2)
            if not self.size:
                raise Unreadable(f"audit: {path} is empty")
            self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def fails(self, what: str) -> Unreadable:
        return Unreadable(f"audit: {self.path}: {what}")

    def bytes(self, start: int, count: int, what: str) -> bytes:
        """So many bytes; `what` they are is for the error."""
        if start < 0 or count < 0 or start + count > self.size:
            raise self.fails(f"{what}: bytes {start} to {start + count}, but the file ends at {self.size}")
        return self.memory[start : start + count]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: what the header says, and how to read it.

    `dtype` is one of `NUMPY`, or what the format calls a quantized one. `raw` returns the bytes in row-major order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: Callable[[], bytes] | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def values(self) -> Array | None:
        """All elements, one after another, as float64, which holds those of every dtype; None for a dtype that is not
        decoded."""
        if self.raw is None or (self.dtype not in NUMPY and self.dtype != "Q8_0"):
            return None
        if self.size > ELEMENTS:
            raise Unreadable(f"audit: {self.name} has {self.size} elements, expected at most {ELEMENTS} in a norm")
        raw = self.raw()
        if self.dtype == "Q8_0":
            return _from_blocks(raw)[: self.size]
        stored = np.frombuffer(raw, NUMPY[self.dtype])
        if self.dtype == "bfloat16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(invalid="ignore"):
            return stored.astype(np.float64)


def _from_blocks(raw: bytes) -> Array:
    """Q8_0 of ggml: blocks of a float16 scale and 32 int8."""
    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("q", "i1", 32)]))
    return (blocks["scale"].astype(np.float64)[:, None] * blocks["q"]).reshape(-1)


def rounded(values: Array, dtype: str) -> Array:
    """Values as a dtype holds them, to nearest even, as float64; as they are for one that is not a float."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        up = bits + 0x7FFF + (bits >> 16 & 1)
        return np.where(np.isnan(values), values, (up & 0xFFFF0000).view(np.float32))
    if dtype not in FLOATS:
        return values
    with np.errstate(over="ignore"):
        return values.astype(NUMPY[dtype]).astype(np.float64)


def shortest(eps: Any) -> float | None:
    """eps as it was written, of the float32 that is stored."""
    return float(str(np.float32(eps))) if isinstance(eps, (int, float)) else None


@dataclass(frozen=True)
class Norm:
    """A norm of a checkpoint.

    Attributes
    ----------
    name : str
        That of the module, or what a graph has in its place.
    kind : str
        The function of normlib: "layer_norm", "rms_norm", "batch_norm", "group_norm" or "instance_norm".
    width : int or None
        Over how many channels weight and bias go; None where there are none.
    eps : float or None
        eps, and `eps_from` where it was found; None where it is unknown.
    placement : str
        "pre", "post", "QK", "final", "embedding" and the like; empty where the name does not tell.
    offset : bool
        Whether what multiplies is 1 + weight.
    tensors : dict
        The tensors, unread, by what they are: "weight", "bias", "running_mean", "running_var".
    operator : str
        The operator of ONNX, or those into which the norm was taken apart; the class of TorchScript.
    groups : int or None
        Of a group norm, where it is known.
    role : str
        The place in a block, by one name for all formats.
    kind_from : str
        By what the kind was found.
    """

    name: str
    kind: str
    width: int | None = None
    eps: float | None = None
    eps_from: str = ""
    placement: str = ""
    offset: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict, hash=False)
    operator: str = ""
    groups: int | None = None
    role: str = ""
    kind_from: str = ""

    @property
    def weight(self) -> Tensor | None:
        return self.tensors.get("weight")

    @property
    def bias(self) -> Tensor | None:
        return self.tensors.get("bias")


@dataclass
class Checkpoint:
    """A checkpoint of any format.

    Attributes
    ----------
    format : str
        "safetensors", "gguf", "onnx", "torch" or "torchscript".
    tensors : dict
        The tensors by name, in the order of the file.
    config : dict
        What config.json or the metadata of the file says.
    config_from : str
        Where `config` is from.
    norms : list of Norm or None
        The norms, where the file itself says which there are: a graph, or classes of modules.
    notes : list of (rule, norm name, words)
        What the reader found out beside: norms that are no longer there, one that follows another.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    config_from: str = ""
    norms: list[Norm] | None = None
    notes: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def architecture(self) -> str:
        """The `model_type` of transformers, or the architecture of GGUF; empty where the file does not say."""
        found = self.config.get("model_type") or self.config.get("general.architecture") or ""
        return found if isinstance(found, str) else ""
