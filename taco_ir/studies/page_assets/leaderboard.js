"use strict";
// The table and the controls. `state` is what the reader chose; every control changes it and draws again what depends on it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const TEXT_COLUMNS = ["system", "base", "seeds"];
const state = { board: 0, measure: 0, column: DATA.macro, descending: true, hidden: new Set(), a: 0, b: 0, topics: "", shown: 0 };

const statOf = (row, topics, measure) => row.scores[topics]?.[measure] ?? null;
const shownTopics = (board) => [DATA.macro, ...board.topics, ...board.slices].filter((topics) => !state.hidden.has(topics));

function say(text) {
  byId("status").textContent = text;
}

function sortedRows(board) {
  const measure = board.measures[state.measure];
  const key = TEXT_COLUMNS.includes(state.column)
    ? (row) => (state.column === "seeds" ? row.seeds.length : row[state.column])
    : (row) => statOf(row, state.column, measure)?.[0] ?? null;
  const sign = state.descending ? -1 : 1;
  const order = (x, y) => (typeof x === "string" ? x.localeCompare(y) : x - y);
  return [...board.rows].sort((x, y) => {
    const [left, right] = [key(x), key(y)];
    return (left == null) - (right == null) || (left == null ? 0 : sign * order(left, right));
  });
}

function drawTable() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const table = byId("board");
  table.classList.toggle("spread", board.rows.some((row) => row.seeds.length > 1));
  table.caption.replaceChildren(
    element("strong", {}, measure),
    `, corpus ${board.corpus}: ${board.passages.toLocaleString("en")} passages` + (board.baseline ? `; compared with ${board.baseline}` : ""),
  );
  const columns = [...TEXT_COLUMNS, ...shownTopics(board)];
  table.tHead.replaceChildren(element("tr", {}, ...columns.map((column) => headerCell(board, column))));
  const best = new Map(shownTopics(board).map((topics) => [topics, bestOf(board, topics, measure)]));
  table.tBodies[0].replaceChildren(...sortedRows(board).map((row) => tableRow(board, row, measure, best)));
}

const bestOf = (board, topics, measure) =>
  board.rows.reduce((best, row) => (statOf(row, topics, measure)?.[0].toFixed(3) > best ? statOf(row, topics, measure)[0].toFixed(3) : best), "");

