"""
Signals in volts: standardize them, and mind eps
================================================

An EEG has channels of some microvolts on offsets that drift. Before they are compared or classified, channels are
standardized. Two things go wrong easily: ``eps``, which is made for numbers around 1, and float32 on a large offset.
"""

# %%
# Eight simulated channels of ten seconds: alpha waves, noise, and an electrode offset of up to 50 millivolts.

import matplotlib.pyplot as plt
import numpy as np

import normlib

rng = np.random.default_rng(0)
seconds = np.arange(2500) / 250
alpha = np.sin(2 * np.pi * 10 * seconds) * (1 + np.sin(2 * np.pi * 0.2 * seconds))
gains = rng.uniform(5e-6, 40e-6, (8, 1))
signals = gains * (alpha + 0.5 * rng.normal(size=(8, 2500)))
volts = (signals + rng.uniform(-0.05, 0.05, (8, 1))).astype(np.float32)

# %%
# The default ``eps`` of 1e-5 is a variance of (3 millivolts) squared. It outweighs that of the signals, which come out
# a hundred times too small. ``eps=0`` is what ``scipy.stats.zscore`` computes.

with_default = normlib.layer_norm(volts)
standardized = normlib.layer_norm(volts, eps=0)
print("deviation with eps=1e-5:", with_default.std(axis=1).round(4))
print("deviation with eps=0:   ", standardized.std(axis=1).round(4))

figure, panels = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True)
heights = np.arange(8)[:, np.newaxis]
for panel, lines, title in zip(
    panels,
    [volts * 1000, with_default + heights * 4, standardized + heights * 4],
    ["millivolts", "layer_norm(volts)", "layer_norm(volts, eps=0)"],
    strict=True,
):
    panel.plot(seconds[:500], lines[:, :500].T, linewidth=0.7)
    panel.set(title=title, xlabel="seconds")
plt.show()

# %%
# How exact is it? The reference is float64, on the same float32 samples. The formula in plain float32 loses digits to
# the offset; normlib does not.

exact = volts.astype(np.float64)
exact = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
plain = (volts - volts.mean(axis=1, keepdims=True)) / volts.std(axis=1, keepdims=True)
ours, theirs = np.abs(standardized - exact).max(), np.abs(plain - exact).max()
print(f"largest error: normlib {ours:.0e}, NumPy in float32 {theirs:.0e}")
assert ours < theirs
