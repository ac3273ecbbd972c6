// Runs ONNX files with ONNX Runtime's JavaScript packages. Check a file against the golden vectors beside it, in node
//
//     npm install onnxruntime-web
//     node onnx_worker.mjs model.onnx
//
// or in a browser: import { check } and hand it the three files' bytes and the `ort` module; where `document.data` names
// a file of weights (of a model past 2 GiB), its bytes, too. Exit status as of `lrdiff`: 0 agrees, 1 differs, 2 the
// files cannot be used, 3 onnxruntime-web is not here.
//
// `--serve FOLDER/node_modules onnxruntime-web|onnxruntime-node` answers jobs, a line of JSON each; `serve` does so in a
// browser, from a server on the loopback. {job: "load", model: place, weights: {name: place}} gives {model: number},
// where a place is a path or an address; {job: "run", model: number, feeds: {name: {dtype, shape, data: base64, or words}}} gives
// {outputs: {name: {dtype, shape, data}}}; what goes wrong gives {error: text}.

const KINDS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array,
  int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};
const NUMPY = {
  "<f4": "float32", "<f8": "float64", "<f2": "float16", "<i8": "int64", "<i4": "int32", "|i1": "int8", "|u1": "uint8",
  "|b1": "bool",
};
const FLOATS = { float16: [2 ** -10, 2 ** -14], float32: [2 ** -23, 2 ** -126], float64: [2 ** -52, 2 ** -1022] }; // eps, smallest normal number

// weights: { name: bytes } of a second file
async function open(ort, model, provider, weights = {}) {
  const externalData = Object.entries(weights).map(([path, data]) => ({ path, data }));
  return ort.InferenceSession.create(model, {
    executionProviders: [provider], intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4,
    ...(externalData.length ? { externalData } : {}),
  });
}

function feed(ort, arrays) {
  const tensors = {};
  for (const [name, one] of Object.entries(arrays)) tensors[name] = new ort.Tensor(one.dtype, one.data, one.shape);
  return tensors;
}

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
    if (Object.hasOwn(arrays, key)) throw new Error(`${key} stands twice in the npz file`);
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
  const descr = /'descr': '([^']+)'/.exec(header)?.[1];
  const letters = /^<U(\d+)$/.exec(descr)?.[1];
  const dtype = letters ? "string" : NUMPY[descr];
  if (!dtype || /'fortran_order': True/.test(header)) throw new Error(`cannot read an array of ${header.trim()}`);
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((s) => s.trim()).map(Number);
  const size = shape.reduce((a, b) => a * b, 1);
  const data = letters ? readWords(bytes.slice(start), Number(letters), size) : new KINDS[dtype](bytes.slice(start).buffer);
  if (letters ? bytes.length - start !== 4 * letters * size : data.length !== size) throw new Error(`an array of ${header.trim()} has another size`);
  return { dtype, shape, data };
}

// NumPy's strings: so many code points of four bytes each, zeros after the end.
function readWords(bytes, letters, count) {
  const points = new Uint32Array(bytes.buffer);
  return Array.from({ length: count }, (_, word) => {
    const own = points.subarray(word * letters, (word + 1) * letters);
    return String.fromCodePoint(...own.subarray(0, own.findLastIndex((one) => one !== 0) + 1));
  });
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, digits = bits & 1023;
  if (exponent === 31) return digits ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + digits / 1024) * 2 ** (exponent - 15) : digits * 2 ** -24);
}

function numbers(dtype, data) {
  return dtype === "float16" && data instanceof Uint16Array ? Float64Array.from(data, half) : data;
}

