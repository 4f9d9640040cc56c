"""torch as an independent peer: outputs, gradients by its autograd, running statistics, over the cases of the kit."""

import numpy as np
import pytest

from normlib.ops import OPS
from normlib.testing import Case, dtypes, problems
from normlib.testing import _checks as checks

torch = pytest.importorskip("torch")
F = torch.nn.functional

DTYPES = [dtype.name for dtype in dtypes()]
# Of the largest value. torch computes 16-bit input as float32 here: its own 16-bit norms keep rounded statistics.
TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 2e-5 + 2**-11, "bfloat16": 2e-5 + 2**-8}


def tensor(a, dtype):
    wide = np.float64 if dtype == "float64" else np.float32
    return None if a is None else torch.tensor(a.astype(wide)).requires_grad_()


def moved(x, case):
    """x with its normalized axes last or its channels second, as torch wants them, and the way back."""
    axis = case.options[case.description.axis_name]
    if case.description.kind == "feature":
        order = case.description.reduced_axes(x.ndim, axis)
        to = tuple(range(x.ndim - len(order), x.ndim))
        return x.movedim(order, to), lambda y: y.movedim(to, order)
    return x.movedim(axis, 1), lambda y: y.movedim(1, axis)


def peer(case, x, weight, bias, running):
    """torch's result for the options of a case."""
    x, back = moved(x, case)
    mode = case.options.get(case.description.mode)
    mean, var = running
    if case.op == "layer_norm":
        y = F.layer_norm(x, case.geometry.parameter_shape, weight, bias, eps=case.eps)
    elif case.op == "rms_norm":
        y = F.rms_norm(x, case.geometry.parameter_shape, weight, eps=case.eps)
    elif case.op == "batch_norm":
        y = F.batch_norm(x, mean, var, weight, bias, training=mode, momentum=0.3, eps=case.eps)
    elif case.op == "group_norm":
        y = F.group_norm(x, case.options["num_groups"], weight, bias, eps=case.eps)
    else:
        y = F.instance_norm(x, mean, var, weight, bias, mode, momentum=0.3, eps=case.eps)
    return back(y)


def close(case, name, found, expected):
    expected = expected.detach().to(torch.float64).numpy()
    assert found.shape == expected.shape, (case, name)
    error = np.max(np.abs(found.astype(np.float64) - expected), initial=0)
    largest = np.max(np.abs(expected), initial=1e-3)
    assert error <= TOLERANCE[case.dtype] * largest, f"{case}: {name} differs by {error / largest:.3g}"


def cases(op, dtype):
    description = OPS[op]
    for shape, options in [*problems(op), *problems(op, "typical")]:
        for affine in ("both", "none"):
            case = Case(op, shape, options, dtype, affine)
            if case.row_length < 3:
                continue  # the gradient is nothing but rounding
            yield case
            if description.mode is not None and affine == "both":
                yield Case(op, shape, {**options, description.mode: False}, dtype, affine, given=True)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_gradients_and_running_statistics(backend, op, dtype):
    assert set(OPS) == {"layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"}
    for case in cases(op, dtype):
        x, weight, bias, dy = case.inputs()
        tensors = [tensor(a, dtype) for a in (x, weight, bias)]
        running, own = (None, None), {}
        if case.description.mode is not None:
            statistics = [s.astype(np.float32) for s in case.given_statistics()]
            running = [torch.tensor(s) for s in statistics]
            if dtype == "float64":
                running = [s.double() for s in running]
            own = dict(zip(("running_mean", "running_var"), statistics, strict=True), momentum=0.3)

        expected = peer(case, *tensors, running)
        expected.backward(tensor(dy, dtype).detach())
        y, *statistics = checks.call_forward(case, x, weight, bias, **own, return_stats=True)
        named = dict(zip(case.description.statistics, statistics, strict=True))
        gradients = checks.call_backward(case, dy, x, weight, **named)

        close(case, "y", y, expected)
        for name, found, t in zip(("dx", "dweight", "dbias"), gradients, tensors, strict=False):
            if t is not None:
                close(case, name, found, t.grad)
        for name, t in zip(("running_mean", "running_var"), running, strict=True):
            if t is not None:
                np.testing.assert_allclose(own[name], t.numpy(), rtol=2e-5, atol=2e-5, err_msg=f"{case}: {name}")
