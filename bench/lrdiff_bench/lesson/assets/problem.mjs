// From what data.py embeds to what train.mjs takes.
import { FEATURES, standardize } from "./train.mjs";

const PARTS = ["train", "validation", "test"];

/** Base64 to a typed array; the page and every machine it is read on are little-endian. */
export function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

/** One seed: raw rows, labels, and for each part its rows raw and standardized, targets, and row numbers. */
export function makeProblem(packed, { epochs, batchSize }) {
  const rows = unpack(packed.rows, Float32Array), labels = unpack(packed.labels, Uint8Array);
  const part = unpack(packed.part, Uint8Array);
  const mean = unpack(packed.mean, Float32Array), inverseStd = unpack(packed.inverseStd, Float32Array);
  const problem = {
    seed: packed.seed, epochs, batchSize, rows, labels, mean, inverseStd,
    firstWeights: unpack(packed.firstWeights, Float32Array), order: unpack(packed.order, Uint16Array),
  };
  PARTS.forEach((name, number) => {
    const index = [...part.keys()].filter((row) => part[row] === number);
    const raw = new Float32Array(index.length * FEATURES);
    index.forEach((row, i) => raw.set(rows.subarray(row * FEATURES, (row + 1) * FEATURES), i * FEATURES));
    problem[name] = {
      index, raw, inputs: standardize(raw, mean, inverseStd), targets: Float32Array.from(index, (row) => labels[row]),
    };
  });
  return problem;
}
