// The page: what stands where, what a reader's hand changes, and what is drawn then.
import { FEATURES, HIDDEN, LAYER1, WEIGHTS, axis, follow, standardize, trainWithMetrics } from "./train.mjs";
import { makeProblem, unpack } from "./problem.mjs";
import { answers, byVerdict, compare, ending, interval, mapDistance, mapFacts, number, percent, rate, remark, signed } from "./judge.mjs";
import { onnxFile } from "./onnx.mjs";
import { Pool, coarseToFine } from "./pool.mjs";
import { drawCurves, drawForest, drawGains, drawLegend, drawNetwork, drawOverlay, el, lossColour, put } from "./charts.mjs";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id), text = (id, words) => { byId(id).textContent = words; };
const AXIS = axis(...data.axis), SIZE = AXIS.length, SEEDS = data.problems.map((p) => p.seed);
const [LOWEST, HIGHEST] = [1e-6, 100];  // of rates that are typed
const pool = new Pool(data.worker, data);
const single = data.tuned.single;

const problems = new Map(), tried = new Map(), paired = new Map();
let problem, run, singleRun, rates = [...data.example], row = 0, edited = null, cross = null, map = null, compared = null, tuned = null;

function problemOf(seed) {
  if (!problems.has(seed)) problems.set(seed, makeProblem(data.problems.find((p) => p.seed === seed), data));
  return problems.get(seed);
}

// ---- training -----------------------------------------------------------------------------------------------------

function trainNow() {
  const began = performance.now();
  run = trainWithMetrics(problem, ...rates);
  const took = performance.now() - began, rows = problem.train.targets.length;
  text("lead", `A network of ${WEIGHTS} weights has just been trained in this page, ${data.epochs} epochs on ${rows} rows, ` +
    `in ${took.toFixed(took < 10 ? 1 : 0)} ms. It trains anew whenever you move a slider.`);
}

function note(pairs) {
  if (!tried.has(problem.seed)) tried.set(problem.seed, new Set());
  tried.get(problem.seed).add(pairs.join());
}

let frame = 0;
function setRates(next, { from = null } = {}) {
  rates = byId("linked").checked ? (from === 1 ? [next[1], next[1]] : [next[0], next[0]]) : next;
  for (const i of [0, 1]) {
    const slider = byId(`slider${i + 1}`), field = byId(`number${i + 1}`);
    slider.value = Math.log10(rates[i]);
    slider.setAttribute("aria-valuetext", rate(rates[i]));
    if (document.activeElement !== field) field.value = rate(rates[i]);
    field.removeAttribute("aria-invalid");
  }
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => { trainNow(); show(); });
}

function setSeed(seed) {
  problem = problemOf(seed);
  byId("seed").value = String(seed);
  singleRun = trainWithMetrics(problem, single, single);
  edited = null;
  row = 0;
  trainNow();
  startMap();
  show();
}

function show() {
  const example = follow(run.weights, standardize(currentRow(), problem.mean, problem.inverseStd));
  drawNetwork(run.weights, example);
  drawCurves(run, singleRun);
  text("ending", ending(run, singleRun, data.smallestDifference));
  drawMarks();
  showReadout();
  showStages();
  showTrace();
  showTake();
  askSeeds();
}

// ---- all seeds ----------------------------------------------------------------------------------------------------

/** Runs of one pair on every seed, from the workers; null if the reader has moved on. */
async function onAllSeeds(pair, wanted = () => true) {
  const key = pair.join();
  if (!paired.has(key)) {
    const found = await Promise.all(SEEDS.map((seed) => pool.ask({ seed, rates: pair }, { urgent: true, wanted })));
    if (found.includes(null)) return null;
    paired.set(key, found);
  }
  return paired.get(key);
}

let waiting = 0;
function askSeeds() {
  clearTimeout(waiting);
  const pair = [...rates], wanted = () => pair.join() === rates.join();
  waiting = setTimeout(async () => {
    const [own, one, best] = [await onAllSeeds(pair, wanted), await onAllSeeds([single, single]), await onAllSeeds(data.tuned.pair)];
    if (!own || !wanted()) return;
    note(pair);
    compared = compare(own, one, data.smallestDifference);
    tuned = compare(best, one, data.smallestDifference);
    showSeeds();
    showAnswers();
  }, 120);
}

