"use strict";
// The array as a stack of grids, and the ribbon of its memory.

(function (axis) {
  const { place, shape, numbered } = axis.layout;
  const { number, whereabouts } = axis.words;

  // An element with properties, of which role and aria-* are attributes, and children.
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "role" || name.startsWith("aria-")) made.setAttribute(name, value);
      else made[name] = value;
    }
    made.append(...children);
    return made;
  }

  const heading = (role, text, label) => element("span", { role, className: "heading", "aria-label": label }, text);
  const title = (text) => element("span", { className: "title", "aria-hidden": "true" }, text);

  // One grid: rows of buttons under the numbers of their columns.
  function grid(array, first, name) {
    const [rowLetter, columnLetter] = array.drawn.slice(-2);
    const [rows, columns] = [array.sizes[rowLetter], array.sizes[columnLetter]];
    const made = element("div", { role: "grid", className: "grid", "aria-label": name });
    made.style.setProperty("--columns", columns);
    const corner = heading("columnheader", `${rowLetter} ↓  ${columnLetter} →`, `${array.names[rowLetter]}s down`);
    const header = (role, letter) => (_, i) => heading(role, i, `${array.names[letter]} ${i}`);
    const across = Array.from({ length: columns }, header("columnheader", columnLetter));
    made.append(element("div", { role: "row", className: "row" }, corner, ...across));
    for (let i = 0; i < rows; i++) {
      const cells = Array.from({ length: columns }, (_, j) => {
        const cell = element("div", { role: "gridcell", className: "cell", tabIndex: -1 });
        cell.dataset.cell = first + i * columns + j;
        cell.append(...["x", "unseen", "y", "unseen"].map((className) => element("span", { className })));
        return cell;
      });
      const head = header("rowheader", rowLetter)(null, i);
      made.append(element("div", { role: "row", className: "row" }, head, ...cells));
    }
    return made;
  }

  // All grids, a line of them for each sample. Returns the cells in their order.
  function build(parent, array) {
    const stack = shape(array, array.drawn.slice(0, -2));
    const size = array.sizes[array.drawn.at(-1)] * array.sizes[array.drawn.at(-2)];
    const name = (letter, i) => `${array.names[letter]} ${i}`;
    const titled = (text, grid) => element("div", { className: "titled" }, title(text), grid);
    parent.replaceChildren();
    parent.className = `grids of-${array.drawn.length}`;
    if (!stack.length) parent.append(grid(array, 0, array.title));
    for (let n = 0; n < (stack[0] ?? 0); n++) {
      const sample = name("N", n);
      const line = element("div", { className: "sample", role: "group", "aria-label": sample });
      if (stack.length === 1) line.append(titled(sample, grid(array, n * size, sample)));
      else {
        line.append(title(sample));
        for (let c = 0; c < stack[1]; c++) {
          const first = numbered([n, c], stack) * size;
          line.append(titled(name("C", c), grid(array, first, `${sample}, ${name("C", c)}`)));
        }
      }
      parent.append(line);
    }
    return [...parent.querySelectorAll(".cell")].sort((a, b) => a.dataset.cell - b.dataset.cell);
  }

  // Values, outputs and marks of the cells. look: cell (pointed at), members, moved and edited (sets), focus (a cell).
  function paint(cells, shown, values, look) {
    cells.forEach((node, cell) => {
      const outside = Boolean(shown.inside) && !shown.inside[cell];
      const marks = {
        set: look.members.has(cell),
        current: cell === look.cell,
        outside,
        moved: look.moved.has(cell),
        edited: look.edited.has(cell),
      };
      for (const [name, on] of Object.entries(marks)) node.classList.toggle(name, on);
      node.tabIndex = cell === look.focus ? 0 : -1;
      node.setAttribute("aria-selected", marks.current);
      const notes = [marks.set && "shares the statistics", outside && "padding", marks.moved && "output has moved"];
      const rest = ["", whereabouts(shown, cell), ...notes.filter(Boolean)].join(", ");
      const texts = [number(values[cell], 1), " becomes ", number(shown.y[cell], 2), rest];
      texts.forEach((text, i) => (node.children[i].textContent = text));
    });
  }

  // The elements in the order of memory.
  function ribbon(parent, shown, look) {
    if (parent.childElementCount !== shown.x.length) {
      parent.replaceChildren(...shown.x.map(() => element("i")));
    }
    const block = shown.x.length / shown.shape[0];
    shown.offsets.forEach((offset, cell) => {
      const node = parent.children[offset];
      node.dataset.cell = cell;
      node.className = [
        look.members.has(cell) && "set",
        cell === look.cell && "current",
        shown.inside && !shown.inside[cell] && "outside",
        offset && offset % block === 0 && "begins",
      ]
        .filter(Boolean)
        .join(" ");
    });
  }

  // A small picture of an N, C, H, W array with one set in it.
  function miniature(parent, array, members) {
    const { N, C, H, W } = array.sizes;
    const span = (size, inner) => Array.from({ length: size }, (_, i) => inner(i));
    const cell = (i) => element("i", { className: members.includes(i) ? "set" : "" });
    const channel = (n, c) => element("span", {}, ...span(H * W, (i) => cell((n * C + c) * H * W + i)));
    const line = (n) => span(C, (c) => channel(n, c));
    const sample = (n) => element("div", { className: "miniature", "aria-hidden": "true" }, ...line(n));
    parent.replaceChildren(...span(N, sample));
  }

  // The cell that an arrow leads to: the next of the grid, or the nearest of the grid beside it.
  function neighbour(array, cell, key) {
    const sizes = array.sizes;
    const [row, column] = array.drawn.slice(-2);
    const at = place(array, cell);
    const image = array.drawn.length === 4;
    const step = (letter, by, beyond) => {
      at[letter] += by;
      if (at[letter] >= 0 && at[letter] < sizes[letter]) return true;
      const back = by > 0 ? 0 : sizes[letter] - 1;
      if (!beyond || !step(beyond, by)) return false;
      at[letter] = back;
      return true;
    };
    const moves = {
      ArrowLeft: () => step(column, -1, image && "C"),
      ArrowRight: () => step(column, 1, image && "C"),
      ArrowUp: () => step(row, -1, row !== "N" && "N"),
      ArrowDown: () => step(row, 1, row !== "N" && "N"),
    };
    const reached = moves[key]();
    const letters = array.drawn;
    return reached
      ? numbered(
          [...letters].map((letter) => at[letter]),
          shape(array, letters),
        )
      : cell;
  }

  axis.grids = { element, build, paint, ribbon, miniature, neighbour };
})((globalThis.axis ??= {}));
