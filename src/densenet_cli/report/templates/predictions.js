document.addEventListener("DOMContentLoaded", () => {
  const byId = (id) => document.getElementById(id);
  const [tools, search, label, order, threshold] = ["tools", "search", "label", "order", "threshold"].map(byId);
  const list = byId("images");
  const count = (number) => number.toLocaleString("en");

  /* What the page says is all there is: each row is read once. */
  const rows = Array.from(list.querySelectorAll(".image"), (element, place) => {
    const name = element.querySelector("h2").textContent.trim();
    const labels = Array.from(element.querySelectorAll("li > span"), (span) => span.textContent);
    const failed = element.classList.contains("failed");
    return {
      element, place, name, failed,
      label: labels[0],
      text: [name, ...labels].join("\n").toLowerCase(),
      probability: failed ? NaN : Number(element.dataset.p),
    };
  });

  const ORDERS = {
    given: (a, b) => a.place - b.place,
    surest: (a, b) => a.failed - b.failed || b.probability - a.probability || a.place - b.place,
    unsurest: (a, b) => a.failed - b.failed || a.probability - b.probability || a.place - b.place,
    name: (a, b) => collator.compare(a.name, b.name) || a.place - b.place,
  };
  const collator = new Intl.Collator(undefined, { numeric: true });

  const listLabels = () => {
    const counts = new Map();
    for (const row of rows) if (row.label !== undefined) counts.set(row.label, (counts.get(row.label) || 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1] || collator.compare(a[0], b[0]));
    for (const [name, number] of sorted) label.append(new Option(`${name} (${count(number)})`, name));
  };

  /* Blocks of rows, as the page came: see the style. */
  const BLOCK = 30;
  let placed = rows;
  const arrange = (shown) => {
    if (shown.length === placed.length && shown.every((row, place) => row === placed[place])) return;
    placed = shown;
    const blocks = new DocumentFragment();
    for (let at = 0; at < shown.length; at += BLOCK) {
      const block = document.createElement("ol");
      block.className = "images";
      block.setAttribute("role", "list");
      block.append(...shown.slice(at, at + BLOCK).map((row) => row.element));
      blocks.append(block);
    }
    list.replaceChildren(blocks);
  };

  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const least = threshold.valueAsNumber / 100;
    const show = tools.elements.show.value;
    const kinds = { all: rows.length, sure: 0, unsure: 0, failed: 0 };
    const shown = rows.filter((row) => {
      const kind = row.failed ? "failed" : row.probability < least ? "unsure" : "sure";
      kinds[kind] += 1;
      row.element.classList.toggle("unsure", kind === "unsure");
      return (show === "all" || show === kind) && (!label.value || row.label === label.value)
        && words.every((word) => row.text.includes(word));
    });
    arrange(shown.sort(ORDERS[order.value]));
    for (const input of tools.elements.show) input.nextElementSibling.querySelector("b").textContent = count(kinds[input.value]);
    tools.querySelector("output").textContent = `${threshold.value}%`;
    const all = `${count(rows.length)} ${rows.length === 1 ? "image" : "images"}`;
    const narrowed = Boolean(words.length || label.value || show !== "all");
    byId("shown").textContent = narrowed ? `${count(shown.length)} of ${all}` : all;
    byId("reset").hidden = !narrowed;
    byId("nothing").hidden = shown.length > 0 || !rows.length;
  };

  let asked = false;
  const soon = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      update();
    });
  };

  listLabels();
  tools.hidden = false;
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("input", soon);
  tools.addEventListener("reset", () => setTimeout(() => { update(); search.focus(); }));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    event.preventDefault();
    search.focus();
    search.select();
  });
  /* A browser that comes back to the page keeps what was typed. */
  update();
});
