"use strict";
// What is chosen on the page, and all that follows from it.

(function (axis) {
  const { ARRAYS, RUNNING, shape, offsets, inside } = axis.layout;
  const { LEARNING, normalize } = axis.norms;
  const NORMS = {
    layer_norm: "Layer",
    rms_norm: "RMS",
    batch_norm: "Batch",
    group_norm: "Group",
    instance_norm: "Instance",
  };

  function initial(array = "features") {
    return {
      array,
      norm: "layer_norm",
      axes: "C", // letters, of layer and RMS norm
      channel: "C", // a letter, of the others
      groups: 2,
      memory: Object.keys(ARRAYS[array].orders)[0],
      masked: false,
      evaluating: false,
    };
  }

  // The numbers of groups that divide the channels and leave more than one value for a mean.
  function groupings(state) {
    const array = ARRAYS[state.array];
    const channels = array.sizes[state.channel];
    const sample = sampleLetter(state);
    const positions = array.values.length / channels / array.sizes[sample];
    const all = Array.from({ length: channels }, (_, i) => i + 1);
    return all.filter((groups) => channels % groups === 0 && (channels / groups) * positions > 1);
  }

  function sampleLetter(state) {
    const order = ARRAYS[state.array].orders[state.memory];
    return order[0] === state.channel ? order[1] : order[0];
  }

  // Whether a norm can be had of an array: an instance of one value has no variance.
  function possible(norm, array) {
    return norm !== "instance_norm" || ARRAYS[array].drawn.length > 2;
  }

  // A choice with what does not fit mended: the nearest that normlib takes.
  function mended(state) {
    const array = ARRAYS[state.array];
    const next = { ...state };
    if (!(next.memory in array.orders)) next.memory = Object.keys(array.orders)[0];
    if (!possible(next.norm, next.array)) next.norm = "batch_norm";
    next.axes = [...array.drawn].filter((letter) => next.axes.includes(letter)).join("") || "C";
    if (!array.drawn.includes(next.channel)) next.channel = "C";
    const counts = groupings(next);
    if (next.norm === "group_norm" && !counts.includes(next.groups)) next.groups = counts.includes(2) ? 2 : counts[0];
    if (!LEARNING.includes(next.norm)) next.evaluating = false;
    return next;
  }

  // The arguments of the call, its axes as numbers.
  function callOf(state) {
    const order = ARRAYS[state.array].orders[state.memory];
    return {
      norm: state.norm,
      axes: [...order].map((_, i) => i).filter((i) => state.axes.includes(order[i])),
      channel: order.indexOf(state.channel),
      groups: state.groups,
      evaluating: state.evaluating,
    };
  }

  // All that the page shows of values (a number a cell): y, the set and the statistics of each cell, and what is given.
  function computed(state, values) {
    const array = ARRAYS[state.array];
    const order = array.orders[state.memory];
    const at = offsets(array, order);
    const ordered = (cells) => cells.reduce((found, cell, i) => ((found[at[i]] = cell), found), Array(cells.length));
    const call = callOf(state);
    const channels = array.sizes[state.channel];
    const running = LEARNING.includes(state.norm)
      ? { mean: RUNNING.mean.slice(0, channels), variance: RUNNING.variance.slice(0, channels) }
      : null;
    const within = state.masked ? inside(array) : null;
    const sizes = shape(array, order);
    const x = ordered(values);
    const result = normalize(x, sizes, within && ordered(within), call, running);
    return {
      array,
      order,
      call,
      shape: sizes,
      offsets: at,
      x,
      inside: within,
      y: at.map((offset) => result.y[offset]),
      set: at.map((offset) => result.set[offset]),
      statistics: result.statistics,
      running,
      learned: result.running,
    };
  }

  // The cells that share the statistics of a cell, padding aside.
  function members(shown, cell) {
    const own = (i) => shown.set[i] === shown.set[cell] && (!shown.inside || shown.inside[i]);
    return [...shown.set.keys()].filter(own);
  }

  // A choice as the fragment of an address, and back.
  function written(state) {
    const first = { ...initial(state.array), array: initial().array };
    const changed = Object.entries(state).filter(([name, value]) => value !== first[name]);
    return new URLSearchParams(changed).toString();
  }

  function read(fragment) {
    const given = new URLSearchParams(fragment.replace(/^#/, ""));
    const state = initial(given.get("array") in ARRAYS ? given.get("array") : undefined);
    if (given.get("norm") in NORMS) state.norm = given.get("norm");
    for (const name of ["axes", "channel", "memory"]) state[name] = given.get(name) ?? state[name];
    if (given.has("groups")) state.groups = Number(given.get("groups"));
    for (const name of ["masked", "evaluating"]) state[name] = given.get(name) === "true";
    return mended(state);
  }

  axis.state = { NORMS, initial, groupings, sampleLetter, possible, mended, computed, members, written, read };
})((globalThis.axis ??= {}));
