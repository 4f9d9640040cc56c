"""What an installation says where its compiler failed, and what a built one holds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normlib

ROOT = Path(__file__).resolve().parents[1]
IMPORT = "import normlib; print(normlib.show_config('dicts')['compiled'])"


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


@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="needs the compiled kernels")
def test_with_kernels_nobody_is_warned():
    assert imported(ROOT).stderr == ""


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
@pytest.mark.skipif("cython" not in normlib.backends.available(), reason="needs the compiled kernels")
@pytest.mark.skipif("NORMLIB_SANITIZE" in os.environ or "NORMLIB_COVERAGE" in os.environ, reason="built with symbols")
def test_the_kernels_carry_no_symbols_beyond_what_loads_them():
    from normlib import _kernels

    built = [file for folder in _kernels.__path__ for file in Path(folder).glob("*.so")]
    assert len(built) > 8
    assert [file.name for file in built if b".symtab" in file.read_bytes()] == []
