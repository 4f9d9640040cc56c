"""What torch saves: state dicts, in a zip archive or in the form before it, and TorchScript. No code of a file is run.

The formats: torch/serialization.py and https://pytorch.org/docs/main/jit_builtin_functions.html
"""

from __future__ import annotations

import itertools
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import _pickle
from ._checkpoint import BYTES, ELEMENTS, HEADER, NAME, TENSORS, Checkpoint, File, Norm, Tensor, Unreadable

MAGIC = 0x1950A86A20F9469CFC6C  # of the form before torch 1.6
CODE = 1 << 20  # bytes of the code of a class, which is read as text


class _Bounded:
    """A file for zipfile, which reads the whole directory of an archive: none of absurd size."""

    def __init__(self, file: File) -> None:
        self.file, self.at = file, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.file.size)[whence]
        if self.at < 0:
            raise OSError("before the start of the file")
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.file.size - self.at)
        count = left if count < 0 else min(count, left)
        if count > HEADER:
            raise self.file.fails(f"its directory has {count} bytes, expected at most {HEADER}")
        data = self.file.memory[self.at : self.at + count]
        self.at += count
        return data


class _Archive:
    """A zip archive whose entries are read in parts."""

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            self.zip = zipfile.ZipFile(_Bounded(file))  # type: ignore[arg-type]
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise error if isinstance(error, Unreadable) else file.fails(f"no zip archive: {error}") from None
        self.entries = {info.filename: info for info in self.zip.infolist()}
        pickles = [name for name in self.entries if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if not pickles:
            raise file.fails("a zip archive without data.pkl, expected one that torch has saved")
        self.root, self.left = pickles[0].removesuffix("data.pkl"), 4 * HEADER
        self.eps: dict[str, float | None] = {}

    def read(self, name: str, most: int) -> bytes:
        """A whole entry, small when it is no longer compressed."""
        try:
            with self.zip.open(self.root + name) as entry:
                data = entry.read(most + 1)
        except KeyError:
            raise self.file.fails(f"its entry {name!r} is missing") from None
        except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError, zlib.error) as error:
            raise self.file.fails(f"its entry {name!r} cannot be read: {error}") from None
        self.left -= len(data)
        if len(data) > most or self.left < 0:
            raise self.file.fails(f"its entry {name!r} has more than {most} bytes, or all have more than {4 * HEADER}")
        return data

    def part(self, name: str, start: int, count: int) -> bytes:
        """Bytes of an entry that is stored as it is, as torch stores those of tensors."""
        info = self.entries.get(self.root + name)
        if info is None:
            raise self.file.fails(f"its entry {name!r} is missing")
        if info.compress_type != zipfile.ZIP_STORED or start + count > info.file_size:
            raise self.file.fails(f"its entry {name!r} is compressed, or ends before byte {start + count}")
        head = self.file.bytes(info.header_offset, 30, "a head of the archive")
        first = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        return self.file.bytes(first + start, count, name)


def read(path: Path) -> Checkpoint:
    """The tensors of a file, and of TorchScript the norms too."""
    file = File(path)
    if file.bytes(0, min(4, file.size), "the head") != b"PK\x03\x04":
        return _legacy(file)
    archive = _Archive(file)
    state, _ = _unpickled(file, archive.read("data.pkl", HEADER))

    def part(key: str, start: int, count: int) -> bytes:
        return archive.part(f"data/{key}", start, count)

    little = archive.root + "byteorder" not in archive.entries or archive.read("byteorder", 16) == b"little"
    if not isinstance(state, _pickle.Module):
        return _of_state(file, state, part if little else None)
    tensors: dict[str, Tensor] = {}
    modules = dict(_modules(file, state, "", 0, set()))
    for name, module in modules.items():
        for key, value in module.state.items():
            if isinstance(value, _pickle.Strided):
                full = f"{name}.{key}" if name else key
                tensors[full] = _tensor(file, full, value, part if little else None)
    norms = [norm for name, module in modules.items() if (norm := _norm(archive, name, module, tensors))]
    notes = list(_neighbours(modules, norms))
    return Checkpoint(path, "torchscript", tensors, norms=norms, notes=notes)