// Judges as lrdiff_export.verify does: units of eps at the output's scale for floats, equality for the rest. No budget is
// believed that arithmetic does not explain: at most half of the digits, and whole numbers are exact.
export async function check(ort, model, vectors, document, weights, provider = "wasm") {
  if (document.format !== "lrdiff.golden" || document.version !== 1) throw new Error("no golden vectors of version 1");
  const arrays = readNpz(vectors);
  const [inputs, answers] = ["input", "output"].map((kind) => document[`${kind}s`].map((_, i) => arrays[`${kind}${i}`]));
  const session = await open(ort, model, provider, weights ? { [document.data.name]: weights } : {});
  const same = (said, names) => JSON.stringify(said.map((one) => one.name).sort()) === JSON.stringify([...names].sort());
  const rows = answers[0]?.shape[0];
  if (!same(document.inputs, session.inputNames) || !same(document.outputs, session.outputNames) || !(rows > 0)
    || [...inputs, ...answers].some((one) => one.shape[0] !== rows)) {
    throw new Error("the golden vectors are not of this model's inputs and outputs, or have no rows");
  }
  const outputs = await session.run(feed(ort, Object.fromEntries(document.inputs.map((one, i) => [one.name, inputs[i]]))));
  const verdicts = document.outputs.map((wanted, i) => judge(wanted, answers[i], outputs[wanted.name]));
  return { passed: verdicts.every((one) => one.reason === null), rows, verdicts };
}

function judge({ name, dtype, unit, allowed }, answer, given) {
  const verdict = { output: name, allowed, error: 0, reason: null };
  const floating = Object.hasOwn(FLOATS, dtype), right = numbers(answer.dtype, answer.data);
  if (![unit, allowed].every(Number.isFinite) || !right.length) throw new Error(`the golden vectors of ${name} have no budget, or no answers`);
  if (floating) {
    const [eps, smallest] = FLOATS[dtype];
    const scale = right.reduce((most, one) => Math.max(most, Math.abs(one)), 0);
    const most = Math.max(eps * scale, smallest) / Math.sqrt(eps);
    if (!Object.hasOwn(FLOATS, answer.dtype) || !right.every(Number.isFinite)) throw new Error(`the answers of ${name} are not finite floating numbers`);
    if (!(allowed >= 0 && unit > 0 && allowed * unit <= most)) {
      throw new Error(`the golden vectors allow more of ${name} than ${dtype} loses: ${allowed} times ${unit}`);
    }
  } else if (!Object.hasOwn(KINDS, dtype) || answer.dtype !== dtype || allowed !== 0 || (unit !== 0 && unit !== 1)) {
    throw new Error(`the golden vectors allow ${name} to be off by ${unit} from ${answer.dtype}, and ${dtype} is exact`);
  }
  if (!given) return { ...verdict, reason: "no such output" };
  if (given.type !== dtype) return { ...verdict, reason: `dtype ${given.type} instead of ${dtype}` };
  if (given.dims.join() !== answer.shape.join()) return { ...verdict, reason: `shape ${given.dims} instead of ${answer.shape}` };
  const ours = numbers(dtype, given.data), near = unit === 1 && dtype !== "bool";
  for (let k = 0; k < right.length; k++) {
    if (floating) {
      if (!Number.isFinite(ours[k])) return { ...verdict, reason: `element ${k} is ${ours[k]}` };
      verdict.error = Math.max(verdict.error, Math.abs(ours[k] - right[k]) / unit);
    } else {
      const next = typeof right[k] === "bigint" ? 1n : 1;
      const holds = ours[k] === right[k] || (near && (ours[k] + next === right[k] || right[k] + next === ours[k]));
      if (!holds) return { ...verdict, reason: `element ${k} is ${ours[k]}, not ${right[k]}` };
    }
  }
  if (!(verdict.error <= allowed)) verdict.reason = `error ${verdict.error.toPrecision(4)} eps, allowed ${allowed.toPrecision(4)}`;
  return verdict;
}

function toBytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function toBase64(data) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

