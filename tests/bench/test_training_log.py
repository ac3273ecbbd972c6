"""``--log``: the numbers of every epoch and the rate of every group by name, in other people's formats."""

import csv
import math
import sqlite3
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.run.files.training_log import LOGS, training_logs
from lrdiff_bench.run.job import run_job
from lrdiff_core import make_config
from lrdiff_core.errors import ConfigError, UnavailableError

SETTINGS = {
    "name": "logged",
    "data": "wine",
    "epochs": 4,
    "patience": 0,
    "schedule": "cosine",
    "rates": {"layer1": 0.01, "layer2": 0.001},
    "tune": False,
}


def rows_of(folder):
    with (folder / "log.csv").open(newline="") as opened:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(opened)]


def test_a_row_an_epoch_with_the_rate_of_every_group(tmp_path):
    folder = tmp_path / "one"
    run_job(make_config(SETTINGS), out=folder, stages=[], log=["csv", "csv"])
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isclose(row["lr/layer1"], 10 * row["lr/layer2"]) for row in rows)
    assert 0.01 > rows[0]["lr/layer1"] > rows[-1]["lr/layer1"]

    import polars

    kept = polars.read_parquet(folder / "metrics.parquet").filter(polars.col("split") != "test")
    for row in kept.iter_rows(named=True):
        logged = rows[row["epoch"] - 1]
        assert logged[f"loss/{row['split']}"] == row["loss"]
        assert logged[f"accuracy/{row['split']}"] == row["score"]
    assert "log.csv" in {file.name for file in folder.iterdir()}


def test_a_log_that_goes_on_has_every_epoch_once(tmp_path):
    (tmp_path / "log.csv").write_text('epoch,"lr/a,b"\n1,0.1\n2,0.1\n3,0.1\n')
    with training_logs(["csv"], make_config(SETTINGS)) as logs:  # killed after epoch 3, goes on after epoch 1
        for epoch in (2, 3):
            logs[0].write(tmp_path, epoch, {"lr/a,b": 0.2})
    assert [(row["epoch"], row["lr/a,b"]) for row in rows_of(tmp_path)] == [(1, 0.1), (2, 0.2), (3, 0.2)]


def test_tensorboard_has_what_the_csv_has(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    folder = tmp_path / "one"
    run_job(make_config(SETTINGS), out=folder, stages=[], log=["csv", "tensorboard"])
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = rows_of(folder)
    names = set(rows[0]) - {"epoch"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        found = [(one.step, one.value) for one in events.Scalars(name)]
        assert [step for step, _ in found] == [1, 2, 3, 4]
        assert [value for _, value in found] == pytest.approx([row[name] for row in rows], rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, of SQLAlchemy
def test_mlflow_has_what_the_csv_has_in_its_own_sqlite_file(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "one"
    run_job(make_config(SETTINGS), out=folder, stages=[], log=["csv", "mlflow"])
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute("select key, step, value from metrics order by key, step").fetchall()
        runs = database.execute("select name, status from runs").fetchall()
        rates = database.execute("select value from params where key = 'rates'").fetchall()
    assert runs == [("logged", "FINISHED")]
    assert rates == [("{'layer1': 0.01, 'layer2': 0.001}",)]
    rows = rows_of(folder)
    expected = [(key, row["epoch"], row[key]) for key in sorted(set(rows[0]) - {"epoch"}) for row in rows]
    assert [(key, step) for key, step, _ in found] == [(key, step) for key, step, _ in expected]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in expected])


@pytest.mark.parametrize("name", sorted(set(LOGS) - {"csv"}))
def test_what_is_not_installed_is_said_before_anything_is_trained(name, tmp_path, monkeypatch, capsys):
    from lrdiff_bench.run.files import training_log

    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(training_log, "import_module", missing)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match="is not installed"):
        run_job(make_config(SETTINGS), out=Path("one"), stages=[], log=[name])
    assert main(["train", "--data", "wine", "--log", name]) == 3
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))


def test_a_log_that_does_not_exist_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="write one of: csv, tensorboard, mlflow"):
        run_job(make_config(SETTINGS), out=Path("one"), stages=[], log=["wandb"])
    assert main(["run", "--data", "wine", "--log", "wandb"]) == 2
    assert "csv, tensorboard, mlflow" in capsys.readouterr().err
