"""A converted checkpoint beside its origin: which norm became which, and what changed, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._checkpoint import Norm, Tensor, rounded
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


class _Change(NamedTuple):
    """Attributes: the rule, what changed, and in how many of how many values, by how much at most."""

    rule: str
    words: str
    differing: int = 0
    size: int = 0
    most: float = 0


def changes(origin: list[Norm], converted: list[Norm]) -> list[Finding]:
    """What changed from the norms of one checkpoint to those of another; norms with the same words share a finding."""
    pairs, missing, added = _pairs(origin, converted)
    found = [(norm.name, _Change("norm-missing", f"{norm.kind} of the origin is not there")) for norm in missing]
    found += [(norm.name, _Change("norm-added", f"{norm.kind} is not in the origin")) for norm in added]
    found += [(after.name, change) for before, after in pairs for change in _changed(before, after)]
    alike: dict[tuple[str, str], list[tuple[str, _Change]]] = {}
    for name, change in found:
        alike.setdefault((change.rule, change.words), []).append((name, change))
    return [_finding(rule, words, some) for key in CURES for (rule, words), some in alike.items() if rule == key]


def _finding(rule: str, words: str, some: list[tuple[str, _Change]]) -> Finding:
    worst = max((change for _, change in some), key=lambda change: change.most)
    if worst.size:
        words += f", {worst.differing} of {worst.size} values by at most {worst.most:.2g}"
    return Finding(rule, tuple(dict.fromkeys(name for name, _ in some)), words, CURES[rule])


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


def _changed(before: Norm, after: Norm) -> Iterator[_Change]:
    if before.kind != after.kind:
        yield _Change("kind-changed", f"{before.kind} became {after.kind}")
    if before.eps is not None and after.eps is None:
        yield _Change("eps-changed", f"eps {before.eps:g} is no longer in the file")
    elif before.eps is not None and after.eps is not None and np.float32(before.eps) != np.float32(after.eps):
        yield _Change("eps-changed", f"eps {before.eps:g} became {after.eps:g}")
    for key, tensor in before.tensors.items():
        other = after.tensors.get(key)
        if other is None:
            yield _Change("parameter-lost", f"its {key} is not there")
            continue
        if tensor.dtype != other.dtype:
            yield _Change("dtype-changed", f"{key}: {tensor.dtype} became {other.dtype}")
        folded = key == "weight" and before.offset and not after.offset
        change = _values_changed(key, tensor, other, folded)
        if change is not None:
            yield change
    if after.offset and not before.offset:
        yield _Change("offset-changed", "what loads it adds 1 to the weight, what loaded the origin did not")


def _values_changed(key: str, before: Tensor, after: Tensor, folded: bool) -> _Change | None:
    old, new = before.values(), after.values()
    if old is None or new is None:
        return None
    if old.size != new.size:
        return _Change("values-changed", f"{key}: {old.size} values became {new.size}")
    if folded and _same(old, new):
        return _Change("offset-changed", "the weight is as it was, but what loads it adds no 1")
    dtypes = (after.dtype, before.dtype)
    if folded and any(_same(rounded(rounded(old + 1, dtype), after.dtype), new) for dtype in dtypes):
        return _Change("offset-folded", "weight + 1 is stored in the place of weight")
    old = old + folded
    if _same(old, new):
        return None
    stored = rounded(old, after.dtype)
    if _same(np.sort(stored), np.sort(new)) and not _same(stored, new):
        return _Change("permuted", f"{key}: the same values in another order")
    differ = np.abs(new - old)
    most = float(np.nanmax(differ)) if np.isfinite(differ).any() else math.inf
    words = f"{key}: rounded to {after.dtype}" if _same(stored, new) else f"{key}: other values"
    return _Change("values-changed", words, int(np.count_nonzero(new != old)), old.size, most)


def _same(a: Array, b: Array) -> bool:
    """Bit for bit, but that any NaN is NaN."""
    return bool(np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b)))
