"""The main job end to end: every stage computed, every file there, checks that can fail."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import polars
import pytest
import torch

from lrdiff_bench.cli import main
from lrdiff_bench.run import job
from lrdiff_bench.run.job import STAGES, run_job
from lrdiff_bench.run.use.export_command import export_model
from lrdiff_bench.run.use.open_run import list_runs
from lrdiff_core import load_checkpoint, load_table, make_config
from lrdiff_core.errors import ConfigError, InputError
from lrdiff_export.publish import export

QUICK = {
    "epochs": 3,
    "patience": 0,
    "tune": False,
    "device": "cpu",
    "compare": {"seeds": 10, "tuning_seeds": 1, "searches": 2, "sweep": [0.003, 0.01, 0.03]},
}


class Recorder:
    """A watcher that keeps what it is told."""

    def __init__(self):
        self.stages, self.bars = [], set()

    def stage(self, name, section):
        self.stages.append(name)

    def progress(self, name, done, total, note):
        assert 0 < done <= total
        self.bars.add(name)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "run"
    recorder = Recorder()
    result = run_job(make_config({"data": "seed", "name": "seed", **QUICK}), out=folder, watcher=recorder)
    return result, recorder


@pytest.mark.slow
def test_all_stages_but_the_folds_are_shown_in_order(full):
    result, recorder = full
    assert tuple(recorder.stages) == tuple(name for name in STAGES if name != "folds")  # there is no cv
    assert recorder.bars == {"metrics", "comparison"}
    assert result.passed
    assert result.summary["checks"] == {"verification": True, "parity": True}


@pytest.mark.slow
def test_the_folder_holds_what_it_should_and_nothing_else(full):
    result, _ = full
    assert sorted(entry.name for entry in result.folder.iterdir()) == sorted([
        "config.toml", "rates.json", "metrics.parquet", "model.safetensors", "model.onnx", "verification.json",
        "model.golden.npz", "model.golden.json",
        "parity.json", "metrics.png", "metrics.svg", "comparison.png", "comparison.svg", "report.html", "summary.json",
        "manifest.json",
    ])  # fmt: skip
    assert sorted(result.summary["folder"]["files"]) == sorted(entry.name for entry in result.folder.iterdir())
    for name in ("metrics.png", "comparison.png"):
        assert (result.folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_metrics_file_holds_one_observation_a_row(full):
    result, _ = full
    frame = polars.read_parquet(result.folder / "metrics.parquet")
    assert frame.columns == ["epoch", "split", "loss", "score"]
    assert frame.shape == (2 * 3 + 1, 4)
    assert frame.rows(named=True) == result.summary["metrics"]["observations"]


@pytest.mark.slow
def test_the_onnx_file_takes_raw_rows_in_any_batch_and_answers_as_the_checkpoint(full):
    result, _ = full
    session = onnxruntime.InferenceSession(result.folder / "model.onnx", providers=["CPUExecutionProvider"])
    net, _ = load_checkpoint(result.folder / "model.safetensors")
    rows = load_table("seed").features
    for count in (1, 5, 1000):
        (answer,) = session.run(["probability"], {"features": rows[:count]})
        with torch.no_grad():
            expected = net.predict(torch.from_numpy(rows[:count])).numpy()
        assert answer.shape == (count, 1)
        np.testing.assert_allclose(answer, expected, atol=1e-6)


@pytest.mark.slow
def test_the_summary_on_disk_is_the_summary_returned(full):
    result, _ = full
    assert json.loads((result.folder / "summary.json").read_text()) == result.summary
    assert set(STAGES) - {"folds"} < set(result.summary)


@pytest.mark.slow
def test_every_backend_is_judged_or_says_why_not(full):
    result, _ = full
    rows = {row["backend"]: row for row in result.summary["parity"]["results"]}
    assert set(rows) >= {"eager", "eager-bf16", "compiled", "onnxruntime", "onnx-reference", "openvino", "cuda", "mps"}
    assert not set(rows) & {"aotinductor", "chromium"}  # those that start slowly: `lrdiff parity`
    assert rows["eager"]["status"] == rows["onnxruntime"]["status"] == "agrees"
    for row in rows.values():
        assert (row["status"] == "agrees") == (row["reason"] is None)


@pytest.mark.slow
def test_the_screen_keeps_to_eighty_columns_and_is_redrawn_by_trace(full, capsys):
    result, _ = full
    assert main(["trace", str(result.folder)]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in out, "a table was cut"
    for number, title in enumerate(("Data", "Preprocessing", "Feature engineering", "Training", "Metrics",
                                    "Prediction", "Comparison with single rates", "Cost of a step", "Export", "Parity",
                                    "Run folder"), start=1):  # fmt: skip
        assert f"{number:2d} {title}" in out
    assert "verdict: " in out


def test_a_model_that_fails_verification_gets_no_file_and_status_1(tmp_path, monkeypatch, capsys):
    """Plant a fault: one weight of what is converted is off by one percent."""
    convert = export.convert

    def faulty(prepared, **options):
        module = copy.deepcopy(prepared.module)
        with torch.no_grad():
            module.net.layer2.weight[0, 0] *= 1.01
        return convert(dataclasses.replace(prepared, module=module), **options)

    monkeypatch.setattr(export, "convert", faulty)
    monkeypatch.setattr(job, "STAGES", ("export",))
    assert main(["run", "--out", str(tmp_path / "run")]) == 1
    out, err = capsys.readouterr()
    assert "DIFFERS" in out
    assert err.startswith("error: a check failed: verification\nhelp: ")
    assert not (tmp_path / "run" / "model.onnx").exists()
    report = json.loads((tmp_path / "run" / "verification.json").read_text())
    assert report["passed"] is False
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_after_training_leaves_the_trained_model(tmp_path, monkeypatch, capsys, problem):
    """What is there can be used, says that it is unfinished, and is replaced by nobody."""

    def fails(*_, **__):
        raise problem

    monkeypatch.setattr(job.figures, "draw_metrics", fails)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(type(problem)):
        run_job(make_config({**QUICK, "name": "a"}), stages=())
    (folder,) = tmp_path.glob("runs/*")
    assert {one.name for one in folder.iterdir()} == {
        "model.safetensors", "training.safetensors", "config.toml", "rates.json", "metrics.parquet", "summary.json",
    }  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["missing"] == ["folder"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    polars.DataFrame(load_table("seed").features, schema=load_table("seed").feature_names).write_csv("rows.csv")
    for command in (["predict", "runs/a", "--data", "rows.csv"], ["trace", "runs/a"], ["runs"]):
        assert main(command) == 0
    assert "interrupted before: run folder" in " ".join(capsys.readouterr().out.split())
    (row,) = list_runs(Path("runs"))
    assert (row["passed"], row["missing"], row["running"], row["problem"]) == (None, ["folder"], False, None)
    assert row["loss"] == summary["metrics"]["observations"][-1]["loss"]
    assert run_job(make_config({**QUICK, "name": "a"}), stages=()).folder == Path("runs/a-2")


def test_an_error_in_training_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrdiff_core.loop.train", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run_job(make_config(QUICK), out=tmp_path / "a" / "run", stages=())
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_says_where_and_is_never_exported(tmp_path):
    rates = {"layer1": 1e30, "layer2": 1e30}
    config = make_config({**QUICK, "name": "lost", "optimizer": "sgd", "rates": rates})
    said = "layer1.weight is not finite: a model whose training diverged is not exported"
    with pytest.raises(InputError, match=said):
        run_job(config, out=tmp_path / "lost", stages=("export",))
    with pytest.raises(InputError, match=said):
        export_model(str(tmp_path / "lost"))
    summary = json.loads((tmp_path / "lost" / "summary.json").read_text())
    first = summary["metrics"]["not_finite"]
    assert (first["epoch"], first["rate"]) == (1, 1e30)
    assert first["layer"] in rates
    (warning,) = [one for one in summary["warnings"] if "not finite" in one]
    where = f"at step {first['step']} of epoch 1, first in layer {first['layer']} (rate 1e+30)"
    assert warning == f"the loss was not finite {where}: try lower rates"
    assert "export" in summary["missing"]
    assert not [file for file in (tmp_path / "lost").iterdir() if file.suffix in (".onnx", ".npz")]


def test_the_same_run_twice_gives_the_same_bytes(tmp_path):
    config = make_config({**QUICK, "name": "twice"})
    for name in ("one", "two"):
        run_job(config, out=tmp_path / name, stages=("export",))
    for file in ("config.toml", "rates.json", "metrics.parquet", "model.safetensors", "model.onnx", "metrics.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_stage_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match='there is no stage "exprot"'):
        run_job(make_config({}), out=tmp_path / "run", stages=["exprot"])
