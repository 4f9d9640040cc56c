"""
How near to a copy
==================

Normalizing an array should cost no more than copying it. Here is a small roofline of the machine that built this page:
bytes moved a second, over the size of the array, on one thread. ``normlib bench`` measures properly, in minutes.
"""

# %%
# The best of some rounds counts, since other programs only ever slow a round down.

import time

import matplotlib.pyplot as plt
import numpy as np

import normlib


def best(function, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def formula(x, out):
    """The same in NumPy, step by step."""
    np.subtract(x, x.mean(axis=1, keepdims=True), out=out)
    out /= np.sqrt((out * out).mean(axis=1, keepdims=True) + 1e-5)


contenders = {
    "np.copyto": lambda x, out: np.copyto(out, x),
    "normlib.layer_norm": lambda x, out: normlib.layer_norm(x, out=out),
    "normlib.rms_norm": lambda x, out: normlib.rms_norm(x, out=out),
    "NumPy, step by step": formula,
}

# %%
# A pass reads ``x`` once and writes ``out`` once, 8 bytes an element of float32. That is what counts here, also for
# NumPy, which in truth walks over memory five times.

rows = 2 ** np.arange(2, 15, 2)
speeds = {name: [] for name in contenders}
with normlib.num_threads(1):
    for count in rows:
        x = np.random.default_rng(0).standard_normal((count, 768), dtype=np.float32)
        out = np.empty_like(x)
        for name, function in contenders.items():
            seconds = best(lambda run=function, x=x, out=out: run(x, out), max(5, 20_000 // count))
            speeds[name].append(2 * x.nbytes / seconds / 1e9)

figure, panel = plt.subplots(figsize=(8, 4.5), layout="constrained")
for name, line in speeds.items():
    style = {"linestyle": "--", "color": "gray"} if name == "np.copyto" else {}
    panel.loglog(rows * 768 * 4 / 2**20, line, "o-" if not style else "o", label=name, markersize=4, **style)
panel.set(xlabel="MB of x", ylabel="GB read and written a second")
panel.legend()
panel.grid(alpha=0.3, which="both")
plt.show()

for name, line in speeds.items():
    print(f"{name:20}", " ".join(f"{speed:6.1f}" for speed in line))
