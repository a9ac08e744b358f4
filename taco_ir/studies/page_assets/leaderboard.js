"use strict";
// The table and the controls. `state` is what the reader chose; every control changes it and draws again what depends on it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const TEXT_COLUMNS = ["system", "base", "seeds"];
const state = { board: 0, measure: 0, column: DATA.macro, descending: true, hidden: new Set(), filter: "", a: 0, b: 0, topics: "", shown: 0 };

const statOf = (row, topics, measure) => row.scores[topics]?.[measure] ?? null;
const shownTopics = (board) => [DATA.macro, ...board.topics, ...board.slices].filter((topics) => !state.hidden.has(topics));

function say(text) {
  byId("status").textContent = text;
}

/** The rows whose names hold every word of the filter. */
function filteredRows(board) {
  const words = state.filter.toLowerCase().split(/\s+/);
  return board.rows.filter((row) => words.every((word) => row.name.toLowerCase().includes(word)));
}

function sortedRows(board) {
  const measure = board.measures[state.measure];
  const key = TEXT_COLUMNS.includes(state.column)
    ? (row) => (state.column === "seeds" ? row.seeds.length : row[state.column])
    : (row) => statOf(row, state.column, measure)?.[0] ?? null;
  const sign = state.descending ? -1 : 1;
  const order = (x, y) => (typeof x === "string" ? x.localeCompare(y) : x - y);
  return filteredRows(board).sort((x, y) => {
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
  const kind = ["system", "base"].includes(column) ? "" : column === DATA.macro ? "number macro" : "number";
  return element("th", { scope: "col", class: kind, "aria-sort": order }, button, note && element("small", {}, note));
}

function tableRow(board, row, measure, best) {
  const cells = shownTopics(board).map((topics) => {
    const stat = statOf(row, topics, measure);
    const kind = topics === DATA.macro ? "number macro" : "number";
    if (!stat) return element("td", { class: kind }, element("div", { class: "score" }, element("span", {}, "-")));
    const value = show(stat[0]);
    const p = board.comparisons[measure]?.[board.rows.indexOf(row)]?.[topics];
    const shown = element(value === best.get(topics) ? "strong" : "span", {}, value);
    const score = [shown, element("span", { class: "sd" }, spread(stat[1])), markOf(p)];
    return element("td", { class: kind }, element("div", { class: "score" }, ...score));
  });
  const name = element("th", { scope: "row" }, row.system, row.baseline ? element("small", {}, " baseline") : null);
  const seeds = element("td", { class: "number", title: `seeds ${row.seeds.join(", ")}` }, String(row.seeds.length));
  return element("tr", {}, name, element("td", {}, row.base || "-"), seeds, ...cells);
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
  keepState();
  byId("board").querySelector(`button[data-column="${CSS.escape(column)}"]`)?.focus();
  say(`Sorted by ${column}, ${state.descending ? "highest" : "lowest"} first.`);
}

/** A sentence with the outcome: the best system, and how many differ from the baseline. */
function drawLead() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const column = board.topics.length > 1 ? DATA.macro : board.topics[0];
  const means = board.rows.map((row) => statOf(row, column, measure)?.[0] ?? -1);
  const best = Math.max(...means);
  const tests = board.rows.map((_, i) => board.comparisons[measure]?.[i]?.[column]).filter(Boolean);
  const marked = tests.filter((test) => test[3] < DATA.significant);
  const better = marked.filter((test) => test[0] > 0).length;
  byId("lead").hidden = best < 0;
  byId("lead").textContent =
    `${board.rows[means.indexOf(best)].name} is best on ${board.corpus}: ${measure}, ${column}, is ${show(best)}.` +
    (tests.length ? ` Of ${tests.length} systems that are compared with ${board.baseline}, ${better} are significantly better and ${marked.length - better} significantly worse.` : "");
}

function drawMacro() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const rows = filteredRows(board).map((row) => ({ row, stat: statOf(row, DATA.macro, measure) })).filter((each) => each.stat);
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
        keepState();
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

/** The systems that are compared at first: the baseline, and the first other one. */
function firstPair(board) {
  const baseline = board.rows.findIndex((row) => row.baseline);
  const b = baseline >= 0 ? baseline : Math.min(1, board.rows.length - 1);
  return [b === 0 ? Math.min(1, board.rows.length - 1) : 0, b];
}

/** Another corpus: other rows, measures and topics, so everything is chosen anew; a measure of the same name is kept. */
function chooseBoard(index) {
  const before = DATA.boards[state.board].measures[state.measure];
  const board = DATA.boards[index];
  state.board = index;
  state.measure = Math.max(board.measures.indexOf(before), 0);
  state.column = DATA.macro;
  state.descending = true;
  state.hidden.clear();
  state.filter = "";
  [state.a, state.b] = firstPair(board);
  state.topics = board.topics[0];
}

/** Show what is chosen in every control, and draw everything. */
function openBoard() {
  const board = DATA.boards[state.board];
  const names = board.rows.map((row) => row.name);
  const topics = [...board.topics, ...board.slices];
  options(byId("corpus"), DATA.boards.map((each) => each.corpus), state.board);
  options(byId("measure"), board.measures, state.measure);
  options(byId("a"), names, state.a);
  options(byId("b"), names, state.b);
  options(byId("topics"), topics, topics.indexOf(state.topics));
  byId("filter").value = state.filter;
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
  drawLead();
  drawTable();
  drawMacro();
  drawPair();
}

function listen() {
  const on = (id, change) => byId(id).addEventListener("change", (event) => change(event.target));
  const board = () => DATA.boards[state.board];
  on("corpus", (select) => {
    chooseBoard(Number(select.value));
    openBoard();
    keepState();
    say(`Corpus ${board().corpus}.`);
  });
  on("measure", (select) => {
    state.measure = Number(select.value);
    drawAll();
    keepState();
    say(`Measure ${board().measures[state.measure]}.`);
  });
  for (const side of ["a", "b"]) {
    on(side, (select) => {
      state[side] = Number(select.value);
      state.shown = SHOWN;
      drawPair();
      keepState();
    });
  }
  byId("filter").addEventListener("input", (event) => {
    state.filter = event.target.value.trim();
    drawTable();
    drawMacro();
    keepState();
    say(`${filteredRows(board()).length} of ${board().rows.length} systems shown.`);
  });
  byId("csv").addEventListener("click", downloadTable);
  window.addEventListener("hashchange", () => {
    if (readState()) openBoard();
  });
  on("topics", (select) => {
    state.topics = [...board().topics, ...board().slices][Number(select.value)];
    state.shown = SHOWN;
    drawQueries();
    keepState();
  });
  for (const id of ["side", "texts"]) on(id, drawQueries);
  byId("more").addEventListener("click", () => {
    state.shown += SHOWN;
    drawQueries();
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return; // a phone's address bar changes the height only
    width = window.innerWidth;
    drawMacro();
    drawDifference();
  });
}

/** Keep what the reader chose in the address, as far as it is not what the page shows at first. */
function keepState() {
  const board = DATA.boards[state.board];
  const [a, b] = firstPair(board);
  const chosen = [
    ["corpus", board.corpus, DATA.boards[0].corpus],
    ["measure", board.measures[state.measure], board.measures[0]],
    ["sort", state.column, DATA.macro],
    ["order", state.descending ? "descending" : "ascending", "descending"],
    ["filter", state.filter, ""],
    ["a", board.rows[state.a].name, board.rows[a].name],
    ["b", board.rows[state.b].name, board.rows[b].name],
    ["topics", state.topics, board.topics[0]],
  ].filter(([, value, first]) => value !== first);
  const words = new URLSearchParams([...chosen.map(([key, value]) => [key, value]), ...[...state.hidden].map((topics) => ["hide", topics])]);
  history.replaceState(null, "", `${window.location.href.split("#")[0]}#${words}`);
}

/** Choose what the address says; what it does not know is left as at first. False for an address of another kind. */
function readState() {
  const words = new URLSearchParams(window.location.hash.slice(1));
  if (window.location.hash.length > 1 && !window.location.hash.includes("=")) return false;
  const find = (names, key, otherwise) => (names.includes(words.get(key)) ? names.indexOf(words.get(key)) : otherwise);
  state.measure = 0;
  chooseBoard(find(DATA.boards.map((board) => board.corpus), "corpus", 0));
  const board = DATA.boards[state.board];
  const names = board.rows.map((row) => row.name);
  const topics = [...board.topics, ...board.slices];
  state.measure = find(board.measures, "measure", 0);
  state.a = find(names, "a", state.a);
  state.b = find(names, "b", state.b);
  state.topics = topics[find(topics, "topics", 0)];
  if ([...TEXT_COLUMNS, DATA.macro, ...topics].includes(words.get("sort"))) state.column = words.get("sort");
  state.descending = words.get("order") !== "ascending";
  state.filter = words.get("filter") ?? "";
  for (const each of words.getAll("hide")) if (topics.includes(each)) state.hidden.add(each);
  return true;
}

/** A text that a table of comma-separated values holds as it is; no spreadsheet takes it for a formula. */
function quoted(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The table as it is shown: means, and standard deviations over seeds where there are any. */
function tableText() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const spreads = board.rows.some((row) => row.seeds.length > 1);
  const topics = shownTopics(board);
  const header = [...TEXT_COLUMNS, ...topics.flatMap((each) => (spreads ? [each, `${each} sd`] : [each]))];
  const rows = sortedRows(board).map((row) => [
    row.system,
    row.base,
    row.seeds.length,
    ...topics.flatMap((each) => {
      const [mean, sd] = statOf(row, each, measure) ?? ["", ""];
      return spreads ? [mean, sd ?? ""] : [mean];
    }),
  ]);
  return [header, ...rows].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
}

function downloadTable() {
  const board = DATA.boards[state.board];
  const place = URL.createObjectURL(new Blob([tableText()], { type: "text/csv" }));
  const name = `${board.corpus} ${board.measures[state.measure]}.csv`.replaceAll(/[^\w.@ -]/g, "_");
  element("a", { href: place, download: name }).click();
  URL.revokeObjectURL(place);
  say(`${name} is downloaded.`);
}

document.addEventListener("DOMContentLoaded", () => {
  if (!readState()) chooseBoard(0);
  listen();
  openBoard();
});
