"""The recurrent layers that tests try, and what goes through them: numbers that float32 holds.

As a program it prints a digest of the bits of all results, for each cell and dtype.
"""

import hashlib

import numpy as np

import normlib

LSTMS = {
    "lstm paper": {"variant": "paper"},
    "lstm paper, raw cell": {"variant": "paper", "cell_norm": False},
    "lstm carried": {"variant": "carried"},
    "lstm per_gate": {"variant": "per_gate"},
    "lstm per_gate, raw cell": {"variant": "per_gate", "cell_norm": False},
}
GRUS = {"gru paper": {"variant": "paper"}, "gru per_gate": {"variant": "per_gate"}}
CELLS = LSTMS | GRUS
EPS = 1e-3  # large enough to be seen where it is missing


def build(cell, inputs, hidden, layers=1, **options):
    """A layer whose parameters are all drawn, so that none is one or zero."""
    kind = normlib.LayerNormLSTM if cell in LSTMS else normlib.LayerNormGRU
    layer = kind(inputs, hidden, layers, **CELLS[cell], **({"eps": EPS, "dtype": np.float64} | options))
    rng = np.random.default_rng(5)
    for name, value in layer.parameters().items():
        value[...] = np.float32(rng.normal("norm" in name and "bias" not in name, 0.5, value.shape))
    return layer


def parts(state):
    """The arrays of a state: (h, c) of an LSTM, (h,) of a GRU."""
    return state if isinstance(state, tuple) else (state,)


class Problem:
    """What goes through a layer: a sequence and the first state; backward, what reaches output and last state."""

    def __init__(self, layer, steps, rows, lengths=None):
        rng, n = np.random.default_rng(0), layer.hidden_size
        sides = 1 + layer.bidirectional

        def draw(*shape):
            return rng.standard_normal(shape, np.float32).astype(layer.dtype)

        def draw_state():
            h, c = draw(2, layer.num_layers * sides, rows, n)
            return (h, c) if isinstance(layer, normlib.LayerNormLSTM) else h

        self.lengths, self.x, self.doutput = lengths, draw(steps, rows, layer.input_size), draw(steps, rows, sides * n)
        self.state, self.dstate = draw_state(), draw_state()

    def part(self, steps, rows):
        """The same of some steps and sequences, without lengths."""
        of = object.__new__(Problem)
        of.lengths, of.x, of.doutput = None, self.x[steps, rows], self.doutput[steps, rows]
        for name in ("state", "dstate"):
            state = getattr(self, name)
            taken = tuple(part[:, rows] for part in parts(state))
            setattr(of, name, taken if isinstance(state, tuple) else taken[0])
        return of


def run(layer, problem):
    """All results by name: what comes out forward and backward, and d and a parameter's name for its gradient."""
    layer.zero_grad()
    output, last = layer(problem.x, problem.state, lengths=problem.lengths)
    dx, dfirst = layer.backward(problem.doutput, problem.dstate)
    found = {"output": output, "dx": dx}
    for name, state in (("state", last), ("dstate", dfirst)):
        found |= {f"{name} {k}": part for k, part in enumerate(parts(state))}
    return found | {f"d{name}": gradient for name, gradient in layer.gradients().items()}


def check(found, expected, bound):
    """The largest error in each result is at most `bound` times its largest value."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        error = np.abs(found[name] - value).max(initial=0) / (np.abs(value).max(initial=0) or 1)
        assert error <= bound, f"{name}: {error:.1e}"


def same(found, expected):
    """The same results, in all bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


def digest(layer, problem):
    found = hashlib.sha256()
    for value in run(layer, problem).values():
        found.update(np.ascontiguousarray(value))
    return found.hexdigest()[:16]


if __name__ == "__main__":
    for cell in CELLS:
        for dtype in (np.float32, np.float64):
            layer = build(cell, 5, 37, 2, bidirectional=True, dtype=dtype)
            print(cell, np.dtype(dtype), digest(layer, Problem(layer, 4, 9, [4, 3, 0, 1, 2, 4, 4, 3, 4])))