def _unpickled(file: File, data: bytes) -> tuple[Any, int]:
    try:
        return _pickle.load(data)
    except _pickle.Refused as error:
        raise file.fails(f"the pickle in it is not read: {error}") from None


Part = Callable[[str, int, int], bytes]


def _legacy(file: File) -> Checkpoint:
    """The form before torch 1.6: five pickles, one after another, then each storage after its count of elements."""
    at, parts = 0, []
    for _ in range(5):
        part, length = _unpickled(file, file.bytes(at, min(HEADER, file.size - at), "a pickle"))
        at += length
        parts.append(part)
        if parts[0] != MAGIC:
            raise file.fails("no format that is known, expected safetensors, GGUF, ONNX or what torch saves")
    state, keys = parts[3:]
    sizes: dict[str, int] = {}
    _storages(state, sizes)
    starts: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in sizes:
            raise file.fails("its list of storages does not fit its tensors")
        starts[key] = at + 8
        at += 8 + sizes[key]
    if at > file.size:
        raise file.fails(f"its storages end at byte {at}, but the file at {file.size}")

    def within(key: str, start: int, count: int) -> bytes:
        if key not in starts or start + count > sizes[key]:
            raise file.fails(f"its storage {key!r} is missing, or ends before byte {start + count}")
        return file.bytes(starts[key] + start, count, key)

    return _of_state(file, state, within)


def _storages(state: Any, sizes: dict[str, int]) -> None:
    for _, value in _leaves(state):
        sizes[value.storage.key] = value.storage.size * BYTES[value.storage.dtype]


def _of_state(file: File, state: Any, part: Part | None) -> Checkpoint:
    found = dict(_leaves(state))
    if not found:
        raise file.fails("there are no tensors in it, expected a state_dict")
    tensors = {name: _tensor(file, name, value, part) for name, value in found.items()}
    return Checkpoint(file.path, "torch", tensors)


def _leaves(state: Any) -> Iterator[tuple[str, _pickle.Strided]]:
    """The tensors of a state dict by name, or of the dict that holds it: model or state_dict in a training's."""
    if not isinstance(state, dict):
        return
    own = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, _pickle.Strided)}
    inner = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, dict)}
    usual = [k for k in ("state_dict", "model", "model_state_dict", "ema", "net", "module") if k in inner]
    if any(len(key) > NAME for key in (*own, *inner)):
        raise Unreadable(f"audit: a state dict has a name of more than {NAME} letters")
    if usual and len(own) < 2:
        yield from _leaves(inner[usual[0]])
        return
    yield from own.items()
    if not own:
        for key, value in inner.items():
            yield from ((f"{key}.{str(k)[:NAME]}", v) for k, v in value.items() if isinstance(v, _pickle.Strided))


def _tensor(file: File, name: str, view: _pickle.Strided, part: Part | None) -> Tensor:
    width = BYTES.get(view.dtype)
    if width is None or part is None:
        return Tensor(name, view.dtype, view.shape, None)
    strides = [math.prod(view.shape[axis + 1 :]) for axis in range(len(view.shape))]
    steps = [s for s, n in zip(view.strides, view.shape, strict=False) if n > 1]
    dense = steps == [s for s, n in zip(strides, view.shape, strict=True) if n > 1]

    def raw() -> bytes:
        assert part is not None
        if dense:
            return part(view.storage.key, view.offset * width, math.prod(view.shape) * width)
        if len(steps) != 1 or steps[0] * math.prod(view.shape) > ELEMENTS:
            raise file.fails(f"tensor {name!r} has strides {view.strides}, expected those of a norm")
        count = math.prod(view.shape)
        data = part(view.storage.key, view.offset * width, ((count - 1) * steps[0] + 1) * width)
        return b"".join(data[i * steps[0] * width :][:width] for i in range(count))

    return Tensor(name, view.dtype, view.shape, raw)


