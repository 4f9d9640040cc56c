"""The sums that ranks exchange: exact to far below a rounding, and the same bits in every order, split and layout."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import normlib
from normlib import _kernels
from normlib._sums import LIMIT, LOWEST, TERMS, WIDTH, Sums, sums
from normlib.testing import dtypes

DTYPES = [dtype.name for dtype in dtypes()]
compiled = pytest.mark.skipif(_kernels.backend is None, reason="the kernels are not compiled")

# Around the lanes of a row of terms, the rows that are added at once, and the parts that threads take.
SHAPES = [
    (0, 2, 3), (3, 0, 2), (3, 2, 0), (1, 1, 1), (1, 31, 1), (2, 32, 1), (3, 33, 2), (5, 3, 31), (2, 1, 32), (1, 2, 33),
    (15, 33, 1), (17, 2, 32), (1, 2, 511), (2, 1, 512), (4, 2, 513), (511, 2, 1), (513, 65, 1), (33, 2, 1100),
    (70000, 1, 1),
]  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def drawn(rng, shape, dtype):
    """Values of many sizes and both signs, as far as the dtype reaches."""
    sizes = rng.integers(-300, 140, shape) if dtype == "float64" else rng.integers(-12, 12, shape)
    return np.ldexp(rng.standard_normal(shape), sizes).astype(dtype)


def arguments(rng, shape, dtype):
    """The two forms of a call: that of the forward pass and that of the backward pass."""
    x, dy = drawn(rng, shape, dtype), drawn(rng, shape, dtype)
    mean, rstd = rng.normal(size=shape[1]), rng.uniform(0.5, 2, shape[1])
    return [(x,), (x, dy, mean, rstd)]


def bits(found):
    return [part.tobytes() for part in found]


def joined(parts):
    return Sums.joined(*map(np.stack, zip(*parts, strict=True)))


def value(found, *index):
    """One of the sums as a fraction."""
    units = [Fraction(2) ** (WIDTH * (int(found.top[index]) - 1 - k)) for k in range(len(found.bins))]
    return sum(int(bins[index]) * unit for bins, unit in zip(found.bins, units, strict=True))


def fractions(values):
    return [Fraction(float(value)) for value in values]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_cut_off_lies_far_below_the_largest_term(backend, dtype, rng):
    shape = (7, 3, 5)
    (x, *_), (_, dy, mean, rstd) = arguments(rng, shape, dtype)
    forward, backward = sums(x), sums(x, dy, mean, rstd)
    cut = Fraction(2) ** (-90 if dtype == "float64" else -60)
    for c in range(shape[1]):
        values, slopes = fractions(x[:, c].ravel()), fractions(dy[:, c].ravel())
        z = (x[:, c].astype(np.float64).ravel() - mean[c]) * rstd[c]
        products = fractions(dy[:, c].astype(np.float64).ravel() * z)
        squares = [v * v for v in values]
        for found, terms in (
            (value(forward, 0, c), values),
            (value(forward, 1, c), squares),
            (value(backward, 0, c), slopes),
            (value(backward, 1, c), products),
        ):
            assert abs(found - sum(terms)) <= 2 * len(terms) * cut * max(map(abs, terms))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_total_has_twice_the_digits_of_float64(dtype, rng):
    found = sums(drawn(rng, (50, 4, 3), dtype))
    head, tail = found.total()
    for index in np.ndindex(head.shape):
        exact, (first, second) = value(found, *index), fractions((head[index], tail[index]))
        assert abs(first + second - exact) <= abs(exact) * Fraction(2) ** -98
        assert abs(tail[index]) <= np.spacing(abs(head[index])) / 2


def test_a_total_does_not_depend_on_those_beside_it(rng):
    """Also where these have more terms than a float64 counts."""
    bins = rng.integers(-(2**52), 2**52, (4, 500))
    alone = Sums(np.full(500, 2), bins, np.zeros(500)).total()
    beside = Sums(np.full(501, 2), np.c_[bins, np.full(4, 2**61)], np.zeros(501)).total()
    assert bits(part[:500] for part in beside) == bits(alone)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-1e290, 1e290), min_size=1, max_size=40),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_neither_order_nor_split_shows_in_the_bits(values, seed, cuts):
    x = np.array(values).reshape(-1, 1, 1)
    expected = bits(sums(x))
    shuffled = np.random.default_rng(seed).permutation(x)
    assert bits(sums(shuffled)) == expected
    assert bits(sums(shuffled.reshape(1, 1, -1))) == expected
    parts = [sums(part) for part in np.split(shuffled, sorted(min(cut, len(x)) for cut in cuts))]
    assert bits(joined(parts)) == expected
    assert bits(joined([*parts[::-1], sums(x[:0])])) == expected


@pytest.mark.parametrize("largest", [0.25, 0.5, np.nextafter(0.5, 1), 2.0**29])
def test_nor_does_when_the_largest_term_came(backend, largest):
    """Also where it is a power of two that just fits into a bin, as 0.5 is."""
    x = np.full((1100, 2, 1), 2.0**-40)
    found = []
    for place in (0, 511, 512, 1099):
        x[place] = largest
        found.append([bits(sums(a)) for a in (x, x.transpose(2, 1, 0), np.ascontiguousarray(x.transpose(2, 1, 0)))])
        x[place] = 2.0**-40
    assert len({tuple(own) for row in found for own in row}) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_layout_nor_threads_show_in_the_bits(backend, dtype, rng):
    shape = (40, 35, 30)  # enough for several threads and parts
    order = rng.permutation(shape[0])
    for call in arguments(rng, shape, dtype):
        arrays, statistics = call[: 2 if len(call) > 1 else 1], call[2:]
        expected = bits(sums(*call))
        changed = {
            "channels last": [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in arrays],
            "in Fortran's order": [np.asfortranarray(a) for a in arrays],
            "with gaps": [np.repeat(a, 2, axis=-1)[..., ::2] for a in arrays],
            "backwards": [np.ascontiguousarray(a[::-1, :, ::-1])[::-1, :, ::-1] for a in arrays],
            "x alone channels last": [np.asfortranarray(arrays[0]), *arrays[1:]],
            "in another order": [a[order][..., ::-1] for a in arrays],
        }
        for name, others in changed.items():
            assert bits(sums(*others, *statistics)) == expected, name
        for threads in (1, 2, 3):
            with normlib.num_threads(threads):
                assert bits(sums(*call)) == expected


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_and_numpy_find_the_same_integers(dtype, rng):
    for shape in SHAPES:
        for call in arguments(rng, shape, dtype):
            for order in (np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2]):
                ordered = [order(a) if a.ndim == 3 else a for a in call]
                found = {}
                for name in ("cython", "numpy"):
                    with normlib.backends.use(name):
                        found[name] = sums(*ordered)
                assert bits(found["cython"]) == bits(found["numpy"]), (shape, len(call))


EXTREMES = {
    "zeros": [0.0, -0.0, 0.0],
    "denormals": [5e-324, -1e-310, 3e-320],
    "denormals beside others": [5e-324, 1e-3, -1e-300, 1e200],
    "at the limit": [LIMIT, -LIMIT, 1.0],
    "whose squares are at the limit": [2.0**494, 2.0**494, -(2.0**494)],
    "whose squares overflow": [1e160, -3.0, 1e-160],
    "over the limit": [np.nextafter(LIMIT, np.inf), 1.0],
    "infinite": [np.inf, 1.0, np.inf],
    "infinite on both sides": [np.inf, 2.0, -np.inf],
    "not a number": [np.nan, 3.0, np.inf],
    "of a power of the bins": [2.0 ** (WIDTH * 3 - 1), -(2.0 ** (WIDTH * 3 - 1)), 2.0 ** (WIDTH * 2 - 1), 2.0**-WIDTH],
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(backend, name):
    values = EXTREMES[name]
    x = np.array(values).reshape(-1, 1, 1)
    found = sums(x)
    assert bits(joined([sums(x[:1]), sums(x[1:])])) == bits(found)
    with normlib.backends.use("numpy"):
        assert bits(sums(x)) == bits(found)
    kept, strange = [v for v in values if abs(v) <= LIMIT], [v for v in values if not abs(v) <= LIMIT]
    with np.errstate(over="ignore", invalid="ignore"):
        special = sum(np.sign(v) * np.inf for v in strange) if strange else 0.0
        squares = np.square(kept)
    np.testing.assert_equal(found.special[0, 0], special)
    smallest = Fraction(2) ** (WIDTH * (LOWEST - 4))  # the unit of the last bin of the lowest sums
    bound = len(values) * max(smallest, Fraction(2) ** -90 * max((abs(Fraction(v)) for v in kept), default=Fraction(0)))
    assert abs(value(found, 0, 0) - sum(map(Fraction, kept))) <= bound
    assert (found.special[1, 0] == 0) == bool((squares <= LIMIT).all() and not strange)


def test_nothing_is_the_neutral_element(backend, rng):
    x = drawn(rng, (4, 3, 2), "float64")
    nothing = sums(x[:0])
    assert (nothing.top == LOWEST).all()
    assert not nothing.bins.any()
    assert not nothing.special.any()
    assert bits(joined([nothing, sums(x), nothing])) == bits(sums(x))


def test_a_larger_term_elsewhere_takes_digits_from_the_end_alone(rng):
    """Joined, a part is cut where it would have been, had it met the larger terms at once."""
    small, large = np.full((3, 1, 1), 1 / 3), np.full((1, 1, 1), 2.0**40 / 3)
    for parts in ([small, large], [large, small], [small, large, -large]):
        assert bits(joined([sums(part) for part in parts])) == bits(sums(np.concatenate(parts)))


def test_as_many_terms_as_a_sum_may_have_do_not_overflow():
    """Of the largest in a bin, of which there are that many."""
    most = Sums(np.array([2]), np.full((3, 1), 2 ** (WIDTH - 1)), np.zeros(1))
    total = Sums(most.top, most.bins * TERMS, most.special)
    assert (total.bins == 2 ** (WIDTH - 1) * TERMS).all()
    assert value(total, 0) == TERMS * value(most, 0)
    assert float(total.total().head[0]) == pytest.approx(float(value(total, 0)), rel=1e-15)


@compiled
@pytest.mark.long
def test_very_many_terms(rng):
    """Sums of floats become integers before they would be rounded: after a million rows."""
    n = 40_000_000
    row = np.array([[[1.1], [-(2.0**29)]]], np.float32)
    found = sums(np.broadcast_to(row, (n, 2, 1)))
    for c in range(2):
        assert value(found, 0, c) == n * Fraction(float(row[0, c, 0]))
