"""
Even lighting by tiles
======================

The Greek coins of scikit-image lie under a light from the upper left, where the background is as bright as some coins
are elsewhere: a single threshold takes it for one. Normalizing each tile of the picture by itself evens out the
lighting. It is ``layer_norm`` over two axes.
"""

# %%
# The picture as tiles of 50 x 64 pixels: a view, nothing is copied.

import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import normlib

coins = data.coins()[:300] / 255.0
tiles = coins.reshape(6, 50, 6, 64)

# %%
# Axes 1 and 3 lie within a tile. ``normlib`` takes the strided view as it is, and gives the result in the same layout.

even = normlib.layer_norm(tiles, axis=(1, 3)).reshape(coins.shape)
whole = normlib.layer_norm(coins, axis=(0, 1))

figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for panel, picture, title in zip(
    panels,
    [coins, whole > 0.25, even > 0.25],
    ["as it is", "one mean for the picture: > 0.25", "one mean for each tile: > 0.25"],
    strict=True,
):
    panel.imshow(picture, cmap="gray")
    panel.set_title(title)
    panel.axis("off")
plt.show()

# %%
# How much of each row of tiles lies above the threshold: with one mean it varies more.

for name, picture in {"whole": whole, "tiles": even}.items():
    print(name, (picture.reshape(6, -1) > 0.25).mean(axis=1).round(2))
assert np.ptp((even.reshape(6, -1) > 0.25).mean(axis=1)) < np.ptp((whole.reshape(6, -1) > 0.25).mean(axis=1))
