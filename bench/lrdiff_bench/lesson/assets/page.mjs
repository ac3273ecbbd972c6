// The page: what stands where, what a reader's hand changes, and what is drawn then.
import { FEATURES, WEIGHTS, axis, follow, place, standardize, trainWithMetrics } from "./train.mjs";
import { makeProblem, unpack } from "./problem.mjs";
import { answers, byVerdict, compare, distanceWords, ending, gainWords, mapFacts, mapWords } from "./judge.mjs";
import { number, rate, signed } from "./judge.mjs";
import { onnxFile } from "./onnx.mjs";
import { Pool, coarseToFine } from "./pool.mjs";
import { drawCurves, drawForest, drawGains, drawLegend, drawNetwork, drawOverlay, lossColour } from "./charts.mjs";
import { el, put, text } from "./charts.mjs";
import { drawStages, shareLoss } from "./stages.mjs";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const AXIS = axis(...data.axis), SIZE = AXIS.length, SEEDS = data.problems.map((p) => p.seed);
const [LOWEST, HIGHEST] = [1e-6, 100];  // of rates that are typed
const pool = new Pool(data.worker, data);
const single = data.tuned.single;

const problems = new Map(), tried = new Map(), paired = new Map();
let problem, run, singleRun, rates = [...data.example];  // what is trained
let row = 0, edited = null;  // the test row that is shown, and what the reader made of it
let map = null, cross = null;  // its cell under the pointer
let compared = null, tuned = null;  // the reader's pair, and the one chosen on other seeds, on all seeds

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
  showDistance();
}

function show() {
  const example = follow(run.weights, standardize(currentRow(), problem.mean, problem.inverseStd));
  drawNetwork(run.weights, example);
  drawCurves(run, singleRun);
  text("ending", ending(run, singleRun, data.smallestDifference));
  drawMarks();
  showReadout();
  showStages();
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
    const [own, one] = [await onAllSeeds(pair, wanted), await onAllSeeds([single, single])];
    const best = await onAllSeeds(data.tuned.pair);
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
  text("gains-text", gainWords(compared, data.tuned));
}

function showAnswers() {
  const facts = {
    rates, own: compared, tuned, single, tunedRates: data.tuned.pair, tunedSeeds: data.tuned.seeds[1] - data.tuned.seeds[0] + 1,
    seeds: SEEDS.length, seed: problem.seed, tried: tried.get(problem.seed)?.size ?? 0, axis: AXIS,
    map: map.complete ? map.facts : null, studies: data.studies.studies, smallest: data.smallestDifference,
  };
  const paragraphs = (head, sentences) => [el("h4", {}, head), ...sentences.map((words) => el("p", {}, words))];
  put("answers", ...answers(facts).map((found) => el("article", { class: "answer" },
    el("h3", {}, found.question), el("p", { class: "say" }, found.answer),
    ...paragraphs("In your runs", found.here), ...paragraphs("In the stored studies", found.studies))));
}

function showForest() {
  const studies = data.studies.studies, groups = byVerdict(studies);
  const counts = Object.entries(groups).map(([word, found]) => `${word} ${found.length}`);
  text("forest-title", `${studies.length} studies: ${counts.join(", ")}`);
  drawForest(studies);
}

// ---- the map ------------------------------------------------------------------------------------------------------

