"""The suite on a CPython without the GIL, every test in several threads at once but those marked `thread_unsafe`."""

import os
import subprocess

from tools import WORK, Unavailable, built, found, suite

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
    options = ["--parallel-threads=4"]
    return suite(without=LEFT_OUT, options=options, root=root, python=python, effort="suite", PYTHONPATH=str(site))
