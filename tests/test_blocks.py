"""Blocks around a residual stream, and stacks of them: gradients, bits, walks, state, and what they refuse."""

import copy
import pickle

import numpy as np
import pytest
from ml_dtypes import bfloat16

import normlib
from normlib import PostNorm, PreNorm, Sandwich, Stack
from normlib._layer import Layer


class Dense:
    """x @ w over the last axis, through tanh; with the methods of layers, but for freezing and state."""

    def __init__(self, rng, width):
        self.w = rng.normal(0, 0.5, (width, width))
        self.grad = np.zeros_like(self.w)
        self.training = True

    def forward(self, x):
        self.x, self.y = x, np.tanh(x @ self.w.astype(x.dtype)).astype(x.dtype)
        return self.y

    def backward(self, dy):
        dv = (dy * (1 - self.y**2)).astype(dy.dtype)
        self.grad = self.grad + self.x.reshape(-1, len(self.w)).T @ dv.reshape(-1, len(self.w))
        return (dv @ self.w.T.astype(dv.dtype)).astype(dv.dtype)

    def parameters(self):
        return {"w": self.w}

    def gradients(self):
        return {"w": self.grad}

    def zero_grad(self):
        self.grad = np.zeros_like(self.w)

    def train(self, mode=True):
        self.training = mode


class Function:
    """A sublayer of two functions."""

    def __init__(self, forward, backward=None):
        self.forward = forward
        if backward is not None:
            self.backward = backward


def itself():
    return Function(lambda x: x, lambda dy: dy)


NORMS = {
    "layer": lambda: normlib.LayerNorm(6, dtype=np.float64),
    "rms": lambda: normlib.RMSNorm(6, dtype=np.float64),
    "batch": lambda: normlib.BatchNorm(5, dtype=np.float64),
    "group": lambda: normlib.GroupNorm(1, 5, dtype=np.float64),
    "instance": lambda: normlib.InstanceNorm(5, affine=True, dtype=np.float64),
}


def block(kind, rng, norm=NORMS["layer"]):
    norms = [norm() for _ in range(2 if kind is Sandwich else 1)]
    for layer in norms:
        for value in layer.parameters().values():
            value[...] = rng.normal(1, 0.3, value.shape)
    return kind(Dense(rng, 6), *norms)


KINDS = [PreNorm, PostNorm, Sandwich]
STACKS = {
    "pre": lambda rng: Stack([block(PreNorm, rng) for _ in range(3)]),
    "pre and a norm": lambda rng: Stack([block(PreNorm, rng), block(PreNorm, rng), NORMS["rms"]()]),
    "post": lambda rng: Stack([block(PostNorm, rng) for _ in range(3)]),
    "sandwich": lambda rng: Stack([block(Sandwich, rng) for _ in range(3)]),
    "mixed": lambda rng: Stack([block(kind, rng) for kind in (PreNorm, PostNorm, Sandwich, PostNorm, PreNorm)]),
    "layers between": lambda rng: Stack([Dense(rng, 6), block(PreNorm, rng), Dense(rng, 6), block(Sandwich, rng)]),
    "a norm between": lambda rng: Stack([block(PreNorm, rng), NORMS["layer"](), block(PostNorm, rng)]),
    "nested": lambda rng: Stack([block(PreNorm, rng), Stack([block(k, rng) for k in KINDS]), NORMS["rms"]()]),
}


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def sample(rng, dtype=np.float64):
    return rng.normal(0.5, 2, size=(3, 5, 6)).astype(dtype)


def check_gradients(model, x, rng):
    """Of x and of each parameter, in some direction, by central differences."""
    dy = rng.normal(size=model(x).shape)
    dx = model.backward(dy)
    gradients = {"x": dx, **model.gradients()}
    arrays = {"x": x, **model.parameters()}
    assert gradients.keys() == arrays.keys()
    for name, array in arrays.items():
        direction, value = rng.normal(size=array.shape), array.copy()
        losses = []
        for step in (1e-5, -1e-5):
            array[...] = value + step * direction
            losses.append((model(x) * dy).sum())
        array[...] = value
        slope = (gradients[name] * direction).sum()
        assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=2e-6, abs=1e-7), name


