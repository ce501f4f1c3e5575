"use strict";
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Theme: the system's, until the button is pressed.
one("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// The table: a header sorts up, then down, then not at all; what is unknown stays at the end.
const table = one("#table");
const heads = table ? all("thead th", table) : [];
const rows = table ? [...table.tBodies[0].rows] : [];
const words = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());

function value(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent;
  return text === "-" ? null : text !== "" && !isNaN(text) ? Number(text) : text;
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function sort(column) {
  const before = heads[column].getAttribute("aria-sort");
  const order = before === "ascending" ? "descending" : before === "descending" ? null : "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  if (order) heads[column].setAttribute("aria-sort", order);
  const sign = order === "descending" ? -1 : 1;
  const keys = new Map(rows.map((row) => [row, order ? value(row, column) : 0]));
  const sorted = [...rows].sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    return x === null || y === null ? (x === null) - (y === null) : sign * compare(x, y);
  });
  table.classList.toggle("sorted", order !== null);
  table.tBodies[0].append(...sorted);
}
heads.forEach((head, column) => one("button", head).addEventListener("click", () => sort(column)));

function filter() {
  const wanted = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  rows.forEach((row, i) => { row.hidden = !wanted.every((word) => words[i].includes(word)); });
  const offered = rows.filter((row) => !row.matches(".elsewhere")), left = offered.filter((row) => !row.hidden);
  one("#count").textContent = left.length === offered.length ? `${left.length} rows`
    : `${left.length} of ${offered.length} rows`;
}
if (table) one("#filter").addEventListener("input", filter);

// Where the page is of several machines: what is of another than the one picked is not shown.
const picks = all("select.pick");
function pick() {
  picks.forEach((select) => picks.forEach((other) => all("option[data-of]", select).forEach((option) => {
    option.hidden = option.disabled = other.value !== "" && other !== select && !option.dataset.of.split("|").includes(other.value);
    if (option.disabled && option.selected) select.value = "";
  })));
  all("[data-hardware]").forEach((part) => {
    part.classList.toggle("elsewhere", picks.some((select) => select.value && part.dataset[select.name] !== select.value));
  });
  if (table) filter();
}
picks.forEach((select) => select.addEventListener("change", pick));
if (picks.length) pick();

// A row that is gone to must be seen, whatever the filter.
function show(row) {
  if (row.hidden) { one("#filter").value = ""; filter(); }
  all("tr.found").forEach((other) => other.classList.remove("found"));
  row.classList.add("found");
  row.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", () => {
  const row = rows.find((each) => "#" + each.id === location.hash);
  if (row) show(row);
});

// Backends shown in the charts.
all("button.chip").forEach((chip) => chip.addEventListener("click", () => {
  const on = chip.getAttribute("aria-pressed") !== "true";
  chip.setAttribute("aria-pressed", on);
  all(`.chart .${chip.dataset.k}`).forEach((series) => series.classList.toggle("off", !on));
}));

// Tooltips: all figures of a point's row, taken from the table.
const tip = one("#tip");

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

function describe(row) {
  const what = [], found = document.createElement("dl");
  heads.forEach((head, i) => {
    const [name, text] = [head.textContent, row.cells[i].textContent];
    if (!text || text === "-") return;
    if (head.classList.contains("what")) { what.push(isNaN(text) ? text : `${name} ${text}`); return; }
    const pair = element("div", "", text.length > 12 ? "wide" : "");
    pair.append(element("dt", name), element("dd", text));
    found.append(pair);
  });
  tip.replaceChildren(element("b", what.shift()), element("p", what.join(", ")), found);
}

function point(chart, use) {
  leave(chart);
  chart.classList.add("active");
  use.parentNode.classList.add("near");
  use.classList.add("at");
  describe(document.getElementById("r" + use.dataset.r));
  tip.hidden = false;
  const at = use.getBoundingClientRect(), box = tip.getBoundingClientRect(), gap = 14;
  const right = at.right + gap + box.width < innerWidth, left = at.left - gap - box.width > 0;
  const x = right ? at.right + gap : left ? at.left - gap - box.width : (innerWidth - box.width) / 2;
  const y = right || left ? at.top - box.height / 2 : at.top > innerHeight / 2 ? 8 : innerHeight - box.height - 8;
  tip.style.left = x + "px";
  tip.style.top = Math.max(8, Math.min(innerHeight - box.height - 8, y)) + "px";
}

function leave(chart) {
  all(".near, .at", chart).forEach((part) => part.classList.remove("near", "at"));
  chart.classList.remove("active");
  tip.hidden = true;
}

all("svg.chart").forEach((chart) => {
  const points = () => all("use.pt", chart).filter((use) => !use.closest(".off"));
  const place = (use) => ({ x: use.x.baseVal.value, y: use.y.baseVal.value });
  const near = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const found = points().map((use) => ({ use, far: Math.hypot(place(use).x - at.x, place(use).y - at.y) }));
    const best = found.reduce((a, b) => (b.far < a.far ? b : a), { far: 30 });
    if (best.use) point(chart, best.use); else leave(chart);
  };
  chart.addEventListener("pointermove", near);
  chart.addEventListener("pointerdown", near);
  chart.addEventListener("pointerleave", () => leave(chart));
  chart.addEventListener("blur", () => leave(chart));
  chart.addEventListener("keydown", (event) => {
    const now = one("use.at", chart), shown = points();
    if (event.key === "Enter" && now) { show(document.getElementById("r" + now.dataset.r)); leave(chart); return; }
    if (event.key === "Escape") { leave(chart); return; }
    // Left and right along a line, up and down through the backends of one length.
    const move = { ArrowRight: ["x", 1], ArrowLeft: ["x", -1], ArrowUp: ["y", -1], ArrowDown: ["y", 1] }[event.key];
    if (!move || !shown.length) return;
    event.preventDefault();
    if (!now) { point(chart, shown[0]); return; }
    const [axis, sign] = move;
    const same = shown.filter((use) => axis === "x" ? use.parentNode === now.parentNode : place(use).x === place(now).x);
    const line = same.sort((a, b) => place(a)[axis] - place(b)[axis]);
    point(chart, line[Math.max(0, Math.min(line.length - 1, line.indexOf(now) + sign))]);
  });
});
