document.addEventListener("DOMContentLoaded", () => {
  const byId = (id) => document.getElementById(id);
  const [toolbar, search, label, order, threshold] = ["toolbar", "search", "label", "order", "threshold"].map(byId);
  const list = byId("images");
  const collator = new Intl.Collator(undefined, { numeric: true });
  const formatCount = (number) => number.toLocaleString("en");

  /* Read each row of the page once. The page is the only data source. */
  const rows = Array.from(list.querySelectorAll(".image"), (element, index) => {
    const name = element.querySelector("h2").textContent.trim();
    const items = Array.from(element.querySelectorAll("li"));
    const labels = items.map((item) => item.querySelector("span").textContent);
    const failed = element.classList.contains("failed");
    return {
      element, index, name, failed,
      items, labels,
      text: [name, ...labels].join("\n").toLowerCase(),
      setSize: element.dataset.setSize,
      decision: element.dataset.decision,
      probability: failed ? NaN : Number(element.dataset.probability),
    };
  });

  /* The labels to filter by: the top label, or, of a multi-label model, all labels from the threshold. */
  const multiLabel = "multiLabel" in list.dataset;
  const labelsOf = (row, minProbability) => (multiLabel
    ? row.labels.filter((_, index) => Number(row.items[index].dataset.probability) >= minProbability)
    : row.labels.slice(0, 1));

  /* Failed images have no probability and come last. */
  const COMPARATORS = {
    input: (a, b) => a.index - b.index,
    "most-confident": (a, b) => a.failed - b.failed || b.probability - a.probability || a.index - b.index,
    "least-confident": (a, b) => a.failed - b.failed || a.probability - b.probability || a.index - b.index,
    name: (a, b) => collator.compare(a.name, b.name) || a.index - b.index,
  };

  const fillLabelMenu = () => {
    const counts = new Map();
    for (const row of rows) {
      for (const name of labelsOf(row, 0)) counts.set(name, counts.get(name) || 0);
      for (const name of labelsOf(row, threshold.defaultValue / 100)) counts.set(name, counts.get(name) + 1);
    }
    const sorted = [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0]));
    for (const [name, count] of sorted) label.append(new Option(`${name} (${formatCount(count)})`, name));
  };

  /* Filters that the page has only if the run had guarantees. */
  const filters = [["set-size", "setSize"], ["decision", "decision"]]
    .map(([id, key]) => ({ menu: byId(id), key })).filter(({ menu }) => menu);
  const fillFilters = () => {
    for (const { menu, key } of filters) {
      const counts = new Map();
      for (const row of rows) if (row[key] !== undefined) counts.set(row[key], (counts.get(row[key]) || 0) + 1);
      const sorted = [...counts].sort((a, b) => collator.compare(a[0], b[0]));
      for (const [value, count] of sorted) menu.append(new Option(`${value} (${formatCount(count)})`, value));
    }
  };

  /* Rows are grouped in blocks, as in the original page. The style sheet explains why. */
  const BLOCK_SIZE = 30;
  let visible = rows;
  const display = (matches) => {
    if (matches.length === visible.length && matches.every((row, index) => row === visible[index])) return;
    visible = matches;
    const blocks = new DocumentFragment();
    for (let start = 0; start < matches.length; start += BLOCK_SIZE) {
      const block = document.createElement("ol");
      block.className = "images";
      block.setAttribute("role", "list");
      block.append(...matches.slice(start, start + BLOCK_SIZE).map((row) => row.element));
      blocks.append(block);
    }
    list.replaceChildren(blocks);
  };

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const minProbability = threshold.valueAsNumber / 100;
    const show = toolbar.elements.show.value;
    const counts = { all: rows.length, confident: 0, uncertain: 0, failed: 0 };
    const matches = rows.filter((row) => {
      const status = row.failed ? "failed" : row.probability < minProbability ? "uncertain" : "confident";
      counts[status] += 1;
      row.element.classList.toggle(multiLabel ? "unlabeled" : "uncertain", status === "uncertain");
      if (multiLabel) {
        for (const item of row.items) item.classList.toggle("below", Number(item.dataset.probability) < minProbability);
      }
      return (show === "all" || show === status)
        && filters.every(({ menu, key }) => !menu.value || row[key] === menu.value)
        && (!label.value || labelsOf(row, minProbability).includes(label.value))
        && words.every((word) => row.text.includes(word));
    });
    display(matches.sort(COMPARATORS[order.value]));
    for (const input of toolbar.elements.show) {
      input.nextElementSibling.querySelector("b").textContent = formatCount(counts[input.value]);
    }
    toolbar.querySelector("output").textContent = `${threshold.value}%`;
    const total = `${formatCount(rows.length)} ${rows.length === 1 ? "image" : "images"}`;
    const filtered = Boolean(words.length || label.value || show !== "all" || filters.some(({ menu }) => menu.value));
    byId("result-count").textContent = filtered ? `${formatCount(matches.length)} of ${total}` : total;
    byId("reset").hidden = !filtered;
    byId("empty-state").hidden = matches.length > 0 || !rows.length;
  };

  /* Update at most once per frame. */
  let scheduled = false;
  const scheduleUpdate = () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      update();
    });
  };

  fillLabelMenu();
  fillFilters();
  toolbar.hidden = false;
  toolbar.addEventListener("submit", (event) => event.preventDefault());
  toolbar.addEventListener("input", scheduleUpdate);
  /* The event fires before the controls are reset. */
  toolbar.addEventListener("reset", () => setTimeout(() => { update(); search.focus(); }));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    event.preventDefault();
    search.focus();
    search.select();
  });
  /* Browsers restore the values of controls on "back" and on reload. */
  update();
});
