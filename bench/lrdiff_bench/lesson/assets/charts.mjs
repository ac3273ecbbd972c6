// Pictures as SVG, each with the numbers as its text alternative.
import { interval, number, rate, signed, storedGain } from "./judge.mjs";
import { place } from "./train.mjs";

const SVG = "http://www.w3.org/2000/svg";

/** An element: el("p", {class: "note"}, "text", child); names of SVG make SVG. */
export function el(name, attributes = {}, ...children) {
  const vector = /^(svg|g|line|path|rect|circle|text|defs|linearGradient|stop|title|polyline)$/.test(name);
  const made = vector ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const put = (id, ...children) => document.getElementById(id).replaceChildren(...children);
export const text = (id, words) => put(id, words);

function picture(width, height, label, ...children) {
  return el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...children);
}

/** The last chart's width in CSS pixels, so that text in SVG keeps its size on narrow screens. */
const widthOf = (id, most) => Math.max(280, Math.min(most, document.getElementById(id).clientWidth || most));

const short = (value) => `${value > 0 ? "+" : ""}${Number(value.toPrecision(3))}`.replace("-", "\u2212");

/** Round numbers from low to high, about `wanted` of them. */
function ticks(low, high, wanted = 5) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const out = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

/** Loss by epoch: own run (validation thick, training thin) beside the single rate's. */
export function drawCurves(run, single) {
  const width = widthOf("curves", 700), height = Math.min(400, Math.max(260, width * 0.56));
  const left = 44, right = 118, top = 28, bottom = 34, epochs = run.epochs.length - 1;
  const first = run.epochs[0].validation.loss;
  const losses = [...run.epochs, ...single.epochs].map((e) => e.validation.loss).filter(Number.isFinite);
  const most = Math.min(Math.max(...losses) * 1.05, first * 2.2);
  const x = (epoch) => left + (epoch / epochs) * (width - left - right);
  const y = (loss) => top + (1 - Math.min(Number.isFinite(loss) ? loss : Infinity, most) / most) * (height - top - bottom);
  const path = (values) => values.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const marks = ticks(0, most, 4).flatMap((loss) => [
    el("line", { class: loss ? "grid" : "axis", x1: left, x2: width - right, y1: y(loss), y2: y(loss) }),
    el("text", { x: left - 8, y: y(loss) + 4, "text-anchor": "end" }, String(loss))]);
  for (let epoch = 0; epoch <= epochs; epoch += 2) {
    marks.push(el("text", { x: x(epoch), y: height - bottom + 20, "text-anchor": "middle" }, String(epoch)));
  }
  marks.push(el("text", { x: x(epochs) + 12, y: height - bottom + 20 }, "epoch"));
  const own = run.epochs.map((e) => e.validation.loss), other = single.epochs.map((e) => e.validation.loss);
  let [a, b] = [y(own.at(-1)), y(other.at(-1))];
  if (Math.abs(a - b) < 38) {
    const middle = Math.min(Math.max((a + b) / 2, top + 26), height - bottom - 26);
    [a, b] = a <= b ? [middle - 19, middle + 19] : [middle + 19, middle - 19];
  }
  const label = (at, kind, name, value) => [
    el("text", { x: x(epochs) + 12, y: at - 3, class: `strong ${kind}` }, number(value)),
    el("text", { x: x(epochs) + 12, y: at + 12, class: kind }, name)];
  const says = `Loss by epoch. Validation loss of your pair ${rate(run.rates[0])} and ${rate(run.rates[1])}: ` +
    `${own.map(number).join(", ")}. Of the single rate ${rate(single.rates[0])}: ${other.map(number).join(", ")}.`;
  put("curves", picture(width, height, says,
    el("defs", {}, el("linearGradient",
      { id: "two-rates", gradientUnits: "userSpaceOnUse", x1: left, x2: width - right, y1: 0, y2: 0 },
      el("stop", { offset: 0, class: "stop1" }), el("stop", { offset: 1, class: "stop2" }))),
    ...marks,
    el("text", { x: left, y: 10 }, "loss, nats"),
    ...(width < 480 ? [] : [el("text", { x: x(epochs), y: 10, "text-anchor": "end" }, "thick: validation, thin: training")]),
    el("path", { class: "single", d: path(other) }),
    el("path", { class: "own thin", d: path(run.epochs.map((e) => e.train.loss)) }),
    el("path", { class: "own", d: path(own) }),
    ...label(a, "", "your pair", own.at(-1)), ...label(b, "single-text", `one rate, ${rate(single.rates[0])}`, other.at(-1))));
}

