// Checks an ONNX file against the golden vectors beside it with onnxruntime-web: in node
//
//     npm install onnxruntime-web
//     node check_golden.mjs model.onnx
//
// or in a browser: import { check } and hand it the three files' bytes and the `ort` module, and the bytes of the file
// that `document.data.name` names where there is one: weights of a model past 2 GiB. Exit status as of `lrdiff`: 0 agrees, 1 differs, 2 the files cannot be used, 3 onnxruntime-web is not here.

const TYPES = {
  "<f4": ["float32", Float32Array], "<f8": ["float64", Float64Array], "<i8": ["int64", BigInt64Array],
  "<i4": ["int32", Int32Array], "|i1": ["int8", Int8Array], "|u1": ["uint8", Uint8Array], "|b1": ["bool", Uint8Array],
};
const SMALLEST_NORMAL = 2 ** -126;

// A zip archive of stored .npy members, as numpy.savez writes it -> { name: { dtype, shape, data } }
export function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("not an npz file");
  const arrays = {};
  let at = view.getUint32(end + 16, true);
  for (let count = view.getUint16(end + 10, true); count > 0; count--) {
    const [method, size] = [view.getUint16(at + 10, true), view.getUint32(at + 24, true)];
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true);
    const key = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + name)).replace(/\.npy$/, "");
    if (method !== 0) throw new Error("a compressed npz file: write it with numpy.savez");
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[key] = readNpy(bytes.subarray(start, start + size));
    at += 46 + name + extra + comment;
  }
  return arrays;
}

function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6] > 1;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = (wide ? 12 : 10) + length;
  const header = new TextDecoder().decode(bytes.subarray(wide ? 12 : 10, start));
  const descr = /'descr': '([^']+)'/.exec(header)[1];
  if (!(descr in TYPES) || /'fortran_order': True/.test(header)) throw new Error(`cannot read an array of ${descr}`);
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((s) => s.trim()).map(Number);
  const [dtype, Kind] = TYPES[descr];
  return { dtype, shape, data: new Kind(bytes.slice(start).buffer) };
}

export async function runModel(ort, model, feeds, externalData = []) {
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], externalData });
  const tensors = {};
  for (const [name, one] of Object.entries(feeds)) tensors[name] = new ort.Tensor(one.dtype, one.data, one.shape);
  return session.run(tensors);
}

// Judges as lrdiff_export.verify.tolerance does: units of eps at the output's scale for floats, equality for the rest.
export async function check(ort, model, vectors, document, weights) {
  if (document.format !== "lrdiff.golden" || document.version !== 1) throw new Error("no golden vectors of version 1");
  const arrays = readNpz(vectors);
  const feeds = Object.fromEntries(document.inputs.map((one, i) => [one.name, arrays[`input${i}`]]));
  const outputs = await runModel(ort, model, feeds, weights ? [{ path: document.data.name, data: weights }] : []);
  const verdicts = document.outputs.map((wanted, i) => {
    const answer = arrays[`output${i}`], given = outputs[wanted.name];
    const verdict = { output: wanted.name, allowed: wanted.allowed, error: 0, reason: null };
    if (!given) return { ...verdict, reason: "no such output" };
    if (given.type !== wanted.dtype) return { ...verdict, reason: `dtype ${given.type} instead of ${wanted.dtype}` };
    if (given.dims.join() !== answer.shape.join()) return { ...verdict, reason: `shape ${given.dims} instead of ${answer.shape}` };
    const floating = wanted.dtype === "float32";
    const unit = Math.max(wanted.unit, SMALLEST_NORMAL);
    for (let k = 0; k < answer.data.length; k++) {
      if (floating && !Number.isFinite(given.data[k])) return { ...verdict, reason: `element ${k} is ${given.data[k]}` };
      if (floating) verdict.error = Math.max(verdict.error, Math.abs(given.data[k] - answer.data[k]) / unit);
      else if (given.data[k] !== answer.data[k]) verdict.reason = `element ${k} is ${given.data[k]}, not ${answer.data[k]}`;
    }
    if (verdict.error > wanted.allowed) verdict.reason = `error ${verdict.error.toPrecision(4)} eps, allowed ${wanted.allowed.toPrecision(4)}`;
    return verdict;
  });
  return { passed: verdicts.every((one) => one.reason === null), rows: document.rows, verdicts };
}

