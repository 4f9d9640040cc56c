"""The activation functions of the compiled kernels: errors in ulps, ends, slopes, and the same bits at every level."""

import importlib
import zlib
from pathlib import Path

import activations
import fit_activations
import mpmath
import numpy as np
import pytest

from normlib import _kernels
from normlib.description import ACTIVATIONS

LEVELS = _kernels.info()["isa_available"]
pytestmark = pytest.mark.skipif(not LEVELS, reason="the activation functions are compiled")

BEYOND = {"sigmoid": 746, "silu": 753, "gelu": 39, "gelu_tanh": 22.5}  # below minus that float64 holds 0 alone
CRC = {  # of the results on `bit_patterns`
    ("sigmoid", False, np.float32): 0x8D195BE8,
    ("sigmoid", False, np.float64): 0x0D22901D,
    ("sigmoid", True, np.float32): 0xC0F30A29,
    ("sigmoid", True, np.float64): 0x43207AA1,
    ("silu", False, np.float32): 0x8450A911,
    ("silu", False, np.float64): 0x65B8ADD3,
    ("silu", True, np.float32): 0xCB5EE64E,
    ("silu", True, np.float64): 0x1765B56F,
    ("gelu", False, np.float32): 0xBF61B006,
    ("gelu", False, np.float64): 0xC340CAE7,
    ("gelu", True, np.float32): 0x6AD85D96,
    ("gelu", True, np.float64): 0xA65F0689,
    ("gelu_tanh", False, np.float32): 0x07F2571F,
    ("gelu_tanh", False, np.float64): 0xD39E22EF,
    ("gelu_tanh", True, np.float32): 0x12148A7B,
    ("gelu_tanh", True, np.float64): 0x97C00AA6,
}


def activate(v, name, slope=False, level=None):
    """The function of an array, at the best level unless told."""
    result = np.array(v, order="C")
    kernels = importlib.import_module(f"normlib._kernels.isa_{level or LEVELS[0]}")
    kernels.activated(result, 1 + ACTIVATIONS.index(name), slope)
    return result


def samples(name, dtype, n):
    """Near 0, near the end, of every size, and powers of two."""
    rng = np.random.default_rng(20)
    end = BEYOND[name] if dtype is np.float64 else min(BEYOND[name], 105)
    info = np.finfo(dtype)
    exponents = rng.uniform(info.minexp - info.nmant, np.log2(2 * end), n)
    powers = 2.0 ** np.arange(info.minexp - info.nmant, 10)
    borders = np.arange(0, 16, 0.125, dtype)  # of the pieces, and their neighbours
    borders = np.concatenate([borders, np.nextafter(borders, dtype(0)), np.nextafter(borders, dtype(16))])
    v = [borders, -borders, rng.normal(0, 2, n), rng.uniform(-end, end, n), -end * rng.uniform(0.9, 1, n)]
    return np.concatenate([*v, rng.choice([-1, 1], n) * 2.0**exponents, powers, -powers]).astype(dtype)


def bit_patterns(dtype):
    """4,096 numbers of every kind, by integer arithmetic: half of them any bits, half of moderate size."""
    words = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 4097, dtype=np.uint64)
    words ^= words >> np.uint64(29)
    any_bits = words.view(np.float64) if dtype is np.float64 else (words >> np.uint64(32)).astype(np.uint32).view(dtype)
    moderate = (words >> np.uint64(40)).astype(dtype) / dtype(1 << 19) - dtype(16)
    return np.where(np.arange(4096) % 2, any_bits, moderate)


