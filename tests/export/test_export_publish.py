"""The gate: a file has its name only after its bytes passed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import MODELS, OUTPUTS, Classifier, rows_of, seeded
from torch import nn

import lrdiff_export.publish.export as publish
from lrdiff_core.errors import CheckFailed, ConfigError, DataError, InputError
from lrdiff_export import VerificationFailed, export_onnx
from lrdiff_export.model.prepared import Prepared, prepare
from lrdiff_export.onnx_file.convert import Converted, convert

EXAMPLE = torch.zeros(1, 10)
ROWS = rows_of(100, 10)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converts another module than the one it was given."""

    def convert_another(prepared: Prepared, **options: object) -> Converted:
        other = prepare(seeded(Classifier, 1), EXAMPLE, output_names=prepared.output_names)
        return convert(other, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(publish, "convert", convert_another)


def test_what_is_published_is_what_was_verified(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    report = export_onnx(
        seeded(Classifier), file, example=EXAMPLE, rows=ROWS, output_names=["probability"], metadata={"recipe": "seed"}
    )
    data = file.read_bytes()
    assert report.sha256 == report.verification.sha256 == hashlib.sha256(data).hexdigest()
    assert (report.size, report.opset, report.ir_version, report.rows_are) == (len(data), 20, 9, "held out")
    assert (report.input_name, report.output_names) == ("features", ("probability",))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # one file, no .onnx.data
    assert {e.key: e.value for e in onnx.ModelProto.FromString(data).metadata_props}["recipe"] == "seed"
    document = report.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["verification"]["passed"] is True


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi-class", "convolutional", "two outputs"])
def test_other_models_pass_the_gate(name: str, tmp_path: Path) -> None:
    make, rows = MODELS[name]
    file = tmp_path / "model.onnx"
    example = torch.tensor(rows[:4])
    report = export_onnx(seeded(make), file, example=example, rows=rows, output_names=OUTPUTS.get(name, ("output",)))
    assert report.verification.passed
    assert file.exists()


def test_without_rows_they_are_drawn_around_the_example_and_the_report_says_so(tmp_path: Path) -> None:
    report = export_onnx(seeded(Classifier), tmp_path / "model.onnx", example=torch.tensor(rows_of(5, 10)))
    assert (report.rows_are, report.verification.rows) == ("drawn", 69)


@pytest.mark.slow
def test_a_failed_verification_leaves_nothing(tmp_path: Path, faulty: None) -> None:
    with pytest.raises(VerificationFailed) as caught:
        export_onnx(seeded(Classifier), tmp_path / "model.onnx", example=EXAMPLE, rows=ROWS)
    assert list(tmp_path.iterdir()) == []
    problem = caught.value
    assert isinstance(problem, CheckFailed)
    assert problem.exit_status == 1
    assert problem.report is not None
    assert not problem.report.passed
    # Where it fails first, held-out rows before drawn ones, not where the number is largest.
    assert problem.message == f"model.onnx did not pass verification: {problem.report.problems[0]}"
    assert "(held out, 100 rows, optimisations off)" in problem.message
    assert problem.diagnosis is not None
    assert problem.help == f"nothing was written; {problem.diagnosis.sentence}"
    first = problem.diagnosis.first
    assert (first.value, first.operator, first.module) == ("linear", "Gemm", "layer1 (Linear)")
    assert pickle.loads(pickle.dumps(problem)).message == problem.message


def test_a_failed_verification_leaves_an_existing_file_as_it_was(tmp_path: Path, faulty: None) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"the one that works")
    with pytest.raises(VerificationFailed):
        export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS)
    assert file.read_bytes() == b"the one that works"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_an_existing_file_is_replaced_after_it_passed(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")
    report = export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS)
    assert len(file.read_bytes()) == report.size


@pytest.mark.parametrize("existing", [False, True])
def test_a_crash_while_renaming_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    file = tmp_path / "model.onnx"
    if existing:
        file.write_bytes(b"old")

    def crash(*_: object) -> None:
        raise RuntimeError("power lost")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(RuntimeError, match="power lost"):
        export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS)
    assert [path.name for path in tmp_path.iterdir()] == (["model.onnx"] if existing else [])
    if existing:
        assert file.read_bytes() == b"old"


KILLED = """
import os, pathlib, shutil, signal, sys
import torch
from lrdiff_export import export, verify_golden

torch.set_num_threads(1)
real, module, example = os.replace, torch.nn.Linear(3, 1), torch.zeros(1, 3)
for moment in range(1, 4):
    folder = pathlib.Path(f"moment{moment}")
    folder.mkdir()
    if (child := os.fork()) == 0:  # an older model; not here, since runtimes with threads cannot be forked
        export(torch.nn.Linear(3, 1), example, out=folder / "model.onnx")
        os._exit(0)
    os.waitpid(child, 0)
    child = os.fork()
    if child == 0:
        left = moment

        def replace(*paths):
            global left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)

        os.replace = replace
        export(module, example, out=folder / "model.onnx")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
export(module, example, out="model.onnx")
for moment in range(1, 4):
    # The model that stands has the golden vectors that it came with, without anything being mended.
    assert verify_golden(f"moment{moment}/model.onnx").passed, moment
shutil.copytree("moment1", "again")
export(module, example, out="again/model.onnx")  # what the killed one left is not in its way
assert [one.name for one in pathlib.Path("again").glob(".*golden*")] == []
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
def test_a_kill_at_any_rename_leaves_whole_files_alone_under_the_names(tmp_path: Path) -> None:
    import subprocess
    import sys

    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    names = ("model.golden.json", "model.golden.npz", "model.onnx")
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    for moment in (1, 2, 3):
        found = {name: (tmp_path / f"moment{moment}" / name).read_bytes() for name in names}
        assert found["model.onnx"] != whole["model.onnx"]  # the model comes last of all
        assert [found[name] == whole[name] for name in names].count(True) == moment - 1
    assert {name: (tmp_path / "again" / name).read_bytes() for name in names} == whole


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    file = tmp_path / "model.onnx"
    with pytest.raises(InputError) as caught:
        export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS)
    assert caught.value.message == f"cannot write {file}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_wrong_places_and_rows_are_refused_before_converting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("converted")

    monkeypatch.setattr(publish, "convert", never)
    missing = tmp_path / "no" / "model.onnx"
    for path, message in (
        (tmp_path, f"cannot write {tmp_path}: it is a folder"),
        (missing, f"cannot write {missing}: no folder {missing.parent}"),
    ):
        with pytest.raises(InputError) as caught:
            export_onnx(seeded(Classifier), path, example=EXAMPLE, rows=ROWS)
        assert caught.value.message == message
    file = tmp_path / "model.onnx"
    with pytest.raises(DataError, match=r"^rows have shape \[100, 9\] and the example \[1, 10\]"):
        export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS[:, :9].copy())
    with pytest.raises(DataError, match=r"^rows are float64, not a float32, integer or bool array"):
        export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS.astype(np.float64))
    with pytest.raises(ConfigError, match=r"^opset is 3, not a whole number from 7 to "):
        export_onnx(seeded(Classifier), file, example=EXAMPLE, rows=ROWS, opset=3)
    assert list(tmp_path.iterdir()) == []


def test_a_model_tied_to_one_batch_size_does_not_pass(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows.mean(dim=0, keepdim=True) + rows * 0 if rows.shape[0] == 2 else rows

    with pytest.raises((InputError, VerificationFailed)):
        export_onnx(Fixed(), tmp_path / "model.onnx", example=EXAMPLE, rows=ROWS)
    assert list(tmp_path.iterdir()) == []
