"""LSTMs of other libraries, beside the formulas of each, written out in its own names, gate order and shapes."""

import doctest

import numpy as np
import pytest

import normlib
from normlib.interop import recurrent
from normlib.interop.recurrent import (
    from_custom_lstms,
    from_tensorflow_addons,
    from_tensorflow_contrib,
    from_tensorflow_lite,
)

STEPS, ROWS, INPUTS, N = 5, 2, 3, 4
BOUND = 1e-12
GATES = ("input", "forget", "cell", "output")


def draw(seed, scale=1.0, **shapes):
    """Matrices are scaled, so that what they give is small enough for an eps to show."""
    rng = np.random.default_rng(seed)
    named = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return {name: value * scale if value.ndim == 2 else value for name, value in named.items()}


def norm(v, gamma, beta, eps):
    mean = v.mean(axis=-1, keepdims=True)
    return (v - mean) / np.sqrt(v.var(axis=-1, keepdims=True) + eps) * gamma + beta


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


X = np.random.default_rng(1).standard_normal((STEPS, ROWS, INPUTS))
H, C = np.random.default_rng(2).standard_normal((2, 1, ROWS, N))


def agrees(layer, cell):
    """Outputs and last state are those of a cell, a function of (x, h, c) to (h, c)."""
    h, c, outputs = H[0], C[0], []
    for x in X:
        h, c = cell(x, h, c)
        outputs.append(h)
    output, (last_h, last_c) = layer(X, (H, C))
    np.testing.assert_allclose(output, outputs, rtol=0, atol=BOUND)
    np.testing.assert_allclose((last_h[0], last_c[0]), (h, c), rtol=0, atol=BOUND)


# -- TensorFlow Addons: three norms with gamma and beta, and a bias; gates i, f, c, o; eps 1e-3 ----


def addons(bias=True):
    found = draw(3, 0.1, kernel=(INPUTS, 4 * N), recurrent_kernel=(N, 4 * N))
    found |= draw(4, bias=(4 * N,)) if bias else {}
    norms = {"kernel_norm": 4 * N, "recurrent_norm": 4 * N, "state_norm": N}
    return found | draw(5, **{f"{name}/{part}": (size,) for name, size in norms.items() for part in ("gamma", "beta")})


def addons_cell(w, eps):
    def of(name, v):
        return norm(v, w[f"{name}/gamma"], w[f"{name}/beta"], eps)

    def cell(x, h, c):
        z = of("kernel_norm", x @ w["kernel"]) + of("recurrent_norm", h @ w["recurrent_kernel"]) + w.get("bias", 0)
        i, f, new, o = np.split(z, 4, axis=1)
        c = of("state_norm", sigmoid(f) * c + sigmoid(i) * np.tanh(new))
        return sigmoid(o) * np.tanh(c), c

    return cell


@pytest.mark.parametrize("bias", [True, False])
def test_tensorflow_addons(bias):
    weights = addons(bias)
    agrees(from_tensorflow_addons(weights, dtype="float64"), addons_cell(weights, 1e-3))
    agrees(from_tensorflow_addons(weights, eps=0.1, dtype="float64"), addons_cell(weights, 0.1))


def test_names_as_tensorflow_gives_them():
    weights = addons()
    named = {f"rnn/layer_norm_lstm_cell/{name}:0": value for name, value in weights.items()}
    layer = from_tensorflow_addons(named | {"dense/kernel:0": X}, "rnn/layer_norm_lstm_cell/", dtype="float64")
    agrees(layer, addons_cell(weights, 1e-3))


# -- tf.contrib: one kernel of [inputs, h]; a norm for each gate, and of the cell; gates i, j, f, o; eps 1e-12 ----


def contrib():
    scopes = ("input", "transform", "forget", "output", "state")
    norms = {f"{scope}/{part}": (N,) for scope in scopes for part in ("gamma", "beta")}
    return draw(6, 1e-6, kernel=(INPUTS + N, 4 * N)) | draw(7, **norms)


