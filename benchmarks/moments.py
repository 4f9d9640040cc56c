"""Moments of data in chunks: taking in a chunk, and merging what others have taken in."""

import numpy as np

import normlib

from .common import dtype_of, normal, one_thread

CHUNK = {"rows": (4096, 256), "images": (16, 64, 32, 32)}  # 1 M elements each, channels on axis 1


class Chunks:
    """A chunk of a million elements with its channels kept, and 64 moments of chunks merged."""

    params = (tuple(CHUNK), ("float32", "float64"))
    param_names = ("chunk", "dtype")

    def setup(self, chunk, dtype):
        if not hasattr(normlib, "Moments"):
            raise NotImplementedError("this commit has no Moments")
        one_thread()
        self.x = normal(CHUNK[chunk], dtype_of(dtype))
        channels = np.zeros((2, self.x.shape[1]), dtype)
        self.parts = [normlib.Moments(channel_axis=1).update(channels, index=i) for i in range(64)]

    def time_update(self, chunk, dtype):
        normlib.Moments(channel_axis=1).update(self.x)

    time_update.pretty_name = "Moments of a chunk"

    def time_merge(self, chunk, dtype):
        total = normlib.Moments(channel_axis=1)
        for part in self.parts:
            total.merge(part)

    time_merge.pretty_name = "64 moments merged"