function showSeeds() {
  const kind = compared.verdict.split(" ")[0], badge = byId("verdict");
  badge.textContent = compared.verdict;
  badge.className = `badge ${kind}`;
  drawGains(compared, SEEDS, problem.seed, data.smallestDifference);
  const [first, last] = data.tuned.seeds;
  text("gains-text", `Gain of your pair over one rate, in nats of test loss, on each of ${SEEDS.length} seeds: median ${signed(compared.gain[0])} ` +
    `${interval(compared.gain)}. The single rate ${rate(single)} was the best of ${data.tuned.amongSingle} on seeds ${first} to ${last}, which this page does not show.`);
}

function showAnswers() {
  const facts = {
    rates, own: compared, tuned, tunedRates: data.tuned.pair, tunedSeeds: data.tuned.seeds[1] - data.tuned.seeds[0] + 1, single,
    seeds: SEEDS.length, seed: problem.seed, tried: tried.get(problem.seed)?.size ?? 0, map: map.complete ? map.facts : null, axis: AXIS,
    studies: data.studies.studies, smallest: data.smallestDifference,
  };
  put("answers", ...answers(facts).map((a) => el("article", { class: "answer" }, el("h3", {}, a.question), el("p", { class: "say" }, a.answer),
    el("h4", {}, "In your runs"), ...a.here.map((words) => el("p", {}, words)),
    el("h4", {}, "In the stored studies"), ...a.studies.map((words) => el("p", {}, words)))));
}

function showForest() {
  const studies = data.studies.studies, groups = byVerdict(studies);
  text("forest-title", `${studies.length} studies: ${Object.entries(groups).map(([name, found]) => `${name} ${found.length}`).join(", ")}`);
  drawForest(studies);
}

// ---- the map ------------------------------------------------------------------------------------------------------

/** Losses of the map of this seed: Python's where the page holds them, until the page's own take their place. */
function startMap() {
  const python = data.map.seed === problem.seed ? unpack(data.map.losses, Float32Array) : null;
  const own = map = { seed: problem.seed, here: new Float32Array(SIZE * SIZE).fill(NaN), shown: new Float32Array(SIZE * SIZE).fill(NaN),
    python, done: 0, complete: false, began: performance.now(), facts: null };
  if (python) own.shown.set(python);
  const cells = coarseToFine(SIZE), wanted = () => map === own, batch = 24;
  for (let i = 0; i < cells.length; i += batch) {
    const part = cells.slice(i, i + batch);
    pool.ask({ seed: own.seed, cells: part.map((c) => [AXIS[c.x], AXIS[c.y]]) }, { wanted }).then((answer) => answer && tookCells(part, answer.losses));
  }
  paintSoon();
}

function tookCells(cells, losses) {
  cells.forEach(({ x, y, stride }, i) => {
    map.here[y * SIZE + x] = losses[i];
    if (map.python) map.shown[y * SIZE + x] = losses[i];
    else {  // stands for its block until finer cells come
      for (let v = y; v < Math.min(y + stride, SIZE); v++) {
        for (let u = x; u < Math.min(x + stride, SIZE); u++) map.shown[v * SIZE + u] = losses[i];
      }
    }
  });
  map.done += cells.length;
  if (map.done === SIZE * SIZE) {
    map.complete = true;
    map.seconds = (performance.now() - map.began) / 1000;
    map.facts = mapFacts(map.here, SIZE, data.smallestDifference);
    drawMarks();
    showReadout();
    showDistance();
    if (compared) showAnswers();
  }
  paintSoon();
}

let painting = 0;
/** A few times a second: what paints more often takes the time that the workers train in. */
function paintSoon() {
  painting ||= setTimeout(() => { painting = 0; paint(); }, map.done ? 150 : 0);
}

/** Loss of answering with the share of classes alone: what colours of the map end at. */
function chance() {
  const share = problem.train.targets.reduce((sum, y) => sum + y, 0) / problem.train.targets.length;
  return -share * Math.log(share) - (1 - share) * Math.log(1 - share);
}

