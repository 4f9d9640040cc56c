"""The numerics contract: errors in ulps of a row's largest value, against extended precision."""

from dataclasses import replace

import digests
import exactness
import numpy as np
import pytest

import normlib
from normlib.ops import OPS
from normlib.testing import LAYOUTS, OFFSETS, VALUES, Case, dtypes, problems, ulp_error
from normlib.testing import _checks as checks
from normlib.testing import _reference as reference
from normlib.testing._cases import UNEVEN, _possible, dtype_named

DTYPES = [dtype.name for dtype in dtypes()]
SHAPES = {
    "feature": [((5, 768), {"axis": -1}), ((2, 768, 3), {"axis": 1}), ((3, 5, 6, 9), {"axis": (1, 2, 3)})],
    "channel": [((3, 6, 130), {"channel_axis": 1}), ((3, 130, 6), {"channel_axis": -1})],
}
each_op = pytest.mark.parametrize("op", OPS)
each_offset = pytest.mark.parametrize("offset", OFFSETS)


def cases(op, dtype="float32", **changes):
    """The shapes of this file for an op, with every number of groups that its description asks for."""
    description = OPS[op]
    for shape, options in SHAPES[description.kind]:
        options = dict(options)
        if description.has_groups:
            options["num_groups"] = 2
        if description.mode is not None:
            options[description.mode] = True
        yield Case(op, shape, options, dtype, **changes)


def require(limit, case, found, expected):
    """`found` within so many ulps of the largest value of each row."""
    error = ulp_error(case.geometry.rows(found), case.geometry.rows(expected))
    assert error <= limit, str(case)


@pytest.mark.share(2)
@each_op
@each_offset
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout_far_from_zero(backend, op, offset, dtype):
    """At most 4 ulps forward; 16 and 32 backward, with the statistics of the reference."""
    for layout in LAYOUTS:
        for case in cases(op, dtype, offset=offset, layout=layout):
            if _possible(case):
                checks.check_forward(case)
                checks.check_backward(case)


def within_contract(case):
    """Forward and backward together: what forward hands to backward is good enough for 16 ulps in dx."""
    for name, error in checks.worst_errors(case).items():
        assert error <= checks.LIMITS[name], f"{case}: {name}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1024, 40), (1057, 40), (40, 1057)], ids=["parts of 32 rows", "parts of 34 rows", "parts of 16 long rows"]
)
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_weight_gradients_of_many_rows(backend, op, shape, dtype):
    """Sums of up to 32 rows stay in the working type, those of more are moved to float64 in between."""
    within_contract(Case(op, shape, {"axis": -1}, dtype))


@pytest.mark.share(2)
@each_op
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 8, 63, 1023])
def test_every_width(backend, op, dtype, width):
    """tests/scripts/exactness.py tries many more."""
    for case in exactness.sweep(op, dtype, [width]):
        within_contract(case)


@each_op
def test_the_longest_rows(backend, op):
    for case in list(exactness.sweep(op, "float32", [65536]))[::5]:
        within_contract(case)


@pytest.mark.parametrize(
    ("op", "shape", "axis", "dtype", "values"),
    [
        ("rms_norm", (65536, 3), 0, "float64", "constant"),
        ("rms_norm", (65536, 3), 0, "float32", "constant"),
        ("layer_norm", (65536, 3), 0, "float64", "outlier"),
        ("rms_norm", (3, 32769), -1, "float64", "constant"),
        ("layer_norm", (3, 32769), -1, "float16", "outlier"),
        ("batch_norm", (2, 3, 16385), 1, "float16", "outlier"),
        ("layer_norm", (2, 1025, 33), 1, "float64", "large"),
        ("layer_norm", (32769, 3), 0, "float16", "outlier"),
        ("batch_norm", (2, 16385, 3), -1, "float16", "outlier"),
        ("group_norm", (1, 30, 30, 64), -1, "float64", "outlier"),
        *((op, shape, axis, dtype, values)
          for op, shape, axis in [
              ("layer_norm", (40, 900), -1), ("layer_norm", (40, 4096), -1), ("layer_norm", (4096, 40), 0),
              ("rms_norm", (40, 1024), -1), ("rms_norm", (1100, 40), 0), ("group_norm", (8, 4, 1024), 1),
              ("batch_norm", (2, 40, 512), 1), ("batch_norm", (1100, 40), -1), ("batch_norm", (1100, 3), -1),
          ]
          for dtype in ("float32", "float64")
          for values in UNEVEN),
    ],
)
def test_sums_of_many(backend, op, shape, axis, dtype, values):
    """Equal terms, whose roundings add up, alone and beside a large one; outliers where a first mean is taken."""
    description = OPS[op]
    options = {description.axis_name: axis}
    if description.has_groups:
        options["num_groups"] = 1
    if description.mode is not None:
        options[description.mode] = True
    case = Case(op, shape, options, dtype, values=values)
    if dtype in DTYPES:
        within_contract(case)


