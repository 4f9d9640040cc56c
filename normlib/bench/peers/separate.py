"""A fused pass in steps: our norm, NumPy's ufuncs for sums and rectifiers, torch's smooth activations."""

from dataclasses import replace

import numpy as np

import normlib
from normlib.bench.calls import Contender, call
from normlib.bench.cases import Case
from normlib.bench.peers import steps
from normlib.bench.runner import written_out

RECTIFIERS = {"relu": 0, "leaky_relu": 0.01}


class Peer:
    """Separate calls of normlib, of NumPy and, for smooth activations, of torch."""

    version = normlib.__version__

    def __init__(self, threads: int):
        self.threads = threads

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the steps, None for plain passes and for smooth activations without torch."""
        if not case.fused:
            return None
        activation = ()
        if case.activation in RECTIFIERS:
            activation = _rectifier(RECTIFIERS[case.activation], given["x"])
        elif case.activation:
            try:
                from normlib.bench.peers.pytorch import ACTIVATIONS, Peer, tensor
            except ImportError:
                return None
            Peer(self.threads)
            itself, gradient = ACTIVATIONS[case.activation]
            activation = (lambda v: itself(tensor(v))), (lambda *arrays: gradient(*map(tensor, arrays)))

        def norm(given):
            ours = call(replace(case, fused=()), given)
            return written_out(ours.call), ours.outputs

        return Contender(*steps.chained(case, given, norm, (np.add, *activation)))


def _rectifier(slope: float, like: np.ndarray) -> tuple:
    """Return max(v, slope * v) in place, and its gradient: without masks, which take NumPy ten times as long."""
    one, zero, slope = like.dtype.type(1), like.dtype.type(0), like.dtype.type(slope)
    positive, scaled = np.empty(like.shape, bool), np.empty_like(like) if slope else zero

    def itself(v):
        if slope:
            np.multiply(v, slope, out=scaled)
        np.maximum(v, scaled, out=v)

    def gradient(dy, v, out):
        factor = np.greater(v, zero, out=positive)
        if slope:
            factor = np.multiply(positive, one - slope, out=scaled)
            np.add(factor, slope, out=factor)
        np.multiply(dy, factor, out=out)

    return itself, gradient
