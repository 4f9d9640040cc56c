"use strict";
// The five norms, as normlib defines them, for the values of an array in the order of its memory.

(function (axis) {
  const EPS = { layer_norm: 1e-5, rms_norm: 1e-6, batch_norm: 1e-5, group_norm: 1e-5, instance_norm: 1e-5 };
  const MOMENTUM = 0.1;
  const BY_AXES = ["layer_norm", "rms_norm"]; // those with axis=; the others have channel_axis=
  const LEARNING = ["batch_norm", "instance_norm"]; // those with running statistics

  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const product = (numbers) => numbers.reduce((total, number) => total * number, 1);

  // The set of each element: those of equal number share their statistics, which lie in the order of these numbers.
  function sets(shape, call) {
    const { coordinates, numbered } = axis.layout;
    const elements = Array.from({ length: product(shape) }, (_, i) => coordinates(i, shape));
    if (BY_AXES.includes(call.norm)) {
      const kept = shape.map((_, i) => i).filter((i) => !call.axes.includes(i));
      const sizes = kept.map((i) => shape[i]);
      return elements.map((at) =>
        numbered(
          kept.map((i) => at[i]),
          sizes,
        ),
      );
    }
    const channel = call.channel;
    if (call.norm === "batch_norm") return elements.map((at) => at[channel]);
    const groups = call.norm === "group_norm" ? call.groups : shape[channel];
    const size = shape[channel] / groups;
    const sample = channel === 0 ? 1 : 0; // the first axis that is not that of the channels
    return elements.map((at) => at[sample] * groups + Math.floor(at[channel] / size));
  }

  // Mean and biased variance of some numbers, centred (two passes). Without a mean, the mean square.
  function moments(numbers, centred) {
    const mean = centred ? sum(numbers) / numbers.length : 0;
    return { count: numbers.length, mean, variance: sum(numbers.map((x) => (x - mean) ** 2)) / numbers.length };
  }

  // running = (1 - momentum) * running + momentum * new, with the unbiased variance; new is averaged over the samples.
  // A set without elements tells nothing, one with a single element nothing of the variance.
  function learn(running, statistics) {
    const channels = running.mean.length;
    const moved = { mean: [...running.mean], variance: [...running.variance] };
    for (let channel = 0; channel < channels; channel++) {
      const own = statistics.filter((_, i) => i % channels === channel);
      const means = own.filter((s) => s.count > 0).map((s) => s.mean);
      const variances = own.filter((s) => s.count > 1).map((s) => (s.variance * s.count) / (s.count - 1));
      const step = (old, found) => (found.length ? (1 - MOMENTUM) * old + (MOMENTUM * sum(found)) / found.length : old);
      moved.mean[channel] = step(running.mean[channel], means);
      moved.variance[channel] = step(running.variance[channel], variances);
    }
    return moved;
  }

  // call: norm, axes (a list) or channel (an axis), groups, evaluating. inside: booleans, or null for all.
  // Returns y and the set of each element, the statistics of each set, and the running ones afterwards.
  function normalize(x, shape, inside, call, running) {
    const set = sets(shape, call);
    const found = Array.from({ length: Math.max(...set) + 1 }, () => []);
    x.forEach((value, i) => (!inside || inside[i]) && found[set[i]].push(value));
    let statistics = found.map((numbers) => moments(numbers, call.norm !== "rms_norm"));
    let after = null;
    if (LEARNING.includes(call.norm)) {
      const channels = running.mean.length;
      if (call.evaluating) {
        statistics = statistics.map(({ count }, i) => {
          return { count, mean: running.mean[i % channels], variance: running.variance[i % channels] };
        });
      } else after = learn(running, statistics);
    }
    for (const s of statistics) s.rstd = 1 / Math.sqrt(s.variance + EPS[call.norm]);
    const y = x.map((value, i) => {
      const s = statistics[set[i]];
      return !inside || inside[i] ? (value - s.mean) * s.rstd : 0;
    });
    return { y, set, statistics, running: after };
  }

  axis.norms = { EPS, BY_AXES, LEARNING, sets, normalize };
})((globalThis.axis ??= {}));
