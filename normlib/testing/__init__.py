"""Tools for testing a backend, or one's own code on normlib: conformance, gradients, error in ulps.

None of it needs a test framework: ``check_backend("mine")`` in any script tells what a backend gets wrong.
"""

from ._cases import AFFINE, OFFSETS, OUTPUTS, VALUES, Case, cases, dtypes, problems
from ._conformance import ConformanceError, Report, check_backend
from ._gradients import gradcheck
from ._layouts import LAYOUTS
from ._reference import ulp_error

__all__ = [
    "AFFINE",
    "LAYOUTS",
    "OFFSETS",
    "OUTPUTS",
    "VALUES",
    "Case",
    "ConformanceError",
    "Report",
    "cases",
    "check_backend",
    "dtypes",
    "gradcheck",
    "problems",
    "ulp_error",
]
