"use strict";
// Two systems query by query: unpacked values, bootstrap intervals, wins and losses, and what each of the two found.

const RESAMPLES = 2000;
const SHOWN = 20; // queries listed at once
const CLIP = 240; // characters of a query in the list; opened, it is there as a whole
const PLACE = new Map([...DATA.letters].map((letter, i) => [letter, i]));

/** A row's values on one of the topics, query by query; null where only means were kept. See `_packed` of the page's Python. */
function queryValues(board, topics, measure, row) {
  const packed = board.values[topics]?.[measure];
  const text = packed?.rows[row];
  if (text == null) return null;
  const wide = packed.levels.length > DATA.letters.length;
  return Array.from({ length: wide ? text.length / 2 : text.length }, (_, i) => {
    const place = wide ? PLACE.get(text[2 * i]) * DATA.letters.length + PLACE.get(text[2 * i + 1]) : PLACE.get(text[i]);
    return packed.levels[place] / 1000;
  });
}

/** a - b for each query of the topics, or null. */
function queryDifferences(board, topics, measure, a, b) {
  const [ours, theirs] = [a, b].map((row) => queryValues(board, topics, measure, row));
  return ours && theirs && ours.length === theirs.length ? ours.map((value, i) => value - theirs[i]) : null;
}

/** Uniform integers below `bound`, the same ones on every run (mulberry32). */
function integers(seed) {
  return (bound) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * bound);
  };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Means of `differences` redrawn with replacement, RESAMPLES times. */
function resampled(differences) {
  const below = integers(1);
  const values = Float64Array.from(differences);
  return Float64Array.from({ length: RESAMPLES }, () => {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum += values[below(values.length)];
    return sum / values.length;
  });
}

/** The 2.5 % and 97.5 % points. */
function middle95(statistics) {
  const sorted = Float64Array.from(statistics).sort();
  const at = (share) => {
    const place = share * (sorted.length - 1);
    const low = sorted[Math.floor(place)];
    return low + (place % 1) * (sorted[Math.ceil(place)] - low);
  };
  return [at(0.025), at(0.975)];
}

/** Rows of the plot of differences from the study's own tests, where one of the two is the other's baseline; else null. */
function testedRows(board, measure, a, b) {
  const other = board.rows[a].against === board.rows[b].name ? a : board.rows[b].against === board.rows[a].name ? b : -1;
  const found = board.comparisons[measure]?.[other];
  if (!found) return null;
  return [...board.topics, DATA.macro].filter((topics) => found[topics]).map((topics) => {
    const [difference, low, high, p] = found[topics];
    const note = `  p ${p < 0.001 ? "< .001" : `= ${p.toFixed(3).replace(/^0/, "")}`}`;
    return other === a
      ? { label: topics, difference, low, high, note }
      : { label: topics, difference: -difference, low: -high, high: -low, note };
  });
}

/** The same rows with intervals computed here, for any two systems. */
function resampledRows(board, measure, a, b) {
  const rows = [];
  const statistics = [];
  for (const topics of board.topics) {
    const differences = queryDifferences(board, topics, measure, a, b);
    if (!differences) continue;
    statistics.push(resampled(differences));
    const [low, high] = middle95(statistics.at(-1));
    rows.push({ label: topics, difference: mean(differences), low, high, note: "" });
  }
  if (rows.length > 1 && rows.length === board.topics.length) {
    const [low, high] = middle95(statistics[0].map((_, i) => mean(statistics.map((values) => values[i]))));
    rows.push({ label: DATA.macro, difference: mean(rows.map((row) => row.difference)), low, high, note: "" });
  }
  return rows;
}

function drawPair() {
  drawDifference();
  drawQueries();
}

function drawDifference() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const [a, b] = [board.rows[state.a], board.rows[state.b]];
  const tested = testedRows(board, measure, state.a, state.b);
  const rows = state.a === state.b ? [] : (tested ?? resampledRows(board, measure, state.a, state.b));
  const how = tested
    ? "95 % bootstrap intervals over queries; p of the paired randomisation test after Holm's correction, as in the table"
    : `95 % bootstrap intervals over queries, ${RESAMPLES.toLocaleString("en")} resamples, computed in this page, not corrected for many comparisons`;
  const host = byId("differences");
  byId("differences-note").textContent =
    state.a === state.b ? "Choose two different systems." : rows.length ? `${measure}, ${a.name} less ${b.name}: ${how}.` : "No values by query were kept for these two.";
  host.replaceChildren();
  if (rows.length) drawDifferences(host, rows, `Difference in ${measure}: ${a.name} less ${b.name}`, "A better", "B better");
}

/** Where the values' queries stand in the topics: all of them, those with judged passages, or unknown (null). */
function positions(board, topics, count) {
  if (count === board.queries[topics]) return (i) => i;
  const judged = examplesOf(board)?.judged[topics];
  return judged?.length === count ? (i) => judged[i] : null;
}

