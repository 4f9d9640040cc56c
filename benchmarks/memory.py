"""What a call allocates."""

import tracemalloc

from .common import OPS, SIZES, one_thread, prepare


class Memory:
    """Every op on an array of 67 MB."""

    params = (OPS,)
    param_names = ("op",)

    def setup(self, op):
        one_thread()
        self.call = prepare(op, SIZES["memory"], out=False)

    def peakmem_fresh_output(self, op):
        """Peak of the whole process, the arrays of the set-up included."""
        self.call()

    peakmem_fresh_output.pretty_name = "Peak memory of the process"

    def track_allocated(self, op):
        """Return the peak of what NumPy allocates during the call, in sizes of the output; 1 is the least."""
        self.call()
        tracemalloc.start()
        try:
            output = self.call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return peak / (output[0] if isinstance(output, tuple) else output).nbytes

    track_allocated.unit = "outputs"
    track_allocated.pretty_name = "Allocated, in sizes of the output"
