"""The page "Which numbers share a mean?" (docs/axis) and the pictures of the norms show what normlib does.

The JavaScript of the page runs in node here, in every state that its controls can reach; in test_axis_browser.py it
runs in a browser.
"""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import normlib

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "axis"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node")


@pytest.fixture(scope="module")
def states():
    """Every state as the page computes it. JSON has no NaN: there is null in its place."""
    command = ["node", ROOT / "tests" / "scripts" / "axis_states.js", PAGE]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def run(state, x=None):
    """The variables of the lines that the page gives to copy, run on another x if one is given."""
    variables = {}
    exec(state["given"], variables)
    if x is not None:
        variables["x"] = np.reshape(x, variables["x"].shape)
    exec(state["called"], variables)
    return variables


def assert_close(found, expected):
    np.testing.assert_allclose(np.array(found, np.float64), np.ravel(expected), rtol=1e-13, atol=1e-13)


@needs_node
def test_the_states_are_each_norm_of_each_array(states):
    called = {(state["choice"]["array"], state["choice"]["norm"]) for state in states}
    arrays = ("features", "sequence", "image")
    assert called == {(array, norm) for array in arrays for norm in normlib.ops.OPS} - {("features", "instance_norm")}
    assert len({json.dumps(state["choice"]) for state in states}) == len(states) == 390


@needs_node
def test_no_state_is_one_that_the_page_would_mend(states):
    assert all(state["mended"] == state["choice"] for state in states)


@needs_node
def test_the_address_of_the_page_holds_the_state(states):
    assert all(state["reread"] == state["choice"] for state in states)


@needs_node
def test_every_number_is_normlibs(states):
    for state in states:
        found = run(state)
        assert_close(state["x"], found["x"])
        assert_close(state["y"], found["y"])
        assert_close(state["rstd"], found["rstd"])
        if state["choice"]["norm"] != "rms_norm":
            assert_close(state["mean"], found["mean"])
        if state["choice"]["norm"] in ("batch_norm", "instance_norm") and not state["choice"]["evaluating"]:
            assert_close(state["learned"]["mean"], found["running_mean"])
            assert_close(state["learned"]["variance"], found["running_var"])


@needs_node
def test_the_numbers_of_changed_values_are_normlibs(states):
    for state in states:
        assert state["changed"]["x"] != state["x"]
        assert_close(state["changed"]["y"], run(state, state["changed"]["x"])["y"])


@needs_node
def test_the_set_of_an_element_is_what_it_moves(states):
    for state in states:
        element = int(np.argmax(state["inside"] or [True]))  # the first that is not padding
        x = np.array(state["x"]) + 0.05  # no zeros, which stay where they are without a mean
        changed = np.where(np.arange(len(x)) == element, x + 1, x)
        moved = np.ravel(run(state, changed)["y"] != run(state, x)["y"])
        own = np.equal(state["set"], state["set"][element]) & (state["inside"] or True)
        if state["choice"]["evaluating"]:
            own = np.arange(len(x)) == element
        assert np.array_equal(moved, own), state["choice"]


@needs_node
def test_each_set_has_words_of_its_own(states):
    for state in states:
        pairs = set(zip(state["set"], state["sharing"], strict=True))
        assert len(pairs) == len(set(state["set"])) == len(set(state["sharing"])), state["choice"]


@needs_node
def test_the_words_name_the_set(states):
    def words(element, **choice):
        (state,) = (s for s in states if choice.items() <= s["choice"].items() and not s["choice"]["masked"])
        return state["sharing"][element]

    features, image = {"array": "features"}, {"array": "image", "memory": "first"}
    assert words(8, **features, norm="layer_norm", axes="C") == "every feature of sample 1"
    assert words(8, **features, norm="rms_norm", axes="NC") == "every sample and feature"
    assert words(8, **features, norm="batch_norm", channel="C", evaluating=False) == "every sample of feature 2"
    assert words(22, **image, norm="layer_norm", axes="C") == "every channel of sample 0, row 1 and column 1"
    assert words(22, **image, norm="layer_norm", axes="CHW") == "every channel, row and column of sample 0"
    group = {**image, "norm": "group_norm"}
    assert words(22, **group, channel="C", groups=1) == "every channel, row and column of sample 0"
    assert words(22, **group, channel="C", groups=2) == "channels 2 and 3 of sample 0, every row and column"
    assert words(22, **group, channel="C", groups=4) == "channel 2 of sample 0, every row and column"
    instance = {**image, "norm": "instance_norm", "evaluating": False}
    assert words(22, **instance, channel="C") == "every row and column of sample 0 and channel 2"


@needs_node
def test_the_runs_of_a_set_in_memory():
    expected = {
        "[]": "Nothing of it is inside the mask.",
        "[4]": "The set is one value.",
        "[3, 1, 2]": "The set is one run of 3 neighbouring values.",
        "[0, 6, 12]": "The set is 3 single values, 6 apart.",
        "[0, 1, 6, 7]": "The set is 2 runs of 2 neighbouring values, 6 apart.",
        "[0, 1, 6]": "The set is 2 runs of unequal length.",
        "[0, 2, 6]": "The set is 3 single values.",
    }
    load = "".join(f"require({json.dumps(str(PAGE / name))});" for name in ("layout.js", "norms.js", "words.js"))
    code = load + "".join(f"console.log(axis.words.runsInWords({offsets}));" for offsets in expected)
    output = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == list(expected.values())


def test_the_page_needs_nothing_from_elsewhere():
    page = (PAGE / "index.html").read_text()
    loaded = re.findall(r'(?:src|<link rel="stylesheet" href)="([^"]*)"', page)
    assert sorted(loaded) == sorted(path.name for path in PAGE.iterdir() if path.suffix in (".js", ".css"))
    assert not any(re.search(r"https?://|@import|\bfetch\(|url\(", (PAGE / name).read_text()) for name in loaded)


def test_the_pictures_are_those_that_their_script_draws():
    script = ROOT / "docs" / "img" / "norms.py"
    for name, text in runpy.run_path(str(script))["pictures"]().items():
        assert script.with_name(name).read_text() == text, name


def test_the_pictures_show_the_sets():
    members = runpy.run_path(str(ROOT / "docs" / "img" / "norms.py"))["members"]
    sets = {
        "layer_norm(x, axis=1)": np.s_[0, :, 1, 1],
        "layer_norm(x, axis=(1, 2, 3))": np.s_[0],
        "batch_norm(x, training=True)": np.s_[:, 1],
        "group_norm(x, 2)": np.s_[0, :2],
        "instance_norm(x)": np.s_[0, 1],
    }
    for call, inside in sets.items():
        expected = np.zeros((2, 4, 3, 3), bool)
        expected[inside] = True
        assert np.array_equal(members(call), expected), call
