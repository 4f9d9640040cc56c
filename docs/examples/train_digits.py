"""Train small networks on handwritten digits with each layer; forward and backward by normlib.

    pip install scikit-learn
    python docs/examples/train_digits.py

The digits are 1797 real images of 8 x 8 pixels. Some pixels are blank in every image, so BatchNorm on the raw
pixels meets columns of zero variance. An LSTM and a GRU read the rows of an image from top to bottom, a row a step.
All but normlib's layers is NumPy, and a seed fixes the run.
"""

import time

import numpy as np
from sklearn.datasets import load_digits

import normlib


class Plain:
    """A layer without parameters, with the methods of normlib's layers that the training loop calls."""

    def parameters(self):
        return {}

    def zero_grad(self):
        pass

    def train(self, mode=True):
        pass


class Dense(Plain):
    """y = x @ weight + bias, over the last axis of x."""

    def __init__(self, rng, inputs, outputs):
        self.weight = rng.normal(0, np.sqrt(2 / inputs), (inputs, outputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)

    def forward(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, dy):
        rows = dy.reshape(-1, dy.shape[-1])
        self.grads = {"weight": self.x.reshape(len(rows), -1).T @ rows, "bias": rows.sum(axis=0)}
        return dy @ self.weight.T

    def parameters(self):
        return {"weight": self.weight, "bias": self.bias}

    def gradients(self):
        return self.grads


class Relu(Plain):
    def forward(self, x):
        self.on = x > 0
        return x * self.on

    def backward(self, dy):
        return dy * self.on


class Flatten(Plain):
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


class Last(Plain):
    """The output after the last step, of what a recurrent layer returns."""

    def forward(self, found):
        output, _ = found
        self.shape = output.shape
        return output[:, -1]

    def backward(self, dy):
        doutput = np.zeros(self.shape, dy.dtype)
        doutput[:, -1] = dy
        return doutput


def perceptron(rng, norm):
    return [Dense(rng, 64, 64), norm, Relu(), Dense(rng, 64, 10)]


def convolution(rng, norm):
    """A 3 x 3 convolution is a Dense over patches: (images, 36, 9) to (images, 36, 16)."""
    return [Dense(rng, 9, 16), norm, Relu(), Flatten(), Dense(rng, 36 * 16, 10)]


def recurrent(rng, layer):
    return [layer(8, 64, batch_first=True, rng=rng), Last(), Dense(rng, 64, 10)]


NETWORKS = {
    "LayerNorm": lambda rng: perceptron(rng, normlib.LayerNorm(64)),
    "RMSNorm": lambda rng: perceptron(rng, normlib.RMSNorm(64)),
    "BatchNorm": lambda rng: [normlib.BatchNorm(64), *perceptron(rng, normlib.BatchNorm(64))],
    "GroupNorm": lambda rng: convolution(rng, normlib.GroupNorm(4, 16, channel_axis=-1)),
    "InstanceNorm": lambda rng: convolution(rng, normlib.InstanceNorm(16, affine=True, channel_axis=-1)),
    "LayerNormLSTM": lambda rng: recurrent(rng, normlib.LayerNormLSTM),
    "LayerNormGRU": lambda rng: recurrent(rng, normlib.LayerNormGRU),
}
SHAPES = {"GroupNorm": "patches", "InstanceNorm": "patches", "LayerNormLSTM": "rows", "LayerNormGRU": "rows"}


def digits(rng, shape="pixels"):
    """(x, labels) to train on and (x, labels) held out; an image is its 64 pixels, its 8 rows or its 3 x 3 patches."""
    data = load_digits()
    x = data.data.astype(np.float32)
    rows = x.reshape(-1, 8, 8) / 16
    if shape == "rows":
        x = rows
    elif shape == "patches":
        x = np.lib.stride_tricks.sliding_window_view(rows, (3, 3), axis=(1, 2)).reshape(len(x), 36, 9)
    order = rng.permutation(len(x))
    x, labels = x[order], data.target[order]
    return (x[:1400], labels[:1400]), (x[1400:], labels[1400:])


def forward(network, x):
    for layer in network:
        x = layer.forward(x)
    return x


def loss_gradient(scores, labels):
    """Of the mean cross-entropy over the softmax of the scores."""
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    dy = scores / scores.sum(axis=1, keepdims=True)
    dy[np.arange(len(labels)), labels] -= 1
    dy /= len(labels)
    return dy


def train(name, epochs=15, rate=3e-3, batch=32, seed=0):
    """Train the network called `name` with Adam; returns the accuracy on the held-out digits."""
    rng = np.random.default_rng(seed)
    (x, labels), (test_x, test_labels) = digits(rng, SHAPES.get(name, "pixels"))
    network = NETWORKS[name](rng)
    moments, step = {}, 0
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for chosen in np.split(order, range(batch, len(x), batch)):
            dy = loss_gradient(forward(network, x[chosen]), labels[chosen])
            for layer in network:
                layer.zero_grad()
            for layer in reversed(network):
                dy = layer.backward(dy)
            step += 1
            for i, layer in enumerate(network):
                for key, value in layer.parameters().items():
                    gradient = layer.gradients()[key]
                    first, second = moments.get((i, key), (0, 0))
                    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                    moments[i, key] = first, second
                    value -= rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    for layer in network:
        layer.train(False)
    return float((forward(network, test_x).argmax(axis=1) == test_labels).mean())


def main():
    print("layer          right on held-out digits    seconds")
    for name in NETWORKS:
        start = time.perf_counter()
        accuracy = train(name)
        print(f"{name:14} {accuracy:20.1%} {time.perf_counter() - start:14.1f}")


if __name__ == "__main__":
    main()
