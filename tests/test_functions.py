"""The public functions as objects: compiled ones too are what a function of Python is to those who look at it."""

import copy
import inspect
import pickle
import pydoc

import numpy as np
import pytest

import normlib
from normlib.description import FUNCTIONS

each = pytest.mark.parametrize("function", [getattr(normlib, name) for name in FUNCTIONS], ids=list(FUNCTIONS))
X = np.random.default_rng(0).standard_normal((2, 8)).astype("float32")


@each
def test_a_function_says_what_it_is(function):
    name = function.__name__
    described = FUNCTIONS[name]
    assert (function.__module__, function.__qualname__) == ("normlib.ops", name)
    assert list(inspect.signature(function).parameters) == [*described.names, *described.fused]
    assert inspect.isroutine(function)
    assert repr(function).startswith(f"<function {name} at 0x")
    assert f"{name}(" in pydoc.plain(pydoc.render_doc(function))
    assert inspect.getsource(function).startswith(("@_public", f"def {name}"))


@each
def test_a_function_is_found_again_by_its_name(function):
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function


def test_a_function_becomes_a_method():
    class Array(np.ndarray):
        norm = normlib.rms_norm

    assert np.array_equal(X.view(Array).norm(eps=1), normlib.rms_norm(X, eps=1))
    assert Array.norm is normlib.rms_norm


@pytest.mark.parametrize(("call", "text"), [
    (lambda: normlib.rms_norm(), r"rms_norm\(\) missing 1 required positional argument: 'x'"),
    (lambda: normlib.rms_norm(X, X[0], X[0]), r"rms_norm\(\) takes from 1 to 2 positional arguments but 3 were given"),
    (lambda: normlib.rms_norm(X, x=X), r"rms_norm\(\) got multiple values for argument 'x'"),
    (lambda: normlib.rms_norm(X, bias=X[0]), r"rms_norm\(\) got an unexpected keyword argument 'bias'"),
    (lambda: normlib.rms_norm_backward(X, X), r"rms_norm_backward\(\) missing 1 required keyword-only argument:"),
    (lambda: normlib.batch_norm(X, X[0]), r"batch_norm: 1 argument after x came without a name"),
])  # fmt: skip
def test_arguments_that_do_not_fit(backend, call, text):
    with pytest.raises(TypeError, match=f"^{text}"):
        call()


@pytest.mark.parametrize("call", [
    lambda: normlib.rms_norm(x=X, weight=X[0]),
    lambda: normlib.rms_norm(X, **{"".join(["wei", "ght"]): X[0]}),  # a name that is another object
    lambda: normlib.rms_norm(*[X, X[0]], axis=1, eps=1e-6, out=None, return_stats=False, activation=None),
    lambda: normlib.rms_norm.__call__(X, X[0]),
    lambda: inspect.unwrap(normlib.rms_norm)(X, X[0]),
])  # fmt: skip
def test_ways_to_call(backend, call):
    assert call().tobytes() == normlib.rms_norm(X, X[0]).tobytes()


def test_a_choice_of_backend_counts_for_the_next_call(monkeypatch):
    seen = []
    table = normlib.backends.active()
    monkeypatch.setitem(vars(table), "rms_norm_direct", lambda *values: seen.append(values) or NotImplemented)
    normlib.rms_norm(X, eps=1)
    assert seen == [(X, None, -1, 1, None, False, {})]