function headerCell(board, column) {
  const sorted = state.column === column;
  const note = column === DATA.macro ? `of all ${board.topics.length} topics` : board.slices.includes(column) ? `slice of ${board.whole[column]}` : null;
  const button = element(
    "button",
    { type: "button", "data-column": column, onclick: () => sortBy(column) },
    element("span", {}, column, element("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (state.descending ? " ▼" : " ▲") : " ↕")),
  );
  const order = sorted ? (state.descending ? "descending" : "ascending") : null;
  const kind = TEXT_COLUMNS.includes(column) ? "" : column === DATA.macro ? "number macro" : "number";
  return element("th", { scope: "col", class: kind, "aria-sort": order }, button, note && element("small", {}, note));
}

function tableRow(board, row, measure, best) {
  const cells = shownTopics(board).map((topics) => {
    const stat = statOf(row, topics, measure);
    const kind = topics === DATA.macro ? "number macro" : "number";
    if (!stat) return element("td", { class: kind }, "-", element("span", { class: "sd" }), element("span", { class: "mark" }));
    const value = show(stat[0]);
    const p = board.comparisons[measure]?.[board.rows.indexOf(row)]?.[topics];
    return element(
      "td",
      { class: kind },
      element(value === best.get(topics) ? "strong" : "span", {}, value),
      element("span", { class: "sd" }, spread(stat[1])),
      markOf(p),
    );
  });
  const name = element("th", { scope: "row" }, row.system, row.baseline ? element("small", {}, " baseline") : null);
  return element("tr", {}, name, element("td", {}, row.base || "-"), element("td", {}, row.seeds.join(", ")), ...cells);
}

/** + or − with its meaning in words for a screen reader; nothing where the test shows no difference. */
function markOf(comparison) {
  const mark = element("span", { class: "mark" });
  if (!comparison || comparison[3] >= DATA.significant) return mark;
  const better = comparison[0] > 0;
  mark.classList.add(better ? "better" : "worse");
  mark.append(
    element("span", { "aria-hidden": "true" }, better ? "+" : "\u2212"),
    element("span", { class: "unseen" }, better ? " significantly better than the baseline" : " significantly worse than the baseline"),
  );
  return mark;
}

function sortBy(column) {
  state.descending = state.column === column ? !state.descending : !["system", "base"].includes(column);
  state.column = column;
  drawTable();
  byId("board").querySelector(`button[data-column="${CSS.escape(column)}"]`)?.focus();
  say(`Sorted by ${column}, ${state.descending ? "highest" : "lowest"} first.`);
}

function drawMacro() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const rows = board.rows.map((row) => ({ row, stat: statOf(row, DATA.macro, measure) })).filter((each) => each.stat);
  rows.sort((x, y) => y.stat[0] - x.stat[0]);
  const bars = rows.map(({ row, stat: [mean, sd, seeds] }) => ({ label: row.name, mean, sd, seeds, baseline: row.baseline }));
  byId("averages").replaceChildren();
  if (bars.length) drawBars(byId("averages"), bars, `${DATA.macro} of ${measure} over ${board.topics.length} topics, corpus ${board.corpus}`);
  const without = board.rows.filter((row) => !statOf(row, DATA.macro, measure)).map((row) => row.name);
  byId("averages-note").textContent =
    `${measure}, corpus ${board.corpus}. Whiskers: one standard deviation over seeds; rings: single seeds (where a system has several).` +
    (without.length ? ` Without an average, since topics are missing: ${without.join(", ")}.` : "");
}

function drawFilters() {
  const board = DATA.boards[state.board];
  byId("columns").replaceChildren(
    ...[...board.topics, ...board.slices].map((topics) => {
      const box = element("input", { type: "checkbox", checked: !state.hidden.has(topics), value: topics });
      box.addEventListener("change", () => {
        state.hidden[box.checked ? "delete" : "add"](topics);
        drawTable();
        const count = shownTopics(board).length - 1;
        say(`${topics} ${box.checked ? "shown" : "hidden"}; ${count} columns of topics. The ${DATA.macro} is still that of all ${board.topics.length} topics.`);
      });
      return element("label", {}, box, ` ${topics}`);
    }),
  );
}

function options(select, names, chosen) {
  select.replaceChildren(...names.map((name, i) => element("option", { value: i, selected: i === chosen }, name)));
}

/** Another corpus: other rows, measures and topics, so everything is chosen anew; a measure of the same name is kept. */
function openBoard(index) {
  const before = DATA.boards[state.board].measures[state.measure];
  const board = DATA.boards[index];
  const baseline = board.rows.findIndex((row) => row.baseline);
  state.board = index;
  state.measure = Math.max(board.measures.indexOf(before), 0);
  state.column = DATA.macro;
  state.descending = true;
  state.hidden.clear();
  state.b = baseline >= 0 ? baseline : Math.min(1, board.rows.length - 1);
  state.a = state.b === 0 ? Math.min(1, board.rows.length - 1) : 0;
  state.topics = board.topics[0];
  const names = board.rows.map((row) => row.name);
  const topics = [...board.topics, ...board.slices];
  options(byId("measure"), board.measures, state.measure);
  options(byId("a"), names, state.a);
  options(byId("b"), names, state.b);
  options(byId("topics"), topics, 0);
  byId("notes").replaceChildren(...board.notes.map((note) => element("li", {}, note)));
  byId("no-texts").hidden = examplesOf(board) != null;
  byId("queries").classList.toggle("bare", examplesOf(board) == null);
  byId("texts").checked = false;
  byId("texts").parentElement.hidden = examplesOf(board) == null;
  drawFilters();
  drawAll();
}

function drawAll() {
  state.shown = SHOWN;
  drawTable();
  drawMacro();
  drawPair();
}

function listen() {
  const on = (id, change) => byId(id).addEventListener("change", (event) => change(event.target));
  const board = () => DATA.boards[state.board];
  on("corpus", (select) => {
    openBoard(Number(select.value));
    say(`Corpus ${board().corpus}.`);
  });
  on("measure", (select) => {
    state.measure = Number(select.value);
    drawAll();
    say(`Measure ${board().measures[state.measure]}.`);
  });
  for (const side of ["a", "b"]) {
    on(side, (select) => {
      state[side] = Number(select.value);
      state.shown = SHOWN;
      drawPair();
    });
  }
  on("topics", (select) => {
    state.topics = [...board().topics, ...board().slices][Number(select.value)];
    state.shown = SHOWN;
    drawQueries();
  });
  for (const id of ["side", "texts"]) on(id, drawQueries);
  byId("more").addEventListener("click", () => {
    state.shown += SHOWN;
    drawQueries();
  });
  byId("theme").addEventListener("click", () => setTheme(!isDark()));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return; // a phone's address bar changes the height only
    width = window.innerWidth;
    drawMacro();
    drawDifference();
  });
}

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
};

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(dark));
}

document.addEventListener("DOMContentLoaded", () => {
  byId("theme").setAttribute("aria-pressed", String(isDark()));
  options(byId("corpus"), DATA.boards.map((board) => board.corpus), 0);
  listen();
  openBoard(0);
});
