// The trained network as an ONNX file: raw rows in, probability out. Field numbers are those of onnx.proto.

const VARINT = 0, BYTES = 2, FLOAT = 1, INT64 = 7;

function varint(value) {
  const out = [];
  for (; value > 127; value = Math.floor(value / 128)) out.push((value % 128) | 128);
  return [...out, value];
}

/** Fields of one message: [number, value] with a value that is a whole number, a text, bytes or a message. */
function message(...fields) {
  return Uint8Array.from(fields.flatMap(([field, value]) => {
    if (typeof value === "number") return [...varint(field * 8 + VARINT), ...varint(value)];
    const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
    return [...varint(field * 8 + BYTES), ...varint(bytes.length), ...bytes];
  }));
}

function tensor(name, shape, values) {
  const little = new Uint8Array(Float32Array.from(values).buffer);
  return message(...shape.map((size) => [1, size]), [2, FLOAT], [8, name], [9, little]);
}

/** shape: whole numbers, or a name for what may be any. */
function value(name, shape) {
  const dims = shape.map((size) => [1, message(typeof size === "number" ? [1, size] : [2, size])]);
  return message([1, name], [2, message([1, message([1, FLOAT], [2, message(...dims)])])]);
}

function node(op, inputs, output, attributes = []) {
  const named = attributes.map(([name, number]) => [5, message([1, name], [3, number], [20, 2])]); // 2: an INT
  return message(...inputs.map((input) => [1, input]), [2, output], [3, output], [4, op], ...named);
}

/** weights [61] as train.mjs keeps them; notes: pairs of texts for the file's metadata. */
export function onnxFile(weights, mean, inverseStd, notes = {}) {
  const transposed = [["transB", 1]];
  const graph = message(
    [1, node("Sub", ["rows", "mean"], "centred")],
    [1, node("Mul", ["centred", "inverse_std"], "standardized")],
    [1, node("Gemm", ["standardized", "layer1.weight", "layer1.bias"], "layer1", transposed)],
    [1, node("Relu", ["layer1"], "relu")],
    [1, node("Gemm", ["relu", "layer2.weight", "layer2.bias"], "layer2", transposed)],
    [1, node("Sigmoid", ["layer2"], "probability")],
    [2, "lesson"],
    [5, tensor("mean", [10], mean)],
    [5, tensor("inverse_std", [10], inverseStd)],
    [5, tensor("layer1.weight", [5, 10], weights.subarray(0, 50))],
    [5, tensor("layer1.bias", [5], weights.subarray(50, 55))],
    [5, tensor("layer2.weight", [1, 5], weights.subarray(55, 60))],
    [5, tensor("layer2.bias", [1], weights.subarray(60, 61))],
    [11, value("rows", ["batch", 10])],
    [12, value("probability", ["batch", 1])],
  );
  const metadata = Object.entries(notes).map(([key, text]) => [14, message([1, key], [2, text])]);
  return message([1, INT64 + 1], [2, "lrdiff lesson"], [7, graph], [8, message([1, ""], [2, 17])], ...metadata);
}
