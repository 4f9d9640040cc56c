"""A report in words: a table, a card in Markdown, JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ._checkpoint import Checkpoint, Norm, plain
from ._findings import Finding
from ._values import Values

KINDS = {
    "layer_norm": "LayerNorm",
    "rms_norm": "RMSNorm",
    "batch_norm": "BatchNorm",
    "group_norm": "GroupNorm",
    "instance_norm": "InstanceNorm",
}
NAMED = 4  # norms that are named in a finding


@dataclass(frozen=True, repr=False)
class Report:
    """What an audit found.

    Attributes
    ----------
    path : str
        The file or folder.
    format : str
        "safetensors", "gguf", "onnx", "torch" or "torchscript".
    architecture : str
        As the file names it; empty where it does not.
    norms : tuple of Norm
        The norms: `name`, `kind`, `width`, `eps`, `eps_from`, `placement`, `offset`, and their tensors, unread.
    values : dict
        For each norm, by name and parameter, `low`, `high`, `mean` and more; of weights what multiplies, with 1 + w.
    findings : tuple of Finding
        `rule`, `norms`, `words`, `cure`.
    """

    path: str
    format: str
    architecture: str
    norms: tuple[Norm, ...]
    values: dict[str, dict[str, Values]]
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """The exit status of the command: 0 without findings, else 1."""
        return int(bool(self.findings))

    def __repr__(self) -> str:
        return f"Report({self.path!r}), {_count(len(self.norms), 'norm')}, {_count(len(self.findings), 'finding')}"

    def __str__(self) -> str:
        of = f", {plain(self.architecture)}" if self.architecture else ""
        parts = [f"{plain(self.path, 300)}: {self.format}{of}, {_count(len(self.norms), 'norm')}"]
        parts += [self.table()] if self.norms else []
        parts += [f"{plain(_finding(finding), 600)}\n  {finding.cure}" for finding in self.findings]
        parts += [_count(len(self.findings), "finding") if self.findings else "no findings"]
        return "\n\n".join(parts)

    def table(self) -> str:
        """All norms, one a line."""
        head = ("name", "norm", "width", "eps", "eps from", "place", "times", "dtype", "weight", "bias", "as")
        rows = [head] + [self._row(norm) for norm in self.norms]
        kept = [i for i in range(len(head)) if any(row[i] not in ("", "-") for row in rows[1:])]
        widths = [max(len(row[i]) for row in rows) for i in kept]
        return "\n".join(
            "  ".join(row[i].ljust(width) for i, width in zip(kept, widths, strict=True)).rstrip() for row in rows
        )

    def _row(self, norm: Norm) -> tuple[str, ...]:
        ranges = [_range(self.values[norm.name].get(key)) for key in ("weight", "bias")]
        dtype = "/".join(dict.fromkeys(plain(t.dtype) for t in norm.tensors.values()))
        times = ("1 + w" if norm.offset else "w") if norm.weight is not None else "-"
        eps = "?" if norm.eps is None else f"{norm.eps:g}"
        kind = KINDS[norm.kind] + (f"({norm.groups})" if norm.groups else "")
        width = "-" if norm.width is None else str(norm.width)
        source = plain(norm.eps_from)
        return (plain(norm.name), kind, width, eps, source, norm.placement, times, dtype, *ranges, plain(norm.operator))

    def card(self) -> str:
        """For a model card: norms of a kind, placement, eps and dtype in a line each, in Markdown."""
        groups = Counter(
            (KINDS[n.kind], n.placement or "-", "unknown" if n.eps is None else f"{n.eps:g}",
             ("1 + weight" if n.offset else "weight") if n.weight is not None else "nothing",
             ", ".join(dict.fromkeys(plain(t.dtype) for t in n.tensors.values())) or "-")
            for n in self.norms
        )  # fmt: skip
        lines = ["| norm | count | placement | eps | times | dtype |", "|---|---|---|---|---|---|"]
        for (kind, placement, eps, times, dtype), count in groups.items():
            lines.append(f"| {kind} | {count} | {placement} | {eps} | {times} | {dtype.replace('|', '')} |")
        return "\n".join(lines)

    def json(self) -> str:
        """All of it in JSON; what is not finite is null."""
        norms = [
            {
                "name": n.name, "kind": n.kind, "width": n.width, "eps": _number(n.eps), "eps_from": n.eps_from,
                "placement": n.placement, "offset": n.offset, "groups": n.groups, "kind_from": n.kind_from,
                "operator": n.operator,
                "parameters": {key: self._parameter(n.name, key, t) for key, t in n.tensors.items()},
            }
            for n in self.norms
        ]  # fmt: skip
        found = [finding._asdict() for finding in self.findings]
        head = {"path": self.path, "format": self.format, "architecture": self.architecture}
        return json.dumps(head | {"norms": norms, "findings": found}, indent=1, allow_nan=False)

    def _parameter(self, name: str, key: str, tensor: Any) -> dict[str, Any]:
        values = self.values[name].get(key)
        found = {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
        return found if values is None else found | {k: _number(getattr(values, k)) for k in ("low", "high", "mean")}


def report(
    checkpoint: Checkpoint, norms: list[Norm], values: dict[str, dict[str, Values]], found: list[Finding]
) -> Report:
    path, of = str(checkpoint.path), checkpoint.architecture
    return Report(path, checkpoint.format, of, tuple(norms), values, tuple(found))


def _finding(finding: Finding) -> str:
    names = [plain(name) for name in finding.norms[:NAMED]]
    more = len(finding.norms) - len(names)
    return f"{finding.rule}: {', '.join(names)}{f' and {more} more' if more else ''}: {plain(finding.words, 300)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _range(values: Values | None) -> str:
    return "-" if values is None else f"{values.low:.3g} to {values.high:.3g}"


def _number(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None
