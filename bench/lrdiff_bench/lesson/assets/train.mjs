// The seed example's training: 10-5-1 network, binary cross-entropy, Adam; float32 wherever PyTorch has float32.
//
// A problem (one seed) is what data.py embeds: standardized rows, targets, first weights, the order of the rows.
// Weights lie in one array: layer 1 [5, 10], its bias [5], layer 2 [1, 5], its bias [1]; the first 55 belong to
// layer 1. Sums are taken in another order than PyTorch takes them, so results agree to rounding.

export const FEATURES = 10;
export const HIDDEN = 5;
export const LAYER1 = HIDDEN * FEATURES + HIDDEN;
export const WEIGHTS = LAYER1 + HIDDEN + 1;
const BIAS1 = HIDDEN * FEATURES;
const WEIGHT2 = LAYER1;
const BIAS2 = WEIGHTS - 1;
const BETA1 = 0.9, BETA2 = 0.999, EPS = 1e-8;
const f32 = Math.fround;

/** (x - mean) * inverseStd for each column; rows [rows, 10]. */
export function standardize(rows, mean, inverseStd) {
  const out = new Float32Array(rows.length);
  for (let i = 0; i < rows.length; i++) {
    out[i] = f32(f32(rows[i] - mean[i % FEATURES]) * inverseStd[i % FEATURES]);
  }
  return out;
}

export function sigmoid(logit) {
  return f32(1 / (1 + Math.exp(-logit)));
}

/** Activations of one standardized row: {layer1 [5], relu [5], layer2, probability}. */
export function follow(weights, row) {
  const layer1 = new Float32Array(HIDDEN), relu = new Float32Array(HIDDEN);
  let logit = weights[BIAS2];
  for (let h = 0; h < HIDDEN; h++) {
    let sum = weights[BIAS1 + h];
    for (let i = 0; i < FEATURES; i++) sum = f32(sum + f32(weights[h * FEATURES + i] * row[i]));
    layer1[h] = sum;
    relu[h] = sum > 0 ? sum : sum === sum ? 0 : NaN;
    logit = f32(logit + f32(weights[WEIGHT2 + h] * relu[h]));
  }
  return { layer1, relu, layer2: logit, probability: sigmoid(logit) };
}

/** Mean loss (nats) and accuracy of rows [rows, 10] with these weights. */
export function evaluate(weights, inputs, targets) {
  let loss = 0, right = 0;
  for (let r = 0; r < targets.length; r++) {
    let logit = weights[BIAS2];
    for (let h = 0; h < HIDDEN; h++) {
      let sum = weights[BIAS1 + h];
      for (let i = 0; i < FEATURES; i++) sum = f32(sum + f32(weights[h * FEATURES + i] * inputs[r * FEATURES + i]));
      if (!(sum <= 0)) logit = f32(logit + f32(weights[WEIGHT2 + h] * sum));
    }
    const y = targets[r];
    loss += Math.max(logit, 0) - logit * y + Math.log1p(Math.exp(-Math.abs(logit)));
    right += logit > 0 === y > 0.5 ? 1 : 0;
  }
  return { loss: f32(loss / targets.length), accuracy: right / targets.length };
}

/** Gradient of the mean loss over the rows order[from .. to), into gradient [61]; a row's features are kept at hand. */
function backward(weights, gradient, inputs, targets, order, from, to, hidden) {
  gradient.fill(0);
  const scale = f32(1 / (to - from)), w = weights, g = gradient;
  for (let k = from; k < to; k++) {
    const at = order[k] * FEATURES;
    const a = inputs[at], b = inputs[at + 1], c = inputs[at + 2], d = inputs[at + 3], e = inputs[at + 4];
    const p = inputs[at + 5], q = inputs[at + 6], r = inputs[at + 7], s = inputs[at + 8], t = inputs[at + 9];
    let logit = w[BIAS2];
    for (let h = 0, i = 0; h < HIDDEN; h++, i += FEATURES) {
      let low = f32(f32(w[i] * a) + f32(w[i + 1] * b)), high = f32(f32(w[i + 5] * p) + f32(w[i + 6] * q));
      low = f32(f32(f32(low + f32(w[i + 2] * c)) + f32(w[i + 3] * d)) + f32(w[i + 4] * e));
      high = f32(f32(f32(high + f32(w[i + 7] * r)) + f32(w[i + 8] * s)) + f32(w[i + 9] * t));
      const sum = f32(f32(low + high) + w[BIAS1 + h]);
      hidden[h] = sum;
      if (!(sum <= 0)) logit = f32(logit + f32(w[WEIGHT2 + h] * sum));
    }
    const slope = f32(f32(sigmoid(logit) - targets[order[k]]) * scale);
    g[BIAS2] = f32(g[BIAS2] + slope);
    for (let h = 0, i = 0; h < HIDDEN; h++, i += FEATURES) {
      if (hidden[h] <= 0) continue;
      const back = f32(slope * w[WEIGHT2 + h]);
      g[WEIGHT2 + h] = f32(g[WEIGHT2 + h] + f32(slope * hidden[h]));
      g[BIAS1 + h] = f32(g[BIAS1 + h] + back);
      g[i] = f32(g[i] + f32(back * a));
      g[i + 1] = f32(g[i + 1] + f32(back * b));
      g[i + 2] = f32(g[i + 2] + f32(back * c));
      g[i + 3] = f32(g[i + 3] + f32(back * d));
      g[i + 4] = f32(g[i + 4] + f32(back * e));
      g[i + 5] = f32(g[i + 5] + f32(back * p));
      g[i + 6] = f32(g[i + 6] + f32(back * q));
      g[i + 7] = f32(g[i + 7] + f32(back * r));
      g[i + 8] = f32(g[i + 8] + f32(back * s));
      g[i + 9] = f32(g[i + 9] + f32(back * t));
    }
  }
}

