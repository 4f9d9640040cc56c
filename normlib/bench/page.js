// A click on the head of a column sorts its table; a second click turns the order round.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const [x, y] = [Number(a || NaN), Number(b || NaN)];
    if (!isNaN(x) && !isNaN(y)) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turn = head.ariaSort === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = turn === 1 ? "ascending" : "descending";
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => turn * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
