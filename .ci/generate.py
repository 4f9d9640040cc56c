"""What follows from the description of the norms, and from normlib/which.toml, but has to lie in a file; generate_c.py
has the part of C and Cython.

    python .ci/generate.py            write the files
    python .ci/generate.py --check    fail where one differs from what would be written
"""

import re
import sys
from pathlib import Path
from runpy import run_path
from textwrap import fill

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 114
description = run_path(str(ROOT / "normlib/description.py"))  # by itself: the package may not have been built yet
FUNCTIONS, REQUIRED = description["FUNCTIONS"].values(), description["REQUIRED"]

STUB = """\
# Written by .ci/generate.py from normlib/description.py.

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import description

_D = TypeVar("_D", bound=np.floating[Any])  # an array of floats gives an array of the same
_Array: TypeAlias = NDArray[Any]
_Statistics: TypeAlias = NDArray[np.float64]
_Axis: TypeAlias = int | tuple[int, ...] | list[int]
_Gradient: TypeAlias = _Array | None

__all__ = [
{names}
]

{functions}

@dataclass(frozen=True)
class Op(description.Op):
    forward: Callable[..., Any] = field(kw_only=True)
    backward: Callable[..., Any] = field(kw_only=True)

OPS: dict[str, Op]
"""


def parameter(argument, types):
    """An argument of a signature; `types` may have another type for it, and whether it has its default."""
    kind, has_default = types.get(argument.name, (argument.python, argument.default is not REQUIRED))
    default = f"{argument.default:g}".replace("e-0", "e-") if argument.name == "eps" else argument.default
    return f"{argument.name}: {kind}" + f" = {default}" * has_default


def choices(argument):
    """The type of an argument for the same pass: where it has choices, these."""
    names = ", ".join(f'"{name}"' for name in getattr(argument, "choices", ()))
    return f"Literal[{names}] | None" if names else argument.python


PLAIN = {"quantize": ("None", True)}
OTHERS = {"scale", "out_dtype"}  # with which the result is not one array of the dtype of x


def overload(function, types, result, without=OTHERS):
    by_name = [argument.keyword for argument in function.arguments]
    parts = [parameter(argument, types) for argument in function.arguments]
    parts.insert(by_name.index(True), "*")
    for argument in function.fused.values():
        kind, has_default = (PLAIN | types).get(argument.name, (choices(argument), True))
        parts += [f"{argument.name}: {kind}" + " = None" * has_default] * (argument.name not in without)
    whole = [part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts]
    body = fill(", ".join(whole) + ",", WIDTH, initial_indent="    ", subsequent_indent="    ")
    body = body.replace("\N{NO-BREAK SPACE}", " ")
    return f"@overload\ndef {function.name}(\n{body}\n) -> {result}: ..."


def overloads(function):
    """An array of floats gives an array of the same, anything else some array; statistics come if wanted."""
    rest = ["_Gradient" if function.backward else "_Statistics"] * (len(function.results) - 1)
    for x, y in (("NDArray[_D]", "NDArray[_D]"), ("ArrayLike", "_Array")):
        both = f"tuple[{', '.join([y, *rest])}]"
        if function.backward:
            yield overload(function, {"x": (x, False)}, both)
            continue
        without = OTHERS if y != "_Array" else OTHERS - {"out_dtype"}
        yield overload(function, {"x": (x, False), "return_stats": ("Literal[False]", True)}, y, without)
        yield overload(function, {"x": (x, False), "return_stats": ("Literal[True]", False)}, both, without)
    if not function.backward:
        yield overload(function, {"return_stats": ("bool", False)}, f"{y} | {both}", OTHERS - {"out_dtype"})
    if "quantize" in function.fused:
        types = {"return_stats": ("bool", True), "quantize": ('Literal["int8"]', False)}
        yield overload(function, types, "tuple[_Array, ...]", {"out_dtype"})


def stub():
    names = sorted(["OPS", "Op", *(function.name for function in FUNCTIONS)])
    return STUB.format(
        names="\n".join(f'    "{name}",' for name in names),
        functions="\n".join(text for function in FUNCTIONS for text in overloads(function)),
    )


def table(function):
    call, _, returned = str(function).partition(" -> ")
    return f"| `{call}` | `{returned.strip('()')}` |"


def advice(row):
    """A row of the table of docs/which.md."""
    papers = re.sub(r"arXiv:([\d.]+\d)", r"[\g<0>](https://arxiv.org/abs/\1)", f"{row.why} {row.source}.|{row.watch}")
    why, _, watch = papers.partition("|")
    found = f"[{row.evidence.partition('#')[2].replace('-', ' ')}]({row.evidence})"
    found += f": `{row.command}`" * bool(row.command)
    return f"| {row.architecture} | {row.when} | **{row.norm}**; {row.placement} | {why} | {watch} | {found} |"


def between_marks(path, mark, lines):
    """The text of a file with other lines between two marks."""
    before, _, rest = path.read_text().partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- end of {mark} -->\n")
    return f"{before}<!-- {mark} -->\n" + "".join(f"{line}\n" for line in lines) + end + after


def outputs():
    """The files by path, with what they should hold."""
    backends = ROOT / "docs/backends.md"
    rows = ["| function | returns |", "|---|---|", *map(table, FUNCTIONS)]
    which = ROOT / "docs/which.md"
    cases = ["| architecture | case | norm; where | why, by whom | what to watch | see |", "|---" * 6 + "|"]
    cases += map(advice, run_path(str(ROOT / "normlib/which.py"))["rows"]())
    return {
        ROOT / "normlib/ops.pyi": stub(),
        backends: between_marks(backends, "functions", rows),
        which: between_marks(which, "rows", cases),
        **run_path(str(ROOT / ".ci/generate_c.py"))["files"](),
    }


def main(arguments):
    stale = {path: text for path, text in outputs().items() if not path.exists() or path.read_text() != text}
    if "--check" in arguments:
        return "".join(f"{path.relative_to(ROOT)} is not what .ci/generate.py writes\n" for path in stale) or 0
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
