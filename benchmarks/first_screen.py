"""The table on the README's first screen: times beside those of other libraries, losses included, and errors.

    python -m benchmarks.first_screen            # a few minutes on a machine that does nothing else

One run of ``normlib bench`` over the cases below, and one of ``benchmarks.from_others``: ratios in one process.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import normlib
from benchmarks.from_others import DEVIATION, LENGTH, OFFSET, ROWS, measure

CASES = (  # (case of normlib bench, in words)
    ("rms_norm forward Llama-2-7B 1x4096 rows", "RMSNorm, one token of Llama 2, 1 x 4096"),
    ("layer_norm forward BERT-base 128x768 rows", "LayerNorm, BERT, 128 x 768"),
    ("layer_norm backward GPT-2 small, training batch 32768x768 rows", "LayerNorm, backward, GPT-2, 32768 x 768"),
    ("batch_norm forward ResNet-50, batch 32x256x56x56 channels_first", "BatchNorm in training, 32 x 256 x 56 x 56"),
    ("group_norm forward Stable Diffusion UNet 2x320x64x64 channels_first", "GroupNorm, 2 x 320 x 64 x 64"),
    ("instance_norm forward fast neural style 1x64x128x128 channels_first", "InstanceNorm, 1 x 64 x 128 x 128"),
    ("instance_norm backward StyleGAN AdaIN 4x512x4x4 channels_first", "InstanceNorm, backward, images of 4 x 4"),
    ("batch_norm forward eval Barlow Twins projector 2048x8192 dense", "BatchNorm in evaluation, dense, 2048 x 8192"),
    ("layer_norm backward growth 8192x64 rows", "LayerNorm, backward, 8192 x 64"),
)
PEERS = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "jax": "JAX"}


def bench(names):
    """What ``normlib bench`` measures of the cases, by name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        words = ",".join(name.replace(",", " ") for name in names)
        command = [sys.executable, "-m", "normlib", "bench", "--threads", "1", "--peers", ",".join(PEERS)]
        subprocess.run([*command, "--only", words, "--json", str(file)], check=True, stdout=subprocess.DEVNULL)
        found = json.loads(file.read_text())
    return {result["name"]: result for result in found["results"]}


def lasts(seconds):
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def main():
    names = [f"{case} float32 out" for case, _ in CASES]
    found = bench(names)
    print("| float32, one thread | normlib | limit | " + " | ".join(PEERS.values()) + " |")
    print("|---|---|---|" + "---|" * len(PEERS))
    for name, (_, words) in zip(names, CASES, strict=True):
        result = found[name]
        peers = [result["peers"].get(peer) for peer in PEERS]
        cells = [lasts(result["seconds"]["normlib"]), f"{1 / result['over_limit']:.2g}"]
        cells += ["" if peer is None else f"{peer:.2g}" for peer in peers]
        print(f"| {words} | {' | '.join(cells)} |")
    normlib.set_num_threads(1)
    x = np.random.default_rng(0).normal(OFFSET, DEVIATION, (ROWS, LENGTH)).astype(np.float32)
    rows = measure(x)
    title = f"zscore of {ROWS} x {LENGTH} float32 at an offset of {OFFSET:g}"
    print(f"\n| {title} | " + " | ".join(name for name, *_ in rows) + " |")
    print("|---|" + "---|" * len(rows))
    print("| time | " + " | ".join(f"{seconds / rows[0][1]:.2g}" for _, seconds, _ in rows) + " |")
    print("| largest error | " + " | ".join(f"{error:.0e}" for *_, error in rows) + " |")


if __name__ == "__main__":
    main()
