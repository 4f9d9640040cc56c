"""What the default threads cost beside programs that keep the cores busy, and right after NumPy's matrix products.

Calls on one thread and on the default threads take turns. Beside a busy program the default may take 1.5 times the
median of one thread and 3 times its 95th percentile. With all cores idle nothing is asserted: the ratios are there to
look at. Prints a line a case and "N cases"; ends with 1 where one is over.
"""

import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np

import normlib

SHAPES = {"20 us": (256, 768), "40 us": (512, 768), "0.6 ms": (4096, 1024), "8 ms": (8192, 4096)}
MEDIAN, TAIL = 1.5, 3.0
TURN = 0.5  # seconds of calls on one thread, then of as many with the default
TURNS = 8


@contextmanager
def spinning(programs):
    """So many programs beside us that never wait."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def samples(x, before, threads):
    """Seconds of each call in one turn."""
    out, found = np.empty_like(x), []
    end = time.perf_counter() + TURN
    with normlib.num_threads(threads):
        while time.perf_counter() < end:
            before()
            start = time.perf_counter()
            normlib.layer_norm(x, out=out)
            found.append(time.perf_counter() - start)
    return found


def ratios(x, before):
    """Default over one thread: of the medians, and of the 95th percentiles."""
    one, default = [], []
    for _ in range(TURNS):
        one += samples(x, before, 1)
        default += samples(x, before, normlib.get_num_threads())
    tails = (statistics.quantiles(times, n=20)[-1] for times in (default, one))
    return statistics.median(default) / statistics.median(one), next(tails) / next(tails)


def main():
    square = np.random.default_rng(0).random((512, 512), np.float32)
    scenes = {
        "idle": (0, lambda: None),
        "one busy program": (1, lambda: None),
        "two busy programs": (2, lambda: None),
        "after a product": (0, lambda: square @ square),
    }
    cases, over = 0, 0
    for scene, (programs, before) in scenes.items():
        with spinning(programs):
            for size, shape in SHAPES.items():
                x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
                median, tail = ratios(x, before)
                bad = scene != "idle" and (median > MEDIAN or tail > TAIL)
                mark = "  over" if bad else ""
                print(f"{scene:18} {size:7} median {median:5.2f}  95 % {tail:5.2f}{mark}", flush=True)
                cases, over = cases + 1, over + bad
    print(f"{cases} cases")
    return over > 0


if __name__ == "__main__":
    sys.exit(main())
