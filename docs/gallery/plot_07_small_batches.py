"""
Small batches: batch norm and group norm
========================================

Batch norm takes its statistics from the batch, and from few samples they are noisy. Group norm takes them from each
sample alone, so that the size of the batch does not matter (Wu and He, 2018,
`arXiv:1803.08494 <https://arxiv.org/abs/1803.08494>`_).
"""

# %%
# Feature maps of 16 channels. Each channel has a mean and a deviation of its own, and each sample too is darker or
# brighter than the next.

import matplotlib.pyplot as plt
import numpy as np

import normlib

rng = np.random.default_rng(0)
channels, height = 16, 8
mean, deviation = rng.normal(0, 1, (1, channels, 1, 1)), rng.uniform(0.5, 2, (1, channels, 1, 1))
of_sample = rng.normal(0, 1, (512, channels, 1, 1))
x = (mean + deviation * (of_sample + 0.5 * rng.normal(size=(512, channels, height, height)))).astype(np.float32)

# %%
# The same samples, in batches of other sizes. How far is the result from the one in a batch of all 512?

sizes = 2 ** np.arange(1, 9)
norms = {
    "batch_norm": lambda x: normlib.batch_norm(x, training=True),
    "group_norm, 4 groups": lambda x: normlib.group_norm(x, 4),
    "layer_norm over C, H, W": lambda x: normlib.layer_norm(x, axis=(1, 2, 3)),
}
figure, panel = plt.subplots(figsize=(7, 4), layout="constrained")
for name, norm in norms.items():
    whole = norm(x)
    apart = [np.concatenate([norm(part) for part in np.split(x, len(x) // size)]) for size in sizes]
    errors = np.array([np.sqrt(np.mean((result - whole) ** 2)) for result in apart])
    panel.plot(sizes, errors, "o-", label=name)
    print(f"{name:24}", errors.round(3))
panel.plot(sizes, errors.max() + 1 / np.sqrt(sizes), ":", color="gray", label="1 / sqrt(batch)")
panel.set(xscale="log", xlabel="samples in a batch", ylabel="difference from one batch of 512", xticks=sizes)
panel.set_xticklabels(sizes)
panel.legend()
panel.grid(alpha=0.3)
plt.show()

# %%
# For group norm and layer norm the difference is not small but zero: a sample's result has the same bits in any batch.

whole = normlib.group_norm(x, 4)
assert all(np.array_equal(normlib.group_norm(x[i : i + 1], 4)[0], whole[i]) for i in range(0, 512, 64))
