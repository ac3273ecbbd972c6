// Check a proof bundle with ONNX Runtime in node: every file must be the one that the manifest names, and the model must
// answer the golden rows within its budgets, as verify.py says.
//
//     npm install onnxruntime-node        (in the folder that holds the bundle, or above it)
//     node bundle/verify.mjs
//
// Exit status: 0 everything holds, 1 something does not, 2 it cannot be checked here.

import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const MANIFEST = "manifest.json", SIGNATURE = "model.sig";

function filesBelow(folder, prefix = "") {
  return fs.readdirSync(path.join(folder, prefix), { withFileTypes: true }).flatMap((entry) => {
    const name = prefix + entry.name;
    if (entry.isSymbolicLink()) throw new Error(`${name} is a link`);
    return entry.isDirectory() ? filesBelow(folder, `${name}/`) : [name];
  });
}

function checkFiles(folder, manifest) {
  if (manifest.format !== "lrdiff.bundle" || manifest.version !== 1) throw new Error(`${MANIFEST} is not the manifest of a bundle of version 1`);
  const wanted = Object.keys(manifest.files), found = new Set(filesBelow(folder));
  const missing = [...wanted, ...(manifest.signature ? [SIGNATURE] : [])].find((name) => !found.has(name));
  if (missing !== undefined) throw new Error(`${missing} is missing`);
  const extra = [...found].find((name) => !wanted.includes(name) && name !== MANIFEST && name !== SIGNATURE);
  if (extra !== undefined) throw new Error(`${extra} is not in the manifest`);
  for (const name of wanted) {
    const bytes = fs.readFileSync(path.join(folder, name));
    const same = bytes.length === manifest.files[name].size && sha256(bytes) === manifest.files[name].sha256;
    if (!same) throw new Error(`${name} is not the file that the manifest names`);
  }
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

async function loadRuntime() {
  for (const [name, provider] of [["onnxruntime-node", "cpu"], ["onnxruntime-web", "wasm"]]) {
    try {
      const loaded = await import(name);
      const ort = loaded.InferenceSession ? loaded : loaded.default;
      if (provider === "wasm") ort.env.wasm.numThreads = 1;
      return { ort, provider, name };
    } catch (problem) {
      if (problem.code !== "ERR_MODULE_NOT_FOUND") throw problem;
    }
  }
  return null;
}

async function verify(folder, runtime) {
  const readJson = (name) => JSON.parse(fs.readFileSync(path.join(folder, name), "utf8"));
  const read = (name) => new Uint8Array(fs.readFileSync(path.join(folder, name)));
  const manifest = readJson(MANIFEST);
  checkFiles(folder, manifest);
  const proof = readJson("proof.json");
  const stem = proof.model.file.replace(/\.[^.]+$/, "");
  const document = readJson(`${stem}.golden.json`), model = read(proof.model.file);
  if (document.model_sha256 !== sha256(model)) throw new Error(`the golden rows belong to another file than ${proof.model.file}`);
  const { check } = await import("./onnx_worker.mjs");
  const weights = document.data ? read(document.data.name) : undefined;
  const report = await check(runtime.ort, model, read(`${stem}.golden.npz`), document, weights, runtime.provider);
  for (const one of report.verdicts) {
    if (one.reason) throw new Error(`${one.output}: ${one.reason}`);
    console.log(`${one.output}: ${report.rows} golden rows, max error ${one.error.toPrecision(3)} eps, allowed ${one.allowed.toPrecision(3)}`);
  }
  if (report.verdicts.length === 0) throw new Error("there are no golden rows");
  console.log([...proof.proven.map((text) => `proven: ${text}`), ...proof.outside.map((text) => `not proven: ${text}`)].join("\n"));
  console.log(manifest.signature ? "signed: `model_signing verify` checks it (see README.md)" : "unsigned: whoever changes a file can change the manifest, too");
}

const runtime = await loadRuntime();
if (runtime === null) {
  process.stderr.write("error: neither onnxruntime-node nor onnxruntime-web is installed\nhelp: npm install onnxruntime-node, in the folder that holds the bundle\n");
  process.exitCode = 2;
} else {
  try {
    await verify(path.resolve(process.argv[2] ?? path.dirname(fileURLToPath(import.meta.url))), runtime);
    console.log(`replayed with ${runtime.name}\nEVERYTHING HOLDS`);
    process.exitCode = 0;
  } catch (problem) {
    console.log(`DOES NOT HOLD: ${String(problem?.message ?? problem).split("\n")[0]}`);
    process.exitCode = 1;
  }
}
