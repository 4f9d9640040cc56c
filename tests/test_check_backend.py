"""The faults that the kit finds in a backend, and what a backend is promised in turn."""

import numpy as np
import pytest

import normlib
from normlib import numpy_backend
from normlib.testing import LAYOUTS, OUTPUTS, Case, ConformanceError, check_backend
from normlib.testing import _checks as checks
from normlib.testing._cases import _possible

pytestmark = pytest.mark.thread_unsafe(reason="registers backends with the process")


def _sound(name):
    return getattr(numpy_backend, name)


def _naive_layer_norm(x, weight, bias, axis, eps, out):
    """The sum of squares minus the square of the sum, in float32."""
    a = x.astype(np.float32)
    mean = a.mean(axis=axis, keepdims=True)
    var = np.maximum((a * a).mean(axis=axis, keepdims=True) - mean * mean, 0)
    rstd = 1 / np.sqrt(var + np.float32(eps))
    shape = [n if i in axis else 1 for i, n in enumerate(x.shape)]
    y = (a - mean) * rstd
    out[...] = (y if weight is None else y * weight.reshape(shape)) + (0 if bias is None else bias.reshape(shape))
    kept = tuple(n for i, n in enumerate(x.shape) if i not in axis)
    return mean.reshape(kept).astype(np.float64), rstd.reshape(kept).astype(np.float64)


def _no_bias(x, weight, bias, axis, eps, out):
    return _sound("layer_norm")(x, weight, None, axis, eps, out)


def _wrong_eps(x, weight, axis, eps, out):
    return _sound("rms_norm")(x, weight, axis, eps * 1.01, out)


def _unbiased(x, weight, bias, mean, var, channel_axis, eps, out):
    n = x.size // x.shape[channel_axis]
    if mean is None:
        mean, _, var = _sound("batch_norm")(x, weight, bias, None, None, channel_axis, eps, np.empty_like(x))
        var = var * n / (n - 1)
    return _sound("batch_norm")(x, weight, bias, mean, var, channel_axis, eps, out)


def _writes_to_x(x, num_groups, weight, bias, channel_axis, eps, out):
    result = _sound("group_norm")(x, num_groups, weight, bias, channel_axis, eps, out)
    if x is not out and x.flags.writeable:
        x[(0,) * x.ndim] = 0
    return result


def _no_mean_of_gradient(dy, x, weight, mean, rstd, axis, weight_grads, out):
    _, dbias = _sound("layer_norm_backward")(dy, x, weight, mean, rstd, axis, weight_grads, out)
    (dweight,) = _sound("rms_norm_backward")(dy, x, weight, rstd, axis, weight_grads, out)
    return dweight, dbias


def _always_through(dy, x, weight, mean, rstd, mode, channel_axis, weight_grads, out):
    return _sound("instance_norm_backward")(dy, x, weight, mean, rstd, True, channel_axis, weight_grads, out)


def _swapped_sums(dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out):
    args = (dy, x, num_groups, weight, mean, rstd, channel_axis, weight_grads, out)
    return _sound("group_norm_backward")(*args)[::-1]


def _leaves_last_row(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out):
    result = _sound("batch_norm_backward")(dy, x, weight, mean, rstd, training, channel_axis, weight_grads, out)
    out[-1:] = 0
    return result


FAULTS = {
    "layer_norm": [_naive_layer_norm, _no_bias],
    "rms_norm": [_wrong_eps],
    "batch_norm": [_unbiased],
    "group_norm": [_writes_to_x],
    "layer_norm_backward": [_no_mean_of_gradient],
    "instance_norm_backward": [_always_through],
    "group_norm_backward": [_swapped_sums],
    "batch_norm_backward": [_leaves_last_row],
}


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for name, found in FAULTS.items() for fault in found])
def test_check_backend_finds_the_fault(register, name, fault):
    op = name.removesuffix("_backward")
    register("faulty", **{name: fault})
    with pytest.raises(ConformanceError) as caught:
        check_backend("faulty", ops=[op])
    report = caught.value.report
    assert not report.ok
    assert report.declined > 0
    assert all(op in failure for failure in report.failures)
    assert report.failures[0] in str(caught.value)


def test_check_backend_strict_counts_a_declined_call_as_a_failure(register):
    register("partial", layer_norm=numpy_backend.layer_norm)
    assert check_backend("partial", ops=["layer_norm"]).declined > 0
    with pytest.raises(ConformanceError, match="does not take this call"):
        check_backend("partial", ops=["layer_norm"], strict=True)


def _row_by_row(x, weight, bias, axis, eps, out):
    """Writes as it reads, and takes only what a backend is promised."""
    arrays = [a for a in (x, out, weight, bias) if a is not None]
    assert all(a.dtype.isnative and a.flags.aligned for a in arrays)
    rows = [_sound("layer_norm")(a[None], weight, bias, axis, eps, b[None]) for a, b in zip(x, out, strict=True)]
    return tuple(np.concatenate(s) for s in zip(*rows, strict=True))


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plugin_gets_sound_arrays(register, out, layout):
    case = Case("layer_norm", (5, 6, 37), {"axis": -1}, layout=layout, out=out)
    if _possible(case):
        register("row by row", layer_norm=_row_by_row)
        with normlib.backends.use("row by row", strict=True):
            checks.check_forward(case)


def test_a_plugin_never_writes_over_a_parameter(register):
    x, weight = np.random.default_rng(0).standard_normal((2, 5, 5))
    expected = normlib.layer_norm(x, weight[0])
    out = np.empty_like(x)
    out[1] = weight[0]
    register("row by row", layer_norm=_row_by_row)
    with normlib.backends.use("row by row", strict=True):
        normlib.layer_norm(x, out[1], out=out)
    np.testing.assert_allclose(out, expected, rtol=1e-13)


def _in_two_steps(x, weight, axis, eps, out):
    (rstd,) = _sound("rms_norm")(x, None, axis, eps, out)
    for row in out:
        row *= weight
    return (rstd,)


def test_a_plugin_gets_an_output_whose_elements_are_apart(register):
    x, weight = np.broadcast_to(np.arange(1.0, 5), (3, 4)), np.full(4, 2.0)
    out = np.lib.stride_tricks.as_strided(np.empty(4), (3, 4), (0, 8))
    register("two steps", rms_norm=_in_two_steps)
    with normlib.backends.use("two steps", strict=True):
        normlib.rms_norm(x, weight, out=out)
    np.testing.assert_allclose(out, normlib.rms_norm(x, weight), rtol=1e-13)


def test_check_backend_of_no_backend():
    with pytest.raises(ValueError, match="there is no backend 'nobody'"):
        check_backend("nobody")