const examplesOf = (board) => (DATA.examples?.corpus === board.corpus ? DATA.examples : null);

function drawQueries() {
  const board = DATA.boards[state.board];
  const measure = board.measures[state.measure];
  const [ours, theirs] = [state.a, state.b].map((row) => queryValues(board, state.topics, measure, row));
  const body = byId("queries").tBodies[0];
  const paired = state.a !== state.b && ours && theirs && ours.length === theirs.length;
  byId("queries").hidden = byId("more").hidden = !paired;
  body.replaceChildren();
  drawCounts(paired ? ours.map((value, i) => value - theirs[i]) : null);
  if (!paired) return;
  const position = positions(board, state.topics, ours.length);
  const texts = new Map((examplesOf(board)?.topics[state.topics] ?? []).map((example) => [example.row, example]));
  const side = byId("side").value;
  const listed = ours
    .map((value, i) => ({ place: i, a: value, b: theirs[i], difference: value - theirs[i], example: position && texts.get(position(i)) }))
    .filter((each) => each.difference !== 0 && (side === "both" || (side === "a") === each.difference > 0))
    .filter((each) => !byId("texts").checked || each.example)
    .sort((x, y) => Math.abs(y.difference) - Math.abs(x.difference));
  for (const each of listed.slice(0, state.shown)) body.append(...queryRows(each, position ? position(each.place) : null));
  byId("more").hidden = listed.length <= state.shown;
  byId("listed").textContent = `${Math.min(listed.length, state.shown)} of ${listed.length} queries shown, biggest difference first; differences below 0.001 are ties.`;
}

function drawCounts(differences) {
  const host = byId("counts");
  host.replaceChildren();
  byId("listed").textContent = differences ? "" : "Values by query were not kept here, or one system is chosen twice.";
  if (!differences) return;
  const parts = [
    ["A better", "better", differences.filter((value) => value > 0).length],
    ["tied", "even", differences.filter((value) => value === 0).length],
    ["B better", "worse", differences.filter((value) => value < 0).length],
  ];
  for (const [name, kind, count] of parts) {
    const share = ((100 * count) / differences.length).toFixed(0);
    host.append(element("li", { class: kind }, element("strong", {}, String(count)), ` ${name} (${share} %)`));
  }
}

/** A query's row and, under it, a row that its button opens. */
function queryRows(each, position) {
  const opened = element("tr", { hidden: true }, element("td", { colspan: 4 }));
  const name = position == null ? `judged query ${each.place + 1}` : `query ${position + 1}`;
  const whole = each.example ? `${each.example.qid}: ${each.example.text}` : name;
  const text = whole.length > CLIP ? `${whole.slice(0, CLIP)}…` : whole;
  const toggle = element("button", { type: "button", class: "query", "aria-expanded": "false" }, text);
  toggle.addEventListener("click", () => {
    opened.hidden = !opened.hidden;
    toggle.setAttribute("aria-expanded", String(!opened.hidden));
    if (!opened.hidden) opened.cells[0].replaceChildren(...sideBySide(each.example));
  });
  const numbers = [show(each.a), show(each.b), signed(each.difference)].map((value) => element("td", { class: "number" }, value));
  return [element("tr", {}, element("th", { scope: "row" }, each.example ? toggle : text), ...numbers), opened];
}

function sideBySide(example) {
  const board = DATA.boards[state.board];
  const gold = new Set(example.gold);
  const pages = new Set([...example.pages, ...example.gold.map((docid) => DATA.examples.passages[docid]?.[2])]);
  const columns = [["A", state.a], ["B", state.b]].map(([letter, row]) => {
    const name = board.rows[row].name;
    const found = example.top[name];
    const list = element("ol", {}, ...(found ?? []).map((docid) => passageItem(docid, gold, pages)));
    const none = found ? "No passage." : "Its run was not at hand when this page was made.";
    return element("section", {}, element("h4", {}, `${letter}: ${name}`), found?.length ? list : element("p", { class: "quiet" }, none));
  });
  const evidence = element("ul", {}, ...example.gold.map((docid) => passageItem(docid, gold, pages)));
  const parts = [element("div", { class: "sides" }, ...columns)];
  if (example.qid.length + 2 + example.text.length > CLIP) parts.unshift(element("p", { class: "whole-query" }, example.text));
  if (example.gold.length) parts.push(element("details", {}, element("summary", {}, `Gold evidence: ${example.gold.length}`), evidence));
  return parts;
}

function passageItem(docid, gold, pages) {
  const [title, text, page] = DATA.examples.passages[docid] ?? ["", "(its text is not in this page)", null];
  const mark = gold.has(docid) ? "✓ gold passage" : page != null && pages.has(page) ? "✓ gold page" : null;
  const head = [element("strong", {}, title || "(no title)"), " ", element("code", {}, docid)];
  if (mark) head.push(" ", element("span", { class: "gold" }, mark));
  return element("li", { class: mark ? "evidence" : "" }, element("p", {}, ...head), element("p", {}, text));
}