/** Losses of the map of this seed: Python's where the page holds them, until the page's own take their place. */
function startMap() {
  const python = data.map.seed === problem.seed ? unpack(data.map.losses, Float32Array) : null;
  const nothing = () => new Float32Array(SIZE * SIZE).fill(NaN);
  const own = map = { seed: problem.seed, here: nothing(), shown: nothing(), python, done: 0, complete: false, facts: null };
  own.began = performance.now();
  if (python) own.shown.set(python);
  const cells = coarseToFine(SIZE), wanted = () => map === own, batch = 24;
  for (let i = 0; i < cells.length; i += batch) {
    const part = cells.slice(i, i + batch);
    const job = { seed: own.seed, cells: part.map((c) => [AXIS[c.x], AXIS[c.y]]) };
    pool.ask(job, { wanted }).then((answer) => answer && tookCells(part, answer.losses));
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

function paint() {
  const known = map.shown.filter(Number.isFinite), low = known.length ? Math.min(...known) : 0, high = shareLoss(problem);
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
  const count = `${map.complete ? "" : `${map.done} of `}${SIZE * SIZE} pairs trained in this page`;
  text("map-status", map.complete ? `${count} by ${pool.workers.length} workers in ${map.seconds.toFixed(1)} s.`
    : `${count}.${map.python ? " The others are from lrdiff map." : ""}`);
  text("map-facts", map.complete ? mapWords(map.facts, AXIS, data.smallestDifference, high) : "");
}

function drawMarks() {
  const marks = [{ at: [single, single], name: "best single rate", kind: "square" }];
  if (map.facts) marks.push({ at: map.facts.best.map((i) => AXIS[i]), name: "best pair here", kind: "diamond" });
  marks.push({ at: rates.map((r) => Math.min(Math.max(r, AXIS[0]), AXIS.at(-1))), name: "yours", kind: "ring" });
  drawOverlay(AXIS, marks, cross);
}

const nearestCell = (r) => Math.min(Math.max(Math.round(place(AXIS, r)), 0), SIZE - 1);

/** What stands at the cursor, or at the cell nearest to the reader's pair. */
function showReadout() {
  const [x, y] = cross ?? rates.map(nearestCell), at = y * SIZE + x;
  const line = (name, value, css = "") => [el("dt", {}, name), el("dd", { class: css }, value)];
  const loss = map.here[at], python = map.python?.[at];
  const known = Number.isNaN(loss) && !map.complete ? map.shown[at] : loss;
  put("readout", ...line(cross ? "at the pointer" : "nearest to yours", number(known), "big"),
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
    const far = event.shiftKey ? 5 : 1, clip = (cell) => Math.min(Math.max(cell, 0), SIZE - 1);
    const next = rates.map((r, i) => clip(nearestCell(r) + far * move[i]));
    cross = null;
    choose(next);
  });
}

// ---- stages -------------------------------------------------------------------------------------------------------

const currentRow = () => edited ?? problem.test.raw.slice(row * FEATURES, (row + 1) * FEATURES);

function showStages() {
  const raw = currentRow();
  drawStages({ problem, run, single: singleRun, row, raw, edited, data });
  [...byId("row-inputs").querySelectorAll("input")].forEach((field, i) => {
    if (document.activeElement !== field) field.value = String(Number(raw[i].toPrecision(4)));
  });
}

function wireRow() {
  const field = () => el("input", { type: "text", inputmode: "decimal", autocomplete: "off" });
  put("row-inputs", ...Array.from({ length: FEATURES }, (_, i) => el("label", {}, `x${i + 1}`, field())));
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
  const row = (r) => rows.subarray(r * FEATURES, (r + 1) * FEATURES);
  return Array.from({ length: rows.length / FEATURES }, (_, r) => follow(weights, row(r)).probability);
}

const farthest = (a, b) => a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

function showTake() {
  text("take-text", `The network as it stands now, trained with ${rate(rates[0])} and ${rate(rates[1])} on seed ` +
    `${problem.seed}, as an ONNX file of ${ownFile().length} bytes: it takes ` +
    `raw rows [batch, ${FEATURES}] and gives the probability of class 1 [batch, 1].`);
}

/** How far Python's runs of this seed are: the example's rates, and every cell of the map. */
function showDistance() {
  const python = data.problems.find((p) => p.seed === problem.seed).python, there = unpack(python.weights, Float32Array);
  const here = trainWithMetrics(problem, ...data.example), after = (part) => here.epochs.slice(1).map((e) => e[part].loss);
  text("distance", distanceWords({
    rates: data.example, seed: problem.seed, epochs: data.epochs, rows: problem.test.index.length,
    losses: Math.max(farthest(python.train, after("train")), farthest(python.validation, after("validation"))),
    weights: farthest([...there], here.weights), answers: farthest(probabilities(there), probabilities(here.weights)),
    maps: map.complete && map.python ? [map.here, map.python] : null,
  }));
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
    const count = rows.length / FEATURES, input = new ort.Tensor("float32", Float32Array.from(rows), [count, FEATURES]);
    const found = await session.run({ rows: input });
    const answers = [...found.probability.data], far = farthest(answers, probabilities(weights));
    const python = unpack(data.problems.find((p) => p.seed === problem.seed).python.weights, Float32Array);
    const beside = String(rates) === String(data.example)
      ? `, and by at most ${number(farthest(answers, probabilities(python)))} from Python’s` : "";
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    text("onnx-result", `ONNX Runtime Web ${ort.env.versions.web} predicted ${count} test rows in this page (${seconds} s with ` +
      `its start); its probabilities differ by at most ${number(far)} from those above${beside}.`);
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
const name = (id, words, pair) => put(id, `${words} `, el("small", {}, pair.map(rate).join(", ")));
name("to-example", "The example", data.example);
name("to-single", "Best single rate", [single]);
name("to-pair", "Best pair on other seeds", data.tuned.pair);
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