@pytest.mark.share(2)
@each_op
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", VALUES[1:])
def test_kinds_of_values(backend, op, dtype, values):
    found = [Case(op, *problem, dtype) for problem in problems(op, "typical")]
    for case in (*cases(op, dtype), *found):
        for layout in ("contiguous", "channels_last", "transposed", "strided", "byteswapped"):
            tried = replace(case, values=values, layout=layout)
            if _possible(tried):
                within_contract(tried)


@each_offset
def test_statistics_of_the_output(backend, offset):
    x = (3 * np.random.default_rng(0).standard_normal((64, 512)) + offset).astype(np.float32)
    y = normlib.layer_norm(x).astype(np.float64)
    assert np.max(np.abs(y.mean(axis=1))) <= 1e-6
    assert np.max(np.abs(y.var(axis=1) - 1)) <= 1e-5


# Squares of the last two of each leave the range of the dtype.
SIZES = {
    "float16": (2e4,),
    "bfloat16": (1e18, 1e-18, 1e30, 1e-30),
    "float32": (1e18, 1e-18, 1e30, 1e-30),
    "float64": (1e150, 1e-150, 1e170, 1e-170),
}


@each_op
@pytest.mark.parametrize(("dtype", "size"), [(name, size) for name in DTYPES for size in SIZES[name]])
def test_size_of_the_values(backend, op, dtype, size):
    """Sums never overflow or vanish where the result is representable."""
    for case in cases(op, dtype):
        x, weight, bias, dy = case.inputs()
        x = (np.clip(x.astype(np.float64), -3, 3) * size).astype(x.dtype)
        y, *statistics = checks.call_forward(case, x, weight, bias, eps=0, return_stats=True)
        truth = reference.forward(case.geometry, x, weight, bias, eps=0, centered=case.centered)
        require(4, case, y, truth.y)
        if dtype == "float16" or not 1e-300 < np.min(truth.var) <= np.max(truth.var) < 1e300:
            continue  # an rstd that goes by a variance beyond float64 has no gradient
        named = dict(zip(OPS[op].statistics, statistics, strict=True))
        dy = (dy * np.asarray(size, dy.dtype)).astype(dy.dtype)  # as large as x, which keeps dx near 1
        dx, dweight, *_ = checks.call_backward(case, dy, x, weight, **named)
        mean, rstd = (named.get("mean"), named["rstd"]) if dtype == "float64" else (truth.mean, truth.rstd)
        expected = reference.backward(case.geometry, dy, x, weight, mean=mean, rstd=rstd)
        require(16, case, dx, expected.dx)
        error = ulp_error(dweight, expected.dweight, axis=None)
        assert error <= 32, case


@each_op
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided"])
def test_values_at_the_ends_of_the_type(backend, op, dtype, layout):
    """Subnormal and largest values, rstd * weight beyond the type: no intermediate may be where the result is not."""
    for case in cases(op, dtype, layout=layout):
        checks.check_extremes(case)


def extreme_row(case, x):
    """x, in whose second row one value is the largest and all others are near the least."""
    largest = np.finfo(x.dtype).max
    rows = case.geometry.rows(x)
    rows[1], rows[1, 0] = -0.9 * largest, largest
    return case.geometry.from_rows(rows)


