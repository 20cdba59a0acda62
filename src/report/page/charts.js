"use strict";
// Figures of the report: plain SVG, made from the data in the page. Nothing is fetched, and no text becomes markup.
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const bytes = (text) => { const raw = atob(text), all = new Uint8Array(raw.length); for (let i = 0; i < raw.length; i++) all[i] = raw.charCodeAt(i); return all.buffer; };
// Values of iterations, and the places of these among the runs of their group.
const P = new (D.exact ? Float64Array : Float32Array)(bytes(D.points));
const PLACES = new ({ 1: Uint8Array, 2: Uint16Array, 4: Uint32Array })[D.placeBytes](bytes(D.places));
D.points = D.places = null;
const $ = (id) => document.getElementById(id);
const VERDICTS = { d: ["◆", "different"], n: ["◇", "different, negligible"], e: ["=", "equivalent"], u: ["?", "undecided"], x: ["×", "not comparable"] };
const ORDER = "dneux";
const MINUS = "\u2212";

// ---- elements ----
const NS = "http://www.w3.org/2000/svg";
const put = (node, attributes, content) => {
  for (const name in attributes) if (attributes[name] !== null && attributes[name] !== undefined) node.setAttribute(name, attributes[name]);
  for (const child of [].concat(content ?? [])) if (child !== null && child !== undefined) node.append(child.nodeType ? child : String(child));
  return node;
};
const h = (name, attributes, content) => put(document.createElement(name), attributes, content);
const s = (name, attributes, content) => put(document.createElementNS(NS, name), attributes, content);
const tipped = (node, tip) => { node.tip = tip; return node; };
const cut = (text, length) => { const all = [...text]; return all.length > length ? all.slice(0, length - 1).join("") + "…" : text; };

// ---- numbers ----
const known = (x) => x !== null && x !== undefined && Number.isFinite(x);
const sig = (x, digits = 4) => {
  if (!known(x)) return "–";
  const a = Math.abs(x);
  const text = a !== 0 && (a < 1e-3 || a >= 1e7) ? x.toExponential(digits - 1).replace("+", "") : a >= 10 ** (digits - 1) ? x.toFixed(0) : String(Number(x.toPrecision(digits)));
  return text.replace(/-/g, MINUS);
};
// Shows numbers of one column with the same decimals: four digits of the largest.
const column = (values) => {
  const largest = Math.max(0, ...values.filter(known).map(Math.abs));
  if (largest !== 0 && (largest < 1e-3 || largest >= 1e7)) return (x) => sig(x);
  const decimals = largest === 0 ? 0 : Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(largest))));
  return (x) => (known(x) ? x.toFixed(decimals).replace("-", MINUS) : "–");
};
const signed = (text, x) => (x > 0 ? "+" + text : text);
const pct = (x) => { if (!known(x)) return "–"; const a = Math.abs(x); return signed(x.toFixed(a >= 100 || a === 0 ? 0 : a >= 0.995 ? 1 : 2), x).replace("-", MINUS); };
const prob = (p) => (!known(p) ? "–" : p < 1e-4 ? "< 0.0001" : p < 0.1 ? p.toFixed(4) : p.toFixed(3));
const PREFIX = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
// Unit with a prefix that suits the largest value.
const scale = (unit, largest) => {
  if (!["s", "B", "bit/s", "B/s"].includes(unit) || !(largest > 0)) return [1, unit];
  const found = PREFIX.find(([f]) => largest >= f && (unit === "s" ? f <= 1 : f >= 1));
  return found ? [found[0], found[1] + unit] : [1, unit];
};
const withUnit = (x, unit) => { if (!known(x)) return "–"; const [f, u] = scale(unit, Math.abs(x)); return sig(x / f) + (u === "1" ? "" : " " + u); };
const ticks = (low, high, wanted) => {
  const raw = (high - low) / Math.max(1, wanted);
  if (!(raw > 0) || !Number.isFinite(raw)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw) ?? 10 * power;
  const all = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && all.length < 50; i++) all.push(Number((i * step).toPrecision(12)));
  return all;
};
const extent = (values) => { let low = Infinity, high = -Infinity; for (const x of values) if (known(x)) { if (x < low) low = x; if (x > high) high = x; } return low <= high ? [low, high] : [0, 1]; };
const padded = ([low, high], share = 0.05) => { const pad = (high - low) * share || Math.abs(high) * 0.05 || 1; return [low - pad, high + pad]; };
const linear = (d0, d1, r0, r1) => (x) => r0 + ((x - d0) / (d1 - d0 || 1)) * (r1 - r0);

// ---- names ----
const groupLabel = (g) => (D.factors.length ? D.factors.map((f, i) => `${f}=${D.groups[g].f[i] ?? "–"}`).join(" · ") : "all iterations");
const shortLabel = (g) => (D.factors.length ? D.groups[g].f.map((v) => v ?? "–").join(" · ") : "all");
const part = (all) => (m, g) => { let o = m.offset; for (let i = 0; i < g; i++) o += m.counts[i]; return all.subarray(o, o + m.counts[g]); };
const points = part(P), places = part(PLACES);
// Rank, from 1, among all values of the group: of large groups the page holds order statistics at equal distances alone.
const rank = (m, g, j) => (m.counts[g] === m.n[g] ? j : Math.floor((j * (m.n[g] - 1)) / (m.counts[g] - 1))) + 1;
const digits = (x) => (D.exact ? x : Number(x.toPrecision(7)));
const VALUE = D.exact ? "value" : "value_7_digits";
const RUNS = D.groups.map(() => []);
D.runs.group.forEach((g, i) => RUNS[g].push(i));
const sum = (all) => all.reduce((a, b) => a + b, 0);
// What a figure of single values leaves out.
const thinned = (m) => {
  const held = sum(m.counts), all = sum(m.n);
  return held < all ? `This page holds ${held} of the ${all} values, in each group at equal distances in rank; vptest export writes all.` : null;
};

// ---- tooltip ----
const tip = $("tip");
const showTip = (event) => {
  let node = event.target;
  while (node && node !== document && !node.tip) node = node.parentNode;
  if (!node || !node.tip) { tip.hidden = true; return; }
  const text = typeof node.tip === "function" ? node.tip(event) : node.tip;
  if (!text) { tip.hidden = true; return; }
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 8)) + "px";
  tip.style.top = (event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 16) + "px";
};
addEventListener("pointermove", showTip, { passive: true });
addEventListener("pointerdown", showTip, { passive: true });
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });

// ---- saving ----
const save = (name, type, text) => {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};
// A text that a spreadsheet would take for a formula gets an apostrophe before it; numbers are no formulas.
const plain = (text) => (/^[=+\-@\t\r]/.test(text) && !(text.trim() !== "" && Number.isFinite(Number(text))) ? "'" + text : text);
const csv = (rows) => rows.map((row) => row.map((cell) => {
  const text = cell === null || cell === undefined ? "" : typeof cell === "number" ? String(cell) : plain(String(cell));
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}).join(",")).join("\n") + "\n";
const svgText = (svg, title) => {
  const style = document.querySelector("style").textContent;
  const light = style.slice(style.indexOf("{") + 1, style.indexOf("}"));
  const rules = style.slice(style.indexOf("/*chart*/") + 9, style.indexOf("/*end*/")).replace(/svg /g, "");
  const copy = svg.cloneNode(true);
  const [w, hh] = [svg.getAttribute("width"), svg.getAttribute("height")];
  put(copy, { xmlns: NS });
  copy.prepend(s("title", {}, title), s("style", {}, `svg{${light}}${rules}`), s("rect", { width: w, height: hh, fill: "#fff" }));
  return new XMLSerializer().serializeToString(copy);
};
const file = (text) => text.toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^-|-$/g, "").slice(0, 80) || "figure";

