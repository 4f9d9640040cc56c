"""The machine: its caches, and how busy its cores are with other programs."""

import os
import re
import time
from typing import NamedTuple

SYSFS = "/sys/devices/system/cpu"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MOST = 1 << 40  # bytes of a cache


class Caches(NamedTuple):
    """The data caches of the first core that this process may use, in bytes; where the system does not tell, these."""

    l1: int = 32 << 10
    l2: int = 1 << 20
    llc: int = 32 << 20
    l2_cores: int = 1  # that share it
    llc_cores: int = 1
    line: int = 64
    page: int = 4096
    thread: int = 1 << 20  # memory traffic that is worth one more thread

    def __str__(self) -> str:
        shared = [f" for {cores} cores" if cores > 1 else "" for cores in (1, self.l2_cores, self.llc_cores)]
        sizes = zip(("L1", "L2", "LLC"), self[:3], shared, strict=True)
        caches = ", ".join(f"{name} {in_units(size)}{cores}" for name, size, cores in sizes)
        return f"{caches}; lines of {self.line} bytes, pages of {self.page}"


def caches(ask=dict, root: str = SYSFS) -> Caches:
    """What sysfs says, else the system's own functions (`ask`), and before both ``NORMLIB_CACHES``.

    Hyper-threads are not counted as cores. Where there is no L3, L2 is the LLC.
    """
    found = _in_sysfs(root) or _asked(ask())
    if hasattr(os, "sysconf"):
        found["page"] = os.sysconf("SC_PAGE_SIZE")
    if "llc" not in found and "l2" in found:
        found["llc"], found["llc_cores"] = found["l2"], found.get("l2_cores", 1)
    return Caches(**found)._replace(**wanted(os.environ.get("NORMLIB_CACHES", "")))


def wanted(text: str) -> dict[str, int]:
    """The sizes in a text such as "L1=32K,L2=1M,LLC=32M"; THREAD is one too."""
    found = {}
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"\s*(L1|L2|LLC|THREAD)\s*=\s*(\d{1,13})([KMG]?)B?\s*", part, re.I | re.A)
        if not match or not 1 <= (size := int(match[2]) * UNITS[match[3].upper()]) <= MOST:
            raise ValueError(f"NORMLIB_CACHES is {text!r}, expected sizes such as 'L1=32K,L2=1M,LLC=32M,THREAD=1M'")
        found[match[1].lower()] = size
        if match[1].upper() in ("L2", "LLC"):
            found[f"{match[1].lower()}_cores"] = 1
    return found


def _in_sysfs(root):
    """Of the first core that this process may use (Linux); cores may differ."""
    core, found, siblings = min(_allowed(), default=0), {}, 1
    for index in range(8):
        cache = f"{root}/cpu{core}/cache/index{index}"
        try:
            if _read(f"{cache}/type") not in ("Data", "Unified"):
                continue
            level, size, line = (_read(f"{cache}/{name}") for name in ("level", "size", "coherency_line_size"))
            name = {"1": "l1", "2": "l2"}.get(level, "llc")
            found[name], shared = int(size[:-1]) * UNITS[size[-1]], _count(_read(f"{cache}/shared_cpu_list"))
            if name == "l1":
                siblings, found["line"] = shared, int(line)
            else:
                found[f"{name}_cores"] = max(1, shared // siblings)
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return found


def _read(path):
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 4096).decode("ascii").strip()
    finally:
        os.close(file)


def _count(ranges):
    """How many numbers there are in a text such as "0-3,8"."""
    ends = [part.split("-") for part in ranges.split(",")]
    return sum(int(pair[-1]) - int(pair[0]) + 1 for pair in ends)


def _asked(found):
    """On some processors sysconf counts the LLC of all sockets, more than a core can use."""
    return {name: min(size, Caches().llc) if name == "llc" else size for name, size in found.items()}


def in_units(size: int) -> str:
    """In the largest unit that leaves a whole number, or one digit."""
    unit = next(unit for unit in "GMK" if size >= UNITS[unit] or unit == "K")
    return f"{size / UNITS[unit]:.4g} {unit}B"


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
