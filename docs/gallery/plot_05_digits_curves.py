"""
Loss curves: the norm and the rate
==================================

A small network learns scikit-learn's handwritten digits, with each norm and without, at a modest rate and at one thirty
times as large. At the large one only the networks with a norm learn, and they learn best there.
"""

# %%
# A perceptron with two hidden layers. All but the norms is NumPy; a layer keeps what its ``backward`` needs.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import normlib


class Dense:
    def __init__(self, rng, inputs, outputs):
        self.weight = rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)

    def forward(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, dy):
        self.gradient = {"weight": self.x.T @ dy, "bias": dy.sum(axis=0)}
        return dy @ self.weight.T

    def parameters(self):
        return {"weight": self.weight, "bias": self.bias}

    def gradients(self):
        return self.gradient

    def zero_grad(self):
        pass


class Relu(Dense):
    def __init__(self):
        self.gradient = {}

    def forward(self, x):
        self.on = x > 0
        return x * self.on

    def backward(self, dy):
        return dy * self.on

    def parameters(self):
        return {}


def network(norm):
    rng = np.random.default_rng(0)
    layers = [Dense(rng, 64, 64), norm(64), Relu(), Dense(rng, 64, 64), norm(64), Relu(), Dense(rng, 64, 10)]
    return [layer for layer in layers if layer is not None]


# %%
# Plain gradient descent, without momentum or warm-up, so that nothing hides what the norm does.


def losses(layers, rate, steps=300, batch=64):
    rng = np.random.default_rng(1)
    digits = load_digits()
    for _ in range(steps):
        chosen = rng.integers(0, len(digits.data), batch)
        x, labels = digits.data[chosen].astype(np.float32), digits.target[chosen]
        for layer in layers:
            layer.zero_grad()
            x = layer.forward(x)
        scores = x - x.max(axis=1, keepdims=True)
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        yield -np.log(np.maximum(chances[np.arange(batch), labels], 1e-30)).mean()
        dy = chances
        dy[np.arange(batch), labels] -= 1
        dy /= batch
        for layer in reversed(layers):
            dy = layer.backward(dy)
        for layer in layers:
            for name, parameter in layer.parameters().items():
                parameter -= rate * layer.gradients()[name]


norms = {
    "no norm": lambda size: None,
    "LayerNorm": normlib.LayerNorm,
    "RMSNorm": normlib.RMSNorm,
    "BatchNorm": normlib.BatchNorm,
}
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
final = {}
for panel, rate in zip(panels, (0.01, 0.3), strict=True):
    for name, norm in norms.items():
        curve = np.array(list(losses(network(norm), rate)))
        final[name, rate] = curve[-20:].mean()
        panel.plot(np.convolve(curve, np.ones(10) / 10, mode="valid"), label=name)
    panel.set(title=f"rate {rate}", xlabel="step", yscale="log")
    panel.grid(alpha=0.3)
panels[0].set_ylabel("loss, mean of 10 steps")
panels[0].legend()
plt.show()

# %%
# At the large rate the network without a norm ends at guessing (a loss of log 10 = 2.3); the others have learned.

for (name, rate), loss in final.items():
    print(f"{name:10} rate {rate:4}: {loss:.3f}")
assert final["LayerNorm", 0.3] < 0.1 < final["no norm", 0.3]
