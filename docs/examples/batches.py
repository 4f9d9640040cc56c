"""Which norm for which batch: small convolutional networks learn handwritten digits with each of them.

    pip install scikit-learn
    normlib demo batches [--quick]

Three convolutions, each with a norm and ReLU behind it, and a dense layer, all of it NumPy but the norms. The networks
of a table differ in their norms alone. What came out, and what it means: docs/which.md.
"""

import argparse
import time

import numpy as np

import normlib
from normlib.examples.depth import Adam
from normlib.examples.report import Progress
from normlib.examples.train_digits import Dense, Flatten, Relu, digits, forward, loss_gradient

CHANNELS = 16
NORMS = {
    "batch norm": lambda: normlib.BatchNorm(CHANNELS, channel_axis=-1, activation="relu"),
    "group norm": lambda: normlib.GroupNorm(4, CHANNELS, channel_axis=-1, activation="relu"),
    "instance norm": lambda: normlib.InstanceNorm(CHANNELS, affine=True, channel_axis=-1, activation="relu"),
    "no norm": Relu,
}
BATCHES = (1, 2, 4, 8, 32)
RATE, OF_BATCH = 3e-3, 32  # Adam's rate, and at which batch; at others it goes with the root of their size
LIGHTS = {"as they are": (1, 0), "half the contrast": (0.5, 0), "and brighter": (0.5, 0.5)}
SMALL = 2  # the batch of who refines a network that is there


class Convolution(Dense):
    """Of 3 x 3 pixels, without padding: a product of a matrix with each patch."""

    def __init__(self, rng, inputs, outputs):
        super().__init__(rng, 9 * inputs, outputs)

    def forward(self, x):
        self.shape = x.shape
        patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        return super().forward(patches.reshape(*patches.shape[:3], -1))

    def backward(self, dy):
        n, height, width, _ = dy.shape
        dpatches = super().backward(dy).reshape(n, height, width, self.shape[-1], 3, 3)
        dx = np.zeros(self.shape, dy.dtype)
        for i, j in np.ndindex(3, 3):
            dx[:, i : i + height, j : j + width] += dpatches[..., i, j]
        return dx


def network(rng, norm):
    """Images of 8 x 8 to planes of 6 x 6, 4 x 4 and 2 x 2, and to ten scores."""
    layers = []
    for inputs in (1, CHANNELS, CHANNELS):
        layers += [Convolution(rng, inputs, CHANNELS), NORMS[norm]()]
    return [*layers, Flatten(), Dense(rng, 4 * CHANNELS, 10)]


def images(seed):
    """(x, labels) to learn and (x, labels) held out, an image of one channel each."""
    learn, held_out = digits(np.random.default_rng(seed), "rows")
    return tuple((x[..., np.newaxis], labels) for x, labels in (learn, held_out))


def mixed(rng, labels, size):
    """Batches of images in any order; the last may be smaller."""
    return np.split(rng.permutation(len(labels)), range(size, len(labels), size))


def of_two_kinds(rng, labels, size):
    """Batches of two digits each, as where each machine has data of its own."""
    batches = []
    for pair in rng.permutation(10).reshape(5, 2):
        (chosen,) = np.nonzero(np.isin(labels, pair))
        batches += np.split(rng.permutation(chosen), range(size, len(chosen), size))
    return [batches[i] for i in rng.permutation(len(batches))]


def train(layers, learn, batch, epochs, seed, batches=mixed):
    """Adam, and cross-entropy over the softmax of the scores; what is frozen has no gradient and stays."""
    (x, labels), rng = learn, np.random.default_rng(seed)
    rate, adams = RATE * (batch / OF_BATCH) ** 0.5, {}
    for _ in range(epochs):
        for chosen in batches(rng, labels, batch):
            dy = loss_gradient(forward(layers, x[chosen]), labels[chosen])
            for layer in layers:
                layer.zero_grad()
            for layer in reversed(layers):
                dy = layer.backward(dy)
            for i, layer in enumerate(layers):
                gradients = layer.gradients() if layer.parameters() else {}
                for name, gradient in gradients.items():
                    adam = adams.setdefault((i, name), Adam(rate))
                    layer.parameters()[name] -= adam.change(gradient)
    return layers


