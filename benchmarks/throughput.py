"""Every op on arrays in and out of cache, as time and as share of what a copy takes."""

import numpy as np

from .common import DTYPES, LAYOUTS, OPS, SIZES, dtype_of, normal, one_thread, prepare, seconds


class Throughput:
    """All ops, dtypes, layouts and sizes on one thread."""

    params = (OPS, DTYPES, LAYOUTS, tuple(SIZES))
    param_names = ("op", "dtype", "layout", "size")

    def setup(self, op, dtype, layout, size):
        one_thread()
        self.call = prepare(op, SIZES[size], dtype, layout)

    def time_pass(self, op, dtype, layout, size):
        self.call()

    time_pass.pretty_name = "Time of a pass"

    def track_share_of_copy(self, op, dtype, layout, size):
        """Return the time of copying as many bytes as the pass must move, over the time of the pass.

        The copy is NumPy's, which every commit has alike.
        """
        source = normal(SIZES[size], dtype_of(dtype))
        target = np.zeros_like(source)
        half = source.shape[0] // 2
        backward = op.endswith("_backward")  # two arrays read, one written: half as many bytes again

        def copy():
            np.copyto(target, source)
            if backward:
                np.copyto(target[:half], source[half:])

        repeat, rounds = (20, 9) if size == "cache" else (1, 5)

        def repeated(function):
            return lambda: [function() for _ in range(repeat)]

        limit, ours = seconds(repeated(copy), repeated(self.call), rounds=rounds)
        return limit / ours

    track_share_of_copy.unit = "share"
    track_share_of_copy.pretty_name = "Share of the speed of a copy"