@each_op
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_row_at_the_ends_of_the_type_leaves_the_others_alone(backend, op, dtype):
    """And is itself the same in place."""
    for case in cases(op, dtype, affine="weight"):
        x, weight, *_ = case.inputs()
        y = checks.call_forward(case, x, weight)
        extreme = extreme_row(case, x)
        found = checks.call_forward(case, extreme, weight)
        others = np.arange(len(case.geometry.rows(y))) != 1
        assert checks.same_bits(case.geometry.rows(found)[others], case.geometry.rows(y)[others]), case
        checks.call_forward(case, extreme, weight, out=extreme)
        assert checks.same_bits(extreme, found), case


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "group_norm"])
@pytest.mark.parametrize("size", [1, 1e-10], ids=["values", "and weights"])
def test_values_at_the_ends_of_the_type_past_the_caches(op, size):
    """The same bits as in a smaller array; weights of 1e-10 meet an rstd of 1e-38 in group norm."""
    for shape, options in digests.STREAMED[OPS[op].kind]:
        case = Case(op, shape, {**options, **({"num_groups": 4} if OPS[op].has_groups else {})}, affine="weight")
        x, weight, *_ = case.inputs()
        x, weight = extreme_row(case, x), (weight * size).astype(x.dtype)
        y = checks.call_forward(case, x, weight)
        assert np.all(np.isfinite(y))
        if options.get("axis") != 1:
            assert checks.same_bits(y[:1], checks.call_forward(case, x[:1], weight)), case
            assert checks.same_bits(y[1:2], checks.call_forward(case, x[1:2], weight)), case


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    ("mean", "var", "size", "weight"),
    [
        (-3e38, 1e60, 3e38, 1.0),  # x - mean
        (0.0, 1e-70, 1e-36, 1.0),  # rstd is 1e35
        (1e-39, 1e-80, 1e-39, 1e-10),  # 1e40
        (0.0, 1e70, 1e36, 1e-20),  # rstd * weight is 1e-55
    ],
)
def test_given_statistics_at_the_ends_of_the_type(backend, axis, mean, var, size, weight):
    options = {"training": False, "channel_axis": axis}
    case = Case("batch_norm", (3, 6, 130) if axis == 1 else (3, 130, 6), options)
    x, weights, *_ = case.inputs()
    x, weights = (np.clip(x, -1, 1) * size).astype(x.dtype), (weights * weight).astype(x.dtype)
    running = {"running_mean": np.full(6, mean), "running_var": np.full(6, var)}
    y = checks.call_forward(case, x, weights, eps=0, **running)
    mean, var = running.values()
    truth = reference.forward(case.geometry, x, weights, eps=0, mean=mean, var=var)
    require(4, case, y, truth.y)


@each_op
def test_float16_rows_near_the_largest_number(backend, op):
    for case in cases(op, "float16", parameter_dtype="float32"):
        x, weight, _, dy = case.inputs()
        x, dy = (np.where(a > 0, np.float16(60000), np.float16(-60000)) for a in (x, dy))
        y, *statistics = checks.call_forward(case, x, return_stats=True)
        expected = reference.forward(case.geometry, x, eps=case.eps, centered=case.centered)
        require(4, case, y, expected.y)
        named = dict(zip(OPS[op].statistics, statistics, strict=True))
        dx, dweight, *_ = checks.call_backward(case, dy, x, weight, **named)
        expected = reference.backward(case.geometry, dy, x, weight, mean=expected.mean, rstd=expected.rstd)
        require(16, case, dx, expected.dx)
        assert ulp_error(dweight, expected.dweight, axis=None) <= 32, case


@pytest.mark.share(2)
@each_op
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -317.3, 1e4])
def test_constant_rows_give_the_bias(backend, op, dtype, value):
    """Nothing is left of a constant row but a rounding of float64; a norm that is not centered gives the weight."""
    for case in cases(op, dtype):
        x, weight, bias, _ = case.inputs()
        x = np.full_like(x, value)
        y = checks.call_forward(case, x, weight, bias)
        expected = checks.expected_forward(case, x, weight, bias).y
        if case.centered and dtype != "float64":
            bias = np.broadcast_to(case.geometry.per_element(bias), x.shape)
            assert np.array_equal(y, bias), case
        else:
            require(4, case, y, expected)


