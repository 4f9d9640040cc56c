"""Fits the polynomials of normlib/_kernels/vectors/activations.h and prints its tables: pip install mpmath.

Each is a polynomial or a quotient of two by least squares at Chebyshev points, which is close to minimax; for quotients
the weights are found by iteration (Sanathanan and Koerner, 1963). All with 50 digits; a table says what it misses.
Those in pieces begin where the function is close to a float32 (Gal 1986), so that their constant terms miss nothing.
"""

import numpy as np
from mpmath import cos, erfc, exp, fdot, linspace, log, matrix, mp, mpf, nstr, pi, qr_solve, sqrt, workdps

mp.dps = 50
HALF_LN2 = log(2) / 2 * mpf("1.001")  # |r| after the reduction of exp, with room for the rounding of k
CUBE = mpf("0.044715")  # gelu_tanh(v) = v / (1 + exp(-z)), z = sqrt(8 / pi) (v + CUBE v^3)
MIDDLE, SHIFT = 5, mpf("1.25")  # of the ratio of Mills: t = (u - MIDDLE) / (u + MIDDLE), times u + SHIFT


def exp_rest(r):
    """(exp(r) - 1 - r) / r^2"""
    return fdot((r**i, 1 / mp.factorial(i + 2)) for i in range(40))


def coth(y):
    """r coth(r / 2) of y = r^2: exp(r) = (it + r) / (it - r)"""
    r = sqrt(y)
    return r * (exp(r) + 1) / (exp(r) - 1) if y else mpf(2)


def mills(u):
    """Phi(-u) exp(u^2 / 2)"""
    return erfc(u / sqrt(2)) / 2 * exp(u * u / 2)


def slow_mills(t):
    """mills(u) (u + SHIFT), which changes by a third from 0 to infinity, of t"""
    u = MIDDLE * (1 + t) / (1 - t)
    return mills(u) * (u + SHIFT)


def points(low, high, n):
    return [(low + high) / 2 + (high - low) / 2 * cos(pi * (2 * j + 1) / (2 * n)) for j in range(n)]


def value(c, x):
    return mp.polyval(c[::-1], x)


def fit(f, low, high, top, bottom=0, weight=lambda x: 1):
    """Coefficients of two polynomials whose quotient is f, the constants first; the last of the divisor is 1."""
    x = points(low, high, 8 * (top + bottom))
    y = [f(a) for a in x]
    q = [mpf(1)]
    for _ in range(8 if bottom else 1):
        w = [weight(a) / (b * value(q, a)) for a, b in zip(x, y, strict=True)]
        rows = [
            [c * a**i for i in range(top + 1)] + [-c * b * a**i for i in range(bottom)]
            for a, b, c in zip(x, y, w, strict=True)
        ]
        right = [c * b * a**bottom for a, b, c in zip(x, y, w, strict=True)]
        found = list(qr_solve(matrix(rows), matrix(right))[0])
        p, q = found[: top + 1], [*found[top + 1 :], mpf(1)]
    return p, q


def missed(f, g, low, high):
    """The largest relative error, as a power of two."""
    return nstr(log(max(abs(g(x) / f(x) - 1) for x in linspace(low, high, 2001)[1:-1]), 2), 4)


def number(c, suffix):
    return nstr(c, 9 if suffix else 17, strip_zeros=False, min_fixed=0, max_fixed=0) + suffix