// read: from a place to bytes
function makeWorker(ort, provider, read) {
  const sessions = [];
  return async (job) => {
    try {
      if (job.job === "load") {
        const weights = {};
        for (const [name, place] of Object.entries(job.weights)) weights[name] = await read(place);
        return { model: sessions.push(await open(ort, await read(job.model), provider, weights)) - 1 };
      }
      const given = Object.entries(job.feeds);
      const feeds = given.map(([name, one]) => [name, { ...one, data: one.dtype === "string" ? one.data : new KINDS[one.dtype](toBytes(one.data).buffer) }]);
      const outputs = {};
      for (const [name, one] of Object.entries(await sessions[job.model].run(feed(ort, Object.fromEntries(feeds))))) {
        outputs[name] = { dtype: one.type, shape: one.dims, data: one.type === "string" ? one.data : toBase64(one.data) };
      }
      return { outputs };
    } catch (problem) {
      return { error: String(problem?.message ?? problem) };
    }
  };
}

// In a browser: asks for jobs until it is told to stop.
export async function serve(ort) {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const work = makeWorker(ort, "wasm", async (address) => new Uint8Array(await (await fetch(address)).arrayBuffer()));
  let answer = { runs: navigator.userAgent };
  for (;;) {
    const response = await fetch("/job", { method: "POST", body: JSON.stringify(answer) });
    const job = await response.json();
    if (job.job === "wait") answer = { waited: true };
    else if (job.job === "stop") return;
    else answer = await work(job);
  }
}

async function load(folder, name) {
  const [fs, path, url] = await Promise.all(["fs", "path", "url"].map((one) => import(`node:${one}`)));
  const described = JSON.parse(fs.readFileSync(path.join(folder, name, "package.json"), "utf8"));
  const web = name === "onnxruntime-web";
  const entry = web ? described.exports["."].node.import : described.main;
  const loaded = await import(url.pathToFileURL(path.join(folder, name, entry)));
  const ort = loaded.InferenceSession ? loaded : loaded.default;
  if (web) ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  return { ort, provider: web ? "wasm" : "cpu" };
}

async function answerLines(folder, name) {
  const [fs, readline] = await Promise.all(["fs", "readline"].map((one) => import(`node:${one}`)));
  const { ort, provider } = await load(folder, name);
  const work = makeWorker(ort, provider, (path) => new Uint8Array(fs.readFileSync(path)));
  console.log(JSON.stringify({ runs: `node ${process.version.slice(1)}` }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await work(JSON.parse(line))));
  }
  process.exit(0);
}

async function checkFile(args) {
  const [fs, path, crypto] = await Promise.all(["fs", "path", "crypto"].map((one) => import(`node:${one}`)));
  const fail = (status, message, help) => {
    process.stderr.write(`error: ${message}\nhelp: ${help}\n`);
    process.exitCode = status;
  };
  if (args.length !== 1) return fail(2, "name one ONNX file", "node onnx_worker.mjs model.onnx");
  const folder = path.resolve("node_modules");
  let ort;
  try {
    ({ ort } = await load(folder, "onnxruntime-web"));
  } catch (problem) {
    return fail(3, `onnxruntime-web cannot be loaded from ${folder}`, "run `npm install onnxruntime-web` in this folder");
  }
  const read = (file) => new Uint8Array(fs.readFileSync(file));
  const hash = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");
  try {
    const stem = args[0].replace(/\.[^./\\]+$/, "");
    const [model, vectors] = [args[0], `${stem}.golden.npz`].map(read);
    const document = JSON.parse(fs.readFileSync(`${stem}.golden.json`, "utf8"));
    let weights;
    if (document.data) {
      if (document.data.name !== path.basename(document.data.name)) throw new Error("weights outside the model's folder");
      weights = read(path.join(path.dirname(args[0]), document.data.name));
    }
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

if (typeof process !== "undefined" && process.argv?.[1]?.endsWith("onnx_worker.mjs")) {
  const args = process.argv.slice(2);
  await (args[0] === "--serve" ? answerLines(args[1], args[2]) : checkFile(args));
}