/** The network: thickness of a line is the size of a weight, or of weight times activation. */
export function drawNetwork(weights, example) {
  const width = 340, height = 210, input = (i) => [26, 14 + (i * (height - 28)) / 9];
  const unit = (h) => [188, 26 + (h * (height - 52)) / 4], output = [316, height / 2];
  const most = (from, to) => Math.max(...weights.subarray(from, to).map(Math.abs)) || 1;
  const most1 = most(0, 50), most2 = most(55, 60);
  const edge = (kind, [x1, y1], [x2, y2], weight, largest) => el("line", {
    class: kind, x1, y1, x2, y2, "stroke-width": (0.4 + 5 * (Math.abs(weight) / largest) ** 1.2).toFixed(2),
    "stroke-opacity": (0.18 + 0.72 * (Math.abs(weight) / largest)).toFixed(2), "stroke-dasharray": weight < 0 ? "4 3" : null });
  const edges = [];
  for (let h = 0; h < 5; h++) {
    for (let i = 0; i < 10; i++) edges.push(edge("edge1", input(i), unit(h), weights[h * 10 + i], most1));
    edges.push(edge("edge2", unit(h), output, weights[55 + h], most2));
  }
  const dot = ([cx, cy], r, off = false) => el("circle", { cx, cy, r, class: off ? "unit off" : "unit" });
  const says = `The network after training: largest weight of layer 1 ${number(most1)}, of layer 2 ${number(most2)}; ` +
    `${example.relu.filter((v) => v > 0).length} of 5 units are active for the row below. Dashed lines are negative weights.`;
  put("network", picture(width, height, says, ...edges, ...Array.from({ length: 10 }, (_, i) => dot(input(i), 4)),
    ...Array.from({ length: 5 }, (_, h) => dot(unit(h), 8, !(example.relu[h] > 0))), dot(output, 10)));
}

/** Gains on all seeds as dots, with the median and its interval. */
export function drawGains(compared, seeds, shown, smallest) {
  const width = widthOf("gains", 700), height = 112, middle = 60, pad = 12;
  const finite = compared.gains.filter(Number.isFinite).map(Math.abs);
  const most = Math.max(3 * smallest, ...finite) * 1.15, squeeze = (gain) => Math.asinh(gain / smallest);
  const clamp = (gain) => Math.max(-most, Math.min(most, gain));  // linear within the band, logarithmic beyond
  const x = (gain) => width / 2 + (squeeze(clamp(gain)) / squeeze(most)) * (width / 2 - pad);
  const kind = compared.verdict.split(" ")[0];
  const rows = new Map();  // dots that would touch stand above each other
  const dots = compared.gains.map((gain, i) => {
    const place = Math.round(x(gain) / 9), up = rows.get(place) ?? 0;
    rows.set(place, up + 1);
    const [css, r] = seeds[i] === shown ? ["dot shown", 5.5] : ["dot", 4];
    return el("circle", { class: css, cx: x(gain), cy: middle - 12 - up * 9, r },
      el("title", {}, `seed ${seeds[i]}: ${signed(gain)}`));
  });
  const says = `Gain of your pair on each of ${seeds.length} seeds: ${compared.gains.map(signed).join(", ")}. ` +
    `Median ${signed(compared.gain[0])}, interval ${interval(compared.gain)}.`;
  const marks = [-100, -10, -1, 0, 1, 10, 100].map((m) => m * smallest).filter((gain) => Math.abs(gain) <= most);
  put("gains", picture(width, height, says,
    el("rect", { class: "band", x: x(-smallest), width: x(smallest) - x(-smallest), y: 0, height: middle + 16 }),
    el("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: middle + 16 }), ...dots,
    el("line", { class: `span ${kind}`, x1: x(compared.gain[1]), x2: x(compared.gain[2]), y1: middle + 4, y2: middle + 4 }),
    el("circle", { class: `mid ${kind}`, cx: x(compared.gain[0]), cy: middle + 4, r: 6 }),
    ...marks.map((gain) => el("text", { x: x(gain), y: middle + 32, "text-anchor": "middle" }, short(gain))),
    el("text", { x: pad, y: height - 2 }, "← one rate better"),
    el("text", { x: width - pad, y: height - 2, "text-anchor": "end" }, "your pair better →")));
}

/** The stored studies: gain over the smallest one that matters, on a scale that is linear near zero and log beyond. */
export function drawForest(studies) {
  const width = widthOf("forest", 1100), narrow = width < 640, line = narrow ? 54 : 27, top = 22;
  const left = narrow ? 8 : 330, right = narrow ? 8 : 130, height = top + studies.length * line + 30;
  const squeeze = (v) => Math.asinh(v);
  const low = squeeze(Math.min(-3, ...studies.map((s) => s.gain[1] / s.smallest)));
  const high = squeeze(Math.max(3, ...studies.map((s) => s.gain[2] / s.smallest)));
  const x = (v) => left + ((squeeze(v) - low) / (high - low)) * (width - left - right);
  const rows = studies.flatMap((s, i) => {
    const y = top + i * line + line / 2 + (narrow ? 17 : 0), kind = s.verdict.split(" ")[0];
    const [at, from, to] = s.gain.map((g) => x(g / s.smallest));
    return [
      el("line", { class: `span ${kind}`, x1: from, x2: to, y1: y, y2: y }),
      el("circle", { class: `mid ${kind}`, cx: at, cy: y, r: 5 }),
      el("text", narrow ? { x: left, y: y - 25 } : { x: left - 14, y: y + 4, "text-anchor": "end" }, s.title),
      el("text", { x: narrow ? left : width - right + 12, y: narrow ? y - 10 : y + 4, class: "strong" }, s.verdict)];
  });
  const at = [-10, -1, 0, 1, 10].filter((v) => squeeze(v) >= low && squeeze(v) <= high);
  const told = studies.map((s) => `${s.title}: ${storedGain(s.gain)} ${s.metric}, ${s.verdict}`);
  const says = `Gains in the stored studies: ${told.join("; ")}.`;
  put("forest", picture(width, height, says,
    el("rect", { class: "band", x: x(-1), width: x(1) - x(-1), y: top, height: height - top - 26 }),
    el("line", { class: "zero", x1: x(0), x2: x(0), y1: top, y2: height - 26 }), ...rows,
    ...at.map((v) => el("text", { x: x(v), y: height - 8, "text-anchor": "middle" }, short(v))),
    el("text", { x: x(0) - 8, y: 12, "text-anchor": "end" }, "one rate better"),
    el("text", { x: x(0) + 8, y: 12 }, "different rates better")));
}

// Viridis, Smith and van der Walt 2015, from high loss to low; losses above `high` are grey.
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
  [170, 220, 50], [253, 231, 37]];

