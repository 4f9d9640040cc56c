"""What cannot be known of a machine but by measuring it, beside what the rules of the kernels assume (``--tune``)."""

import contextlib
import functools
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import normlib
from normlib import _kernels
from normlib._machine import UNITS, Caches, Others, cores, in_units
from normlib._progress import Progress
from normlib.bench.calls import Contender
from normlib.bench.figures import geometric_mean
from normlib.bench.runner import SHARED, Budget, time_interleaved

__all__ = ["command"]

BUDGET = Budget(total=1.0, sample=1e-3, settle=4e-3, rounds=(5, 25))
TOLERATED = 1.1  # times the better choice: less is told apart from noise on a quiet machine alone
SEEN = 1.1  # times the speed of memory: a cache that is there
COLS = 1024  # of the rows that are normalized


def command() -> int:
    """Measure this machine, and print for each rule whether it is right here; in half a minute."""
    caches = _kernels.info()["caches"]
    if caches is None:
        print("--tune: there are no compiled kernels to measure", file=sys.stderr)
        return 2
    print(f"caches: {caches}\n")
    others = Others()
    for part in (_copies, _streams, _hand_over):
        lines, verdict = part(caches)
        print(*lines, f"=> {verdict}\n", sep="\n", flush=True)
    if (busy := others.busy()) is not None and busy > SHARED:
        print(f"Other programs kept {busy:.1f} cores busy meanwhile: measure again when they do not.")
    return 0


@contextlib.contextmanager
def _with(**thresholds: int) -> Iterator[None]:
    """Other thresholds than those that follow from the caches."""
    from normlib._kernels import machine

    before = machine.thresholds()
    machine.override(**thresholds)
    try:
        yield
    finally:
        machine.override(**before)


def _times(contenders: dict[str, Contender], *, pause: float = 0.0) -> dict[str, float]:
    """Median seconds of a call of each."""
    return {name: statistics.median(found) for name, found in time_interleaved(contenders, BUDGET, pause=pause).items()}


def _copies(caches: Caches) -> tuple[list[str], str]:
    """Speeds of copies in each cache, and whether the LLC is as large as the system says."""
    places = {
        "L1": caches.l1 // 2,
        "L2": caches.l2 // 2,
        "LLC, half of it": caches.llc // 2,
        "memory": 4 * caches.llc,
    }
    lines, speeds = [f"{'copies on one thread':22} {'moved':>8} {'plain':>10} {'streaming':>10}  GB/s"], {}
    for name, size in places.items():
        plain, streaming = speeds[name] = _copy_speeds(size)
        lines.append(f"  in {name:17} {in_units(size):>8} {plain:10.1f} {streaming:10.1f}")
    memory = max(speeds["memory"])
    if speeds["LLC, half of it"][0] >= SEEN * memory:
        return lines, f"right: an LLC of {in_units(caches.llc)} is seen"
    size = caches.llc // 4
    while size > caches.l2 and _copy_speeds(size)[0] < SEEN * memory:
        size //= 2
    return lines, f"off: no LLC of {in_units(caches.llc)} is seen; try NORMLIB_CACHES=LLC={_short(2 * size)}"


