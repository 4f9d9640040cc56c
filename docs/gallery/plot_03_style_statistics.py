"""
Style as a mean and a deviation
===============================

Adaptive instance normalization (Huang and Belongie, 2017, `arXiv:1703.06868 <https://arxiv.org/abs/1703.06868>`_) takes
the mean and the deviation of each channel from one picture and gives them to another. In a network the channels are
learned features. Here they are the bands of an image pyramid, which need no training.
"""

# %%
# Two photographs: what is shown, and how.

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data

import normlib

content = data.astronaut()[:320, 96:416] / 255.0
styles = {"coffee": data.coffee()[40:360, 150:470] / 255.0, "cat": data.chelsea()[:300, 60:360] / 255.0}

# %%
# A pyramid splits a picture into bands, from fine detail to broad areas. Their sum is the picture again.


def bands(picture):
    """The bands of each colour as channels: (1, levels * 3, H, W)."""
    planes = picture.transpose(2, 0, 1)
    blurred = [planes] + [gaussian_filter(planes, (0, s, s)) for s in (1, 2, 4, 8, 16)]
    details = [fine - broad for fine, broad in pairwise(blurred)]
    return np.concatenate([*details, blurred[-1]])[np.newaxis]


def picture(channels):
    return np.clip(channels.reshape(-1, 3, *channels.shape[2:]).sum(axis=0), 0, 1).transpose(1, 2, 0)


# %%
# AdaIN is one call: the deviations of the style are the weight, its means the bias, of shape (N, C), one for each
# sample and channel. A forward pass over the style picture returns both.


def adain(x, style, eps=1e-8):
    _, mean, rstd = normlib.instance_norm(style, return_stats=True, eps=eps)
    return normlib.instance_norm(x, weight=1 / rstd, bias=mean, eps=eps)


figure, panels = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
for row, (name, style) in zip(panels, styles.items(), strict=True):
    mixed = adain(bands(content), bands(style))
    shown = {"content": content, f"style: {name}": style, "content in this style": picture(mixed)}
    for panel, (title, image) in zip(row, shown.items(), strict=True):
        panel.imshow(image)
        panel.set_title(title)
        panel.axis("off")
plt.show()

# %%
# The statistics of the result are those of the style:

difference = np.abs(mixed.std(axis=(2, 3)) - bands(style).std(axis=(2, 3))).max()
print(f"largest difference of a deviation: {difference:.1e}")
assert difference < 1e-5
