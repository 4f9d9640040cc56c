"""One row of 768 values: what a call costs."""

from .common import FEATURE, OPS, ROW, one_thread, prepare


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
