"""`lrdiff export`, `verify`, `predict`, `latency` and `targets` on a run and on a module of the user's own."""

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest

from lrdiff_bench.cli import main

MINE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(7, 4), nn.Linear(6, 2)

    def forward(self, word, numbers):
        return self.out(torch.cat([self.table(word), numbers], dim=1))

def make():
    example = {"word": torch.tensor([1, 2, 3]), "numbers": torch.randn(3, 2)}
    return Two().eval(), example, {"output_names": ["scores"]}

"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ship") / "run"
    assert main(["train", "--data", "wine", "--out", str(folder)]) == 0
    assert main(["export", str(folder), "--variant", "fp32,fp16"]) == 0
    return folder


@pytest.mark.slow
def test_variants_are_judged_by_the_metric_and_what_they_may_lose_can_be_said(run, here, capsys):
    given = ["export", str(run), "--out", "model.onnx", "--variant", "fp16,int8"]
    assert main([*given, "--allow", "flipped=0.5", "--allow", "score_drop=0.5", "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)["variants"]
    assert [one["name"] for one in reports] == ["fp16", "int8"]
    assert all(0 <= one["score"] <= 1 and one["score_fp64"] == reports[0]["score_fp64"] for one in reports)
    assert main([*given, "--allow", "snr_db=299"]) == 1
    assert "at least 299 is asked for" in capsys.readouterr().err
    assert main([*given[:-1], "fp16", "--allow", "flipped=0.5"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    row = next(line.split() for line in shown.splitlines() if line.strip().startswith("fp16"))
    assert row[8] == "+0.000"


@pytest.mark.slow
def test_regression_is_scored_by_the_variance_it_explains(here, capsys):
    rows = "".join(f"{i % 7},{i % 5},{2 * (i % 7) - (i % 5)}\n" for i in range(60))
    Path("rows.csv").write_text("a,b,y\n" + rows)
    assert main(["train", "--data", "rows.csv", "--target", "y", "--task", "regression", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--variant", "fp16", "--json"]) == 0
    (fp16,) = json.loads(capsys.readouterr().out)["variants"]
    assert fp16["flipped"] is None
    assert abs(fp16["score"] - fp16["score_fp64"]) < 0.01


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_to_ship.py").write_text(MINE)
    return tmp_path


def test_an_export_has_golden_vectors_and_variants_beside_it(run):
    names = {file.name for file in run.iterdir()}
    assert {"model.onnx", "model.golden.npz", "model.golden.json"} <= names
    assert any("fp16" in name for name in names)


def test_a_file_is_verified_by_its_golden_vectors_alone(run, here, capsys):
    for name in ("model.onnx", "model.golden.npz", "model.golden.json"):
        shutil.copy(run / name, here)
    assert main(["verify", "model.onnx"]) == 0
    assert "probabilities: agrees" in capsys.readouterr().out
    assert main(["verify", "model.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_an_onnx_file_alone_predicts_what_the_run_predicts(run, here, capsys):
    from lrdiff_core import load_table

    table = load_table("wine")
    lines = [",".join(table.feature_names), *(",".join(map(repr, row)) for row in table.features[:4].tolist())]
    Path("rows.csv").write_text("\n".join(lines) + "\n")
    answers = []
    for source in (run, run / "model.onnx"):
        assert main(["predict", str(source), "--data", "rows.csv"]) == 0
        answers.append([line.split(",") for line in capsys.readouterr().out.splitlines()])
    assert [row[0] for row in answers[0]] == [row[0] for row in answers[1]]
    for ours, theirs in zip(answers[0][1:], answers[1][1:], strict=True):
        assert [float(x) for x in ours[1:]] == pytest.approx([float(x) for x in theirs[1:]], abs=1e-6)


@pytest.mark.slow
def test_a_module_of_ones_own_with_two_inputs_is_exported(here, capsys):
    assert main(["export", "mine_to_ship:make", "--out", "two.onnx", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [port["name"] for port in report["inputs"]] == ["word", "numbers"]
    assert report["passed"] is True
    assert main(["verify", "two.onnx"]) == 0
    assert "scores: agrees" in capsys.readouterr().out


@pytest.mark.slow
def test_latency_and_targets(run, capsys):
    assert main(["latency", str(run), "--batch", "1,64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["way"] for row in report["times"]} == {"run", "I/O binding", "eager"}
    assert {row["batch"] for row in report["times"]} == {1, 64}
    assert main(["latency", str(run / "model.onnx"), "--batch", "2", "--json"]) == 0  # on its golden vectors
    assert [row["way"] for row in json.loads(capsys.readouterr().out)["times"]] == ["run", "I/O binding"]
    assert main(["targets"]) == 0
    assert "onnxruntime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["export", "mine_to_ship:make", "--out", "x.onnx", "--variant", "int3"], ""),
        (["export", "mine_to_ship:make", "--out", "x.onnx", "--runtime", "toaster"], ""),
        (["export", "mine_to_ship:make", "--allow", "speed=1"], "--allow speed=1 is not KEY=NUMBER"),
        (["export", "mine_to_ship:make", "--allow", "flipped=2"], "flipped is 2.0, not a share from 0 to 1"),
        (["latency", "nowhere"], "no run at nowhere"),
        (["latency", "nothing.onnx"], "nothing.onnx does not exist"),
        (["verify", "nothing.onnx"], "nothing.onnx does not exist"),
        (["predict", "nothing.onnx", "--data", "rows.csv"], ""),
    ],
)
def test_what_cannot_be_done_is_said_in_two_lines(here, capsys, arguments, what):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {what}")
    assert lines[1].startswith("help: ")
    assert not Path("x.onnx").exists()


def test_numbers_that_are_none_are_refused(run, capsys):
    assert main(["latency", str(run), "--batch", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --batch is '0'\nhelp: ")
    assert main(["latency", str(run), "--batch", "²"]) == 2  # a digit to Python, and no number
    assert capsys.readouterr().err.startswith("error: --batch is '²'\nhelp: ")
    assert main(["latency", str(run), "--threads", "1,x"]) == 2
    assert capsys.readouterr().err.startswith("error: --threads is '1,x'\nhelp: ")


def said(run, folder, **texts):
    """A copy of a run's file that says something else of itself."""
    import onnx

    model = onnx.load(run / "model.onnx")
    for entry in model.metadata_props:
        entry.value = texts.pop(entry.key.removeprefix("lrdiff."), entry.value)
    assert not texts
    file = folder / "model.onnx"
    onnx.save(model, file)
    return str(file)


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        ({"features": "7"}, "names are not a list of names"),
        ({"features": "[1, 2]"}, "names are not a list of names"),
        ({"classes": '{"a": 1}'}, "names are not a list of names"),
        ({"classes": '["a", "b"]'}, "answers [4, 3] for 4 rows"),
        ({"target": "[[]]"}, None),  # a column may be called so
        ({"classes": '["a"]'}, "names one class, a"),
        ({"rates": "[" * 100_000}, "is not JSON"),
        ({"normalisation": "[5]"}, None),
    ],
)
def test_a_file_that_lies_about_itself_is_one_line(run, here, capsys, texts, what):
    from lrdiff_core import load_table

    table = load_table("wine")
    lines = [",".join(table.feature_names), *(",".join(map(repr, row)) for row in table.features[:4].tolist())]
    Path("rows.csv").write_text("\n".join(lines) + "\n")
    status = main(["predict", said(run, here, **texts), "--data", "rows.csv"])
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert (status, len(error)) == ((2, 2) if what else (0, 0))
    assert not what or (error[0].startswith("error: ") and what in error[0])


@pytest.mark.slow
@pytest.mark.parametrize("data", ["endless_loop", "large_at_run_time"])
def test_a_file_without_end_or_measure_is_refused_by_every_command(run, here, capsys, monkeypatch, data):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "export"))
    import hostile

    Path("model.onnx").write_bytes(getattr(hostile, data)("features", 13, "probabilities", 3))
    shutil.copy(run / "model.golden.npz", "model.golden.npz")
    said = json.loads((run / "model.golden.json").read_text())
    said["model_sha256"] = hashlib.sha256(Path("model.onnx").read_bytes()).hexdigest()
    Path("model.golden.json").write_text(json.dumps(said))
    for command in (["verify"], ["verify", "--run", str(run)], ["parity"], ["latency"]):
        begun = time.monotonic()
        assert main([command[0], "model.onnx", *command[1:]]) == 2, command
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 2
        assert error[0].startswith("error: model.onnx ")
        wanted = "error: model.onnx takes longer than 4 s to open and run"
        assert data != "endless_loop" or error[0].removesuffix(" (1 row)") == wanted
        assert time.monotonic() - begun < 20  # 5 s; a busy machine