def contrib_cell(w, forget_bias=1.0):
    def of(scope, v):
        return norm(v, w[f"{scope}/gamma"], w[f"{scope}/beta"], 1e-12)

    def cell(x, h, c):
        i, j, f, o = np.split(np.concatenate([x, h], axis=1) @ w["kernel"], 4, axis=1)
        i, j, f, o = of("input", i), of("transform", j), of("forget", f), of("output", o)
        c = of("state", c * sigmoid(f + forget_bias) + sigmoid(i) * np.tanh(j))
        return np.tanh(c) * sigmoid(o), c

    return cell


def test_tensorflow_contrib():
    weights = contrib()
    agrees(from_tensorflow_contrib(weights, dtype="float64"), contrib_cell(weights))
    layer = from_tensorflow_contrib(weights, forget_bias=-0.5, dtype="float64")
    agrees(layer, contrib_cell(weights, forget_bias=-0.5))


# -- TensorFlow Lite: a norm for each gate, on the sum, none of the cell; a bias behind each; eps 1e-8 ----


def lite():
    weights = {f"input_to_{gate}_weights": (N, INPUTS) for gate in GATES}
    weights |= {f"recurrent_to_{gate}_weights": (N, N) for gate in GATES}
    vectors = {f"{gate}_{name}": (N,) for gate in GATES for name in ("gate_bias", "layer_norm_coefficients")}
    return draw(8, 1e-4, **weights) | draw(9, **vectors)


def lite_cell(w):
    def of(gate, x, h):
        sums = x @ w[f"input_to_{gate}_weights"].T + h @ w[f"recurrent_to_{gate}_weights"].T
        return norm(sums, w[f"{gate}_layer_norm_coefficients"], w[f"{gate}_gate_bias"], 1e-8)

    def cell(x, h, c):
        c = sigmoid(of("forget", x, h)) * c + np.tanh(of("cell", x, h)) * sigmoid(of("input", x, h))
        return sigmoid(of("output", x, h)) * np.tanh(c), c

    return cell


def test_tensorflow_lite():
    weights = lite()
    agrees(from_tensorflow_lite(weights, dtype="float64"), lite_cell(weights))
    absent = dict.fromkeys(["cell_to_input_weights", "projection_weights", "aux_input_to_input_weights"])
    agrees(from_tensorflow_lite(weights | absent, dtype="float64"), lite_cell(weights))


# -- custom_lstms of PyTorch: norms of both products and of the cell, with biases; gates i, f, g, o; eps 1e-5 ----


def custom(cells):
    """The state of `cells`, {prefix: inputs}."""
    found = {}
    for seed, (cell, inputs) in enumerate(cells.items()):
        found |= draw(seed, 0.01, **{f"{cell}weight_ih": (4 * N, inputs), f"{cell}weight_hh": (4 * N, N)})
        norms = {"layernorm_i": 4 * N, "layernorm_h": 4 * N, "layernorm_c": N}
        shapes = {f"{cell}{name}.{part}": (size,) for name, size in norms.items() for part in ("weight", "bias")}
        found |= draw(100 + seed, **shapes)
    return found


def custom_cell(w, prefix="", eps=1e-5):
    def of(name, v):
        return norm(v, w[f"{prefix}{name}.weight"], w[f"{prefix}{name}.bias"], eps)

    def cell(x, h, c):
        gates = of("layernorm_i", x @ w[f"{prefix}weight_ih"].T) + of("layernorm_h", h @ w[f"{prefix}weight_hh"].T)
        i, f, g, o = np.split(gates, 4, axis=1)
        c = of("layernorm_c", sigmoid(f) * c + sigmoid(i) * np.tanh(g))
        return sigmoid(o) * np.tanh(c), c

    return cell


