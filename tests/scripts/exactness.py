"""The numerics contract in its long form: errors against extended precision over many widths, orders and values.

    python tests/scripts/exactness.py [--backend NAME] [--op NAME] [--quick]

prints, for each norm and dtype, the worst errors found in ulps; exit status 1 if one is beyond the contract.
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

import normlib
from normlib.ops import OPS
from normlib.testing import OFFSETS, VALUES, Case, dtypes
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible

QUICK = (1, 2, 7, 33, 1025)
POWERS = {2**k + d for k in range(1, 17) for d in (-1, 0, 1)} - {65537}
LONG = sorted({*range(1, 36), *POWERS, 47, 50, 97, 100, 300, 768, 1000, 3000, 5000, 12345, 50001})


def problems(op, width):
    """Shapes in which about `width` elements share their statistics, along rows and along columns."""
    description = OPS[op]
    if description.kind == "feature":
        found = [((3, width), {"axis": -1}), ((width, 3), {"axis": 0}), ((2, width, 33), {"axis": 1})]
        return found[: 3 if width <= 1025 else 2]
    if description.mode is not None and width == 1:
        return []
    options = {"num_groups": 2} if description.has_groups else {}
    if description.mode is not None:
        options[description.mode] = True
    half = (width + 1) // 2
    shapes = [(width, 3), (2, 3, half), (2, half, 3)] if op == "batch_norm" else [(2, 4, width), (2, width, 4)]
    axes = (1, 1, -1) if op == "batch_norm" else (1, -1)
    return [(shape, {"channel_axis": axis, **options}) for shape, axis in zip(shapes, axes, strict=True)]


def variants(case):
    """Offsets with and without parameters, and kinds of values."""
    for affine in ("both", "none"):
        yield from (replace(case, affine=affine, offset=offset) for offset in OFFSETS)
    yield from (replace(case, values=values) for values in VALUES[1:])


def sweep(op, dtype, widths):
    for width in widths:
        for shape, options in problems(op, width):
            yield from filter(_possible, variants(Case(op, shape, options, dtype)))


def campaign(ops, widths, backend="cython"):
    """Yield (op, dtype, number of cases, {result: (worst error, case)})."""
    with normlib.backends.use(backend, strict=True):
        for op in ops:
            for dtype in (dtype.name for dtype in dtypes()):
                count, worst = 0, dict.fromkeys(("output", "gradient", "parameter"), (0.0, None))
                for case in sweep(op, dtype, widths):
                    count += 1
                    with np.errstate(all="ignore"):
                        found = checks.worst_errors(case)
                    for name, error in found.items():
                        if not error <= worst[name][0]:
                            worst[name] = error, case
                yield op, dtype, count, worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default="cython")
    parser.add_argument("--op", action="append", choices=list(OPS))
    parser.add_argument("--quick", action="store_true", help="a few widths only")
    asked = parser.parse_args()
    started, total, beyond = time.perf_counter(), 0, []
    print(f"{'norm':14} {'dtype':9} {'cases':>6} {'y':>6} {'dx':>6} {'dweight, dbias':>15}   (ulps)")
    for op, dtype, count, worst in campaign(asked.op or OPS, QUICK if asked.quick else LONG, asked.backend):
        total += count
        errors = [worst[name][0] for name in ("output", "gradient", "parameter")]
        print(f"{op:14} {dtype:9} {count:6} {errors[0]:6.2f} {errors[1]:6.2f} {errors[2]:15.2f}", flush=True)
        beyond += [f"{name}: {error:.3g} ulps: {case}" for name, (error, case) in worst.items()
                   if not error <= checks.LIMITS[name]]
    print(f"{total} cases in {time.perf_counter() - started:.0f} s, {len(beyond)} beyond the contract")
    print("\n".join(beyond))
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
