"""What the entries share: running pytest and counting, and copies of the source tree built in another way."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "trust"  # copies of the tree; git ignores build/


class Unavailable(Exception):
    """A tool is missing."""


def found(*names):
    """The path of the first of these programs that is installed."""
    for name in names:
        if path := shutil.which(name):
            return path
    raise Unavailable(f"{' or '.join(names)} is not installed")


def suite(*files, without=(), root=ROOT, python=sys.executable, options=(), effort="long", workers=1, module=(),
          timeout=3000, **environment):  # fmt: skip
    """Run test files, or all but those `without`, in `workers` processes at once where pytest-xdist is installed; (how
    often they tried, what failed). A test that says nothing has tried once."""
    options = [*(f"--ignore=tests/{file}" for file in without), *options]
    if workers > 1 and find_spec("xdist"):
        options = [f"-n{workers}", "--dist=worksteal", *options]
    path = [str(root), environment.pop("PYTHONPATH", os.environ.get("PYTHONPATH", ""))]
    env = os.environ | {"NORMLIB_EFFORT": effort, "PYTHONPATH": os.pathsep.join(filter(None, path))} | environment
    with TemporaryDirectory() as folder:
        report, log = Path(folder, "report.xml"), Path(folder, "log")
        chosen = [f"tests/{file}" for file in files] or ["tests"]
        command = [python, "-m", *module, "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *options,
                   *chosen]  # fmt: skip
        try:
            with open(log, "w") as output:
                code = subprocess.run(command, cwd=root, env=env, stdout=output, stderr=output, timeout=timeout,
                                      check=False).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = f"no end after {timeout} s"
        if code not in (0, 1) or not report.exists():  # it crashed, or hung
            return 0, [f"pytest: {code}\n{log.read_text(errors='replace')[-4000:]}"]
        return count(report)


def script(name, needs=(), modules=(), timeout=3000):
    """Run a program of tests/scripts that prints "N cases"; where it ends with a status but 0, its output fell."""
    for tool in needs:
        found(tool)
    for module in modules:
        if find_spec(module) is None:
            raise Unavailable(f"the package {module} is not installed")
    path = ROOT / "tests/scripts" / name
    command = [sys.executable, path] if path.suffix == ".py" else [path]
    env = os.environ | {"PYTHON": sys.executable}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    cases = [int(n) for n in re.findall(r"^(\d+) cases", result.stdout, re.MULTILINE)]
    return sum(cases), [(result.stdout + result.stderr)[-4000:]] if result.returncode or not cases else []


def count(report):
    tried, fell = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        for wrong in (*case.iter("failure"), *case.iter("error")):
            fell.append(f"{name}\n{(wrong.text or '')[-2000:]}")
        if case.find("skipped") is None:
            counts = [int(p.get("value")) for p in case.iter("property") if p.get("name") == "tried"]
            tried += sum(counts) or 1
    return tried, fell


def built(name, python=sys.executable, **environment):
    """A copy of the tree under build/trust, its kernels compiled in place as `environment` says."""
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    folders = ["normlib", "tests", "docs", "benchmarks", ".ci"]
    parts = [*folders, "setup.py", "pyproject.toml", "LICENSE", *ROOT.glob("*.md")]
    for part in parts:
        source, target = ROOT / part, folder / Path(part).name
        if source.is_dir():
            if part != "normlib":  # where the kernels of the last build are
                shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy2(source, target)
    command = [python, "setup.py", "-q", "build_ext", "--inplace", f"-j{os.cpu_count()}"]
    env = os.environ | {"NORMLIB_REQUIRE_EXT": "1", "NORMLIB_LEVELS": level()} | environment
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"the build of {name} failed:\n{result.stderr[-3000:]}")
    return folder


def level():
    """The best ISA level here: one is enough where the kernels are built in another way, for all have one source."""
    import normlib._kernels

    return normlib._kernels.info()["isa"] or ""
