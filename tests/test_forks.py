"""Forks and pools of processes, while other threads compute, with torch and without: nothing hangs, the bits stay."""

import importlib.util
import os

import fork_scenarios
import pytest
from support import LONG, effort, python

SCRIPT = fork_scenarios.__file__
SCENARIOS = list(fork_scenarios.SCENARIOS)
CASES = [(scenario,) for scenario in SCENARIOS]
if importlib.util.find_spec("torch"):  # two in the suite, all in the campaign
    some = [("grandchildren", "torch before"), ("fork inside a call", "torch after")]
    CASES += [(scenario, f"torch {when}") for scenario in SCENARIOS for when in ("before", "after")] if LONG else some

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_no_hang(case, record_property):
    times = effort(1, 20)
    for _ in range(times):
        python(SCRIPT, *case, timeout=60, PYTHONHASHSEED="0")
    record_property("tried", times)