@pytest.mark.parametrize("prefix", ["", "cell.", "layers.0.cell."])
def test_one_cell_of_custom_lstms(prefix):
    weights = custom({prefix: INPUTS})
    agrees(from_custom_lstms(weights, dtype="float64"), custom_cell(weights, prefix))
    outer = {f"rnn.{name}": value for name, value in weights.items()} | {"decoder.weight": X}
    agrees(from_custom_lstms(outer, "rnn.", eps=0, dtype="float64"), custom_cell(weights, prefix, eps=0))


@pytest.mark.parametrize("directions", [1, 2])
def test_networks_of_custom_lstms(directions):
    """More than nine layers: their numbers are not in the order of the alphabet."""
    suffixes = ["cell."] if directions == 1 else ["directions.0.cell.", "directions.1.cell."]
    cells = {f"layers.{k}.{s}": directions * N if k else INPUTS for k in range(11) for s in suffixes}
    weights = custom(cells)
    layer = from_custom_lstms(dict(sorted(weights.items())), dtype="float64")
    assert (layer.num_layers, layer.bidirectional) == (11, directions == 2)
    states = np.random.default_rng(3).standard_normal((2, len(cells), ROWS, N))
    sequence, sides, ends = list(X), [], []
    for k, prefix in enumerate(cells):
        (h, c), cell, reverse = states[:, k], custom_cell(weights, prefix), "directions.1" in prefix
        outputs = []
        for x in sequence[::-1] if reverse else sequence:
            h, c = cell(x, h, c)
            outputs.append(h)
        ends.append((h, c))
        sides.append(outputs[::-1] if reverse else outputs)
        if len(sides) == directions:
            sequence, sides = [np.concatenate(parts, axis=1) for parts in zip(*sides, strict=True)], []
    output, last = layer(X, tuple(states))
    np.testing.assert_allclose(output, sequence, rtol=0, atol=BOUND)
    np.testing.assert_allclose(np.stack(last, axis=1), ends, rtol=0, atol=BOUND)


