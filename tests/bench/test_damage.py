"""What is changed or damaged after it was written is refused in one line that names it, or told."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lrdiff_bench.cli import main
from lrdiff_bench.system import manifest
from lrdiff_core.errors import ModelFileError
from lrdiff_core.files import is_whole, sealed
from lrdiff_export.verify.golden import read_golden

SETTINGS = """
name = "small"
data = "seed"
epochs = 3
tune = false
[rates]
layer1 = 0.01
layer2 = 0.001
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished training, and rows to predict."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "small.toml").write_text(SETTINGS)
    assert main(["train", str(folder / "small.toml"), "--out", str(folder / "r")]) == 0
    names = json.loads((folder / "r" / "summary.json").read_text())["data"]["feature_names"]
    (folder / "rows.csv").write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manifest, "_said", set())
    capsys.readouterr()
    return tmp_path


def refused(capsys, *command, status=2):
    assert main(list(command)) == status
    out, err = capsys.readouterr()
    error, help = err.splitlines()
    assert error.startswith("error: ")
    assert help.startswith("help: ")
    return error.removeprefix("error: ") + out


def test_a_whole_run_is_read_without_a_word(place, capsys):
    for command in (["trace", "r"], ["predict", "r", "--data", "rows.csv"], ["rates", "r"]):
        assert main(command) == 0
    assert capsys.readouterr().err == ""
    known = json.loads(Path("r/manifest.json").read_text())
    assert is_whole(known)
    assert {"summary.json", "config.toml", "rates.json", "model.safetensors", "report.html"} <= set(known["files"])
    assert "manifest.json" in json.loads(Path("r/summary.json").read_text())["folder"]["files"]


