"use strict";
// What the page says: the set of a cell, what moved, and the line of normlib that computes what is shown.

(function (axis) {
  const { place, coordinates } = axis.layout;
  const { BY_AXES } = axis.norms;

  // A number as text, with a minus sign and without a negative zero.
  function number(value, digits = 3) {
    if (Number.isNaN(value)) return "NaN";
    const text = value.toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
  }

  function listed(words) {
    return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
  }

  // Where a cell lies, in words: "sample 1, feature 2".
  function whereabouts(shown, cell) {
    const at = place(shown.array, cell);
    return [...shown.array.drawn].map((letter) => `${shown.array.names[letter]} ${at[letter]}`).join(", ");
  }

  // The element as Python writes it: "x[1, 2]".
  function indexed(shown, cell) {
    return `x[${coordinates(shown.offsets[cell], shown.shape).join(", ")}]`;
  }

  // What shares a mean with a cell: "every feature of sample 1".
  function sharing(state, shown, cell) {
    const { array, call } = shown;
    const at = place(array, cell);
    const sample = axis.state.sampleLetter(state);
    const fixed = BY_AXES.includes(call.norm)
      ? [...array.drawn].filter((letter) => !state.axes.includes(letter))
      : call.norm === "batch_norm"
        ? [state.channel]
        : call.norm === "group_norm"
          ? [sample]
          : [sample, state.channel];
    const every = [...array.drawn].filter((letter) => !fixed.includes(letter));
    const named = (letters) => (letters.length ? `every ${listed(letters.map((letter) => array.names[letter]))}` : "");
    const of = fixed.length ? ` of ${listed(fixed.map((letter) => `${array.names[letter]} ${at[letter]}`))}` : "";
    if (call.norm !== "group_norm" || call.groups === 1) return named(every) + of;
    const size = array.sizes[state.channel] / call.groups;
    const first = Math.floor(at[state.channel] / size) * size;
    const own = Array.from({ length: size }, (_, i) => first + i);
    const positions = named(every.filter((letter) => letter !== state.channel));
    return `${array.names[state.channel]}${size > 1 ? "s" : ""} ${listed(own)}${of}${positions && ", "}${positions}`;
  }

  // The runs in memory of the offsets of a set, in ascending order.
  function runs(offsets) {
    const found = [];
    for (const offset of offsets) {
      const last = found.at(-1);
      if (last && last.end === offset) last.end = offset + 1;
      else found.push({ start: offset, end: offset + 1 });
    }
    return found;
  }

  function runsInWords(offsets) {
    const found = runs([...offsets].sort((a, b) => a - b));
    if (!found.length) return "Nothing of it is inside the mask.";
    const size = found[0].end - found[0].start;
    const values = (count) => `${count} neighbouring value${count === 1 ? "" : "s"}`;
    if (found.length === 1) return size === 1 ? "The set is one value." : `The set is one run of ${values(size)}.`;
    const alike = found.every((run) => run.end - run.start === size);
    const step = found[1].start - found[0].start;
    const even = found.every((run, i) => i === 0 || run.start - found[i - 1].start === step);
    const what = !alike ? "runs of unequal length" : size === 1 ? "single values" : `runs of ${values(size)}`;
    return `The set is ${found.length} ${what}${alike && even ? `, ${step} apart` : ""}.`;
  }

  // Which outputs an edit moved: cells of `moved`, because of those in `edited`.
  function movement(shown, edited, moved) {
    if (!edited.length) return "";
    const sample = (cell) => place(shown.array, cell).N;
    const own = new Set(edited.map(sample));
    const others = moved.filter((cell) => !own.has(sample(cell)));
    if (!moved.length) return "No output moved: padding takes no part.";
    const count = `${moved.length} of ${shown.y.length} outputs moved`;
    if (others.length)
      return `${count}, ${others.length} of them in samples that you did not touch: the samples are coupled.`;
    if (moved.length === edited.length && edited.every((cell) => moved.includes(cell))) {
      return `${count}: only what you changed. ${shown.call.evaluating ? "The statistics are fixed." : ""}`.trim();
    }
    return `${count}, none in another sample.`;
  }

  // Numbers as a nested list of Python, a line for each list of rank `rank`.
  function nested(numbers, shape, indent, rank = 1) {
    const plain = numbers.map((x) => (Number.isInteger(x) ? x.toFixed(1) : String(x)));
    if (shape.length === 1) return `[${plain.join(", ")}]`;
    const size = numbers.length / shape[0];
    const parts = Array.from({ length: shape[0] }, (_, i) =>
      nested(numbers.slice(i * size, (i + 1) * size), shape.slice(1), indent + 1, rank),
    );
    return `[${parts.join(shape.length > rank ? `,\n${" ".repeat(indent + 1)}` : ", ")}]`;
  }

  // The lines that make what the call is given.
  function given(shown) {
    const lines = ["import numpy as np", "import normlib", ""];
    const open = "x = np.array(";
    const x = nested(shown.x, shown.shape, open.length, shown.shape.length > 3 ? 2 : 1);
    lines.push(`${open}${x})  # ${[...shown.order].join(", ")}`);
    if (shown.inside) {
      const { letter, lengths } = shown.array.padded;
      const list = `np.array([${lengths.join(", ")}])`;
      lines.push(`inside = np.arange(${shown.array.sizes[letter]}) < ${list}[:, np.newaxis]`);
    }
    if (shown.running) {
      for (const [name, numbers] of [
        ["mean", shown.running.mean],
        ["var", shown.running.variance],
      ]) {
        lines.push(`running_${name} = np.array(${nested(numbers, [numbers.length], 0)})`);
      }
    }
    return lines.join("\n");
  }

  // The call. Its mask has the axes of x: those that it is the same along are new ones.
  function called(shown) {
    const { call, order, array } = shown;
    const parts = ["x"];
    const last = order.length - 1;
    if (call.norm === "group_norm") parts.push(String(call.groups));
    if (shown.running) {
      parts.push("running_mean=running_mean", "running_var=running_var");
      if (call.norm === "batch_norm") parts.push(`training=${call.evaluating ? "False" : "True"}`);
      else parts.push(`use_input_stats=${call.evaluating ? "False" : "True"}`);
    }
    if (BY_AXES.includes(call.norm)) {
      const [first, ...more] = call.axes;
      parts.push(more.length ? `axis=(${call.axes.join(", ")})` : `axis=${first === last ? -1 : first}`);
    } else parts.push(`channel_axis=${call.channel === last && last > 1 ? -1 : call.channel}`);
    if (shown.inside) {
      const index = [...order].map((letter) => (("N" + array.padded.letter).includes(letter) ? ":" : "np.newaxis"));
      parts.push(`where=inside${index.includes("np.newaxis") ? `[${index.join(", ")}]` : ""}`);
    }
    const results = call.norm === "rms_norm" ? "y, rstd" : "y, mean, rstd";
    return `${results} = normlib.${call.norm}(${parts.join(", ")}, return_stats=True)`;
  }

  axis.words = { number, whereabouts, indexed, sharing, runsInWords, movement, given, called };
})((globalThis.axis ??= {}));
