"""The recurrent layers: gradients, batches, lengths, bits. That they compute what the papers say is for
test_recurrent_torch to show."""

import itertools
import os
import sys
import warnings

import numpy as np
import pytest
import recurrences
import support
from recurrences import CELLS, LSTMS, Problem, build, check, parts, run, same

import normlib
from normlib import _kernels

each_cell = pytest.mark.parametrize("cell", CELLS)
compiled = pytest.mark.skipif(_kernels.backend is None, reason="of the compiled pass")
LENGTHS = [4, 1, 0, 3]


def of_sequences(results):
    """Those that each sequence has of its own."""
    return {name: value for name, value in results.items() if name.startswith(("output", "state ", "dx", "dstate "))}


def of_one(results, b, length):
    """Those of one sequence of a batch."""
    found = {name: value[:, b : b + 1] for name, value in of_sequences(results).items()}
    return found | {name: found[name][:length] for name in ("output", "dx")}


# -- gradients ----


@each_cell
def test_gradients_are_those_of_finite_differences(backend, cell):
    """Each array is moved in a random direction: in float64 the loss changes by as much as the gradient says."""
    layer = build(cell, 2, 3, 2, bidirectional=True)
    problem = Problem(layer, 3, 2, [3, 2])
    found = run(layer, problem)
    places = {"dx": problem.x} | {f"dstate {k}": part for k, part in enumerate(parts(problem.state))}
    places |= {f"d{name}": value for name, value in layer.parameters().items()}

    def loss():
        output, last = layer(problem.x, problem.state, lengths=problem.lengths)
        ends = zip((output, *parts(last)), (problem.doutput, *parts(problem.dstate)), strict=True)
        return sum((value * reached).sum() for value, reached in ends)

    for (name, array), seed in zip(places.items(), itertools.count()):
        direction, before = np.random.default_rng(seed).standard_normal(array.shape), array.copy()
        ends = []
        for way in (1e-6, -1e-6):
            array[...] = before + way * direction
            ends.append(loss())
        array[...] = before
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx((found[name] * direction).sum(), rel=1e-6, abs=1e-7), name


@each_cell
def test_backpropagation_in_pieces_whose_states_are_linked_is_all_of_it(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, 7, 2)
    whole = run(layer, problem)
    pieces, states = [slice(0, 3), slice(3, 4), slice(4, 7)], [problem.state]
    for piece in pieces:
        states.append(layer(problem.x[piece], states[-1])[1])
    layer.zero_grad()
    dx, dstate = [], problem.dstate
    for piece, state in zip(pieces[::-1], states[-2::-1], strict=True):
        layer(problem.x[piece], state)  # again: what backward needs is kept for one piece alone
        of_piece, dstate = layer.backward(problem.doutput[piece], dstate)
        dx.append(of_piece)
    found = {"dx": np.concatenate(dx[::-1])} | {f"dstate {k}": part for k, part in enumerate(parts(dstate))}
    found |= {f"d{name}": gradient for name, gradient in layer.gradients().items()}
    check(found, {name: whole[name] for name in found}, 1e-13)


@each_cell
def test_float32_rounds_little(backend, cell):
    """After 20 steps through two layers: results within 64 eps of their largest value, gradients within 512."""
    layers = [build(cell, 3, 24, 2, bidirectional=True, dtype=dtype) for dtype in (np.float32, np.float64)]
    found, exact = (run(layer, Problem(layer, 20, 2)) for layer in layers)
    assert {value.dtype.name for value in found.values()} == {"float32"}
    for name in found:
        bound = (512 if name.startswith("d") else 64) * np.finfo(np.float32).eps
        check({name: found[name]}, {name: exact[name]}, bound)


# -- axes, batches, lengths ----


@each_cell
def test_batch_first_and_one_sequence_alone_are_other_shapes(backend, cell):
    layer, first = (build(cell, 3, 5, 2, bidirectional=True, batch_first=way) for way in (False, True))
    problem = Problem(layer, 4, 3, [2, 4, 3])
    expected = run(layer, problem)
    problem.x, problem.doutput = problem.x.swapaxes(0, 1), problem.doutput.swapaxes(0, 1)
    found = run(first, problem)
    assert found["output"].shape == (3, 4, 10)
    same(found | {name: found[name].swapaxes(0, 1) for name in ("output", "dx")}, expected)
    for way in (layer, first):
        alone = Problem(layer, 4, 1)
        expected = run(layer, alone)
        alone.x, alone.doutput = alone.x[:, 0], alone.doutput[:, 0]
        for name in ("state", "dstate"):
            taken = tuple(part[:, 0] for part in parts(getattr(alone, name)))
            setattr(alone, name, taken if cell in LSTMS else taken[0])
        found = run(way, alone)
        assert found["output"].shape == (4, 10)
        same(found, expected | {name: value[:, 0] for name, value in of_sequences(expected).items()})


