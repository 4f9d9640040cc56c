"""Timing: interleaved rounds, medians, and how far the clock can be trusted."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from normlib.bench.calls import Contender, arrays, call
from normlib.bench.cases import ITEMSIZE, Case
from normlib.bench.limit import COPIES, limits

__all__ = ["NOISY", "Budget", "Result", "measure", "time_interleaved"]

OURS = "normlib"
NOISY = 0.2  # spread of the limit's samples from which a case tells little
# Largest difference from ours, relative to the largest value. Wide enough for the least careful peer (sums of
# bfloat16 gradients in bfloat16, float64 through float32); another formula is off by far more.
TOLERANCE = {"float64": 1e-5, "float32": 1e-4, "float16": 2e-2, "bfloat16": 0.2}


@dataclass(frozen=True)
class Budget:
    """How long a case may take.

    A sample repeats a call until it lasts ``sample`` seconds; rounds go on until ``total`` seconds are spent,
    but ``rounds[0]`` at least and ``rounds[1]`` at most. What needs over ``slow`` times the shortest time and
    would hold up the rest takes part in the fewest rounds only.
    """

    total: float = 0.6
    sample: float = 1e-3
    rounds: tuple[int, int] = (5, 41)
    slow: float = 8.0


QUICK = Budget(total=0.15, sample=2e-4, rounds=(3, 21))


@dataclass
class Result:
    """What was measured of one case; ``seconds`` are medians by contender, ``noise`` is the limit's spread."""

    case: Case
    seconds: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    rounds: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> float:
        """Seconds that normlib took."""
        return self.seconds[OURS]

    @property
    def limit(self) -> float:
        """Seconds of the faster copy."""
        return min(self.seconds[name] for name in COPIES if name in self.seconds)

    @property
    def over_limit(self) -> float:
        """Our time over the limit's."""
        return self.ours / self.limit

    @property
    def peers(self) -> dict[str, float]:
        """Each peer's time over ours; below 1 the case is lost to it."""
        return {
            name: seconds / self.ours
            for name, seconds in self.seconds.items()
            if name != OURS and name not in COPIES and name != "np.add"
        }

    @property
    def noisy(self) -> bool:
        """Whether the clock was too restless to tell."""
        return self.noise > NOISY


def time_interleaved(
    contenders: dict[str, Contender],
    budget: Budget,
    *,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the samples, in seconds a call, of contenders that take turns.

    Parameters
    ----------
    contenders : dict
        What to time, by name.
    budget : Budget
        How long.
    pause : float
        Seconds to wait before each sample, so that the threads of the contender before have gone to sleep.
    clock : callable
        Seconds since some moment.
    """
    first = {}
    for name, contender in contenders.items():  # the first call pays for caches, pages and compilation
        with contender.around():
            contender.call()
            first[name] = _sample(contender, 1, clock)
    fastest = min(first.values())
    number = {name: max(1, min(int(budget.sample / max(seconds, 1e-9)), 100_000)) for name, seconds in first.items()}
    slow = {name for name, seconds in first.items() if seconds > max(budget.slow * fastest, 0.02)}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    least, most = budget.rounds
    end = clock() + budget.total
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(most):
            for name, contender in contenders.items():
                if name in slow and turn >= least:
                    continue
                if pause:
                    time.sleep(pause)
                with contender.around():
                    if first[name] < 0.02:  # bring its data back into cache
                        contender.call()
                    samples[name].append(_sample(contender, number[name], clock))
            if turn + 1 >= least and clock() > end:
                break
    finally:
        if collecting:
            gc.enable()
    return samples


def _sample(contender: Contender, number: int, clock: Callable[[], float]) -> float:
    function = contender.call
    turns = itertools.repeat(None, number)
    start = clock()
    for _ in turns:
        function()
    return (clock() - start) / number


def spread(samples: list[float]) -> float:
    """Return the distance between the quartiles over the median."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Return the largest difference relative to the largest value, of about a million elements an array."""
    if len(ours) != len(theirs):
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        step = a.size // 1_000_000 + 1
        a, b = (np.ascontiguousarray(v).reshape(-1)[::step].astype(np.float64) for v in (a, b))
        error = np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)
        worst = max(worst, float(error) if np.isfinite(error) else float("inf"))
    return worst


def measure(
    case: Case, peers: dict, threads: int, budget: Budget, *, clock: Callable[[], float] = time.perf_counter
) -> Result:
    """Measure one case: the limit, ours and every peer that computes the same.

    A peer whose outputs differ from ours beyond rounding is not timed; ``Result.refused`` says why.
    """
    given = arrays(case)
    ours = call(case, given)
    contenders = {**limits(case, given, threads), OURS: ours}
    result = Result(case)
    expected = None
    for name, peer in peers.items():
        contender = peer.prepare(case, given)
        if contender is None:
            continue
        if expected is None:
            expected = [array.copy() for array in ours.outputs(ours.call())]
        with contender.around():
            error = difference(expected, contender.outputs(contender.call()))
        if error > TOLERANCE[case.dtype]:
            result.refused[name] = f"differs from normlib by {error:.1e} of the largest value"
        else:
            contenders[name] = contender
    if case.one_row and not case.backward and case.dtype == "float32":
        x = given["x"]
        contenders["np.add"] = Contender(lambda: np.add(x, x))
    samples = time_interleaved(contenders, budget, pause=0.003 if threads > 1 else 0.0, clock=clock)
    result.seconds = {name: statistics.median(values) for name, values in samples.items()}
    fastest = min((name for name in COPIES if name in samples), key=result.seconds.__getitem__)
    result.noise = spread(samples[fastest])
    result.rounds = len(samples[OURS])
    return result


def fits(case: Case) -> bool:
    """Whether the arrays of the case and its peers' float64 temporaries fit into the free memory."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return True  # not Linux: let it try
    return case.size * (10 * ITEMSIZE[case.dtype] + 32) < free
