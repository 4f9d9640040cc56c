"""
The five norms on a photograph
==============================

The norms differ in which numbers share a mean and a variance. Two photographs show it: a norm over a whole photograph
evens out brightness and contrast, a norm over each colour removes the tint as well, and a norm over the batch keeps
what distinguishes one photograph from the other.
"""

# %%
# Two photographs of 128 x 128 pixels: an array of shape (N, H, W, C), channels last.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import normlib

photographs = np.stack([data.astronaut()[:256:2, 96:352:2], data.coffee()[60:316:2, 180:436:2] // 2]) / 255.0
print(photographs.shape)

# %%
# ``layer_norm`` over height, width and channels gives each photograph mean 0 and variance 1: both are now equally
# bright, and keep their tint. ``instance_norm`` does so with each channel of each photograph: the tint is gone too.
# ``batch_norm`` takes each channel of both photographs together: the dark one stays darker. ``rms_norm`` only scales.

channels = {"channel_axis": -1}
results = {
    "as they are": photographs,
    "layer_norm, axis=(1, 2, 3)": normlib.layer_norm(photographs, axis=(1, 2, 3)),
    "rms_norm, axis=(1, 2, 3)": normlib.rms_norm(photographs, axis=(1, 2, 3)),
    "batch_norm": normlib.batch_norm(photographs, training=True, **channels),
    "group_norm, 1 group": normlib.group_norm(photographs, 1, **channels),
    "instance_norm": normlib.instance_norm(photographs, **channels),
}


def shown(name, pictures):
    """Mean 0 as mid-grey, two standard deviations to either side."""
    return pictures if name == "as they are" else np.clip(0.5 + pictures / 4, 0, 1)


figure, panels = plt.subplots(2, 6, figsize=(12, 4.4), layout="constrained")
for column, (name, pictures) in zip(panels.T, results.items(), strict=True):
    column[0].set_title(name, fontsize=9)
    for panel, picture in zip(column, shown(name, pictures), strict=True):
        panel.imshow(picture)
        panel.axis("off")
plt.show()

# %%
# With one group, ``group_norm`` is ``layer_norm`` over all but the samples. These are the two things that are called
# layer norm: over C, H and W, as here, or over the channels of each position alone, as in transformers.

difference = np.abs(results["group_norm, 1 group"] - results["layer_norm, axis=(1, 2, 3)"]).max()
print(f"largest difference: {difference:.1e}")
assert difference < 1e-12
