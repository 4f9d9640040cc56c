"""The description of the norms: the functions are what it says, and so is what was generated from it."""

import inspect
import runpy
from pathlib import Path

import pytest

import normlib
from normlib import backends, numpy_backend
from normlib.description import FUNCTIONS, REQUIRED

GENERATE = Path(__file__).resolve().parents[1] / ".ci/generate.py"
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)


@each_function
def test_a_public_function_has_the_arguments_of_its_description(function):
    parameters = inspect.signature(getattr(normlib, function.name)).parameters.values()
    found = [(p.name, REQUIRED if p.default is p.empty else p.default, p.kind is p.KEYWORD_ONLY) for p in parameters]
    arguments = (*function.arguments, *function.fused.values())
    assert found == [(a.name, a.default, a.keyword) for a in arguments]


@each_function
def test_a_public_function_documents_its_arguments_in_their_order(function):
    lines = getattr(normlib, function.name).__doc__.partition("    Returns\n")[0].splitlines()
    heads = [line.strip().partition(" : ")[0] for line in lines if line.startswith("    ") and line[4:5].isalpha()]
    names = [*function.names, *function.fused]
    assert [name for head in heads for name in head.split(", ") if name in names] == names


@each_function
def test_the_numpy_backend_takes_and_returns_what_the_description_says(function):
    names = [function.op.mode if name == "mode" else name for name in
             inspect.signature(getattr(numpy_backend, function.name)).parameters]  # fmt: skip
    assert names == [*function.canonical, "fused"]  # by name, the latter


@each_function
def test_the_registry_lists_what_a_backend_may_have(function):
    assert f"\n    {function}\n" in backends.__doc__


def test_generated_files_are_what_the_description_gives():
    assert runpy.run_path(str(GENERATE))["main"](["--check"]) == 0


def test_a_generated_file_that_was_changed_is_named(tmp_path):
    names = runpy.run_path(str(GENERATE))
    stub = tmp_path / "ops.pyi"
    stub.write_text("import numpy\n")
    names["main"].__globals__.update(ROOT=tmp_path, outputs=lambda: {stub: names["stub"]()})
    assert names["main"](["--check"]) == "ops.pyi is not what .ci/generate.py writes\n"
    assert names["main"]([]) == 0
    assert names["main"](["--check"]) == 0
