"""Another build of normlib, from another directory: before and after a change, on the same arrays.

Two processes would differ by where the pages of each lie, which changes the time of short passes by up to half.
"""

import importlib
import sys
from functools import partial
from pathlib import Path

import numpy as np

from normlib.bench.calls import Contender, call
from normlib.bench.cases import Case
from normlib.ops import OPS


class Peer:
    """The normlib of a directory, called as ours is."""

    def __init__(self, threads: int, directory: str):
        self.other = _load(directory)
        self.other.set_num_threads(threads)
        self.version = f"{self.other.__version__} in {directory}"

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the case with the function of the other build, None where it has none."""
        ours = call(case, given)
        function = getattr(self.other, ours.call.func.__name__, None)
        return function and ours._replace(call=partial(function, *ours.call.args, **ours.call.keywords))


def _load(directory: str):
    """Import a second normlib; the first remains the one that `import` finds."""
    if not (Path(directory) / "normlib" / "__init__.py").is_file():
        raise ImportError(f"there is no package normlib in {directory}")
    own = _forgotten()
    sys.path.insert(0, directory)
    try:
        other = importlib.import_module("normlib")
        x = np.ones((2, 2, 2))
        for op in OPS.values():  # a first call imports the rest
            getattr(other, op.name)(x, *[1] * op.has_groups)
        return other
    finally:
        sys.path.remove(directory)
        _forgotten()
        sys.modules.update(own)


def _forgotten():
    """The modules of normlib, which `import` finds no longer."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "normlib"}
