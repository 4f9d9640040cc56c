"""
Depth: where the norm stands
============================

Forty-eight blocks in a row, before any training. Without norms the stream of activations explodes. With the norm
behind each addition (post-norm) it stays at 1, and the gradients are largest next to the output. With the norm in front
of each block (pre-norm) the stream grows as the square root of the depth, and the gradients shrink in the same way
(Xiong et al., 2020, `arXiv:2002.04745 <https://arxiv.org/abs/2002.04745>`_). :doc:`/depth` trains transformers of up to
96 layers.
"""

# %%
# A block is any object with ``forward`` and ``backward``: here a perceptron with one hidden layer.

import matplotlib.pyplot as plt
import numpy as np

import normlib


class Perceptron:
    def __init__(self, rng, size):
        self.up, self.down = (rng.normal(0, np.sqrt(2 / size), (size, size)).astype(np.float32) for _ in range(2))

    def forward(self, x):
        self.x, self.hidden = x, np.maximum(x @ self.up, 0)
        return self.hidden @ self.down

    def backward(self, dy):
        self.dy = dy
        return ((dy @ self.down.T) * (self.hidden > 0)) @ self.up.T


class Plain:
    """A residual block without a norm: x + sublayer(x)."""

    def __init__(self, sublayer, norm):
        self.sublayer = sublayer

    def forward(self, x):
        return x + self.sublayer.forward(x)

    def backward(self, dy):
        return dy + self.sublayer.backward(dy)


# %%
# One batch forward, and the gradient of a loss at the end back. At each block: the size of the stream, and of the
# gradient that reaches the block's matrices.

size, depth = 64, 48
kinds = {"no norm": Plain, "post-norm": normlib.PostNorm, "pre-norm": normlib.PreNorm}


def passes(kind):
    rng = np.random.default_rng(0)
    blocks = [kind(Perceptron(rng, size), normlib.LayerNorm(size)) for _ in range(depth)]
    x, target = rng.normal(size=(2, 256, size)).astype(np.float32)
    stream = []
    for block in blocks:
        x = block.forward(x)
        stream.append(x.std())
    last = normlib.LayerNorm(size)
    dy = last.backward(last.forward(x) - target)
    for block in reversed(blocks):
        dy = block.backward(dy)
    inner = [block.sublayer for block in blocks]
    return stream, [np.linalg.norm(layer.hidden.T @ layer.dy) for layer in inner]


measured = {name: passes(kind) for name, kind in kinds.items()}
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, lines in measured.items():
    for panel, line in zip(panels, lines, strict=True):
        panel.plot(range(1, depth + 1), line, label=name)
for panel, title in zip(panels, ("deviation of the stream", "norm of the gradient of a block's matrix"), strict=True):
    panel.set(title=title, xlabel="block", yscale="log")
    panel.grid(alpha=0.3)
panels[0].legend()
plt.show()

# %%
# How much more gradient the last block gets than the first. Large gradients next to the output are why post-norm
# networks need a warm-up. (Without norms they look as harmless only because the last norm divides by 10**11.)

for name, (_, gradients) in measured.items():
    print(f"{name:10} last / first = {gradients[-1] / gradients[0]:.2g}")