async function main(args) {
  const [fs, path, url, crypto] = await Promise.all(["fs", "path", "url", "crypto"].map((name) => import(`node:${name}`)));
  const fail = (status, message, help) => {
    process.stderr.write(`error: ${message}\nhelp: ${help}\n`);
    process.exitCode = status;
  };
  const at = args.indexOf("--modules");
  const folder = at < 0 ? path.resolve("node_modules") : args.splice(at, 2)[1];
  let ort;
  try {
    const described = JSON.parse(fs.readFileSync(path.join(folder, "onnxruntime-web", "package.json"), "utf8"));
    ort = await import(url.pathToFileURL(path.join(folder, "onnxruntime-web", described.exports["."].node.import)));
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
  } catch (problem) {
    return fail(3, `onnxruntime-web cannot be loaded from ${folder}`, "run `npm install onnxruntime-web` in this folder");
  }
  const read = (file) => new Uint8Array(fs.readFileSync(file));
  const stemOf = (model) => model.replace(/\.[^./\\]+$/, "");
  const weightsOf = (model, document) => {
    if (!document.data) return undefined;
    if (document.data.name !== path.basename(document.data.name)) throw new Error("weights outside the model's folder");
    return read(path.join(path.dirname(model), document.data.name));
  };
  try {
    if (args[0] === "--run") {
      const given = Object.entries(readNpz(new Uint8Array(fs.readFileSync(args[2]))));  // keys are "x:" and the name
      const feeds = Object.fromEntries(given.map(([key, one]) => [key.slice(2), one]));
      const beside = `${stemOf(args[1])}.golden.json`;
      const document = fs.existsSync(beside) ? JSON.parse(fs.readFileSync(beside, "utf8")) : {};
      const weights = weightsOf(args[1], document);
      const outputs = await runModel(ort, read(args[1]), feeds, weights ? [{ path: document.data.name, data: weights }] : []);
      const plain = (v) => (typeof v === "bigint" || !Number.isFinite(v) ? String(v).replace("Infinity", "inf") : v);
      const answer = Object.entries(outputs).map(([k, t]) => [k, { dtype: t.type, shape: t.dims, data: Array.from(t.data, plain) }]);
      return fs.writeFileSync(args[3], JSON.stringify(Object.fromEntries(answer)));
    }
    if (args.length !== 1) return fail(2, "name one ONNX file", "node check_golden.mjs model.onnx");
    const stem = stemOf(args[0]);
    const [model, vectors] = [args[0], `${stem}.golden.npz`].map(read);
    const document = JSON.parse(fs.readFileSync(`${stem}.golden.json`, "utf8"));
    const weights = weightsOf(args[0], document);
    const hash = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");
    const belong = hash(model) === document.model_sha256 && hash(vectors) === document.vectors_sha256;
    if (!belong || (weights && hash(weights) !== document.data.sha256)) {
      return fail(1, `${args[0]} and the golden vectors do not belong together`, "get the three files from one export");
    }
    const report = await check(ort, model, vectors, document, weights);
    for (const one of report.verdicts) {
      const result = one.reason ? `DIFFERENT: ${one.reason}` : `equal, error ${one.error.toPrecision(3)} of ${one.allowed.toPrecision(3)} eps`;
      console.log(`${one.output}: ${result}`);
    }
    process.exitCode = report.passed ? 0 : 1;
  } catch (problem) {
    fail(2, String(problem.message ?? problem).split("\n")[0], "the model or its golden vectors cannot be used here");
  }
}

if (typeof process !== "undefined" && process.argv?.[1]?.endsWith("check_golden.mjs")) await main(process.argv.slice(2));