// ---- figures ----
// A drawing gives { svg, rows, legend }: rows are its data, with a header.
const FIGURES = new Map();
const figure = (id, draw) => { const node = $("fig-" + id); if (node) FIGURES.set(id, { node, draw }); };
const render = (id) => {
  const entry = FIGURES.get(id);
  if (!entry) return;
  const plot = entry.node.querySelector(".plot");
  const width = Math.max(300, Math.min(1180, Math.floor(plot.clientWidth || 900)));
  const drawn = entry.draw(width);
  entry.node.querySelectorAll(".legend, .tools, .expand, .thinned").forEach((old) => old.remove());
  plot.replaceChildren();
  if (!drawn || !drawn.svg) { plot.append(h("p", { class: "none" }, drawn?.none ?? "There is nothing to draw.")); entry.node.dataset.drawn = "none"; return; }
  const title = entry.node.querySelector("figcaption strong").textContent.replace(/\.$/, "");
  const name = file([D.title, id, drawn.name ?? "", drawn.note ? "thinned" : ""].join("-"));
  const tools = h("div", { class: "tools" }, [h("button", { type: "button", class: "small", title: "Save this figure as SVG" }, "SVG"), h("button", { type: "button", class: "small", title: "Save its data as CSV" + (drawn.note ? ". " + drawn.note : "") }, "CSV")]);
  tools.children[0].addEventListener("click", () => save(name + ".svg", "image/svg+xml", svgText(drawn.svg, title)));
  tools.children[1].addEventListener("click", () => save(name + ".csv", "text/csv", csv(drawn.rows())));
  entry.node.querySelector("figcaption").append(tools);
  if (drawn.legend) plot.before(h("div", { class: "legend" }, drawn.legend.map(([c, text]) => h("span", {}, [h("i", { class: c }), text]))));
  put(drawn.svg, { role: "img", "aria-label": title, viewBox: `0 0 ${drawn.svg.getAttribute("width")} ${drawn.svg.getAttribute("height")}` });
  plot.append(drawn.svg);
  if (drawn.note) plot.after(h("p", { class: "more thinned" }, drawn.note));
  if (drawn.expand) { const more = h("button", { type: "button", class: "small expand" }, drawn.expand[0]); more.addEventListener("click", drawn.expand[1]); plot.after(more); }
  entry.node.dataset.drawn = "yes";
};
const canvas = (width, height) => s("svg", { width, height });
const xAxis = (svg, x, low, high, top, bottom, title, wanted, show = sig) => {
  for (const t of ticks(low, high, wanted)) {
    svg.append(s("line", { class: "grid", x1: x(t), x2: x(t), y1: top, y2: bottom }), s("text", { class: "soft tiny", x: x(t), y: bottom + 14, "text-anchor": "middle" }, show(t)));
  }
  if (title) svg.append(s("text", { class: "soft", x: (x(low) + x(high)) / 2, y: bottom + 30, "text-anchor": "middle" }, title));
};
const yAxis = (svg, y, low, high, left, right, wanted, show = sig) => {
  for (const t of ticks(low, high, wanted)) {
    svg.append(s("line", { class: "grid", x1: left, x2: right, y1: y(t), y2: y(t) }), s("text", { class: "soft tiny", x: left - 5, y: y(t) + 4, "text-anchor": "end" }, show(t)));
  }
};
const contrastTip = (m, k) => {
  const [g, b] = D.pairs[k];
  const lines = [m.name, groupLabel(g), `against ${groupLabel(b)}`, `${withUnit(m.mean[g], m.unit)} (n ${m.n[g]}) against ${withUnit(m.mean[b], m.unit)} (n ${m.n[b]})`];
  if (known(m.pc[k])) lines.push(`${pct(m.pc[k])} %` + (known(m.pl[k]) ? `, 95 %: ${pct(m.pl[k])} … ${pct(m.ph[k])}` : ""));
  else if (known(m.d[k])) lines.push(`difference ${withUnit(m.d[k], m.unit)}`);
  if (known(m.g[k])) lines.push(`g ${sig(m.g[k], 3)}` + (known(m.delta[k]) ? `, Cliff's δ ${sig(m.delta[k], 3)}` : "") + `, p ${prob(m.p[k])}` + (known(m.holm[k]) ? ` (Holm ${prob(m.holm[k])})` : ""));
  const [mark, word] = VERDICTS[m.verdicts[k]];
  lines.push(`${mark} ${word}` + (m.remark[k] ? `: ${m.remark[k]}` : ""));
  return lines.join("\n");
};

// ---- heat map ----
const heat = (width) => {
  const labels = D.pairs.map(([g]) => cut(shortLabel(g), 30));
  const longest = Math.max(...D.metrics.map((m) => Math.min(44, m.name.length)));
  const narrow = width < 620;
  const left = Math.min(narrow ? 150 : 300, 12 + longest * 6.4);
  const top = Math.min(190, 20 + Math.max(...labels.map((l) => l.length)) * 4.9);
  const cw = Math.max(16, Math.min(64, (width - left - 60) / labels.length));
  const rh = 17;
  const levels = [...new Set(D.metrics.map((m) => m.level))];
  const total = Math.max(width - 2, left + cw * labels.length + 60);
  const svg = canvas(total, top + rh * D.metrics.length + 22 * levels.length + 46);
  labels.forEach((l, k) => {
    const x = left + cw * (k + 0.5);
    svg.append(tipped(s("text", { class: "tiny", x, y: top - 6, transform: `rotate(-45 ${x} ${top - 6})` }, l), () => groupLabel(D.pairs[k][0])));
  });
  svg.append(s("text", { class: "soft tiny", x: left - 6, y: top - 6, "text-anchor": "end" }, cut(D.factors.join(" · "), Math.floor(left / 5.6))));
  const marks = D.metrics.length * D.pairs.length <= 4000;
  // Cells of one colour are one path: a page has tens of thousands.
  const paths = new Map(), rowsAt = [], texts = [];
  let y = top;
  for (const level of levels) {
    svg.append(s("text", { class: "soft b tiny", x: 0, y: y + 14 }, level));
    y += 20;
    D.metrics.forEach((m, i) => {
      if (m.level !== level) return;
      const short = m.name.slice(level.length + 1);
      const label = tipped(s("text", { class: "tiny", x: left - 6, y: y + 12, "text-anchor": "end" }, cut(short, Math.floor(left / 6.2))), m.name + (m.unit === "1" ? "" : ` (${m.unit})`));
      label.addEventListener("click", () => choose(i));
      svg.append(label);
      for (let k = 0; k < D.pairs.length; k++) {
        const p = m.pc[k], code = m.verdicts[k];
        const t = known(p) ? Math.min(1, Math.log10(1 + Math.abs(p)) / 2) : 0;
        const quiet = code === "x" || !known(p);
        const colour = quiet ? "none" : `${p > 0 ? "up" : "down"} ${((0.05 + 0.9 * t) * (code === "u" ? 0.35 : 1)).toFixed(2)}`;
        if (!paths.has(colour)) paths.set(colour, []);
        paths.get(colour).push(`M${(left + cw * k + 0.5).toFixed(1)} ${y + 0.5}h${(cw - 1).toFixed(1)}v${rh - 1}h${(1 - cw).toFixed(1)}z`);
        if (marks) texts.push(s("text", { class: "tiny", x: left + cw * (k + 0.5), y: y + 12.5, "text-anchor": "middle" }, VERDICTS[code][0]));
      }
      rowsAt.push([y, i]);
      y += rh;
    });
    y += 2;
  }
  for (const [colour, d] of paths) { const [name, opacity] = colour.split(" "); svg.append(s("path", { class: name, "fill-opacity": opacity, d: d.join("") })); }
  svg.append(...texts);
  const cellAt = (event) => {
    const box = svg.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * total, py = event.clientY - box.top;
    const row = rowsAt.find(([from]) => py >= from && py < from + rh), k = Math.floor((px - left) / cw);
    return row && k >= 0 && k < D.pairs.length ? [row[1], k] : null;
  };
  const hit = tipped(s("rect", { class: "hit", x: left, y: top, width: cw * D.pairs.length, height: Math.max(0, y - top) }), (event) => { const at = cellAt(event); return at && contrastTip(D.metrics[at[0]], at[1]); });
  hit.addEventListener("click", (event) => { const at = cellAt(event); if (at) choose(...at); });
  svg.append(hit);
  // Key.
  const steps = [-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100];
  const kw = Math.min(38, (width - 20) / steps.length);
  steps.forEach((p, i) => {
    const t = Math.min(1, Math.log10(1 + Math.abs(p)) / 2);
    svg.append(s("rect", { class: p > 0 ? "up" : p < 0 ? "down" : "none", x: i * kw, y: y + 10, width: kw - 1, height: 12, "fill-opacity": (0.05 + 0.9 * t).toFixed(2) }), s("text", { class: "tiny soft", x: (i + 0.5) * kw, y: y + 35, "text-anchor": "middle" }, i === 0 ? `${MINUS}100 %` : i === steps.length - 1 ? "+100 %" : signed(String(p), p).replace("-", MINUS)));
  });
  put(svg, { height: y + 40 });
  return { svg, legend: marks ? null : [["", "verdicts are in the tooltips: there are too many cells for marks"]], rows: () => [["metric", "unit", ...D.factors, "difference_percent", "verdict"], ...D.metrics.flatMap((m) => D.pairs.map(([g], k) => [m.name, m.unit, ...D.groups[g].f, m.pc[k], VERDICTS[m.verdicts[k]][1]]))] };
};

