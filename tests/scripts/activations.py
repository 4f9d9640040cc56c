"""Activation functions without haste: what test_activations.py compares with.

Run as a program it tries every float32 from 2^-20 to 128 and their negatives, at one ISA level, within minutes; what is
smaller is as if it were linear, and what is larger gives 0, 1 or itself: python tests/scripts/activations.py v4
"""

import importlib
import sys

import mpmath
import numpy as np
from scipy import special

from normlib.description import ACTIVATIONS

NAMES = ("sigmoid", "silu", "gelu", "gelu_tanh")


def in_float64(name, slope, v):
    """The function of a float64 array to some 1e-15, and the larger of the terms that its slope is the sum of."""
    if name == "gelu":
        share, rise = special.ndtr(v), v * np.exp(-v * v / 2) / np.sqrt(2 * np.pi)
    else:
        cubic = 0.044715 if name == "gelu_tanh" else 0
        scale = np.sqrt(8 / np.pi) if name == "gelu_tanh" else 1
        z, steep = scale * (v + cubic * v**3), scale * (v + 3 * cubic * v**3)
        share = special.expit(z)
        rise = (1 if name == "sigmoid" else steep) * share * special.expit(-z)
    if name == "sigmoid":
        return (rise, rise) if slope else (share, share)
    return (share + rise, np.maximum(share, np.abs(rise))) if slope else (v * share, v * share)


def exact(name, slope, v):
    """The same of one number, with 60 digits."""
    with mpmath.workdps(60):
        v = mpmath.mpf(float(v))
        if name == "gelu":
            share, rise = mpmath.erfc(-v / mpmath.sqrt(2)) / 2, v * mpmath.npdf(v)
        else:
            cubic = mpmath.mpf("0.044715") if name == "gelu_tanh" else 0
            scale = mpmath.sqrt(8 / mpmath.pi) if name == "gelu_tanh" else 1
            e = mpmath.exp(-scale * (v + cubic * v**3))
            share = 1 / (1 + e)
            rise = (1 if name == "sigmoid" else scale * (v + 3 * cubic * v**3)) * e / (1 + e) ** 2
        if name == "sigmoid":
            return (rise, rise) if slope else (share, share)
        return (share + rise, max(share, abs(rise))) if slope else (v * share, v * share)


def ulps(found, value, term, slope):
    """The error in ulps: of a slope, in those of the largest of it and its terms."""
    info = np.finfo(found.dtype)
    largest = np.maximum(np.abs(value), np.abs(term)) if slope else np.abs(value)
    exponent = np.maximum(np.frexp(np.float64(largest))[1], info.minexp + 1)
    return np.abs(found.astype(np.float64) - value) / np.ldexp(1.0, exponent - info.nmant - 1)


def main(level):
    activated = importlib.import_module(f"normlib._kernels.isa_{level}").activated
    low, high = np.array([2.0**-20, 128], np.float32).view(np.uint32)
    for name in NAMES:
        for slope in (False, True):
            worst = (0.0, 0.0)
            for first in range(low, high, 1 << 20):
                size = np.arange(first, first + (1 << 20), dtype=np.uint32).view(np.float32)
                v = np.concatenate([size, -size])
                found = v.copy()
                activated(found, 1 + ACTIVATIONS.index(name), slope)
                errors = ulps(found, *in_float64(name, slope, v.astype(np.float64)), slope)
                worst = max(worst, (errors.max(), float(v[errors.argmax()])))
            print(f"{name:10} {'slope' if slope else '':6} {worst[0]:.3f} ulps at {worst[1]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