export function lossColour(loss, low, high) {
  if (!(loss <= high)) return [120, 120, 124];
  const t = (1 - Math.max(0, (loss - low) / (high - low))) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(t), VIRIDIS.length - 2);
  return VIRIDIS[i].map((c, k) => Math.round(c + (VIRIDIS[i + 1][k] - c) * (t - i)));
}

/** What the colours of the map mean. */
export function drawLegend(low, high) {
  const bars = 60, wide = 240 / bars, css = (v) => `rgb(${lossColour(v, low, high).join(" ")})`;
  const bar = (x, width, loss) => el("rect", { x, y: 0, width, height: 14, fill: css(loss) });
  put("legend", picture(300, 44, `Colours from loss ${number(low)} to ${number(high)}; above that grey`,
    ...Array.from({ length: bars }, (_, i) => bar(i * wide, wide + 0.6, low + ((high - low) * i) / (bars - 1))),
    bar(252, 30, Infinity), el("text", { x: 0, y: 32 }, number(low)),
    el("text", { x: 240, y: 32, "text-anchor": "end" }, number(high)), el("text", { x: 252, y: 32 }, "above")));
}

/** Axes, the diagonal of single rates, and marks over the map; cell 0, 0 is at the lower left. */
export function drawOverlay(axis, marks, cross) {
  const size = axis.length, edge = document.getElementById("plane").clientWidth || 600;
  const across = (cell) => ((cell + 0.5) / size) * edge, up = (cell) => edge - across(cell);
  const powers = [];
  for (let p = Math.ceil(Math.log10(axis[0]) - 1e-9); p <= Math.log10(axis.at(-1)) + 1e-9; p++) powers.push(Number(`1e${p}`));
  const line = (css, x1, y1, x2, y2) => el("line", { class: css, x1, y1, x2, y2 });
  const turned = (css, x, y, angle, words) => el("text",
    { class: css, "text-anchor": css === "on-map" ? null : "middle", transform: `translate(${x} ${y}) rotate(${angle})` }, words);
  const diagonal = [across(0), up(0), across(size - 1), up(size - 1)], start = size * 0.06;
  const children = [
    ...powers.map((p) => el("text", { x: across(place(axis, p)), y: edge + 20, "text-anchor": "middle" }, String(p))),
    ...powers.map((p) => el("text", { x: -8, y: up(place(axis, p)) + 4, "text-anchor": "end" }, String(p))),
    turned("l1 strong", edge / 2, edge + 42, 0, "learning rate of layer 1"),
    turned("l2 strong", edge < 420 ? -46 : -50, edge / 2, -90, "learning rate of layer 2"),
    line("halo", ...diagonal), line("diagonal", ...diagonal),
    turned("on-map", across(start), up(start) - 8, -45, "one rate for both"),
  ];
  if (cross) {
    children.push(line("cross", across(cross[0]), 0, across(cross[0]), edge), line("cross", 0, up(cross[1]), edge, up(cross[1])));
  }
  return put("overlay", el("svg", { "aria-hidden": "true", width: edge, height: edge }, ...children, ...marks.flatMap(mark)));

  /** A square, a diamond or a ring where two rates meet, with its name beside it. */
  function mark({ at, name, kind }) {
    const x = across(place(axis, at[0])), y = up(place(axis, at[1])), left = x > edge * 0.72;
    const outline = { square: `M${x - 6} ${y - 6}h12v12h-12Z`, diamond: `M${x} ${y - 9}l9 9l-9 9l-9 -9Z`,
      ring: `M${x - 9} ${y}a9 9 0 1 0 18 0a9 9 0 1 0 -18 0Z` }[kind];
    const below = { square: 18, diamond: -10, ring: 5 }[kind];
    return [el("path", { class: "mark-halo", d: outline }), el("path", { class: "mark", d: outline }),
      el("text", { class: "on-map", x: x + (left ? -15 : 15), y: y + below, "text-anchor": left ? "end" : "start" }, name)];
  }
}
