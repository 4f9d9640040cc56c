"""The page "Which numbers share a mean?" (docs/axis): all that it can show is what normlib computes."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import normlib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "axis"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node")
NUMBERS = {"parse_constant": float}


@pytest.fixture(scope="module")
def states():
    """Every state, as the page computes it. JSON has no NaN: null stands for it."""
    command = ["node", ROOT / "tests" / "scripts" / "axis_states.js", PAGE]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def run(state, x=None):
    """What the lines that the page gives to copy compute; of another x if one is given."""
    found = {}
    exec(state["given"], found)
    if x is not None:
        found["x"] = np.reshape(x, found["x"].shape)
    exec(state["called"], found)
    return found


def close(found, expected):
    np.testing.assert_allclose(np.array(found, np.float64), np.ravel(expected), rtol=1e-13, atol=1e-13)


@needs_node
def test_the_states_are_all_that_the_controls_can_reach(states):
    called = {(state["choice"]["array"], state["choice"]["norm"]) for state in states}
    norms = {name for name, op in normlib.ops.OPS.items()}
    assert called == {(a, n) for a in ("features", "sequence", "image") for n in norms} - {("features", "instance_norm")}
    assert all(state["kept"] == state["choice"] for state in states)
    assert len({json.dumps(state["choice"]) for state in states}) == len(states) > 400


@needs_node
def test_every_number_is_normlibs(states):
    for state in states:
        found = run(state)
        close(state["x"], found["x"])
        close(state["y"], found["y"])
        close(state["rstd"], found["rstd"])
        if "mean" in found:
            close(state["mean"], found["mean"])
        if state["learned"]:
            close(state["learned"]["mean"], found["running_mean"])
            close(state["learned"]["variance"], found["running_var"])


@needs_node
def test_the_numbers_after_an_edit_are_normlibs_too(states):
    for state in states:
        close(state["changed"]["y"], run(state, state["changed"]["x"])["y"])