def accuracy(layers, held_out, contrast=1, brightness=0):
    """The share of the digits held out that are recognised, in evaluation."""
    x, labels = held_out
    for layer in layers:
        layer.train(False)
    return float((forward(layers, np.float32(contrast) * x + np.float32(brightness)).argmax(axis=1) == labels).mean())


def without_evaluation(layers, held_out):
    """The same where the network was left in training, and images come one by one."""
    x, labels = held_out
    for layer in layers:
        layer.train()
    return float(np.mean([forward(layers, x[i : i + 1]).argmax() == labels[i] for i in range(len(x))]))


def halves(data):
    """The digits 0 to 4, and the digits 5 to 9 with the labels 0 to 4."""
    x, labels = data
    return tuple((x[part], labels[part] % 5) for part in (labels < 5, labels >= 5))


def refined(norm, seed, epochs, frozen):
    """A network that knows 0 to 4 learns 5 to 9 in small batches; its norms go on as before, or stay as they are."""
    (first, second), (_, held_out) = map(halves, images(seed))
    layers = train(network(np.random.default_rng(seed), norm), first, OF_BATCH, epochs, seed)
    for layer in layers:
        if frozen and hasattr(layer, "freeze"):
            layer.train(False)
            layer.freeze()
    return accuracy(train(layers, second, SMALL, 1, seed), held_out)


def measure(norm, seed, epochs):
    """(table, column, accuracy) of all that is trained with a norm."""
    learn, held_out = images(seed)
    for batch in BATCHES:
        layers = train(network(np.random.default_rng(seed), norm), learn, batch, epochs, seed)
        yield "batch", str(batch), accuracy(layers, held_out)
    for name, light in LIGHTS.items():  # the network is the last one, of the largest batch
        yield "changed", name, accuracy(layers, held_out, *light)
    yield "changed", "no eval(), one by one", without_evaluation(layers, held_out)
    layers = train(network(np.random.default_rng(seed), norm), learn, OF_BATCH, epochs, seed, of_two_kinds)
    yield "data", "two digits a batch", accuracy(layers, held_out)
    yield "data", "refined", refined(norm, seed, epochs, frozen=False)
    yield "data", "refined, norms frozen", refined(norm, seed, epochs, frozen=True)


TITLES = {
    "batch": "Right of the digits held out, in %, learned in batches of",
    "changed": f"Learned in batches of {OF_BATCH}, and what is held out",
    "data": f"Learned in batches of {OF_BATCH} of two digits each; or 0 to 4, refined on 5 to 9 in batches of {SMALL}",
}


def run(seeds, epochs):
    """{table: {norm: {column: accuracies, one a seed}}}"""
    found = {table: {norm: {} for norm in NORMS} for table in TITLES}
    with Progress(len(NORMS) * seeds) as bar:
        for done, (norm, seed) in enumerate((norm, seed) for norm in NORMS for seed in range(seeds)):
            bar.show(done, norm)
            for table, column, right in measure(norm, seed, epochs):
                found[table][norm].setdefault(column, []).append(right)
    return found


def lines(title, rows):
    """A table: the mean over the seeds, and in brackets the least and the most of them."""
    yield title
    yield f"{'':14}" + "".join(f"{column:>24}" for column in next(iter(rows.values())))
    for norm, columns in rows.items():
        cells = [
            f"{100 * np.mean(of):.1f}" + f" ({100 * min(of):.1f} to {100 * max(of):.1f})" * (len(of) > 1)
            for of in columns.values()
        ]
        yield f"{norm:14}" + "".join(f"{cell:>24}" for cell in cells)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="normlib demo batches", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed and two epochs: half a minute, not four")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    for table, rows in run(*((1, 2) if args.quick else (3, 5))).items():
        print("\n".join(lines(TITLES[table], rows)), end="\n\n")
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    main()
