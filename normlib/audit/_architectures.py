"""What is usual for an architecture: kind of norm, eps, placement, whether the weight is an offset from one.

The kinds, keys and first values of eps are the defaults of the configurations of transformers 5.24, for those without a
key (BART, OPT, Whisper) the default of torch.nn.LayerNorm; the further values of eps are those of released models.
"""

from __future__ import annotations

from typing import NamedTuple


class Architecture(NamedTuple):
    """Attributes: the kind of most norms; the values of eps that are usual, the default first; placement of the norms
    of a block; whether they multiply by 1 + w; whether they have biases.

    With x the stream and f a sublayer: "pre" is x + f(norm(x)), "post" norm(x + f(x)), "res-post" x + norm(f(x)) and
    "sandwich" x + norm(f(norm(x))). Last, whether eps comes from a key of the configuration (for the final norm it
    does where there is one), and whether the first block lacks its first norm, as that of the embeddings stands there.
    """

    kind: str
    eps: tuple[float, ...]
    placement: str
    offset: bool = False
    bias: bool = False
    has_key: bool = True
    starts_bare: bool = False


_LAYER, _RMS = "layer_norm", "rms_norm"
_BERT = Architecture(_LAYER, (1e-12, 1e-5, 1e-6, 1e-7), "post", bias=True)
_GPT = Architecture(_LAYER, (1e-5, 1e-6), "pre", bias=True)
_VIT = Architecture(_LAYER, (1e-12, 1e-6, 1e-5), "pre", bias=True)
_BART = Architecture(_LAYER, (1e-5,), "post", bias=True, has_key=False)
_LLAMA = Architecture(_RMS, (1e-6, 1e-5), "pre")
_T5 = Architecture(_RMS, (1e-6,), "pre")
_PLAIN = Architecture(_LAYER, (1e-5, 1e-6), "pre")  # layer norms without a bias
_GEMMA = Architecture(_RMS, (1e-6,), "pre", offset=True)

ARCHITECTURES = {
    **dict.fromkeys(("albert", "bert", "electra", "mpnet", "roberta", "xlm-roberta", "nomic-bert"), _BERT),
    "distilbert": _BERT._replace(eps=(1e-12,), has_key=False),
    **dict.fromkeys(("deberta", "deberta-v2"), _BERT._replace(eps=(1e-7, 1e-12))),
    **dict.fromkeys(("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptneox", "gptj", "phi"), _GPT),
    **dict.fromkeys(("phi2", "persimmon", "starcoder", "starcoder2"), _GPT),
    **dict.fromkeys(("opt", "xglm", "whisper", "mbart"), _GPT._replace(eps=(1e-5,), has_key=False)),
    **dict.fromkeys(
        ("deit", "dinov2", "vit", "siglip_vision_model", "siglip_text_model", "clip_vision_model", "clip_text_model"),
        _VIT,
    ),
    **dict.fromkeys(("clip", "siglip", "swin"), _VIT),
    **dict.fromkeys(("convnext", "convnextv2"), _VIT._replace(eps=(1e-6, 1e-12), placement="", has_key=False)),
    **dict.fromkeys(("bart", "marian"), _BART),
    **dict.fromkeys(("cohere", "cohere2", "command-r", "dbrx", "mpt"), _PLAIN),
    **dict.fromkeys(("modernbert", "modern-bert"), _PLAIN._replace(starts_bare=True)),
    "stablelm": _GPT,
    "nemotron": _GPT._replace(offset=True),
    **dict.fromkeys(("llama", "mistral", "mistral3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"), _LLAMA),
    **dict.fromkeys(("granite", "deepseek2", "deepseek_v2", "deepseek_v3", "exaone", "internlm2", "mamba"), _LLAMA),
    **dict.fromkeys(("mixtral", "phi3", "gpt_oss", "llama4_text", "llama4", "mamba2", "olmoe"), _LLAMA),
    "glm": _LLAMA._replace(eps=(1.5625e-07, 1e-5, 1e-6)),
    "glm4": _LLAMA._replace(eps=(1.5625e-07, 1e-5, 1e-6), placement="sandwich"),
    **dict.fromkeys(("olmo2", "olmo3"), Architecture(_RMS, (1e-5, 1e-6), "res-post")),
    "gemma": _GEMMA,
    "recurrent_gemma": _GEMMA,
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), _GEMMA._replace(placement="sandwich")),
    "qwen3_next": _GEMMA,
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "t5encoder"), _T5),
}
_BY_LETTERS = {name.replace("_", "").replace("-", ""): found for name, found in ARCHITECTURES.items()}


def architecture(name: str) -> Architecture | None:
    """What is usual for a `model_type` of transformers or an architecture of GGUF, which writes some without signs."""
    return _BY_LETTERS.get(name.lower().replace("_", "").replace("-", ""))
