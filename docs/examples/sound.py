"""A voice for the examples that listen."""

import numpy as np

RATE = 16000


def voice(seconds):
    """A vowel that glides up an octave from 200 Hz, with a vibrato and some breath: (samples, the pitch at each)."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 200 * 2 ** (t / seconds) * (1 + 0.01 * np.sin(2 * np.pi * 5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)) + 0.05 * np.random.default_rng(0).normal(size=len(t))
    return (0.3 * wave).astype(np.float32), pitch


def compare(heard, sung, seconds_apart):
    """Print nine moments of the two, and how far apart they are; return that as a median in cents."""
    sung = sung[: len(heard)]
    print(" time    sung      heard")
    for i in range(0, len(heard), max(len(heard) // 8, 1)):
        print(f"{i * seconds_apart:4.2f} s {sung[i]:6.1f} Hz {heard[i]:6.1f} Hz  {'.' * int(heard[i] / 10)}o")
    cents = float(np.median(1200 * np.abs(np.log2(heard / sung))))
    print(f"Half of the {len(heard)} moments are within {cents:.0f} cents (a semitone has 100).")
    return cents
