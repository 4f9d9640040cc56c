"""What the values of a tensor are like, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._checkpoint import Tensor


@dataclass(frozen=True)
class Values:
    """Attributes: least and greatest value and the mean, of those that are finite, NaN where there is none; how many
    are not finite, are 0, are below 0; whether all are 1.
    """

    size: int
    low: float
    high: float
    mean: float
    bad: int
    zeros: int
    negative: int
    ones: bool

    @property
    def all_zero(self) -> bool:
        return self.zeros == self.size


def of(tensor: Tensor, offset: bool = False) -> Values | None:
    """Of a tensor, plus 1 where it is an offset; None where it cannot be decoded, or has no elements."""
    values = tensor.values()
    if values is None or not values.size:
        return None
    values = values + offset
    finite = values[np.isfinite(values)]
    low, high, mean = (finite.min(), finite.max(), finite.mean()) if finite.size else (np.nan,) * 3
    bad, zeros, negative = (int(np.count_nonzero(w)) for w in (~np.isfinite(values), values == 0, values < 0))
    ones = bool((values == 1).all())
    return Values(values.size, float(low), float(high), float(mean), bad, zeros, negative, ones)
