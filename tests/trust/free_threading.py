"""The suite on a CPython without the GIL, every test in several threads at once."""

import os
import subprocess

from tools import WORK, Unavailable, built, found, suite

# Tests that set what belongs to the whole process, or start processes that do.
PROCESS = ["test_threads.py", "test_concurrency.py", "test_backends.py", "test_plugins.py", "test_outputs.py"]
PROGRAMS = ["test_bench.py", "test_cli.py", "test_examples.py", "test_models.py", "test_embedding.py"]
WANTED = ["numpy<2.5", "cython", "setuptools>=77", "ml_dtypes", "pytest>=8", "pytest-run-parallel", "hypothesis"]


def free_threading():
    """`python3.13t` on the PATH, or named by NORMLIB_PYTHON_T. tests/README.md says how to build one."""
    python = os.environ.get("NORMLIB_PYTHON_T") or found("python3.13t")
    site = WORK / "site-3.13t"
    if not site.exists():
        command = ["pip", "--python", python, "install", "-q", "--only-binary", ":all:", "--target", site, *WANTED]
        if subprocess.run(command, check=False, capture_output=True, text=True).returncode:
            raise Unavailable(f"pip could not install {', '.join(WANTED)}")
    root = built("free-threaded", python=python, PYTHONPATH=str(site))
    options = [f"--ignore=tests/{name}" for name in (*PROCESS, *PROGRAMS)]
    common = {"root": root, "python": python, "effort": "suite", "PYTHONPATH": str(site)}
    parallel = suite(options=["--parallel-threads=4", *options], **common)
    alone = suite(*PROCESS, **common)
    return parallel[0] + alone[0], parallel[1] + alone[1]
