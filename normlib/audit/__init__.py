"""The norms of a checkpoint, and what is wrong with them: :func:`audit`, and ``normlib audit`` on the command line.

A folder of a model of Hugging Face, a safetensors or GGUF file, an ONNX model, what torch saves. Headers and norms are
read, never the whole file, and no code of the file is run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import _against, _findings, _norms, _open, _values
from ._checkpoint import Checkpoint, Norm, Unreadable
from ._findings import RULES, Audited, Finding
from ._report import Report, report

__all__ = ["RULES", "Finding", "Norm", "Report", "Unreadable", "audit"]

_OF_CONVERSIONS = tuple(_against.CURES)


def audit(
    path: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None, ignore: Iterable[str] = ()
) -> Report:
    """The norms of a checkpoint, with findings; beside its origin, what a conversion changed.

    Parameters
    ----------
    path : path
        A folder with config.json and safetensors (in shards too), or a file: safetensors, GGUF, ONNX, a state dict or a
        TorchScript archive that torch has saved.
    against : path, optional
        The checkpoint from which `path` was made, in any of the formats: the findings then also are what differs.
    ignore : iterable of str, optional
        Rules whose findings are left out: keys of :data:`RULES`, or of what may differ ("dtype-changed", ...).

    Returns
    -------
    Report
        `norms`, `findings`, `status`; ``str()`` is a table and the findings, ``card()`` and ``json()`` are for others.

    Raises
    ------
    Unreadable
        A ValueError: the file is no checkpoint of these formats, is cut off, or asks for more than a checkpoint does.
    FileNotFoundError
        There is no such path.
    TypeError, ValueError
        If `ignore` names no rule.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> from normlib.audit import audit
    >>> header = {"model.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    >>> text = json.dumps(header).encode()
    >>> held = tempfile.TemporaryDirectory()
    >>> folder = pathlib.Path(held.name)
    >>> _ = (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    >>> _ = (folder / "config.json").write_text('{"model_type": "llama", "rms_norm_eps": 1e-05}')
    >>> report = audit(folder)
    >>> report.norms[0].name, report.norms[0].kind, report.norms[0].eps
    ('model.norm', 'rms_norm', 1e-05)
    >>> [(finding.rule, finding.norms) for finding in report.findings]
    [('weights-about-0', ('model.norm',))]
    """
    left_out = _ignored(ignore)
    checkpoint, norms = _read(path)
    values = {norm.name: _of_norm(norm) for norm in norms}
    found = _findings.findings(Audited(checkpoint, norms, values))
    if against is not None:
        found += _against.changes(_read(against)[1], norms)
    return report(checkpoint, norms, values, [finding for finding in found if finding.rule not in left_out])


def _of_norm(norm: Norm) -> dict[str, _values.Values]:
    read = {key: _values.of(tensor, norm.offset and key == "weight") for key, tensor in norm.tensors.items()}
    return {key: values for key, values in read.items() if values is not None}


def _read(path: str | os.PathLike[str]) -> tuple[Checkpoint, list[Norm]]:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"audit: path is a {type(path).__name__}, expected a path")
    checkpoint = _open.read(path)
    return checkpoint, _norms.find(checkpoint)


def _ignored(ignore: Iterable[str]) -> set[str]:
    if isinstance(ignore, str):
        raise TypeError("audit: ignore is a str, expected an iterable of names of rules")
    names, known = set(ignore), (*RULES, *_OF_CONVERSIONS)
    if unknown := sorted(names - set(known)):
        raise ValueError(f"audit: ignore names {unknown[0]!r}, expected some of {', '.join(known)}")
    return names
