"""The recurrent layers as objects: parameters, state_dict, freezing, the order of calls, single steps."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from recurrences import CELLS, GRUS, LSTMS, Problem, build, check, parts, run, same

import normlib
from normlib import _kernels

each_cell = pytest.mark.parametrize("cell", CELLS)
compiled = pytest.mark.skipif(_kernels.backend is None, reason="of the compiled pass")
KINDS = {"LayerNormLSTM": normlib.LayerNormLSTM, "LayerNormGRU": normlib.LayerNormGRU}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# -- parameters ----


@each_cell
def test_parameters_have_torchs_names_and_order(cell):
    layer = build(cell, 3, 4, 2, bidirectional=True)
    gates, per_gate = 4 if cell in LSTMS else 3, "per_gate" in cell
    for suffix, inputs in {"_l0": 3, "_l0_reverse": 3, "_l1": 8, "_l1_reverse": 8}.items():
        shapes = {"weight_ih": (gates * 4, inputs), "weight_hh": (gates * 4, 4), "bias": (gates * 4,)}
        shapes |= dict.fromkeys(["norm"] if per_gate else ["norm_ih", "norm_hh"], (gates * 4,))
        if cell == "gru paper":
            shapes["bias_hn"] = (4,)
        if cell in LSTMS and "raw" not in cell:
            shapes |= {"norm_cell_weight": (4,), "norm_cell_bias": (4,)}
        own = {name.removesuffix(suffix): p for name, p in layer.parameters().items() if name.endswith(suffix)}
        assert {name: p.shape for name, p in own.items()} == shapes


@each_kind
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_parameters_begin_with(kind, dtype):
    layers = [kind(64, 25, 2, dtype=dtype, rng=rng) for rng in (3, np.random.default_rng(3), 4)]
    values, again, others = (layer.parameters() for layer in layers)
    for name, value in values.items():
        assert value.dtype == dtype
        np.testing.assert_array_equal(value, again[name])
        if name.startswith("weight"):
            assert 0.19 < value.max() <= 0.2  # 1 / sqrt(hidden_size)
            assert -0.19 > value.min() >= -0.2
            assert (value != others[name]).all()
        else:
            np.testing.assert_array_equal(value, np.full_like(value, "bias" not in name))


@each_cell
def test_state_dict_goes_around(cell):
    layer, twin = (build(cell, 3, 5, 2, bidirectional=True) for _ in range(2))
    twin.reset_parameters(0)
    problem = Problem(layer, 4, 2)
    expected = run(layer, problem)
    state = layer.state_dict("rnn.")
    assert all(name.startswith("rnn.") for name in state)
    assert twin.load_state_dict(state, prefix="rnn.") == ([], [])
    same(run(twin, problem), expected)
    del state["rnn.bias_l1"]
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}.load_state_dict: missing: rnn.bias_l1$"):
        twin.load_state_dict(state, prefix="rnn.")


@each_cell
def test_copy_and_pickle(backend, cell):
    """After steps and with a forward under way, too."""
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 4, 2)
    expected = run(layer, problem)
    layer(problem.x)
    layer.step(problem.x[0])
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        twin.bias_l0 += 1
        same(run(layer, problem), expected)
        twin.load_state_dict(layer.state_dict())
        same(run(twin, problem), expected)


@each_cell
def test_gradients_add_up_until_they_are_forgotten(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 4, 2)
    once = run(layer, problem)
    layer(problem.x, problem.state)
    layer.backward(problem.doutput, problem.dstate)
    same({f"d{name}": gradient for name, gradient in layer.gradients().items()}, {
        name: value + value for name, value in once.items() if name[1:] in layer.parameters()
    })  # fmt: skip
    layer.zero_grad()
    assert layer.gradients() == {}
    assert layer.grad_weight_ih_l1 is None
    same(run(layer, problem), once)


@each_cell
def test_frozen_parameters_have_no_gradients_and_change_none(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 4, 2)
    expected = run(layer, problem)
    names = list(layer.parameters())
    for frozen in ([names[0]], names[1::2], names):
        layer.unfreeze().freeze(*frozen)
        assert layer.requires_grad == {name: name not in frozen for name in names}
        same(run(layer, problem), {name: v for name, v in expected.items() if name[1:] not in frozen})
    same(run(layer.unfreeze(), problem), expected)
    with pytest.raises(ValueError, match=f"{type(layer).__name__}: no parameter 'weight', there are: weight_ih_l0, "):
        layer.freeze("weight")


@each_cell
@pytest.mark.parametrize(
    "other",
    [np.copy, lambda bias: np.repeat(bias, 2)[::2], np.float32, lambda bias: bias.astype(">f8"), np.ndarray.tolist],
    ids=["array", "strides", "dtype", "byte order", "list"],
)
def test_parameters_that_are_replaced_are_used(backend, cell, other):
    layer, twin = (build(cell, 3, 5, batch_invariant=True) for _ in range(2))
    problem = Problem(layer, 1, 2)
    run(layer, problem)
    layer.step(problem.x[0])
    twin.bias_l0[...] = np.arange(len(twin.bias_l0)) / 8
    layer.bias_l0 = other(twin.bias_l0.copy())
    for _ in range(2):  # the other array, and what is written to it later
        expected = run(twin, problem)
        same(run(layer, problem), expected)
        np.testing.assert_array_equal(layer.step(problem.x[0], problem.state)[0], expected["output"][0])
        layer.bias_l0[0], twin.bias_l0[0] = 2, 2


# -- the order of calls ----


@each_cell
def test_evaluation_has_the_same_results_and_keeps_nothing(backend, cell):
    layer = build(cell, 3, 5, 2, bidirectional=True)
    problem = Problem(layer, 4, 3, [4, 2, 0])
    expected, last = layer(problem.x, problem.state, lengths=problem.lengths)
    output, end = layer.eval()(problem.x, problem.state, lengths=problem.lengths)
    same({"output": output, "end": np.stack(end)}, {"output": expected, "end": np.stack(last)})
    with pytest.raises(RuntimeError, match=rf"{type(layer).__name__}.backward: there is no forward to go back through"):
        layer.backward(problem.doutput)


@each_kind
def test_one_backward_for_one_forward(kind):
    layer = kind(3, 4)
    message = rf"{kind.__name__}.backward: there is no forward to go back through; call forward\(x\) first, in training"
    with pytest.raises(RuntimeError, match=message):
        layer.backward(np.ones((2, 1, 4)))
    output, _ = layer(np.ones((2, 1, 3)))
    layer.backward(output)
    with pytest.raises(RuntimeError, match=message):
        layer.backward(output)


@each_cell
def test_results_are_the_callers(backend, cell):
    """Later calls, steps among them, write to none of them, nor do they change what backward needs."""
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 4, 2)
    expected = {name: value.copy() for name, value in run(layer, problem).items()}
    found = run(layer, problem)
    layer(-problem.x)
    layer.step(problem.x[0])
    layer.backward(problem.doutput)
    same(found, expected)
    layer.zero_grad()
    layer(problem.x, problem.state)
    layer.step(-problem.x[0])
    dx, _ = layer.backward(problem.doutput, problem.dstate)
    np.testing.assert_array_equal(dx, expected["dx"])


@each_cell
def test_inputs_stay_as_they_are(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 4, 2, [4, 1])
    before = copy.deepcopy(problem)
    run(layer, problem)
    layer.step(problem.x[0], problem.state)
    for name in ("x", "state", "doutput", "dstate"):
        np.testing.assert_array_equal(getattr(problem, name), getattr(before, name))


@each_cell
def test_the_first_state_is_zero_unless_given(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 4, 2)
    zeros = tuple(np.zeros_like(part) for part in parts(problem.state))
    zeros = zeros if cell in LSTMS else zeros[0]
    np.testing.assert_array_equal(layer(problem.x)[0], layer(problem.x, zeros)[0])
    layer.step(problem.x[0], problem.state)
    expected = layer.step(problem.x[0], zeros)[0].copy()
    np.testing.assert_array_equal(layer.step(problem.x[0])[0], expected)


@each_kind
def test_what_can_be_an_array_is_taken(kind):
    """And computed with in the dtype of the layer."""
    layer = kind(3, 4, rng=0)
    x = np.arange(12).reshape(2, 2, 3)
    expected, _ = layer(x.astype(np.float32))
    for given in (x, x.tolist(), x.astype(np.float16), np.asfortranarray(x.astype(float)), x.astype(">f4")):
        output, _ = layer(given)
        np.testing.assert_array_equal(output, expected, strict=True)
    state = np.zeros((1, 2, 4)).tolist()
    np.testing.assert_array_equal(layer(x, (state, state) if kind is normlib.LayerNormLSTM else state)[0], expected)


# -- steps ----


@each_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 7])
def test_steps_have_the_bits_of_the_sequence(backend, cell, dtype, rows):
    layer = build(cell, 3, 37, 2, batch_invariant=True, dtype=dtype)
    problem = Problem(layer, 5, rows)
    expected, last = layer(problem.x, problem.state)
    state = problem.state
    for x, wanted in zip(problem.x, expected, strict=True):
        output, state = layer.step(x, state)
        np.testing.assert_array_equal(output, wanted, strict=True)
    for part, wanted in zip(parts(state), parts(last), strict=True):
        np.testing.assert_array_equal(part, wanted, strict=True)


@each_cell
def test_steps_without_batch_invariance_are_close_to_the_sequence(backend, cell):
    layer = build(cell, 3, 37, 2)
    problem = Problem(layer, 5, 4)
    expected, state = layer(problem.x, problem.state)[0], problem.state
    for x, wanted in zip(problem.x, expected, strict=True):
        output, state = layer.step(x, state)
        check({"output": output}, {"output": wanted}, 1e-13)


@each_cell
def test_steps_of_other_batches_and_of_one_sequence_alone(backend, cell):
    layer = build(cell, 3, 37, 2, batch_invariant=True)
    problem = Problem(layer, 1, 4)
    expected, _ = layer(problem.x, problem.state)
    for rows in (slice(4), slice(2), slice(4), slice(0)):
        of = problem.part(slice(1), rows)
        np.testing.assert_array_equal(layer.step(of.x[0], of.state)[0], expected[0, rows], strict=True)
    state = tuple(part[:, 2] for part in parts(problem.state))
    output, after = layer.step(problem.x[0, 2], state if cell in LSTMS else state[0])
    np.testing.assert_array_equal(output, expected[0, 2], strict=True)
    assert all(part.shape == (2, 37) for part in parts(after))


@each_cell
def test_steps_answer_in_the_same_arrays(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem, places = Problem(layer, 4, 2), set()
    state = None
    for x in problem.x:
        output, state = layer.step(x, state)
        places.add(tuple(part.__array_interface__["data"] for part in (output, *parts(state))))
    assert len(places) == 1


@compiled
@each_cell
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_steps_allocate_nothing_after_the_first(cell, batch_invariant):
    """But for the objects of a call: less than the least array of a step, a state of 32 kB."""
    layer = build(cell, 64, 128, 2, batch_invariant=batch_invariant)
    x, state = np.random.default_rng(0).standard_normal((32, 64)), None
    for _ in range(2):
        _, state = layer.step(x, state)
    tracemalloc.start()
    try:
        for _ in range(3):
            _, state = layer.step(x, state)
        assert tracemalloc.get_traced_memory()[1] < 8 << 10
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cell", GRUS)
def test_repr(cell):
    assert repr(build(cell, 3, 4)) == f"LayerNormGRU(3, 4, variant={cell[4:]!r}, eps=0.001, dtype=float64)"