// ---- one metric ----
let metric = 0, pair = 0, factor = null, chain = 0;
const panels = { ecdf: 12, factor: 9 };
const forest = (width) => {
  const m = D.metrics[metric];
  const percent = D.pairs.some((_, k) => known(m.pc[k]));
  const [v, l, u] = percent ? [m.pc, m.pl, m.ph] : [m.d, m.dl, m.dh];
  const largest = Math.max(0, ...v.filter(known).map(Math.abs));
  const [f, unit] = percent ? [1, "%"] : scale(m.unit, largest);
  const rows = D.pairs.map((_, k) => k);
  if (!rows.some((k) => known(v[k]))) return { none: "No contrast of this metric has a difference." };
  const margin = percent && m.margin ? parseFloat(m.margin) : NaN;
  let [low, high] = extent([0, ...v, ...(margin ? [-margin, margin] : [])].map((x) => (known(x) ? x / f : x)));
  const span = high - low || 1;
  const [il, ih] = extent([...l, ...u].map((x) => (known(x) ? x / f : x)));
  low = Math.max(Math.min(low, il), low - span); high = Math.min(Math.max(high, ih), high + span);
  [low, high] = padded([low, high], 0.04);
  const narrow = width < 620;
  const left = narrow ? 8 : Math.min(width * 0.34, 14 + 6.3 * Math.max(...rows.map((k) => Math.min(52, groupLabel(D.pairs[k][0]).length))));
  const right = narrow ? 8 : 190;
  const rh = narrow ? 44 : 22, top = 8, bottom = top + rh * rows.length;
  const svg = canvas(width - 2, bottom + 40);
  const x = linear(low, high, left, width - right - 4);
  const inside = (value) => Math.max(low, Math.min(high, value));
  if (margin > 0) svg.append(tipped(s("rect", { class: "band", x: x(inside(-margin)), y: top, width: Math.max(0, x(inside(margin)) - x(inside(-margin))), height: bottom - top }), `margin ±${m.margin}`));
  xAxis(svg, x, low, high, top, bottom, percent ? "difference of means (% of the baseline)" : `difference of means (${unit})`, Math.max(4, width / 130));
  svg.append(s("line", { class: "zero", x1: x(0), x2: x(0), y1: top, y2: bottom }));
  rows.forEach((k, i) => {
    const y = top + rh * (i + 0.5) + (narrow ? 8 : 0), code = m.verdicts[k], [g] = D.pairs[k];
    const text = known(v[k]) ? `${percent ? pct(v[k]) : sig(v[k] / f)} ${unit}` + (known(l[k]) ? `  [${percent ? pct(l[k]) : sig(l[k] / f, 3)}, ${percent ? pct(u[k]) : sig(u[k] / f, 3)}]` : "") : "–";
    svg.append(s("text", narrow ? { class: "tiny", x: left, y: y - 13 } : { x: left - 10, y: y + 4, "text-anchor": "end" }, cut(groupLabel(g), narrow ? Math.floor((width - 40) / 6.2) : 52)));
    if (known(l[k]) && known(u[k])) {
      const a = x(inside(l[k] / f)), b = x(inside(u[k] / f));
      svg.append(s("line", { class: "l-" + code, x1: a, x2: b, y1: y, y2: y, "stroke-width": 2 }));
      if (l[k] / f < low) svg.append(s("path", { class: "f-" + code, d: `M${a} ${y}l6 -4v8z` }));
      if (u[k] / f > high) svg.append(s("path", { class: "f-" + code, d: `M${b} ${y}l-6 -4v8z` }));
    }
    if (known(v[k])) svg.append(s("rect", { class: "f-" + code, x: x(inside(v[k] / f)) - 3.5, y: y - 3.5, width: 7, height: 7, transform: code === "d" || code === "n" ? `rotate(45 ${x(inside(v[k] / f))} ${y})` : null }));
    if (!narrow) svg.append(s("text", { class: "soft", x: width - right + 6, y: y + 4 }, text), s("text", { class: "b f-" + code, x: width - 16, y: y + 4, "text-anchor": "middle" }, VERDICTS[code][0]));
    svg.append(tipped(s("rect", { class: "hit", x: 0, y: y - rh / 2, width: width - 2, height: rh }), () => contrastTip(m, k)));
  });
  return { svg, name: m.name, rows: () => [["metric", "unit", ...D.factors, "n", "baseline_n", "difference", "low", "high", "percent", "percent_low", "percent_high", "hedges_g", "cliffs_delta", "p", "p_holm", "p_bh", "verdict", "remark"], ...D.pairs.map(([g, b], k) => [m.name, m.unit, ...D.groups[g].f, m.n[g], m.n[b], m.d[k], m.dl[k], m.dh[k], m.pc[k], m.pl[k], m.ph[k], m.g[k], m.delta[k], m.p[k], m.holm[k], m.bh[k], VERDICTS[m.verdicts[k]][1], m.remark[k]])] };
};
const pointRows = (m) => [["metric", "unit", ...D.factors, "iteration", "rank", "n", VALUE], ...D.groups.flatMap((group, g) => { const at = places(m, g); return Array.from(points(m, g), (x, j) => [m.name, m.unit, ...group.f, D.runs.number[RUNS[g][at[j]]], rank(m, g, j), m.n[g], digits(x)]); })];
// Many dots as one path of round caps.
const dots = (c, at, width = 4) => s("path", { class: `${c} dots`, "stroke-width": width, d: at.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("") });
const isBaseline = (g) => D.pairs.some(([, b]) => b === g);
const means = (width) => {
  const m = D.metrics[metric];
  const groups = D.groups.map((_, g) => g).filter((g) => m.n[g] > 0);
  if (!groups.length) return { none: "No iteration that counts has this metric." };
  const all = groups.flatMap((g) => [m.low[g], m.high[g], ...extent(points(m, g))]);
  const [a, b] = extent(all), [f, unit] = scale(m.unit, Math.max(Math.abs(a), Math.abs(b)));
  const [low, high] = padded([a / f, b / f], 0.03);
  const narrow = width < 620;
  const left = narrow ? 8 : Math.min(width * 0.34, 14 + 6.3 * Math.max(...groups.map((g) => Math.min(52, groupLabel(g).length))));
  const right = narrow ? 8 : 150, rh = narrow ? 50 : 24, top = 8, bottom = top + rh * groups.length;
  const svg = canvas(width - 2, bottom + 40), x = linear(low, high, left, width - right - 4);
  const show = column(groups.map((g) => m.mean[g] / f));
  xAxis(svg, x, low, high, top, bottom, `${m.name}${unit === "1" ? "" : ` (${unit})`}${m.better ? `, ${m.better} is better` : ""}`, Math.max(4, width / 130));
  groups.forEach((g, i) => {
    const y = top + rh * (i + 0.5) + (narrow ? 8 : 0), values = points(m, g), c = isBaseline(g) ? "cb" : "c0";
    svg.append(s("text", narrow ? { class: "tiny", x: left, y: y - 17 } : { x: left - 10, y: y + 4, "text-anchor": "end" }, cut(groupLabel(g), narrow ? Math.floor((width - 40) / 6.2) : 52)));
    const shown = values.length > 120 ? Array.from({ length: 120 }, (_, j) => values[Math.floor((j * (values.length - 1)) / 119)]) : values;
    svg.append(dots(c, Array.from(shown, (value, j) => [x(value / f), y + 3 + ((j * 7) % 5) - 2])));
    if (known(m.low[g])) svg.append(s("line", { class: `${c} line`, x1: x(m.low[g] / f), x2: x(m.high[g] / f), y1: y - 5, y2: y - 5 }));
    if (known(m.mean[g])) svg.append(s("circle", { class: `${c} fill`, cx: x(m.mean[g] / f), cy: y - 5, r: 3.2 }));
    if (!narrow) svg.append(s("text", { class: "soft", x: width - right + 6, y: y + 4 }, show(m.mean[g] / f)), s("text", { class: "soft", x: width - 12, y: y + 4, "text-anchor": "end" }, `n ${m.n[g]}`));
    svg.append(tipped(s("rect", { class: "hit", x: 0, y: y - rh / 2, width: width - 2, height: rh }), () => `${groupLabel(g)}\nmean ${withUnit(m.mean[g], m.unit)}, sd ${withUnit(m.sd[g], m.unit)}, n ${m.n[g]}` + (known(m.low[g]) ? `\n95 %: ${withUnit(m.low[g], m.unit)} … ${withUnit(m.high[g], m.unit)}` : "") + (values.length < m.n[g] ? `\n${values.length} of its values are in the page` : "")));
  });
  return { svg, name: m.name, note: thinned(m), legend: D.pairs.length ? [["c0", "group"], ["cb", "baseline"]] : null, rows: () => pointRows(m) };
};
const ecdf = (width) => {
  const m = D.metrics[metric];
  const list = (D.pairs.length ? D.pairs : D.groups.map((_, g) => [g, null])).filter(([g]) => m.counts[g] > 0);
  if (!list.length) return { none: "No iteration that counts has this metric." };
  const [a, b] = extent(D.groups.flatMap((_, g) => extent(points(m, g)).filter(() => m.counts[g] > 0))), [f, unit] = scale(m.unit, Math.max(Math.abs(a), Math.abs(b)));
  const [low, high] = padded([a / f, b / f], 0.04);
  const columns = Math.max(1, Math.floor(width / 270)), pw = Math.floor((width - 4) / columns), ph = 196;
  const shown = list.slice(0, panels.ecdf), svg = canvas(width - 2, ph * Math.ceil(shown.length / columns));
  shown.forEach(([g, base], i) => {
    const ox = (i % columns) * pw, oy = Math.floor(i / columns) * ph;
    const x = linear(low, high, ox + 34, ox + pw - 12), y = linear(0, 1, oy + ph - 42, oy + 24);
    svg.append(tipped(s("text", { class: "b tiny", x: ox + 34, y: oy + 14 }, cut(groupLabel(g), Math.floor(pw / 6.4))), groupLabel(g)));
    const part = s("g");
    svg.append(part);
    xAxis(part, x, low, high, oy + 24, oy + ph - 42, i >= shown.length - columns || columns === 1 ? (unit === "1" ? m.name : unit) : "", 5);
    yAxis(part, y, 0, 1, ox + 34, ox + pw - 12, 2);
    for (const [of, c] of [[base, "cb"], [g, "c0"]]) {
      if (of === null || m.counts[of] === 0) continue;
      const v = points(m, of), held = v.length, n = m.n[of];
      let d = `M${x(low).toFixed(1)} ${y(0).toFixed(1)}`;
      for (let j = 0; j < held; j++) d += `H${x(v[j] / f).toFixed(1)}V${y(rank(m, of, j) / n).toFixed(1)}`;
      svg.append(s("path", { class: `${c} line`, d: d + `H${x(high).toFixed(1)}` }));
      if (held <= 60) for (let j = 0; j < held; j++) svg.append(tipped(s("circle", { class: `${c} fill`, cx: x(v[j] / f).toFixed(1), cy: y(rank(m, of, j) / n).toFixed(1), r: 2 }), () => `${groupLabel(of)}\n${withUnit(v[j], m.unit)}: ${rank(m, of, j)} of ${n}\niteration ${D.runs.number[RUNS[of][places(m, of)[j]]]}`));
    }
  });
  const expand = list.length > shown.length ? [`Show all ${list.length}`, () => { panels.ecdf = Infinity; render("ecdf"); }] : null;
  return { svg, name: m.name, note: thinned(m), expand, legend: D.pairs.length ? [["c0", "group"], ["cb", "baseline"]] : null, rows: () => pointRows(m) };
};

