"""Which machine a run was on: what its page tells of it."""

import datetime
import platform
from pathlib import Path

from normlib import _kernels
from normlib._machine import cores

__all__ = ["machine"]


def machine() -> dict:
    """Return the processor, its caches, and what stands between it and normlib; what the system does not tell is None.

    Examples
    --------
    >>> from normlib.bench.machine import machine
    >>> sorted(machine())
    ['caches', 'cores', 'cpu', 'date', 'isa', 'openmp', 'python', 'system']
    """
    kernels = _kernels.info()
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "caches": _caches(),
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


def _caches(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, int] | None:
    """The bytes of each cache that holds data, by level."""
    found = {}
    for index in sorted(Path(folder).glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                found[f"L{level}"] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return found or None
