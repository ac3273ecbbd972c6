// Holds ONNX models and answers jobs: under node one JSON line in, one out; in a browser from a server on the loopback.
//
//     node onnx_worker.mjs FOLDER/node_modules onnxruntime-web|onnxruntime-node
//
// {job: "load", model: base64} gives {model: number}; {job: "run", model: number, feeds: {name: {dtype, shape, data:
// base64}}} gives {outputs: {name: {dtype, shape, data}}}; what goes wrong gives {error: text}. Bytes travel as they are,
// so that no digit is lost.

const KINDS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array,
  int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};

function toBytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function toBase64(data) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

export function makeWorker(ort, provider) {
  const sessions = [];
  const options = { executionProviders: [provider], intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4 };
  return async (job) => {
    try {
      if (job.job === "load") {
        sessions.push(await ort.InferenceSession.create(toBytes(job.model), options));
        return { model: sessions.length - 1 };
      }
      const feeds = {};
      for (const [name, one] of Object.entries(job.feeds)) {
        feeds[name] = new ort.Tensor(one.dtype, new KINDS[one.dtype](toBytes(one.data).buffer), one.shape);
      }
      const outputs = {};
      for (const [name, one] of Object.entries(await sessions[job.model].run(feeds))) {
        outputs[name] = { dtype: one.type, shape: one.dims, data: toBase64(one.data) };
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
  const work = makeWorker(ort, "wasm");
  let answer = { runs: navigator.userAgent };
  for (;;) {
    const response = await fetch("/job", { method: "POST", body: JSON.stringify(answer) });
    const job = await response.json();
    if (job.job === "wait") answer = { waited: true };
    else if (job.job === "stop") return;
    else answer = await work(job);
  }
}

async function main([folder, name]) {
  const [fs, path, url, readline] = await Promise.all(["fs", "path", "url", "readline"].map((one) => import(`node:${one}`)));
  const described = JSON.parse(fs.readFileSync(path.join(folder, name, "package.json"), "utf8"));
  const web = name === "onnxruntime-web";
  const entry = web ? described.exports["."].node.import : described.main;
  const loaded = await import(url.pathToFileURL(path.join(folder, name, entry)));
  const ort = loaded.InferenceSession ? loaded : loaded.default;
  if (web) ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const work = makeWorker(ort, web ? "wasm" : "cpu");
  console.log(JSON.stringify({ runs: `node ${process.version.slice(1)}` }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await work(JSON.parse(line))));
  }
  process.exit(0);
}

if (typeof process !== "undefined" && process.argv?.[1]?.endsWith("onnx_worker.mjs")) await main(process.argv.slice(2));
