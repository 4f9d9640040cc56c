"""Which machine a run was on: what its page tells of it."""

import datetime
import platform

from normlib import _kernels
from normlib._machine import caches, cores

__all__ = ["machine"]


def machine() -> dict:
    """Return the processor, its caches, and what stands between it and normlib; what the system does not tell is None.

    Examples
    --------
    >>> from normlib.bench.machine import machine
    >>> sorted(machine())
    ['caches', 'cores', 'cpu', 'date', 'isa', 'openmp', 'python', 'system']
    """
    kernels, found = _kernels.info(), caches()
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "caches": {"L1": found.l1, "L2": found.l2, "LLC": found.llc},
        "isa": kernels.get("isa"),
        "openmp": kernels.get("openmp"),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": datetime.date.today().isoformat(),
    }


def _cpu(path: str = "/proc/cpuinfo") -> str | None:
    """The name of the processor; of family and model too, since the name may be short ("AMD EPYC")."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = dict(line.strip().split(":", 1) for line in file.read().partition("\n\n")[0].splitlines())
    except (OSError, ValueError):
        return platform.processor() or None
    found = {key.strip(): value.strip() for key, value in found.items()}
    name = found.get("model name") or platform.processor() or None
    family, model = found.get("cpu family"), found.get("model")
    return f"{name} (family {family}, model {model})" if name and family and model else name
