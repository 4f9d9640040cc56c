"""
Padded sequences: which elements count
======================================

Sequences of different lengths are padded to one length for a batch. A norm that takes the padding for data spoils its
statistics. ``where=`` says which elements count.
"""

# %%
# Four sequences of two features, padded with zeros.

import matplotlib.pyplot as plt
import numpy as np

import normlib

rng = np.random.default_rng(0)
lengths = np.array([60, 45, 30, 12])
inside = np.arange(60) < lengths[:, np.newaxis]
x = np.where(inside[:, np.newaxis], 3 + rng.normal(size=(4, 2, 60)).cumsum(axis=2) / 4, 0).astype(np.float32)

# %%
# Each feature of each sequence to mean 0 and variance 1 over time, with the padding and without.

with_padding = normlib.layer_norm(x)
without = normlib.layer_norm(x, where=inside[:, np.newaxis])

figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
titles = ("x", "the padding counts", "where=inside")
for panel, lines, title in zip(panels, (x, with_padding, without), titles, strict=True):
    for i, line in enumerate(lines[:, 0]):
        (drawn,) = panel.plot(line[: lengths[i]], label=f"length {lengths[i]}")
        panel.plot(range(lengths[i] - 1, 60), line[lengths[i] - 1 :], ":", color=drawn.get_color(), alpha=0.7)
    panel.set(title=title, xlabel="time")
    panel.grid(alpha=0.3)
panels[0].legend()
plt.show()

# %%
# The result has the bits of the short sequence alone, and whatever stands in the padding, NaN too, does no harm.

alone = normlib.layer_norm(x[3, :, :12])
x[~np.broadcast_to(inside[:, np.newaxis], x.shape)] = np.nan
again = normlib.layer_norm(x, where=inside[:, np.newaxis])
print("the bits of the sequence alone:", np.array_equal(without[3, :, :12], alone))
print("with NaN in the padding:       ", np.array_equal(again, without))
assert np.array_equal(again, without)
