"""What a diagnosis says: findings with their evidence, in words and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ._catalogue import CATALOGUE, Severity
from ._model import Array, Norm


@dataclass(frozen=True)
class Evidence:
    """An input in words, and what should have come of it, and what came."""

    input: str
    expected: str
    got: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    name : str
        A short name that stays, such as ``"unbiased_variance"``.
    severity : {"fault", "note"}
        Notes are what right norms may do too, such as the overflow of squares at 1e19.
    words : str
        What is wrong.
    evidence : Evidence
        The input that shows it, what the norm that is meant gives for it, and what came.
    cure : str
        What to change.
    """

    name: str
    severity: Severity
    words: str
    evidence: Evidence
    cure: str

    def __str__(self) -> str:
        lines = [
            f"{self.severity}: {self.words}", f"  input     {self.evidence.input}",
            f"  expected  {self.evidence.expected}", f"  got       {self.evidence.got}", f"  cure      {self.cure}",
        ]  # fmt: skip
        indent = " " * 12
        return "\n".join(textwrap.fill(line, 110, subsequent_indent=indent) for line in lines)


def finding(name: str, evidence: Evidence, severity: Severity | None = None, **values: Any) -> Finding:
    """A finding of the catalogue, its words filled in."""
    words, cure, usual = CATALOGUE[name]
    return Finding(name, severity or usual, words.format(**values), evidence, cure.format(**values))


@dataclass
class Diagnosis:
    """What was found out about a norm.

    Attributes
    ----------
    subject : str
        The name of what was probed.
    what : str
        What it is, in words.
    norm : Norm or None
        The same as data; None where no model fits.
    meant : str or None
        The norm that it was held against, such as ``"layer_norm"``.
    findings : list of Finding
        Faults first, then notes.
    accuracy : dict
        Errors in ulps of float32, by library: ``{"itself": (at mean 0, at mean 1000), "normlib": ...}``.
    """

    subject: str
    what: str
    norm: Norm | None
    meant: str | None
    findings: list[Finding] = field(default_factory=list)
    accuracy: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def faults(self) -> list[Finding]:
        """The findings that are wrong whatever one means."""
        return [finding for finding in self.findings if finding.severity == "fault"]

    @property
    def notes(self) -> list[Finding]:
        """The findings that right norms may have too."""
        return [finding for finding in self.findings if finding.severity == "note"]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.what}"]
        lines += [str(finding) for finding in (*self.faults, *self.notes)]
        if self.accuracy:
            errors = ", ".join(f"{ulps(low)} and {ulps(high)} {name}" for name, (low, high) in self.accuracy.items())
            lines.append(f"accuracy in ulps of float32, at mean/std of 0 and 1000: {errors}")
        count = len(self.faults)
        lines.append("no fault found" if not count else f"{count} fault{'s' * (count > 1)} found")
        return "\n".join(lines)

    def to_json(self, indent: int | None = 2) -> str:
        """All of it as JSON."""
        found = asdict(self) | {"ok": self.ok}
        found["accuracy"] = {k: [v if math.isfinite(v) else None for v in both] for k, both in self.accuracy.items()}
        return json.dumps(found, indent=indent)


def ulps(error: float) -> str:
    """An error for people."""
    return f"{error:.1f}" if error < 100 else f"{error:.3g}"


def numbers(a: Any) -> str:
    """A few numbers for people."""
    return "[" + ", ".join(f"{value:.5g}" for value in np.ravel(a)) + "]"


def at_worst(words: str, x: Array, expected: Array, got: Array) -> Evidence:
    """Evidence from the place where two outputs differ most: four neighbours along the last axis."""
    with np.errstate(all="ignore"):
        error = np.where(np.isfinite(got), np.abs(got - expected), np.inf)
    *place, last = (int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    start = max(0, min(last - 1, error.shape[-1] - 4))
    index: Any = (*place, slice(start, start + 4))
    where = "".join(f"{i}, " for i in place) + f"{start}:{min(start + 4, error.shape[-1])}"
    return Evidence(f"{words}, x[{where}] = {numbers(x[index])}", numbers(expected[index]), numbers(got[index]))
