"""A table's own model with categories, dates and gaps, from the exporter to everything that takes its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrdiff_core import ModelSpec, Predictor, build_model
from lrdiff_core.data import ColumnSpec
from lrdiff_core.errors import DataError, UnavailableError
from lrdiff_export import (
    ExportReport,
    OnnxPredictor,
    Port,
    check_parity,
    check_subjects,
    export,
    measure_latency,
    model_card,
    read_model_card,
    subject_of_file,
    text_inputs_of,
    verify_bundle,
    verify_golden,
    verify_onnx,
)
from lrdiff_export.publish.columns_card import columns_of_card
from lrdiff_export.runtimes.javascript import backend
from lrdiff_export.runtimes.sandbox import inspect_untrusted

COLUMNS = (
    ColumnSpec(name="age", flags_missing=True),
    ColumnSpec(name="colour", kind="category", categories=("blue", "gr\u00fcn", "red wine")),
    ColumnSpec(name="born", kind="date"),
    ColumnSpec(name="at", kind="time"),
    ColumnSpec(name="features", kind="category", categories=("a", "b|c")),
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """With weights of its own, and a standardisation of its rows."""
    spec = ModelSpec(
        features=5, hidden=(4,), outputs=1, task="binary", feature_names=tuple(one.name for one in COLUMNS),
        classes=("no", "yes"), target_name="answer", fills_missing=True, columns=COLUMNS,
    )  # fmt: skip
    net = build_model(spec, seed=0)
    assert net.encode is not None
    net.standardize.fit(net.encode(torch.from_numpy(rows())).numpy(), fill="median")
    return Predictor(net)


def rows() -> np.ndarray:
    """Numbers, codes, days and seconds, with a gap."""
    draw = np.random.default_rng(0)
    parts = [draw.normal(40, 10, 60), draw.integers(0, 4, 60), draw.integers(0, 20_000, 60)]
    made = np.stack([*parts, draw.integers(0, 86_400, 60), draw.integers(0, 3, 60)], axis=1).astype(np.float32)
    made[3, 0] = np.nan
    return made


@pytest.fixture(scope="module")
def bundled(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    """The file, and a bundle beside it."""
    file = tmp_path_factory.mktemp("table") / "model.onnx"
    report = export(
        predictor, torch.from_numpy(rows()[:2]), out=file, rows=rows(), output_names=["probability"],
        text=text_inputs_of(predictor, output_names=["probability"]), card=model_card(predictor),
        bundle=file.with_name("bundle"),
    )  # fmt: skip
    return file, report


@pytest.mark.slow
def test_a_bundle_of_a_file_that_takes_words_holds(bundled: tuple[Path, ExportReport]) -> None:
    """Its verifier, its card, its snippets and its configuration know strings; what takes none is said not to."""
    file, report = bundled
    folder = file.with_name("bundle")
    assert report.bundle is not None
    if "openvino" in sys.modules:
        assert "needs ai.onnx.ml" in report.bundle.replayed["openvino"]
    for script, said in (("verify.py", "EVERYTHING HOLDS"), ("snippets/predict.py", "probability float32 (2, 1)")):
        ran = subprocess.run([sys.executable, folder / script], capture_output=True, text=True, check=True)
        assert said in ran.stdout
    assert verify_bundle(folder).passed
    card = (folder / "README.md").read_text()
    for text in (
        "| colour | `colour` |",
        "| born | `features`, column 1 | days since 1970-01-01",
        "b\\|c",
        "`features_`",
    ):
        assert text in card
    assert "5 known words" in card
    assert "data_type: TYPE_STRING dims: [ 1 ]" in (folder / "serving" / "config.pbtxt").read_text()
    request = next(line for line in (folder / "serving" / "kserve.yaml").read_text().splitlines() if '"inputs"' in line)
    kinds = {one["name"]: (one["datatype"], one["shape"]) for one in json.loads(request.removeprefix("# "))["inputs"]}
    assert kinds == {"features": ("FP32", [1, 3]), "colour": ("BYTES", [1, 1]), "features_": ("BYTES", [1, 1])}
    assert "FillStringTensor" in (folder / "snippets" / "predict.cpp").read_text()
    assert "DenseTensor<string>" in (folder / "snippets" / "Predict.cs").read_text()
    if backend.NodeBackend().availability() is None:
        ran = subprocess.run(["node", folder / "verify.mjs"], capture_output=True, text=True, check=False)
        assert "EVERYTHING HOLDS" in ran.stdout or "neither" in ran.stderr


@pytest.mark.slow
def test_everything_that_takes_the_file_takes_its_words(
    bundled: tuple[Path, ExportReport], predictor: Predictor
) -> None:
    """Parity of the network and of the file, latency, comparison with the module, the golden rows of OpenVINO."""
    file, _ = bundled
    text = text_inputs_of(predictor, output_names=["probability"])
    assert text is not None
    assert inspect_untrusted(file).takes_words
    names = ["eager", "onnxruntime", "onnx-reference", "openvino"]
    report = check_parity(predictor, rows(), onnx_bytes_or_path=file, backends=names)
    assert {one.status for one in report.results} <= {"agrees", "unavailable"}
    assert "behind the encoders" in report.reference
    alone = check_subjects({"file": subject_of_file(file)}, backends=names[1:])["file"]
    assert [one.status for one in alone.results] == ["agrees", "agrees", "unavailable"]
    with pytest.raises(UnavailableError, match="openvino"):
        verify_golden(file, runtime="openvino")
    times = measure_latency(file, rows(), module=predictor.eval(), text=text, calls=5, batches=(1, 7))
    assert [one.way for one in times.times] == ["run", "eager"] * 2
    assert verify_onnx(file, predictor, rows=rows(), text=text).passed
    given = text.split(rows())
    with pytest.raises(DataError, match="words"):
        OnnxPredictor(file).bind(*given)
    with pytest.raises(DataError, match="words"):
        OnnxPredictor(file).run(given[0], np.float32(given[1] == "blue"), given[2])


@pytest.mark.slow
def test_without_words_the_file_takes_codes(predictor: Predictor, tmp_path: Path) -> None:
    """One matrix, as before; other codes than those of training are refused by who runs it for us."""
    file, table = tmp_path / "model.onnx", rows()
    ports = [Port(name="features", categories={1: 4, 4: 3})]
    export(predictor, torch.from_numpy(table[:2]), out=file, rows=table, ports=ports, card=model_card(predictor))
    answer = OnnxPredictor(file).run(table)["output"]
    with torch.no_grad():
        np.testing.assert_allclose(answer, predictor(torch.from_numpy(table)).numpy(), atol=1e-6)
    with pytest.raises(DataError, match="codes"):
        OnnxPredictor(file).run(np.float32([[40, 4, 0, 0, 0]]))
    told = columns_of_card(read_model_card(file), "features")
    assert told[1]["give"].startswith("its code: blue 1")
    assert told[4]["where"] == "`features`, column 4"


def test_javascript_reads_words_as_numpy_wrote_them(tmp_path: Path) -> None:
    """Of other planes, empty, with spaces, and in arrays of any shape."""
    try:
        backend.find_node()
    except UnavailableError:
        pytest.skip("node is not here")
    words = np.array([["blue", "gr\u00fcn"], ["", "\U0001f4a9 x"], [" a ", "\u202e"]])
    np.savez(tmp_path / "in.npz", input0=words, input1=np.float32([[1.5]]), input2=np.zeros((0, 1), "U3"))
    worker = Path(backend.__file__).with_name("onnx_worker.mjs")
    script = (
        f"import {{readNpz}} from {worker.as_uri()!r}; import fs from 'node:fs';"
        f"console.log(JSON.stringify(readNpz(new Uint8Array(fs.readFileSync({str(tmp_path / 'in.npz')!r})))))"
    )
    ran = subprocess.run(
        ["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    found = json.loads(ran.stdout)
    assert found["input0"] == {"dtype": "string", "shape": [3, 2], "data": words.ravel().tolist()}
    assert found["input2"]["data"] == []
    assert found["input1"]["data"]["0"] == 1.5
