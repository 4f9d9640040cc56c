"""The bits of every op as short digests, computed here and compared with those that stand in digests.txt.

    python tests/scripts/digests.py            compare; a list and exit status 1 where they differ
    python tests/scripts/digests.py --write    store those of this machine, after a change that is meant to change bits

A line holds, for each dtype, a digest of what forward returns and one of what backward returns, and then the case.
Behind the bare norms are those with what is computed in the same pass: up to three arguments together, and all of them.
The inputs are made of integers by exact steps, so that they are the same on every machine.
"""

import argparse
import hashlib
import sys
import zlib
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import normlib
from normlib.description import FUNCTIONS
from normlib.ops import OPS
from normlib.testing import OFFSETS, VALUES, Case, dtypes, problems
from normlib.testing import _checks as checks
from normlib.testing._cases import AFFINE, _possible, constant
from normlib.testing._fused import choices, sensible

STORED = Path(__file__).with_name("digests.txt")
DTYPES = ("float32", "float64", "float16", "bfloat16")
NONE = "-" * 17
LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "negative")
# Traffic of 12 MiB or more in float32 and float64: these outputs go past the caches.
STREAMED = {
    "feature": [((2100, 1025), {"axis": -1}), ((2, 1025, 1050), {"axis": 1})],
    "channel": [((8, 36, 87, 86), {"channel_axis": 1}), ((8, 87, 86, 36), {"channel_axis": -1})],
}


def digest(arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()[:8]


def cases(op):
    """The cases of an op, in float32: every shape; the typical ones in all variants of what they compute."""
    every, typical, large = ([Case(op, *p) for p in problems(op, which)] for which in ("all", "typical", "large"))
    yield from every
    for case in typical:
        yield case
        yield from (replace(case, layout=layout) for layout in ("channels_last", "transposed"))
        yield from (replace(case, affine=affine) for affine in ("weight", "bias", "none"))
        yield replace(case, parameter_dtype="float32")
        yield from (replace(case, offset=offset) for offset in OFFSETS[1:])
        yield from (replace(case, values=values) for values in VALUES[1:])
        if OPS[op].mode is not None:
            yield constant(case)
    yield from large
    for shape, options in STREAMED[OPS[op].kind]:
        options = {**options, **{name: value for name, value in large[0].options.items() if "axis" not in name}}
        yield Case(op, shape, options)


def fused_cases(op):
    """Each set of arguments for the same pass in a typical case. What is chosen for it hangs on its own names alone: a
    new argument or activation leaves the others as they were."""
    function = FUNCTIONS[op]
    offered = choices(function)
    few = [names for count in (1, 2, 3) for names in combinations(offered, count)]
    for names in (*few, tuple(offered)):
        if sensible(names):
            own = f"{op} {' '.join(names)}"
            fused = {name: pick(f"{own} {name}", offered[name]) for name in names}
            shape, options = pick(own, problems(op, "typical"))
            case = Case(op, shape, options, layout=pick(own, LAYOUTS), affine=pick(own, AFFINE), fused=fused)
            yield constant(case) if OPS[op].mode and pick(own, ("own", "given")) == "given" else case


def pick(name, values):
    """One of some values, by a name."""
    return min(values, key=lambda value: zlib.crc32(f"{name}: {value}".encode()))


def key(case):
    return str(replace(case, dtype=""))


def compute(names=DTYPES, ops=OPS):
    """Yield (case, digests of forward and backward) for every case that there is in the dtypes of this machine."""
    names = [name for name in names if name in {dtype.name for dtype in dtypes()}]
    with normlib.backends.use("cython", strict=True):
        for of_op in (cases, fused_cases):
            for base in (base for op in ops for base in of_op(op)):
                for case in (replace(base, dtype=name) for name in names):
                    if _possible(case) and not (case.parameter_dtype and case.dtype in ("float32", "float64")):
                        found = checks.results(case)
                        split = 1 + len(case.description.statistics)
                        yield case, f"{digest(found[:split])} {digest(found[split:])}"


def stored():
    """The digests that stand in the file: {case without its dtype: {dtype: digests}}."""
    found = {}
    for line in STORED.read_text().splitlines()[1:]:
        columns = [line[i : i + 17] for i in range(0, 18 * len(DTYPES), 18)]
        name = line[18 * len(DTYPES) :].lstrip()
        found[name] = {d: c for d, c in zip(DTYPES, columns, strict=True) if c != NONE}
    return found


def write():
    table = {}
    for case, found in compute():
        table.setdefault(key(case), {})[case.dtype] = found
    head = " ".join(f"{dtype:17}" for dtype in DTYPES) + "  case"
    lines = [" ".join(row.get(d, NONE) for d in DTYPES) + "  " + name for name, row in table.items()]
    STORED.write_text("\n".join([head, *lines]) + "\n")


def compare(names=DTYPES):
    """The number of cases tried, and a line for each that differs from the file or is not in it."""
    expected, tried, wrong = stored(), 0, []
    for case, found in compute(names):
        wanted = expected.get(key(case), {}).get(case.dtype, "nothing")
        tried += 1
        if found != wanted:
            wrong.append(f"{case}: {found}, stored {wanted}")
    return tried, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="store the digests of this machine")
    if parser.parse_args().write:
        write()
        return 0
    tried, wrong = compare()
    print("\n".join(wrong))
    isa = normlib.show_config("dicts")["isa"]
    print(f"{tried} cases at level {isa}, {len(wrong)} differ")
    return 1 if wrong or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