def _copy_speeds(size: int) -> tuple[float, float]:
    """GB/s of plain and of streaming stores, where so many bytes are read and written; without the call itself."""
    source, target = (np.ones(max(16, size // 8), np.float32) for _ in range(2))
    calls = {
        "plain": functools.partial(_kernels.copy, target, source, False, 1),
        "streaming": functools.partial(_kernels.copy, target, source, True, 1),
        "call": functools.partial(_kernels.copy, target[:1], source[:1], False, 1),
    }
    times = _times({name: Contender(function) for name, function in calls.items()})
    plain, streaming = (max(times[name] - times["call"], 1e-9) for name in ("plain", "streaming"))
    return 2 * source.nbytes / plain / 1e9, 2 * source.nbytes / streaming / 1e9


def _rows(moved: int) -> Callable[[], Any]:
    """A layer norm that moves so many bytes."""
    x = np.ones((max(1, moved // (8 * COLS)), COLS), np.float32)
    x += np.arange(COLS, dtype=np.float32)
    return functools.partial(normlib.layer_norm, x, out=np.ones_like(x))


def _streams(caches: Caches) -> tuple[list[str], str]:
    """From which size on outputs past the caches take less time."""
    from normlib._kernels import machine

    rule = machine.thresholds()["stream"]
    sizes = [rule * share // 8 for share in (2, 4, 6, 7, 8, 10, 12, 16, 32)]

    def ratio(moved):
        call = _rows(moved)
        with normlib.num_threads(1):
            times = _times({
                "through": Contender(call, around=functools.partial(_with, stream=sys.maxsize)),
                "past": Contender(call, around=functools.partial(_with, stream=1)),
            })
        return times["past"] / times["through"]

    ratios = _measured(sizes, ratio, "streaming stores")
    head = "layer norm, one thread: time with streaming stores over time without, by the bytes that it moves"
    return _judged(head, ratios, rule, lambda size: f"LLC={_short(size * 4 // 3)}")


def _hand_over(caches: Caches) -> tuple[list[str], str]:
    """What a second thread costs, and from which size on it pays."""
    if cores() < 2:
        return ["a second thread"], "not measured: this process may use one core"
    few = np.ones(64, np.float32)
    one, two = (functools.partial(_kernels.copy, few, few.copy(), False, threads) for threads in (1, 2))
    times = _times({"one": Contender(one), "two": Contender(two)})
    micros = max(0.0, 1e6 * (times["two"] - times["one"]))
    rule = 2 * caches.thread

    def ratio(moved):
        call = _rows(moved)
        with normlib.num_threads(2):
            times = _times({
                "one": Contender(call, around=functools.partial(_with, thread=sys.maxsize // 4)),
                "two": Contender(call, around=functools.partial(_with, thread=1)),
            })
        return times["two"] / times["one"]

    ratios = _measured([rule * share // 8 for share in (2, 4, 7, 8, 12, 16, 32)], ratio, "a second thread")
    head = f"a second thread: {micros:.1f} us to hand work over; layer norm: time on two threads over time on one"
    return _judged(head, ratios, rule, lambda size: f"THREAD={_short(size // 2)}")


def _measured(sizes, ratio, label):
    with Progress(len(sizes)) as progress:
        found = {}
        for index, size in enumerate(sizes):
            progress.show(index, label)
            found[size] = ratio(size)
        return found


def _judged(head, ratios, rule, setting):
    """The lines of a threshold, and the verdict: right, where the other choice is clearly better at no size."""
    lines = [head]
    for size, ratio in ratios.items():
        lines.append(f"  {in_units(size):>9} {ratio:6.2f}{'  the rule: from here on' * (size == rule)}")
    worst = max(_losses(ratios, rule))
    if worst <= TOLERATED:
        return lines, f"right: it takes at most {worst:.2f} times the other choice's time"
    best = min([*ratios, 2 * max(ratios)], key=lambda start: _cost(ratios, start))
    if _cost(ratios, best) > _cost(ratios, rule) / 1.02:
        return lines, f"right on the whole: up to {worst:.2f} times the other choice's time, but none is better"
    return lines, f"off: it takes up to {worst:.2f} times the other choice's time; try NORMLIB_CACHES={setting(best)}"


def _cost(ratios, start):
    """The mean loss of the rule that begins there against the better choice at each size."""
    return geometric_mean(max(1.0, loss) for loss in _losses(ratios, start))


def _losses(ratios, start):
    """Time over that of the other choice, at each size."""
    return [ratio if size >= start else 1 / ratio for size, ratio in ratios.items()]


def _short(size: int) -> str:
    """As NORMLIB_CACHES takes it."""
    return f"{round(size / UNITS['M'])}M" if size >= 4 * UNITS["M"] else f"{max(1, round(size / UNITS['K']))}K"
