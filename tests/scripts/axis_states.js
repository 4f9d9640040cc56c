// Every state of the page "Which numbers share a mean?", as the page computes it: a line of JSON each.
// Run by tests/test_axis.py with the folder of the page.
"use strict";
const path = require("node:path");

for (const name of ["layout", "norms", "state", "words"]) require(path.join(process.argv[2], `${name}.js`));
const { layout, norms, state, words } = globalThis.axis;

// The subsets of some letters, but the empty one.
function subsets(letters) {
  return [...letters].reduce((found, letter) => [...found, ...found.map((set) => set + letter), letter], []);
}

function* choices() {
  for (const [array, { drawn, orders }] of Object.entries(layout.ARRAYS)) {
    for (const memory of Object.keys(orders)) {
      for (const masked of [false, true]) {
        const common = { ...state.initial(), array, memory, masked };
        for (const norm of norms.BY_AXES) for (const axes of subsets(drawn)) yield { ...common, norm, axes };
        for (const channel of drawn) {
          for (const norm of norms.LEARNING.filter((norm) => state.possible(norm, array))) {
            for (const evaluating of [false, true]) yield { ...common, norm, channel, evaluating };
          }
          const grouped = { ...common, norm: "group_norm", channel };
          for (const groups of state.groupings(grouped)) yield { ...grouped, groups };
        }
      }
    }
  }
}

const edited = (values) => values.map((x, cell) => (cell % 7 === 3 ? -x + 0.3 : x));

for (const choice of choices()) {
  const values = layout.ARRAYS[choice.array].values;
  const shown = state.computed(choice, values);
  const changed = state.computed(choice, edited(values));
  const inMemory = (cells) => cells.reduce((found, cell, i) => ((found[shown.offsets[i]] = cell), found), []);
  const line = {
    choice,
    mended: state.mended(choice),
    reread: state.read(state.written(choice)),
    given: words.given(shown),
    called: words.called(shown),
    x: shown.x,
    y: inMemory(shown.y),
    set: inMemory(shown.set),
    inside: shown.inside && inMemory(shown.inside),
    mean: shown.statistics.map((s) => s.mean),
    rstd: shown.statistics.map((s) => s.rstd),
    learned: shown.learned,
    changed: { x: changed.x, y: inMemory(changed.y) },
    sharing: inMemory(shown.set.map((_, cell) => words.sharing(choice, shown, cell))),
  };
  console.log(JSON.stringify(line));
}