def table(kind, name, coefficients, comment):
    suffix = "f" if kind == "float" else ""
    numbers = [number(c, suffix) for c in coefficients]
    lines = [", ".join(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
    print(f"/* {comment} */\nstatic const {kind} {name}[{len(numbers)}] = {{")
    print("    " + ",\n    ".join(lines) + "};\n")


def share(u):
    """The logistic function of -u"""
    return 1 / (1 + exp(u))


def normal(u):
    """Phi(-u)"""
    return erfc(u / sqrt(2)) / 2


def tanh_share(u):
    """The share of gelu_tanh: of z = sqrt(8 / pi) (u + 0.044715 u^3)"""
    return share(sqrt(8 / pi) * (u + CUBE * u**3))


def gated_slope(u, of_z, steep):
    """The slope at -u of v / (1 + exp(-z)) with z'(u) u = steep, and the larger of its terms"""
    rise = steep * of_z * (1 - of_z)
    return of_z - rise, max(of_z, rise)


def slopes(u):
    """Of each function at -u, and the larger of its terms"""
    rise = u * exp(-u * u / 2) / sqrt(2 * pi)
    return {"SIGMOID": (share(u) * share(-u),) * 2,
            "SILU": gated_slope(u, share(u), u),
            "GELU": (normal(u) - rise, max(normal(u), rise)),
            "GELU_TANH": gated_slope(u, tanh_share(u), sqrt(8 / pi) * (u + 3 * CUBE * u**3))}  # fmt: skip


def ends(spacing, u):
    """Near where 16 pieces begin, and their ends: what rounds to the same multiple of the spacing, a function of u."""
    return [[u(max(i + side, mpf(0)) * spacing) for side in (mpf(0), mpf(-0.5), mpf(0.5))] for i in range(16)]


HALVES = ends(mpf(0.5), lambda u: u)
SHRINKING = ends(mpf(2), lambda spaced: (sqrt(1 + 4 * spaced) - 1) / 2)  # u^2 + u is what is spaced evenly
PIECES = {
    "SIGMOID": ("f(-u)", 6, HALVES, share),
    "SILU": ("-f(-u)", 6, HALVES, lambda u: u * share(u)),
    "GELU": ("-f(-u)", 7, SHRINKING, lambda u: u * normal(u)),
    "GELU_TANH": ("-f(-u)", 7, SHRINKING, lambda u: u * tanh_share(u)),
}
for name, (_, degree, bounds, _) in list(PIECES.items()):
    slope_and_term = [lambda u, name=name, i=i: slopes(u)[name][i] for i in (0, 1)]
    PIECES[f"{name}_SLOPE"] = ("f'(-u)", degree, bounds, *slope_and_term)


def single(x):
    return np.float32(float(x))


def beginning(f, near):
    """Of 100 neighbouring float32 the one where f is closest to a float32; 0 stays."""
    found = []
    at = single(near)
    for _ in range(100 if near else 1):
        exact = f(mpf(float(at)))
        found.append((abs(mpf(float(single(exact))) - exact), at))
        at = np.nextafter(at, np.float32(np.inf))
    return mpf(float(min(found)[1]))


def piece(f, terms, degree, near, low, high):
    """Where it begins, and coefficients in float32: each rounded before those above it are found."""
    start = beginning(f, near)
    x = points(low, high, 3 * (degree + 1))
    powers = [[(a - start) ** i / terms(a) for i in range(degree + 1)] for a in x]
    left = [f(a) / terms(a) for a in x]  # of what is to be fitted
    c = [mpf(float(single(f(start))))]
    while len(c) <= degree:
        left = [b - c[-1] * row[len(c) - 1] for b, row in zip(left, powers, strict=True)]
        found = qr_solve(matrix([row[len(c) :] for row in powers]), matrix(left))[0]
        c.append(mpf(float(single(found[0]))))
    return [start, *c], max(abs(value(c, a - start) - f(a)) / terms(a) for a in linspace(low, high, 21)[1:])


def pieces(name):
    """A row of 16 numbers for where the pieces begin, then one for each coefficient, constants first."""
    comment, degree, bounds, f, *terms = PIECES[name]
    with workdps(25):
        found = [piece(f, *(terms or [f]), degree, *bound) for bound in bounds]
    error = nstr(log(max(e for _, e in found), 2), 4)
    rows = zip(*(c for c, _ in found), strict=True)
    text = [",\n     ".join(", ".join(number(c, "f") for c in row[i : i + 8]) for i in (0, 8)) for row in rows]
    print(f"/* {comment}, within 2^{error} */\nstatic const float {name}_F32[{degree + 2}][16] = {{")
    print("    {" + "},\n    {".join(text) + "}};\n")


def main():
    low, high = -HALF_LN2, HALF_LN2
    for kind, name, degree in (("float", "EXP_F32", 4), ("double", "EXP_F64", 9)):
        c, _ = fit(exp_rest, low, high, degree, weight=lambda r: r * r)
        error = missed(exp, lambda r, c=c: 1 + r + r * r * value(c, r), low, high)
        table(kind, name, c, f"(exp(r) - 1 - r) / r^2 for |r| < ln(2) / 2; exp within 2^{error}")

    c, _ = fit(coth, mpf(0), high**2, 2, weight=sqrt)
    error = missed(exp, lambda r: (value(c, r * r) + r) / (value(c, r * r) - r), low, high)
    unit = (-c[2]) ** (mpf(1) / 3)
    table(
        "double",
        "COTH",
        [unit * c[0], c[1] / unit, unit],
        "r coth(r / 2) in r^2, in a unit that makes the last coefficient -1: the first two, the unit;"
        f" exp within 2^{error}",
    )

    end = mpf("14.5")
    p, q = fit(mills, mpf(0), end, 4, 5)
    error = missed(mills, lambda u: value(p, u) / value(q, u), mpf(0), end)
    table("double", "MILLS_TOP", p, f"Phi(-u) exp(u^2 / 2) = top / bottom for u < {nstr(end)}, within 2^{error}")
    table("double", "MILLS_BOTTOM", q[:-1], "and 1")

    end = (mpf(39) - MIDDLE) / (39 + MIDDLE)
    c, _ = fit(slow_mills, mpf(-1), end, 24)
    error = missed(slow_mills, lambda t: value(c, t), mpf(-1), end)
    table(
        "double",
        "MILLS_F64",
        c,
        f"Phi(-u) exp(u^2 / 2) (u + {nstr(SHIFT)}) in (u - {MIDDLE}) / (u + {MIDDLE}) for u < 39, within 2^{error}",
    )


if __name__ == "__main__":
    main()