@each_op
@pytest.mark.parametrize(
    ("dtype", "means"),
    [
        ("float32", (0, 1, 100, -10000, 1e6)),
        ("float64", (0, 1, 100, -10000, 1e6, 2.0**50)),
        ("float16", (0, 1, 100)),
        ("bfloat16", (0, 1, -15)),
    ],
)
def test_dyadic_input_is_exact(backend, op, dtype, means):
    """Pairs of mean +- 1/4 have that mean and a variance of 1/16, and nothing need be rounded."""
    found = cases(op, dtype) if dtype in DTYPES else ()
    for case in found:
        rows = np.arange(np.prod(case.shape)).reshape(-1, case.row_length) % 2 / 2 - 0.25
        if case.row_length % 2:
            continue
        for mean in means if case.centered else (0,):
            x = case.geometry.from_rows(rows + mean).astype(dtype_named(dtype))
            y, *statistics = checks.call_forward(case, x, eps=0, return_stats=True)
            named = dict(zip(OPS[op].statistics, statistics, strict=True))
            assert np.all(named.get("mean", mean) == mean), (case, mean)
            assert np.all(named["rstd"] == 4), (case, mean)
            assert np.array_equal(y.astype(np.float64), 4 * (x.astype(np.float64) - mean)), (case, mean)


@each_op
@pytest.mark.parametrize("dtype", [name for name in DTYPES if dtype_named(name).itemsize == 2])
@pytest.mark.parametrize("offset", [0.0, 1e2])
def test_16_bit_output_is_the_rounded_float32_output(backend, op, dtype, offset):
    found = [replace(case, dtype=dtype) for case in cases(op, offset=offset)]
    found += [Case(op, *problem, dtype, offset=offset) for problem in problems(op)]
    for case in found:
        x, weight, bias, _ = case.inputs()
        y, *statistics = checks.call_forward(case, x, weight, bias, return_stats=True)
        wide = [None if a is None else a.astype(np.float32) for a in (x, weight, bias)]
        expected, *others = checks.call_forward(case, *wide, return_stats=True)
        assert checks.same_bits(y, expected.astype(x.dtype)), case
        assert all(checks.same_bits(a, b) for a, b in zip(statistics, others, strict=True)), case


def test_the_tables_beside_the_peers(monkeypatch):
    from normlib.bench import accuracy, peers

    few = {"layer_norm": [((4, 97), "rows", 0)], "group_norm": [((2, 4, 5, 7), "channels_last", 2)]}
    monkeypatch.setattr(accuracy, "PROBLEMS", few)
    installed, _ = peers.load(("torch",), 1)
    figures = accuracy.measure({"normlib": None, **installed})
    for (dtype, result, norm, library), errors in figures.items():
        assert list(errors) == [offset for offset in OFFSETS if dtype != "float16" or offset < 65504]
        if library == "normlib" and result == "y":
            assert max(errors.values()) <= (4 if dtype in ("float32", "float64") else 0.51), (dtype, norm)
        elif library == "torch" and dtype == "float32" and norm == "layer_norm":
            assert 0 < errors[0] <= 16  # the same problem, so the same result
    lines = "".join(accuracy.tables({"normlib": None, **installed})).splitlines()
    assert sum(line.startswith("| layer_norm |") for line in lines) == 3 * len(DTYPES)
    assert {line.count("|") for line in lines if line.startswith("|")} == {3 + len(installed)}


def test_ulp_error_by_hand():
    one = np.float32([1.0, 0.5])
    assert ulp_error(one, one) == 0
    assert ulp_error(one, np.float64([1.0, 0.5 + 2**-23])) == 1  # measured against the row's 1.0
    assert ulp_error(one, np.float64([1.0, 0.5 + 2**-23]), axis=None) == 1
    assert ulp_error(one[:, None], np.float64([[1.0], [0.5 + 2**-23]])) == 2
    assert ulp_error(np.float64([3.0]), np.longdouble([3.0]) + np.longdouble(2) ** -52) == 0.5
    assert ulp_error(np.float32([0.0]), [1e-45]) == pytest.approx(1, rel=0.4)
    assert ulp_error(np.float32([np.nan]), [1.0]) == np.inf
    assert ulp_error(np.float32([1.0]), [np.nan]) == np.inf
    assert ulp_error(np.float32([np.inf, 1]), [np.inf, 1]) == 0
    assert ulp_error(np.float32([np.inf]), [-np.inf]) == np.inf
    assert ulp_error(np.float32([]), []) == 0
    assert ulp_error(np.float32([1e-3]), [0.0], scale=np.array([1.0])) == pytest.approx(1e-3 * 2**23)


