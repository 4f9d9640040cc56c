"""The figures that the project holds itself to, and whether a run reaches them."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from normlib.bench.cases import GROWTH, ITEMSIZE, LARGE, Case
from normlib.bench.runner import ADD, ALONE, Result

__all__ = ["FIGURES", "Figure", "figures", "geometric_mean"]

Values = list[tuple[float, Result]]
CACHED = 8e6  # bytes of a pass that the LLC holds
CLOCK = 0.95  # two measurements of the same code may differ by as much


class Figure(NamedTuple):
    """A promise: the cases that it speaks of with their values, and the goal for their geometric mean or the worst."""

    name: str
    goal: float
    values: Callable[[list[Result]], Values]
    measure: str = "worst"
    at_least: bool = False  # else at most
    family: str = "plain"

    def holds(self, value: float) -> bool:
        """Whether the value reaches the goal."""
        return value >= self.goal if self.at_least else value <= self.goal


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean.

    Examples
    --------
    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def _over_limit(applies: Callable[[Case], bool]) -> Callable[[list[Result]], Values]:
    return lambda results: [(result.over_limit, result) for result in results if applies(result.case)]


def _large(backward: bool, out: bool) -> Callable[[list[Result]], Values]:
    return _over_limit(lambda c: c.bytes > LARGE and c.dtype == "float32" and c.backward == backward and c.out == out)


def _large_16_bit(case: Case) -> bool:
    return case.bytes > 60e6 and ITEMSIZE[case.dtype] == 2 and case.out


def _small(case: Case) -> bool:
    return case.bytes <= CACHED and case.dtype == "float32"


def _small_and_smooth(case: Case) -> bool:
    return _small(case) and case.activation in ("silu", "gelu")


def _small_and_simple(case: Case) -> bool:
    return _small(case) and not _small_and_smooth(case)


def _large_sums(out: bool) -> Callable[[list[Result]], Values]:
    return _over_limit(lambda c: "residual" in c.fused and c.bytes > LARGE and c.dtype == "float32" and c.out == out)


def _of_16_bits(case: Case) -> bool:
    return ITEMSIZE[case.dtype] == 2


def _fresh_row(case: Case) -> bool:
    return case.one_row and case.shape[-1] == 768 and case.dtype == "float32" and not case.out


def _peer(name: str, applies: Callable[[Case], bool] = lambda case: True) -> Callable[[list[Result]], Values]:
    return lambda results: [(r.peers[name], r) for r in results if name in r.peers and applies(r.case)]


def _over_add(results: list[Result]) -> Values:
    return [(r.ours / r.seconds[ADD], r) for r in results if ADD in r.seconds and _fresh_row(r.case)]


def _speedup(results: list[Result]) -> Values:
    return [(r.speedup, r) for r in results if r.speedup is not None]


def _worthwhile_speedup(results: list[Result]) -> Values:
    return [(ratio, r) for ratio, r in _speedup(results) if r.case.bytes <= CACHED and r.seconds[ALONE] > 100e-6]


def _growth(results: list[Result]) -> Values:
    """Return the time of each case over the shortest of the same pass over as many elements in other rows."""
    families: dict[tuple, list[Result]] = {}
    for result in results:
        case = result.case
        if case.model == GROWTH:
            families.setdefault((case.norm, case.backward, case.dtype, case.size), []).append(result)
    return [
        (result.ours / min(other.ours for other in family), result)
        for family in families.values()
        for result in family
        if len(family) > 1
    ]


FIGURES = (
    Figure("x limit: over 120 MB, float32, out=, forward", 1.15, _large(False, True)),
    Figure("x limit: over 120 MB, float32, out=, backward", 1.25, _large(True, True)),
    Figure("x limit: over 120 MB, float32, fresh, forward", 1.6, _large(False, False)),
    Figure("x limit: over 120 MB, float32, fresh, backward", 1.6, _large(True, False)),
    Figure("x limit: over 60 MB, 16 bits, out=", 1.4, _over_limit(_large_16_bit)),
    Figure("x limit: up to 8 MB, float32", 1.6, _over_limit(_small), "mean"),
    Figure("x limit: up to 8 MB, float32", 2.5, _over_limit(_small)),
    Figure("x limit: all cases", 1.5, _over_limit(lambda case: True), "mean"),
    Figure("torch over ours", 5.0, _peer("torch"), "mean", at_least=True),
    Figure("torch over ours", 1.0, _peer("torch"), at_least=True),
    Figure("onnxruntime over ours", 2.0, _peer("onnxruntime"), "mean", at_least=True),
    Figure("onnxruntime over ours", 1.0, _peer("onnxruntime"), at_least=True),
    Figure("jax over ours", 4.0, _peer("jax"), "mean", at_least=True),
    Figure("jax over ours", 1.0, _peer("jax"), at_least=True),
    Figure("one fresh row of 768: torch over ours", 4.0, _peer("torch", _fresh_row), at_least=True),
    Figure("one fresh row of 768: ours over np.add", 1.6, _over_add),
    Figure("one thread over several: up to 8 MB, over 100 us", 1.8, _worthwhile_speedup, at_least=True),
    Figure("one thread over several: all cases", CLOCK, _speedup, at_least=True),
    Figure("growth: rows of 64 to 65536 over the fastest", 1.25, _growth),
    Figure("x limit: sum out, over 120 MB, float32, out=", 1.25, _large_sums(True), family="fused"),
    Figure("x limit: sum out, over 120 MB, float32, fresh", 1.6, _large_sums(False), family="fused"),
    Figure("x limit: up to 8 MB, float32", 1.6, _over_limit(_small_and_simple), "mean", family="fused"),
    Figure("x limit: up to 8 MB, float32, silu and gelu", 2.5, _over_limit(_small_and_smooth), "mean", family="fused"),
    Figure("separate steps over ours", 1 / 0.65, _peer("separate"), "mean", at_least=True, family="fused"),
    Figure("separate steps over ours", 1.0, _peer("separate"), at_least=True, family="fused"),
    Figure("torch over ours", 4.0, _peer("torch"), "mean", at_least=True, family="fused"),
    Figure("torch over ours", 1.0, _peer("torch"), at_least=True, family="fused"),
    Figure("torch.compile over ours", 1.5, _peer("torch.compile"), "mean", at_least=True, family="fused"),
    Figure("onnxruntime over ours", 1.0, _peer("onnxruntime"), at_least=True, family="fused"),
    Figure("jax over ours", 1.0, _peer("jax"), at_least=True, family="fused"),
    Figure("vllm over ours", 1.0, _peer("vllm"), at_least=True, family="fused"),
    Figure("vllm over ours, 16 bits", 2.0, _peer("vllm", _of_16_bits), at_least=True, family="fused"),
)


def figures(results: list[Result]) -> list[dict]:
    """Return what was measured of each promise that these cases can tell of."""
    found = []
    for figure in FIGURES:
        values = figure.values([r for r in results if bool(r.case.fused) == (figure.family == "fused")])
        if not values:
            continue
        worst, result = (min if figure.at_least else max)(values, key=lambda pair: pair[0])
        value = worst if figure.measure == "worst" else geometric_mean(value for value, _ in values)
        found.append(
            {
                "figure": figure.name,
                "measure": figure.measure,
                "cases": len(values),
                "goal": figure.goal,
                "at_least": figure.at_least,
                "value": value,
                "met": figure.holds(value),
                "missed": sum(not figure.holds(value) for value, _ in values),
                "case": result.case.name,
            }
        )
    return found
