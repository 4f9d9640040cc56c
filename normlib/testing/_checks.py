"""What must hold for one case, on the backend in use: each check raises AssertionError with the case's name."""

from contextlib import contextmanager
from functools import partial

import numpy as np

import normlib

from . import _fused
from ._cases import EPS, dtype_named
from ._layouts import LAYOUTS, shares_order
from ._reference import backward, forward, normal_range, spacing, ulp_error, working_dtype

# The numerics contract, in ulps of the largest value of the row (parameter gradients: of the array).
LIMITS = {"output": 4.0, "gradient": 16.0, "parameter": 32.0, "statistic": 4.0}


def ensure(condition, case, text):
    if not condition:
        raise AssertionError(f"{case}: {text}")


def same_bits(a, b):
    """Equal shapes, dtypes and bits (byte order aside)."""
    a, b = (np.asarray(v, dtype=v.dtype.newbyteorder("=")) for v in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@contextmanager
def _untouched(case, **arrays):
    before = {name: a.copy() for name, a in arrays.items() if a is not None}
    yield
    for name, a in before.items():
        ensure(a.tobytes() == arrays[name].tobytes(), case, f"{name} was written to")


def call_forward(case, x, weight=None, bias=None, **options):
    """The public forward function on a case's options, with the parameters that the op has; without the sum of x and
    residual, which is checked."""
    given = _arguments(case, weight, bias, options)
    before = [np.array(a) for a in (x, given["residual"])] if "residual" in given else None
    result = getattr(normlib, case.op)(x, **given)
    if before is None:
        return result
    y, total, *rest = result
    ensure(same_bits(total, np.add(*before)), case, "the sum of x and residual has other bits")
    return (y, *rest) if rest else y


def _arguments(case, weight, bias, options):
    """All but x, by name."""
    parameters = {"weight": weight, "bias": bias}
    given = {name: parameters[name] for name in case.description.parameters}
    return given | {"eps": case.eps, **case.options, **case.companions(given=options.keys()), **options}


def with_statistics(case, x, weight=None, bias=None, **options):
    """The output of the forward function, and its statistics by name."""
    y, *statistics = call_forward(case, x, weight, bias, **running(case), **options, return_stats=True)
    return y, dict(zip(case.description.statistics, statistics, strict=True))


def call_backward(case, dy, x, weight=None, mean=None, rstd=None, **options):
    """The public backward function on a case's options, with the statistics that the op has."""
    statistics = {"mean": mean, "rstd": rstd}
    given = {name: statistics[name] for name in case.description.statistics}
    function = getattr(normlib, f"{case.op}_backward")
    return function(dy, x, weight=weight, **given, **{**case.options, **case.companions(backward=True), **options})


def running(case, dtype=np.float64):
    """The running statistics as keywords, where the case is one of given statistics."""
    if not case.given:
        return {}
    mean, var = case.given_statistics()
    return {"running_mean": mean.astype(dtype), "running_var": var.astype(dtype)}


def expected_forward(case, x, weight, bias, fused=True):
    mean = var = None
    x = case.normalized(x)
    if case.given:
        mean, var = (np.broadcast_to(s, case.geometry.statistics_shape) for s in case.given_statistics())
    truth = forward(case.geometry, x, weight, bias, eps=case.eps, centered=case.centered, mean=mean, var=var)
    return _fused.forward(case.geometry, truth, case.companions()) if fused else truth


def _output(case, x, dtype=None):
    """(x, out) for the case's way of passing `out`; None for a fresh result."""
    if case.out == "given":
        return x, np.full(x.shape, np.nan, dtype or x.dtype)
    if case.out == "strided":
        return x, LAYOUTS["strided"](np.full(x.shape, np.nan, dtype or x.dtype))
    if case.out == "inplace":
        return x, x
    if case.out == "overlap":
        both = LAYOUTS[case.layout](np.concatenate([x, x[:1]]))
        return both[:-1], both[1:]
    return x, None


def _check_array(case, name, a, dtype, shape):
    ensure(type(a) is np.ndarray, case, f"{name} is a {type(a).__name__}, expected a NumPy array")
    ensure(a.dtype == np.dtype(dtype), case, f"{name} has dtype {a.dtype}, expected {dtype}")
    ensure(a.shape == shape, case, f"{name} has shape {a.shape}, expected {shape}")


def _row_error(case, found, expected, scale):
    # In a row of a few values, or of equal ones, terms may cancel to almost nothing: it is measured by the terms.
    cancels = case.row_length < 8 or case.layout.startswith("broadcast") or case.dy == "constant"
    cancels |= bool(case.fused.keys() & {"activation", "gate", "where"})
    rows = case.geometry.rows
    if found.dtype == np.float64:
        found = found.astype(working_dtype(case.dtype))  # in which it was computed
    return ulp_error(rows(found), rows(expected), scale=scale if cancels else None)


def check_forward(case, limits=LIMITS):
    """Output, its layout and dtype, statistics and untouched inputs; returns the error of the output in ulps."""
    x, weight, bias, _ = case.inputs()
    x, out = _output(case, x, case.out_dtype and case.result)
    limits = _gated_first(case, limits)
    expected = expected_forward(case, x, weight, bias)
    plain = None if case.out == "overlap" else call_forward(case, x, weight, bias, **running(case))
    kept = {} if case.out in ("inplace", "overlap") else {"x": x}
    with _untouched(case, weight=weight, bias=bias, **kept):
        y, statistics = with_statistics(case, x, weight, bias, out=out)
    if out is None:
        _check_array(case, "the output", y, case.result, case.shape)
        ensure(not np.may_share_memory(x, y), case, "the output shares memory with x")
        ordered = case.layout not in ("strided", "padded", "negative", "broadcast", "broadcast_last")
        ensure(not ordered or shares_order(x, y), case, f"strides {x.strides} became {y.strides}")
    else:
        ensure(y is out, case, "the result is not the array given as out")
    ensure(plain is None or same_bits(plain, y), case, "return_stats or out changed the output")
    error = _row_error(case, y, expected.y, expected.scale)
    ensure(error <= limits["output"], case, f"the output is off by {error:.3g} ulps, allowed {limits['output']}")
    for name, value in statistics.items():
        _check_array(case, name, value, np.float64, case.geometry.statistics_shape)
        _check_statistic(case, name, value, expected, limits["statistic"])
    return error


def check_quantized(case, limits=LIMITS):
    """The result as int8, by a scale for each row, and by a given one; the layout of q, and what is returned beside."""
    x, weight, bias, _ = case.inputs()
    truth, rows = expected_forward(case, x, weight, bias), case.geometry.rows
    y = rows(truth.y)
    largest = np.max(np.abs(y), axis=1, keepdims=True, initial=0)
    kind, shape = working_dtype(case.dtype), case.geometry.statistics_shape
    error = (limits["output"] + 2) * spacing(np.maximum(largest, truth.scale), kind)
    for given in (None, 0.01, np.linspace(0.01, 0.02, len(y)).astype(kind).reshape(shape)):
        arguments = _arguments(case, weight, bias, {"quantize": "int8", "scale": given})
        q, scale, *rest = getattr(normlib, case.op)(x, return_stats=True, **arguments)
        _check_array(case, "q", q, np.int8, case.shape)
        _check_array(case, "the scale", scale, kind, shape)
        steps = scale.reshape(-1, 1).astype(np.longdouble)
        wanted = np.where(steps == 0, 0, y / np.where(steps == 0, 1, steps))
        if given is None:
            off = float(np.max(np.abs(steps - largest / 127) / (error / 127 + spacing(steps, kind)), initial=0))
            ensure(off <= 1, case, f"the scale is off by {off:.3g} times what is allowed")
        else:
            ensure(np.array_equal(scale, np.broadcast_to(np.asarray(given, kind), shape)), case, "another scale")
        allowed = 0.5 + error / np.where(steps == 0, 1, steps) + 127 * 4 * float(np.finfo(kind).eps)
        worst = float(np.max(np.abs(rows(q) - np.clip(wanted, -127, 127)) - allowed, initial=0))
        ensure(worst <= 0, case, f"q is off by {worst:.3g} beyond half a step")
        names = ["sum"] * ("residual" in case.fused) + list(case.description.statistics)
        ensure(len(rest) == len(names), case, f"{len(rest)} results follow the scale, expected {names}")


def _check_statistic(case, name, value, expected, limit):
    """A mean may be off by some ulps of the standard deviation (a float64's own rounding aside), rstd by some ulps."""
    ulp = float(np.finfo(working_dtype(case.dtype)).eps)
    truth, rstd = (np.asarray(getattr(expected, n)).astype(np.longdouble) for n in (name, "rstd"))
    unknown = np.isnan(truth)  # of a row with nothing inside
    ensure(np.array_equal(unknown, np.isnan(value)), case, f"{name} is {value}, expected NaN in {unknown}")
    value, truth, rstd = value[~unknown], truth[~unknown], rstd[~unknown]
    allowed = limit * ulp / rstd + spacing(truth, "float64") if name == "mean" else limit * ulp * rstd
    worst = float(np.max(np.abs(value - truth) / allowed, initial=0))
    ensure(worst <= 1, case, f"{name} is off by {worst * limit:.3g} ulps, allowed {limit}")


def expected_backward(case, dy, x, weight, truth, **statistics):
    """The gradients, and those of what the epilogue reads by name, each with its largest term in each row."""
    upstream, dgate = _fused.upstream(case.geometry, truth, dy, case.companions())
    u = case.gated(x)
    bias = case.companions(backward=True).get("bias")
    options = statistics | {"through": not case.given}
    options["bias_shape"] = None if bias is None else bias.shape
    expected = backward(case.geometry, upstream, u, weight, **options)
    if case.fused:  # measured by the terms of a bare norm
        bare = backward(case.geometry, dy, u, weight, **options)
        expected = expected._replace(scale=bare.scale)
    expected, dgate_first = _fused.backward(case.geometry, expected, x, case.companions(backward=True))
    largest = np.nanmax(np.abs(case.geometry.rows(dy)), axis=1, keepdims=True, initial=0)
    return expected, {"add": (upstream, largest), "gate": dgate_first or (dgate, largest)}


def _gated_first(case, limits):
    """The limits where a product is normalized: with an activation, which may be 2 ulps off, and rounded; in 16 bits a
    last digit of it may decide where to."""
    if "gate_first" not in case.fused:
        return limits
    product = 3 if case.dtype in ("float64", "float32") else float(spacing(1, case.dtype) / spacing(1, "float32"))
    return {name: limit + product for name, limit in limits.items()}


def _rounded_twice(case, limits):
    """The limits where what reaches the norm is rounded to 16 bits before it goes on: dy itself, or 0, is not."""
    exact = case.fused.get("activation") in (None, "relu") and "gate" not in case.fused
    weighted = bool(case.leading) and case.op == "batch_norm" and not case.given  # rstd * weight * dy is rounded too
    if case.dtype in ("float64", "float32"):
        return limits
    once = float(spacing(1, case.dtype) / spacing(1, "float32"))  # the rounding that remains at the end is not counted
    return limits | {name: limits[name] + once * (weighted + (not exact)) for name in ("gradient", "parameter")}


def check_backward(case, limits=LIMITS, weight_grads=None):
    """Gradients, their layout and dtypes and untouched inputs; returns the largest error of dx in ulps."""
    limits = _rounded_twice(case, _gated_first(case, limits))
    x, weight, bias, dy = case.inputs()
    truth = expected_forward(case, x, weight, bias, fused=False)
    mean, rstd = (None if s is None else np.asarray(s).astype(np.float64) for s in (truth.mean, truth.rstd))
    x = case.summed(x)
    expected, of_companions = expected_backward(case, dy, x, weight, truth, mean=mean, rstd=rstd)
    aliased = {"inplace": ("x", "dy"), "overlap": ("x", "dy")}.get(case.out, (None,))
    worst = 0.0
    for alias in aliased:
        arrays = {"dy": dy.copy() if alias else dy, "x": x.copy() if alias else x}
        if alias:
            arrays[alias], out = _output(case, LAYOUTS[case.layout](arrays[alias]))
        else:
            _, out = _output(case, x)
        kept = {n: a for n, a in arrays.items() if n != alias}
        with _untouched(case, weight=weight, mean=mean, rstd=rstd, **kept):
            result = call_backward(
                case, arrays["dy"], arrays["x"], weight, mean, rstd, out=out, weight_grads=weight_grads
            )
        result, companions = _without_companions(case, result)
        for name, found in companions.items():
            _check_companion(case, f"d{name}", found, *of_companions[name], limits["gradient"])
        _check_gradients(case, result, expected, out, x, weight, weight_grads, limits)
        worst = max(worst, _row_error(case, result[0], expected.dx, expected.scale))
        ensure(
            worst <= limits["gradient"], case, f"dx is off by {worst:.3g} ulps, allowed {limits['gradient']}"
        )
    return worst


def _without_companions(case, result):
    """The gradients without those of what the epilogue reads, and these by name."""
    names = [name for name in ("add", "gate") if name in case.fused]
    return result[: len(result) - len(names)], dict(zip(names, result[len(result) - len(names) :], strict=True))


def _check_companion(case, name, found, expected, largest, allowed):
    _check_array(case, name, found, dtype_named(case.dtype), case.shape)
    rows = case.geometry.rows
    error = ulp_error(rows(found), rows(expected), scale=largest)
    ensure(error <= allowed, case, f"{name} is off by {error:.3g} ulps, allowed {allowed}")


def _check_gradients(case, result, expected, out, x, weight, weight_grads, limits):
    dx, sums = result[0], dict(zip(case.description.parameters, result[1:], strict=True))
    if out is None:
        _check_array(case, "dx", dx, dtype_named(case.dtype), case.shape)
    else:
        ensure(dx is out, case, "dx is not the array given as out")
    wanted = weight is not None if weight_grads is None else weight_grads
    for name, value in sums.items():
        if not wanted:
            ensure(value is None, case, f"d{name} was computed unasked")
            continue
        dtype = (x if weight is None else weight).dtype.newbyteorder("=")
        shape = getattr(expected, f"d{name}").shape
        _check_array(case, f"d{name}", value, dtype, shape)
        error, allowed = _parameter_error(expected, name, value), limits["parameter"]
        ensure(error <= allowed, case, f"d{name} is off by {error:.3g} ulps, allowed {allowed}")


def _parameter_error(expected, name, value):
    """Measured by what the terms of the sum give by chance, where they cancel beyond that."""
    return ulp_error(value, getattr(expected, f"d{name}"), axis=None, scale=getattr(expected, f"d{name}_scale"))


def check_running(case, limits=LIMITS, dtype=np.float32, momentum=0.25):
    """Running statistics move toward the mean and the unbiased variance, averaged over the samples."""
    x, weight, bias, _ = case.inputs()
    mean, var = (s.astype(dtype) for s in case.given_statistics())
    before = [s.astype(np.float64) for s in (mean, var)]
    call_forward(case, x, weight, bias, running_mean=mean, running_var=var, momentum=momentum)
    truth = expected_forward(case, x, weight, bias)
    n = case.row_length
    for name, running, old, new in (
        ("running_mean", mean, before[0], truth.mean),
        ("running_var", var, before[1], truth.var * n / (n - 1)),
    ):
        channels = np.asarray(new).astype(np.longdouble).reshape(-1, running.size).mean(axis=0)
        # Neither better than what keeps it nor than the statistics of x are.
        found = running.astype(min(np.dtype(dtype), np.dtype(working_dtype(case.dtype))))
        error = ulp_error(found, (1 - momentum) * old + momentum * channels, axis=None)
        ensure(error <= limits["statistic"], case, f"{name} is off by {error:.3g} ulps")


def worst_errors(case):
    """Largest errors in ulps of y, dx and the gradients of the parameters, where backward gets what forward returned.

    A row is measured by its largest output or, where bias or the mean of the gradient cancels that, its largest term.
    A float64 mean is good to half an ulp of itself, in a float64 gradient more than its rounding: there the reference
    goes by the statistics that backward was given, else by its own.
    """
    x, weight, bias, dy = case.inputs()
    y, statistics = with_statistics(case, x, weight, bias)
    truth, plain = (expected_forward(case, x, weight, bias, fused=fused) for fused in (True, False))
    x = case.summed(x)
    dx, *sums = call_backward(case, dy, x, weight, **statistics, weight_grads=True)
    used = {"mean": truth.mean, "rstd": truth.rstd} if case.dtype != "float64" else statistics
    expected, _ = expected_backward(case, dy, x, weight, plain, **used)
    rows = case.geometry.rows
    return {
        "output": ulp_error(rows(y), rows(truth.y), scale=truth.scale),
        "gradient": ulp_error(rows(dx), rows(expected.dx), scale=expected.scale),
        "parameter": max(map(partial(_parameter_error, expected), case.description.parameters, sums)),
    }


def results(case, **outputs):
    """All results of a case, forward and backward, as a list of arrays (to compare bits)."""
    x, weight, bias, dy = case.inputs()
    y, statistics = with_statistics(case, x, weight, bias, **outputs)
    x = case.summed(x)
    return [y, *statistics.values(), *call_backward(case, dy, x, weight, **statistics, weight_grads=True)]


def check_threads(case, limits=None, threads=(1, 2, 3, 7)):
    """The same bits for every number of threads."""
    first = None
    for count in threads:
        with normlib.num_threads(count):
            found = results(case)
        first = first or found
        for index, (a, b) in enumerate(zip(first, found, strict=True)):
            ensure(same_bits(a, b), case, f"result {index} differs between {threads[0]} and {count} threads")


def check_row_position(case, limits=None):
    """A row's result does not depend on the rows beside it."""
    x, weight, bias, _ = case.inputs()
    whole = call_forward(case, x, weight, bias, **running(case))
    for start, stop in ((0, 1), (1, 2), (1, case.shape[0])):
        some = {n: a[start:stop] if isinstance(a, np.ndarray) else a for n, a in case.companions().items()}
        part = call_forward(case, x[start:stop], weight, bias, **running(case), **some)
        ensure(same_bits(part, whole[start:stop]), case, f"rows {start}:{stop} alone give other bits")


def check_special(case, limits=None):
    """NaN and infinity stay in their own row, and every other row keeps its bits."""
    x, weight, bias, _ = case.inputs()
    rows = case.geometry.row
    clean = call_forward(case, x, weight, bias)
    for value in (np.nan, np.inf, -np.inf):
        poisoned = x.copy()
        place = (0,) * x.ndim
        poisoned[place] = value
        with np.errstate(all="ignore"):
            y = call_forward(case, poisoned, weight, bias)
        hit = rows == rows[place]
        ensure(bool(np.all(np.isnan(y[place]))), case, f"{value} in x gives {y[place]} in its place")
        ensure(same_bits(y[~hit], clean[~hit]), case, f"{value} in one row changes another row")


def _extremes(case, x):
    """(x, factor of the weights, eps) at the ends of the type: an intermediate may leave it, but no result does."""
    z = np.clip(x.astype(np.float64) / 4, -1, 1)
    least, largest = normal_range(dtype_named(case.dtype))
    yield largest * z, 1, EPS
    yield largest * np.sign(z), 1, EPS
    uneven = case.geometry.rows(np.full(x.shape, -0.9 * largest))
    uneven[:, -1] = largest
    yield case.geometry.from_rows(uneven), 1, EPS
    for eps in (0, EPS):
        yield least / 8 * z, 1, eps
    if case.dtype != "float16":
        yield least**0.6 * z, least**-0.5, 0
        yield largest * z, largest**-0.5, EPS


def check_extremes(case, limits=LIMITS):
    """The output of subnormal values, of values near the largest number, and where rstd * weight is no number."""
    values, weight, bias, _ = case.inputs()
    worst = 0.0
    for x, factor, eps in _extremes(case, values):
        x = x.astype(values.dtype)
        scaled = None if weight is None else (weight.astype(np.float64) * factor).astype(weight.dtype)
        shift = bias if factor == 1 else None  # beside which the result would not show
        with np.errstate(all="ignore"):
            y = call_forward(case, x, scaled, shift, eps=eps)
        expected = forward(case.geometry, x, scaled, shift, eps=eps, centered=case.centered)
        error = _row_error(case, y, expected.y, expected.scale)
        text = f"values to {np.max(np.abs(x)):.3g} at eps={eps}, weights times {factor:.3g}: off by {error:.3g} ulps"
        ensure(error <= limits["output"], case, text)
        worst = max(worst, error)
    return worst


def check_empty(case, limits=None):
    """A batch of 0 gives empty results and, where parameters are shared by all rows, gradients of 0."""
    x, weight, bias, dy = case.inputs()
    y, statistics = with_statistics(case, x, weight, bias)
    _check_array(case, "the output", y, x.dtype, case.shape)
    for name, value in statistics.items():
        _check_array(case, name, value, np.float64, case.geometry.statistics_shape)
    dx, *sums = call_backward(case, dy, x, weight, **statistics)
    _check_array(case, "dx", dx, x.dtype, case.shape)
    for value in sums:
        ensure(not np.any(value), case, "gradients of the parameters are not 0")
