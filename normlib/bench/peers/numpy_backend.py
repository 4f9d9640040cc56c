"""normlib's own NumPy backend: what the same maths costs without compiled code."""

import functools

import numpy as np

from normlib import backends
from normlib.bench.calls import Contender, call
from normlib.bench.cases import LARGE, Case


class Peer:
    """The NumPy backend, called through the public functions."""

    version = np.__version__

    def __init__(self, threads: int):
        pass

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the case on the NumPy backend.

        None where that is the backend measured, and out of cache, where it alone would take longer than the rest of the
        run and comes out as it does in cache.
        """
        if backends.which("layer_norm") == "numpy" or case.bytes > LARGE:
            return None
        ours = call(case, {**given, "out": None if given["out"] is None else np.empty_like(given["out"])})
        return ours._replace(around=functools.partial(backends.use, "numpy"))
