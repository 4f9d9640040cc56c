"""Errors of the recurrent layers: each names class, method and argument, what was expected and what came."""

import re

import numpy as np
import pytest
from recurrences import CELLS, Problem, build, run

import normlib

KINDS = {"LayerNormLSTM": normlib.LayerNormLSTM, "LayerNormGRU": normlib.LayerNormGRU}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
X, H = np.zeros((5, 2, 3)), np.zeros((1, 2, 4))


def fails(kind, call, method, error, message):
    place = kind.__name__ + (f".{method}" if method else "")
    with pytest.raises(error, match=rf"^{re.escape(place)}: {message}"):
        call()


def state_of(kind, *arrays):
    return arrays if kind is normlib.LayerNormLSTM else arrays[0]


@each_kind
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size is 0, expected a positive int"),
        ({"hidden_size": -1}, ValueError, "hidden_size is -1, expected a positive int"),
        ({"num_layers": 1.5}, TypeError, r"num_layers is 1\.5, expected a positive int"),
        ({"input_size": "3"}, TypeError, "input_size is '3', expected a positive int"),
        ({"variant": "other"}, ValueError, "variant is 'other', expected 'paper' or "),
        ({"variant": None}, TypeError, "variant is None, expected 'paper' or "),
        ({"bidirectional": 1}, TypeError, "bidirectional is 1, expected True or False"),
        ({"batch_first": "no"}, TypeError, "batch_first is 'no', expected True or False"),
        ({"batch_invariant": None}, TypeError, "batch_invariant is None, expected True or False"),
        ({"eps": -1e-5}, ValueError, "eps is -1e-05, expected a finite number >= 0"),
        ({"eps": "small"}, TypeError, "eps is 'small', expected"),
        ({"dtype": "float16"}, TypeError, "dtype is 'float16', expected float32 or float64"),
        ({"dtype": "real"}, TypeError, "dtype is 'real', expected float32 or float64"),
    ],
    ids=str,
)
def test_constructors(kind, arguments, error, message):
    fails(kind, lambda: kind(**{"input_size": 3, "hidden_size": 4} | arguments), "", error, message)


def test_arguments_of_one_constructor_alone():
    fails(
        normlib.LayerNormGRU, lambda: normlib.LayerNormGRU(3, 4, variant="carried"), "", ValueError,
        "variant is 'carried', expected 'paper' or 'per_gate'$",
    )  # fmt: skip
    fails(
        normlib.LayerNormLSTM, lambda: normlib.LayerNormLSTM(3, 4, cell_norm=0), "", TypeError,
        "cell_norm is 0, expected True or False",
    )  # fmt: skip
    for kind, name in ((normlib.LayerNormGRU, "cell_norm"), (normlib.LayerNormLSTM, "dropout")):
        with pytest.raises(TypeError, match=rf"{kind.__name__}.*{name}"):
            kind(3, 4, **{name: True})


@each_kind
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((5, 2, 4)), ValueError, r"x has shape \(5, 2, 4\), expected \(steps, batch, 3\) or \(steps, 3\)"),
        (np.zeros((1, 5, 2, 3)), ValueError, r"x has shape \(1, 5, 2, 3\), expected \(steps, batch, 3\)"),
        (np.zeros(3), ValueError, r"x has shape \(3,\), expected at least 2 axes"),
        (np.zeros((5, 2, 3), complex), TypeError, "x has dtype complex128, expected"),
        ([[1.0, 2.0], [3.0]], ValueError, "x cannot be made an array"),
    ],
    ids=["size", "axes", "few axes", "complex", "ragged"],
)
def test_inputs_of_forward(kind, x, error, message):
    fails(kind, lambda: kind(3, 4)(x), "forward", error, message)


@each_kind
def test_batch_first_is_named(kind):
    layer = kind(3, 4, batch_first=True)
    fails(kind, lambda: layer(np.zeros((5, 2, 4))), "forward", ValueError, r"x has .*, expected \(batch, steps, 3\)")


