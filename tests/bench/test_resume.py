"""An interrupted run goes on where it was and ends bit for bit as one that nobody interrupted."""

import json
import shutil
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.run import job
from lrdiff_bench.run.compare import step_cost
from lrdiff_bench.run.files import resuming
from lrdiff_bench.run.job import STAGES, resume_job, run_job
from lrdiff_bench.system.ownership import Owner
from lrdiff_core import loop, make_config
from lrdiff_core.errors import CheckpointError, ConfigError, DataError, InputError

FILES = ("model.safetensors", "metrics.parquet", "config.toml", "rates.json")
SETTINGS = {
    "dropout and a schedule": {"optimizer": "adamw", "dropout": 0.2, "schedule": "cosine", "weight_decay": 0.1},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "two rules in one optimizer": {"optimizer": "muon", "hidden": [6, 6]},
    "early stopping": {"patience": 2, "epochs": 40, "rates": {"layer1": 0.3, "layer2": 0.3}},
    "class weights": {"class_weight": "balanced"},
}


class StopsAt:
    """A watcher that is interrupted at the end of an epoch, or before a stage is shown."""

    def __init__(self, epoch=None, stage=None):
        self.epoch, self.at, self.epochs = epoch, stage, []

    def stage(self, name, section):
        if name == self.at:
            raise KeyboardInterrupt

    def progress(self, name, done, total, note):
        self.epochs.append(done)
        if done == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Every epoch is kept, and nothing is drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resuming, "INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(resuming, "SHARE", 1e9)
    monkeypatch.setattr(job, "_draw", lambda *_: None)
    return tmp_path


def config(**changes):
    return make_config({"name": "a", "epochs": 6, "patience": 0, **changes})


def cut(settings, *, epoch=None, stage=None, **options):
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_job(settings, stages=(), watcher=StopsAt(epoch, stage), **options)
    return stopped.value


