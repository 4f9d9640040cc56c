"""The vector levels of the compiled kernels: chosen by the processor or by NORMLIB_ISA, and all with the same bits."""

import os
import subprocess
import sys

import pytest

from normlib import _kernels

LEVELS = _kernels.info()["isa_available"]
pytestmark = pytest.mark.skipif(not LEVELS, reason="without compiled kernels there are no levels")

# A digest of every result of every op, over dtypes, shapes, layouts, parameters and outputs.
DIGEST = """
import hashlib
import normlib
from normlib.ops import OPS
from normlib.testing import Case, cases, problems
from normlib.testing import _checks as checks

digest = hashlib.sha256()
with normlib.backends.use("cython", strict=True):
    for op in OPS:
        for case in [*cases(op), *(Case(op, *problem, "float32") for problem in problems(op, "large"))]:
            for result in checks.results(case):
                digest.update(result.tobytes())
print(normlib.show_config("dicts")["isa"], digest.hexdigest())
"""


def run(code, level):
    env = os.environ | {"NORMLIB_ISA": level, "NORMLIB_BACKEND": ""}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_best_level_is_in_use():
    assert run("import normlib; print(normlib.show_config('dicts')['isa'])", "").stdout.strip() == LEVELS[0]


def test_same_bits_at_every_level():
    found = {}
    for level in LEVELS:
        result = run(DIGEST, level)
        assert result.returncode == 0, result.stderr
        used, found[level] = result.stdout.split()
        assert used == level
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("level", ["v9", "x86-64-v3", "V3"])
def test_a_level_that_does_not_exist(level):
    expected = f"ImportError: NORMLIB_ISA is '{level}', expected one of v4, v3, v2, baseline"
    assert expected in run("import normlib", level).stderr


def test_a_level_that_is_not_there():
    absent = next(level for level in _kernels.LEVELS if level not in LEVELS)
    assert "ImportError: " in run("import normlib", absent).stderr
