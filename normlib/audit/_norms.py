"""The norms among the tensors of a checkpoint: by name and shape, with kind, placement and eps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ._architectures import Architecture, architecture
from ._checkpoint import NORMS, Checkpoint, Norm, Tensor, Unreadable, shortest

# The parameters of a norm by the names that frameworks give them
PARAMETERS = {
    "weight": "weight", "gamma": "weight", "scale": "weight", "g": "weight", "bias": "bias", "beta": "bias",
    "b": "bias", "running_mean": "running_mean", "moving_mean": "running_mean", "running_var": "running_var",
    "moving_variance": "running_var", "num_batches_tracked": "",
}  # fmt: skip
NAMED = re.compile(r"norm|(^|_)(ln|bn|gn)\d*($|_)", re.IGNORECASE)
NOT_NORMS = re.compile(r"(weight_norm|parametrizations|embed_norm_scale|norm\.(linear|proj)|layer_scale)")

# Roles by the end of a name, in the words of GGUF where it has some, and the placement that each means
ROLES: list[tuple[str, str, str]] = [
    (r"token_embd_norm|emb_ln|(word_)?embeddings?_(layer_?)?norm|layernorm_embedding|pre_layrnorm|ln_pre|"
     r"embeddings\.(LayerNorm|layer_?norm|norm)", "token_embd_norm", "embedding"),
    (r"attn_(q|k)_norm|(q|k)_(layer)?norm|(query|key)_layernorm|layer_norm_(q|k)|norm_(q|k)|(q|k)_ln", "", "QK"),
    (r"attention\.output\.LayerNorm|sa_layer_norm|attn_output_norm|attention_output_norm", "attn_output_norm", "post"),
    (r"output\.LayerNorm|output_layer_norm|layer_output_norm|full_layer_layer_norm", "layer_output_norm", "post"),
    (r"pre_feedforward_layernorm|pre_ff_layernorm|pre_mlp_layernorm", "ffn_norm", "pre"),
    (r"post_feedforward_layernorm|post_ffw_norm|post_mlp_layernorm", "post_ffw_norm", "post"),
    (r"post_attention_norm|post_self_attn_layernorm", "post_attention_norm", "post"),
    (r"input_layernorm|ln_1|attn_norm|attention_norm|norm_1|layernorm_before|layer\.0\.layer_norm|operator_norm",
     "attn_norm", "pre"),
    (r"post_attention_layernorm|ln_2|ffn_norm|norm_2|layernorm_after|mlp_norm", "ffn_norm", "pre"),
]  # fmt: skip
FINAL = re.compile(
    r"(?!.*(head|predict|project|pool))([A-Za-z_]+\.){0,4}(ln_f|norm_f|output_norm|final_layer_?norm|final_norm|ln_post|post_layernorm|(layer_?)?norm)"
)
BLOCK = re.compile(r"(?:^|\.)(?:\w*layers?|h|blk|\w*blocks?|encoder|decoder)\.[0-9]{1,9}\.")
DEFAULT = "not in the file; the default of"
TENSORS = ("weight", "bias", "running_mean", "running_var")
EPS_KEYS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon", "norm_eps",
            "batch_norm_eps", "rms_norm_epsilon", "layernorm_eps", "ln_eps")  # fmt: skip
OF_KIND = {"rms_norm": "rms", "layer_norm": "layer", "batch_norm": "batch"}


def find(checkpoint: Checkpoint) -> list[Norm]:
    """All norms, in the order of the file or of its layers."""
    found = _among_tensors(checkpoint) if checkpoint.norms is None else iter(checkpoint.norms)
    norms = list(itertools.islice(found, NORMS + 1))
    if len(norms) > NORMS:
        raise Unreadable(f"audit: {checkpoint.path} has more than {NORMS} norms")
    names = {norm.name for norm in norms}
    layered = any(map(BLOCK.search, names))
    return [
        _placed(norm, names, checkpoint, layered) for norm in sorted(norms, key=lambda n: _order(n.name, checkpoint))
    ]


def usual(checkpoint: Checkpoint, name: str) -> Architecture | None:
    """What is usual for the architecture that a norm belongs to."""
    return architecture(_model_type(checkpoint, name))


def _model_type(checkpoint: Checkpoint, name: str) -> str:
    inner = _section(checkpoint, name).get("model_type")
    return inner if isinstance(inner, str) else checkpoint.architecture


def _order(name: str, checkpoint: Checkpoint) -> list[tuple[int, str]]:
    """By name, with numbers as numbers; what has an order already, a graph or modules, keeps it."""
    if checkpoint.norms is not None:
        return []
    return [(int(part), "") if number(part) else (-1, part) for part in re.split(r"([0-9]{1,9})", name)]


def number(part: str) -> bool:
    """Whether part of a name is a number of usual digits and size."""
    return part.isascii() and part.isdigit() and len(part) < 10


def _modules(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Modules whose own tensors all are what a norm may have, by name: their tensors."""
    modules: dict[str, dict[str, Tensor]] = {}
    others = set()
    for full, tensor in tensors.items():
        name, _, last = full.rpartition(".")
        if last in PARAMETERS:
            modules.setdefault(name, {})[PARAMETERS[last]] = tensor
        else:
            others.add(name)
    yield from ((name, own) for name, own in modules.items() if name not in others)