function paint() {
  const known = map.shown.filter(Number.isFinite), low = known.length ? Math.min(...known) : 0, high = chance();
  const context = byId("cells").getContext("2d"), image = context.createImageData(SIZE, SIZE);
  for (let y = 0; y < SIZE; y++) {
    for (let x = 0; x < SIZE; x++) {
      const at = 4 * ((SIZE - 1 - y) * SIZE + x), loss = map.shown[y * SIZE + x];
      if (!map.python && map.done === 0) continue;
      image.data.set([...lossColour(loss, low, high), 255], at);
    }
  }
  context.putImageData(image, 0, 0);
  if (map.legend !== low) drawLegend(low, high);
  map.legend = low;
  const rest = map.python ? " The others are from lrdiff map." : "";
  text("map-status", map.complete ? `${SIZE * SIZE} pairs trained in this page by ${pool.workers.length} workers in ${map.seconds.toFixed(1)} s.`
    : `${map.done} of ${SIZE * SIZE} pairs trained in this page.${rest}`);
  text("map-facts", map.complete ? `${percent(map.facts.better)} of the pairs end more than ${data.smallestDifference} below the best single rate ` +
    `of this map, ${rate(AXIS[map.facts.single])} (loss ${number(map.facts.singleLoss)}); the best pair ends at ${number(map.facts.bestLoss)}. ` +
    `Grey is worse than always answering with the share of classes (${number(high)}).` : "");
}

function drawMarks() {
  const marks = [{ at: [single, single], name: "best single rate", kind: "square" }];
  if (map.facts) marks.push({ at: map.facts.best.map((i) => AXIS[i]), name: "best pair here", kind: "diamond" });
  marks.push({ at: rates.map((r) => Math.min(Math.max(r, AXIS[0]), AXIS.at(-1))), name: "yours", kind: "circle" });
  drawOverlay(SIZE, AXIS, marks, cross);
}

/** What stands at the cursor, or at the cell nearest to the reader's pair. */
function showReadout() {
  const nearest = (r) => Math.round(Math.min(Math.max((Math.log10(r) - Math.log10(AXIS[0])) / (Math.log10(AXIS.at(-1)) - Math.log10(AXIS[0])), 0), 1) * (SIZE - 1));
  const [x, y] = cross ?? rates.map(nearest), at = y * SIZE + x;
  const line = (name, value, css = "") => [el("dt", {}, name), el("dd", { class: css }, value)];
  const loss = map.here[at], python = map.python?.[at];
  put("readout", ...line(cross ? "at the pointer" : "nearest to yours", number(Number.isNaN(loss) && !map.complete ? map.shown[at] : loss), "big"),
    ...line("layer 1", rate(AXIS[x]), "l1"), ...line("layer 2", rate(AXIS[y]), "l2"),
    ...(map.facts ? line("gain over the best single rate", signed(map.facts.singleLoss - loss)) : []),
    ...(python !== undefined && !Number.isNaN(loss) ? line("Python’s loss differs by", number(Math.abs(loss - python))) : []));
}

function wireMap() {
  const plane = byId("plane");
  const cellAt = (event) => {
    const box = byId("cells").getBoundingClientRect(), clip = (v) => Math.min(Math.max(Math.floor(v * SIZE), 0), SIZE - 1);
    return [clip((event.clientX - box.left) / box.width), clip(1 - (event.clientY - box.top) / box.height)];
  };
  const choose = ([x, y]) => { byId("linked").checked = byId("linked").checked && x === y; setRates([AXIS[x], AXIS[y]]); };
  plane.addEventListener("pointermove", (event) => {
    cross = cellAt(event);
    if (event.buttons && event.pointerType !== "touch") choose(cross);
    else drawMarks();
    showReadout();
  });
  plane.addEventListener("pointerleave", () => { cross = null; drawMarks(); showReadout(); });
  plane.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") return;  // a finger may only want to scroll; a tap is a click
    plane.setPointerCapture(event.pointerId);
    choose(cross = cellAt(event));
  });
  plane.addEventListener("click", (event) => { if (event.detail) choose(cross = cellAt(event)); });
  plane.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    const scale = (SIZE - 1) / (Math.log10(AXIS.at(-1)) - Math.log10(AXIS[0]));
    const next = rates.map((r, i) => Math.min(Math.max(Math.round((Math.log10(r) - Math.log10(AXIS[0])) * scale) + move[i] * (event.shiftKey ? 5 : 1), 0), SIZE - 1));
    cross = null;
    choose(next);
  });
}

// ---- stages -------------------------------------------------------------------------------------------------------

const chip = (value, css = "chip") => el("span", { class: css }, number(value));
const currentRow = () => edited ?? problem.test.raw.slice(row * FEATURES, (row + 1) * FEATURES);