@each_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sequence_has_the_same_bits_in_each_batch_with_batch_invariant(backend, cell, dtype):
    """Whatever stands beside it, and whether it is padded: outputs, states, and their gradients."""
    layer = build(cell, 3, 37, 2, bidirectional=True, batch_invariant=True, dtype=dtype)
    lengths = [4, 1, 0, 3, 4, 2, 4, 3, 1]
    problem = Problem(layer, 4, 9, lengths)
    batch, total = run(layer, problem), {}
    for b, length in enumerate(lengths):
        alone = run(layer, problem.part(slice(length), slice(b, b + 1)))
        same(of_sequences(alone), of_one(batch, b, length))
        for name in alone.keys() - of_sequences(alone).keys():
            total[name] = total.get(name, 0) + alone[name]
    check(total, {name: batch[name] for name in total}, 1e-5 if dtype == "float32" else 1e-13)


@each_cell
def test_a_sequence_has_the_same_values_in_each_batch(backend, cell):
    """Without it, NumPy's product rounds several rows otherwise than one."""
    layer = build(cell, 3, 37, 2, bidirectional=True)
    problem = Problem(layer, 4, 4, LENGTHS)
    batch = run(layer, problem)
    for b, length in enumerate(LENGTHS):
        alone = run(layer, problem.part(slice(length), slice(b, b + 1)))
        check(of_sequences(alone), of_one(batch, b, length), 1e-12)


@each_cell
def test_batch_invariance_changes_bits_alone(backend, cell):
    ways = [build(cell, 3, 37, 2, batch_invariant=way) for way in (False, True)]
    found, expected = (run(layer, Problem(layer, 4, 4, LENGTHS)) for layer in ways)
    check(found, expected, 1e-12)


@each_cell
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0, 0, 0], np.array([4, 4, 4, 4], np.uint8)], ids=str)
def test_beyond_its_length_nothing_of_a_sequence_counts(backend, cell, lengths):
    """Outputs are 0, states stay, gradients are 0; x and the gradient of the output may be anything there."""
    layer = build(cell, 3, 5, 2, bidirectional=True)
    problem = Problem(layer, 4, 4, lengths)
    expected = run(layer, problem)
    outside = np.arange(4)[:, None] >= np.asarray(lengths)
    assert not expected["output"][outside].any()
    assert not expected["dx"][outside].any()
    for k, (part, reached) in enumerate(zip(parts(problem.state), parts(problem.dstate), strict=True)):
        empty = np.asarray(lengths) == 0
        np.testing.assert_array_equal(expected[f"state {k}"][:, empty], part[:, empty])
        np.testing.assert_array_equal(expected[f"dstate {k}"][:, empty], reached[:, empty])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for filling in (np.nan, np.inf, 1e300):
            problem.x[outside] = problem.doutput[outside] = filling
            same(run(layer, problem), expected)


@each_cell
def test_full_lengths_are_no_lengths(backend, cell):
    layer = build(cell, 3, 5, 2, bidirectional=True)
    same(run(layer, Problem(layer, 4, 3, [4, 4, 4])), run(layer, Problem(layer, 4, 3)))


@each_cell
@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (4, 0), (0, 0)])
def test_nothing(backend, cell, steps, rows):
    layer = build(cell, 3, 5, 2, bidirectional=True)
    problem = Problem(layer, steps, rows)
    found = run(layer, problem)
    assert found["output"].shape == (steps, rows, 10)
    for k, (part, reached) in enumerate(zip(parts(problem.state), parts(problem.dstate), strict=True)):
        np.testing.assert_array_equal(found[f"state {k}"], part)
        np.testing.assert_array_equal(found[f"dstate {k}"], reached)
    assert layer.gradients().keys() == layer.parameters().keys()
    assert not any(gradient.any() for gradient in layer.gradients().values())


@each_cell
def test_a_sequence_in_pieces_has_the_bits_of_the_whole(backend, cell):
    layer = build(cell, 3, 21, 2, batch_invariant=True)
    problem = Problem(layer, 6, 3)
    whole, last = layer(problem.x, problem.state)
    first, between = layer(problem.x[:4], problem.state)
    second, end = layer(problem.x[4:], between)
    same({"output": np.concatenate([first, second]), "end": np.stack(end)}, {"output": whole, "end": np.stack(last)})


