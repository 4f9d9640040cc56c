"""A converted checkpoint beside its origin: which norm became which, and what changed, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._checkpoint import FLOATS, Norm, Tensor, rounded
from ._findings import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

CURES = {
    "norm-missing": "convert again; a batch norm may have been folded into a convolution",
    "norm-added": "compare the architectures",
    "kind-changed": "convert again with the kind of the origin",
    "eps-changed": "write the eps of the origin into the converted file",
    "offset-folded": "nothing, if what loads it multiplies by the weight alone, as llama.cpp does",
    "offset-changed": "convert again: what loads it would multiply by another weight",
    "dtype-changed": "keep norms in the dtype of the origin",
    "parameter-lost": "convert again; a LayerNorm without its bias is another",
    "permuted": "undo the permutation: the columns of the weights before it must have the same",
    "values-changed": "convert again, and compare",
}


def changes(origin: list[Norm], converted: list[Norm]) -> list[Finding]:
    """What changed from the norms of one checkpoint to those of another; norms with the same words share a finding."""
    pairs, missing, added = _pairs(origin, converted)
    found: dict[tuple[str, str], list[str]] = {}
    for norm in missing:
        found.setdefault(("norm-missing", f"{norm.kind} of the origin is not there"), []).append(norm.name)
    for norm in added:
        found.setdefault(("norm-added", f"{norm.kind} is not in the origin"), []).append(norm.name)
    for before, after in pairs:
        for rule, words in _changed(before, after):
            found.setdefault((rule, words), []).append(after.name)
    return [
        Finding(rule, tuple(names), words, CURES[rule])
        for rule in CURES
        for (of, words), names in found.items()
        if of == rule
    ]


# -- which became which ----


def _pairs(origin: list[Norm], converted: list[Norm]) -> tuple[list[tuple[Norm, Norm]], list[Norm], list[Norm]]:
    """By name, by place in the model, by the bits of the weight, and last by order among those of a width."""
    pairs, left, free = [], list(origin), list(converted)
    keys: list[Callable[[Norm], Any]] = [lambda n: n.name, lambda n: n.role or None, _bits, _bits_with_one, _width]
    for key in keys:
        by_key: dict[Any, list[Norm]] = {}
        for norm in free:
            by_key.setdefault(_bits(norm) if key is _bits_with_one else key(norm), []).append(norm)
        by_key.pop(None, None)
        if key is _width:
            counts: dict[Any, int] = {}
            for norm in left:
                counts[key(norm)] = counts.get(key(norm), 0) + 1
            by_key = {k: norms for k, norms in by_key.items() if len(norms) == counts.get(k)}
        still = []
        for norm in left:
            if norms := by_key.get(key(norm)):
                pairs.append((norm, norms.pop(0)))
            else:
                still.append(norm)
        taken = {id(after) for _, after in pairs}
        left, free = still, [norm for norm in free if id(norm) not in taken]
    return pairs, left, free


def _bits(norm: Norm, plus: float = 0) -> bytes | None:
    values = None if norm.weight is None else norm.weight.values()
    return None if values is None or np.ptp(values) == 0 else (values + plus).astype(np.float32).tobytes()


def _bits_with_one(norm: Norm) -> bytes | None:
    return _bits(norm, 1) if norm.offset else None


def _width(norm: Norm) -> Any:
    return None if norm.width is None else (norm.kind, norm.width)


# -- what changed ----


class _Compared(NamedTuple):
    before: Array
    after: Array


def _changed(before: Norm, after: Norm) -> Iterator[tuple[str, str]]:
    if before.kind != after.kind:
        yield "kind-changed", f"{before.kind} became {after.kind}"
    if before.eps is not None and after.eps is not None and np.float32(before.eps) != np.float32(after.eps):
        yield "eps-changed", f"eps {before.eps:g} became {after.eps:g}"
    elif before.eps is not None and after.eps is None:
        yield "eps-changed", f"eps {before.eps:g} is no longer in the file"
    for key, tensor in before.tensors.items():
        other = after.tensors.get(key)
        if other is None:
            yield "parameter-lost", f"its {key} is not there"
            continue
        if tensor.dtype != other.dtype:
            yield "dtype-changed", f"{key}: {tensor.dtype} became {other.dtype}"
        folded = key == "weight" and before.offset and not after.offset
        yield from _values_changed(key, tensor, other, folded)
    if after.offset and not before.offset:
        yield "offset-changed", "what loads it adds 1 to the weight, what loaded the origin did not"


def _values_changed(key: str, before: Tensor, after: Tensor, folded: bool) -> Iterator[tuple[str, str]]:
    old, new = before.values(), after.values()
    if old is None or new is None:
        return
    if old.size != new.size:
        yield "values-changed", f"{key}: {old.size} values became {new.size}"
        return
    if _same(old, new):
        if folded:
            yield "offset-changed", "the weight is as it was, but what loads it adds no 1"
        return
    if folded and any(
        _same(rounded(rounded(old + 1, dtype), after.dtype), new) for dtype in (after.dtype, before.dtype)
    ):
        yield "offset-folded", "weight + 1 is stored in the place of weight"
        return
    old = old + 1 if folded else old
    if _same(rounded(old, after.dtype), new):
        if after.dtype == before.dtype or after.dtype not in FLOATS:
            return
        error = np.nanmax(np.abs(new - old)) if np.isfinite(new - old).any() else math.inf
        yield "values-changed", f"{key}: rounded to {after.dtype}, by at most {error:.2g}"
    elif _same(np.sort(rounded(old, after.dtype)), np.sort(new)):
        yield "permuted", f"{key}: the same values in another order"
    else:
        differ = np.abs(new - old)
        count, most = int(np.count_nonzero(new != old)), np.nanmax(differ) if np.isfinite(differ).any() else math.inf
        yield "values-changed", f"{key}: {count} of {old.size} values differ, by at most {most:.3g}"


def _same(a: Array, b: Array) -> bool:
    """Bit for bit, but that any NaN is NaN."""
    return bool(np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b)))
