"""What a comparison of models says: a table, what was left alone, and whether the goals are met."""

from dataclasses import dataclass, field

from normlib.bench.figures import geometric_mean
from normlib.bench.report import _aligned, _seconds

__all__ = ["Result", "report"]

WORTHWHILE = 0.04  # share of the norms from which half of it is to be gained


@dataclass
class Result:
    """What was measured of a model, its inputs and a pass; ratios are torch's time over ours, by contender."""

    model: str
    shape: str
    kind: str
    threads: int
    alone: bool = False  # a norm, no model
    compiled: bool = False
    norms: int = 0
    accelerated: int = 0
    left_alone: str = ""
    share: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What was measured."""
        return f"{self.model} {self.shape} {self.kind}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def goal(self) -> float:
        """The least ratio: no loss, and half of what the norms take where that counts."""
        least = 1.0 if self.alone else 0.98 if self.compiled else 0.99
        share = self.share or 0.0
        return 1 / (1 - share / 2) if share >= WORTHWHILE and not self.compiled else least


def report(results: list[Result], about: dict) -> str:
    """Return all that is printed of a run."""
    names = list(dict.fromkeys(name for result in results for name in (*result.ratios, *result.refused)))
    heading = f"normlib {about['normlib']}, torch {about['torch']}{', compiled' * about['compiled']}"
    columns = "torch's time over ours; < is below the goal, ~ below it within the noise"
    parts = f"{heading}: {columns}", "", _table(results, names), *_left_alone(results), *_closing(results, names)
    return "\n".join(parts)


def _table(results: list[Result], names: list[str]) -> str:
    rows = [["model", "inputs", "pass", "threads", "norms", "share", "torch", "goal", *names]]
    for result in results:
        share = "-" if result.share is None else f"{100 * result.share:.1f} %"
        swapped = f"{result.accelerated} of {result.norms}"
        time, goal = _seconds(result.seconds["torch"]), f"{result.goal:.2f}"
        ratios = [_ratio(result, name) for name in names]
        rows.append([result.model, result.shape, result.kind, str(result.threads), swapped, share, time, goal, *ratios])
    return "\n".join(_aligned(rows, 3))


def _ratio(result: Result, name: str) -> str:
    if name not in result.ratios:
        return "-"
    return f"{_mark(result, name)}{result.ratios[name]:.3f} ±{result.errors[name]:.3f}"


def _mark(result: Result, name: str) -> str:
    missing = result.goal - result.ratios[name]
    return "" if missing <= 0 else "~" if missing <= result.errors[name] else "<"


def _left_alone(results: list[Result]) -> list[str]:
    found = {result.model: result.left_alone for result in results if result.left_alone}
    lines = [f"  {model}: {summary}" for model, summary in found.items()]
    refused = [f"  {name}: {result.words}: {why}" for result in results for name, why in result.refused.items()]
    return (["", "Left alone by accelerate:", *lines] if lines else []) + (
        ["", "Not timed, since it failed or computed something else:", *refused] if refused else []
    )


def _closing(results: list[Result], names: list[str]) -> list[str]:
    """For each contender: cases, geometric mean, the worst, how many miss their goal."""
    rows = [["against torch", "cases", "mean", "worst", "missed", "within noise", "worst case"]]
    for name in names:
        for what in ("norms", "models"):
            met = [r for r in results if name in r.ratios and r.alone == (what == "norms")]
            if not met:
                continue
            worst = min(met, key=lambda result: result.ratios[name] / result.goal)
            marks = [_mark(result, name) for result in met]
            mean = geometric_mean(result.ratios[name] for result in met)
            missed, near = str(marks.count("<")), str(marks.count("~"))
            figures = f"{mean:.3f}", f"{worst.ratios[name]:.3f}", missed, near
            rows.append([f"{name}, {what}", str(len(met)), *figures, worst.words])
    return ["", *_aligned(rows, 1)]