def test_custom_lstms_in_torch():
    """With its own norm and its own tensors, of which gradients are asked."""
    torch = pytest.importorskip("torch")
    weights = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in custom({"": INPUTS}).items()}

    def of(name, v):
        return torch.nn.functional.layer_norm(v, v.shape[1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    def cell(x, h, c):
        x, h, c = (torch.tensor(v) for v in (x, h, c))
        with torch.no_grad():
            gates = of("layernorm_i", x @ weights["weight_ih"].T) + of("layernorm_h", h @ weights["weight_hh"].T)
            i, f, g, o = gates.chunk(4, 1)
            c = of("layernorm_c", torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
            return (torch.sigmoid(o) * torch.tanh(c)).numpy(), c.numpy()

    state = {name: value.detach() for name, value in weights.items()}  # as state_dict() has them
    agrees(from_custom_lstms(state, dtype="float64"), cell)


# -- all of them ----

ALL = {
    "custom_lstms": (from_custom_lstms, custom({"": INPUTS}), "weight_hh"),
    "tensorflow_addons": (from_tensorflow_addons, addons(), "recurrent_kernel"),
    "tensorflow_contrib": (from_tensorflow_contrib, contrib(), "kernel"),
    "tensorflow_lite": (from_tensorflow_lite, lite(), "recurrent_to_cell_weights"),
}
each = pytest.mark.parametrize(("function", "weights", "matrix"), ALL.values(), ids=ALL)


@each
def test_options(function, weights, matrix):
    layer = function(weights)
    assert type(layer) is normlib.LayerNormLSTM
    assert layer.dtype == np.float32
    assert not layer.batch_first
    other = function(weights, dtype=np.float64, batch_first=True, batch_invariant=True)
    np.testing.assert_allclose(other(X.swapaxes(0, 1))[0].swapaxes(0, 1), layer(X)[0], rtol=0, atol=1e-3)
    assert other.batch_invariant
    for name in ("bidirectional", "variant", "other"):
        with pytest.raises(TypeError, match=rf"^from_.*\(\) got an unexpected keyword argument '{name}'$"):
            function(weights, **{name: True})


@each
def test_arrays_stay_as_they_are(function, weights, matrix):
    before = {name: value.copy() for name, value in weights.items()}
    layer = function(weights, dtype="float64")
    for value in layer.parameters().values():
        value[...] = 0
    for name, value in weights.items():
        np.testing.assert_array_equal(value, before[name])


@each
def test_weights_that_do_not_fit(function, weights, matrix):
    place = function.__name__
    for name in weights:
        if name != "bias":
            message = rf"^{place}: (input_to_input_weights|.*{name}) is missing, "
            with pytest.raises(ValueError, match=message):
                function({other: value for other, value in weights.items() if other != name})
    with pytest.raises(ValueError, match=rf"^{place}: there is no place for peephole$"):
        function(weights | {"peephole": X})
    with pytest.raises(ValueError, match=rf"^{place}: {matrix} has shape \(\d+,\), expected "):
        function(weights | {matrix: weights[matrix][0]})
    name, vector = next((name, value) for name, value in weights.items() if value.ndim == 1)
    with pytest.raises(ValueError, match=rf"^{place}: {name} has shape \({len(vector) - 1},\), expected \(\d+,\)$"):
        function(weights | {name: vector[1:]})
    with pytest.raises(TypeError, match=rf"^{place}: {matrix} has dtype int8, expected floating point$"):
        function(weights | {matrix: weights[matrix].astype(np.int8)})
    with pytest.raises(TypeError, match=rf"^{place}: weights is a list, expected a mapping of names to arrays$"):
        function(list(weights.values()))
    with pytest.raises(ValueError, match=rf"^{place}: .* is missing, there are: none$"):
        function({})


def test_a_network_without_one_of_its_cells():
    weights = custom({f"layers.{k}.directions.{d}.cell.": 2 * N if k else INPUTS for k in range(2) for d in range(2)})
    for at in ("0.directions.1", "1.directions.0"):
        left = {name: value for name, value in weights.items() if at not in name}
        with pytest.raises(ValueError, match=rf"^from_custom_lstms: layers.{at}.cell.weight_ih is missing"):
            from_custom_lstms(left)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cell_to_forget_weights": C[0, 0]}, "cell_to_forget_weights is given, expected a cell without peepholes"),
        ({"projection_weights": H[0]}, "projection_weights is given, expected a cell without a projection"),
        ({"projection_bias": H[0, 0]}, "projection_bias is given, expected a cell without a projection"),
        ({"aux_input_to_cell_weights": H[0]}, "aux_input_to_cell_weights is given, expected a cell without a second"),
        ({"input_to_input_weights": None}, "input_to_input_weights is missing, expected a cell without coupled gates"),
        ({"cell_layer_norm_coefficients": None}, "cell_layer_norm_coefficients is missing"),
    ],
    ids=str,
)
def test_cells_of_tensorflow_lite_that_are_others(more, message):
    with pytest.raises(ValueError, match=f"^from_tensorflow_lite: {message}"):
        from_tensorflow_lite(lite() | more)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fused_activation_function", "RELU", "'TANH'"),
        ("fused_activation_function", 0, "'TANH'"),
        ("cell_clip", 10.0, "0: a cell without clipping"),
        ("proj_clip", 1.0, "0: a cell without clipping"),
    ],
)
def test_options_of_tensorflow_lite_that_are_others(name, value, expected):
    with pytest.raises(ValueError, match=f"^from_tensorflow_lite: {name} is {value!r}, expected {expected}$"):
        from_tensorflow_lite(lite(), **{name: value})


def test_examples_in_docstrings():
    failed, tried = doctest.testmod(recurrent)
    assert (failed, tried > 12) == (0, True)
