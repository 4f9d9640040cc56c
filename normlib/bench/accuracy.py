"""The errors of normlib and of its peers against extended precision, as the tables of docs/accuracy.md.

    python -m normlib.bench.accuracy                    print the tables
    python -m normlib.bench.accuracy docs/accuracy.md   write them there, between the two marks

A peer that is not installed is left out.
"""

import platform
import sys
from pathlib import Path

import numpy as np

import normlib
from normlib import testing
from normlib.bench import cases as bench_cases
from normlib.bench import peers
from normlib.testing import OFFSETS, _checks, _reference, dtypes

MARKS = "<!-- tables -->\n", "<!-- end of tables -->\n"
NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX"}
RESULTS = {"y": "output", "dx": "gradient of x", "dweight": "gradients of the parameters"}
# norm -> (shape with the channels second, layout, groups)
PROBLEMS = {
    "layer_norm": [((32, 768), "rows", 0), ((8, 4096), "rows", 0)],
    "rms_norm": [((32, 768), "rows", 0), ((8, 4096), "rows", 0)],
    "batch_norm": [((8, 16, 14, 14), "channels_first", 0), ((8, 16, 14, 14), "channels_last", 0)],
    "group_norm": [((4, 32, 14, 14), "channels_first", 8), ((4, 32, 14, 14), "channels_last", 8)],
    "instance_norm": [((4, 16, 28, 28), "channels_first", 0), ((4, 16, 28, 28), "channels_last", 0)],
}


def _offsets(dtype):
    return [offset for offset in OFFSETS if dtype != "float16" or offset < 65504]


def problem(norm, shape, layout, groups, dtype, offset):
    """Return one problem as the tests describe it: inputs, reference."""
    options = {"axis": -1} if layout == "rows" else {"channel_axis": -1 if layout == "channels_last" else 1}
    if groups:
        options["num_groups"] = groups
    mode = normlib.ops.OPS[norm].mode
    if mode:
        options[mode] = True
    if layout == "channels_last":
        shape = (shape[0], *shape[2:], shape[1])
    return testing.Case(norm, shape, options, dtype, offset=offset)


def ours(case):
    """Return [y, dx, gradients of the parameters]."""
    x, weight, bias, dy = case.inputs()
    y, statistics = _checks.with_statistics(case, x, weight, bias)
    return [y, *_checks.call_backward(case, dy, x, weight, **statistics)]


def theirs(peer, case, norm, shape, layout, groups):
    """Return the same from a peer; None for what it does not have."""
    x, weight, bias, dy = case.inputs()
    channels = case.geometry.parameter_shape
    given = {"x": x, "weight": weight, "bias": bias, "dy": dy, "eps": case.eps, "out": None, **case.options}
    given |= {"running_mean": np.zeros(channels, x.dtype), "running_var": np.ones(channels, x.dtype)}
    found = []
    for backward in (False, True):
        described = bench_cases.Case(
            "accuracy", norm, shape, layout, case.dtype, backward, out=False, groups=groups, eps=case.eps
        )
        contender = peer.prepare(described, given)
        if contender is None:
            found.append(None)
        else:
            with contender.around():
                found += contender.outputs(contender.call())
    return found


def errors(case, found):
    """Return the largest errors of y, of dx and of the parameters' gradients in ulps of the dtype."""
    x, weight, _, dy = case.inputs()
    truth = _checks.expected_forward(case, *case.inputs()[:3])
    expected = _reference.backward(case.geometry, dy, x, weight, mean=truth.mean, rstd=truth.rstd)
    rows = case.geometry.rows
    worst = {}
    for name, got, wanted, per_row in (
        ("y", found[0], truth.y, True),
        ("dx", found[1] if len(found) > 1 else None, expected.dx, True),
        *(("dweight", got, wanted, False) for got, wanted in zip(found[2:], expected[1:3], strict=False)),
    ):
        if got is None:
            continue
        got = np.asarray(got).astype(np.longdouble)
        if per_row:
            got, wanted = rows(got), rows(wanted)
        size = np.max(np.abs(wanted), axis=-1 if per_row else None, keepdims=True)
        error = np.abs(got - wanted) / _reference.spacing(size, case.dtype)
        worst[name] = max(worst.get(name, 0.0), float(np.max(np.where(np.isnan(error), np.inf, error))))
    return worst


def measure(libraries):
    """Return {(dtype, result, norm, library): {offset: worst error}}."""
    table = {}
    for dtype in (dtype.name for dtype in dtypes()):
        for norm, found in PROBLEMS.items():
            for offset in _offsets(dtype):
                for shape, layout, groups in found:
                    case = problem(norm, shape, layout, groups, dtype, offset)
                    for name, peer in libraries.items():
                        results = ours(case) if peer is None else theirs(peer, case, norm, shape, layout, groups)
                        for result, error in errors(case, results).items():
                            cell = table.setdefault((dtype, result, norm, name), {})
                            cell[offset] = max(cell.get(offset, 0.0), error)
    return table


def _number(error):
    if error < 100:
        return f"{error:.1f}"
    return f"{error:.0f}" if error < 1e4 else f"{error:.1e}".replace("e+0", "e")


def tables(libraries):
    """Return the tables as lines of Markdown."""
    table = measure(libraries)
    versions = ", ".join(f"{NAMES[name]} {peer.version.split('+')[0]}" for name, peer in libraries.items() if peer)
    yield f"Beside {versions or 'no peer'}, NumPy {np.__version__}, on {platform.machine()}.\n"
    for dtype in (dtype.name for dtype in dtypes()):
        offsets = ", ".join(f"{offset:.0e}".replace("e+0", "e") for offset in _offsets(dtype)[1:])
        for result, title in RESULTS.items():
            columns = [name for name in libraries if any((dtype, result, norm, name) in table for norm in PROBLEMS)]
            yield f"\n**{dtype}, {title}**, at mean/std of 0, {offsets}\n\n"
            yield "| norm | " + " | ".join(NAMES.get(name, name) for name in columns) + " |\n"
            yield "|---|" + "---|" * len(columns) + "\n"
            for norm in PROBLEMS:
                cells = [table.get((dtype, result, norm, name), {}).values() for name in columns]
                yield f"| {norm} | " + " | ".join(", ".join(map(_number, cell)) or "-" for cell in cells) + " |\n"


def main(arguments):
    """Print the tables or write them into the file given."""
    found, missing = peers.load(tuple(NAMES), 1)
    for name, reason in missing.items():
        print(f"without {NAMES[name]}: {reason}", file=sys.stderr)
    with np.errstate(all="ignore"):
        text = "".join(tables({"normlib": None, **found}))
    if not arguments:
        print(text)
        return
    page = Path(arguments[0])
    head, _, rest = page.read_text().partition(MARKS[0])
    page.write_text(head + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2])


if __name__ == "__main__":
    main(sys.argv[1:])
