"""What more threads bring."""

import os

import normlib

from .common import OPS, SIZES, THREADS, prepare, seconds


class Scaling:
    """Every op in float32, channels-first."""

    params = (OPS, THREADS, tuple(SIZES))
    param_names = ("op", "threads", "size")

    def setup(self, op, threads, size):
        if not hasattr(normlib, "set_num_threads"):
            raise NotImplementedError("this commit has no threads to set")
        if threads > len(os.sched_getaffinity(0)):
            raise NotImplementedError("this machine has fewer cores")
        self.call = prepare(op, SIZES[size])
        normlib.set_num_threads(threads)

    def time_pass(self, op, threads, size):
        self.call()

    time_pass.pretty_name = "Time of a pass by threads"

    def track_speedup(self, op, threads, size):
        """Return the time on one thread over the time on these."""
        if threads == 1:
            return 1.0

        def alone():
            normlib.set_num_threads(1)
            self.call()

        def together():
            normlib.set_num_threads(threads)
            self.call()

        one, several = seconds(alone, together)
        return one / several

    track_speedup.unit = "x"
    track_speedup.pretty_name = "One thread over several"