/** One step of Adam with a rate for each layer; t counts from 1. */
function step(weights, gradient, first, second, rate1, rate2, t) {
  const root = f32(Math.sqrt(1 - BETA2 ** t)), correction = 1 - BETA1 ** t;
  const a1 = f32(1 - BETA1), b2 = f32(BETA2), a2 = f32(1 - BETA2), eps = f32(EPS);
  const size1 = f32(rate1 / correction), size2 = f32(rate2 / correction);
  for (let i = 0; i < WEIGHTS; i++) {
    const g = gradient[i];
    const m = f32(first[i] + f32(a1 * f32(g - first[i])));
    const v = f32(f32(b2 * second[i]) + f32(f32(a2 * g) * g));
    first[i] = m;
    second[i] = v;
    const down = f32(f32(f32(Math.sqrt(v)) / root) + eps);
    weights[i] = f32(weights[i] - f32(f32((i < LAYER1 ? size1 : size2) * m) / down));
  }
}

/**
 * Train from the first weights with one rate for each layer.
 *
 * onEpoch(epoch, weights), if given, is called before the first step (epoch 0) and after each epoch.
 * Returns the final weights [61].
 */
export function train(problem, rate1, rate2, onEpoch = null) {
  const { inputs, targets } = problem.train, { order, batchSize, epochs } = problem, rows = targets.length;
  const weights = Float32Array.from(problem.firstWeights), gradient = new Float32Array(WEIGHTS);
  const first = new Float32Array(WEIGHTS), second = new Float32Array(WEIGHTS), hidden = new Float32Array(HIDDEN);
  let t = 0;
  if (onEpoch) onEpoch(0, weights);
  for (let epoch = 1; epoch <= epochs; epoch++) {
    for (let from = (epoch - 1) * rows; from < epoch * rows; from += batchSize) {
      backward(weights, gradient, inputs, targets, order, from, Math.min(from + batchSize, epoch * rows), hidden);
      step(weights, gradient, first, second, rate1, rate2, ++t);
    }
    if (onEpoch) onEpoch(epoch, weights);
  }
  return weights;
}

/** Train and look after every epoch: {weights, epochs: [{train, validation}], test}, each with loss and accuracy. */
export function trainWithMetrics(problem, rate1, rate2) {
  const epochs = [];
  const look = (part, weights) => evaluate(weights, problem[part].inputs, problem[part].targets);
  const weights = train(problem, rate1, rate2, (_, w) =>
    epochs.push({ train: look("train", w), validation: look("validation", w) }));
  return { rates: [rate1, rate2], weights, epochs, test: look("test", weights) };
}

/** Rates of one axis, evenly spaced on a log scale; as numpy.geomspace has them to rounding. */
export function axis(low, high, size) {
  const a = Math.log10(low), b = Math.log10(high);
  return Array.from({ length: size }, (_, i) => 10 ** (a + ((b - a) * i) / (size - 1)));
}

/** Where a rate lies on an axis, in cells; may lie outside. */
export function place(rates, rate) {
  return (Math.log(rate / rates[0]) / Math.log(rates.at(-1) / rates[0])) * (rates.length - 1);
}

/** What a cell of the map holds: validation loss after the last step. */
export function cell(problem, rate1, rate2) {
  return evaluate(train(problem, rate1, rate2), problem.validation.inputs, problem.validation.targets).loss;
}
