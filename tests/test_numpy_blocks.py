"""The NumPy backend cuts large arrays into blocks: each row gives the same bits, wherever it is cut."""

import numpy as np
import pytest

import normlib
from normlib import numpy_backend
from normlib.ops import OPS
from normlib.testing import Case, problems
from normlib.testing._cases import constant
from normlib.testing._checks import call_backward, call_forward, running


def results(case):
    x, weight, bias, dy = case.inputs()
    with normlib.backends.use("numpy", strict=True):
        y, *statistics = call_forward(case, x, weight, bias, return_stats=True, **running(case))
        named = dict(zip(case.description.statistics, statistics, strict=True))
        dx, *grads = call_backward(case, dy, x, weight, **named)
    return (y, *statistics, dx), grads


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("affine", ["both", "none"])
def test_blocks(name, affine, monkeypatch):
    take = numpy_backend._Rows.take
    cases = [Case(name, shape, options, "float64", affine) for shape, options in problems(name, "typical")]
    cases += [constant(case) for case in cases if OPS[name].mode]
    for case in cases:
        monkeypatch.undo()
        rows, sums = results(case)
        seen = []

        def count(self, array, seen=seen):
            seen.append(array.size)
            return take(self, array)

        monkeypatch.setattr(numpy_backend._Rows, "take", count)
        for block in (300, 60, 1):
            monkeypatch.setattr(numpy_backend, "BLOCK", block)
            own_rows, own_sums = results(case)
            assert [a.tobytes() for a in own_rows] == [a.tobytes() for a in rows]
            for a, b in zip(own_sums, sums, strict=True):  # added up in another order
                assert (a is None and b is None) or np.allclose(a, b, rtol=1e-11, atol=1e-11)
        assert min(seen) <= rows[0].size // 2  # it was cut
