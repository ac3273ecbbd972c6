"""Golden vectors have three verifiers, ours, a bundle's and one in JavaScript: what one refuses, all refuse."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lrdiff_core.errors import LrdiffError
from lrdiff_export import verify_golden
from lrdiff_export.publish.bundle_files import verify
from lrdiff_export.runtimes.javascript.workers import WORKER
from lrdiff_export.verify.golden import golden_paths

F4, F8, F2, I8 = np.float32, np.float64, np.float16, np.int64
A = F8([[0.1], [0.2], [0.3]])
ONE = I8([[1], [2], [3]])
BIG = I8([[2**62], [2**63 - 1], [-(2**63)]])
EPS = {F4: 2.0**-23, F8: 2.0**-52, F2: 2.0**-10}
FORGED = A + 1e6


def floating(kind: Any, answers: Any = A, given: Any = None, **budget: Any) -> dict[str, Any]:
    """A case of a floating output: 8 units of eps, unless it says otherwise."""
    given = kind(A if given is None else given)
    return {"answers": answers, "given": given, "unit": 0.3 * EPS[kind], "allowed": 8, **budget}


def exact(answers: Any = ONE, given: Any = ONE, **budget: Any) -> dict[str, Any]:
    """A case of an exact output."""
    return {"answers": answers, "given": given, "unit": 0, "allowed": 0, **budget}


HOLD = {
    "float32": floating(F4),
    "float64": floating(F8),
    "float16": floating(F2),
    "float16, denormal": floating(F2, F8([[6e-8], [0.0]]), [[6e-8], [0.0]], unit=2.0**-14),
    "half of the digits": floating(F4, given=A + 5e-5, allowed=2000),
    "int64": exact(),
    "int64 where the next one is as good": exact(given=ONE + I8([[1], [0], [-1]]), unit=1),
    "int64, the largest": exact(BIG, BIG - I8([[1], [1], [0]]), unit=1),
    "uint8": exact(np.uint8([[0], [255]]), np.uint8([[1], [254]]), unit=1),
    "bool": exact(ONE > 1, ONE > 1),
}
REFUSED = {
    "off by more": floating(F4, given=A + 1e-5),
    "far off": floating(F4, FORGED),
    "far off, a large allowance": floating(F4, FORGED, allowed=1e300),
    "far off, an infinite allowance": floating(F4, FORGED, allowed="1e400"),
    "far off, an infinite unit": floating(F4, FORGED, unit="1e400"),
    "far off, both negative": floating(F4, FORGED, allowed=-1e300, unit=-1e300),
    "right, both negative": floating(F4, allowed=-8, unit=-1e-8),
    "right, a unit of zero": floating(F4, unit=0),
    "infinite answers, an infinite allowance": floating(F4, F8([[np.inf], [2e5], [3e5]]), allowed="1e400"),
    "infinite answers and outputs": floating(F4, F8([[np.inf], [0.2], [0.3]]), [[np.inf], [0.2], [0.3]]),
    "NaN answers": floating(F4, A * np.nan),
    "NaN outputs": floating(F4, given=A * np.nan),
    "NaN answers and outputs": floating(F4, A * np.nan, A * np.nan),
    "answers of whole numbers": floating(F4, ONE, ONE),
    "answers of words": floating(F4, np.array([["a"], ["b"], ["c"]])),
    "no allowance": floating(F4, FORGED, allowed=None),
    "no unit": floating(F4, FORGED, unit=None),
    "an allowance in words": floating(F4, allowed="'8'"),
    "a unit in words": floating(F4, FORGED, unit="'x'"),
    "true as allowance": floating(F4, allowed="true"),
    "null as allowance": floating(F4, allowed="null"),
    "a list as allowance": floating(F4, allowed="[8]"),
    "no rows": floating(F4, A[:0], A[:0], allowed=0),
    "nothing in the rows": floating(F4, A[:, :0], A[:, :0], allowed=0),
    "another shape": floating(F4, A[:, 0]),
    "another dtype": floating(F4, dtype="float64"),
    "float64, NaN outputs": floating(F8, given=A * np.nan),
    "float64, off by 0.9 of a unit of 1": floating(F8, given=A + 0.9, unit=1),
    "float64, far off with a unit in words": floating(F8, FORGED, unit="'x'"),
    "float64, off by float32's eps": floating(F8, given=A + 1e-8),
    "float16, off": floating(F2, given=A + 0.01),
    "float16, NaN outputs": floating(F2, given=A * np.nan),
    "int64, off by one": exact(given=ONE + 1),
    "int64, off by two": exact(given=ONE + 2, unit=1),
    "int64, no unit": exact(given=ONE * 900, unit=None),
    "int64, a unit in words": exact(given=ONE * 900, unit="'x'"),
    "int64, a unit of 1000": exact(given=ONE * 900, unit=1000),
    "int64, a unit of a half": exact(unit=0.5),
    "int64, an allowance": exact(given=ONE * 900, allowed=3),
    "int64, NaN answers": exact(ONE * np.nan),
    "int64, NaN answers, the next one as good": exact(ONE * np.nan, unit=1),
    "int64, float answers": exact(ONE * 1.0),
    "int64, off by less than float64 tells": exact(BIG, BIG + I8([[100], [-100], [100]]), unit=1),
    "int64, from end to end": exact(BIG, BIG[::-1].copy(), unit=1),
    "uint8, from end to end": exact(np.uint8([[0]]), np.uint8([[255]]), unit=1),
    "bool, the other one is no next one": exact(ONE > 1, ONE > 2, unit=1),
    "complex": exact(dtype="complex64"),
    "no dtype": exact(dtype="no-such"),
    "a header of more rows than there are": floating(
        F4,
        given=[[0.1]] * 9,
        forge=lambda members: [(name, one.replace(b"(3, 1)", b"(9, 1)")) for name, one in members],
    ),
    "an array twice": floating(F4, forge=lambda members: [*members, members[1]]),
    "rows of another number": floating(F4, forge=lambda members: [npy("input0", np.zeros((2, 1), F4)), *members[1:]]),
    "compressed": floating(F4, compression=zipfile.ZIP_DEFLATED),
    "an output more": exact(more="another"),
    "an output twice": exact(more="y", twice=True),
}


def npy(name: str, array: np.ndarray) -> tuple[str, bytes]:
    """A member of an npz file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return f"{name}.npy", buffer.getvalue()


