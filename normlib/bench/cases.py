"""What is measured: passes over the shapes of real models, each named for its source.

Shapes are written channels-first, as the models' papers and code write them; a case of the layout
``channels_last`` holds the same values with the channels in the last axis.
"""

import fnmatch
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from normlib.description import ACTIVATIONS
from normlib.ops import OPS

__all__ = ["CHANNEL_LAYOUTS", "DTYPES", "FAMILIES", "FEATURE_LAYOUTS", "FUSED", "GROWTH", "ITEMSIZE", "LARGE", "MODELS",
           "Case", "Model", "cases"]  # fmt: skip

DTYPES = ("float32", "float64", "float16", "bfloat16")
ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
FEATURE_LAYOUTS = ("rows", "strided", "channel_axis")
CHANNEL_LAYOUTS = ("channels_first", "channels_last", "dense")

TRANSFORMERS = "transformers 5.23.0, defaults in configuration_*.py"
TORCHVISION = "torchvision 0.28.0, traced"
DIFFUSERS = "diffusers 0.42.1, defaults"
PUBLISHED = "published configuration"

LARGE = 120e6  # bytes of a pass from which no cache of today's desktops holds it
GROWTH = "growth"  # the models whose shapes hold as many elements each, in rows of more and more


class Model(NamedTuple):
    """The normalizations of one model.

    Every shape is measured in the first of ``dtypes``, the first shape in all of them. ``quick`` says how many of the
    shapes, from the first, a quick run takes. ``fused`` names what stands around the norm, as arguments and activations
    are called.
    """

    name: str
    norm: str
    shapes: tuple
    source: str
    eps: float = 1e-5
    groups: int = 0
    affine: bool = True
    layouts: tuple = ()
    dtypes: tuple = ("float32",)
    training: tuple = (True,)
    quick: int = 0
    fused: tuple = ()


@dataclass(frozen=True)
class Case:
    """One pass over one array.

    ``training`` tells BatchNorm whose statistics to use and means nothing to the other norms; with ``out``
    the output is written to a given array, else it is allocated by the call.
    """

    model: str
    norm: str
    shape: tuple[int, ...]
    layout: str
    dtype: str = "float32"
    backward: bool = False
    training: bool = True
    out: bool = True
    affine: bool = True
    groups: int = 0
    eps: float = 1e-5
    quick: bool = False
    fused: tuple[str, ...] = ()

    @property
    def pass_name(self) -> str:
        """Forward or backward, and whether with given statistics."""
        return ("backward" if self.backward else "forward") + ("" if self.training else " eval")

    @property
    def function(self) -> str:
        """The name of the public function that is timed."""
        return f"{self.norm}_backward" if self.backward else self.norm

    @property
    def title(self) -> str:
        """The norm and what is fused with it."""
        return " + ".join((self.norm, *self.fused))

    @property
    def activation(self) -> str | None:
        """The name of the activation behind the norm."""
        return next((step for step in self.fused if step in ACTIVATIONS), None)

    @property
    def reads(self) -> tuple[str, ...]:
        """The arguments of the size of x that the pass reads; backward, x is the sum with the residual."""
        companions = {"add": "add", "residual": "dsum" if self.backward else "residual"}
        return (*("dy",) * self.backward, "x", *(companions[step] for step in self.fused if step in companions))

    @property
    def writes(self) -> int:
        """The number of arrays of that size written: beside the result, the sum or the gradient of add."""
        return 1 + (("add" if self.backward else "residual") in self.fused)

    @property
    def size(self) -> int:
        """The number of elements of x."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The least bytes that the pass must move: what it reads and writes of the size of x."""
        return self.size * ITEMSIZE[self.dtype] * (len(self.reads) + self.writes)

    @property
    def one_row(self) -> bool:
        """Whether the pass is so small that the call is what is measured."""
        return self.layout == "rows" and math.prod(self.shape[:-1]) == 1

    @property
    def name(self) -> str:
        """A line that tells this case from all others."""
        shape = "x".join(map(str, self.shape))
        output = "out" if self.out else "fresh"
        return f"{self.title} {self.pass_name} {self.model} {shape} {self.layout} {self.dtype} {output}"


def rows(width: int, *counts: int) -> tuple[tuple[int, int], ...]:
    """Return shapes of ``counts`` rows of ``width`` elements."""
    return tuple((count, width) for count in counts)


