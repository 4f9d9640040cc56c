"""Timing: interleaved rounds, medians, and how far the clock can be trusted."""

import contextlib
import functools
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from normlib._machine import Others, cores
from normlib.bench.calls import Contender, arrays, call
from normlib.bench.cases import ITEMSIZE, Case
from normlib.bench.limit import COPIES, limits
from normlib.threads import get_num_threads, set_num_threads

__all__ = ["NOISY", "Budget", "Result", "measure", "time_interleaved"]

OURS = "normlib"
ALONE = "normlib, one thread"
LONG = 0.02  # seconds of a call over which it is measured one by one, and cold as it is
SETTLED = 8  # calls after which the data of a contender is back in the caches: some of megabytes takes several
ADD = "np.add"  # of the same row: what a call that does next to nothing costs from Python
SHARED = 0.25  # of a core: what others may use of ours before a row is marked
NOISY = 0.2  # spread of the samples from which a case tells little
# Largest difference from ours relative to the largest value, in the output and in parameter gradients. Wide enough
# for the least careful peer (statistics of a million values in plain float32, float64 through float32, gradients
# of 32768 rows summed in bfloat16); another formula is off by far more.
TOLERANCE = {"float64": (1e-5, 1e-5), "float32": (1e-3, 1e-3), "float16": (0.02, 0.1), "bfloat16": (0.05, 0.5)}

AWAY_FROM_KINK = 0.98  # of the elements: where rounding moves a value across 0, a rectifier has another gradient


@dataclass(frozen=True)
class Budget:
    """How long a case may take.

    A sample repeats a call until it lasts ``sample`` seconds, after calls of at most ``settle`` seconds that bring
    its data back into the caches; rounds go on until ``total`` seconds are spent, but ``rounds[0]`` at least and
    ``rounds[1]`` at most. What needs over ``slow`` times the shortest time and would hold up the rest is timed
    before the rounds, and then sits out: there are no doubts about its place.
    """

    total: float = 0.6
    sample: float = 1e-3
    settle: float = 4e-3
    rounds: tuple[int, int] = (5, 41)
    slow: float = 8.0


QUICK = Budget(total=0.15, sample=2e-4, settle=1e-3, rounds=(3, 21))


@dataclass
class Result:
    """What was measured of one case; ``seconds`` are medians by contender, ``noise`` the spread of limit or ours."""

    case: Case
    seconds: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    rounds: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    others: float | None = None  # cores that other programs kept busy meanwhile
    shared: bool = False  # and whether one of them was wanted

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
            if name not in (OURS, ALONE, ADD, *COPIES)
        }

    @property
    def speedup(self) -> float | None:
        """Our time on one thread over our time on those of the run, None where that is one."""
        return self.seconds[ALONE] / self.ours if ALONE in self.seconds else None

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
    contenders = {name: contender._replace(call=written_out(contender.call)) for name, contender in contenders.items()}
    first = {}
    for name, contender in contenders.items():  # the first call pays for caches, pages and compilation
        with contender.around():
            first[name] = min(_sample(contender, 1, clock) for _ in range(2))
    fastest = min(first.values())
    number = {name: _calls_within(budget.sample, seconds, 100_000) for name, seconds in first.items()}
    settling = {name: _calls_within(budget.settle, seconds, SETTLED) for name, seconds in first.items()}
    slow = {name for name, seconds in first.items() if seconds > max(budget.slow * fastest, LONG)}
    samples = {name: [first[name]] if name in slow else [] for name in contenders}
    least, most = budget.rounds
    end = clock() + budget.total
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(most):
            for name, contender in contenders.items():
                if name in slow:
                    continue
                if pause:
                    time.sleep(pause)
                with contender.around():
                    if first[name] < LONG:
                        _sample(contender, settling[name], clock)
                    samples[name].append(_sample(contender, number[name], clock))
            if turn + 1 >= least and clock() > end:
                break
    finally:
        if collecting:
            gc.enable()
    return samples


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep normlib to one thread."""
    before = get_num_threads()
    set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(before)


def written_out(bound: Callable) -> Callable:
    """Return a partial as the call that a user writes: with keywords it fills a dictionary each time."""
    if not isinstance(bound, functools.partial) or not bound.keywords:
        return bound
    values = {f"value_{n}": value for n, value in enumerate([*bound.args, *bound.keywords.values()])}
    names = [""] * len(bound.args) + [f"{name}=" for name in bound.keywords]
    source = ", ".join(name + value for name, value in zip(names, values, strict=True))
    return eval(f"lambda: function({source})", {"function": bound.func, **values})


def _calls_within(limit: float, seconds: float, most: int) -> int:
    """Return how many calls of so many seconds fit into the limit; at least one."""
    return max(1, min(int(limit / max(seconds, 1e-9)), most))


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


def difference(ours: np.ndarray, theirs: np.ndarray, share: float = 1.0) -> float:
    """Return the largest difference in this share of about a million elements, relative to the largest value."""
    if ours.shape != theirs.shape:
        return float("inf")
    step = ours.size // 1_000_000 + 1
    a, b = (np.ascontiguousarray(v).reshape(-1)[::step].astype(np.float64) for v in (ours, theirs))
    error = np.quantile(np.abs(a - b), share) / max(np.abs(a).max(), 1e-30)
    return float(error) if np.isfinite(error) else float("inf")


def disagreement(case: Case, ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    """Return how the outputs of a peer differ from ours beyond rounding, nothing if they do not."""
    if len(ours) != len(theirs):
        return f"returns {len(theirs)} arrays, normlib {len(ours)}"
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        error = difference(a, b, AWAY_FROM_KINK if case.backward and case.activation in ("relu", "leaky_relu") else 1.0)
        if error > TOLERANCE[case.dtype][index > 0]:
            what = "a parameter gradient" if index else "the output"
            return f"{what} differs from normlib's by {error:.1e} of the largest value"
    return ""


def measure(
    case: Case, peers: dict, threads: int, budget: Budget, *, clock: Callable[[], float] = time.perf_counter
) -> Result:
    """Measure one case: the limit, ours (with several threads also on one) and every peer that computes the same.

    A peer whose outputs differ from ours beyond rounding, or that fails, is not timed; ``Result.refused`` says why.
    """
    given = arrays(case)
    ours = call(case, given)
    contenders = {**limits(case, given, threads), OURS: ours}
    if threads > 1:
        contenders[ALONE] = ours._replace(around=one_thread)
    result = Result(case)
    expected = [array.copy() for array in ours.outputs(ours.call())] if peers else []
    for name, peer in peers.items():
        try:
            contender = peer.prepare(case, given)
            if contender is None:
                continue
            with contender.around():
                refusal = disagreement(case, expected, contender.outputs(contender.call()))
        except Exception as error:  # one peer's limits must not end the run
            refusal = f"{type(error).__name__}: {error!s:.120}".partition("\n")[0]
        if refusal:
            result.refused[name] = refusal
        else:
            contenders[name] = contender
    if case.one_row and not case.backward and case.dtype == "float32":
        x = given["x"]
        contenders[ADD] = Contender(functools.partial(np.add, x, x))
    others = Others()
    samples = time_interleaved(contenders, budget, pause=0.003 if threads > 1 else 0.0, clock=clock)
    result.others = others.busy()
    result.shared = result.others is not None and threads + result.others > cores() + SHARED
    result.seconds = {name: statistics.median(values) for name, values in samples.items()}
    fastest = min((name for name in COPIES if name in samples), key=result.seconds.__getitem__)
    result.noise = max(spread(samples[fastest]), spread(samples[OURS]))
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