// ---- in the order of the runs ----
const middle = (values) => { const v = Float64Array.from(values).sort(), k = v.length >> 1; return v.length === 0 ? null : v.length % 2 ? v[k] : (v[k - 1] + v[k]) / 2; };
// The values of a group in run order: [run, value].
const inOrder = (m, g) => { const v = points(m, g), at = places(m, g); return Array.from(v, (x, j) => [RUNS[g][at[j]], x]).sort((p, q) => p[0] - q[0]); };
const runTip = (i) => `iteration ${D.runs.number[i]}` + (D.runs.block[i] === null ? "" : `, block ${D.runs.block[i]}`) + `\n${withUnit(D.runs.start[i], "s")} after the first one (${D.runs.first})`;
const overRuns = (width) => {
  const m = D.metrics[metric], last = Math.max(1, D.runs.number.length - 1);
  const shown = sides().filter(([g]) => m.counts[g] > 0).map(([g, c]) => ({ g, c, run: inOrder(m, g) }));
  const all = D.groups.flatMap((_, g) => (m.counts[g] > 1 ? inOrder(m, g).map(([i, x]) => ({ g, i, x })) : [])).sort((p, q) => p.i - q.i);
  if (!shown.length && !all.length) return { none: "No iteration that counts has this metric." };
  const left = 64, right = width - 16, x = linear(0, last, left, right), svg = canvas(width - 2, 470);
  // Beginnings of blocks, where there are few enough to be seen.
  const starts = D.runs.block.flatMap((b, i) => (i > 0 && b !== null && b !== D.runs.block[i - 1] ? [i] : []));
  const blocks = starts.length <= 60 ? starts : [];
  const panel = (top, bottom, low, high, title) => {
    const y = linear(low, high, bottom, top);
    yAxis(svg, y, low, high, left, right, 5);
    for (const i of blocks) svg.append(s("line", { class: "grid", x1: x(i - 0.5), x2: x(i - 0.5), y1: top, y2: bottom }));
    svg.append(s("text", { class: "soft tiny", x: 12, y: (top + bottom) / 2, transform: `rotate(-90 12 ${(top + bottom) / 2})`, "text-anchor": "middle" }, cut(title, 34)));
    return y;
  };
  // The nearest of some marks, [x, y, text], under the pointer.
  const nearest = (top, bottom, marks) => svg.append(tipped(s("rect", { class: "hit", x: left, y: top, width: right - left, height: bottom - top }), (event) => {
    const box = svg.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * (width - 2), py = event.clientY - box.top;
    let best = null, least = 400;
    for (const mark of marks) { const d = (mark[0] - px) ** 2 + (mark[1] - py) ** 2; if (d < least) { least = d; best = mark; } }
    return best && best[2]();
  }));
  const [a, b] = extent(shown.flatMap(({ run }) => run.map(([, v]) => v))), [f, unit] = scale(m.unit, Math.max(Math.abs(a), Math.abs(b)));
  const [low, high] = padded([a / f, b / f], 0.05), y = panel(10, 220, low, high, unit === "1" ? m.name : unit), marks = [];
  for (const { g, c, run } of shown) {
    svg.append(dots(c, run.map(([i, v]) => [x(i), y(v / f)])));
    marks.push(...run.map(([i, v]) => [x(i), y(v / f), () => `${groupLabel(g)}\n${withUnit(v, m.unit)}\n${runTip(i)}`]));
    const at = (m.changes.find(([group]) => group === g)?.[1] ?? []).map((place) => RUNS[g][place]);
    for (const i of at) svg.append(s("line", { class: `${c} line`, x1: x(i - 0.5), x2: x(i - 0.5), y1: 10, y2: 220, "stroke-dasharray": "5 3" }));
    [0, ...at].forEach((from, j) => {
      const to = at[j] ?? Infinity, stretch = run.filter(([i]) => i >= from && i < to), level = m.levels[g][j];
      if (stretch.length && known(level)) svg.append(s("line", { class: `${c} line`, x1: x(stretch[0][0]), x2: x(stretch[stretch.length - 1][0]), y1: y(level / f), y2: y(level / f) }));
    });
  }
  nearest(10, 220, marks);
  // Distances from the means of the groups, all groups together.
  const percent = all.every(({ g }) => m.mean[g] > 0), [k, ku] = percent ? [0.01, "%"] : [f, unit];
  const far = all.map(({ g, i, x: v }) => ({ g, i, v, d: (percent ? (v - m.mean[g]) / m.mean[g] : v - m.mean[g]) / k }));
  if (far.length) {
    const ranked = Float64Array.from(far, ({ d }) => d).sort(), q = (p) => ranked[Math.round(p * (ranked.length - 1))];
    // The scale is that of all but the farthest hundredth, which stand at its edge.
    const [dl, dh] = padded([q(0.005), q(0.995)], 0.15), dy = panel(250, 420, dl, dh, `distance from the group's mean (${ku})`), inside = (d) => Math.max(dl, Math.min(dh, d));
    svg.append(s("line", { class: "zero", x1: left, x2: right, y1: dy(inside(0)), y2: dy(inside(0)) }), dots("c7", far.map(({ i, d }) => [x(i), dy(inside(d))]), 3));
    const wide = Math.max(5, Math.round(far.length / 30)), step = Math.max(1, wide >> 1), line = [];
    for (let j = 0; j + wide <= far.length; j += step) { const window = far.slice(j, j + wide); line.push([x(window[wide >> 1].i), dy(inside(middle(window.map(({ d }) => d))))]); }
    svg.append(s("path", { class: "c1 line", d: line.map(([px, py], j) => `${j ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("") || null }));
    nearest(250, 420, far.map(({ g, i, v, d }) => [x(i), dy(inside(d)), () => `${groupLabel(g)}\n${withUnit(v, m.unit)}, ${sig(d, 3)} ${ku === "1" ? "" : ku} from the mean\n${runTip(i)}`]));
  }
  for (const t of ticks(0, last, width / 110)) if (Number.isInteger(t)) svg.append(s("text", { class: "soft tiny", x: x(t), y: 435, "text-anchor": "middle" }, t + 1));
  svg.append(s("text", { class: "soft", x: (left + right) / 2, y: 455, "text-anchor": "middle" }, "run"));
  return { svg, name: m.name, note: thinned(m), legend: [...sideLegend(), ["c1", "running median of all groups"]], rows: () => [["metric", "unit", ...D.factors, "run", "iteration", "block", "seconds_after_first", "n", VALUE, "level_changes_here"], ...D.groups.flatMap((group, g) => { const at = new Set((m.changes.find(([of]) => of === g)?.[1] ?? []).map((place) => RUNS[g][place])); return inOrder(m, g).map(([i, v]) => [m.name, m.unit, ...group.f, i + 1, D.runs.number[i], D.runs.block[i], D.runs.start[i], m.n[g], digits(v), at.has(i) ? "yes" : "no"]); })] };
};

// ---- sentinels over time ----
const overTime = (width) => {
  const m = D.metrics[metric], S = D.sentinels;
  const shown = S.lines.map((l, k) => ({ l, c: `c${k % 8}`, at: S.values[metric][k].map((v, i) => ({ v, i })).filter(({ v }) => known(v)) })).filter(({ at }) => at.length);
  if (!shown.length) return { none: "No sentinel has this metric." };
  const [a, b] = extent(shown.flatMap(({ at }) => at.map(({ v }) => v))), [f, unit] = scale(m.unit, Math.max(Math.abs(a), Math.abs(b)));
  const [t0, t1] = extent(shown.flatMap(({ l, at }) => at.map(({ i }) => l.start[i]))), [low, high] = padded([a / f, b / f], 0.08);
  const hours = t1 - t0 > 7200 ? [3600, "h"] : t1 - t0 > 300 ? [60, "min"] : [1, "s"], k = hours[0];
  const [x0, x1] = padded([t0 / k, t1 / k], 0.02), left = 64, right = width - 16, svg = canvas(width - 2, 250), x = linear(x0, x1, left, right), y = linear(low, high, 206, 10);
  yAxis(svg, y, low, high, left, right, 5);
  xAxis(svg, x, x0, x1, 10, 206, `time since the first run that counts (${hours[1]})`, width / 110);
  svg.append(s("text", { class: "soft tiny", x: 12, y: 108, transform: "rotate(-90 12 108)", "text-anchor": "middle" }, cut(unit === "1" ? m.name : unit, 34)));
  for (const { l, c, at } of shown) {
    const level = middle(at.map(({ v }) => v)), spot = ({ v, i }) => [x(l.start[i] / k), y(v / f)];
    svg.append(s("path", { class: `${c} line thin`, d: at.map((p, j) => `${j ? "L" : "M"}${spot(p).map((q) => q.toFixed(1)).join(" ")}`).join("") }));
    svg.append(s("line", { class: `${c} line`, x1: spot(at[0])[0], x2: spot(at[at.length - 1])[0], y1: y(level / f), y2: y(level / f), "stroke-dasharray": "5 3" }));
    for (const p of at) svg.append(tipped(s("circle", { class: `${c} dot`, cx: spot(p)[0].toFixed(1), cy: spot(p)[1].toFixed(1), r: 3 }), `${l.name}\niteration ${l.number[p.i]}: ${withUnit(p.v, m.unit)}\n${withUnit(l.start[p.i], "s")} after the first run`));
  }
  return { svg, name: `sentinels-${m.name}`, legend: shown.map(({ l, c }) => [c, l.name]), rows: () => [["metric", "unit", "line", "iteration", "seconds_after_first", "value_7_digits"], ...shown.flatMap(({ l, at }) => at.map(({ v, i }) => [m.name, m.unit, l.name, l.number[i], l.start[i], v]))] };
};

// ---- over a factor ----
const numeric = (text) => { const t = /^\s*[-+]?[\d.]+(e[-+]?\d+)?\s*$/i.test(text ?? "") ? Number(text) : NaN; return t; };
const varying = D.factors.map((name, i) => ({ name, i, values: [...new Set(D.groups.map((g) => g.f[i]))] })).filter((f) => f.values.length > 1);
const overFactor = (width) => {
  const m = D.metrics[metric], f = varying.find((v) => v.i === factor);
  if (!f) return { none: "Only one group was measured: no factor varies." };
  const isNumber = f.values.every((v) => Number.isFinite(numeric(v)));
  const levels = [...f.values].sort((a, b) => (isNumber ? numeric(a) - numeric(b) : 0));
  const others = varying.filter((v) => v.i !== f.i);
  const colour = others.find((v) => D.baseline && v.name === D.baseline[0]) ?? others[0] ?? null;
  const rest = others.filter((v) => v !== colour);
  const facets = new Map();
  D.groups.forEach((group, g) => {
    if (m.n[g] === 0) return;
    const key = rest.map((v) => `${v.name}=${group.f[v.i] ?? "–"}`).join(" · ");
    if (!facets.has(key)) facets.set(key, new Map());
    const lines = facets.get(key), name = colour ? group.f[colour.i] ?? "–" : "all";
    if (!lines.has(name)) lines.set(name, []);
    lines.get(name).push(g);
  });
  if (!facets.size) return { none: "No iteration that counts has this metric." };
  const names = colour ? [...new Set(colour.values.map((v) => v ?? "–"))] : ["all"];
  const [a, b] = extent(D.groups.flatMap((_, g) => (m.n[g] ? [m.low[g], m.high[g], m.mean[g]] : [])));
  const [k, unit] = scale(m.unit, Math.max(Math.abs(a), Math.abs(b)));
  const [low, high] = padded([Math.min(a, a > 0 && a < 0.35 * b ? 0 : a) / k, b / k], 0.06);
  const columns = Math.max(1, Math.min(facets.size, Math.floor(width / 330))), pw = Math.floor((width - 4) / columns), ph = 250;
  const all = [...facets], shown = all.slice(0, panels.factor);
  const svg = canvas(width - 2, ph * Math.ceil(shown.length / columns));
  const spread = isNumber ? padded(extent(levels.map(numeric)), 0.05) : [-0.5, levels.length - 0.5];
  const at = (value) => (isNumber ? numeric(value) : levels.indexOf(value));
  shown.forEach(([key, lines], i) => {
    const ox = (i % columns) * pw, oy = Math.floor(i / columns) * ph;
    const x = linear(...spread, ox + 52, ox + pw - 14), y = linear(low, high, oy + ph - 46, oy + 26);
    svg.append(s("text", { class: "b tiny", x: ox + 52, y: oy + 15 }, cut(key, Math.floor(pw / 6.4))));
    yAxis(svg, y, low, high, ox + 52, ox + pw - 14, 5);
    const every = Math.ceil((levels.length * 46) / (pw - 66));
    levels.forEach((value, j) => { if (j % every === 0) svg.append(s("text", { class: "soft tiny", x: x(at(value)), y: oy + ph - 31, "text-anchor": "middle" }, cut(value ?? "–", 12))); });
    svg.append(s("text", { class: "soft tiny", x: ox + (pw + 38) / 2, y: oy + ph - 14, "text-anchor": "middle" }, f.name));
    [...lines].forEach(([name, groups]) => {
      const index = names.indexOf(name), c = "c" + (index % 8), dx = (index - (names.length - 1) / 2) * 4;
      const sorted = groups.slice().sort((p, q) => at(D.groups[p].f[f.i]) - at(D.groups[q].f[f.i]));
      const px = (g) => x(at(D.groups[g].f[f.i])) + dx;
      const path = sorted.filter((g) => known(m.mean[g])).map((g, j) => `${j ? "L" : "M"}${px(g).toFixed(1)} ${y(m.mean[g] / k).toFixed(1)}`).join("");
      svg.append(s("path", { class: `${c} line`, d: path, "stroke-dasharray": index >= 8 ? "4 3" : null }));
      for (const g of sorted) {
        if (!known(m.mean[g])) continue;
        if (known(m.low[g])) svg.append(s("line", { class: `${c} line`, x1: px(g), x2: px(g), y1: y(m.low[g] / k), y2: y(m.high[g] / k) }));
        svg.append(tipped(s("circle", { class: `${c} fill`, cx: px(g), cy: y(m.mean[g] / k), r: 3.4 }), () => `${groupLabel(g)}\nmean ${withUnit(m.mean[g], m.unit)}, n ${m.n[g]}` + (known(m.low[g]) ? `\n95 %: ${withUnit(m.low[g], m.unit)} … ${withUnit(m.high[g], m.unit)}` : "")));
      }
    });
  });
  const expand = all.length > shown.length ? [`Show all ${all.length}`, () => { panels.factor = Infinity; render("factor"); }] : null;
  const legend = [[null, `y: ${m.name}${unit === "1" ? "" : ` (${unit})`}`], ...(colour ? names.slice(0, 8).map((n, i) => ["c" + i, `${colour.name}=${n}`]) : [])].map(([c, t]) => [c ?? "", t]);
  return { svg, name: m.name, expand, legend, rows: () => [["metric", "unit", ...D.factors, "n", "mean", "low", "high"], ...D.groups.map((group, g) => [m.name, m.unit, ...group.f, m.n[g], m.mean[g], m.low[g], m.high[g]])] };
};

// ---- packets and series, for one contrast ----
const sides = () => (D.pairs.length ? [[D.pairs[pair][1], "cb"], [D.pairs[pair][0], "c0"]] : D.groups.slice(0, 8).map((_, g) => [g, "c" + g]));
const sideLegend = () => sides().map(([g, c]) => [c, groupLabel(g) + (c === "cb" ? " (baseline)" : "")]).reverse();
const sizes = (width) => {
  const list = D.histograms.filter((hist) => sides().some(([g]) => hist.shares[g]));
  if (!list.length) return { none: "No packets were counted in these groups." };
  const columns = Math.max(1, Math.floor(width / 400)), pw = Math.floor((width - 4) / columns), ph = 218;
  const svg = canvas(width - 2, ph * Math.ceil(list.length / columns));
  list.forEach((hist, i) => {
    const ox = (i % columns) * pw, oy = Math.floor(i / columns) * ph, n = hist.from.length;
    const top = Math.max(0.05, ...sides().flatMap(([g]) => hist.shares[g] ?? []));
    const y = linear(0, top, oy + ph - 58, oy + 26), bw = (pw - 66) / n;
    svg.append(s("text", { class: "b tiny", x: ox + 50, y: oy + 14 }, cut(hist.title, Math.floor(pw / 6.4))));
    yAxis(svg, y, 0, top, ox + 50, ox + pw - 14, 4, (t) => `${sig(100 * t, 3)} %`);
    const every = Math.max(1, Math.ceil(38 / bw));
    hist.from.forEach((from, j) => { if (j % every === 0) svg.append(s("text", { class: "soft tiny", x: ox + 50 + bw * j, y: oy + ph - 43, "text-anchor": "middle" }, sig(from))); });
    svg.append(s("text", { class: "soft tiny", x: ox + (pw + 36) / 2, y: oy + ph - 26, "text-anchor": "middle" }, `size (${hist.unit}), lower end of the bin`));
    for (const [g, c] of sides()) {
      const shares = hist.shares[g];
      if (!shares) continue;
      if (c === "cb") shares.forEach((v, j) => svg.append(s("rect", { class: "cb area", x: ox + 50 + bw * j + 0.5, y: y(v), width: Math.max(1, bw - 1), height: y(0) - y(v) })));
      else svg.append(s("path", { class: `${c} line`, d: `M${ox + 50} ${y(0)}` + shares.map((v, j) => `V${y(v).toFixed(1)}H${(ox + 50 + bw * (j + 1)).toFixed(1)}`).join("") + `V${y(0)}` }));
    }
    hist.from.forEach((from, j) => svg.append(tipped(s("rect", { class: "hit", x: ox + 50 + bw * j, y: oy + 26, width: bw, height: ph - 84 }), () => `${sig(from)} … ${hist.to[j] === null ? "∞" : sig(hist.to[j])} ${hist.unit}\n` + sides().map(([g]) => `${groupLabel(g)}: ${hist.shares[g] ? sig(100 * hist.shares[g][j], 3) + " %" : "–"}`).join("\n"))));
  });
  return { svg, legend: sideLegend(), rows: () => [["place", ...D.factors, "from", "to", "share"], ...D.histograms.flatMap((hist) => D.groups.flatMap((group, g) => (hist.shares[g] ?? []).map((v, j) => [hist.title, ...group.f, hist.from[j], hist.to[j], v])))] };
};
const series = (fig) => (width) => {
  const here = sides().flatMap(([g, c]) => fig.lines.filter((line) => line.group === g).map((line) => [line, c]));
  if (!here.length) return { none: "Nothing was recorded in these groups." };
  const [xl, xh] = extent(here.flatMap(([line]) => [line.x[0], line.x[line.x.length - 1], 0]));
  const [, yh] = extent(here.flatMap(([line]) => line.y).concat(0));
  const svg = canvas(width - 2, 230), x = linear(xl, xh, 56, width - 16), y = linear(0, yh * 1.05 || 1, 196, 12);
  yAxis(svg, y, 0, yh * 1.05 || 1, 56, width - 16, 5);
  xAxis(svg, x, xl, xh, 12, 196, fig.x, width / 110);
  svg.append(s("text", { class: "soft tiny", x: 12, y: 104, transform: "rotate(-90 12 104)", "text-anchor": "middle" }, fig.y));
  for (const [line, c] of here) {
    const label = () => `${groupLabel(line.group)}\n${line.name}`;
    if (fig.joined) svg.append(tipped(s("path", { class: `${c} line${line.main ? "" : " thin"}`, d: line.x.map((v, i) => `${i ? "L" : "M"}${x(v).toFixed(1)} ${y(line.y[i]).toFixed(1)}`).join("") }), label));
    else line.x.forEach((v, i) => svg.append(tipped(s("circle", { class: `${c} dot`, cx: x(v).toFixed(1), cy: y(line.y[i]).toFixed(1), r: 2.6 }), () => `${label()}\n${sig(v)}, ${sig(line.y[i])}`)));
  }
  return { svg, name: fig.title, legend: sideLegend(), rows: () => [[...D.factors, "line", "x", "y"], ...fig.lines.flatMap((line) => line.x.map((v, i) => [...D.groups[line.group].f, line.name, v, line.y[i]]))] };
};

// ---- chains of system calls ----
const chainGraph = (width) => {
  const c = D.chains[chain];
  if (!c) return { none: "System calls were not followed." };
  const weight = new Map();
  for (const t of c.transitions) for (const name of [t.from, t.to]) weight.set(name, (weight.get(name) ?? 0) + Math.max(t.share, t.baseline));
  const heaviest = Math.max(...weight.values());
  const names = [...weight].sort((p, q) => q[1] - p[1]).slice(0, 16).map(([name]) => name);
  const edges = c.transitions.filter((t) => names.includes(t.from) && names.includes(t.to));
  const narrow = width < 900, size = Math.min(width - 2, 600), r = size / 2 - (width < 620 ? 92 : 106), cx = size / 2, cy = size / 2;
  const list = c.transitions.slice().sort((p, q) => Math.abs(q.share - q.baseline) - Math.abs(p.share - p.baseline)).slice(0, 20);
  const svg = canvas(narrow ? size : width - 2, narrow ? size + 40 + 18 * list.length : size);
  const place = new Map(names.map((name, i) => [name, (2 * Math.PI * i) / names.length - Math.PI / 2]));
  const most = Math.max(...edges.map((t) => Math.max(t.share, t.baseline)), 1e-9);
  const xy = (angle, radius) => [cx + radius * Math.cos(angle), cy + radius * Math.sin(angle)];
  const differs = (t) => t.q <= 0.05;
  const tipOf = (t) => `${t.from} → ${t.to}\n${sig(100 * t.share, 3)} % of transitions, baseline ${sig(100 * t.baseline, 3)} %\nq ${prob(t.q)}${differs(t) ? (t.share > t.baseline ? ": more often" : ": more rarely") : ""}`;
  edges.sort((p, q) => differs(p) - differs(q));
  for (const t of edges) {
    const up = t.share > t.baseline, a = place.get(t.from), b = place.get(t.to);
    const w = 0.7 + 6 * Math.sqrt(Math.max(t.share, t.baseline) / most);
    let d;
    if (t.from === t.to) {
      const [x0, y0] = xy(a - 0.07, r + 3), [x1, y1] = xy(a + 0.07, r + 3), [u0, v0] = xy(a - 0.2, r + 34), [u1, v1] = xy(a + 0.2, r + 34);
      d = `M${x0.toFixed(1)} ${y0.toFixed(1)}C${u0.toFixed(1)} ${v0.toFixed(1)} ${u1.toFixed(1)} ${v1.toFixed(1)} ${x1.toFixed(1)} ${y1.toFixed(1)}`;
    } else {
      const [x0, y0] = xy(a + 0.025, r - 7), [x1, y1] = xy(b - 0.025, r - 8);
      const [dx, dy] = [x1 - x0, y1 - y0], bend = 0.14;
      const [mx, my] = [((x0 + x1) / 2) * 0.8 + cx * 0.2 - dy * bend, ((y0 + y1) / 2) * 0.8 + cy * 0.2 + dx * bend];
      const angle = Math.atan2(y1 - my, x1 - mx), head = 5 + w * 0.9;
      const corner = (turn) => `${(x1 - head * Math.cos(angle + turn)).toFixed(1)} ${(y1 - head * Math.sin(angle + turn)).toFixed(1)}`;
      // The line ends inside its head, so that it does not stick out.
      const [ex, ey] = [x1 - 0.6 * head * Math.cos(angle), y1 - 0.6 * head * Math.sin(angle)];
      d = `M${x0.toFixed(1)} ${y0.toFixed(1)}Q${mx.toFixed(1)} ${my.toFixed(1)} ${ex.toFixed(1)} ${ey.toFixed(1)}`;
      svg.append(s("path", { class: differs(t) ? (up ? "up" : "down") : "still", d: `M${x1.toFixed(1)} ${y1.toFixed(1)}L${corner(-0.4)}L${corner(0.4)}z` }));
    }
    svg.append(tipped(s("path", { class: differs(t) ? (up ? "edge-up" : "edge-down") : "edge", d, fill: "none", "stroke-width": w.toFixed(1) }), () => tipOf(t)));
  }
  for (const [name, angle] of place) {
    const [x, y] = xy(angle, r), self = edges.some((t) => t.from === name && t.to === name), [tx, ty] = xy(angle, r + (self ? 33 : 13)), cos = Math.cos(angle);
    svg.append(tipped(s("circle", { class: "node", cx: x, cy: y, r: 4 + 5 * Math.sqrt(weight.get(name) / heaviest) }), name), s("text", { class: "tiny", x: tx, y: ty + 4, "text-anchor": cos > 0.15 ? "start" : cos < -0.15 ? "end" : "middle" }, cut(name, 16)));
  }
  // The largest differences as numbers.
  const lx = narrow ? 4 : size + 24, at = [lx + 250, lx + 330, lx + 400].map((v) => (narrow ? Math.min(v, size - 2 - (lx + 400 - v)) : v));
  let y = narrow ? size + 20 : 40;
  svg.append(s("text", { class: "b tiny", x: lx, y }, "largest differences"), ...["group", "baseline", "q"].map((t, i) => s("text", { class: "soft tiny", x: at[i], y, "text-anchor": "end" }, t)));
  for (const t of list) {
    y += 18;
    const colour = differs(t) ? (t.share > t.baseline ? "up" : "down") : "soft";
    svg.append(tipped(s("text", { class: `tiny ${colour}`, x: lx, y }, cut(`${t.from} → ${t.to}`, narrow ? 24 : 34)), () => tipOf(t)), ...[`${(100 * t.share).toFixed(2)} %`, `${(100 * t.baseline).toFixed(2)} %`, t.q < 1e-3 ? "< 0.001" : t.q.toFixed(3)].map((text, i) => s("text", { class: "tiny", x: at[i], y, "text-anchor": "end" }, text)));
  }
  return { svg, name: c.process, legend: [["c1", "more often than in the baseline"], ["c0", "more rarely"], ["cb", "no difference found"]], rows: () => [["process", "group", "from", "to", "share", "baseline_share", "q"], ...c.transitions.map((t) => [c.process, c.group, t.from, t.to, t.share, t.baseline, t.q])] };
};

// ---- table of contrasts ----
const table = $("contrast-table");
const state = { sort: "verdict", falling: false, shown: 100 };
const rowsOfTable = () => {
  const text = $("f-text").value.trim().toLowerCase().split(/\s+/).filter(Boolean), level = $("f-level").value;
  const verdicts = new Set([...document.querySelectorAll("input[name=verdict]:checked")].map((box) => box.value));
  const labels = D.pairs.map(([g]) => groupLabel(g).toLowerCase());
  const rows = [];
  D.metrics.forEach((m, i) => {
    if (level && m.level !== level) return;
    const name = m.name.toLowerCase();
    for (let k = 0; k < D.pairs.length; k++) {
      if (!verdicts.has(m.verdicts[k])) continue;
      if (text.length && !text.every((word) => name.includes(word) || labels[k].includes(word))) continue;
      rows.push([i, k]);
    }
  });
  const key = {
    metric: ([i]) => D.metrics[i].name, group: ([, k]) => D.pairs[k][0], n: ([i, k]) => D.metrics[i].n[D.pairs[k][0]], mean: ([i, k]) => D.metrics[i].mean[D.pairs[k][0]],
    base: ([i, k]) => D.metrics[i].mean[D.pairs[k][1]], percent: ([i, k]) => D.metrics[i].pc[k], g: ([i, k]) => D.metrics[i].g[k], p: ([i, k]) => D.metrics[i].holm[k] ?? D.metrics[i].p[k],
    verdict: ([i, k]) => ORDER.indexOf(D.metrics[i].verdicts[k]),
  }[state.sort];
  const sign = state.falling ? -1 : 1;
  const keyed = rows.map((row) => [key(row), row]);
  // What is missing goes last, either way.
  keyed.sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : a < b ? -sign : a > b ? sign : 0));
  return keyed.map(([, row]) => row);
};
const tableRow = ([i, k]) => {
  const m = D.metrics[i], [g, b] = D.pairs[k], code = m.verdicts[k];
  const [f, unit] = scale(m.unit, Math.max(Math.abs(m.mean[g] ?? 0), Math.abs(m.mean[b] ?? 0)));
  const show = column([m.mean[g] / f, m.mean[b] / f]);
  const value = (x) => (known(x) ? show(x / f) + (unit === "1" ? "" : " " + unit) : "–");
  const link = h("a", { href: "#metric", title: m.level }, m.name.slice(m.level.length + 1));
  link.addEventListener("click", () => choose(i, k));
  const num = (text) => h("td", { class: "num" }, text);
  return h("tr", {}, [
    h("td", {}, link), h("td", {}, groupLabel(g)), num(`${m.n[g]} / ${m.n[b]}`), num(value(m.mean[g])), num(value(m.mean[b])), num(known(m.pc[k]) ? pct(m.pc[k]) + " %" : "–"),
    num(known(m.pl[k]) ? `${pct(m.pl[k])} … ${pct(m.ph[k])}` : "–"), num(known(m.g[k]) ? signed(m.g[k].toFixed(2), m.g[k]).replace("-", MINUS) : "–"), num(prob(m.holm[k] ?? m.p[k])),
    h("td", {}, [h("span", { class: "v v-" + code }, VERDICTS[code].join(" ")), m.remark[k] ? h("div", { class: "why" }, m.remark[k]) : null]),
  ]);
};
const fillTable = () => {
  if (!table) return;
  const rows = rowsOfTable(), more = $("contrast-more");
  table.tBodies[0].replaceChildren(...rows.slice(0, state.shown).map(tableRow));
  table.dataset.rows = rows.length;
  more.replaceChildren(rows.length > state.shown ? `${state.shown} of ${rows.length} are shown. ` : `${rows.length} of ${D.metrics.length * D.pairs.length}. `);
  if (rows.length > state.shown) {
    const button = h("button", { type: "button", class: "small" }, "Show 400 more");
    button.addEventListener("click", () => { state.shown += 400; fillTable(); });
    more.append(button, " ");
  }
  const button = h("button", { type: "button", class: "small", id: "contrast-csv" }, "CSV of these");
  button.addEventListener("click", () => save(file(D.title + "-contrasts") + ".csv", "text/csv", csv([["metric", "unit", ...D.factors, "n", "baseline_n", "mean", "baseline_mean", "difference", "difference_low", "difference_high", "percent", "percent_low", "percent_high", "hedges_g", "hedges_g_low", "hedges_g_high", "cliffs_delta", "welch_p", "p_holm", "p_bh", "mann_whitney_p", "verdict", "remark"], ...rowsOfTable().map(([i, k]) => { const m = D.metrics[i], [g, b] = D.pairs[k]; return [m.name, m.unit, ...D.groups[g].f, m.n[g], m.n[b], m.mean[g], m.mean[b], m.d[k], m.dl[k], m.dh[k], m.pc[k], m.pl[k], m.ph[k], m.g[k], m.gl[k], m.gh[k], m.delta[k], m.p[k], m.holm[k], m.bh[k], m.rank[k], VERDICTS[m.verdicts[k]][1], m.remark[k]]; })])));
  more.append(button);
};
if (table) {
  table.querySelectorAll("th[data-sort]").forEach((head) => {
    const button = h("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      state.falling = state.sort === head.dataset.sort && !state.falling;
      state.sort = head.dataset.sort;
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
      button.textContent = button.textContent.replace(/ [▲▼]$/, "");
      table.querySelectorAll("th button").forEach((other) => { other.textContent = other.textContent.replace(/ [▲▼]$/, ""); });
      button.textContent += state.falling ? " ▼" : " ▲";
      fillTable();
    });
  });
  const filters = $("filters");
  filters.addEventListener("input", () => { state.shown = 100; fillTable(); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll(".tile").forEach((tile) => tile.addEventListener("click", () => {
    document.querySelectorAll("input[name=verdict]").forEach((box) => { box.checked = box.value === tile.dataset.verdict; });
    fillTable();
    $("contrasts").scrollIntoView();
  }));
}

// ---- choices ----
const METRIC_FIGURES = ["forest", "means", "ecdf", "run", "factor", "sentinels"];
const pairFigures = () => [...FIGURES.keys()].filter((id) => id === "sizes" || id === "run" || id.startsWith("series-"));
const fill = (select, names, chosen) => { if (select) { select.replaceChildren(...names.map((name, i) => h("option", { value: i }, name))); select.value = chosen; } };
const choose = (i, k) => {
  metric = i;
  if ($("pick-metric")) $("pick-metric").value = i;
  if (k !== undefined) { pair = k; document.querySelectorAll(".pick-pair").forEach((select) => { select.value = k; }); pairFigures().filter((id) => id !== "run").forEach(render); }
  METRIC_FIGURES.forEach(render);
  $("metric").scrollIntoView();
};
document.querySelectorAll("a.metric").forEach((link) => link.addEventListener("click", () => {
  const of = (side) => D.pairs.findIndex((pair) => String(pair[side]) === link.dataset.group);
  const k = of(0) < 0 ? of(1) : of(0); // a baseline is the other side of a pair
  choose(Number(link.dataset.metric), k < 0 ? undefined : k);
}));

const preferred = () => {
  // The metric that a reader looks for first: what the workload reports, and of that what differs most clearly.
  const rank = (m) => [m.level === "application" ? 0 : 1, /(^|\.)(rps|throughput|goodput)/.test(m.name) ? 0 : 1, -[...m.verdicts].filter((v) => v === "d").length];
  let best = 0;
  D.metrics.forEach((m, i) => { const [a, b] = [rank(m), rank(D.metrics[best])]; for (let j = 0; j < 3; j++) { if (a[j] < b[j]) { best = i; return; } if (a[j] > b[j]) return; } });
  return best;
};
if (D.metrics.length) metric = preferred();
factor = (varying.find((v) => v.name === "pairs") ?? varying.find((v) => v.values.every((x) => Number.isFinite(numeric(x)))) ?? varying[0])?.i ?? null;
fill($("pick-metric"), D.metrics.map((m) => m.name + (m.unit === "1" ? "" : ` (${m.unit})`)), metric);
fill($("pick-factor"), varying.map((v) => v.name), varying.findIndex((v) => v.i === factor));
document.querySelectorAll(".pick-pair").forEach((select) => {
  fill(select, D.pairs.map(([g, b]) => `${groupLabel(g)} against ${groupLabel(b)}`), pair);
  select.addEventListener("change", () => { pair = Number(select.value); document.querySelectorAll(".pick-pair").forEach((other) => { other.value = pair; }); pairFigures().forEach(render); });
});
// The chain that differs most, first.
D.chains.forEach((c, i) => { const best = D.chains[chain]; if (c.p < best.p || (c.p === best.p && c.bits > best.bits)) chain = i; });
fill($("pick-chain"), D.chains.map((c) => `${c.process}, ${c.group}`), chain);
$("pick-metric")?.addEventListener("change", (event) => { metric = Number(event.target.value); METRIC_FIGURES.forEach(render); });
$("pick-factor")?.addEventListener("change", (event) => { factor = varying[Number(event.target.value)].i; render("factor"); });
$("pick-chain")?.addEventListener("change", (event) => { chain = Number(event.target.value); render("chain"); });

figure("heat", heat);
figure("forest", forest);
figure("means", means);
figure("ecdf", ecdf);
figure("run", overRuns);
figure("factor", overFactor);
figure("sentinels", overTime);
figure("sizes", sizes);
D.series.forEach((fig, i) => figure("series-" + i, series(fig)));
figure("chain", chainGraph);

// The table first: it can be used while the figures are drawn one by one.
fillTable();
document.documentElement.dataset.ready = "table";
const queue = [...FIGURES.keys()];
const next = () => {
  const id = queue.shift();
  if (id === undefined) { document.documentElement.dataset.ready = "all"; return; }
  setTimeout(next, 0);
  render(id);
};
setTimeout(next, 0);
let width = innerWidth, timer = 0;
addEventListener("resize", () => { if (innerWidth === width) return; width = innerWidth; clearTimeout(timer); timer = setTimeout(() => FIGURES.forEach((_, id) => render(id)), 150); });
})();