function showStages() {
  const rows = problem.labels.length, sizes = ["train", "validation", "test"].map((part) => problem[part].targets.length);
  const raw = currentRow(), ready = standardize(raw, problem.mean, problem.inverseStd);
  const name = `test row ${problem.test.index[row]}${edited ? ", edited" : ""}`;
  text("shape1", `${rows} × ${FEATURES}`);
  text("stage1", `${rows} rows of ${FEATURES} features with a label 0 or 1, from a random two-layer teacher; seed ${problem.seed}. ` +
    `${sizes[0]} train the network, ${sizes[1]} validate, ${sizes[2]} test. Here is ${name}${edited ? "" : `, label ${problem.test.targets[row]}`}:`);
  put("sample1", ...Array.from(raw, (v) => chip(v)), ...(edited ? [] : [el("span", { class: "chip label" }, `label ${problem.test.targets[row]}`)]));
  text("shape2", `${rows} × ${FEATURES} → ${rows} × ${FEATURES}`);
  const means = [...problem.mean].map(Math.abs), spread = [...problem.inverseStd].map((v) => 1 / v);
  text("stage2", `Every column gets mean 0 and variance 1 over the training rows; their means lay up to ${number(Math.max(...means))} from 0, ` +
    `their standard deviations between ${number(Math.min(...spread))} and ${number(Math.max(...spread))}. The same row:`);
  put("sample2", ...Array.from(ready, (v) => chip(v)));
  text("shape3", `${rows} × ${FEATURES} → ${rows} × ${FEATURES}`);
  text("stage3", "None: the row goes on as it is.");
  put("sample3", ...Array.from(ready, (v) => chip(v)));
  text("shape4", `layer 1: (${HIDDEN}, ${FEATURES}) + ${HIDDEN}   layer 2: (1, ${HIDDEN}) + 1`);
  const steps = data.epochs * Math.ceil(sizes[0] / data.batchSize), moved = [[0, LAYER1], [LAYER1, WEIGHTS]].map(([from, to]) => {
    let far = 0;
    for (let i = from; i < to; i++) far += (run.weights[i] - problem.firstWeights[i]) ** 2;
    return Math.sqrt(far);
  });
  put("stage4", `Adam takes ${steps} steps of ${data.batchSize} rows: `, el("b", { class: "l1" }, `rate ${rate(rates[0])} for layer 1`), `, whose ${LAYER1} weights moved by ${number(moved[0])} in all, and `,
    el("b", { class: "l2" }, `${rate(rates[1])} for layer 2`), `, whose ${WEIGHTS - LAYER1} moved by ${number(moved[1])}.`);
  showEpochs();
  showMetrics(sizes[2]);
}

function table(id, caption, heads, rows) {
  put(id, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads.map((h, i) => el("th", { scope: "col", class: i && i < heads.length - (id === "epochs" ? 1 : 0) ? "number" : null }, h)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((c, i) =>
      i ? el("td", { class: id === "epochs" && i === cells.length - 1 ? null : "number" }, c) : el("th", { scope: "row" }, c))))));
}

function showEpochs() {
  table("epochs", `Your pair, ${rate(rates[0])} and ${rate(rates[1])}, and the single rate ${rate(single)}`,
    ["epoch", "training loss", "validation loss", "accuracy", "one rate: loss", "accuracy", "as the example told it", "your validation loss"],
    run.epochs.map((e, i) => [String(i), number(e.train.loss), number(e.validation.loss), percent(e.validation.accuracy), number(singleRun.epochs[i].validation.loss),
      percent(singleRun.epochs[i].validation.accuracy), i && data.told[i - 1] ? `${data.told[i - 1][0]}, ${percent(data.told[i - 1][1])}` : "", i ? remark(run.epochs[i - 1].validation.loss, e.validation.loss) : "before training"]));
}

function showMetrics(rows) {
  const share = problem.test.targets.reduce((sum, y) => sum + y, 0) / rows, most = Math.max(share, 1 - share);
  text("shape5", `${data.epochs} epochs, ${rows} test rows`);
  const last = run.epochs.at(-1), other = singleRun.epochs.at(-1);
  table("metrics", `At the end, on rows that trained nothing`, ["", "your pair", `one rate, ${rate(single)}`, "the share of classes"], [
    ["test loss, nats", number(run.test.loss), number(singleRun.test.loss), number(chance())],
    ["test accuracy", percent(run.test.accuracy), percent(singleRun.test.accuracy), percent(most)],
    ["validation loss", number(last.validation.loss), number(other.validation.loss), ""],
    ["training loss", number(last.train.loss), number(other.train.loss), ""]]);
}

