"""Everything that a diagnosis may find, by name: what is wrong, in words, and its cure."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["fault", "note"]


class Entry(NamedTuple):
    """Words and cure, whose braces are filled in; notes are what right norms may do too."""

    words: str
    cure: str
    severity: Severity = "fault"


SUM = "divide by sqrt(variance + eps)"
AFFINE = "multiply by the weight, then add the bias: z * w + b"
RUNNING = "running += momentum * (batch - running), in training alone"

CATALOGUE: dict[str, Entry] = {
    # what shares statistics
    "wrong_axis": Entry("wrong axis: statistics run over {found}, where {right} is meant", "take them over {right}"),
    "couples_examples": Entry(
        "examples are coupled, so that the output of one changes with its neighbours: statistics run over {found}, "
        "where {right} is meant",
        "take statistics over {right} alone",
    ),
    "interleaved_groups": Entry(
        "the {n} groups are interleaved: each takes every {n}-th channel",
        "let neighbouring channels form a group: reshape to (samples, groups, channels / groups, ...)",
    ),
    "wrong_groups": Entry("there are {n} groups, where {right} are meant", "use {right} groups"),
    # where the mean is subtracted
    "rms_for_layer": Entry(
        "an RMSNorm where a LayerNorm is meant: the mean is not subtracted at all",
        "subtract the mean from x, and divide by the deviation of the result",
    ),
    "mean_not_subtracted": Entry(
        "the mean is not subtracted: x itself is divided by the standard deviation", "divide x - mean, not x"
    ),
    "variance_not_centered": Entry(
        "the mean is subtracted from x, but not in the variance: what divides is the root mean square of x",
        "take the variance of x - mean",
    ),
    "layer_for_rms": Entry(
        "a LayerNorm where an RMSNorm is meant: the mean is subtracted",
        "leave the mean out: x / sqrt(mean(x^2) + eps)",
    ),
    "mean_subtracted": Entry("the mean is subtracted, which an RMSNorm does not", "divide x itself"),
    "variance_centered": Entry(
        "what divides is the standard deviation; in an RMSNorm it is the root mean square",
        "take the mean of x^2, without subtracting the mean",
    ),
    # what divides
    "no_division": Entry("nothing divides: the deviation of the output is that of x", SUM),
    "no_root": Entry("the root is missing: the deviation divides to the power {power:g}", SUM),
    "unbiased_variance": Entry(
        "the variance is the unbiased one, divided by n - 1 = {less}",
        "divide by n = {n}: ddof=0 in NumPy, unbiased=False or correction=0 in torch",
    ),
    "sum_of_squares": Entry(
        "what divides is the root of the sum of squares, not of their mean", "divide the sum of squares by n = {n}"
    ),
    "scaled": Entry("the result is {scale:g} times what it should be", "leave the factor out"),
    # eps
    "no_eps": Entry(
        "there is no eps: a constant row is 0 / 0, and a tiny one is blown up", "divide by sqrt(variance + {right:g})"
    ),
    "eps_value": Entry("eps is {eps:g}, not {right:g}", "use eps={right:g}"),
    "eps_on_deviation": Entry("eps, {eps:g}, is added to the standard deviation, not to the variance", SUM),
    "eps_outside_root": Entry("eps, {eps:g}, is outside the root: it is added to 1 / sqrt(variance)", SUM),
    "eps_as_floor": Entry("eps is a floor: the variance is taken for {eps:g} where it is less", SUM),
    "eps_of_dtype": Entry(
        "eps depends on the dtype: it is {eps:.2g} in float64 and {other:.2g} in float32",
        "give eps a value",
        "note",
    ),
    # weight and bias
    "parameters_first": Entry("weight and bias come before the norm: {first} is normalized", AFFINE),
    "swapped": Entry("weight and bias are swapped", AFFINE),
    "unit_offset": Entry(
        "the result is multiplied by 1 + w, as in Gemma",
        "multiply by w; or keep it, and subtract 1 from the weights of a plain norm",
    ),
    "unit_offset_missing": Entry("the result is multiplied by w, where 1 + w is meant", "multiply by 1 + w"),
    "unit_offset_twice": Entry(
        "1 is added to the weight twice: the result is multiplied by 2 + w",
        "add 1 once: here, or where the checkpoint is converted",
    ),
    "weight_twice": Entry("the weight is applied twice: the result is multiplied by {factor}", AFFINE),
    "weight_ignored": Entry("the weight is not used", AFFINE),
    "bias_multiplies": Entry("the result is multiplied by the bias", AFFINE),
    "bias_ignored": Entry("the bias is not used", AFFINE),
    "weight_added": Entry("the weight is added", AFFINE),
    "bias_before_weight": Entry("the bias is added before the weight multiplies: (z + b) * w", AFFINE),
    "bias_subtracted": Entry("the bias is subtracted", AFFINE),
    # arithmetic
    "statistics_16": Entry(
        "mean and variance are in 16 bits, on inputs of {dtype}",
        "convert x to float32 before mean and variance, and the result back at the end",
    ),
    "overflow_16": Entry("squares overflow in float16: rows of 500 come out wrong", "convert x to float32 first"),
    "double_rounding": Entry(
        "rounds twice in {dtype}, as Llama's reference code: the normalized value before the weight, and the result",
        "multiply in float32 and round once, where no checkpoint asks for these bits (in normlib round_first)",
        "note",
    ),
    "several_roundings": Entry(
        "rounds several times in {dtype}: {ulps:.1f} ulps of the largest output at most",
        "compute in float32 and round once",
        "note",
    ),
    "naive_variance": Entry(
        "the variance is E[x^2] - E[x]^2, which breaks at a mean of {ratio:.0f} standard deviations in float32",
        "take the mean of (x - mean)^2, in a second pass",
    ),
    "rounded_mean": Entry(
        "the mean is so coarse that the variance is wrong in float32 from a mean of {ratio:.0f} standard deviations on",
        "sum in pairs, or in float64",
        "note",
    ),
    "overflow": Entry(
        "squares overflow: rows of {size:.1g} come out wrong in float32",
        "scale a row by a power of two, where such rows occur",
        "note",
    ),
    "batch_dependent_bits": Entry(
        "the last bits depend on the batch size: {count} and {all} examples give different ones",
        "sum in an order that depends on the row alone, where results must repeat",
        "note",
    ),
    "thread_dependent_bits": Entry(
        "the last bits depend on the number of threads",
        "sum in an order that depends on the row alone, where results must repeat",
        "note",
    ),
    # gradients
    "gradient_constants": Entry(
        "the gradient takes the statistics for constants: dx = rstd * g",
        "dx = rstd * (g - mean(g) - z * mean(g * z)), g = dy * weight; detach nothing",
    ),
    "gradient_without_mean": Entry("the gradient lacks the correction of the mean, mean(g)", "subtract mean(g)"),
    "gradient_without_variance": Entry(
        "the gradient lacks the correction of the variance, z * mean(g * z)", "subtract z * mean(g * z)"
    ),
    "no_gradient": Entry(
        "the gradient could not be taken", "let the framework differentiate, or leave it where nobody asks", "note"
    ),
    "wrong_gradient": Entry(
        "the gradient of x is not that of the output", "hold it against normlib's, or finite differences"
    ),
    "gradient_not_summed": Entry(
        "the gradient of the {role} is not summed over the rows: it has shape {shape}",
        "sum over all that a {role} was used for",
    ),
    "gradient_averaged": Entry(
        "the gradient of the {role} is a mean over rows, not a sum", "sum over all that a {role} was used for"
    ),
    "wrong_parameter_gradient": Entry(
        "the gradient of the {role} is not that of the output", "dweight = sum(dy * z), dbias = sum(dy)"
    ),
    # training and evaluation
    "train_eval_differ": Entry(
        "training and evaluation differ, and there are no running statistics",
        "take statistics of the input in both, and leave what is random out of the norm",
    ),
    "train_uses_running": Entry(
        "training takes the running statistics, not those of the batch", "take those of the batch in training"
    ),
    "eval_uses_batch": Entry(
        "evaluation takes the statistics of the batch", "take running_mean and running_var in evaluation"
    ),
    "evaluation_wrong": Entry(
        "evaluation is not (x - running_mean) / sqrt(running_var + eps) * weight + bias",
        "take running_mean and running_var in evaluation, as they are",
    ),
    "running_not_updated": Entry("running statistics are not updated in training", RUNNING),
    "running_updated_in_eval": Entry("running statistics are updated in evaluation", RUNNING),
    "running_mean_wrong": Entry("the running mean does not follow the mean of the batch", RUNNING),
    "momentum_reversed": Entry(
        "momentum is the other way round: a batch weighs {share:.3g} in the running statistics, not {right:.3g}",
        RUNNING,
    ),
    "momentum_wrong": Entry("a batch weighs {share:.3g} in the running statistics, not {right:.3g}", RUNNING),
    "biased_running_variance": Entry(
        "the running variance learns the biased one of the batch{usual}",
        "multiply what it learns by n / (n - 1) = {factor:.4g}",
    ),
    "running_variance_wrong": Entry(
        "the running variance learns {learnt:.3g} times the variance of the batch", "learn var * n / (n - 1)"
    ),
    # the whole
    "random": Entry("two calls with the same input differ", "leave out what is random"),
    "named_layer": Entry(
        "it is called a layer norm, but is an RMSNorm, as in T5: no mean is subtracted",
        "say like='layer_norm' where it is meant to be one",
        "note",
    ),
    "no_statistics": Entry(
        "there are no statistics: an output depends on its own input alone",
        "subtract the mean, divide by the deviation",
    ),
    "unexplained": Entry(
        "{words}", "no known mistake explains it: compare it with the formula step by step"
    ),
}  # fmt: skip
