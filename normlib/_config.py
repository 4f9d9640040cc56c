"""What this installation is made of and what it uses."""

import platform
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from . import _kernels, backends
from ._machine import Others, cores
from ._version import __version__
from .description import DTYPES
from .threads import get_num_threads

LOOK = 0.1  # seconds for which `show_config` watches the cores


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the version, backends, ISA level, OpenMP runtime, threads and dtypes in use.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Whether to print, or to return a dict, as :func:`numpy.show_config` does.

    Returns
    -------
    dict or None
        With ``mode="dicts"``: "normlib", "python", "numpy" (versions), "backend" (in use), "backends" (all),
        "compiled" (whether the extension is there, or why not, or why in part), "isa" and "isa_available" (ISA
        levels of the extension), "openmp" (its runtime), "caches" (bytes that the kernels go by: "l1", "l2", "llc",
        "line", "page", "thread", and how many cores share a cache), "threads", "cores" (those that this process may
        use), "busy" (how many of them other programs kept busy for a moment, None where the system does not tell),
        "dtypes" and "torch" (how torch's tensors reach the kernels, None where it is not installed).

    Examples
    --------
    >>> import normlib
    >>> normlib.show_config("dicts")["dtypes"][:2]
    ['float64', 'float32']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"show_config: mode is {mode!r}, expected 'stdout' or 'dicts'")
    found = _config()
    if mode == "dicts":
        found["caches"] = found["caches"] and found["caches"]._asdict()
        return found
    busy = found.pop("busy")
    found["cores"] = f"{found['cores']}" + ("" if busy is None else f", {busy:.1f} of them busy with other programs")
    for name, value in found.items():
        print(f"{name + ':':<15} {_text(value)}")
    return None


def get_include() -> str:
    """The folder of ``normlib.h``, the header of the C interface; as :func:`numpy.get_include`.

    Returns
    -------
    str

    Examples
    --------
    >>> import os, normlib
    >>> os.listdir(normlib.get_include())
    ['normlib.h']
    """
    return str(Path(__file__).with_name("include"))


def _text(value):
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "none" if value is None else "yes" if value is True else str(value)


def _config():
    reason, others = backends.missing(), Others()
    time.sleep(LOOK)
    kernels = _kernels.info()
    return {
        "normlib": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "backend": backends.active().name,
        "backends": backends.available(),
        "compiled": f"no: {reason}" if reason else _all_of_them(kernels["left_out"]),
        "isa": kernels["isa"],
        "isa_available": kernels["isa_available"],
        "openmp": kernels["openmp"],
        "caches": kernels["caches"],
        "threads": get_num_threads(),
        "cores": cores(),
        "busy": others.busy(),
        "dtypes": [name for name in DTYPES if name != "bfloat16" or find_spec("ml_dtypes")],
        "torch": _torch(),
    }


def _all_of_them(left_out):
    return True if left_out is None else f"in part: {left_out}"


def _torch():
    if find_spec("torch") is None:
        return None
    try:
        from .interop.torch import _bridge
    except ImportError as error:
        return f"cannot be imported: {error}"
    return _bridge.state()