BOTH = ("channels_first", "channels_last")
# 2 MB of float32: a pass needs the LLC, and fits into it, wherever there are three caches.
LENGTHS = tuple(((1 << 19) // width, width) for width in (64, 256, 1024, 4096, 16384, 65536))

# fmt: off
MODELS = (
    # LayerNorm and RMSNorm: (tokens, width)
    Model("BERT-base", "layer_norm", rows(768, 128, 1, 4096), TRANSFORMERS, eps=1e-12, dtypes=DTYPES, quick=3),
    Model("all-MiniLM-L6-v2", "layer_norm", rows(384, 16, 4096, 16384), "config.json of the checkpoint",
          eps=1e-12),
    Model("GPT-2 small", "layer_norm", rows(768, 1, 1024, 65536), TRANSFORMERS),
    Model("GPT-2 small, training batch", "layer_norm", rows(768, 32768), TRANSFORMERS,
          dtypes=("float32", "float16", "bfloat16")),
    Model("CLIP text", "layer_norm", rows(512, 77), TRANSFORMERS),
    Model("Whisper tiny", "layer_norm", rows(384, 1500), TRANSFORMERS),
    Model("Whisper base", "layer_norm", rows(512, 1500), PUBLISHED),
    Model("Whisper large-v3", "layer_norm", rows(1280, 1500), PUBLISHED, dtypes=("float32", "float16")),
    Model("wav2vec2-base", "layer_norm", rows(768, 499), TRANSFORMERS),
    Model("ViT-B/16", "layer_norm", ((1, 197, 768), (64, 197, 768)), TORCHVISION, eps=1e-6),
    Model("Swin-T", "layer_norm", ((1, 56, 56, 96), (1, 7, 7, 1536)), TORCHVISION),
    Model("ConvNeXt-T", "layer_norm", ((1, 96, 56, 56), (1, 192, 28, 28), (1, 384, 14, 14), (64, 96, 56, 56)),
          TORCHVISION, eps=1e-6, layouts=("channel_axis",), dtypes=("float32", "bfloat16"), quick=1),
    Model("odd widths", "layer_norm", ((3001, 33), (3001, 97), (3001, 1000)), "off every power of two"),
    Model("Llama-2-7B", "rms_norm", rows(4096, 512, 1, 2048), TRANSFORMERS, quick=2, dtypes=DTYPES),
    Model("Llama-3-8B", "rms_norm", rows(4096, 8192), PUBLISHED, dtypes=("float32", "float16", "bfloat16")),
    Model("Llama-3.2-1B", "rms_norm", rows(2048, 1, 512), PUBLISHED),
    Model("Llama-2-13B", "rms_norm", rows(5120, 1, 512), PUBLISHED),
    Model("Qwen2.5-7B", "rms_norm", rows(3584, 1, 2048), PUBLISHED, eps=1e-6),
    Model("Gemma-7B", "rms_norm", rows(3072, 2048), TRANSFORMERS, eps=1e-6),
    Model("T5-small", "rms_norm", rows(512, 512), TRANSFORMERS, eps=1e-6),
    Model("SmolLM2-135M", "rms_norm", rows(576, 1, 64, 512), "GGUF of the checkpoint"),
    Model("stories260K", "rms_norm", rows(64, 1, 512), "stories260K.bin"),
    Model("Qwen3 QK-norm", "rms_norm", ((512, 32, 128), (2048, 32, 128)), PUBLISHED, eps=1e-6,
          layouts=("rows", "strided"), dtypes=("float32", "bfloat16"), quick=1),
    Model("SD3 QK-norm", "rms_norm", ((1024, 24, 64), (8192, 24, 64)), PUBLISHED, eps=1e-6),
    Model("odd widths", "rms_norm", ((3001, 33), (3001, 97), (3001, 1000)), "off every power of two"),
    Model(GROWTH, "layer_norm", LENGTHS, "time by length of row"),
    Model(GROWTH, "rms_norm", LENGTHS, "time by length of row"),
    Model(GROWTH, "instance_norm", tuple((1, *shape) for shape in LENGTHS), "time by length of row"),
    # BatchNorm: (N, C, ...)
    Model("ResNet-50", "batch_norm", ((1, 256, 56, 56), (1, 64, 112, 112), (1, 1024, 14, 14), (1, 2048, 7, 7)),
          TORCHVISION, layouts=BOTH, training=(True, False), quick=1),
    Model("ResNet-50, batch", "batch_norm", ((32, 256, 56, 56), (32, 2048, 7, 7), (64, 64, 112, 112)),
          TORCHVISION, layouts=BOTH, training=(True, False), dtypes=DTYPES),
    Model("MobileNetV2", "batch_norm", ((1, 24, 56, 56), (1, 320, 7, 7), (16, 96, 112, 112)),
          TORCHVISION, layouts=BOTH, training=(True, False)),
    Model("MobileNetV3-small", "batch_norm", ((16, 88, 28, 28),), TORCHVISION, eps=1e-3, layouts=BOTH,
          dtypes=("float32", "float16")),
    Model("NASNet-A mobile", "batch_norm", ((1, 44, 28, 28), (1, 11, 56, 56), (32, 44, 28, 28)), PUBLISHED,
          eps=1e-3, layouts=BOTH, training=(True, False)),
    Model("Inception-v3", "batch_norm", ((1, 32, 149, 149), (1, 80, 73, 73)), TORCHVISION, eps=1e-3),
    Model("R3D-18", "batch_norm", ((4, 64, 16, 56, 56),), TORCHVISION, layouts=BOTH),
    Model("digits perceptron", "batch_norm", ((64, 64), (64, 97)), "docs/examples", layouts=("dense",),
          training=(True, False), quick=1),
    Model("PointNet head", "batch_norm", ((32, 512), (1024, 256)), PUBLISHED, layouts=("dense",)),
    Model("Barlow Twins projector", "batch_norm", ((2048, 8192), (256, 8192)), PUBLISHED, layouts=("dense",),
          training=(True, False), dtypes=("float32", "bfloat16")),
    # GroupNorm
    Model("Stable Diffusion UNet", "group_norm",
          ((2, 320, 64, 64), (2, 640, 32, 32), (2, 1280, 16, 16), (2, 1280, 8, 8), (2, 960, 64, 64)),
          DIFFUSERS, groups=32, layouts=BOTH, dtypes=DTYPES, quick=1),
    Model("Stable Diffusion VAE", "group_norm", ((1, 128, 512, 512), (1, 256, 256, 256), (1, 512, 64, 64)),
          DIFFUSERS, eps=1e-6, groups=32, layouts=BOTH, dtypes=("float32", "float16", "bfloat16")),
    Model("ggml test", "group_norm", ((1, 1280, 9, 9),), "tests/test-backend-ops.cpp", eps=1e-6, groups=32),
    Model("FCPE input", "group_norm", ((1, 512, 137), (1, 512, 1000)), "torchfcpe 0.0.4", groups=4,
          layouts=BOTH),
    Model("wav2vec2-base first conv", "group_norm", ((1, 512, 31999),), TRANSFORMERS, groups=512),
    # InstanceNorm
    Model("fast neural style", "instance_norm", ((1, 32, 256, 256), (1, 64, 128, 128), (1, 128, 64, 64)),
          "pytorch/examples", layouts=BOTH, dtypes=("float32", "float16"), quick=1),
    Model("fast neural style, nc8", "instance_norm", ((1, 8, 128, 128), (1, 32, 32, 32)),
          "pytorch-fast-neural-style-for-web", layouts=BOTH),
    Model("CycleGAN", "instance_norm", ((1, 64, 256, 256), (1, 512, 31, 31)), PUBLISHED, affine=False,
          layouts=BOTH),
    Model("RAFT-small", "instance_norm", ((2, 32, 128, 128), (2, 24, 32, 32)), TORCHVISION, affine=False),
    Model("StyleGAN AdaIN", "instance_norm", ((4, 512, 4, 4), (4, 128, 128, 128), (4, 16, 1024, 1024)),
          PUBLISHED, eps=1e-8, affine=False),
    Model("nnU-Net", "instance_norm", ((2, 64, 64, 64, 64), (2, 128, 32, 32, 32), (2, 320, 8, 8, 8)),
          PUBLISHED, layouts=BOTH, dtypes=DTYPES),
)
# Norms with what stands around them, every shape in all dtypes.
FUSED = tuple(model._replace(dtypes=("float32", "bfloat16")) for model in (
    Model("ResNet-50", "batch_norm", ((1, 64, 56, 56), (8, 64, 56, 56), (1, 512, 7, 7), (8, 512, 7, 7)), TORCHVISION,
          training=(True, False), quick=1, fused=("add", "relu")),
    Model("EfficientNet-B0", "batch_norm", ((1, 96, 112, 112), (8, 240, 28, 28), (1, 1152, 7, 7)), TORCHVISION,
          training=(True, False), fused=("silu",)),
    Model("Stable Diffusion UNet", "group_norm", ((1, 320, 64, 64), (2, 1280, 8, 8)), DIFFUSERS, groups=32, quick=1,
          fused=("silu",)),
    Model("Llama-2-7B", "rms_norm", rows(4096, 1, 128, 2048), TRANSFORMERS, quick=2, fused=("residual",)),
    Model("BERT-base", "layer_norm", rows(768, 1, 128), TRANSFORMERS, eps=1e-12, fused=("residual",)),
    Model("all-MiniLM-L6-v2", "layer_norm", rows(384, 128), "config.json of the checkpoint", eps=1e-12, quick=1,
          fused=("residual",)),
    Model("3-D UNet", "instance_norm", ((1, 32, 32, 32, 32), (2, 64, 64, 64, 64)), PUBLISHED, quick=1,
          fused=("leaky_relu",)),
    Model("wav2vec2-large first convs", "layer_norm", rows(512, 3199, 49), TRANSFORMERS, quick=1, fused=("gelu",)),
))
FAMILIES = {"plain": MODELS, "fused": FUSED}
# fmt: on


def _default_models() -> Iterator[Model]:
    """Yield a model for each norm that none of `MODELS` uses, so that a new norm is measured at once."""
    for name, op in OPS.items():
        if any(model.norm == name for model in MODELS):
            continue
        if op.kind == "feature":
            yield Model("default", name, rows(768, 1, 512, 32768), "no model named yet", quick=2)
        else:
            shapes = ((2, 64, 56, 56), (32, 64, 112, 112))
            yield Model("default", name, shapes, "no model named yet", groups=32, layouts=BOTH, quick=1)


def _cases_of(model: Model, dtypes: Sequence[str]) -> Iterator[Case]:
    feature = OPS[model.norm].kind == "feature"
    layouts = model.layouts or (("rows",) if feature else ("channels_first",))
    for (index, shape), layout, dtype in itertools.product(enumerate(model.shapes), layouts, dtypes or model.dtypes):
        if index and not model.fused and dtype not in (dtypes or model.dtypes[:1]):
            continue
        quick = index < model.quick
        for training, backward in itertools.product(model.training, (False, True)):
            options = {"affine": model.affine, "groups": model.groups, "eps": model.eps, "quick": quick}
            options["fused"] = model.fused
            case = Case(model.name, model.norm, shape, layout, dtype, backward, training, **options)
            yield case
            typical = model.quick and not index
            if case.one_row or typical or (case.bytes > LARGE and dtype == "float32"):
                yield replace(case, out=False, quick=quick and case.one_row)


def cases(dtypes: Sequence[str] = (), only: str = "", quick: bool = False, family: str = "plain") -> list[Case]:
    """Return the cases to measure.

    Parameters
    ----------
    dtypes : sequence of str
        Measure every shape in these dtypes, instead of each in the dtypes that its model is used in.
    only : str
        Comma-separated patterns; a case stays if its name matches one. A pattern is a list of words
        that must all occur in the name; ``*`` and ``?`` are taken as in a shell.
    quick : bool
        Only the few small shapes that stand for the rest.
    family : str
        "plain" for bare norms, "fused" for norms with what stands around them.

    Returns
    -------
    list of Case

    Examples
    --------
    >>> from normlib.bench.cases import cases
    >>> for case in cases(["float32"], only="Whisper tiny"):
    ...     print(case.name)
    layer_norm forward Whisper tiny 1500x384 rows float32 out
    layer_norm backward Whisper tiny 1500x384 rows float32 out
    """
    models = (*MODELS, *_default_models()) if family == "plain" else FAMILIES[family]
    found = [case for model in models for case in _cases_of(model, dtypes)]
    if quick:
        found = [case for case in found if case.quick]
    patterns = [pattern.split() for pattern in only.split(",") if pattern.strip()]
    if patterns:
        found = [case for case in found if any(_matches(case.name, words) for words in patterns)]
    return found


def _matches(name: str, words: list[str]) -> bool:
    return all(fnmatch.fnmatch(name, f"*{word}*") for word in words)