@each_kind
@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 2, 4), (1, 2, 5), (2, 4), (1, 4)], ids=str)
def test_states_of_another_shape(kind, shape):
    layer, wrong = kind(3, 4), np.zeros(shape)
    output, _ = layer(X)
    first = "h of " if kind is normlib.LayerNormLSTM else ""
    message = rf"state has shape {re.escape(str(shape))}, expected \(1, 2, 4\)"
    fails(kind, lambda: layer(X, state_of(kind, wrong, H)), "forward", ValueError, first + message)
    fails(kind, lambda: layer.step(X[0], state_of(kind, wrong, H)), "step", ValueError, first + message)
    call = lambda: layer.backward(output, state_of(kind, wrong, H))  # noqa: E731
    fails(kind, call, "backward", ValueError, f"{first}d{message}")
    if kind is normlib.LayerNormLSTM:
        fails(kind, lambda: layer(X, (H, wrong)), "forward", ValueError, "c of " + message)
    layer.backward(output)  # is still possible


@pytest.mark.parametrize("state", [H, (H,), (H, H, H), "hc", 0], ids=["array", "one", "three", "text", "number"])
def test_the_state_of_an_lstm_is_a_pair(state):
    layer = normlib.LayerNormLSTM(3, 4)
    message = rf"state is a {type(state).__name__}, expected a pair of arrays \(h, c\)"
    fails(type(layer), lambda: layer(X, state), "forward", TypeError, message)
    fails(type(layer), lambda: layer.step(X[0], state), "step", TypeError, message)


@each_kind
@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([5, 6], ValueError, "lengths go from 5 to 6, expected 0 to 5"),
        ([-1, 5], ValueError, "lengths go from -1 to 5, expected 0 to 5"),
        ([5.0, 4.0], TypeError, "lengths has dtype float64, expected integers"),
        ([True, False], TypeError, "lengths has dtype bool, expected integers"),
        ([5], ValueError, r"lengths has shape \(1,\), expected \(2,\), one for each sequence"),
        (5, ValueError, r"lengths has shape \(\), expected \(2,\)"),
        ([[5, 4]], ValueError, r"lengths has shape \(1, 2\), expected \(2,\)"),
        (["5", "4"], TypeError, "lengths has dtype <U1, expected integers"),
        (np.array([1, 2**64 - 1], np.uint64), ValueError, "lengths go from 1 to 18446744073709551615, expected 0 to 5"),
    ],
    ids=str,
)
def test_lengths(kind, lengths, error, message):
    fails(kind, lambda: kind(3, 4)(X, lengths=lengths), "forward", error, message)


@each_kind
@pytest.mark.parametrize("shape", [(5, 2, 8), (2, 5, 4), (5, 2), (1, 5, 2, 4)], ids=str)
def test_gradients_of_another_shape(kind, shape):
    layer = kind(3, 4)
    layer(X)
    message = rf"doutput has shape {re.escape(str(shape))}, expected \(5, 2, 4\), that of the output"
    fails(kind, lambda: layer.backward(np.zeros(shape)), "backward", ValueError, message)
    assert layer.gradients() == {}
    layer.backward(np.zeros((5, 2, 4)))


@each_kind
def test_inputs_of_step(kind):
    message = r"x has shape \(2, 4\), expected \(batch, 3\)"
    fails(kind, lambda: kind(3, 4).step(np.zeros((2, 4))), "step", ValueError, message)
    fails(kind, lambda: kind(3, 4).step(X), "step", ValueError, r"x has shape \(5, 2, 3\), expected \(batch, 3\)")
    layer = kind(3, 4, bidirectional=True)
    fails(kind, lambda: layer.step(X[0]), "step", ValueError, "the layer is bidirectional, expected")


@each_kind
def test_an_error_leaves_the_layer_as_it_was(kind):
    layer = kind(3, 4, rng=0)
    problem = Problem(layer, 5, 2)
    expected = run(layer, problem)
    layer.zero_grad()
    layer(problem.x, problem.state)
    for call in (lambda: layer(X[..., :2]), lambda: layer(X, lengths=[9, 9]), lambda: layer.backward(X)):
        with pytest.raises(ValueError):
            call()
    dx, _ = layer.backward(problem.doutput, problem.dstate)
    np.testing.assert_array_equal(dx, expected["dx"])


@pytest.mark.parametrize("cell", CELLS)
def test_parameters_of_another_shape(backend, cell):
    layer = build(cell, 3, 5)
    layer.step(X[0])
    for name, before in layer.parameters().items():
        for value in (np.zeros(len(before) + 1), 1.0):
            setattr(layer, name, value)
            message = re.escape(f"{name} has shape {np.shape(value)}, expected {before.shape}")
            fails(type(layer), lambda: layer(X), "", ValueError, message)
            fails(type(layer), lambda: layer.step(X[0]), "", ValueError, message)
        setattr(layer, name, before)