# ---- the formulas ----


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_backward_is_the_derivative_of_forward(kind, norm, rng):
    check_gradients(block(kind, rng, NORMS[norm]), sample(rng), rng)


@pytest.mark.parametrize("name", STACKS)
def test_backward_of_a_stack_is_its_derivative(name, rng):
    check_gradients(STACKS[name](rng), sample(rng), rng)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_its_formula(kind, rng):
    x, made = sample(rng), block(kind, rng)
    dense = made.sublayer.forward
    if kind is PreNorm:
        expected = x + dense(made.norm(x))
    elif kind is PostNorm:
        expected = made.norm(x + dense(x))
    else:
        expected = x + made.norm2(dense(made.norm1(x)))
    np.testing.assert_array_equal(made(x), expected)


@pytest.mark.parametrize("kinds", [[PreNorm] * 3, [PostNorm] * 3, [Sandwich] * 3, [PreNorm, PostNorm, Sandwich]])
def test_stacks_are_those_of_torch(kinds, rng):
    torch = pytest.importorskip("torch")
    model, x = Stack([*(block(kind, rng) for kind in kinds), NORMS["layer"]()]), sample(rng)
    weights = {name: torch.tensor(value, requires_grad=True) for name, value in model.parameters().items()}
    stream = given = torch.tensor(x, requires_grad=True)

    def norm(v, name):
        return torch.nn.functional.layer_norm(v, (6,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    for i, kind in enumerate(kinds):
        w = weights[f"{i}.sublayer.w"]
        if kind is PreNorm:
            stream = stream + torch.tanh(norm(stream, f"{i}.norm") @ w)
        elif kind is PostNorm:
            stream = norm(stream + torch.tanh(stream @ w), f"{i}.norm")
        else:
            stream = stream + norm(torch.tanh(norm(stream, f"{i}.norm1") @ w), f"{i}.norm2")
    y, dy = norm(stream, "3"), rng.normal(size=x.shape)
    (y * torch.tensor(dy)).sum().backward()
    np.testing.assert_allclose(model(x), y.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.backward(dy), given.grad.numpy(), rtol=0, atol=1e-12)
    for name, gradient in model.gradients().items():
        np.testing.assert_allclose(gradient, weights[name].grad.numpy(), rtol=0, atol=1e-11, err_msg=name)


# ---- bits, walks, memory ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16])
@pytest.mark.parametrize("kinds", [[PreNorm] * 3, [PostNorm] * 3, [Sandwich] * 3, [PreNorm, PostNorm, Sandwich]])
def test_a_stack_has_the_bits_of_blocks_one_after_the_other(kinds, dtype, rng):
    blocks = [block(kind, rng) for kind in kinds]
    alone = copy.deepcopy(blocks)
    x, dy = sample(rng, dtype), sample(rng, dtype)
    model, expected = Stack(blocks), x
    for each in alone:
        expected = each(expected)
    assert model(x).tobytes() == expected.tobytes()
    dx = dy
    for each in reversed(alone):
        dx = each.backward(dx)
    assert model.backward(dy).tobytes() == dx.tobytes()


@pytest.fixture
def additions(monkeypatch):
    """The additions that blocks do themselves, not in a norm."""

    class Watched:
        seen = 0

        def __getattr__(self, name):
            return getattr(np, name)

        def add(self, *terms):
            self.seen += 1
            return np.add(*terms)

    watched = Watched()
    monkeypatch.setattr(normlib.blocks, "np", watched)
    return watched


@pytest.mark.parametrize("kind", [PreNorm, Sandwich])
@pytest.mark.parametrize("ends_with_norm", [True, False])
def test_a_stack_walks_over_its_stream_once_a_norm(kind, ends_with_norm, rng, additions):
    model = Stack([block(kind, rng) for _ in range(4)] + [NORMS["rms"]()] * ends_with_norm)
    y = model(sample(rng))
    assert additions.seen == (0 if ends_with_norm else 1)  # the last sum has no norm that takes it
    model.backward(np.ones_like(y))
    assert additions.seen == (0 if ends_with_norm else 1)


def test_post_norm_adds_once_a_block_on_the_way_back(rng, additions):
    model = STACKS["post"](rng)
    y = model(sample(rng))
    assert not additions.seen
    model.backward(np.ones_like(y))
    assert additions.seen == 3


def test_a_stack_keeps_one_array_of_the_stream_for_each_norm(rng):
    """And statistics; the first norm keeps x itself."""
    model, x = Stack([PreNorm(itself(), NORMS["layer"]()) for _ in range(4)] + [NORMS["layer"]()]), sample(rng)
    model(x)
    norms = [layer for layer in model._inside() if isinstance(layer, Layer)]
    kept = [layer._saved["x"] for layer in norms]
    assert len(kept) == 5
    assert kept[0].base is x
    assert all(array.nbytes == x.nbytes for array in kept)
    rest = [value for layer in norms for name, value in layer._saved.items() if name != "x"]
    assert sum(value.nbytes for value in rest if isinstance(value, np.ndarray)) == 5 * 2 * 8 * 15
    model.backward(x)
    assert all(layer._saved is None for layer in norms)


# ---- what is inside ----


def test_names_are_paths(rng):
    model = Stack([block(PreNorm, rng), Stack([block(Sandwich, rng)]), NORMS["layer"]()])
    assert list(model.parameters()) == [
        *("0.norm.weight", "0.norm.bias", "0.sublayer.w", "1.0.norm1.weight", "1.0.norm1.bias", "1.0.norm2.weight"),
        *("1.0.norm2.bias", "1.0.sublayer.w", "2.weight", "2.bias"),
    ]
    assert model.parameters()["0.sublayer.w"] is model.blocks[0].sublayer.w


def test_state_goes_round(rng):
    model, other = (Stack([block(PreNorm, rng, NORMS["batch"]), block(PostNorm, rng)]) for _ in range(2))
    model(sample(rng))
    state = model.state_dict("net.")
    assert "net.0.norm.running_mean" in state
    assert "net.1.sublayer.w" in state
    assert other.load_state_dict(state, prefix="net.") == ([], [])
    x = sample(rng)
    assert other.eval()(x).tobytes() == model.eval()(x).tobytes()


def test_a_state_that_does_not_fit_changes_nothing(rng):
    model = STACKS["pre"](rng)
    before, state = model.state_dict(), STACKS["pre"](rng).state_dict()
    state["2.norm.weight"] = np.ones(7)
    with pytest.raises(ValueError, match=r"Stack\.load_state_dict: 2\.norm\.weight has shape \(7,\), expected \(6,\)"):
        model.load_state_dict(state)
    assert all((model.parameters()[name] == value).all() for name, value in before.items())


def test_parameters_that_are_copies_cannot_be_loaded(rng):
    sublayer = Dense(rng, 6)
    sublayer.parameters = lambda: {"w": sublayer.w.copy()}
    model = PreNorm(sublayer, NORMS["layer"]())
    with pytest.raises(TypeError, match=r"PreNorm\.load_state_dict: sublayer\.w is a copy, expected the array itself"):
        model.load_state_dict(model.state_dict())


def test_gradients_accumulate_until_they_are_forgotten(rng):
    model, x = block(PreNorm, rng), sample(rng)
    for _ in range(2):
        model.backward(np.ones_like(model(x)))
    twice = model.gradients()
    model.zero_grad()
    model.backward(np.ones_like(model(x)))
    for name, once in model.gradients().items():
        np.testing.assert_allclose(twice[name], 2 * once, rtol=1e-14)


def test_modes_reach_all(rng):
    model = Stack([Stack([block(PreNorm, rng, NORMS["batch"])]), block(Sandwich, rng)])
    model.eval()
    inner = model.blocks[0].blocks[0]
    assert not any(part.training for part in (inner, inner.norm, inner.sublayer, model.blocks[1].norm2))
    mean = inner.norm.running_mean.copy()
    model(sample(rng))
    assert (inner.norm.running_mean == mean).all()
    assert model.train().blocks[0].blocks[0].norm.training


def test_freezing_reaches_the_norms(rng):
    model = Stack([block(PreNorm, rng), Stack([block(PreNorm, rng)])])
    model.freeze("0.norm.weight", "1.0.norm.bias")
    model.backward(np.ones_like(model(sample(rng))))
    assert model.gradients().keys() == model.parameters().keys() - {"0.norm.weight", "1.0.norm.bias"}
    frozen = {name for name, wanted in model.requires_grad.items() if not wanted}
    assert frozen == {"0.norm.weight", "1.0.norm.bias"}
    model.freeze()
    assert {name for name, wanted in model.requires_grad.items() if wanted} == {"0.sublayer.w", "1.0.sublayer.w"}
    assert all(model.unfreeze().requires_grad.values())


def test_what_cannot_be_frozen_leaves_all_as_it_was(rng):
    model = Stack([NORMS["layer"](), Stack([block(PreNorm, rng)])])
    with pytest.raises(TypeError, match=r"sublayer\.w is of a Dense, which has no method freeze"):
        model.freeze("0.weight", "1.0.sublayer.w")
    with pytest.raises(ValueError, match=r"Stack: no parameter '0\.scale', there are: 0\.weight"):
        model.freeze("0.weight", "0.scale")
    assert all(model.requires_grad.values())


def test_what_is_replaced_takes_part(rng):
    model = STACKS["pre"](rng)
    model.blocks[1] = block(PostNorm, rng)
    model.blocks[0].norm = NORMS["rms"]()
    assert "0.norm.bias" not in model.parameters()
    check_gradients(model, sample(rng), rng)


def test_copies_and_pickles_are_whole(rng):
    model, x = STACKS["mixed"](rng), sample(rng)
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other(x).tobytes() == y.tobytes()


def test_a_stack_shows_what_it_is():
    model = Stack([PreNorm(normlib.LayerNormGRU(2, 2), normlib.RMSNorm(2)), normlib.RMSNorm(2)])
    assert repr(model).startswith("Stack([PreNorm(norm=RMSNorm(2, eps=1e-06), sublayer=LayerNormGRU(2, 2")
    assert len(model) == 2
    assert model[1] is model.blocks[1]


# ---- arrays ----


@pytest.mark.parametrize("kind", KINDS)
def test_integers_and_lists_are_taken(kind, rng):
    model, x = Stack([block(kind, rng), block(kind, rng)]), rng.integers(-9, 9, (3, 5, 6))
    expected = model(x.astype(np.float64))
    np.testing.assert_array_equal(model(x), expected)
    np.testing.assert_array_equal(model(x.tolist()), expected)
    assert model.backward(np.ones((3, 5, 6)).tolist()).dtype == np.float64


@pytest.mark.parametrize("name", STACKS)
def test_no_rows_go_through(name, rng):
    model = STACKS[name](rng)
    assert model.backward(model(np.ones((0, 5, 6)))).shape == (0, 5, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sublayer_may_return_its_input_or_lists(kind, rng):
    x, norms = sample(rng), [NORMS["layer"]() for _ in range(3)]
    lists = Function(lambda v: v.tolist(), lambda dy: dy.tolist())
    same, listed = (kind(sublayer, *norms[: 2 if kind is Sandwich else 1]) for sublayer in (itself(), lists))
    y, before = same(x), x.copy()
    dx = same.backward(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(listed(x), y)
    np.testing.assert_array_equal(listed.backward(x), dx)


def in_place(v):
    v *= 2
    return v


def test_a_sublayer_may_write_to_what_is_its_own(rng):
    x, expected = sample(rng), PreNorm(Function(lambda v: 2 * v, lambda dy: 2 * dy), NORMS["layer"]())
    model = PreNorm(Function(in_place, lambda dy: 2 * dy), NORMS["layer"]())
    np.testing.assert_array_equal(model(x), expected(x))
    np.testing.assert_array_equal(model.backward(x), expected.backward(x))


@pytest.mark.parametrize(
    "model",
    [
        lambda: PostNorm(Function(in_place, in_place), NORMS["layer"]()),
        lambda: Stack([Function(in_place, in_place)]),
        lambda: Stack([PreNorm(itself(), NORMS["layer"]()), PostNorm(Function(in_place, in_place), NORMS["layer"]())]),
    ],
)
def test_a_sublayer_cannot_write_to_what_others_need(model, rng):
    x = sample(rng)
    before = x.copy()
    with pytest.raises(ValueError, match="read-only"):
        model()(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("kind", [PreNorm, PostNorm])
def test_nor_to_a_gradient_that_is_needed_again(kind, rng):
    model, dy = kind(Function(lambda v: v, in_place), NORMS["layer"]()), sample(rng)
    model(sample(rng))
    before = dy.copy()
    with pytest.raises(ValueError, match="read-only"):
        model.backward(dy)
    np.testing.assert_array_equal(dy, before)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda n: PreNorm(3, n), TypeError, "PreNorm: sublayer is a int, expected an object with a method forward"),
        (lambda n: PreNorm(Dense, n), TypeError, "PreNorm: sublayer is the class Dense, expected an object"),
        (lambda n: PostNorm(itself(), 3), TypeError, "PostNorm: norm is a int, expected a norm of normlib"),
        (lambda n: Sandwich(itself(), n, None), TypeError, "Sandwich: norm2 is a NoneType, expected a norm of normlib"),
        (lambda n: Sandwich(itself(), n, n), ValueError, "Sandwich: norm1 and norm2 are one layer, expected two"),
        (lambda n: Stack([]), ValueError, "Stack: blocks is empty, expected at least one"),
        (lambda n: Stack(PreNorm(itself(), n)), TypeError, "Stack: blocks is a PreNorm, expected a list of blocks"),
        (lambda n: Stack(3), TypeError, "Stack: blocks is a int, expected a list of blocks"),
        (lambda n: Stack([n, 3]), TypeError, r"Stack: blocks\[1\] is a int, expected an object with a method forward"),
        (lambda n: Stack([n, n]), ValueError, r"Stack: LayerNorm\(6.*\) is in it twice, expected two of its kind"),
        (lambda n: Stack([n, Stack([PreNorm(itself(), n)])]), ValueError, "is in it twice"),
    ],
)
def test_what_cannot_be_built(make, error, words):
    with pytest.raises(error, match=words):
        make(normlib.LayerNorm(6))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sublayer_keeps_shape_and_dtype(kind, rng):
    norms = [NORMS["layer"]() for _ in range(2 if kind is Sandwich else 1)]
    name, x = kind.__name__, sample(rng)
    place = rf"{name}\.forward: the sublayer Function returned"
    with pytest.raises(ValueError, match=rf"{place} shape \(6,\), expected \(3, 5, 6\), that of what it took"):
        kind(Function(lambda v: v[0, 0], itself), *norms)(x)
    with pytest.raises(TypeError, match=rf"{place} dtype float32, expected float64"):
        kind(Function(lambda v: v.astype(np.float32), itself), *norms)(x)
    for wrong, error in ((lambda dy: dy[0, 0], ValueError), (lambda dy: None, ValueError), (np.float32, TypeError)):
        model = kind(Function(lambda v: v, wrong), *norms)
        model(x)
        with pytest.raises(error, match=rf"{name}\.backward: the sublayer Function returned"):
            model.backward(x)


@pytest.mark.parametrize("name", STACKS)
def test_one_backward_for_one_forward(name, rng):
    model, x = STACKS[name](rng), sample(rng)
    with pytest.raises(RuntimeError, match=r"Stack\.backward: there is no forward to go back through"):
        model.backward(x)
    y = model(x)
    with pytest.raises(ValueError, match=r"backward: dy has shape \(6,\), expected \(3, 5, 6\), that of the output"):
        model.backward(y[0, 0])
    with pytest.raises(TypeError, match=r"Stack\.backward: dy has dtype float32, expected float64"):
        model.backward(y.astype(np.float32))
    model.backward(y)  # after what was refused
    with pytest.raises(RuntimeError, match="there is no forward to go back through"):
        model.backward(y)


def test_a_forward_that_fails_leaves_no_backward(rng):
    model, x = STACKS["pre"](rng), sample(rng)
    model(x)
    with pytest.raises(ValueError, match="x has shape"):
        model(x[..., :3])
    with pytest.raises(RuntimeError, match="there is no forward"):
        model.backward(x)


@pytest.mark.parametrize("kind", KINDS)
def test_training_needs_a_sublayer_with_backward(kind, rng):
    norms = [NORMS["layer"]() for _ in range(2 if kind is Sandwich else 1)]
    words = "has no method backward, expected one in training"
    model, x = kind(Function(lambda v: 2 * v), *norms), sample(rng)
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.forward: the sublayer Function {words}"):
        model(x)
    y = model.eval()(x)
    with pytest.raises(TypeError, match=rf"{kind.__name__}\.backward: the sublayer Function {words}"):
        model.backward(y)
    stack = Stack([Function(lambda v: 2 * v)])
    with pytest.raises(TypeError, match=rf"Stack\.forward: blocks\[0\], a Function, {words}"):
        stack(x)
    y = stack.eval()(x)
    with pytest.raises(TypeError, match=rf"Stack\.backward: blocks\[0\], a Function, {words}"):
        stack.backward(y)


def test_parameters_are_dicts(rng):
    sublayer = Dense(rng, 6)
    sublayer.parameters = lambda: iter([sublayer.w])
    with pytest.raises(TypeError, match=r"Dense\.parameters\(\) is a list_iterator, expected a dict of arrays"):
        PreNorm(sublayer, NORMS["layer"]()).parameters()


# ---- sublayers and blocks of others ----


def test_a_subclass_with_a_forward_of_its_own_keeps_it_in_a_stack(rng):
    class Scaled(PreNorm):
        def forward(self, x):
            return 3 * super().forward(x)

        def backward(self, dy):
            return super().backward(3 * dy)

    x, alone = sample(rng), Scaled(itself(), NORMS["layer"]())
    model = Stack([copy.deepcopy(alone), PreNorm(itself(), NORMS["layer"]())])
    np.testing.assert_array_equal(model(x), model[1](alone(x)))
    check_gradients(model, x, rng)


def test_the_first_layer_of_a_stack_gets_what_came():
    table = np.arange(12.0).reshape(4, 3)
    model = Stack([Function(lambda ids: table[ids], lambda dy: dy), normlib.RMSNorm(3)])
    np.testing.assert_array_equal(model([[1, 3]]), normlib.RMSNorm(3)(table[[[1, 3]]]))


def test_what_fails_for_want_of_a_backward_moves_nothing(rng):
    model = PreNorm(Function(lambda v: v), NORMS["batch"]())
    with pytest.raises(TypeError, match="has no method backward"):
        model(sample(rng))
    assert not model.norm.running_mean.any()


def test_parameters_may_be_views_made_anew_but_must_be_writable(rng):
    sublayer = Dense(rng, 6)
    sublayer.parameters = lambda: {"w": sublayer.w[:]}
    model, other = PreNorm(sublayer, NORMS["layer"]()), block(PreNorm, rng)
    assert model.load_state_dict(other.state_dict()) == ([], [])
    np.testing.assert_array_equal(sublayer.w, other.sublayer.w)
    sublayer.w.flags.writeable = False
    with pytest.raises(ValueError, match=r"sublayer\.w is read-only, expected a parameter that can be written"):
        model.load_state_dict(block(PreNorm, rng).state_dict())
    np.testing.assert_array_equal(model.norm.weight, other.norm.weight)


def test_parameters_are_arrays_and_gradients_that_are_none_are_absent(rng):
    sublayer = Dense(rng, 6)
    sublayer.gradients = lambda: {"w": None}
    model = PreNorm(sublayer, NORMS["rms"]())
    assert not model.gradients()
    sublayer.parameters = lambda: {"w": [1.0]}
    with pytest.raises(TypeError, match=r"PreNorm: Dense\.parameters\(\)\['w'\] is a list, expected an array"):
        model.parameters()


def test_a_layer_whose_result_is_no_array_is_named(rng):
    lstm = normlib.LayerNormLSTM(6, 6, dtype=np.float64)
    with pytest.raises((TypeError, ValueError), match=r"the result of blocks\[0\] cannot be made an array"):
        Stack([lstm])(sample(rng))
