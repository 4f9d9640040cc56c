"""Blocks of networks in NumPy, forward and backward: each norm takes what stands around it into its own pass.

    python docs/examples/blocks.py

Images lie channels-last and convolutions have one pixel, so that they are products of matrices; a fixed mixing of the
tokens stands for attention. Each block is held against its separate steps, the gradient against their differences.
"""

import numpy as np

import normlib


def matrix(rng, rows, columns):
    return rng.normal(0, 1 / np.sqrt(rows), (rows, columns))


def normalized(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


class ResNet:
    """He et al. 2015, arXiv:1512.03385: batch norm and ReLU, and at the end the shortcut between them."""

    def __init__(self, rng, width=16):
        self.first, self.second = matrix(rng, width, width), matrix(rng, width, width)
        self.norms = [normlib.BatchNorm(width, channel_axis=-1, activation="relu") for _ in range(2)]
        self.inputs = (rng.normal(size=(4, 6, 5, width)),)

    def forward(self, x):
        h = self.norms[0](x @ self.first)
        return self.norms[1](h @ self.second, add=x)

    def backward(self, dy):
        dh, dshortcut = self.norms[1].backward(dy)
        dx = self.norms[0].backward(dh @ self.second.T) @ self.first.T
        return (dx + dshortcut,)

    def separate(self, x):
        h = np.maximum(normalized(x @ self.first, (0, 1, 2)), 0)
        return np.maximum(normalized(h @ self.second, (0, 1, 2)) + x, 0)


class UNet:
    """Ho et al. 2020, arXiv:2006.11239: group norm and SiLU before each convolution, and in between what time it is."""

    def __init__(self, rng, width=16, groups=4):
        self.groups, self.time = groups, rng.normal(size=width)
        self.first, self.second = matrix(rng, width, width), matrix(rng, width, width)
        self.norms = [normlib.GroupNorm(groups, width, channel_axis=-1, activation="silu") for _ in range(2)]
        self.inputs = (rng.normal(size=(2, 6, 5, width)),)

    def forward(self, x):
        h = self.norms[0](x) @ self.first + self.time
        return x + self.norms[1](h) @ self.second

    def backward(self, dy):
        dh = self.norms[1].backward(dy @ self.second.T)
        return (dy + self.norms[0].backward(dh @ self.first.T),)

    def separate(self, x):
        def norm(x):
            return normalized(x.reshape(*x.shape[:-1], self.groups, -1), (1, 2, 4)).reshape(x.shape)

        h = silu(norm(x)) @ self.first + self.time
        return x + silu(norm(h)) @ self.second


class DiT:
    """Peebles, Xie 2022, arXiv:2212.09748: layer norm with a scale and a shift for each sample, twice.

    The second norm adds the stream: what the first half computed, and `x`, which it returns as their sum.
    """

    def __init__(self, rng, samples=3, tokens=7, width=16):
        self.mixing, self.mlp = matrix(rng, tokens, tokens), matrix(rng, width, width)
        self.gates = rng.normal(size=(2, samples, 1, width))
        modulation = [rng.normal(0, 0.3, (2, samples, 1, width)) for _ in range(2)]
        self.inputs = (rng.normal(size=(samples, tokens, width)), *modulation)

    def forward(self, x, scale, shift):
        h, *first = normlib.layer_norm(x, 1 + scale[0], shift[0], return_stats=True)
        h = self.gates[0] * (self.mixing @ h)
        h, stream, *second = normlib.layer_norm(h, 1 + scale[1], shift[1], residual=x, return_stats=True)
        self.saved = x, stream, 1 + scale, first, second
        return stream + self.gates[1] * (h @ self.mlp)

    def backward(self, dy):
        x, stream, weight, first, second = self.saved
        dh = (dy * self.gates[1]) @ self.mlp.T
        mean, rstd = second
        dsum, *of_second = normlib.layer_norm_backward(dh, stream, weight[1], mean=mean, rstd=rstd, dsum=dy)
        mean, rstd = first
        dh = self.mixing.T @ (dsum * self.gates[0])
        dx, *of_first = normlib.layer_norm_backward(dh, x, weight[0], mean=mean, rstd=rstd)
        return dsum + dx, *map(np.stack, zip(of_first, of_second, strict=True))

    def separate(self, x, scale, shift):
        h = normalized(x, -1) * (1 + scale[0]) + shift[0]
        x = x + self.gates[0] * (self.mixing @ h)
        h = normalized(x, -1) * (1 + scale[1]) + shift[1]
        return x + self.gates[1] * (h @ self.mlp)


class Padded:
    """Sequences of different lengths in one batch: batch norm, by what is there alone, and ReLU."""

    def __init__(self, rng, lengths=(9, 2, 6), channels=5):
        self.inside = np.arange(max(lengths))[:, None] < np.array(lengths)[:, None, None]  # sample, time, channel
        self.norm = normlib.BatchNorm(channels, channel_axis=-1, activation="relu")
        self.inputs = (rng.normal(size=(len(lengths), max(lengths), channels)),)

    def forward(self, x):
        return self.norm(x, where=self.inside)

    def backward(self, dy):
        return (self.norm.backward(dy),)

    def separate(self, x):
        y, there = np.zeros_like(x), self.inside[..., 0]
        y[there] = np.maximum(normalized(x[there], 0), 0)
        return y


def check(block, rng, step=1e-6):
    """The largest difference from the separate steps, and how far the gradient in some direction is from theirs."""
    y = block.forward(*block.inputs)
    difference = np.abs(y - block.separate(*block.inputs)).max()
    dy = rng.normal(size=y.shape)
    directions = [rng.normal(size=value.shape) for value in block.inputs]
    slope = sum((gradient * d).sum() for gradient, d in zip(block.backward(dy), directions, strict=True))
    ahead, behind = (
        (dy * block.separate(*(x + sign * d for x, d in zip(block.inputs, directions, strict=True)))).sum()
        for sign in (step, -step)
    )
    expected = (ahead - behind) / (2 * step)
    return difference, abs(slope - expected) / abs(expected)


def main():
    print("block     from the separate steps    their gradient, relative")
    for kind in (ResNet, UNet, DiT, Padded):
        rng = np.random.default_rng(0)
        print("{:6} {:26.1e} {:27.1e}".format(kind.__name__, *check(kind(rng), rng)))


if __name__ == "__main__":
    main()
