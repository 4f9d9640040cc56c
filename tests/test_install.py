"""What an installation says where its compiler failed, and what a built one holds."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from support import LONG, python

import normlib

ROOT = Path(__file__).resolve().parents[1]
IMPORT = "import normlib; print(normlib.show_config('dicts')['compiled'])"
BUILT = "cython" in normlib.backends.available()
needs_kernels = pytest.mark.skipif(not BUILT, reason="needs the compiled kernels")


@pytest.fixture
def without_kernels(tmp_path):
    """A copy of the package that has no kernels."""
    shutil.copytree(ROOT / "normlib", tmp_path / "normlib", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def imported(folder, **environment):
    command = [sys.executable, "-S", "-c", IMPORT]  # without site, and so without what an editable install adds
    env = {name: value for name, value in os.environ.items() if not name.startswith("NORMLIB")}
    packages = Path(np.__file__).parents[1]
    env |= {"PYTHONPATH": f"{folder}{os.pathsep}{packages}", **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=60)


def test_the_first_import_warns_with_reason_and_cure(without_kernels):
    failure = without_kernels / "normlib/_kernels/build_failure.txt"
    failure.write_text("command 'gcc' failed: No such file or directory")
    run = imported(without_kernels)
    assert run.stderr.count("RuntimeWarning") == 1
    for words in (
        "normlib runs on NumPy, many times slower",
        "command 'gcc' failed: No such file or directory",
        "install a C compiler",
        "pip install --force-reinstall",
        "NORMLIB_BACKEND=numpy",
    ):
        assert words in run.stderr
    assert "command 'gcc' failed" in run.stdout


def test_whoever_asks_for_numpy_is_not_warned(without_kernels):
    assert imported(without_kernels, NORMLIB_BACKEND="numpy").stderr == ""


@needs_kernels
def test_with_kernels_nobody_is_warned():
    assert imported(ROOT).stderr == ""


@needs_kernels
def test_kernels_that_were_compiled_in_part_say_so(tmp_path):
    """An old compiler may not know an ISA level: the others run, and the configuration tells what is missing."""
    from normlib import _kernels

    shutil.copytree(ROOT / "normlib", tmp_path / "normlib", ignore=shutil.ignore_patterns("isa_*.so", "__pycache__"))
    level = next(file for file in Path(_kernels.__path__[0]).glob(f"isa_{_kernels.info()['isa_available'][-1]}*.so"))
    shutil.copy(level, tmp_path / "normlib/_kernels")
    (tmp_path / "normlib/_kernels/build_failure.txt").write_text("normlib._kernels.isa_v4: command 'gcc' failed")
    run = imported(tmp_path)
    assert run.stderr == ""
    assert run.stdout == "in part: normlib._kernels.isa_v4: command 'gcc' failed\n"


def test_the_build_says_why_it_failed(tmp_path):
    """With a compiler that fails the build succeeds, and leaves the reason beside the kernels."""
    pytest.importorskip("Cython")
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}/t"]
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'fatal error: Python.h: No such file or directory' >&2; exit 1\n")
    compiler.chmod(0o755)
    env = os.environ | {"CC": str(compiler), "NORMLIB_REQUIRE_EXT": "0", "NORMLIB_LEVELS": "v2"}
    subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True, timeout=300)
    reason = (tmp_path / "normlib/_kernels/build_failure.txt").read_text()
    assert reason == "fatal error: Python.h: No such file or directory"


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
@needs_kernels
@pytest.mark.skipif("NORMLIB_SANITIZE" in os.environ or "NORMLIB_COVERAGE" in os.environ, reason="built with symbols")
def test_the_kernels_carry_no_symbols_beyond_what_loads_them():
    from normlib import _kernels

    built = [file for folder in _kernels.__path__ for file in Path(folder).glob("*.so")]
    assert len(built) > 8
    assert [file.name for file in built if b".symtab" in file.read_bytes()] == []


@needs_kernels
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads which libraries are loaded")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("library", ["sklearn", pytest.param("torch", marks=pytest.mark.long)])
def test_openmp_runtimes_of_others_do_no_harm(library, when, record_property):
    """In turns, in forks and in threads; test_forks.py has torch in the suite."""
    pytest.importorskip(library)
    for _ in range(20 if LONG else 1):
        out = python(ROOT / "tests/scripts/openmp_runtimes.py", library, when, OMP_WAIT_POLICY="passive")
    assert f"beside {library}, {when}: " in out
    record_property("tried", 20 if LONG else 1)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("file", ["CITATION.cff", "recipe/recipe.yaml"])
def test_one_version_everywhere(file):
    versions = re.findall(r'^ *version: "?([0-9][^"\n]*)"?$', (ROOT / file).read_text(), re.MULTILINE)
    assert versions == [PROJECT["project"]["version"]] == [normlib.__version__]


def test_wheels_are_built_for_every_python_that_is_named():
    named = [re.search(r":: 3\.(\d+)$", text) for text in PROJECT["project"]["classifiers"]]
    wheels = PROJECT["tool"]["cibuildwheel"]["build"]
    assert [wheel for wheel in wheels if "t-" not in wheel] == [f"cp3{minor[1]}-*" for minor in named if minor]
    assert wheels[-1].replace("t-", "-") == wheels[-2]  # and free-threaded, the newest


@pytest.mark.parametrize("file", sorted(Path(ROOT, ".github/workflows").glob("*.yml")), ids=lambda file: file.name)
def test_workflows_name_actions_by_hash(file):
    actions = re.findall(r"uses: (\S+)", file.read_text())
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []
