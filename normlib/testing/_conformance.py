"""The conformance kit: every check on every case of every op, on one backend."""

import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

from .. import backends
from ..ops import OPS
from ._cases import (
    Case,
    cases,
    constant,
    dtypes,
    fused_cases,
    independent,
    leading_cases,
    problems,
    quantized_cases,
    typed_cases,
)
from ._checks import (
    LIMITS,
    check_backward,
    check_empty,
    check_extremes,
    check_forward,
    check_quantized,
    check_row_position,
    check_running,
    check_special,
    check_threads,
)
from ._errors import check_errors
from ._gradients import check_gradients, gradient_cases


class ConformanceError(AssertionError):
    """A backend does not conform; `report` holds all that was found."""

    def __init__(self, report):
        self.report = report
        shown = "\n  ".join(report.failures[:20])
        more = len(report.failures) - 20
        super().__init__(f"{report}\n  {shown}" + (f"\n  and {more} more" if more > 0 else ""))


@dataclass
class Report:
    """What `check_backend` tried, and what came of it.

    Attributes
    ----------
    backend : str
    passed : dict of str to int
        Checks passed, by kind ("forward", "backward", "finite differences", ...).
    declined : int
        Checks that the backend left to the next one (they count as passed or failed as well).
    failures : list of str
        One line each: the case, and what was wrong.
    worst : dict of str to float
        For each function the largest error of its output in ulps.
    seconds : float
    """

    backend: str
    passed: dict = field(default_factory=dict)
    declined: int = 0
    failures: list = field(default_factory=list)
    worst: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self):
        """Whether nothing failed."""
        return not self.failures

    def __str__(self):
        total = sum(self.passed.values())
        text = f"{self.backend}: {total} checks passed, {len(self.failures)} failed"
        if self.declined:
            text += f", {self.declined} left to another backend"
        return f"{text}, {self.seconds:.1f} s"


def _by_turns(cases, quick):
    """All of them, or a few where it should be quick."""
    return islice(cases, 0, None, 11 if quick else 1)


def _checks(name, quick):
    """(kind, check, case) for all that an op is put through."""
    op = OPS[name]
    typical = [Case(name, shape, options) for shape, options in problems(name, "typical")]
    for case in cases(name, quick=quick):
        yield "forward", check_forward, case
        yield "backward", check_backward, case
    for case in fused_cases(name, quick=quick):
        yield "fused forward", check_forward, case
        yield "fused backward", check_backward, case
    for case in _by_turns(typed_cases(name, quick=quick), quick):
        yield "another dtype", check_forward, case
    for case in _by_turns(quantized_cases(name, quick=quick), quick):
        yield "quantized", check_quantized, case
    for case in _by_turns(leading_cases(name, quick=quick), quick):
        yield "leading axes, forward", check_forward, case
        yield "leading axes, backward", check_backward, case
    for case in (typical[0], replace(typical[0], affine="none")):
        for wanted in (True, False):
            yield "weight_grads", partial(check_backward, weight_grads=wanted), case
    for case in gradient_cases(name):
        yield "finite differences", check_gradients, case
    for case in (replace(case, dtype=dtype.name) for case in typical for dtype in dtypes()):
        yield "extremes", check_extremes, case
    for case in typical:
        yield "errors", check_errors, case
        yield "special values", check_special, case
        yield "empty", check_empty, replace(case, shape=(0, *case.shape[1:]))
        if independent(case):
            yield "row position", check_row_position, case
        if op.mode is not None:
            for layout in ("contiguous", "byteswapped", "strided"):
                yield "running statistics", check_running, replace(case, layout=layout)
            yield "row position", check_row_position, constant(case)
    for shape, options in problems(name, "large")[: 1 if quick else None]:
        yield "threads", check_threads, Case(name, shape, options)


def check_backend(name, *, quick=True, progress=None, strict=False, limits=None, ops=None):
    """Put a backend through the conformance kit.

    Every norm, forward and backward, in every dtype, memory layout, way of passing ``out`` and set of parameters; mean
    far from zero; gradients against finite differences; the same bits for every number of threads; NaN and infinity;
    bad arguments. The cases follow from the descriptions in `normlib.ops.OPS`, the expected values from extended
    precision, and the limits from the numerics contract: at most 4 ulps of a row's largest output, 16 of its largest
    gradient, 32 of the largest gradient of a parameter.

    Parameters
    ----------
    name : str
        A backend that `normlib.backends.use` takes.
    quick : bool
        Try each combination on one shape, in seconds; False takes the full set, in less than a minute.
    progress : callable, optional
        Called as ``progress(done, total, text)`` after every check.
    strict : bool
        Whether a call that the backend declines is a failure. Else the next backend takes it and the report counts it.
    limits : dict, optional
        Other limits in ulps, of "output", "gradient", "parameter" or "statistic".
    ops : sequence of str, optional
        The norms to check, forward and backward; all of `normlib.ops.OPS` by default.

    Returns
    -------
    Report
        Counts by kind, and the largest error of each function.

    Raises
    ------
    ConformanceError
        An AssertionError that lists what failed.
    ValueError, ImportError
        From `normlib.backends.use`, if there is no such backend.

    Examples
    --------
    >>> from normlib.testing import check_backend
    >>> check_backend("numpy", ops=["rms_norm"]).ok
    True
    """
    limits = {**LIMITS, **(limits or {})}
    report = Report(name)
    plan = [step for op in (OPS if ops is None else ops) for step in _checks(op, quick)]
    started = time.perf_counter()
    with backends.use(name, strict=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(group|instance)_norm: .* samples; if it is one image")
        for done, (kind, check, case) in enumerate(plan, 1):
            _run(report, kind, check, case, limits, strict)
            if progress is not None:
                progress(done, len(plan), f"{case.op}: {kind}")
    report.seconds = time.perf_counter() - started
    if report.failures:
        raise ConformanceError(report)
    return report


def _run(report, kind, check, case, limits, strict):
    try:
        try:
            error = check(case, limits)
        except NotImplementedError:
            if strict:
                raise
            report.declined += 1
            with backends.use(report.backend):
                error = check(case, limits)
    except AssertionError as failure:
        report.failures.append(f"{kind}: {failure}")
    except Exception as failure:
        report.failures.append(f"{kind}: {case}: {type(failure).__name__}: {failure}")
    else:
        report.passed[kind] = report.passed.get(kind, 0) + 1
        if kind in ("forward", "backward"):
            function = case.op if kind == "forward" else f"{case.op}_backward"
            report.worst[function] = max(report.worst.get(function, 0.0), error)
