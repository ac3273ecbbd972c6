"""Golden vectors: three files are enough, in any runtime, in Python and in JavaScript."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile import HOSTILE

from lrdiff_core.errors import ConfigError, DataError, ModelFileError, UnavailableError
from lrdiff_export import BACKENDS, export, verify_golden
from lrdiff_export.examples import ZOO
from lrdiff_export.runtimes.javascript.install import NODE_MODULES, PACKAGES
from lrdiff_export.runtimes.javascript.workers import WORKER
from lrdiff_export.verify.golden import golden_paths, read_golden


@pytest.fixture(scope="module", params=["main, binary", "two inputs", "scores and label"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sample = ZOO[request.param]
    file = tmp_path_factory.mktemp("golden") / "model.onnx"
    export(sample.module(), sample.example(), out=file, rows=tuple(sample.rows.values()), output_names=sample.outputs)
    return file


def copied(published: Path, folder: Path) -> Path:
    for path in published.parent.iterdir():
        shutil.copy(path, folder)
    return folder / published.name


@pytest.mark.slow
def test_three_files_agree_in_onnx_runtime_without_torch(published: Path, tmp_path: Path) -> None:
    file = copied(published, tmp_path)
    script = (
        "import sys; from lrdiff_export import verify_golden; report = verify_golden(sys.argv[1]);"
        "print(report.passed, report.problems, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True, text=True, cwd=tmp_path)
    assert (ran.stdout, ran.stderr) == ("True () False\n", "")


def test_the_answers_are_float64_and_the_document_names_everything(published: Path) -> None:
    golden = read_golden(published)
    report = verify_golden(published)
    assert report.passed
    assert report.sha256 == golden.model_sha256
    assert report.rows == len(golden.inputs[0]) > 30
    assert report.runtime.startswith("onnxruntime ")
    for output, budget in zip(golden.outputs, golden.budgets, strict=True):
        assert output.dtype == (np.float64 if budget.dtype == "float32" else np.dtype(budget.dtype))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passed"]


OTHERS = [name for name, one in BACKENDS.items() if one.needs_onnx and one.device == "cpu" and name != "onnxruntime"]


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] if BACKENDS[one].heavy else []) for one in OTHERS]
)
def test_every_other_runtime_of_files_agrees(name: str, published: Path, request: pytest.FixtureRequest) -> None:
    if BACKENDS[name].heavy:
        request.getfixturevalue("javascript")
    if (reason := BACKENDS[name].availability()) is not None:
        pytest.skip(reason)
    if BACKENDS[name].dtype is None:
        pytest.skip("it computes in bfloat16 where the CPU can")
    report = verify_golden(published, runtime=name)
    assert report.problems == ()
    assert report.runtime.split()[0] == {"onnx-reference": "onnx", "chromium": "onnxruntime-web"}.get(
        name, name if name in ("openvino", *PACKAGES) else "onnxruntime"
    )


def node(javascript: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", str(WORKER), *arguments], cwd=javascript, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_the_javascript_check_needs_nothing_of_ours(published: Path, javascript: Path, tmp_path: Path) -> None:
    file = copied(published, tmp_path)
    ran = node(javascript, str(file))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(": equal, error " in line for line in ran.stdout.splitlines())
    assert len(ran.stdout.splitlines()) == len(read_golden(file).outputs)


@pytest.mark.slow
def test_the_javascript_check_sees_a_wrong_weight_and_files_that_do_not_belong(
    javascript: Path, tmp_path: Path
) -> None:
    sample = ZOO["main, binary"]
    file = tmp_path / "model.onnx"
    export(sample.module(), sample.example(), out=file, rows=sample.rows["rows"], output_names=sample.outputs)
    spoil(file)
    ran = node(javascript, str(file))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {file} and the golden vectors do not belong together\nhelp: ")
    tell_hash(file)
    ran = node(javascript, str(file))
    assert ran.returncode == 1
    assert ran.stdout.startswith("probability: DIFFERENT: error ")
    file.write_bytes(b"hello")
    tell_hash(file)
    ran = node(javascript, str(file))
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) == 2
    ran = node(tmp_path, str(file))
    assert (ran.returncode, ran.stderr.splitlines()[1]) == (3, "help: run `npm install onnxruntime-web` in this folder")


def spoil(file: Path) -> None:
    model = onnx.load(file)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("layer2.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] *= 1.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    file.write_bytes(model.SerializeToString())


def tell_hash(file: Path) -> None:
    import hashlib

    document = golden_paths(file)[1]
    said = json.loads(document.read_text())
    said["model_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    document.write_text(json.dumps(said))


@pytest.fixture
def plain(tmp_path: Path, main_file: Path) -> Path:
    return copied(main_file, tmp_path)


@pytest.fixture(scope="module")
def main_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sample = ZOO["main, binary"]
    file = tmp_path_factory.mktemp("main") / "model.onnx"
    export(sample.module(), sample.example(), out=file, rows=sample.rows["rows"], output_names=sample.outputs)
    return file


@pytest.mark.slow
def test_a_wrong_weight_and_another_file_are_problems(plain: Path) -> None:
    spoil(plain)
    problems = verify_golden(plain).problems
    assert problems[0].startswith("output 'probability': error ")
    assert problems[1] == "model.onnx is not the file that the golden vectors were written for"
    tell_hash(plain)
    assert len(verify_golden(plain).problems) == 1


def test_any_runtime_can_be_brought(plain: Path, plant: Any) -> None:
    def half(model: Path, feeds: Any) -> Any:
        (output,) = BACKENDS["onnxruntime"].prepare(model)(*feeds.values())
        return {"probability": output.astype(np.float16).astype(np.float32)}

    report = verify_golden(plain, runtime=half)
    assert (report.passed, report.runtime) == (False, "half")
    assert verify_golden(plain, runtime=lambda model, feeds: {}).problems == ("output 'probability': no such output",)
    facts = {"facts": lambda self: {"ran_on": "cpu", "runtime": "mine 1.0"}, "__module__": "mine"}
    plant("mine")(type("Mine", (type(BACKENDS["onnxruntime"]),), facts))
    assert verify_golden(plain, runtime="mine").runtime == "mine 1.0"
    for wrong, message in (("yours", 'no backend "yours"'), ("eager", "eager runs a module, not an ONNX file")):
        with pytest.raises(ConfigError, match=f"^{message}\nhelp: backends"):
            verify_golden(plain, runtime=wrong)


def test_a_runtime_that_is_not_here_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NODE_MODULES, str(plain.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(plain.parent))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.chdir(plain.parent)
    with pytest.raises(UnavailableError, match=r"^(onnxruntime-web|node) is not installed"):
        verify_golden(plain, runtime="onnxruntime-web")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"^openvino is not installed"):
        verify_golden(plain, runtime="openvino")


def test_other_runtimes_get_no_file_that_the_sandbox_could_not_open(plain: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    plain.write_bytes(HOSTILE["cyclic"])
    tell_hash(plain)
    with pytest.raises(ModelFileError) as caught:
        verify_golden(plain, runtime="openvino")
    assert caught.value.message.startswith(f"{plain}")
    assert "openvino" not in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allowed", 1e300), ("allowed", math.inf), ("allowed", math.nan), ("allowed", -1.0), ("allowed", 1e4),
        ("unit", 1e300), ("unit", math.inf), ("unit", math.nan), ("unit", 0.0), ("unit", -1e-7), ("unit", 1e-2),
        ("dtype", "complex64"), ("dtype", "float16"), ("dtype", "int64"), ("dtype", "no-such"),
    ],
)  # fmt: skip
def test_no_budget_is_believed_that_arithmetic_does_not_explain(plain: Path, key: str, value: Any) -> None:
    document = golden_paths(plain)[1]
    said = json.loads(document.read_text())
    said["outputs"][0][key] = value
    document.write_text(json.dumps(said))
    if key == "dtype" and value == "float16":  # coarser: allowed as such, and the file's output is not of it
        assert verify_golden(plain).problems == ("output 'probability': dtype float32 instead of float16",)
        return
    with pytest.raises(ModelFileError, match=rf"^{document} is damaged: "):
        verify_golden(plain)


@pytest.mark.slow
def test_labels_are_exact_whatever_is_allowed(tmp_path: Path) -> None:
    sample, file = ZOO["scores and label"], tmp_path / "model.onnx"
    export(sample.module(), sample.example(), out=file, rows=sample.rows["rows"], output_names=sample.outputs)
    document = golden_paths(file)[1]
    said = json.loads(document.read_text())
    label = dict(said["outputs"][1])
    for key, value, message in (
        ("allowed", 1.0, "1 elements of label may differ"),
        ("unit", math.nan, "elements of label may be off by nan"),
        ("unit", 2.0, "elements of label may be off by 2"),
    ):
        said["outputs"][1] = label | {key: value}
        document.write_text(json.dumps(said))
        with pytest.raises(ModelFileError, match=f"{message}, and int64 is exact"):
            verify_golden(file)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("allowed", 1e300), ("unit", 1e300), ("allowed", -1)])
def test_javascript_believes_no_such_budget_either(plain: Path, javascript: Path, key: str, value: float) -> None:
    document = golden_paths(plain)[1]
    said = json.loads(document.read_text())
    said["outputs"][0][key] = value
    document.write_text(json.dumps(said))
    ran = node(javascript, str(plain))
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: the golden vectors allow more of probability than float32 loses: ")


def test_missing_and_damaged_golden_vectors_are_named(plain: Path) -> None:
    vectors, document = golden_paths(plain)
    text, data = document.read_bytes(), vectors.read_bytes()

    def message() -> str:
        with pytest.raises(ModelFileError) as caught:
            verify_golden(plain)
        assert "\n" not in caught.value.message
        return caught.value.message

    vectors.write_bytes(data[:-1])
    assert message() == f"{vectors} is not the file that {document.name} was written with"
    vectors.write_bytes(data)
    for damaged in (b"", b"{", b"[" * 100_000):
        document.write_bytes(damaged)
        assert message().startswith(f"{document} is not JSON: ")
    document.write_bytes(b"[]")
    assert message() == f"{document} holds no golden vectors of version 1"
    for key in ("inputs", "outputs", "model_sha256"):
        document.write_bytes(json.dumps({k: v for k, v in json.loads(text).items() if k != key}).encode())
        assert message() == f"{document} is damaged: '{key}'"
    document.unlink()
    assert message() == f"{document} does not exist: there are no golden vectors beside the model"
    document.write_bytes(text)
    plain.unlink()
    assert message() == f"{plain} does not exist"


def test_vectors_of_a_model_with_other_inputs_are_named(plain: Path) -> None:
    model = onnx.load(plain)
    model.graph.input[0].name = "columns"
    for node in model.graph.node:
        node.input[:] = ["columns" if name == "features" else name for name in node.input]
    plain.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="takes columns, the golden vectors have features"):
        verify_golden(plain)


def test_vectors_that_would_grow_or_break_what_reads_them_are_refused(plain: Path) -> None:
    import hashlib
    import io

    vectors, document = golden_paths(plain)
    text, said = document.read_text(), json.loads(document.read_text())
    zipped = io.BytesIO()
    np.savez_compressed(zipped, input0=np.zeros((10**6, 10), np.float32), output0=np.zeros((10**6, 1)))

    def write(data: bytes, **changes: Any) -> str:
        vectors.write_bytes(data)
        document.write_text(json.dumps(said | {"vectors_sha256": hashlib.sha256(data).hexdigest()} | changes))
        with pytest.raises(ModelFileError) as caught:
            verify_golden(plain)
        assert "\n" not in caught.value.message
        return caught.value.message.removeprefix(f"{document} is damaged: ")

    def stored(**arrays: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    whole = vectors.read_bytes()
    with np.load(io.BytesIO(whole)) as arrays:
        kept = dict(arrays)
    assert write(zipped.getvalue()) == "the vectors are compressed"
    assert write(stored(**kept | {"output0": kept["output0"][:-1]})).startswith("arrays of numbers are needed")
    assert write(stored(**kept | {"output0": np.array(["x"] * len(kept["output0"]))})).startswith("arrays of numbers")
    assert write(whole, outputs=[said["outputs"][0] | {"allowed": "much"}]) == "allowed is 'much', not a number"
    assert write(whole, inputs=[], outputs=[]).startswith("arrays of numbers are needed")
    assert write(whole, inputs=7) == "object of type 'int' has no len()"
    vectors.write_bytes(whole)
    document.write_text(text)
    plain.unlink()
    os.mkfifo(plain)
    with pytest.raises(ModelFileError, match="is not a file"):
        verify_golden(plain)
