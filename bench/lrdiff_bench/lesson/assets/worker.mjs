// A worker: trains what it is asked to and answers with losses; it keeps the problems it has unpacked.
import { cell, trainWithMetrics } from "./train.mjs";
import { makeProblem } from "./problem.mjs";

const packed = new Map(), made = new Map();
let settings;

function problemOf(seed) {
  if (!made.has(seed)) made.set(seed, makeProblem(packed.get(seed), settings));
  return made.get(seed);
}

onmessage = ({ data: asked }) => {
  if (asked.problems) {
    settings = asked.settings;
    for (const problem of asked.problems) packed.set(problem.seed, problem);
    return;
  }
  const problem = problemOf(asked.seed);
  if (asked.cells) {
    postMessage({ id: asked.id, losses: asked.cells.map(([rate1, rate2]) => cell(problem, rate1, rate2)) });
  } else {
    const run = trainWithMetrics(problem, ...asked.rates);
    postMessage({ id: asked.id, test: run.test.loss, losses: run.epochs.map((epoch) => epoch.validation.loss) });
  }
};
