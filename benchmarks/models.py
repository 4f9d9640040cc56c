"""Whole models of transformers and diffusers with random weights, and single norms: torch as it is against normlib.

::

    pip install transformers diffusers
    python -m benchmarks.models                                             # all, on one thread and on two
    python -m benchmarks.models --only "Gemma 3, ResNet training" --threads 1 --json out.json
    python -m benchmarks.models --list

Widths are those of real models; layers, which repeat, are fewer. Measurement and table are those of ``normlib bench
--model``, which takes a model of your own. asv finds nothing here: what is not Python's own is imported in functions.
"""

import functools
import itertools
import sys

TOKENS = (1, 1), (1, 128), (8, 16)
BATCHES = 1, 8


def _text(name, *, dtype="float32", **config):
    """A model of language of transformers, from the name of its class without ``Model``."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()  # or they say which kernels for GPUs are missing
    words = {"vocab_size": 1000, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(use_cache=False, **words, **config)
    model = getattr(transformers, f"{name}Model")(config).to(getattr(torch, dtype))
    return model, *({"input_ids": torch.randint(5, 900, shape)} for shape in TOKENS)


def _vision(name, size, **config):
    import transformers

    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))
    return model, *_inputs(3, size, size)


def _inputs(*shape):
    import torch

    return (torch.randn(count, *shape) for count in BATCHES)


def _gemma3():
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
    return _text(
        "Gemma3Text",
        dtype="bfloat16",
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=6,
        **heads,
    )


def _whisper():
    import transformers

    config = transformers.WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    config.max_source_positions = 100  # of 2 seconds
    return transformers.WhisperModel(config).encoder, *_inputs(80, 200)


def _unet():
    import diffusers
    import torch

    model = diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(160, 320), layers_per_block=1, cross_attention_dim=256,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return model, *(
        {
            "sample": torch.randn(n, 4, 16, 16),
            "encoder_hidden_states": torch.randn(n, 16, 256),
            "timestep": torch.tensor(7),
        }
        for n in BATCHES
    )


def _autoencoder():
    import diffusers

    stages = (64, 128, 256)
    model = diffusers.AutoencoderKL(
        block_out_channels=stages,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(stages),
        up_block_types=("UpDecoderBlock2D",) * len(stages),
    )
    return model, *_inputs(3, 64, 64)


def _dit():
    import diffusers
    import torch

    model = diffusers.DiTTransformer2DModel(num_attention_heads=6, attention_head_dim=64, num_layers=4, sample_size=16)
    return model, *(
        {
            "hidden_states": torch.randn(n, 4, 16, 16),
            "timestep": torch.full((n,), 7),
            "class_labels": torch.full((n,), 3),
        }
        for n in BATCHES
    )


def _sd3():
    import diffusers
    import torch

    model = diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=4, attention_head_dim=64, num_attention_heads=8, joint_attention_dim=512,
        caption_projection_dim=512, pooled_projection_dim=512, qk_norm="rms_norm",
    )  # fmt: skip
    return model, *(
        {
            "hidden_states": torch.randn(n, 16, 16, 16),
            "encoder_hidden_states": torch.randn(n, 32, 512),
            "pooled_projections": torch.randn(n, 512),
            "timestep": torch.full((n,), 7),
        }
        for n in BATCHES
    )


def _unet3d():
    """As networks of medicine have it: two convolutions a level, each with a norm and an activation behind it."""
    import torch
    from torch import nn

    def level(inside, outside):
        layers = []
        for channels in (inside, outside):
            layers += [nn.Conv3d(channels, outside, 3, padding=1, bias=False)]
            layers += [nn.InstanceNorm3d(outside, affine=True), nn.LeakyReLU(0.01)]
        return nn.Sequential(*layers)

    class UNet3d(nn.Module):
        def __init__(self, widths=(16, 32, 64)):
            super().__init__()
            pairs = list(itertools.pairwise(widths))
            self.first = level(1, widths[0])
            self.down = nn.ModuleList(level(a, b) for a, b in pairs)
            self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in reversed(pairs))
            self.join = nn.ModuleList(level(2 * a, a) for a, _ in reversed(pairs))
            self.last = nn.Conv3d(widths[0], 3, 1)

        def forward(self, x):
            kept = [self.first(x)]
            for down in self.down:
                kept.append(down(nn.functional.max_pool3d(kept[-1], 2)))
            x = kept.pop()
            for up, join in zip(self.up, self.join, strict=True):
                x = join(torch.cat([up(x), kept.pop()], 1))
            return self.last(x)

    return UNet3d(), *_inputs(1, 32, 32, 32)


_LAYERS = {"num_hidden_layers": 4}
_SMOLLM = {"num_hidden_layers": 6, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}

MODELS = {
    "MiniLM": functools.partial(_text, "Bert", hidden_size=384, intermediate_size=1536, num_hidden_layers=6),
    "BERT": functools.partial(_text, "Bert", **_LAYERS),
    "RoBERTa": functools.partial(_text, "Roberta", **_LAYERS),
    "DistilBERT": functools.partial(_text, "DistilBert", n_layers=4),
    "GPT-2": functools.partial(_text, "GPT2", n_layer=4),
    "Llama": functools.partial(_text, "Llama", hidden_size=576, **_SMOLLM),
    "Llama, bfloat16": functools.partial(
        _text, "Llama", dtype="bfloat16", hidden_size=768, intermediate_size=2048, num_attention_heads=12,
        num_key_value_heads=4, num_hidden_layers=12,
    ),
    "Gemma 3, bfloat16": _gemma3,
    "Qwen 3": functools.partial(
        _text, "Qwen3", hidden_size=1024, intermediate_size=3072, num_attention_heads=16, num_key_value_heads=8,
        num_hidden_layers=3,
    ),
    "OLMo 2": functools.partial(
        _text, "Olmo2", hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=3
    ),
    "T5 encoder": functools.partial(_text, "T5Encoder", num_layers=6),
    "Mamba 2": functools.partial(
        _text, "Mamba2", hidden_size=768, num_heads=24, n_groups=1, chunk_size=32, num_hidden_layers=4
    ),
    "ViT": functools.partial(
        _vision, "ViT", 112, image_size=112, hidden_size=384, intermediate_size=1536, num_attention_heads=6, **_LAYERS
    ),
    "Swin": functools.partial(_vision, "Swin", 112, image_size=112, depths=[2, 2, 2], num_heads=[3, 6, 12]),
    "SegFormer": functools.partial(_vision, "Segformer", 128),
    "ConvNeXt": functools.partial(_vision, "ConvNext", 128, depths=[2, 2, 3, 2]),
    "Whisper encoder": _whisper,
    "ResNet-50": functools.partial(_vision, "ResNet", 128),
    "EfficientNet-B0": functools.partial(
        _vision, "EfficientNet", 128, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
    ),
    "UNet of diffusion": _unet,
    "Autoencoder": _autoencoder,
    "DiT": _dit,
    "SD3": _sd3,
    "3-D U-Net": _unet3d,
}  # fmt: skip


def _norm(make, shape, dtype, training):
    import torch

    x = torch.randn(shape, dtype=getattr(torch, dtype), requires_grad=True)
    return make(torch.nn).to(x.dtype).train(training), x


def _norms():
    """Single calls, by name and dtype."""
    row, image = (1, 768), (1, 64, 8, 8)
    found = {
        "LayerNorm": (lambda nn: nn.LayerNorm(768), row, True),
        "RMSNorm": (lambda nn: nn.RMSNorm(768), row, True),
        "GroupNorm": (lambda nn: nn.GroupNorm(32, 64), image, True),
        "BatchNorm2d (eval)": (lambda nn: nn.BatchNorm2d(64), image, False),
        "BatchNorm2d (train)": (lambda nn: nn.BatchNorm2d(64), image, True),
        "InstanceNorm2d": (lambda nn: nn.InstanceNorm2d(64, affine=True), image, True),
    }
    return {
        f"{name}, {dtype}": functools.partial(_norm, make, shape, dtype, training)
        for dtype in ("float32", "bfloat16")
        for name, (make, shape, training) in found.items()
    }


def everything():
    """What there is to measure, by name: norms, then models."""
    return _norms() | MODELS


if __name__ == "__main__":
    from normlib.bench import main

    sys.exit(main(["--model", "benchmarks.models:everything", *sys.argv[1:]]))
