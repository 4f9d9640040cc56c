"""
Statistics of data in chunks
============================

Data that do not fit in memory come in chunks, and their mean may drift on the way. :class:`normlib.Moments` merges
count, mean and variance exactly. Averages of the chunks' variances, which running statistics are, miss what lies
between the chunks.
"""

# %%
# A simulated barometer, in pascal: 200 chunks of 1000 readings, while a low moves off and the mean climbs by 200.

import matplotlib.pyplot as plt
import numpy as np

import normlib

rng = np.random.default_rng(0)
chunks = [rng.normal(101_000 + i, 20, 1000) for i in range(200)]

total, squares, average = normlib.Moments(), np.zeros(2, np.float32), 0.0
merged, averaged, familiar, truth = [], [], [], []
for i, chunk in enumerate(chunks, 1):
    total.update(chunk)
    merged.append(float(total.var))
    average += (chunk.var() - average) / i
    averaged.append(average)
    squares += np.float32([chunk.sum(), (chunk**2).sum()])  # the familiar way: E[x^2] - E[x]^2, in float32
    familiar.append(squares[1] / np.float32(1000 * i) - (squares[0] / np.float32(1000 * i)) ** 2)
    truth.append(np.var(np.concatenate(chunks[:i])))

figure, panel = plt.subplots(figsize=(8, 4), layout="constrained")
panel.plot(familiar, color="C3", linewidth=0.8, label="E[x²] - E[x]², in float32")
panel.plot(averaged, color="C1", label="average of the chunks' variances")
panel.plot(merged, color="C0", linewidth=3, label="Moments")
panel.plot(truth, ":", color="black", label="all data at once")
panel.set(ylim=(0, 5000), xlabel="chunk", ylabel="variance so far, in Pa²")
panel.legend()
panel.grid(alpha=0.3)
plt.show()

print(f"Moments {merged[-1]:.6f}, all at once {truth[-1]:.6f}")
print(f"average of variances {averaged[-1]:.2f}, in float32 {familiar[-1]:.2f}")
assert np.isclose(merged[-1], truth[-1], rtol=1e-13)

# %%
# Others can take in some of the chunks, in any order; who took which does not change a bit.

there, here = normlib.Moments(), normlib.Moments()
for i in rng.permutation(200):
    (there if i % 3 else here).update(chunks[i], index=i)
assert here.merge(there).var == total.var