function bars(values, signedRange) {
  const most = Math.max(...Array.from(values, Math.abs), signedRange ? 1e-9 : 1);
  return el("div", { class: "bars" }, ...Array.from(values, (v) => {
    const tall = (Math.abs(v) / most) * 17 || 0;
    return el("div", { class: "bar" }, el("svg", { viewBox: "0 0 40 38", preserveAspectRatio: "none", "aria-hidden": "true" },
      el("line", { class: "axis", x1: 0, x2: 40, y1: 19, y2: 19 }), el("rect", { x: 10, width: 20, y: v >= 0 ? 19 - tall : 19, height: Math.max(tall, 0.6), rx: 1.5 })), number(v));
  }));
}

function showTrace() {
  const raw = currentRow(), ready = standardize(raw, problem.mean, problem.inverseStd), steps = follow(run.weights, ready);
  text("shape6", `1 × ${FEATURES} → 1 × ${HIDDEN} → 1 × 1`);
  const step = (css, name, small, values) => el("div", { class: `step ${css}` }, el("div", { class: "name" }, name, el("small", {}, small)), bars(values, true));
  put("trace",
    step("", "standardized", "mean 0, variance 1", ready),
    step("l1", "layer 1", `rate ${rate(rates[0])}`, steps.layer1), step("", "ReLU", "negative becomes 0", steps.relu),
    step("l2", "layer 2", `rate ${rate(rates[1])}`, [steps.layer2]), step("", "sigmoid", "a probability", [steps.probability]));
  text("predicted", `Probability of class 1: ${number(steps.probability)}, so class ${steps.probability > 0.5 ? 1 : 0}` +
    (edited ? "." : `; the label is ${problem.test.targets[row]}.`));
  text("row-name", `test row ${problem.test.index[row]} (${row + 1} of ${problem.test.targets.length})${edited ? ", edited" : ""}`);
  const other = follow(singleRun.weights, ready);
  text("stage6", `The same row through the network of the single rate: ${number(other.probability)}.`);
  [...byId("row-inputs").querySelectorAll("input")].forEach((field, i) => {
    if (document.activeElement !== field) field.value = String(Number(raw[i].toPrecision(4)));
  });
}

function wireRow() {
  put("row-inputs", ...Array.from({ length: FEATURES }, (_, i) => el("label", {}, `x${i + 1}`, el("input", { type: "text", inputmode: "decimal", autocomplete: "off" }))));
  [...byId("row-inputs").querySelectorAll("input")].forEach((field, i) => field.addEventListener("input", () => {
    const value = Number(field.value.replace("−", "-").replace(",", "."));
    const good = field.value.trim() !== "" && Number.isFinite(value);
    field.setAttribute("aria-invalid", String(!good));
    if (!good) return;
    edited = Float32Array.from(currentRow());
    edited[i] = value;
    show();
  }));
  const turn = (by) => { edited = null; row = (row + by + problem.test.targets.length) % problem.test.targets.length; show(); };
  byId("row-back").addEventListener("click", () => turn(-1));
  byId("row-next").addEventListener("click", () => turn(1));
  byId("row-reset").addEventListener("click", () => turn(0));
}

// ---- what a reader takes away ----------------------------------------------------------------------------------------

const ownFile = () => onnxFile(run.weights, problem.mean, problem.inverseStd, {
  "lrdiff.rates": rates.map(rate).join(" "), "lrdiff.seed": String(problem.seed), "lrdiff.version": data.lrdiff });

function probabilities(weights, rows = problem.test.inputs) {
  return Array.from({ length: rows.length / FEATURES }, (_, r) => follow(weights, rows.subarray(r * FEATURES, (r + 1) * FEATURES)).probability);
}

const farthest = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

function showTake() {
  text("take-text", `The network as it stands now, trained with ${rate(rates[0])} and ${rate(rates[1])} on seed ${problem.seed}, as an ONNX file of ${ownFile().length} bytes: ` +
    `it takes raw rows [batch, ${FEATURES}] and gives the probability of class 1 [batch, 1].`);
  showDistance();
}

