// The six stages of the example, from a row to its prediction, with the numbers of the training that stands.
import { FEATURES, HIDDEN, LAYER1, WEIGHTS, follow, standardize } from "./train.mjs";
import { number, percent, rate, remark } from "./judge.mjs";
import { el, put, text } from "./charts.mjs";

const chip = (value) => el("span", { class: "chip" }, number(value));

/**
 * Draw all stages.
 *
 * view: {problem, run, single (the run of the single rate), row (of the test rows), raw (its numbers, perhaps edited),
 * edited, data}.
 */
export function drawStages(view) {
  const ready = standardize(view.raw, view.problem.mean, view.problem.inverseStd);
  drawRows(view, ready);
  drawTraining(view);
  drawMetrics(view);
  drawTrace(view, ready);
}

function drawRows({ problem, row, raw, edited }, ready) {
  const rows = problem.labels.length, sizes = ["train", "validation", "test"].map((part) => problem[part].index.length);
  const label = edited ? [] : [`label ${problem.test.targets[row]}`];
  const name = [`test row ${problem.test.index[row]}`, ...(edited ? ["edited"] : label)].join(", ");
  text("shape1", `${rows} × ${FEATURES}`);
  text("stage1", `${rows} rows of ${FEATURES} features with a label 0 or 1, from a random two-layer teacher; seed ${problem.seed}. ` +
    `${sizes[0]} train the network, ${sizes[1]} validate, ${sizes[2]} test. Here is ${name}:`);
  put("sample1", ...Array.from(raw, chip), ...label.map((words) => el("span", { class: "chip label" }, words)));
  text("shape2", `${rows} × ${FEATURES} → ${rows} × ${FEATURES}`);
  const means = [...problem.mean].map(Math.abs), spread = [...problem.inverseStd].map((v) => 1 / v);
  text("stage2", "Every column gets mean 0 and variance 1 over the training rows; their means lay up to " +
    `${number(Math.max(...means))} from 0, their standard deviations between ${number(Math.min(...spread))} and ` +
    `${number(Math.max(...spread))}. The same row:`);
  put("sample2", ...Array.from(ready, chip));
  text("shape3", `${rows} × ${FEATURES} → ${rows} × ${FEATURES}`);
  text("stage3", "None: the row goes on as it is.");
  put("sample3", ...Array.from(ready, chip));
}

function drawTraining({ problem, run, single, data }) {
  const steps = data.epochs * Math.ceil(problem.train.index.length / data.batchSize);
  const moved = (from, to) => Math.hypot(...run.weights.subarray(from, to).map((w, i) => w - problem.firstWeights[from + i]));
  const layer = (css, words) => el("b", { class: css }, words), [rate1, rate2] = run.rates.map(rate);
  text("shape4", `layer 1: (${HIDDEN}, ${FEATURES}) + ${HIDDEN}, layer 2: (1, ${HIDDEN}) + 1`);
  put("stage4", `Adam takes ${steps} steps of ${data.batchSize} rows: `, layer("l1", `rate ${rate1} for layer 1`),
    `, whose ${LAYER1} weights moved by ${number(moved(0, LAYER1))} in all, and `, layer("l2", `${rate2} for layer 2`),
    `, whose ${WEIGHTS - LAYER1} moved by ${number(moved(LAYER1, WEIGHTS))}.`);
  const rows = run.epochs.map(({ train, validation }, i) => {
    const other = single.epochs[i].validation, told = data.told[i - 1];
    const happened = i ? remark(run.epochs[i - 1].validation.loss, validation.loss) : "before training";
    return [String(i), number(train.loss), number(validation.loss), percent(validation.accuracy), number(other.loss),
      percent(other.accuracy), told ? `${told[0]}, ${percent(told[1])}` : "", happened];
  });
  const heads = ["epoch", "training loss", "validation loss", "accuracy", "one rate: loss", "accuracy",
    "as the example told it", "your validation loss"];
  table("epochs", `Your pair, ${rate1} and ${rate2}, and the single rate ${rate(single.rates[0])}`, heads, rows, 1);
}

function drawMetrics({ problem, run, single, data }) {
  const { targets } = problem.test, share = targets.reduce((sum, y) => sum + y, 0) / targets.length;
  const last = run.epochs.at(-1), other = single.epochs.at(-1);
  text("shape5", `${data.epochs} epochs, ${targets.length} test rows`);
  const heads = ["", "your pair", `one rate, ${rate(single.rates[0])}`, "the share of classes"];
  table("metrics", "At the end; test and validation rows trained nothing", heads, [
    ["test loss, nats", number(run.test.loss), number(single.test.loss), number(shareLoss(problem))],
    ["test accuracy", percent(run.test.accuracy), percent(single.test.accuracy), percent(Math.max(share, 1 - share))],
    ["validation loss", number(last.validation.loss), number(other.validation.loss), ""],
    ["training loss", number(last.train.loss), number(other.train.loss), ""],
  ]);
}

/** Loss of always answering with the training rows' share of classes. */
export function shareLoss({ train: { targets } }) {
  const share = targets.reduce((sum, y) => sum + y, 0) / targets.length;
  return -share * Math.log(share) - (1 - share) * Math.log(1 - share);
}

/** A table whose first column names its rows; the last `words` columns are no numbers. */
function table(id, caption, heads, rows, words = 0) {
  const kind = (i) => ({ class: i && i < heads.length - words ? "number" : null });
  const cells = (row) => row.map((cell, i) => (i ? el("td", kind(i), cell) : el("th", { scope: "row" }, cell)));
  put(id, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head, i) => el("th", { scope: "col", ...kind(i) }, head)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row)))));
}

function bars(values) {
  const most = Math.max(...Array.from(values, Math.abs), 1e-9);
  return el("div", { class: "bars" }, ...Array.from(values, (v) => {
    const tall = (Math.abs(v) / most) * 17 || 0;
    return el("div", { class: "bar" },
      el("svg", { viewBox: "0 0 40 38", preserveAspectRatio: "none", "aria-hidden": "true" },
        el("line", { class: "axis", x1: 0, x2: 40, y1: 19, y2: 19 }),
        el("rect", { x: 10, width: 20, y: v >= 0 ? 19 - tall : 19, height: Math.max(tall, 0.6), rx: 1.5 })),
      number(v));
  }));
}

function drawTrace({ problem, run, single, row, edited }, ready) {
  const steps = follow(run.weights, ready), { probability } = steps;
  const step = (css, name, small, values) =>
    el("div", { class: `step ${css}` }, el("div", { class: "name" }, name, el("small", {}, small)), bars(values));
  text("shape6", `1 × ${FEATURES} → 1 × ${HIDDEN} → 1 × 1`);
  text("stage6", `The same row through the network of the single rate: ${number(follow(single.weights, ready).probability)}.`);
  put("trace", step("", "standardized", "mean 0, variance 1", ready),
    step("l1", "layer 1", `rate ${rate(run.rates[0])}`, steps.layer1), step("", "ReLU", "negative becomes 0", steps.relu),
    step("l2", "layer 2", `rate ${rate(run.rates[1])}`, [steps.layer2]), step("", "sigmoid", "a probability", [probability]));
  text("predicted", `Probability of class 1: ${number(probability)}, so class ${probability > 0.5 ? 1 : 0}` +
    (edited ? "." : `; the label is ${problem.test.targets[row]}.`));
  const place = `(${row + 1} of ${problem.test.index.length})`;
  text("row-name", `test row ${problem.test.index[row]} ${place}${edited ? ", edited" : ""}`);
}
