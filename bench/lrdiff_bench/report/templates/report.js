"use strict";
// Contents, copying, sorting and filtering: whatever the page shows is there without them.
for (const part of document.querySelectorAll("section.part")) {
  const heads = [...part.querySelectorAll("h3")];
  if (heads.length < 4) continue;
  const nav = document.createElement("nav");
  nav.className = "inside";
  nav.setAttribute("aria-label", `Contents of ${part.querySelector("h2").textContent}`);
  heads.forEach((head, i) => {
    head.id ||= `${part.id}-${i}`;
    const link = document.createElement("a");
    link.href = `#${head.id}`;
    link.textContent = head.textContent;
    nav.append(link);
  });
  part.querySelector("h2").after(nav);
}
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copy).textContent;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = before; }, 2000);
  });
}
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // words last, either way
        const order = Number.isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("output");
  field.type = "search";
  label.append("Filter rows: ", field);
  const bar = document.createElement("div");
  bar.className = "tools";
  bar.append(label, count);
  table.parentElement.before(bar);
  const show = () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${body.rows.length} rows`;
  };
  field.addEventListener("input", show);
  show();
}
