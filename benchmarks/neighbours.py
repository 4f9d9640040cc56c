"""What the default threads cost while other programs keep cores busy."""

import subprocess
import sys

import normlib

from .common import SIZES, prepare, seconds


class Neighbours:
    """LayerNorm beside programs that never wait."""

    params = ((0, 1, 2), tuple(SIZES))
    param_names = ("programs", "size")

    def setup(self, programs, size):
        if not hasattr(normlib, "num_threads"):
            raise NotImplementedError("this commit has no threads to set")
        self.call = prepare("layer_norm", SIZES[size], layout="channels_last")
        self.running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]

    def teardown(self, programs, size):
        for program in self.running:
            program.kill()
            program.wait()

    def time_pass(self, programs, size):
        self.call()

    time_pass.pretty_name = "Time of a pass beside busy programs"

    def track_over_one_thread(self, programs, size):
        """Return the time on the default threads over the time on one."""

        def alone():
            with normlib.num_threads(1):
                self.call()

        default, one = seconds(self.call, alone, rounds=99)
        return default / one

    track_over_one_thread.unit = "x"
    track_over_one_thread.pretty_name = "Default threads over one, beside busy programs"
