"""Numbers of twice the precision of float64, as sums of two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Pair(NamedTuple):
    """A sum of two numbers, the second of which is what the first has lost (Dekker 1971)."""

    head: Array
    tail: Array

    def __add__(self, other: Pair) -> Pair:  # type: ignore[override]
        total, lost = two_sum(self.head, other.head)
        return Pair(*quick_sum(total, lost + (self.tail + other.tail)))

    def __neg__(self) -> Pair:
        return Pair(-self.head, -self.tail)

    def __mul__(self, other: Pair) -> Pair:  # type: ignore[override]
        product, lost = two_product(self.head, other.head)
        return Pair(*quick_sum(product, lost + (self.head * other.tail + self.tail * other.head)))

    def over(self, n: Array) -> Pair:
        """Divided by a number."""
        first = self.head / n
        product, lost = two_product(first, n)
        rest = ((self.head - product) - lost + self.tail) / n
        return Pair(*quick_sum(first, rest))


def quick_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    return total, b - (total - a)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum, and what it has lost (Knuth 1969)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The product, and what it has lost (Dekker 1971, Veltkamp's splitting)."""
    product, parts = a * b, []
    for value in (a, b):
        far = value * (2.0**27 + 1)
        upper = far - (far - value)
        parts.append((upper, value - upper))
    (a1, a2), (b1, b2) = parts
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
