"""
Accuracy: far from zero
=======================

A temperature in kelvin, a pressure in pascal, a voltage on an offset: the mean is many deviations from zero. How many
digits are left after normalizing in float32? Here is normlib beside PyTorch, SciPy, scikit-learn, and a formula that
is often written.
"""

# %%
# The reference is the same float32 numbers, normalized in extended precision. An error of 1 ulp is one unit in the last
# place of the row's largest output.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import zscore
from sklearn.preprocessing import scale
from torch.nn.functional import layer_norm

import normlib

warnings.simplefilter("ignore")  # of scikit-learn, which warns that its results may be off


def formula(x):
    """E[x^2] - E[x]^2, as it is often written."""
    mean = x.mean(axis=1, keepdims=True)
    return (x - mean) / np.sqrt((x * x).mean(axis=1, keepdims=True) - mean * mean)


contenders = {
    "normlib.layer_norm": lambda x: normlib.layer_norm(x, eps=0),
    "torch layer_norm": lambda x: layer_norm(torch.from_numpy(x), x.shape[1:], eps=0).numpy(),
    "scipy.stats.zscore": lambda x: zscore(x, axis=1),
    "sklearn scale": lambda x: scale(x, axis=1),
    "E[x²] - E[x]²": formula,
}

# %%
# Thirty-two rows of 1000 numbers with deviation 1, and a mean from 1 to a million.

rng = np.random.default_rng(0)
noise, offsets = rng.normal(size=(32, 1000)), np.logspace(0, 6, 13)
errors = {name: [] for name in contenders}
for offset in offsets:
    x = (offset + noise).astype(np.float32)
    exact = x.astype(np.longdouble)
    exact = exact - exact.mean(axis=1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(axis=1, keepdims=True))
    ulp = np.spacing(np.abs(exact).max(axis=1, keepdims=True).astype(np.float32))
    for name, function in contenders.items():
        with np.errstate(all="ignore"):
            errors[name].append(float((np.abs(function(x) - exact) / ulp).max()))

figure, panel = plt.subplots(figsize=(8, 4.5), layout="constrained")
for name, line in errors.items():
    width = 3 if name.startswith("normlib") else 1.2
    panel.loglog(offsets, line, "o-", linewidth=width, markersize=4, label=name)
panel.axhline(2**23, color="gray", linestyle=":")
panel.text(1, 2**23 * 1.3, "no digit left", color="gray")
panel.set(xlabel="mean / deviation", ylabel="largest error in ulps")
panel.legend()
panel.grid(alpha=0.3)
plt.show()

# %%
# normlib stays within 4 ulps at every offset; :doc:`/accuracy` has all norms, dtypes and gradients.

print({name: round(line[-1], 1) for name, line in errors.items()})
assert max(errors["normlib.layer_norm"]) < 4