# -- values that are not usual ----


@each_cell
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_sequence_and_behind_its_step(backend, cell, value):
    layer = build(cell, 3, 21, 2)
    problem = Problem(layer, 5, 4)
    clean = run(layer, problem)
    problem.x[2, 1, 0] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(layer, problem)
    assert np.isnan(found["output"][2:, 1]).all()
    np.testing.assert_array_equal(found["output"][:2, 1], clean["output"][:2, 1])
    for b in (0, 2, 3):
        same(of_one(found, b, 5), of_one(clean, b, 5))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e4, 1e30, np.inf])
def test_gates_that_are_wide_open_or_shut(backend, size, dtype):
    """By biases alone: nothing overflows, and gradients through them are 0."""
    lstm = normlib.LayerNormLSTM(3, 4, cell_norm=False, dtype=dtype, rng=0)
    gru = normlib.LayerNormGRU(3, 4, dtype=dtype, rng=0)
    cases = [
        (lstm, (1, -1, 1, 1), (np.tanh(1.0), 1.0)),  # i, f, g, o: the cell is set
        (lstm, (1, -1, -1, 1), (-np.tanh(1.0), -1.0)),
        (lstm, (-1, 1, 1, 1), (np.tanh(0.5), 0.5)),  # kept
        (lstm, (-1, 1, 1, -1), (0.0, 0.5)),  # and not shown
        (gru, (1, 1, 1), (0.5,)),  # r, z, n: the state is kept
        (gru, (1, -1, 1), (1.0,)),  # set
        (gru, (1, -1, -1), (-1.0,)),
    ]
    x, first = np.random.default_rng(0).standard_normal((3, 2, 3)), np.full((1, 2, 4), 0.5)
    for layer, signs, wanted in cases:
        layer.bias_l0[...] = np.repeat(signs, 4) * size
        layer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            output, last = layer(x, (first, first) if layer is lstm else first)
            dx, _ = layer.backward(np.ones_like(output))
        for part, value in zip((output[-1], *parts(last)), (wanted[0], *wanted), strict=True):
            np.testing.assert_allclose(part, np.full_like(part, value), rtol=4 * np.finfo(dtype).eps, atol=0)
        assert not dx.any()
        assert not any(gradient.any() for gradient in layer.gradients().values())


@each_cell
def test_inputs_without_variance_and_of_great_size(backend, cell):
    """A norm of equal elements is 0 times its gain, whatever eps is: so are those of the first h, which is 0."""
    layer = build(cell, 3, 8, dtype=np.float32, eps=1e-12)
    problem = Problem(layer, 4, 2)
    for x in (np.zeros_like(problem.x), problem.x * np.float32(1e15)):
        output, _ = layer(x)
        dx, _ = layer.backward(problem.doutput)
        assert np.isfinite(output).all()
        assert np.abs(output).max() <= 1
        assert np.isfinite(dx).all()
        assert all(np.isfinite(gradient).all() for gradient in layer.gradients().values())


# -- the same on every way through ----


@compiled
@each_cell
@pytest.mark.parametrize("hidden", [1, 2, 7, 8, 16, 33, 130])
def test_the_compiled_pass_agrees_with_numpy(cell, hidden):
    for dtype, bound in (("float64", 1e-12), ("float32", 1e-4)):
        layer, found = build(cell, 3, hidden, dtype=dtype), {}
        for name in ("cython", "numpy"):
            with normlib.backends.use(name, strict=True):
                found[name] = run(layer, Problem(layer, 3, 5, [3, 1, 0, 2, 3]))
        check(found["cython"], found["numpy"], bound)


@compiled
@each_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_change_bits(cell, dtype):
    """Of steps that are large enough to be shared."""
    layer, found = build(cell, 3, 64, dtype=dtype), []
    problem = Problem(layer, 2, 180, [2, 2, 0, 1] * 45)
    for threads in (1, 2):
        with normlib.num_threads(threads):
            found.append(recurrences.digest(layer, problem))
    assert found[0] == found[1]


@compiled
def test_each_isa_level_has_the_same_bits():
    env = {"NORMLIB_BACKEND": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    levels = _kernels.info()["isa_available"]
    first, *others = (support.python(recurrences.__file__, NORMLIB_ISA=level, **env) for level in levels)
    assert len(first.splitlines()) == 2 * len(CELLS)
    assert all(other == first for other in others)
