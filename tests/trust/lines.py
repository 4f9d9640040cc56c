"""Which lines the suite runs: of Python by coverage, with branches; of the compiled kernels by gcov."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tools import Unavailable, built, found, suite

WANTED = 95  # per cent
# Programs that lean on peers which tests need not have.
OMIT = "*/normlib/bench/peers/*,*/normlib/bench/plot.py,*/tests/*,*/docs/*"


def coverage():
    """A build with gcov's counters runs the suite under coverage; what falls short is listed."""
    try:
        import coverage  # noqa: F401
    except ImportError:
        raise Unavailable("coverage is not installed") from None
    root = built("coverage", CC=found("gcc"), NORMLIB_COVERAGE="1")
    for counted in (*root.rglob("*.gcda"), *root.glob(".coverage.*")):  # by a run before this one
        counted.unlink()
    settings = root / ".coveragerc"
    settings.write_text(
        f"[run]\nbranch = true\nparallel = true\nsource = normlib\npatch = subprocess\n[report]\nomit = {OMIT}\n"
    )
    module = ["coverage", "run", f"--rcfile={settings}", "-m"]
    # Unoptimized, more than 2^31 elements take hours; coverage itself stands neither signals nor a lack of memory.
    without = ["test_large.py", "test_interrupts.py", "test_allocation_failures.py"]
    tried, fell = suite(without=without, root=root, effort="suite", module=module, workers=2, timeout=1500)
    python = of_python(root, settings)
    kernels = of_kernels(root)
    for what, (percent, lines) in {"Python": python, "kernels": kernels}.items():
        print(f"   {what}: {percent:.1f} %")
        for name, missing in lines.items():
            print(f"      {name}: {missing}")
        if percent < WANTED:
            fell.append(f"{what}: {percent:.1f} % of the lines, expected {WANTED}")
    return tried, fell


def of_python(root, settings):
    report = root / "coverage.json"
    for command in (["combine", "-q"], ["json", "-q", "-o", report]):
        subprocess.run([sys.executable, "-m", "coverage", *command, f"--rcfile={settings}"], cwd=root, check=True)
    read = json.loads(report.read_text())
    files = {name: file["missing_lines"] for name, file in read["files"].items() if file["missing_lines"]}
    return read["totals"]["percent_covered"], {name: ranges(lines) for name, lines in files.items()}


def of_kernels(root):
    """Lines of .pyx, .pxi and .h that were run, in any of their specializations."""
    runs = defaultdict(lambda: defaultdict(int))
    objects = [str(path) for path in root.rglob("*.gcda")]
    if not objects:
        raise RuntimeError("the build left no counters")
    command = ["gcov", "--stdout", "--json-format", *objects]
    output = subprocess.run(command, cwd=root, capture_output=True, check=True)
    for document in output.stdout.splitlines():
        for file in json.loads(document)["files"]:
            path = Path(file["file"])
            if path.suffix in (".pyx", ".pxi", ".h") and "_kernels" in str(path):
                last = len((root / path).read_text().splitlines())  # what follows in the C file counts on without end
                for line in file["lines"]:
                    if line["line_number"] <= last:
                        runs[path.name][line["line_number"]] += line["count"]
    total = sum(len(lines) for lines in runs.values())
    missing = {name: sorted(n for n, count in lines.items() if not count) for name, lines in runs.items()}
    percent = 100 * (1 - sum(map(len, missing.values())) / total)
    return percent, {name: ranges(lines) for name, lines in missing.items() if lines}


def ranges(lines):
    """[1, 2, 3, 7] as "1-3, 7"."""
    found = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in found)
