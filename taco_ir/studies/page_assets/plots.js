"use strict";
// Elements and inline SVG. Text from data becomes text nodes only, so nothing in it is ever markup.

const ruler = document.createElement("canvas").getContext("2d");
const ROW = 26; // pixels from one row of a plot to the next

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const drawn = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const label = (x, y, text, attributes = {}) => drawn("text", { x, y: y + 4, ...attributes }, text);
const line = (x1, y1, x2, y2, kind) => drawn("line", { x1, y1, x2, y2, class: kind });

const show = (value) => value.toFixed(3);
const spread = (sd) => (sd == null ? "" : `±${sd.toFixed(3).replace(/^0/, "")}`);
const signed = (value) => (Math.abs(value) < 0.0005 ? "0.000" : `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(3)}`);

/** Round values that cut [low, high] into three to seven parts. */
function ticks(low, high) {
  const rough = (high - low) / 6 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const count = Math.floor(high / step + 1e-9) - Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.max(count, 0) + 1 }, (_, i) => (Math.ceil(low / step - 1e-9) + i) * step);
}

/** Pixels that a plot's text takes; the font is that of `svg text`. */
function textWidth(text) {
  ruler.font = "13px system-ui, sans-serif";
  return Math.ceil(ruler.measureText(text).width);
}

/** The text, cut so that it takes at most `room` pixels. */
function cut(text, room) {
  let kept = text;
  while (kept && textWidth(kept === text ? text : `${kept}…`) > room) kept = kept.slice(0, -1);
  return kept === text ? text : `${kept}…`;
}

const isNarrow = (host) => host.clientWidth < 640;

/** Put a plot into `host`: names at the left (above their rows where it is narrow), values at the right, an axis over
 * [low, high] between, `top` pixels above it. */
function plot(host, { title, names, values, low, high, top }, marks) {
  const width = Math.min(Math.max(host.clientWidth, 300), 1200);
  const narrow = isNarrow(host);
  const row = narrow ? 1.7 * ROW : ROW;
  const left = narrow ? 12 : Math.min(Math.max(...names.map(textWidth)) + 12, width * 0.4);
  const room = Math.max(...values.map(textWidth)) + 20;
  const at = (value) => left + ((value - low) / (high - low || 1)) * (width - left - room);
  const bottom = top + names.length * row;
  const middle = (i) => top + (i + 1) * row - 0.5 * ROW;
  const rows = names.map((text, i) =>
    narrow
      ? label(left + 4, top + i * row + 0.4 * ROW, cut(text, width - left - 4), { class: "name" })
      : label(left - 10, middle(i), cut(text, left - 10), { "text-anchor": "end" }),
  );
  const every = Math.ceil(ticks(low, high).length / ((width - left - room) / 44));
  const grid = ticks(low, high).flatMap((tick, i) => [
    line(at(tick), top, at(tick), bottom, Math.abs(tick) < 1e-9 ? "zero" : "grid"),
    i % every ? null : label(at(tick), bottom + 12, String(+tick.toFixed(6)).replace("-", "\u2212"), { "text-anchor": "middle", class: "quiet" }),
  ]);
  const ids = [`${host.id}-title`, `${host.id}-desc`];
  host.replaceChildren(
    drawn(
      "svg",
      { viewBox: `0 0 ${width} ${bottom + 22}`, width, height: bottom + 22, role: "img", "aria-labelledby": ids.join(" ") },
      drawn("title", { id: ids[0] }, title),
      drawn("desc", { id: ids[1] }, names.map((name, i) => `${name}: ${values[i]}`).join("; ")),
      ...grid,
      ...rows,
      ...marks(at, middle),
    ),
  );
}

/** Bars from zero, a whisker of one sd to each side, a ring for each seed. Rows: {label, mean, sd, seeds, baseline}. */
function drawBars(host, rows, title) {
  const reach = (row) => Math.max(row.mean + (row.sd ?? 0), ...row.seeds);
  const names = rows.map((row) => row.label);
  const values = rows.map((row) => `${show(row.mean)} ${spread(row.sd)}`.trim());
  const high = Math.max(...rows.map(reach));
  plot(host, { title, names, values, low: 0, high, top: 4 }, (at, middle) =>
    rows.flatMap((row, i) => {
      const y = middle(i);
      const ends = row.sd == null ? [] : [at(Math.max(row.mean - row.sd, 0)), at(row.mean + row.sd)];
      return [
        drawn("rect", { x: at(0), y: y - 8, width: at(row.mean) - at(0), height: 16, class: row.baseline ? "bar baseline" : "bar" }),
        ...(ends.length ? [line(ends[0], y, ends[1], y, "whisker"), ...ends.map((x) => line(x, y - 4, x, y + 4, "whisker"))] : []),
        ...(row.seeds.length > 1 ? row.seeds.map((value) => drawn("circle", { cx: at(value), cy: y, r: 3, class: "seed" })) : []),
        label(at(reach(row)) + 8, y, values[i], { class: "value" }),
      ];
    }),
  );
}

/** Differences and their intervals about a zero line. Rows: {label, difference, low, high, note}. */
function drawDifferences(host, rows, title, better, worse) {
  const low = Math.min(0, ...rows.map((row) => row.low));
  const high = Math.max(0, ...rows.map((row) => row.high));
  const names = rows.map((row) => row.label);
  const values = rows.map(
    (row) => signed(row.difference) + (isNarrow(host) ? "" : `  [${signed(row.low)}, ${signed(row.high)}]${row.note}`),
  );
  const room = textWidth(`◀ ${worse}`) + 4;
  plot(host, { title, names, values, low, high, top: 26 }, (at, middle) => [
    label(Math.max(at(0) - 8, room), 12, `◀ ${worse}`, { "text-anchor": "end", class: "worse" }),
    label(Math.max(at(0), room) + 8, 12, `${better} ▶`, { class: "better" }),
    ...rows.flatMap((row, i) => {
      const y = middle(i);
      const side = row.low > 0 ? "better" : row.high < 0 ? "worse" : "even";
      return [
        line(at(row.low), y, at(row.high), y, `interval ${side}`),
        side === "worse"
          ? drawn("rect", { x: at(row.difference) - 5, y: y - 5, width: 10, height: 10, class: `point ${side}` })
          : drawn("circle", { cx: at(row.difference), cy: y, r: 5, class: `point ${side}` }),
        label(at(high) + 14, y, values[i], { class: "value" }),
      ];
    }),
  ]);
}