each_function = pytest.mark.parametrize("name", activations.NAMES)
each_slope = pytest.mark.parametrize("slope", [False, True], ids=["value", "slope"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


@each_function
@each_slope
def test_float32_is_within_2_ulps(name, slope):
    v = samples(name, np.float32, 40_000)
    found = activate(v, name, slope)
    with np.errstate(over="ignore", under="ignore"):
        errors = activations.ulps(found, *activations.in_float64(name, slope, v.astype(np.float64)), slope)
    assert errors.max() <= 2


@each_function
@each_slope
def test_float64_is_within_2_ulps(name, slope):
    v = samples(name, np.float64, 400)
    for at, found in zip(v, activate(v, name, slope), strict=True):
        value, term = activations.exact(name, slope, at)
        largest = max(abs(value), term) if slope else abs(value)
        ulp = mpmath.ldexp(1, max(mpmath.frexp(largest)[1], -1021) - 53)
        assert abs(mpmath.mpf(float(found)) - value) <= 2 * ulp, (at, found)


@each_function
@each_dtype
def test_the_ends(name, dtype):
    """Infinities give the limits, zeros keep their sign, and nothing but NaN gives NaN."""
    big = np.finfo(dtype).max
    v = np.array([np.inf, big, 0.0, -0.0, -big, -np.inf], dtype)
    half = [1, 1, 0.5, 0.5, 0, 0]
    values = half if name == "sigmoid" else [np.inf, big, 0.0, -0.0, -0.0, -0.0]
    slopes = [0, 0, 0.25, 0.25, 0, 0] if name == "sigmoid" else half
    found = activate(v, name)
    np.testing.assert_array_equal(found, np.array(values, dtype))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(values))
    np.testing.assert_array_equal(activate(v, name, slope=True), np.array(slopes, dtype))


@each_function
@each_slope
@each_dtype
def test_nan_stays_the_same_nan(name, slope, dtype):
    quiet = np.array([np.nan, -np.nan], dtype)
    v = np.concatenate([quiet, (quiet.view(f"u{quiet.itemsize}") + 1234567).view(dtype)])
    assert activate(v, name, slope).tobytes() == v.tobytes()


@each_function
@each_slope
@each_dtype
def test_an_element_does_not_know_its_place(name, slope, dtype):
    """The bits of 67 elements at once are those of any part of them, and what lies beside the part stays."""
    v = samples(name, dtype, 20)[:67]
    whole = activate(v, name, slope)
    kernels = importlib.import_module(f"normlib._kernels.isa_{LEVELS[0]}")
    for first, last in [(0, 0), (0, 1), (3, 34), (1, 33), (2, 35), (5, 67), (66, 67)]:
        part = v.copy()
        kernels.activated(part[first:last], 1 + ACTIVATIONS.index(name), slope)
        expected = np.concatenate([v[:first], whole[first:last], v[last:]])
        assert part.tobytes() == expected.tobytes()


@each_function
@each_slope
@each_dtype
@pytest.mark.parametrize("level", LEVELS)
def test_the_same_bits_everywhere(name, slope, dtype, level):
    result = activate(bit_patterns(dtype), name, slope, level)
    assert zlib.crc32(result.astype(result.dtype.newbyteorder("<")).tobytes()) == CRC[name, slope, dtype]


def test_the_header_holds_the_tables_of_the_script(capsys):
    fit_activations.main()
    header = (Path(__file__).parents[1] / "normlib/_kernels/vectors/activations.h").read_text()
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in header


# ---- tanh, which the recurrent layers take ----


def squash(v, level=None):
    result = np.array(v, order="C")
    importlib.import_module(f"normlib._kernels.isa_{level or LEVELS[0]}").squashed(result)
    return result


def test_tanh_is_within_2_ulps_in_float32():
    v = np.arange(*np.array([2.0**-24, 11.0], np.float32).view(np.uint32), 401, dtype=np.uint32).view(np.float32)
    v = np.concatenate([v, -v, 2.0 ** np.arange(-149, -24, dtype=np.float32)])
    exact = np.tanh(v.astype(np.float64))
    ulp = np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64)
    assert (np.abs(squash(v) - exact) / ulp).max() <= 2


def test_tanh_is_within_1_ulp_in_float64():
    rng = np.random.default_rng(21)
    v = np.concatenate([rng.normal(0, 2, 400), 10.0 ** rng.uniform(-320, 1.4, 400), [0.17328, 0.34657, 19.06, 1e-300]])
    for at, found in zip(v, squash(v), strict=True):
        with mpmath.workprec(160):
            value = mpmath.tanh(mpmath.mpf(float(at)))
            ulp = mpmath.ldexp(1, max(mpmath.frexp(abs(value))[1], -1021) - 53)
            assert abs(mpmath.mpf(float(found)) - value) <= ulp, (at, found)


@each_dtype
def test_the_ends_of_tanh(dtype):
    big, tiny = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    v = np.array([np.inf, big, tiny, 0.0, -0.0, -tiny, -big, -np.inf, np.nan], dtype)
    expected = np.array([1, 1, tiny, 0.0, -0.0, -tiny, -1, -1, np.nan], dtype)
    assert squash(v).tobytes() == expected.tobytes()


@each_dtype
@pytest.mark.parametrize("level", LEVELS)
def test_tanh_has_the_same_bits_everywhere(dtype, level):
    crc = {np.float32: 0x1547D346, np.float64: 0x510732EB}
    result = squash(bit_patterns(dtype), level)
    assert zlib.crc32(result.astype(result.dtype.newbyteorder("<")).tobytes()) == crc[dtype]
