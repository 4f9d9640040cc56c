"""Which norm for which network: ``normlib which-norm``, and the table of docs/which.md, from `which.toml`."""

from __future__ import annotations

import argparse
import json
import operator
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

__all__ = ["Advice", "Span", "aliases", "architectures", "rows", "which_norm"]

PAGES = "https://github.com/normlib/normlib/blob/main/docs/"


class Span(NamedTuple):
    """Whole numbers from `least` to `most`, both among them; without a most, all from the least on."""

    least: int = 1
    most: int | None = None

    def holds(self, number: int | None) -> bool:
        """Whether a number is among them; None, which is any, always is."""
        return number is None or (self.least <= number and (self.most is None or number <= self.most))

    def __str__(self) -> str:
        if self.most is None:
            return "any" if self.least == 1 else f"{self.least} or more"
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"


class Advice(NamedTuple):
    """Which norm in one case, where, why, and what to watch.

    `source` names the papers, `evidence` a place in ``docs/`` with an example that runs or a figure that was measured,
    and `command` what runs it, "" if there is none.
    """

    architecture: str
    training: bool
    batch: Span
    length: Span
    norm: str
    placement: str
    why: str
    watch: str
    source: str
    evidence: str
    command: str

    @property
    def when(self) -> str:
        """The case in words: mode, batch and length."""
        spans = [("batch", self.batch), ("length", self.length)]
        limits = [f"{name} {span}" for name, span in spans if span != Span()]
        return ", ".join(["training" if self.training else "inference", *limits])

    def __str__(self) -> str:
        fields = {
            "norm": self.norm,
            "where": self.placement,
            "why": self.why,
            "watch": self.watch,
            "source": self.source,
            "evidence": PAGES + self.evidence,
            "run": self.command,
        }
        lines = [
            fill(text, 112, initial_indent=f"  {name:10}", subsequent_indent=12 * " ", break_on_hyphens=False,
                 break_long_words=False)
            for name, text in fields.items() if text
        ]  # fmt: skip
        return "\n".join([f"{self.architecture}, {self.when}", *lines])


def which_norm(
    arch: str, batch: int | None = None, length: int | None = None, training: bool = True
) -> tuple[Advice, ...]:
    """Which norm for an architecture, where, why, and what to watch.

    Parameters
    ----------
    arch : str
        "cnn", "rnn", "transformer-decoder" and so on; :func:`normlib.which.architectures` has all of them. Other names,
        as "lstm" or "llm", stand for one of these.
    batch : int, optional
        How many samples one device normalizes at once; by default any.
    length : int, optional
        How many steps, tokens or pixels of a sample are there at once, 1 in a stream; by default any.
    training : bool, default True
        Whether the network is trained, or used.

    Returns
    -------
    tuple of Advice
        One where batch and length are given, else one for each case. The fields of each are `architecture`,
        `training`, `batch`, `length`, `norm`, `placement`, `why`, `watch`, `source`, `evidence` and `command`.

    Raises
    ------
    ValueError, TypeError
        If the architecture is unknown, or batch or length is no whole number from 1 on.

    Examples
    --------
    >>> import normlib
    >>> (row,) = normlib.which_norm("cnn", batch=4)
    >>> row.norm, row.source
    ('GroupNorm, 32 groups, or 16 channels a group', 'Wu, He 2018, arXiv:1803.08494')
    >>> [str(row.batch) for row in normlib.which_norm("cnn")]
    ['16 or more', '2 to 15', '1']
    """
    if not isinstance(arch, str):
        raise TypeError(f"which_norm: arch is {arch!r}, expected a string")
    name = arch.strip().lower().replace("_", "-").replace(" ", "-")
    name = aliases().get(name, name)
    if name not in architectures():
        known = ", ".join([*architectures(), *aliases()])
        raise ValueError(f"which_norm: arch is {arch!r}, expected one of {known}")
    batch, length = _count("batch", batch), _count("length", length)
    return tuple(
        row
        for row in rows()
        if (row.architecture, row.training) == (name, bool(training))
        and row.batch.holds(batch)
        and row.length.holds(length)
    )


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"which_norm: {name} is {value!r}, expected an int") from None
    if number < 1:
        raise ValueError(f"which_norm: {name} is {number}, expected 1 or more")
    return number


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("which.toml").read_text(encoding="utf-8"))


def aliases() -> dict[str, str]:
    """Other names of architectures."""
    return dict(_tables()["aliases"])


def architectures() -> tuple[str, ...]:
    """The names of the architectures, in the order of the table."""
    return tuple(name for name in _tables() if name != "aliases")


@cache
def rows() -> tuple[Advice, ...]:
    """The whole table. What an entry does not say about the norm is as in the one above it."""
    found = []
    for name in architectures():
        above: dict[str, Any] = {"command": ""}
        for entry in _tables()[name]:
            case = {
                "training": entry.get("training", True),
                "batch": Span(*entry.get("batch", ())),
                "length": Span(*entry.get("length", ())),
            }
            above = above | entry | case
            found.append(Advice(architecture=name, **above))
    return tuple(found)


def main(argv: Sequence[str] | None = None) -> int:
    """``normlib which-norm``: prints the rows that fit, or the architectures; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="normlib which-norm",
        description="Which norm for an architecture, where, why, what to watch, and where it was measured.",
        epilog="exit status: 0, or 2 for an architecture that is not known. The whole table: docs/which.md",
    )
    parser.add_argument("--arch", help="the architecture; without it, a list of all", metavar="NAME")
    parser.add_argument("--batch", type=int, metavar="N", help="how many samples one device normalizes at once")
    parser.add_argument("--length", type=int, metavar="N", help="how many steps, tokens or pixels are there at once")
    parser.add_argument("--infer", action="store_true", help="the network is used, not trained")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if args.arch is None:
        others = {name: [other for other, of in aliases().items() if of == name] for name in architectures()}
        print(json.dumps(others, indent=2) if args.json else "\n".join(map(_listed, others.items())))
        return 0
    try:
        found = which_norm(args.arch, args.batch, args.length, training=not args.infer)
    except ValueError as error:
        print(f"normlib which-norm: {str(error).removeprefix('which_norm: ')}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([row._asdict() | {"evidence": PAGES + row.evidence} for row in found], indent=2))
    else:
        print("\n\n".join(map(str, found)))
    return 0


def _listed(item: tuple[str, list[str]]) -> str:
    name, others = item
    return f"{name:24}{', '.join(others)}".rstrip()
