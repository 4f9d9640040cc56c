"""Norms with what stands around them in models, in one pass."""

import inspect

import normlib

from .common import FUSED, one_thread, prepare


class Fused:
    """A handful of fused passes in and out of cache on one thread."""

    params = (tuple(FUSED), ("forward", "backward"), ("float32", "bfloat16"), ("cache", "memory"))
    param_names = ("norm", "pass", "dtype", "size")

    def setup(self, norm, pass_, dtype, size):
        shape = FUSED[norm][size == "memory"]
        norm, *fused = norm.split(" + ")
        known = inspect.signature(getattr(normlib, norm)).parameters
        if not {"residual", "add", "activation"} <= known.keys():
            raise NotImplementedError("this commit fuses nothing with a norm")
        one_thread()
        op = norm if pass_ == "forward" else f"{norm}_backward"
        self.call = prepare(op, shape, dtype, fused=fused)

    def time_pass(self, norm, pass_, dtype, size):
        self.call()

    time_pass.pretty_name = "Time of a fused pass"