function showDistance() {
  const python = data.problems.find((p) => p.seed === problem.seed).python, here = trainWithMetrics(problem, ...data.example);
  const losses = Math.max(farthest(python.train, here.epochs.slice(1).map((e) => e.train.loss)), farthest(python.validation, here.epochs.slice(1).map((e) => e.validation.loss)));
  const there = unpack(python.weights, Float32Array);
  let words = `With the example’s rates (${data.example.map(rate).join(" and ")}) on seed ${problem.seed}, the losses of all ${data.epochs} epochs differ by at most ${number(losses)} from Python’s, ` +
    `the weights by ${number(farthest([...there], here.weights))}, the probabilities of ${problem.test.targets.length} test rows by ${number(farthest(probabilities(there), probabilities(here.weights)))}.`;
  if (map.complete && map.python) {
    const far = mapDistance(map.here, map.python);
    words += ` Of the map’s ${SIZE * SIZE} cells, ${percent(far.share)} are within ${far.close} of lrdiff map (the median cell differs by ${number(far.median)}). ` +
      `The farthest differs by ${number(far.largest)}: at such rates rounding decides where a training ends.`;
  }
  text("distance", words);
}

function wireTake() {
  byId("download").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([ownFile()], { type: "application/octet-stream" }));
    el("a", { href: address, download: `lesson-${rates.map(rate).join("-")}.onnx` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  });
  byId("run-onnx")?.addEventListener("click", async () => {
    const began = performance.now();
    text("onnx-result", "Starting ONNX Runtime.");
    const file = ownFile(), weights = Float32Array.from(run.weights), rows = problem.test.raw;
    const ort = await runtime(), session = await ort.InferenceSession.create(file);
    const found = await session.run({ rows: new ort.Tensor("float32", Float32Array.from(rows), [rows.length / FEATURES, FEATURES]) });
    const far = farthest([...found.probability.data], probabilities(weights));
    text("onnx-result", `ONNX Runtime Web ${ort.env.versions.web} predicted ${rows.length / FEATURES} test rows in this page (${((performance.now() - began) / 1000).toFixed(1)} s with its start); ` +
      `its probabilities differ by at most ${number(far)} from those above.`);
  });
}

let started;
/** ONNX Runtime Web from the bytes in this page. */
function runtime() {
  return (started ??= (async () => {
    const parts = JSON.parse(byId("runtime").textContent);
    const module = URL.createObjectURL(new Blob([unpack(parts.module, Uint8Array)], { type: "text/javascript" }));
    const ort = await import(module);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = unpack(parts.wasm, Uint8Array).buffer;
    return ort;
  })());
}

// ---- start --------------------------------------------------------------------------------------------------------

for (const i of [0, 1]) {
  byId(`slider${i + 1}`).addEventListener("input", (event) => {
    const next = [...rates];
    next[i] = Number((10 ** Number(event.target.value)).toPrecision(3));
    setRates(next, { from: i });
  });
  const field = byId(`number${i + 1}`);
  field.addEventListener("input", () => {
    const value = Number(field.value.replace(",", "."));
    if (!(value >= LOWEST && value <= HIGHEST)) {
      field.setAttribute("aria-invalid", "true");
      return;
    }
    const next = [...rates];
    next[i] = value;
    setRates(next, { from: i });
  });
  field.addEventListener("blur", () => { field.value = rate(rates[i]); field.removeAttribute("aria-invalid"); });
}
const unlinked = (pair) => { byId("linked").checked = pair[0] === pair[1]; setRates(pair); };
byId("to-example").addEventListener("click", () => unlinked([...data.example]));
byId("to-single").addEventListener("click", () => unlinked([single, single]));
byId("to-pair").addEventListener("click", () => unlinked([...data.tuned.pair]));
byId("linked").addEventListener("change", () => setRates([...rates]));
for (const [id, name, pair] of [["to-example", "The example", data.example], ["to-single", "Best single rate", [single]], ["to-pair", "Best pair on other seeds", data.tuned.pair]]) {
  put(id, `${name} `, el("small", {}, pair.map(rate).join(", ")));
}
put("seed", ...SEEDS.map((seed) => el("option", { value: seed }, String(seed))));
byId("seed").addEventListener("change", (event) => setSeed(Number(event.target.value)));
wireMap();
wireRow();
wireTake();
setSeed(SEEDS[0]);
setRates(rates);
showForest();
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { show(); showForest(); if (compared) showSeeds(); }, 100);
});
