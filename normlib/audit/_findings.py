"""What may be wrong with the norms of a checkpoint: a table of rules, each a small function with its words and cure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ._architectures import Architecture
from ._checkpoint import FLOATS, Checkpoint, Norm
from ._norms import BLOCK, DEFAULT, number, usual
from ._values import Values

SEQUENCE = re.compile(r"att(e)?n|lstm|gru|rnn|weight_ih_l\d")
RECURRENT = re.compile(r"weight_ih_l\d")
OF_ROWS = ("layer_norm", "rms_norm")


class Finding(NamedTuple):
    """Attributes: the rule, the names of the norms, what is the matter, and what to do."""

    rule: str
    norms: tuple[str, ...]
    words: str
    cure: str


@dataclass
class Audited:
    """A checkpoint, its norms, and the values of their tensors; of weights what multiplies, 1 + w included."""

    checkpoint: Checkpoint
    norms: list[Norm]
    values: dict[str, dict[str, Values]]

    def known(self, norm: Norm) -> Architecture | None:
        """What is usual for the architecture, where the norm is of the kind that it has."""
        found = usual(self.checkpoint, norm.name)
        return found if found is not None and found.kind == norm.kind else None

    def weights(self, *kinds: str) -> Iterator[tuple[Norm, Values]]:
        for norm in self.norms:
            values = self.values[norm.name].get("weight")
            if values is not None and (not kinds or norm.kind in kinds):
                yield norm, values


Found = Iterator[tuple[str, str]]  # names of norms, and words


def _parameter_missing(of: Audited) -> Found:
    alike = Counter(norm.kind for norm in of.norms if norm.tensors)
    biased = Counter(norm.kind for norm in of.norms if norm.bias is not None)
    without = any(of.checkpoint.config.get(key) is False for key in ("bias", "use_bias", "norm_bias"))
    for norm in of.norms:
        known = of.known(norm)
        expected = (known is not None and known.bias and not without) or 2 * biased[norm.kind] > alike[norm.kind]
        if norm.weight is not None and norm.bias is None and norm.kind != "rms_norm" and expected:
            yield norm.name, f"{norm.kind} without its bias"
        if norm.weight is None and norm.bias is not None:
            yield norm.name, f"{norm.kind} without its weight"


def _sixteen_bits(of: Audited) -> Found:
    for norm in of.norms:
        if narrow := {t.dtype for t in norm.tensors.values()} & {"float16", "bfloat16"}:
            yield norm.name, f"parameters in {' and '.join(sorted(narrow))}"


def _quantized(of: Audited) -> Found:
    for norm in of.norms:
        if other := {t.dtype for t in norm.tensors.values()} - set(FLOATS):
            yield norm.name, f"parameters in {' and '.join(sorted(other))}"


def _eps_missing(of: Audited) -> Found:
    for norm in of.norms:
        if norm.eps is None:
            yield norm.name, "eps is not in the file"
        elif norm.eps_from.startswith(DEFAULT):
            yield norm.name, f"eps is {norm.eps_from}, {norm.eps:g}"


def _eps_unusual(of: Audited) -> Found:
    for norm in of.norms:
        if norm.eps is None:
            continue
        known = of.known(norm)
        if known is not None and norm.placement != "QK":
            if not any(math.isclose(norm.eps, eps, rel_tol=1e-3) for eps in known.eps):
                expected = " or ".join(f"{eps:g}" for eps in known.eps)
                yield norm.name, f"eps is {norm.eps:g}, usual for {of.checkpoint.architecture} is {expected}"
        elif not 1e-12 <= norm.eps <= 1.001e-3:
            yield norm.name, f"eps is {norm.eps:g}, usual is 1e-12 to 0.001"


def _about_zero(of: Audited) -> Found:
    """Signs of both kinds about 0 are those of an offset; what multiplies a row is above 0 nearly everywhere."""
    weights = [(norm, v) for norm, v in of.weights(*OF_ROWS) if norm.placement != "QK"]
    near = [(norm, v) for norm, v in weights if v.all_zero or (abs(v.mean) < 0.2 and 5 * v.negative > v.size)]
    if 4 * len(near) > len(weights) or any(v.all_zero for _, v in near):
        yield from ((norm.name, "what multiplies is about 0: an offset, 1 + w, is meant") for norm, _ in near)


def _about_two(of: Audited) -> Found:
    """1 + (1 + w): none below 1 in most norms, where training leaves many."""
    weights = list(of.weights(*OF_ROWS))
    near = [norm for norm, v in weights if 1.7 < v.mean < 2.3 and v.low > 1]
    if 2 * len(near) > len(weights):
        yield from ((norm.name, "what multiplies is about 2: the 1 of 1 + w was added twice") for norm in near)


def _not_finite(of: Audited) -> Found:
    for norm in of.norms:
        for key, values in of.values[norm.name].items():
            if values.bad:
                yield norm.name, f"{values.bad} of {values.size} values of {key} are NaN or infinite"
            if key == "running_var" and values.low < 0:
                yield norm.name, f"a running variance of {values.low:g}, below 0"


def _untouched(of: Audited) -> Found:
    for norm in of.norms:
        v = of.values[norm.name]
        fresh = {"weight": "ones", "running_var": "ones", "bias": "all_zero", "running_mean": "all_zero"}
        filled = norm.kind == "instance_norm" and of.checkpoint.format == "onnx"  # there a scale is no choice
        if v and len(v) == len(norm.tensors) and all(getattr(v[key], fresh[key]) for key in v) and not filled:
            yield norm.name, "as made: what multiplies is 1, what is added is 0, everywhere"


def _layer_as_rms(of: Audited) -> Found:
    for norm in of.norms:
        known = of.known(norm)
        if norm.kind == "rms_norm" and norm.bias is not None:
            yield norm.name, "an RMSNorm with a bias: a LayerNorm, loaded as another"
        elif norm.kind == "layer_norm" and known is not None and "rms" in norm.eps_from.lower():
            yield norm.name, f"a LayerNorm by its architecture, but its eps is that of an RMSNorm ({norm.eps_from})"


def _batch_in_sequence(of: Audited) -> Found:
    recurrent = any(map(RECURRENT.search, of.checkpoint.tensors))
    blocks = {
        name[: block.end()] for name in of.checkpoint.tensors if (block := BLOCK.search(name)) and SEQUENCE.search(name)
    }
    for norm in of.norms:
        block = BLOCK.search(norm.name)
        if norm.kind == "batch_norm" and (recurrent or (block and norm.name[: block.end()] in blocks)):
            yield norm.name, "a BatchNorm beside attention or recurrence: padding is in its statistics"


def _norm_after_norm(of: Audited) -> Found:
    yield from ((name, words) for rule, name, words in of.checkpoint.notes if rule == "norm-after-norm")
    posts = [norm for norm in of.norms if norm.placement == "post"]
    alone = posts and not any(norm.placement in ("pre", "sandwich") for norm in of.norms)
    for norm in of.norms:
        if norm.placement == "final" and alone:
            yield norm.name, f"follows {posts[-1].name}, the post-norm of the last block"


def _dead_channels(of: Audited) -> Found:
    for norm in of.norms:
        values = of.values[norm.name].get("running_var")
        if values is not None and values.zeros:
            yield norm.name, f"{values.zeros} of {values.size} channels are dead: running variance 0"


def _layer(name: str) -> tuple[str, int, str] | None:
    """A name before, at and after its last number."""
    parts = name.split(".")
    at = max((i for i, part in enumerate(parts) if number(part)), default=-1)
    return (".".join(parts[:at]), int(parts[at]), ".".join(parts[at + 1 :])) if 0 <= at < len(parts) - 1 else None


def _layers_missing(of: Audited) -> Found:
    """A norm that most layers have, and others not though they have the module that it is in."""
    if of.checkpoint.format == "onnx":
        return
    modules: dict[str, dict[int, set[str]]] = {}  # of a list of layers: for each the modules in it
    for name in of.checkpoint.tensors:
        if found := _layer(name):
            inside = modules.setdefault(found[0], {}).setdefault(found[1], {""})
            parts = found[2].split(".")[:-1]
            inside |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    having: dict[tuple[str, str], dict[int, Norm]] = {}
    for norm in of.norms:
        if found := _layer(norm.name):
            having.setdefault((found[0], found[2]), {})[found[1]] = norm
    for (before, after), layers in having.items():
        parent = after.rpartition(".")[0]
        expected = {i for i, inside in modules.get(before, {}).items() if parent in inside}
        known = of.known(next(iter(layers.values())))
        if known is not None and known.starts_bare:
            expected.discard(0)
        missing = sorted(expected - layers.keys())
        if missing and 2 * len(layers) > len(expected) and len(layers) > 1:
            some = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            yield (
                f"{before}.*.{after}".removeprefix("."),
                f"missing in {len(missing)} of {len(expected)} layers: {some}",
            )


def _too_few_layers(of: Audited) -> Found:
    """Layers that the configuration counts, and no tensor is of."""
    config = of.checkpoint.config
    counts = [config.get("num_hidden_layers"), config.get(f"{of.checkpoint.architecture}.block_count")]
    count = next((n for n in counts if type(n) is int and 0 < n < 1 << 16), None)
    blocks = [int(found[0].split(".")[-2]) for name in of.checkpoint.tensors if (found := BLOCK.search(name))]
    shared = "num_hidden_groups" in config  # ALBERT has one block for all layers
    if count and blocks and max(blocks) + 1 < count and not shared:
        yield f"layers {max(blocks) + 1} to {count - 1}", f"missing: the configuration has {count} layers"


def _apart(of: Audited) -> Found:
    for norm in of.norms:
        if of.checkpoint.format == "onnx" and " " in norm.operator:
            yield norm.name, f"taken apart into {norm.operator}"


def _folded(of: Audited) -> Found:
    yield from ((name, words) for rule, name, words in of.checkpoint.notes if rule == "folded")


RULES: dict[str, tuple[Callable[[Audited], Found], str]] = {
    "parameter-missing": (_parameter_missing, "look for it under another name in the original, and convert again"),
    "16-bit": (
        _sixteen_bits,
        "keep norms in float32 where memory allows; 16 bits hold three or two digits of a weight",
    ),
    "quantized": (_quantized, "convert again with norms left in float32: they are a thousandth of the bytes"),
    "eps-missing": (
        _eps_missing,
        "take it from the code that trained the model: PyTorch 1e-05, Keras 0.001, BERT 1e-12",
    ),
    "eps-unusual": (_eps_unusual, "compare with the configuration of the original"),
    "weights-about-0": (_about_zero, "load with 1 + weight, or add 1 to the weights"),
    "weights-about-2": (_about_two, "subtract 1 from the weights, or load without 1 + weight"),
    "not-finite": (_not_finite, "the checkpoint is broken, or training diverged: take an earlier one"),
    "all-ones": (_untouched, "untrained, or lost in a conversion: compare with the original (--against)"),
    "layer-as-rms": (_layer_as_rms, "load it as LayerNorm, with mean and bias"),
    "batch-in-sequence": (_batch_in_sequence, "evaluate with running statistics; train with masks or another norm"),
    "norm-after-norm": (_norm_after_norm, "nothing runs past the first: drop one, or restore the residual path"),
    "dead-channel": (_dead_channels, "prune it; with eps alone below the root noise grows 1 / sqrt(eps) times"),
    "layers-missing": (_layers_missing, "look for a shard or a name that was lost in a conversion"),
    "too-few-layers": (_too_few_layers, "look for a shard that is missing"),
    "taken-apart": (
        _apart,
        "export at opset 17 (LayerNormalization), 21 (GroupNormalization) or 23 (RMSNormalization)",
    ),
    "folded": (_folded, "nothing, for inference: a convolution took it in; for training take the original"),
}
"""The rules by name: what looks for them, and the cure."""


def findings(of: Audited) -> list[Finding]:
    """All findings; norms with the same words share one."""
    found = []
    for rule, (look, cure) in RULES.items():
        alike: dict[str, list[str]] = {}
        for name, words in look(of):
            alike.setdefault(words, []).append(name)
        found += [Finding(rule, tuple(names), words, cure) for words, names in alike.items()]
    return found