def _among_tensors(checkpoint: Checkpoint) -> Iterator[Norm]:
    found = [(name, own) for name, own in _modules(checkpoint.tensors) if _is_norm(name, own)]
    biased = any("bias" in own for _, own in found)
    for name, own in found:
        known = usual(checkpoint, name)
        kind, why = _kind(name, own, known, biased, checkpoint)
        weight = own.get("weight")
        shape = next(iter(own.values())).shape
        width = weight.size if weight is not None else shape[0] if shape else 1
        eps, source = _eps(checkpoint, name, kind, known)
        offset = known is not None and known.offset and kind == known.kind and checkpoint.format != "gguf"
        offset &= not (checkpoint.architecture == "qwen3_next" and name.endswith("linear_attn.norm"))
        tensors = {key: own[key] for key in TENSORS if key in own}
        yield Norm(name, kind, width, eps, source, offset=offset, kind_from=why, tensors=tensors)


def _is_norm(name: str, own: dict[str, Tensor]) -> bool:
    """Running statistics; or a name of norms and one axis (two where each head has a weight); or, without a name, a
    weight and a bias of the same single axis, which nothing else has."""
    if NOT_NORMS.search(name) or not {"weight", "bias", "running_var"} & own.keys():
        return False
    if "running_mean" in own and "running_var" in own:
        return True
    axes = {len(own[key].shape) for key in ("weight", "bias") if key in own}
    last = name.rpartition(".")[2]
    if NAMED.search(last):
        return axes == {1} or (axes == {2} and _role(name)[1] == "QK")
    both = "weight" in own and "bias" in own and own["weight"].shape == own["bias"].shape
    return both and axes == {1} and own["weight"].size > 1


def _kind(
    name: str, own: dict[str, Tensor], known: Architecture | None, biased: bool, checkpoint: Checkpoint
) -> tuple[str, str]:
    last = name.rpartition(".")[2].lower()
    if "running_var" in own:
        return "batch_norm", "running statistics"
    if re.search(r"group_?norm|^gn\d*$", last):
        return "group_norm", "its name"
    if "feature_extractor." in name and checkpoint.config.get("feat_extract_norm") == "group":
        return "group_norm", f"{checkpoint.config_from}, feat_extract_norm"
    if re.search(r"instance_?norm", last):
        return "instance_norm", "its name"
    if re.search(r"batch_?norm|^bn\d*$|_bn$", last):
        return "batch_norm", "its name"
    if known is not None:
        return known.kind, f"the architecture, {checkpoint.architecture}"
    key = _eps_key(_section(checkpoint, name), "")
    if key and "rms" in key:
        return "rms_norm", f"the key {key}"
    if "rms" in last:
        return "rms_norm", "its name"
    if "bias" in own and number(last) and _after_convolution(name, checkpoint.tensors):
        return "group_norm", "a convolution before it"
    if "bias" in own or biased:
        return "layer_norm", "biases"
    return "rms_norm", "no biases"


