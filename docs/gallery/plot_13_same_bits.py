"""
The same bits
=============

A result should not depend on how many threads share the work, nor a row's on how many others come with it. In normlib
not a bit changes. Other libraries split their sums by the number of threads, so that the last bits move.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import normlib

# %%
# Gradients of a weight are sums over all rows: the hardest case. They are taken on one to eight threads, and compared
# with those on one, bit by bit.

rng = np.random.default_rng(0)
x, dy = rng.normal(size=(2, 8192, 768)).astype(np.float32)
weight = np.ones(768, np.float32)
threads = range(1, 9)


def ours(count):
    with normlib.num_threads(count):
        _, mean, rstd = normlib.layer_norm(x, weight, return_stats=True)
        return normlib.layer_norm_backward(dy, x, weight, mean=mean, rstd=rstd)[1]


def theirs(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    w = torch.from_numpy(weight).requires_grad_()
    torch.nn.functional.layer_norm(torch.from_numpy(x), (768,), w).backward(torch.from_numpy(dy))
    torch.set_num_threads(before)
    return w.grad.numpy()


figure, panel = plt.subplots(figsize=(7, 3.8), layout="constrained")
for offset, (name, gradient) in zip((-0.2, 0.2), {"normlib": ours, "torch": theirs}.items(), strict=True):
    one = gradient(1)
    moved = [int((gradient(count) != one).sum()) for count in threads]
    panel.bar(np.array(threads) + offset, moved, width=0.4, label=name)
    print(f"{name:8}", moved)
    if name == "normlib":
        assert not any(moved)
panel.set(xlabel="threads", ylabel="of 768 gradients, how many differ", xticks=threads)
panel.set_title("beside those on one thread; normlib: none", fontsize=10)
panel.legend(loc="center left")
plt.show()

# %%
# A row alone, and the same row in a batch, at any place:

y = normlib.layer_norm(x)
assert all(np.array_equal(normlib.layer_norm(x[i]), y[i]) for i in range(0, 8192, 500))
