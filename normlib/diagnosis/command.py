"""``normlib diagnose module:name``: the text of a diagnosis or its JSON, and an exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import isclass, signature
from pathlib import Path
from typing import Any

from ._diagnose import DTYPES, diagnose
from ._intent import OPS

OK, FAULTS, NOT_PROBED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Print the diagnosis that is asked for; 0 without a fault, 1 with one, 2 where nothing could be probed."""
    args = _parser().parse_args(argv)
    options = {
        name: value
        for name in ("axis", "channel_axis", "num_groups", "eps")
        if (value := getattr(args, name)) is not None
    }
    if args.unit_offset:
        options["unit_offset"] = True
    try:
        fn, backward = load(args.target), None if args.backward is None else load(args.backward)
        found = diagnose(fn, args.like, shape=args.shape, dtype=args.dtype, backward=backward, **options)
    except Exception as error:  # importing and calling what others wrote may raise anything
        words = str(error) if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: {error}"
        print(f"normlib diagnose: {args.target}: {words}", file=sys.stderr)
        return NOT_PROBED
    print(found.to_json() if args.json else found)
    return OK if found.ok else FAULTS


def _parser() -> argparse.ArgumentParser:
    def integers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    parser = argparse.ArgumentParser(
        prog="normlib diagnose", description="Say what a norm computes, and what is wrong with it.",
        epilog="exit status: 0 no fault, 1 faults, 2 it could not be probed",
    )  # fmt: skip
    parser.add_argument(
        "target",
        metavar="MODULE:NAME",
        help="a function, a module, what makes one, as in torch.nn:LayerNorm(64); or a file of ONNX",
    )
    parser.add_argument("--like", choices=OPS, help="what is meant; default: what its name says, or the nearest norm")
    parser.add_argument("--shape", type=integers, metavar="N,N", help="that of x, examples first")
    parser.add_argument("--axis", type=integers, metavar="N,N", help="the axes that are meant to be normalized over")
    parser.add_argument("--channel-axis", type=int, metavar="N", help="the axis of the channels")
    parser.add_argument("--num-groups", type=int, metavar="N", help="the number of groups that is meant")
    parser.add_argument("--eps", type=float, help="the eps that is meant; default: what it says of itself")
    parser.add_argument("--unit-offset", action="store_true", help="the weight is meant to count from 1, as in Gemma")
    parser.add_argument("--backward", metavar="MODULE:NAME", help="the gradients of a function: backward(dy, x, ...)")
    parser.add_argument("--dtype", choices=DTYPES, help="16-bit arrays that it has to take")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def load(target: str) -> Any:
    """What a target names: an expression in the names of a module of the path or the working directory, or a model.

    A class, or a function without arguments, is called, and what it returns is taken.
    """
    if target.endswith(".onnx"):
        import onnx

        return onnx.load(target)
    place, _, name = target.partition(":")
    if not name:
        raise ValueError(f"target is {target!r}, expected MODULE:NAME or a file of ONNX")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).resolve().parent))
        place = Path(place).stem
    found = import_module(place)
    found = eval(name, dict(vars(found)))
    if isclass(found) or (callable(found) and _takes_nothing(found)):
        found = found()
    return found


def _takes_nothing(fn: Any) -> bool:
    try:
        return not signature(fn).parameters
    except (TypeError, ValueError):
        return False
