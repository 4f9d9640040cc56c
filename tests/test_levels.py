"""The ISA levels of the compiled kernels: chosen by the CPU or by NORMLIB_ISA.

That all give the same bits is for test_bits to show.
"""

import os
import subprocess
import sys

import pytest

from normlib import _kernels

FIRST_CALL = "import normlib; normlib.layer_norm([1.0, 2.0])"
LEVELS = _kernels.info()["isa_available"]
pytestmark = pytest.mark.skipif(not LEVELS, reason="without compiled kernels there are no levels")


def run(code, level):
    env = os.environ | {"NORMLIB_ISA": level, "NORMLIB_BACKEND": ""}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_best_level_is_in_use():
    assert run("import normlib; print(normlib.show_config('dicts')['isa'])", "").stdout.strip() == LEVELS[0]


@pytest.mark.parametrize("level", ["v9", "x86-64-v3", "V3"])
def test_a_level_that_does_not_exist(level):
    expected = f"ImportError: NORMLIB_ISA is '{level}', expected one of v4, v3, v2, baseline"
    assert expected in run(FIRST_CALL, level).stderr


def test_a_level_that_is_not_there():
    absent = next(level for level in _kernels.LEVELS if level not in LEVELS)
    assert "ImportError: " in run(FIRST_CALL, absent).stderr
