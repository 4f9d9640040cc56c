"""A stack of 12 pre-norm blocks whose sublayers do nothing, beside its separate steps."""

import numpy as np

import normlib

from .common import one_thread

BLOCKS, ROWS, WIDTH = 12, 512, 768


class Itself:
    def forward(self, x):
        return x

    def backward(self, dy):
        return dy


class Stack:
    """Forward and backward on one thread."""

    params = (("float32", "float16"),)
    param_names = ("dtype",)

    def setup(self, dtype):
        if not hasattr(normlib, "Stack"):
            raise NotImplementedError("this commit has no blocks")
        one_thread()
        self.norms = [normlib.RMSNorm(WIDTH) for _ in range(BLOCKS + 1)]
        blocks = [normlib.PreNorm(Itself(), normlib.RMSNorm(WIDTH)) for _ in range(BLOCKS)]
        self.stack = normlib.Stack([*blocks, normlib.RMSNorm(WIDTH)])
        self.x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(dtype)

    def time_stack(self, dtype):
        self.stack.zero_grad()
        self.stack.backward(self.stack(self.x))

    def time_separate_steps(self, dtype):
        stream = self.x
        for norm in self.norms[:-1]:
            norm.zero_grad()
            stream = stream + norm(stream)
        last = self.norms[-1]
        last.zero_grad()
        dy = last.backward(last(stream))
        for norm in reversed(self.norms[:-1]):
            dy = dy + norm.backward(dy)