def _after_convolution(name: str, tensors: dict[str, Tensor]) -> bool:
    before, _, last = name.rpartition(".")
    previous = tensors.get(f"{before}.{int(last) - 1}.weight".removeprefix("."))
    return previous is not None and len(previous.shape) >= 3


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """The part of a configuration that is about a norm: that of vision, audio or text, where a model has several."""
    config = checkpoint.config
    first = name.lower().split(".")
    for words, key in ((("vision", "visual"), "vision_config"), (("audio", "speech"), "audio_config")):
        inner = config.get(key)
        if isinstance(inner, dict) and any(word in part for part in first for word in words):
            return inner
    inner = config.get("text_config")
    tells = isinstance(inner, dict) and (_eps_key(inner, "") or isinstance(inner.get("model_type"), str))
    return inner if isinstance(inner, dict) and tells else config


def _eps_key(config: dict[str, Any], kind: str) -> str:
    """The key that has eps, that of the kind first."""
    of_gguf = f"{config.get('general.architecture')}.attention."
    names = (
        *EPS_KEYS,
        *(of_gguf + key for key in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")),
    )
    keys = [key for key in names if type(n := config.get(key)) is float or (type(n) is int and abs(n) < 1 << 32)]
    return next((key for key in keys if OF_KIND.get(kind, "") in key), keys[0] if keys else "")


def _eps(checkpoint: Checkpoint, name: str, kind: str, known: Architecture | None) -> tuple[float | None, str]:
    """eps of a norm, and where it is from: the code of an architecture, a key, a default."""
    section = _section(checkpoint, name)
    of = _model_type(checkpoint, name)
    key = _eps_key(section, kind) if kind in OF_KIND else ""
    if kind == "batch_norm" and "batch" not in key:
        key = ""
    usual_here = known if known is not None and kind == known.kind and checkpoint.format != "gguf" else None
    if usual_here is not None and not usual_here.has_key and _role(name)[1] != "final":
        return usual_here.eps[0], f"the code of {of}"
    if key:
        eps = section[key]
        return shortest(eps) if checkpoint.format == "gguf" else float(eps), f"{checkpoint.config_from}, {key}"
    if usual_here is not None:
        return usual_here.eps[0], f"{DEFAULT if usual_here.has_key else 'the code of'} {of}"
    return None, ""


def _role(name: str) -> tuple[str, str]:
    """Role and placement of a norm by its name."""
    for pattern, role, placement in ROLES:
        if found := re.search(rf"(?:^|\.)(?:{pattern})$", name):
            return role or f"attn_{'q' if 'q' in found[0] else 'k'}_norm", placement
    return ("output_norm", "final") if FINAL.fullmatch(name) else ("", "")


def _placed(norm: Norm, names: set[str], checkpoint: Checkpoint, layered: bool) -> Norm:
    """A norm with its placement, by its name, by which others there are, by the architecture."""
    role, placement = _role(norm.name)
    before, _, last = norm.name.rpartition(".")
    if last == "post_attention_layernorm" and f"{before}.post_feedforward_layernorm" in names:
        role, placement = "post_attention_norm", "post"
    if placement == "final" and not layered:
        role, placement = "", ""
    block, known = BLOCK.search(norm.name), usual(checkpoint, norm.name)
    if not placement and block and known is not None:
        placement = known.placement
    if placement in ("pre", "post") and known is not None and known.placement in ("sandwich", "res-post"):
        placement = known.placement
    layer = f"blk.{block[0].split('.')[-2]}." if block and role else ""
    return replace(norm, placement=placement, role=layer + role)