def digits_of(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_training_cut_twice_ends_as_one_that_was_not(here, kind):
    settings = config(**SETTINGS[kind])
    whole = run_job(settings, out=here / "whole", stages=())
    assert whole.trained.epochs > 5, "there is something to cut"
    cut(settings, epoch=3)  # of which two are kept
    watcher = StopsAt(epoch=5)
    with pytest.raises(KeyboardInterrupt):
        resume_job(watcher=watcher)
    assert watcher.epochs == [3, 4, 5]
    again = resume_job(watcher=(watcher := StopsAt()))
    assert watcher.epochs[0] == 5
    assert digits_of(again.folder) == digits_of(whole.folder)
    assert again.summary["metrics"] == whole.summary["metrics"]
    assert sorted(one.name for one in again.folder.iterdir()) == sorted(one.name for one in whole.folder.iterdir())


@pytest.mark.parametrize("stage", ["metrics", "prediction", "step_cost"])
def test_a_finished_training_is_not_trained_again(here, monkeypatch, stage):
    """What is missing is done, and nothing else."""
    monkeypatch.setattr(step_cost, "measure_step_cost", lambda trained: {"measured": True})
    whole = run_job(config(), out=here / "whole", stages=("step_cost",))
    with pytest.raises(KeyboardInterrupt):
        run_job(config(), stages=("step_cost",), watcher=StopsAt(stage=stage))
    # what a killed process was in the middle of writing is no file of the run
    (here / "runs" / "a" / ".metrics.parquet.a48e8035819ea351.tmp.parquet").write_bytes(b"half")
    assert (here / "runs" / "a" / "model.safetensors").read_bytes() == digits_of(whole.folder)["model.safetensors"]
    if stage == "step_cost":
        monkeypatch.setattr(step_cost, "measure_step_cost", lambda trained: pytest.fail("it is there already"))
    again = resume_job(watcher=(watcher := StopsAt()))
    assert watcher.epochs == []
    assert again.summary | {"seconds": 0} == whole.summary | {"seconds": 0}
    assert digits_of(again.folder) == digits_of(whole.folder)


def test_other_settings_rows_and_runs_are_refused_with_what_differs(here):
    Path("rows.csv").write_text("x,y\n" + "".join(f"{i / 7:.3f},{i % 2}\n" for i in range(60)))
    settings = config(data="rows.csv", target="y", hidden=[5])
    cut(settings, epoch=3)
    for wrong, what in (
        ({"epochs": 7}, "epochs is 7, the interrupted run runs/a has 6"),
        ({"hidden": [6]}, r"hidden is \[6\], the interrupted run runs/a has \[5\]"),
        ({"data": "digits"}, 'data is "digits", the interrupted run'),
    ):
        with pytest.raises(ConfigError, match=what):
            resume_job(make_config(wrong), Path("runs/a"))
    rows = Path("rows.csv").read_text()
    Path("rows.csv").write_text(rows.replace("0.143,1", "0.144,1"))
    with pytest.raises(DataError, match="are not those that runs/a was trained on"):
        resume_job()
    Path("rows.csv").write_text(rows)
    with pytest.raises(CheckpointError, match="no interrupted run of the name b"):
        resume_job(make_config({"name": "b"}))
    owner = Owner.of(here / "runs" / "a")
    with pytest.raises(InputError, match="is being written by another process"):
        resume_job(folder=Path("runs/a"))
    with pytest.raises(CheckpointError, match="no interrupted run in runs"):
        resume_job()
    owner.release()
    kept = (here / "runs/a/training.safetensors").read_bytes()
    (here / "runs/a/training.safetensors").write_bytes(kept[:-40])
    with pytest.raises(CheckpointError, match="damaged"):
        resume_job()
    (here / "runs/a/training.safetensors").write_bytes(kept)
    same = make_config({"data": "./rows.csv", "hidden": [5], "device": "auto", "name": "a"})
    assert resume_job(same).folder == Path("runs/a")
    with pytest.raises(ConfigError, match="runs/a is finished"):
        resume_job(folder=Path("runs/a"))


def test_the_command_says_how_to_go_on_and_does(here, capsys, monkeypatch):
    train = loop.train

    def interrupted(setup, *, on_state, **options):
        def at(net, state):
            on_state(net, state)
            if state.epoch == 4:
                raise KeyboardInterrupt

        return train(setup, on_state=at, **options)

    monkeypatch.setattr(loop, "train", interrupted)
    assert main(["train", "--seed", "3"]) == 130
    told = capsys.readouterr().err
    assert told.splitlines() == [
        "error: interrupted",
        "help: runs/seed has what was done so far; `lrdiff run --resume runs/seed` goes on",
    ]
    assert json.loads(Path("runs/seed/summary.json").read_text())["missing"] == ["metrics", "prediction", "folder"]
    assert main(["predict", "runs/seed", "--data", "seed.csv"]) == 2
    assert "the training of runs/seed was interrupted" in capsys.readouterr().err
    monkeypatch.setattr(loop, "train", train)
    assert main(["train", "--resume", "--seed", "4"]) == 2
    assert "seed is 4, the interrupted run runs/seed has 3" in capsys.readouterr().err
    assert main(["train", "--resume", "runs/seed"]) == 0
    assert main(["train", "--resume"]) == 2


def test_an_older_run_stays_until_the_one_that_replaces_it_is_trained(here):
    old = run_job(config(seed=1), stages=())
    cut(config(), epoch=3, overwrite=True)
    assert digits_of(Path("runs/a")) == digits_of(old.folder)
    again = resume_job()
    assert again.folder == Path("runs/a-2")
    with pytest.raises(KeyboardInterrupt):
        run_job(config(seed=2), stages=(), overwrite=True, watcher=StopsAt(stage="metrics"))
    assert json.loads(Path("runs/a/summary.json").read_text())["missing"] == ["prediction", "folder"]


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_run_that_was_interrupted_after_any_stage_is_shown_as_far_as_it_goes(here, own, capsys):
    Path("halves.py").write_text("""
import torch
def make():
    rows = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    return torch.nn.Linear(2, 2), rows[:2], {"rows": rows, "targets": (rows[:, 0] > 0).long()}
""")
    settings = make_config({"epochs": 1} | ({"model": "halves:make"} if own else {"cv": 2}))
    whole = run_job(settings, stages=("step_cost", "export"), out=Path("whole")).summary
    done = [name for name in STAGES if name in whole]
    assert {"metrics", "prediction", "export", "folder", *([] if own else ["folds"])} <= set(done)
    for number in range(done.index("training") + 1, len(done)):
        missing = done[number:]
        shutil.copytree("whole", "a", dirs_exist_ok=True)
        Path("a/manifest.json").unlink()
        summary = {name: part for name, part in whole.items() if name not in missing}
        Path("a/summary.json").write_text(json.dumps(summary | {"missing": missing}))
        for arguments in (["runs", "."], ["trace", "a"], ["rates", "a"], ["export", "a", "--out", "a.onnx"],
                          ["verify", "a.onnx", "--run", "a"], ["report", "a"]):  # fmt: skip
            expected = 2 if arguments[0] == "report" and "metrics" in missing else 0
            assert main(arguments) == expected, (missing, capsys.readouterr())
        if "metrics" in missing:
            assert "the training of a was interrupted" in capsys.readouterr().err
        else:
            page = Path("a/report.html").read_text(encoding="utf-8")
            assert ("This run was interrupted before: " in page) == (missing != ["folder"])
            assert ("The path of one row" in page) == ("prediction" not in missing)


def test_a_report_of_a_run_that_lacks_something_says_so(here, capsys):
    folder = run_job(config(), stages=(), out=Path("a")).folder
    whole = json.loads((folder / "summary.json").read_text())
    (folder / "manifest.json").unlink()
    for name in ("data", "training", "metrics"):
        for part in (None, {}, [], "x", 1):
            (folder / "summary.json").write_text(json.dumps(whole | {name: part}))
            assert main(["report", "a"]) == 2
            assert "error: a lacks what a report shows: " in capsys.readouterr().err
