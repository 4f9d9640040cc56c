"""An LSTM without norms in NumPy, with the methods of normlib's recurrent layers that a training loop calls."""

import numpy as np

from normlib.examples.transformer import Weights


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(0.5 * x)


class LSTM(Weights):
    """The formulas of torch.nn.LSTM, with the names, shapes and first weights of normlib's layer without its norms."""

    def __init__(self, inputs, hidden, rng):
        generator, bound = np.random.default_rng(rng), hidden**-0.5
        shapes = {"weight_ih_l0": (4 * hidden, inputs), "weight_hh_l0": (4 * hidden, hidden)}
        self.weights = {name: generator.uniform(-bound, bound, s).astype(np.float32) for name, s in shapes.items()}
        self.weights["bias_l0"] = np.zeros(4 * hidden, np.float32)
        self.zero_grad()

    def train(self, mode=True):
        pass

    def forward(self, x, state=None):
        by_x, by_h, bias = self.weights.values()
        h = np.zeros((len(x) + 1, x.shape[1], by_h.shape[1]), x.dtype)
        c = np.zeros_like(h)
        if state is not None:
            h[0], c[0] = state[0][0], state[1][0]
        gates = x @ by_x.T + bias
        for t, u in enumerate(gates):
            u += h[t] @ by_h.T
            i, f, g, o = np.split(u, 4, axis=1)
            g[:] = np.tanh(g)
            for gate in (i, f, o):
                gate[:] = sigmoid(gate)
            c[t + 1] = f * c[t] + i * g
            h[t + 1] = o * np.tanh(c[t + 1])
        self.saved = x, h, c, gates
        return h[1:], (h[-1:].copy(), c[-1:].copy())

    def backward(self, dy):
        (x, h, c, gates), (by_x, by_h, _) = self.saved, self.weights.values()
        du, dh, dc = np.empty_like(gates), 0, 0
        for t in reversed(range(len(x))):
            i, f, g, o = np.split(gates[t], 4, axis=1)
            squashed = np.tanh(c[t + 1])
            dh = dh + dy[t]
            dc = dc + dh * o * (1 - squashed**2)
            of_gates = (dc * g * i * (1 - i), dc * c[t] * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o))
            np.concatenate(of_gates, axis=1, out=du[t])
            dh, dc = du[t] @ by_h, dc * f
        flat = du.reshape(-1, du.shape[2])
        found = (flat.T @ x.reshape(-1, x.shape[2]), flat.T @ h[:-1].reshape(len(flat), -1), flat.sum(axis=0))
        self.found = dict(zip(self.weights, found, strict=True))
        return du @ by_x, (dh[None], dc[None])

    def step(self, x, state=None):
        output, state = self.forward(x[None], state)
        return output[0], state