def write(folder: Path, case: dict[str, Any]) -> Path:
    """A model that gives what the case says, and the golden vectors of the case."""
    file = folder / "model.onnx"
    answers, given = case["answers"], case["given"]
    names = ["y", *(["z"] if "more" in case else [])]
    nodes = [helper.make_node("Identity", ["c"], [name]) for name in names]
    kind = helper.np_dtype_to_tensor_dtype(given.dtype)
    ports = [helper.make_tensor_value_info(name, kind, given.shape) for name in names]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])]
    graph = helper.make_graph(nodes, "graph", inputs, ports, [numpy_helper.from_array(given, "c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    file.write_bytes(model.SerializeToString())
    vectors, document = golden_paths(file)
    members = [npy("input0", np.zeros((len(answers), 1), F4)), npy("output0", answers), npy("output1", answers)]
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(vectors, "w", case.get("compression", 0)) as archive:
        for name, data in case.get("forge", list)(members):  # zipfile warns of a name that stands twice
            archive.writestr(name, data)
    output = {"name": "y", "dtype": case.get("dtype", given.dtype.name), "scale": 1.0, "eager_error": 1.0}
    output |= {"conditioning": 1.0, "shape": list(answers.shape)}
    raw = {key: case[key] for key in ("unit", "allowed") if case[key] is not None}
    said = {
        "format": "lrdiff.golden", "version": 1, "rows": 3, "inputs": [{"name": "x"}],
        "model_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "vectors_sha256": hashlib.sha256(vectors.read_bytes()).hexdigest(),
        "outputs": [output | {key: f"<{key}>" for key in raw}] * (2 if "twice" in case else 1),
    }  # fmt: skip
    text = json.dumps(said)
    for key, value in raw.items():
        text = text.replace(f'"<{key}>"', str(value).replace("'", '"'))
    document.write_text(text)
    return file


def holds(check: Any, *arguments: Any) -> bool:
    """Whether a verifier says so; it may refuse as it likes."""
    try:
        said = check(*arguments)
    except (LrdiffError, verify.BrokenError, zipfile.BadZipFile, KeyError, ValueError, TypeError):  # of verify.replay
        return False
    return bool(getattr(said, "passed", said))


# A runtime in JavaScript that answers what it is told: what is tried is the check, not ONNX Runtime.
NODE = """
import fs from "node:fs";
const [worker, folder] = process.argv.slice(2), { check, readNpz } = await import(worker);
for (const name of fs.readdirSync(folder)) {
  const read = (file) => new Uint8Array(fs.readFileSync(`${folder}/${name}/${file}`));
  const document = JSON.parse(new TextDecoder().decode(read("model.golden.json")));
  const { given, names } = JSON.parse(new TextDecoder().decode(read("said.json")));
  const { dtype, shape, data } = readNpz(read("given.npz")).given;
  const outputs = Object.fromEntries(names.map((one) => [one, { type: dtype, dims: shape, data }]));
  const session = { inputNames: ["x"], outputNames: names, run: async () => outputs };
  const ort = { Tensor: class {}, InferenceSession: { create: async () => session } };
  const checked = check(ort, null, read("model.golden.npz"), document);
  const said = await checked.then((one) => one.passed, (problem) => problem.message);
  console.log(JSON.stringify([name, said]));
}
"""


@pytest.mark.parametrize("name", [*HOLD, *REFUSED])
def test_both_verifiers_in_python_say_the_same(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, {**HOLD, **REFUSED}[name])
    ours = holds(verify_golden, file)
    bundled = holds(verify.replay, tmp_path, {"model": {"file": file.name}})
    assert (ours, bundled) == (name in HOLD, name in HOLD)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_javascript_says_the_same(tmp_path: Path) -> None:
    cases = {**HOLD, **REFUSED}
    for name, case in cases.items():
        folder = tmp_path / "cases" / name.replace("/", " ")
        folder.mkdir(parents=True)
        write(folder, case)
        np.savez(folder / "given.npz", given=case["given"])
        (folder / "said.json").write_text(json.dumps({"names": ["y", *(["z"] if "more" in case else [])]}))
    (tmp_path / "run.mjs").write_text(NODE)
    command = ["node", str(tmp_path / "run.mjs"), str(WORKER), str(tmp_path / "cases")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    said = dict(json.loads(line) for line in ran.stdout.splitlines())
    assert said.keys() == cases.keys()
    assert {name: one for name, one in said.items() if (one is True) != (name in HOLD)} == {}
    assert not [one for one in said.values() if "undefined" in str(one) or "not a function" in str(one)]