# -- TorchScript ----

CLASS = re.compile(r"(Layer|RMS|Group|Batch|Instance)Norm(?![a-z])")
CALL = re.compile(r"\b(layer|rms|batch|group|instance)_norm\w*\(([^()]*)\)")
UNWRITTEN = {"layer": 1e-5, "group": 1e-5}  # of torch's operators with a default, which the code leaves out
FLOAT = re.compile(r"\d+\.\d*(?:e-?\d+)?|\d+e-\d+")
CONSTANT = re.compile(r"^ *eps : Final\[float\] = (\d+\.?\d*(?:e-?\d+)?)$", re.MULTILINE)


def _modules(
    file: File, module: _pickle.Module, name: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, _pickle.Module]]:
    """All modules by name; one that is there twice is named once."""
    if depth > 64 or len(seen) > TENSORS:
        raise file.fails("its modules are nested too deep, or too many")
    if id(module) in seen:
        return
    seen.add(id(module))
    yield name, module
    for key, value in module.state.items():
        if len(str(key)) > NAME:
            raise file.fails(f"a module has a name of more than {NAME} letters")
        if isinstance(value, _pickle.Module):
            yield from _modules(file, value, f"{name}.{key}" if name else str(key), depth + 1, seen)


def class_of(module: _pickle.Module) -> str:
    return module.of.rpartition(".")[2]


def _norm(archive: _Archive, name: str, module: _pickle.Module, tensors: dict[str, Tensor]) -> Norm | None:
    if (found := CLASS.search(class_of(module))) is None:
        return None
    eps, source = _eps(archive, module)
    keys = ("weight", "bias", "running_mean", "running_var")
    own = {key: tensor for key in keys if (tensor := tensors.get(f"{name}.{key}")) is not None}
    width = next((tensor.size for tensor in own.values()), None)
    of = class_of(module)
    return Norm(name, f"{found[1].lower()}_norm", width, eps, source, tensors=own, operator=of, kind_from="its class")


def _eps(archive: _Archive, module: _pickle.Module) -> tuple[float | None, str]:
    """eps of a module: an attribute, or what stands in the code of its class, which is read as text."""
    if isinstance(eps := module.state.get("eps"), float):
        return eps, "attribute eps"
    if module.of not in archive.eps:
        archive.eps[module.of] = _eps_in(archive, module.of)
    eps = archive.eps[module.of]
    return eps, "" if eps is None else "the code of its class"


def _eps_in(archive: _Archive, of: str) -> float | None:
    place, _, name = of.rpartition(".")
    file = f"code/{place.replace('.', '/')}.py"
    if archive.root + file not in archive.entries:
        return None
    text = archive.read(file, CODE).decode("utf-8", "replace")
    _, _, text = text.partition(f"class {name}(")
    text, _, _ = text.partition("\nclass ")
    if constant := CONSTANT.search(text):
        return float(constant[1])
    for call in CALL.finditer(text):  # the last number of a call that is not whole is eps, in all of them
        numbers = [float(part) for part in call[2].split(",") if FLOAT.fullmatch(part.strip())]
        if numbers or call[1] in UNWRITTEN:
            return numbers[-1] if numbers else UNWRITTEN[call[1]]
    return None


def _neighbours(modules: dict[str, _pickle.Module], norms: list[Norm]) -> Iterator[tuple[str, str, str]]:
    """Norms that stand one behind the other in a Sequential."""
    names = {norm.name for norm in norms}
    for name, module in modules.items():
        if class_of(module) != "Sequential":
            continue
        inner = [f"{name}.{k}" if name else k for k, v in module.state.items() if isinstance(v, _pickle.Module)]
        for first, second in itertools.pairwise(inner):
            if first in names and second in names:
                yield "norm-after-norm", second, f"follows {first}"
