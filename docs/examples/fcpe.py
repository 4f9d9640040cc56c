"""The pitch of a voice by the real FCPE in torch: a GroupNorm, and LayerNorms on strided input, swapped for normlib's.

pip install torch einops && pip install --no-deps torchfcpe local-attention hyper-connections torch-einops-utils
python -m normlib demo fcpe

A model of torch is one call away from normlib: `accelerate` swaps the norms, and keeps parameters and hooks. Each
LayerNorm here gets a transposed view, whose neighbors along the normalized axis lie far apart.
"""

from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from types import ModuleType

import torch

from normlib.examples.report import Watch, difference, on_backends, race, stand_ins
from normlib.examples.sound import RATE, compare, voice
from normlib.interop.torch import accelerate

HOP = 160


def load():
    """torchfcpe's model as it comes. It imports torchaudio for sound of other rates, which is not met here."""
    absent = {}
    if find_spec("torchaudio") is None:
        absent = {"torchaudio": ModuleType("torchaudio"), "torchaudio.transforms": ModuleType("transforms")}
        absent["torchaudio.transforms"].Resample = None
    with stand_ins(absent), redirect_stdout(StringIO()):  # it prints what it found
        import torchfcpe

        return torchfcpe.spawn_bundled_infer_model("cpu")


def norms(model):
    """The norms that a pass meets: (name, module, shape, elements between neighbors along the normalized axis)."""
    met = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: met.append((name, module, args[0])))
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.GroupNorm))
    ]
    with torch.inference_mode():
        model.model(torch.zeros(1, 100, 128))  # 100 columns of a mel spectrogram
    for hook in hooks:
        hook.remove()
    return [(name, module, tuple(x.shape), x.stride(-1)) for name, module, x in met]


@torch.inference_mode()
def heard(model, mel):
    """The likelihood of each of 360 pitches in each column of `mel`."""
    return model.model(mel)


@torch.inference_mode()
def hertz(model, likelihood):
    """The pitch in Hz, by torchfcpe's own reading."""
    return model.model.cent_to_f0(model.model.latent2cents_local_decoder(likelihood))[0, :, 0].numpy()


def main(seconds=10.0):
    plain, model = load(), accelerate(load())
    met = norms(model)
    print(f"FCPE: {len(met)} norms in a pass, all by normlib")
    for name, module, shape, stride in met:
        apart = "neighbors side by side" if stride == 1 else f"strided: neighbors {stride} floats apart"
        print(f"  {type(module).__name__:10} {name.removeprefix('model.'):33} {shape!s:15} {apart}")

    wave, pitch = voice(seconds)
    with redirect_stdout(StringIO()):
        mel = model.wav2mel(torch.from_numpy(wave)[None, :, None], RATE)
    print()
    compare(hertz(model, heard(model, mel))[:-1], pitch[::HOP], HOP / RATE)

    print(f"\nTime for {seconds:g} s of sound")
    watch = Watch()
    watch.attach(module for part in (plain, model) for _, module, *_ in norms(part))
    results = race(on_backends(lambda: heard(model, mel)) | {"torch": lambda: heard(plain, mel)}, watch)
    difference(heard(model, mel).numpy(), results["torch"].numpy(), "torch in the likelihood of a pitch")


if __name__ == "__main__":
    main()
