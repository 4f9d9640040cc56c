"""
Running statistics: training and evaluation
===========================================

In training, batch norm uses the statistics of the batch and moves running ones towards them. In evaluation it uses the
running ones. How soon they can be trusted depends on the momentum.
"""

import matplotlib.pyplot as plt
import numpy as np

import normlib

# %%
# Batches of 16 from a distribution with mean 5 and variance 9; the running statistics begin at 0 and 1. With
# ``momentum=None`` they are the plain average of all batches.

figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharex=True)
last = {}
for momentum in (0.01, 0.1, None):
    rng = np.random.default_rng(0)
    norm = normlib.BatchNorm(1, momentum=momentum)
    means, variances = [], []
    for _ in range(100):
        norm(rng.normal(5, 3, (16, 1)).astype(np.float32))
        means.append(norm.running_mean[0])
        variances.append(norm.running_var[0])
    last[momentum] = means[-1], variances[-1]
    for panel, line in zip(panels, (means, variances), strict=True):
        panel.plot(line, label=f"momentum={momentum}")
for panel, name, truth in zip(panels, ("running mean", "running variance"), (5, 9), strict=True):
    panel.axhline(truth, color="gray", linestyle=":")
    panel.set(title=name, xlabel="batch")
    panel.grid(alpha=0.3)
panels[0].legend()
plt.show()

for momentum, (mean, variance) in last.items():
    print(f"momentum={momentum}: mean {mean:.2f} of 5, variance {variance:.2f} of 9")

# %%
# After a hundred batches, a momentum of 0.01 still holds a third of where it began, 0.99**100 = 0.37. Switching to
# ``eval()`` that early would move the outputs of a network.