@pytest.mark.parametrize("name", ["summary.json", "config.toml", "rates.json", "model.safetensors"])
def test_a_changed_file_is_refused_by_its_name_and_what_still_holds_is_told(place, capsys, name):
    file = Path("r", name)
    data = bytearray(file.read_bytes())
    at = data.rindex(b"0.001") + 4 if b"0.001" in data else len(data) - 3
    data[at] ^= 1  # still JSON, TOML or safetensors
    file.write_bytes(data)
    for command in (["trace", "r"], ["predict", "r", "--data", "rows.csv"], ["export", "r"]):
        said = refused(capsys, *command)
        assert said.startswith(f"{file} was changed or damaged after it was written; ")
        assert "other files of the folder hold" in said
    assert main(["runs", "."]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("was changed or damaged" in shown) == (name == "summary.json")


def test_a_missing_file_and_a_damaged_manifest_are_told(place, capsys):
    Path("r/model.safetensors").rename("away")
    assert refused(capsys, "predict", "r", "--data", "rows.csv").startswith("r/model.safetensors is missing; ")
    Path("away").rename("r/model.safetensors")
    text = Path("r/manifest.json").read_text()
    Path("r/manifest.json").write_text(text.replace('"config.toml": "', '"config.toml": "0'))
    assert refused(capsys, "trace", "r") == "r/manifest.json is damaged"
    Path("r/manifest.json").write_text("[" * 100_000)
    assert refused(capsys, "trace", "r").startswith("r/manifest.json is damaged: ")


def test_a_run_of_an_earlier_version_is_read_with_a_word_once(place, capsys):
    Path("r/manifest.json").unlink()
    assert main(["predict", "r", "--data", "rows.csv"]) == 0
    word = "note: r has no manifest.json (an earlier lrdiff wrote it): it is read unchecked\n"
    assert capsys.readouterr().err == word
    assert main(["trace", "r"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["runs", "."]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_what_export_and_report_write_into_a_run_is_theirs(place, capsys):
    Path("r/config.toml.bak").write_text("mine")  # nobody's: not named, not checked
    assert main(["export", "r", "--variant", "fp32,fp16"]) == 0
    assert main(["report", "r"]) == 0
    known = json.loads(Path("r/manifest.json").read_text())["files"]
    assert {"model.onnx", "model.golden.json", "model.golden.npz"} <= set(known)
    assert known["model.fp16.onnx"] == manifest.sha256_of(Path("r/model.fp16.onnx"))
    assert known["report.html"] == manifest.sha256_of(Path("r/report.html"))
    assert "config.toml.bak" not in known
    manifest.check_files(Path("r"), *known)


@pytest.mark.slow
def test_an_onnx_file_that_was_changed_is_refused_by_predict_and_fails_verification(place, capsys):
    import onnx

    assert main(["export", "r"]) == 0
    assert main(["predict", "r/model.onnx", "--data", "rows.csv"]) == 0
    assert "note" not in capsys.readouterr().err
    model = onnx.load("r/model.onnx")
    model.metadata_props.add(key="author", value="somebody")
    onnx.save(model, "r/model.onnx")
    said = refused(capsys, "predict", "r/model.onnx", "--data", "rows.csv")
    assert said == "r/model.onnx was changed or damaged: it is not the file that model.golden.json was written for"
    assert refused(capsys, "latency", "r/model.onnx") == said
    assert (
        refused(capsys, "parity", "r/model.onnx")
        == "model.onnx is not the file that the golden vectors beside it were written for"
    )
    for command in ("latency", "parity"):
        by_manifest = refused(capsys, command, "r")
        assert by_manifest.startswith("r/model.onnx was changed or damaged after it was written; ")
    Path("r/manifest.json").rename("aside")
    assert main(["latency", "r"]) == 2  # no manifest, but golden vectors
    assert said in capsys.readouterr().err
    Path("aside").rename("r/manifest.json")
    assert main(["verify", "r/model.onnx", "--run", "r"]) == 1
    assert "was changed or damaged" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", "r/model.onnx"]) == 1
    capsys.readouterr()
    shutil.copy("r/model.onnx", "alone.onnx")
    assert main(["predict", "alone.onnx", "--data", "rows.csv"]) == 0
    assert "whether it was changed cannot be told" in capsys.readouterr().err


def test_a_checkpoint_alone_knows_its_own_content(place, capsys):
    from lrdiff_core.checkpoint import load_checkpoint
    from lrdiff_core.errors import CheckpointError

    file = Path("r/model.safetensors")
    data = bytearray(file.read_bytes())
    for at in (len(data) - 1, data.index(b"impute") + 12):
        changed = data.copy()
        changed[at] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint(file)


def test_a_summary_that_lacks_something_is_no_fault_of_ours(place, capsys):
    Path("r/manifest.json").unlink()
    whole = json.loads(Path("r/summary.json").read_text())
    for change in ({"data": {}}, {"training": []}, {"prediction": {"trace": []}}, {"metrics": 3}):
        Path("r/summary.json").write_text(json.dumps(whole | change))
        assert main(["trace", "r"]) == 2
        err = capsys.readouterr().err
        assert "lacks what a run's summary holds" in err
        assert "a fault in lrdiff" not in err


def test_documents_carry_their_checksum():
    document = sealed({"b": 1.5, "a": ("x", None)})
    assert is_whole(json.loads(json.dumps(document)))
    assert not is_whole(document | {"b": 1.25})
    assert not is_whole({key: value for key, value in document.items() if key != "a"})
    assert sealed(document) == document


class Planted:
    """Leaves a file where it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_no_pickle_is_read(place, capsys, tmp_path):
    """A pickle in the place of every kind of file that is loaded: nothing of it runs."""
    one = Planted(tmp_path / "ran")
    plain = pickle.dumps(one)
    torch.save({"x": one}, tmp_path / "p.pt")
    np.savez(tmp_path / "p.npz", input0=np.array([one], object), output0=np.array([one], object), loss=[one])
    archive, arrays = (tmp_path / "p.pt").read_bytes(), (tmp_path / "p.npz").read_bytes()
    predict = ["predict", "r", "--data", "rows.csv"]
    planted = {
        "r/model.safetensors": (archive, predict),
        "r/summary.json": (plain, ["trace", "r"]),
        "r/rates.json": (plain, ["rates", "r"]),
        "r/config.toml": (plain, predict),
        "bench/20260101T000000Z-a.jsonl": (plain + b"\n", ["bench", "show", "latest", "--from", "bench"]),
        "m/map.json": (plain, ["report", "m"]),
        "s/study.json": (plain, ["report", "s"]),
        "s/studies.db": (plain, ["study", "ls", "--from", "s"]),
        "rows.parquet": (plain, ["predict", "r", "--data", "rows.parquet"]),
        "rows.arrow": (archive, ["predict", "r", "--data", "rows.arrow"]),
        "rows.csv": (plain, predict),
        "alone.toml": (plain, ["train", "alone.toml"]),
    }
    Path("r/manifest.json").unlink()
    for folder in ("bench", "m", "s"):
        Path(folder).mkdir()
    for name, (payload, command) in planted.items():
        file = Path(name)
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(payload)
        assert main(command) != 0, name
        assert "a fault in lrdiff" not in capsys.readouterr().err, name
        assert not (tmp_path / "ran").exists(), name
        file.unlink()
        if before is not None:
            file.write_bytes(before)
    for payload in (arrays, plain, archive):  # golden vectors whose document fits, and a tile of a map
        (tmp_path / "model.golden.npz").write_bytes(payload)
        said = {"format": "lrdiff.golden", "version": 1, "model_sha256": "", "inputs": [{"name": "x"}]}
        said |= {"vectors_sha256": hashlib.sha256(payload).hexdigest()}
        said["outputs"] = [{"name": "y", "dtype": "float32", "allowed": 1, "unit": 1e-7}]
        (tmp_path / "model.golden.json").write_text(json.dumps(said))
        (tmp_path / "model.onnx").write_bytes(b"x")
        with pytest.raises(ModelFileError):
            read_golden(tmp_path / "model.onnx")
        assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "p.npz")["loss"]  # so tiles are read


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone")
def test_a_full_disk_behind_stdout_is_an_error():
    import subprocess
    import sys

    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "lrdiff_bench", "targets"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    error, help = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "No space left on device" in error
    assert help.startswith("help: ")
