"""Norms with mistakes, for the tests of diagnosis: each step of a norm is written rightly and wrongly.

A wrong step is chosen by the name of the finding that it should give. Values are worked on in float64, so that nothing
but the mistake is wrong.
"""

import itertools

import numpy as np

ROWS = {  # the axes of the statistics, of (batch, sequence, features)
    "wrong_axis": (1,),
    "couples_examples": (0,),
    "couples_examples, all": (0, 1, 2),
}
CENTRE = {  # what is divided, and what is squared
    "rms_for_layer": lambda x, mean: (x, x),
    "mean_not_subtracted": lambda x, mean: (x, x - mean),
    "variance_not_centered": lambda x, mean: (x - mean, x),
}
VARIANCE = {  # of a sum of squares over n
    "unbiased_variance": lambda total, n: total / (n - 1),
    "sum_of_squares": lambda total, n: total,
}
DENOMINATOR = {
    "no_eps": lambda v: np.sqrt(v),
    "eps_value": lambda v: np.sqrt(v + 1e-12),
    "eps_value, too large": lambda v: np.sqrt(v + 1e-3),
    "eps_on_deviation": lambda v: np.sqrt(v) + 1e-5,
    "eps_outside_root": lambda v: 1 / (1 / np.sqrt(v) + 1e-5),
    "eps_as_floor": lambda v: np.sqrt(np.maximum(v, 1e-5)),
    "no_root": lambda v: v + 1e-5,
    "no_division": lambda v: np.ones_like(v),
}
AFFINE = {  # of the normalized value z
    "swapped": lambda z, w, b: z * b + w,
    "unit_offset": lambda z, w, b: z * (1 + w) + b,
    "unit_offset_twice": lambda z, w, b: z * (1 + (1 + w)) + b,
    "weight_twice": lambda z, w, b: z * w * w + b,
    "weight_ignored": lambda z, w, b: z + b,
    "bias_ignored": lambda z, w, b: z * w,
    "bias_before_weight": lambda z, w, b: (z + b) * w,
    "bias_subtracted": lambda z, w, b: z * w - b,
    "bias_multiplies": lambda z, w, b: z * b + b,
    "weight_added": lambda z, w, b: z * w + w,
    "scaled": lambda z, w, b: 3 * (z * w) + b,
}
FIRST = {"parameters_first": lambda x, w, b: x * w + b, "parameters_first, weight": lambda x, w, b: x * w}
STEPS = {
    "rows": ROWS, "centre": CENTRE, "variance": VARIANCE, "denominator": DENOMINATOR, "affine": AFFINE, "first": FIRST,
}  # fmt: skip


def planted(**wrong):
    """A layer norm of three axes whose steps are right, eps 1e-5, but for those that are named."""
    axes = ROWS.get(wrong.get("rows"), (2,))
    centre = CENTRE.get(wrong.get("centre"), lambda x, mean: (x - mean, x - mean))
    variance = VARIANCE.get(wrong.get("variance"), lambda total, n: total / n)
    denominator = DENOMINATOR.get(wrong.get("denominator"), lambda v: np.sqrt(v + 1e-5))
    first = FIRST.get(wrong.get("first"), lambda x, w, b: x)
    affine = AFFINE.get(wrong.get("affine"), lambda z, w, b: z * w + b)
    if "first" in wrong:
        affine = {"parameters_first": lambda z, w, b: z}.get(wrong["first"], lambda z, w, b: z + b)

    def layer_norm(x, weight, bias):
        w, b = weight.astype(np.float64), bias.astype(np.float64)
        wide = first(x.astype(np.float64), w, b)
        divided, squared = centre(wide, wide.mean(axes, keepdims=True))
        n = np.prod([x.shape[axis] for axis in axes])
        v = variance(np.square(squared).sum(axes, keepdims=True), n)
        return affine(divided / denominator(v), w, b).astype(x.dtype)

    return layer_norm


def names(**wrong):
    """What should be found."""
    return sorted(name.partition(",")[0] for name in wrong.values())


def singles():
    """Each mistake alone, as keywords of `planted`."""
    return [{step: name} for step, wrong in STEPS.items() for name in wrong]


def pairs():
    """Each two mistakes of different steps, but for those that cannot be told: statistics that nothing is divided by,
    parameters that come first and after, a weight before the norm that a row has in common, and a factor beside a
    divisor of the variance."""
    steps = [steps for steps in itertools.combinations(STEPS, 2) if steps != ("affine", "first")]
    found = [dict(zip(two, names, strict=True)) for two in steps for names in itertools.product(*map(STEPS.get, two))]
    hidden = [("no_division", {"centre", "variance"}), ("scaled", {"variance"})]
    hidden += [("wrong_axis", {"first"}), ("couples_examples", {"first"})]
    return [two for two in found if not any(name in two.values() and steps & two.keys() for name, steps in hidden)]
