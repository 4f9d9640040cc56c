"""The compiled bridge: from torch's tensors, autograd and operators to normlib's kernels, without Python in between.

It is C++ against the headers of the torch that is there, so it is compiled where it runs: once for a version of torch,
of Python and of normlib, into the user's cache.
"""

import contextlib
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import torch

from ... import _kernels, backends
from ..._version import __version__

_NAME = "normlib_torch_bridge"
_SOURCES = Path(__file__).with_name("bridge")
_INCLUDE = Path(__file__).parents[2] / "include"

compiled: ModuleType | None = None
"""The bridge, once it is loaded."""
reason = "it is compiled at the first call of accelerate() or install(), or by `normlib bridge`"
"""Why there is none."""


def load(build: bool = False) -> ModuleType | None:
    """The bridge if it is there, and compiled before if need be; None otherwise, with the reason in `reason`."""
    global compiled, reason
    if compiled is None:
        try:
            compiled = _load(build)
        except _Missing as missing:
            reason = str(missing)
    return compiled


class _Missing(Exception):
    """There is no bridge, and why."""


def _load(build: bool) -> ModuleType:
    if os.environ.get("NORMLIB_TORCH_BRIDGE") == "0":
        raise _Missing("NORMLIB_TORCH_BRIDGE is 0")
    if _kernels.backend is None:
        raise _Missing("there are no compiled kernels")
    command = _command()
    path = cache() / f"{_NAME}-{_key(command)}.so"
    failure = path.with_suffix(".txt")
    if not path.exists():
        if failure.exists():
            raise _Missing(f"the compiler failed, see {failure}; `normlib bridge` tries again")
        if not build:
            raise _Missing(reason)
        _compile(command, path, failure)
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise _Missing(f"it cannot be loaded: {error}") from None
    from ..._kernels.outputs import allocator
    from ..._kernels.parallel import scoped
    from ...capi import table_address

    module.use(table_address(), backends._active, scoped, *allocator())
    return module


def cache() -> Path:
    """The folder in which compiled bridges lie."""
    if "NORMLIB_CACHE" in os.environ:
        return Path(os.environ["NORMLIB_CACHE"])
    try:
        own = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:
        raise _Missing("there is no home folder to keep it in; NORMLIB_CACHE names another") from None
    return Path(os.environ.get("XDG_CACHE_HOME") or own) / "normlib"


def _command() -> list[str]:
    """The call of the compiler, all but the output."""
    if sys.platform == "win32":
        raise _Missing("it is not built on Windows")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13):
        raise _Missing(f"it needs torch 2.13 or newer, this is {torch.__version__}")
    named = shlex.split(os.environ.get("CXX", ""))
    compiler = next((name for name in named[:1] or ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        raise _Missing("there is no C++ compiler")
    include = Path(torch.__file__).parent / "include"
    python = sysconfig.get_paths()["include"]
    if not (include / "torch" / "library.h").exists() or not (Path(python) / "Python.h").exists():
        raise _Missing("the headers of torch or of Python are not installed")
    folders = [include, include / "torch" / "csrc" / "api" / "include", python]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    library = Path(torch.__file__).parent / "lib"
    link = [f"-L{library}", f"-Wl,-rpath,{library}", "-lc10", "-ltorch_cpu", "-ltorch_python"]
    link += ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    system = [word for folder in folders for word in ("-isystem", str(folder))]
    own = [f"-I{_INCLUDE}", str(_SOURCES / "module.cpp")]
    return [compiler, *named[1:], "-std=c++20", "-O2", "-fPIC", "-shared", abi, *system, *own, *link]


def _key(command: list[str]) -> str:
    """What tells bridges apart: sources, compiler and versions."""
    key = hashlib.sha256("\0".join([*command, torch.__version__, sys.version, __version__]).encode())
    for source in (*sorted(_SOURCES.iterdir()), _INCLUDE / "normlib.h"):
        if source.is_file():
            key.update(source.read_bytes())
    return key.hexdigest()[:16]


def _compile(command: list[str], path: Path, failure: Path) -> None:
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # another process was quicker
                return
            print(f"normlib: compiling the bridge to torch {torch.__version__}, once", file=sys.stderr)
            made = Path(folder) / path.name
            result = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
            if result.returncode == 0:
                made.replace(path)
                return
        failure.write_text(result.stderr)
    except OSError as error:
        raise _Missing(f"it cannot be written to {path.parent}: {error.strerror}") from None
    raise _Missing(f"the compiler failed, see {failure}")


def forget_failures() -> None:
    """Let the next :func:`load` try again."""
    with contextlib.suppress(_Missing):
        for file in cache().glob(f"{_NAME}-*.txt"):
            file.unlink(missing_ok=True)


def state() -> str:
    """In words, which operators are in use, and why not the compiled ones."""
    return f"the compiled bridge, {compiled.__file__}" if compiled else f"operators in Python: {reason}"


load()
