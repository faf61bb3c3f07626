document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.sortable");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const collator = new Intl.Collator(undefined, { numeric: true });

  /* "–" means that there is no value. It becomes NaN and sorts last. */
  const valueOf = (row, column) => Number.parseFloat(row.cells[column].textContent.replaceAll(",", ""));
  const comparator = (column, sign) => (a, b) => {
    if (column === 0) return sign * collator.compare(a.cells[0].textContent, b.cells[0].textContent);
    const [x, y] = [valueOf(a, column), valueOf(b, column)];
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
  };

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const ascending = header.ariaSort !== "ascending";
      for (const other of headers) other.ariaSort = null;
      header.ariaSort = ascending ? "ascending" : "descending";
      body.append(...rows.toSorted(comparator(column, ascending ? 1 : -1)));
    });
  });

  const search = document.getElementById("class-search");
  search.hidden = rows.length < 10;
  search.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every((word) => name.includes(word));
    }
  });
});
