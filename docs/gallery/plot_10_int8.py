"""
int8: a scale a row
===================

Networks that multiply in int8 quantize the output of a norm. ``quantize="int8"`` does so in the same pass, with a scale
for each row. Beside one scale for all rows, it shields the others from a row with an outlier (Dettmers et al., 2022,
`arXiv:2208.07339 <https://arxiv.org/abs/2208.07339>`_).
"""

# %%
# Tokens with the outliers that large models have: a few features, in some tokens.

import matplotlib.pyplot as plt
import numpy as np

import normlib

rng = np.random.default_rng(0)
tokens = rng.normal(size=(256, 512)).astype(np.float32)
tokens[::8, 100] += 60
exact = normlib.rms_norm(tokens)

# %%
# ``q`` is int8, ``scale`` float32, one a row. :func:`normlib.dequantize` goes back.

q, scale = normlib.rms_norm(tokens, quantize="int8")
by_row = normlib.dequantize(q, scale)
one = np.float32(np.abs(exact).max() / 127)
by_tensor = np.rint(exact / one) * one
print(q.dtype, q.shape, scale.dtype, scale.shape)

figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for values, name in ((by_tensor, "one scale for all"), (by_row, "a scale a row")):
    errors = np.sqrt(np.mean((values - exact) ** 2, axis=1) / np.mean(exact**2, axis=1))
    panels[0].semilogy(errors, ".", label=name)
panels[0].set(title="relative error of a row", xlabel="token")
panels[0].legend()
bins = np.arange(-127.5, 128)
panels[1].hist(q[1::8].ravel(), bins, color="C1", alpha=0.7, label="a scale a row")
panels[1].hist(np.rint(exact / one)[1::8].ravel(), bins, color="C0", alpha=0.7, label="one scale for all")
panels[1].set(title="integers of the ordinary rows", xlabel="q", yscale="log")
panels[1].legend()
plt.show()

# %%
# Each value is at most half a step off:

assert (np.abs(by_row - exact) <= 0.5001 * np.reshape(scale, (-1, 1))).all()
print(f"largest error in steps: {(np.abs(by_row - exact) / np.reshape(scale, (-1, 1))).max():.3f}")
