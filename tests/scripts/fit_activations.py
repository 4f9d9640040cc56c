"""Fits the polynomials of normlib/_kernels/vectors/activations.h and prints its tables: pip install mpmath.

Each is a polynomial or a quotient of two by least squares at Chebyshev points, which is close to minimax; for quotients
the weights are found by iteration (Sanathanan and Koerner, 1963). All with 50 digits; a table says what it misses.
"""

from mpmath import cos, erfc, exp, fdot, linspace, log, matrix, mp, mpf, nstr, pi, qr_solve, sqrt

mp.dps = 50
HALF_LN2 = log(2) / 2 * mpf("1.001")  # |r| after the reduction of exp, with room for the rounding of k
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
        rows = [[c * a**i for i in range(top + 1)] + [-c * b * a**i for i in range(bottom)]
                for a, b, c in zip(x, y, w, strict=True)]
        right = [c * b * a**bottom for a, b, c in zip(x, y, w, strict=True)]
        found = list(qr_solve(matrix(rows), matrix(right))[0])
        p, q = found[: top + 1], [*found[top + 1 :], mpf(1)]
    return p, q


def missed(f, g, low, high):
    """The largest relative error, as a power of two."""
    return nstr(log(max(abs(g(x) / f(x) - 1) for x in linspace(low, high, 2001)[1:-1]), 2), 4)


def table(kind, name, coefficients, comment):
    suffix = "f" if kind == "float" else ""
    digits = 9 if suffix else 17
    numbers = [nstr(c, digits, strip_zeros=False, min_fixed=0, max_fixed=0) + suffix for c in coefficients]
    lines = [", ".join(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
    print(f"/* {comment} */\nstatic const {kind} {name}[{len(numbers)}] = {{")
    print("    " + ",\n    ".join(lines) + "};\n")


def main():
    low, high = -HALF_LN2, HALF_LN2
    for kind, name, degree in (("float", "EXP_F32", 4), ("double", "EXP_F64", 9)):
        c, _ = fit(exp_rest, low, high, degree, weight=lambda r: r * r)
        error = missed(exp, lambda r, c=c: 1 + r + r * r * value(c, r), low, high)
        table(kind, name, c, f"(exp(r) - 1 - r) / r^2 for |r| < ln(2) / 2; exp within 2^{error}")

    c, _ = fit(coth, mpf(0), high**2, 2, weight=sqrt)
    error = missed(exp, lambda r: (value(c, r * r) + r) / (value(c, r * r) - r), low, high)
    unit = (-c[2]) ** (mpf(1) / 3)
    table("double", "COTH", [unit * c[0], c[1] / unit, unit],
          "r coth(r / 2) in r^2, in a unit that makes the last coefficient -1: the first two, the unit;"
          f" exp within 2^{error}")

    end = mpf("14.5")
    p, q = fit(mills, mpf(0), end, 4, 5)
    error = missed(mills, lambda u: value(p, u) / value(q, u), mpf(0), end)
    table("double", "MILLS_TOP", p, f"Phi(-u) exp(u^2 / 2) = top / bottom for u < {nstr(end)}, within 2^{error}")
    table("double", "MILLS_BOTTOM", q[:-1], "and 1")

    end = (mpf(39) - MIDDLE) / (39 + MIDDLE)
    c, _ = fit(slow_mills, mpf(-1), end, 24)
    error = missed(slow_mills, lambda t: value(c, t), mpf(-1), end)
    table("double", "MILLS_F64", c,
          f"Phi(-u) exp(u^2 / 2) (u + {nstr(SHIFT)}) in (u - {MIDDLE}) / (u + {MIDDLE}) for u < 39, within 2^{error}")


if __name__ == "__main__":
    main()
