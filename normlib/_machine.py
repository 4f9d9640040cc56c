"""How busy the cores are with other programs."""

import os
import time


def cores() -> int:
    """How many cores this process may use."""
    return len(_allowed()) or os.cpu_count() or 1


def _allowed():
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()


class Others:
    """How many of the cores that this process may use other programs keep busy, since a moment."""

    def __init__(self) -> None:
        self.before = self._look()

    def busy(self) -> float | None:
        """The number of cores, a mean over the time since the beginning; None where the system does not tell."""
        (start, all_before, own_before), (end, all_now, own_now) = self.before, self._look()
        if all_before is None or all_now is None or end <= start:
            return None
        return min(max(0.0, (all_now - all_before - (own_now - own_before)) / (end - start)), float(cores()))

    def _look(self):
        return time.perf_counter(), _busy_seconds(), time.process_time()


def _busy_seconds(path="/proc/stat"):
    """What the allowed cores have worked so far (Linux); what a host of virtual machines took counts as work."""
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file if line.startswith("cpu")]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    allowed = {f"cpu{core}" for core in _allowed()}
    total = 0
    for name, *columns in lines:
        if name in allowed:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            total += user + nice + system + irq + softirq + steal
    return total / ticks
