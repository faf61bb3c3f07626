document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.sortable");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const collator = new Intl.Collator(undefined, { numeric: true });

  /* "–" is no number, and stands behind all that are. */
  const number = (row, column) => Number.parseFloat(row.cells[column].textContent.replaceAll(",", ""));
  const compare = (column, up) => (a, b) => {
    if (column === 0) return up * collator.compare(a.cells[0].textContent, b.cells[0].textContent);
    const [x, y] = [number(a, column), number(b, column)];
    return Number.isNaN(x) - Number.isNaN(y) || up * (x - y) || 0;
  };

  Array.from(table.tHead.rows[0].cells, (cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      /* Names go up first; of numbers one looks for the least. */
      const up = cell.ariaSort === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      cell.ariaSort = up === 1 ? "ascending" : "descending";
      body.append(...rows.toSorted(compare(column, up)));
    });
  });

  const find = document.getElementById("find");
  find.hidden = rows.length < 10;
  find.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
});
