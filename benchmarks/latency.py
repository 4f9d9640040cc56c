"""One row of 768 values: what a call costs."""

import normlib

from .common import FEATURE, OPS, ROW, normal, one_thread, prepare


class Latency:
    """Every op on one row, with the output allocated and with it given."""

    params = (OPS, ("fresh", "out"))
    param_names = ("op", "output")

    def setup(self, op, output):
        one_thread()
        kind = "feature" if op.removesuffix("_backward") in FEATURE else "channel"
        self.call = prepare(op, ROW[kind], out=output == "out")

    def time_one_row(self, op, output):
        self.call()

    time_one_row.pretty_name = "Time of one row of 768"


class Prepared:
    """A plan on one row, as a loop calls it."""

    params = (FEATURE, (64, 768), ("fresh", "out"))
    param_names = ("op", "length", "output")

    def setup(self, op, length, output):
        one_thread()
        if not hasattr(normlib, "prepare"):
            raise NotImplementedError("this commit has no plans")
        self.x, weight = normal((1, length), "float32"), normal((length,), "float32", 1)
        parameters = {"weight": weight} if op == "rms_norm" else {"weight": weight, "bias": weight}
        self.plan = normlib.prepare(op, like=self.x, **parameters)
        self.out = self.x.copy() if output == "out" else None

    def time_a_thousand_calls(self, op, length, output):
        plan, x, out = self.plan, self.x, self.out
        for _ in range(1000):
            plan(x, out)

    time_a_thousand_calls.pretty_name = "A thousand calls of a plan on one row"
