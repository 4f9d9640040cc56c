"""
The same bits
=============

A row's result should depend on the row, not on how many others come with it or how many threads share the work. In
normlib it does not change by a bit. Sums in other libraries are often split by the size of the array, so that their last
bits move.
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
panel.set(xlabel="threads", ylabel="gradients of 768 that differ from one thread's", xticks=threads)
panel.legend()
plt.show()

# %%
# A row alone, and the same row in a batch, at any place:

y = normlib.layer_norm(x)
assert all(np.array_equal(normlib.layer_norm(x[i]), y[i]) for i in range(0, 8192, 500))
