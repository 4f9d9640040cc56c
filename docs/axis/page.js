"use strict";
// The page: what is chosen, pointed at and changed, and how it comes to be seen.

(function (axis) {
  const { ARRAYS } = axis.layout;
  const { EPS } = axis.norms;
  const { mended, computed, members, written, read } = axis.state;
  const { element, build, paint, ribbon, miniature, neighbour } = axis.grids;
  const words = axis.words;
  const $ = (id) => document.getElementById(id);

  const FIRST = { features: 8, sequence: 8, image: 22 }; // the cell that is chosen first
  const values = {}; // of each array, a number a cell
  let state, cells, drawn;
  let focus = 0; // the cell that was chosen
  let pointed = null; // the cell under the pointer

  const original = () => ARRAYS[state.array].values;
  const restore = (array) => (values[array] = [...ARRAYS[array].values]);

  function statistics(shown, own, set) {
    const rows = [];
    const square = shown.call.norm === "rms_norm";
    const kind = shown.call.evaluating ? "running " : "";
    if (!square) rows.push([`${kind}mean`, set.mean]);
    rows.push([square ? "mean square" : `${kind}variance`, set.variance], ["rstd", set.rstd]);
    const list = rows.map(([name, value]) => [name, words.number(value, 4)]);
    list.unshift(["values in the set", String(set.count)]);
    if (shown.learned) {
      const channel = own % shown.running.mean.length;
      const moves = (from, to) => `${words.number(from[channel], 2)} → ${words.number(to[channel], 4)}`;
      list.push(["running mean", moves(shown.running.mean, shown.learned.mean)]);
      list.push(["running variance", moves(shown.running.variance, shown.learned.variance)]);
    }
    const row = ([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
    $("statistics").replaceChildren(...list.map(row));
  }

  // (1.3 − 0.417) / √(2.131 + 10⁻⁵), with the numbers of the cell.
  function formula(shown, cell, set) {
    if (shown.inside && !shown.inside[cell]) return "Padding takes no part, and comes out as 0.";
    const exponent = EPS[shown.call.norm] === 1e-6 ? "⁻⁶" : "⁻⁵";
    const x = words.number(values[state.array][cell], 1);
    const mean = `${words.number(Math.abs(set.mean))}`;
    const top = shown.call.norm === "rms_norm" ? x : `(${x} ${set.mean < 0 ? "+" : "−"} ${mean})`;
    return `${top} / √(${words.number(set.variance)} + 10${exponent})`;
  }

  function readout(shown, cell, set) {
    $("cell-name").textContent = words.indexed(shown, cell);
    $("cell-place").textContent = words.whereabouts(shown, cell);
    $("before").textContent = words.number(values[state.array][cell], 1);
    $("after").textContent = words.number(shown.y[cell]);
    $("formula").textContent = formula(shown, cell, set);
    statistics(shown, shown.set[cell], set);
    for (const id of ["slider", "value"]) {
      if (document.activeElement !== $(id) || id === "slider") $(id).value = values[state.array][cell];
      $(id).setAttribute("aria-describedby", "cell-name");
    }
  }

  function statement(shown, cell, set) {
    const square = shown.call.norm === "rms_norm";
    const own = square ? "One mean square for" : "One mean and one variance for";
    const what = shown.call.evaluating ? "A running mean and variance for" : set.count ? own : "Padding, no mean for";
    $("statement-what").textContent = what;
    $("statement-set").textContent = words.sharing(state, shown, cell);
  }

  function code(shown) {
    const given = words.given(shown);
    const line = words.called(shown);
    $("line").firstChild.textContent = line;
    $("program").firstChild.textContent = `${given}\n${line}\n`;
  }

  // All of the page but the controls.
  function update() {
    const cell = pointed ?? focus;
    const shown = computed(state, values[state.array]);
    const before = computed(state, original());
    const all = [...shown.y.keys()];
    const edited = all.filter((i) => values[state.array][i] !== original()[i]);
    const moved = all.filter((i) => !Object.is(shown.y[i], before.y[i]));
    const look = {
      cell,
      focus,
      members: new Set(members(shown, cell)),
      moved: new Set(moved),
      edited: new Set(edited),
    };
    const set = shown.statistics[shown.set[cell]];
    statement(shown, cell, set);
    paint(cells, shown, values[state.array], look);
    ribbon($("ribbon"), shown, look);
    $("ribbon-title").textContent = `In memory: ${[...shown.order].join(", ")}, shape (${shown.shape.join(", ")})`;
    $("ribbon-words").textContent = words.runsInWords([...look.members].map((i) => shown.offsets[i]));
    readout(shown, cell, set);
    $("movement").textContent = words.movement(shown, edited, moved);
    $("restore").hidden = !edited.length;
    $("legend-padding").hidden = !state.masked;
    code(shown);
  }

  function change(more) {
    state = mended({ ...state, ...more });
    history.replaceState(null, "", `#${written(state)}`);
    draw();
  }

  function draw() {
    if (drawn !== state.array) {
      drawn = state.array;
      values[drawn] ?? restore(drawn);
      cells = build($("grids"), ARRAYS[drawn]);
      focus = FIRST[drawn];
      pointed = null;
    }
    axis.controls.show(state, change);
    update();
  }

  function choose(cell) {
    focus = cell;
    pointed = null;
    update();
  }

  function set(value) {
    if (!Number.isFinite(value)) return;
    values[state.array][focus] = Math.round(Math.min(Math.max(value, -99), 99) * 10) / 10;
    update();
  }

  function restored() {
    restore(state.array);
    update();
  }

  function flip() {
    change({ norm: state.norm === "layer_norm" ? "batch_norm" : "layer_norm" });
  }

  function pointing(parent) {
    const cellOf = (event) => event.target.closest("[data-cell]")?.dataset.cell;
    parent.addEventListener("pointerover", (event) => {
      const cell = cellOf(event);
      if (cell === undefined || event.pointerType === "touch") return;
      pointed = Number(cell);
      update();
    });
    parent.addEventListener("pointerleave", () => {
      pointed = null;
      update();
    });
    parent.addEventListener("click", (event) => {
      const cell = cellOf(event);
      if (cell === undefined) return;
      choose(Number(cell));
      cells[focus].focus();
    });
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { "+": 0.5, "=": 0.5, "-": -0.5, "−": -0.5 };
    const ends = { Home: 0, End: cells.length - 1 };
    if (event.key.startsWith("Arrow")) choose(neighbour(ARRAYS[state.array], focus, event.key));
    else if (event.key in ends) choose(ends[event.key]);
    else if (event.key in steps) set(values[state.array][focus] + steps[event.key]);
    else return;
    event.preventDefault();
    cells[focus].focus();
  }

  async function copy(id) {
    const text = $(id).textContent;
    try {
      await navigator.clipboard.writeText(text);
      $("copied").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren($(id)); // where the clipboard is closed to pages: ready for Ctrl+C
      $("copied").textContent = "Selected: copy it with Ctrl+C.";
    }
  }

  function listen() {
    pointing($("grids"));
    pointing($("ribbon"));
    $("grids").addEventListener("keydown", keys);
    $("grids").addEventListener("focusin", (event) => {
      const cell = event.target.closest(".cell");
      if (cell && Number(cell.dataset.cell) !== focus) choose(Number(cell.dataset.cell));
    });
    for (const id of ["slider", "value"]) $(id).addEventListener("input", () => set($(id).valueAsNumber));
    $("value").addEventListener("change", update);
    $("restore").addEventListener("click", restored);
    $("flip").addEventListener("click", flip);
    $("masked").addEventListener("change", () => change({ masked: $("masked").checked }));
    $("copy-line").addEventListener("click", () => copy("line"));
    $("copy-program").addEventListener("click", () => copy("program"));
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => {
      if (event.target.matches("input[type=number]") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key.toLowerCase() === "f") flip();
      if (event.key === "Escape") restored();
    });
    for (const button of document.querySelectorAll("[data-state]")) {
      button.addEventListener("click", () => {
        change(read(button.dataset.state));
        $("stage").scrollIntoView();
        cells[focus].focus({ preventScroll: true });
      });
    }
    addEventListener("hashchange", () => {
      state = read(location.hash);
      draw();
    });
  }

  for (const parent of document.querySelectorAll("[data-miniature]")) {
    const choice = read(parent.dataset.miniature);
    const shown = computed(choice, ARRAYS[choice.array].values);
    miniature(parent, shown.array, members(shown, FIRST[choice.array]));
  }
  $("home").hidden = location.protocol === "file:"; // there is no site around it
  axis.controls.theme();
  state = read(location.hash);
  draw();
  listen();
})(globalThis.axis);
