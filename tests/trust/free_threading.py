"""The suite on a CPython without the GIL, every test in several threads at once."""

import os
import subprocess

from tools import WORK, Unavailable, built, found, suite

# Tests that set what belongs to the whole process, and those that start processes which do.
ALONE = ["test_threads.py", "test_backends.py", "test_plugins.py", "test_outputs.py", "test_memory.py"]
LEFT_OUT = ["test_bench.py", "test_cli.py", "test_examples.py", "test_models.py"]


def free_threading():
    """`python3.13t` on the PATH, or named by NORMLIB_PYTHON_T. tests/README.md says how to build one."""
    python = os.environ.get("NORMLIB_PYTHON_T") or found("python3.13t")
    site = WORK / "site-3.13t"
    if not site.exists():
        wanted = ["numpy<2.5", "cython", "setuptools>=77", "ml_dtypes"]
        wanted += ["pytest>=8", "hypothesis", "pytest-run-parallel"]
        command = ["pip", "--python", python, "install", "-q", "--only-binary", ":all:", "--target", site, *wanted]
        if subprocess.run(command, check=False, capture_output=True, text=True).returncode:
            raise Unavailable(f"pip could not install {', '.join(wanted)}")
    root = built("free-threaded", python=python, PYTHONPATH=str(site))
    common = {"root": root, "python": python, "effort": "suite", "PYTHONPATH": str(site)}
    parallel = suite(without=ALONE + LEFT_OUT, options=["--parallel-threads=4"], **common)
    alone = suite("test_concurrency.py", *ALONE, **common)
    return parallel[0] + alone[0], parallel[1] + alone[1]
