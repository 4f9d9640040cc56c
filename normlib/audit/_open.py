"""A path to a checkpoint: which files, and of what format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import _gguf, _onnx, _safetensors, _torch
from ._checkpoint import HEADER, NAME, TENSORS, Checkpoint, File, Tensor, Unreadable

CONFIG = "config.json"
SHARDS = 1 << 12


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder or a file; Unreadable says why there is none."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"audit: {path} does not exist")
    try:
        found = _folder(path) if path.is_dir() else _file(path)
    except RecursionError:
        raise Unreadable(f"audit: {path} is nested too deep") from None
    if len(found.tensors) > TENSORS or any(len(name) > NAME for name in found.tensors):
        raise Unreadable(f"audit: {path} has more than {TENSORS} tensors, or a name of more than {NAME} letters")
    return found


def _file(path: Path) -> Checkpoint:
    head = File(path).memory[:16]
    if head[:4] == b"GGUF":
        return _gguf.read(path)
    if head[8:9] == b"{":
        return _with_config(Checkpoint(path, "safetensors", _safetensors.read(path)), path.parent)
    if head[:4] == b"PK\x03\x04" or head[:2] == b"\x80\x02":
        return _with_config(_torch.read(path), path.parent)
    if path.suffix == ".onnx" or head[:1] == b"\x08":  # ir_version, the first field of a model
        return _onnx.read(path)
    raise Unreadable(
        f"audit: {path} is of no format that is known, expected safetensors, GGUF, ONNX or what torch saves"
    )


def _folder(path: Path) -> Checkpoint:
    """A checkpoint of transformers, sharded or not, or the only file of another format."""
    names = sorted(os.listdir(path))
    for index, suffix in (("model.safetensors.index.json", ".safetensors"), ("pytorch_model.bin.index.json", ".bin")):
        if index in names:
            return _with_config(_sharded(path, index, suffix), path)
    for usual in ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin"):
        if usual in names:
            return _part(path / usual)
    for suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx"):
        found = [name for name in names if name.endswith(suffix) and not name.startswith((".", "training_args"))]
        if suffix not in (".safetensors", ".bin") and len(found) > 1:
            raise Unreadable(f"audit: {path} has {len(found)} files {suffix}, expected one; name the file")
        if found:
            parts = [_part(path / name) for name in found]
            return _with_config(_joined(path, parts), path) if len(parts) > 1 else parts[0]
    raise Unreadable(f"audit: {path} has no file of weights, expected safetensors, bin, pt, pth, gguf or onnx")


def _part(path: Path) -> Checkpoint:
    found = _file(path)
    return found if found.config_from else _with_config(found, path.parent)


def _sharded(path: Path, index: str, suffix: str) -> Checkpoint:
    mapping = _json(path / index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(v, str) for v in mapping.values()):
        raise Unreadable(f"audit: {path / index} has no weight_map of names to files")
    files = sorted(set(mapping.values()))
    for name in files:
        if Path(name).name != name or not name.endswith(suffix) or len(files) > SHARDS:
            raise Unreadable(
                f"audit: {path / index} names {name[:80]!r}, expected at most {SHARDS} files *{suffix} beside it"
            )
    found = _joined(path, [_file(path / name) for name in files])
    if missing := sorted(mapping.keys() - found.tensors.keys()):
        raise Unreadable(
            f"audit: {path / index} names {missing[0][:80]!r}, which is in no shard ({len(missing)} in all)"
        )
    return found


def _joined(path: Path, parts: list[Checkpoint]) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    for part in parts:
        if twice := tensors.keys() & part.tensors.keys():
            raise Unreadable(f"audit: {path} has {min(twice)[:80]!r} in two files, expected it in one")
        tensors |= part.tensors
    return Checkpoint(path, parts[0].format, tensors)


def _with_config(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    if (folder / CONFIG).is_file():
        checkpoint.config, checkpoint.config_from = _json(folder / CONFIG), CONFIG
    return checkpoint


def _json(path: Path) -> dict[str, Any]:
    file = File(path)
    if file.size > HEADER:
        raise file.fails(f"it has {file.size} bytes, expected at most {HEADER}")
    return _safetensors.parse(file.bytes(0, file.size, "all"), str(path))