def test_ulp_error_of_16_bits_allows_one_rounding():
    truth = 1 + 2.0**-11  # half way between two numbers of float16
    assert ulp_error(np.float16([1.0]), [truth]) == 0
    assert ulp_error(np.float16([1.0]), [truth + 2**-22]) == 2
    assert ulp_error(np.float16([1 + 2**-10]), [1.0]) == 2**12


@pytest.mark.parametrize("op", OPS)
def test_reference_in_decimal_agrees_with_longdouble(op):
    """What machines get whose longdouble is no wider than float64."""
    for case in cases(op, "float64", offset=1e6):
        x, weight, bias, dy = (None if a is None else a for a in case.inputs())
        found = []
        for wide in (True, False):
            forward = reference.forward(case.geometry, x, weight, bias, eps=1e-5, centered=case.centered, wide=wide)
            mean, rstd = (None if s is None else s.astype(np.float64) for s in (forward.mean, forward.rstd))
            backward = reference.backward(case.geometry, dy, x, weight, mean=mean, rstd=rstd, wide=wide)
            found.append([forward.y, forward.rstd, backward.dx, backward.dweight])
        for a, b in zip(*found, strict=True):
            assert ulp_error(b.astype(np.float64), a, axis=None) <= 0.6


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("layer_norm", (2, 1 << 18), -1),
        ("layer_norm", (1 << 18, 2), 0),
        ("layer_norm", (65536, 8, 2), 1),
        ("batch_norm", (1, 2, 1 << 18), 1),
        ("batch_norm", (1, 1 << 18, 2), -1),
        ("instance_norm", (65536, 2, 3), 1),
        ("instance_norm", (65536, 3, 2), -1),
    ],
)
def test_the_gradient_of_a_mean(backend, op, shape, axis, dtype):
    """All of dy is equal, as in the gradient of a mean: equal terms, added one by one, would be rounded alike."""
    x = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    dy = np.full(shape, 0.1, dtype)
    given = {"axis" if op == "layer_norm" else "channel_axis": axis}
    _, mean, rstd = getattr(normlib, op)(x, **given, return_stats=True)
    backward = getattr(normlib, f"{op}_backward")
    dx, _, dbias = backward(dy, x, mean=mean, rstd=rstd, **given, weight_grads=True)
    expected = np.full(dbias.shape, dy.size // dbias.size * dy.flat[0].astype(np.longdouble))
    assert ulp_error(dbias, expected) <= 8
    largest = np.abs(dy.flat[0] * rstd).max()  # what dx is the difference of: z and its mean are all that is left
    if x.size // mean.size > 1000:
        assert np.abs(dx).max() <= 16 * np.spacing(largest.astype(dtype))


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_gradients_of_sparse_rows(backend, share):
    """Nearly all elements of a row are equal, and so are the terms of mean(g z), which the others multiply."""
    rng = np.random.default_rng(5)
    x = (np.maximum(rng.standard_normal((200, 1024)), 0) * (rng.random((200, 1024)) < share)).astype(np.float32)
    dy = np.full_like(x, 0.1)
    _, mean, rstd = normlib.layer_norm(x, return_stats=True)
    dx, *_ = normlib.layer_norm_backward(dy, x, mean=mean, rstd=rstd)
    case = Case("layer_norm", x.shape, {"axis": -1})
    expected = reference.backward(case.geometry, dy, x, mean=mean, rstd=rstd)
    assert ulp_error(dx, expected.dx, scale=expected.scale) <= 16


@pytest.mark.parametrize("size", [1e200, 1e-180])
@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_statistics_beyond_the_variance(backend, op, size):
    """rstd is right where the variance over- or underflows, in whatever form x comes."""
    x = np.random.default_rng(7).standard_normal((30, 4, 5)) * size
    forms = [x, x.tolist(), LAYOUTS["byteswapped"](x), LAYOUTS["strided"](x), LAYOUTS["fortran"](x)]
    rows = np.moveaxis(x / size, 1, 0).reshape(4, -1) if op == "batch_norm" else x / size
    for form in forms:
        _, _, rstd = getattr(normlib, op)(form, eps=0, return_stats=True)
        np.testing.assert_allclose(rstd * size, 1 / rows.std(axis=-1), rtol=1e-14)
