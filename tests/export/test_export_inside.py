"""What stands inside a published file and beside it, and that it is the same wherever it is made."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lrdiff_core.errors import CheckFailed, ConfigError, ModelFileError
from lrdiff_export import ModelCard, export, model_card, read_model_card, verify_onnx
from lrdiff_export.examples import ZOO
from lrdiff_export.publish.metadata import weights_sha256

MAIN = ZOO["main, binary"]
ROWS = MAIN.rows["rows"]
RATES = {"layer1": 1e-3, "layer2": 1e-2}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    file = tmp_path_factory.mktemp("published") / "model.onnx"
    card = model_card(MAIN.module(), rates=RATES, recipe={"optimizer": "adam", "epochs": 5})
    report = export(
        MAIN.module(), MAIN.example(), out=file, rows=ROWS, output_names=MAIN.outputs, card=card, metadata={"by": "me"}
    )
    return file, report


def test_the_file_says_what_a_deployer_needs(published: tuple[Path, Any]) -> None:
    file, report = published
    said = read_model_card(file)
    assert said["schema"] == {
        "inputs": [{"name": "features", "dtype": "float32", "shape": ["batch", 10]}],
        "outputs": [{"name": "probability", "dtype": "float32", "shape": ["batch", 1]}],
    }
    assert (said["task"], said["target"], said["classes"]) == ("binary", "y", ["no", "yes"])
    assert said["features"] == [f"f{i}" for i in range(10)]
    assert (said["rates"], said["recipe"]) == (RATES, {"optimizer": "adam", "epochs": 5})
    assert said["weights_sha256"] == weights_sha256(MAIN.module())
    assert said["versions"]["torch"] == torch.__version__
    assert set(said["versions"]) == {"lrdiff", "torch", "onnx", "onnxscript", "onnxruntime"}
    net = MAIN.module().net
    np.testing.assert_array_equal(np.float32(said["normalisation"]["mean"]), net.standardize.mean.numpy())
    np.testing.assert_array_equal(np.float32(said["normalisation"]["inverse_std"]), net.standardize.inverse_std.numpy())
    errors = said["errors"]["outputs"]["probability"]
    assert report.verification.worst[0].error <= errors["error_eps"] <= 1.2 * report.verification.worst[0].error
    assert float(said["agrees_up_to_scale"]) == report.verification.agrees_up_to == 1e35
    assert {entry.key: entry.value for entry in onnx.load(file).metadata_props}["by"] == "me"


def test_no_times_or_paths_are_inside(published: tuple[Path, Any]) -> None:
    file, _ = published
    for path in file.parent.iterdir():
        data = path.read_bytes()
        year, here = time.strftime("%Y"), str(Path(__file__).parents[2])
        for trace in (str(file.parent), here, "site-packages", ".py", year, os.uname().nodename):
            assert trace.encode() not in data, (path, trace)


@pytest.mark.slow
def test_a_module_that_is_not_ours_says_less_and_nothing_wrong(tmp_path: Path) -> None:
    export(nn.Linear(3, 1), torch.zeros(1, 3), out=tmp_path / "model.onnx", golden=False)
    assert sorted(read_model_card(tmp_path / "model.onnx")) == [
        "agrees_up_to_scale",
        "domain",
        "errors",
        "schema",
        "versions",
        "weights_sha256",
    ]


def test_the_hash_of_the_weights_follows_names_shapes_and_values() -> None:
    module = nn.Linear(2, 2)
    before = weights_sha256(module)
    assert weights_sha256(module) == before
    with torch.no_grad():
        module.weight[0, 0] += 1e-6
    assert weights_sha256(module) != before
    assert weights_sha256(nn.Sequential(module)) != weights_sha256(module)


def test_a_card_takes_plain_values_alone() -> None:
    with pytest.raises(ConfigError, match=r"^recipe of the card is not JSON: object"):
        ModelCard(recipe={"x": object()})
    with pytest.raises(ConfigError, match=r"^normalisation of the card is not JSON: "):
        ModelCard(normalisation={"mean": [float("nan")]})


def test_keys_that_the_export_writes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^metadata 'lrdiff.task' begins with 'lrdiff.'"):
        export(nn.Linear(3, 1), torch.zeros(1, 3), out=tmp_path / "m.onnx", metadata={"lrdiff.task": "x"})


def test_damaged_metadata_is_named(published: tuple[Path, Any]) -> None:
    model = onnx.load(published[0])
    next(entry for entry in model.metadata_props if entry.key == "lrdiff.schema").value = "{"
    with pytest.raises(ModelFileError, match=r"^metadata lrdiff.schema is not JSON: "):
        read_model_card(model.SerializeToString())


def test_what_was_measured_is_that_of_the_bytes_that_were_published(published: tuple[Path, Any]) -> None:
    file, report = published
    again = verify_onnx(file, MAIN.module(), rows=ROWS)
    assert again.sha256 == report.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert again.worst == report.verification.worst


def test_a_runtime_that_answers_differently_each_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lrdiff_export.publish.export as publish

    real = publish.run_again

    def worse(*given: Any) -> Any:
        from dataclasses import replace

        report = real(*given)
        return replace(report, worst=(replace(report.worst[0], error=report.worst[0].error + 1e-3),))

    monkeypatch.setattr(publish, "run_again", worse)
    with pytest.raises(CheckFailed, match=r"^model.onnx answers differently when run again: "):
        export(MAIN.module(), MAIN.example(), out=tmp_path / "model.onnx", rows=ROWS, output_names=MAIN.outputs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_in_two_folders_publish_the_same_bytes(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import hashlib, pathlib
        from lrdiff_export import export
        from lrdiff_export.examples import ZOO
        for name in ("main, binary", "transformer block", "two inputs"):
            sample = ZOO[name]
            rows = tuple(sample.rows.values())
            export(sample.module(), sample.example(), out="model.onnx", rows=rows, output_names=sample.outputs,
                   variants=["fp16", "int8", "int8-qdq"])
            for path in sorted(pathlib.Path().iterdir()):
                if "model" in path.name:
                    print(name, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        """
    )
    running = []
    for number in (1, 2):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        (folder / f"script{number}.py").write_text(script)
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        running.append(
            subprocess.Popen(
                [sys.executable, f"script{number}.py"], cwd=folder, env=environment, stdout=-1, stderr=-1, text=True
            )
        )
    said = [process.communicate() for process in running]
    assert [error for _, error in said] == ["", ""]
    assert said[0][0] == said[1][0]
    assert len(said[0][0].splitlines()) == 18  # three models, six files each


def test_the_report_is_json(published: tuple[Path, Any]) -> None:
    document = published[1].to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document["seconds"]) == {"convert", "verify"}
