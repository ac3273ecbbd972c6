"""`--test`, `--groups`, `--time` and `--cv` from the command line to the folder: said, stored, and repeated alike."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.run.compare.chosen_rates import development
from lrdiff_bench.run.split_text import split_text
from lrdiff_bench.run.use.open_run import held_out, open_run
from lrdiff_core import make_config, set_up


@pytest.fixture
def rows(tmp_path, monkeypatch) -> pl.DataFrame:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    x = random.normal(size=120)
    return pl.DataFrame({
        "who": [f"p{i // 6}" for i in range(120)],
        "day": pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 4, 29), eager=True),
        "x": x,
        "z": random.normal(size=120),
        "y": (x > 0).astype(int),
    })  # fmt: skip


def train(*options: str) -> dict:
    Path("quick.toml").write_text('name = "quick"\nepochs = 2\npatience = 0\nhidden = [4]\n')
    told = ["quick.toml", *options, "--target", "y", "--out", "run", "--overwrite", "--device", "cpu"]
    assert main(["train", *told]) == 0
    return json.loads(Path("run/summary.json").read_text())


def test_groups_and_folds(rows, capsys):
    rows.drop("day").write_csv("t.csv")
    first = train("--data", "t.csv", "--groups", "who", "--cv", "3")
    assert first["data"]["split"]["kind"] == "groups"
    assert first["data"]["features"] == 2
    assert sum(first["data"]["split"]["groups"].values()) == 20
    assert sum(fold["split"]["test"] for fold in first["folds"]["folds"]) == 120
    (own, *others) = first["folds"]["models"]
    accuracies = [fold["accuracy"] for fold in first["folds"]["folds"]]
    assert own["accuracy"] == pytest.approx({"mean": np.mean(accuracies), "sd": np.std(accuracies, ddof=1)})
    assert {row["name"] for row in others} == {"logistic regression", "class shares"}
    screen = capsys.readouterr().out
    assert "by groups of who, none in two parts" in " ".join(screen.split())
    assert "Cross-validation" in screen
    assert "<h3>Cross-validation</h3>" in Path("run/report.html").read_text()
    assert max(map(len, screen.splitlines())) <= 80
    net, _, config = open_run(Path("run"))
    held, _ = held_out(net, config)
    assert len(held) == first["data"]["split"]["test"]
    assert config.groups == "who"
    assert main(["train", "run/config.toml", "--out", "again"]) == 0
    repeated = json.loads(Path("again/summary.json").read_text())
    for part in ("data", "metrics", "folds"):
        assert repeated[part] == first[part]
    assert main(["trace", "run"]) == 0
    assert "Cross-validation" in capsys.readouterr().out


def test_time(rows, capsys):
    rows.drop("who").write_parquet("t.parquet")
    split = train("--data", "t.parquet", "--time", "day")["data"]["split"]
    assert split["times"]["test"] == ["2024-04-12", "2024-04-29"]
    assert "test 2024-04-12 to 2024-04-29" in " ".join(capsys.readouterr().out.split())


def test_a_test_file(rows, capsys):
    rows.select("x", "z", "y").head(80).write_csv("t.csv")
    rows.select("x", "z", "y").tail(40).write_csv("later.csv")
    summary = train("--data", "t.csv", "--test", "later.csv")
    assert summary["data"]["split"] | {"test_file": ""} == {
        "train": 68, "validation": 12, "test": 40, "kind": "stratified", "test_file": ""
    }  # fmt: skip
    assert "of later.csv" in " ".join(capsys.readouterr().out.split())
    assert Path(tomllib.loads(Path("run/config.toml").read_text())["test"]).is_absolute()
    assert train("--data", "t.csv", "--test", "0.25")["data"]["split"]["test"] == 20


def test_refused_on_the_command_line(rows, capsys):
    rows.head(60).write_csv("t.csv")
    for options, words in (
        (["--groups", "who", "--time", "day"], "groups and time"),
        (["--groups", "whom"], '"whom"'),
        (["--test", "none.csv"], "none.csv does not exist"),
        (["--cv", "1"], "cv in the command line is 1"),
        (["--cv", "50"], "too few for 50 folds"),
        (["--test", "0.7"], "test in the command line is 0.7"),
    ):
        assert main(["train", "--data", "t.csv", "--target", "y", *options, "--out", "run"]) == 2
        assert words in capsys.readouterr().err
    assert not Path("run").exists()


def test_older_summaries_have_sizes_alone():
    sizes = {"train": 7, "validation": 1, "test": 2}
    assert split_text(sizes, "binary") == ["split, stratified: 7 train, 1 validation, 2 test"]
    assert split_text(sizes, "regression") == ["split: 7 train, 1 validation, 2 test"]


def test_warnings_are_on_the_screen_in_the_summary_and_on_the_report(rows, capsys):
    table = rows.select("x", "z", "y").with_columns(leak=pl.col("y") * 3)
    pl.concat([table, table.head(30)]).write_csv("t.csv")
    warnings = train("--data", "t.csv")["data"]["warnings"]
    assert {one["kind"] for one in warnings} == {"duplicates", "label in a feature"}
    screen, page = " ".join(capsys.readouterr().out.split()), Path("run/report.html").read_text()
    for one in warnings:
        assert f"warning: {one['text']}" in screen
        assert one["text"].replace('"', "&#34;")[1:] in page


@pytest.mark.slow
def test_predictions_go_to_a_file_of_the_format_that_its_name_says(rows, capsys, monkeypatch):
    table = rows.select("x", "z", "y")
    Path("t.jsonl").write_text(table.write_ndjson())
    train("--data", "t.jsonl")
    capsys.readouterr()
    assert main(["predict", "run", "--data", "t.jsonl"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("y,p(0),p(1)\n")
    expected = pl.read_csv(io.StringIO(printed))
    for name, read in {
        "p.parquet": pl.read_parquet,
        "p.arrow": pl.read_ipc,
        "p.jsonl": pl.read_ndjson,
        "p.csv": pl.read_csv,
        "p.csv.gz": pl.read_csv,
    }.items():
        assert main(["predict", "run", "--data", "t.jsonl", "--out", name]) == 0
        back = read(name)
        assert back.columns == expected.columns
        assert back["y"].cast(pl.String).to_list() == expected["y"].cast(pl.String).to_list()
        assert np.array_equal(back["p(1)"].cast(pl.Float32), expected["p(1)"].cast(pl.Float32))
    assert Path("p.csv").read_text() == printed
    assert main(["predict", "run", "--data", "t.jsonl", "--out", "p.txt"]) == 2
    assert "no format that is written" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("t.jsonl").read_bytes())))
    assert main(["predict", "run", "--data", "-"]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_a_streamed_run_says_so_and_is_repeated(rows, capsys):
    rows.select("x", "z", "y").write_parquet("t.parquet")
    summary = train("--data", "t.parquet", "--stream", "always")
    assert summary["data"]["streamed_rows"] == 120
    assert summary["data"]["split"]["kind"] == "drawn"
    screen = " ".join(capsys.readouterr().out.split())
    assert "120 rows are streamed" in screen
    assert "by the place of each row" in screen
    net, _, config = open_run(Path("run"))
    assert config.stream == "always"
    assert len(held_out(net, config)[0]) == summary["data"]["split"]["test"]
    assert main(["train", "run/config.toml", "--out", "again"]) == 0
    assert Path("again/model.safetensors").read_bytes() == Path("run/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_key_may_also_be_named_as_a_column(rows, capsys):
    days = ["01/02/2024", "02/02/2024", "03/02/2024", "04/02/2024"] * 30
    rows.with_columns(day=pl.Series(days)).drop("who").write_csv("ambiguous.csv")
    options = ["train", "--data", "ambiguous.csv", "--target", "y", "--time", "day", "--out", "none"]
    assert main(options) == 2
    assert "--date day=%d/%m/%Y" in capsys.readouterr().err
    split = train("--data", "ambiguous.csv", "--time", "day", "--date", "day=%d/%m/%Y")["data"]["split"]
    assert split["times"]["test"] == ["2024-02-04", "2024-02-04"]
    rows.drop("day").write_csv("t.csv")
    summary = train("--data", "t.csv", "--groups", "who", "--id", "who")
    assert [column["name"] for column in summary["data"]["left_out"]] == ["who"]
    assert main(["predict", "run", "--data", "t.csv", "--out", "p.parquet"]) == 0
    assert pl.read_parquet("p.parquet").columns[0] == "who"
    assert main(["train", "run/config.toml", "--out", "again"]) == 0


def test_rates_are_compared_on_fresh_splits_without_test_rows_and_with_whole_groups(rows):
    rows.select("x", "z", "y").write_parquet("t.parquet")
    rows.drop("day").write_csv("t.csv")
    for options in ({"data": "t.parquet", "stream": "always"}, {"data": "t.csv", "groups": "who"}):
        config = make_config({"target": "y", **options})
        setup = set_up(config.load_table(), config)
        changed, table = development(setup)
        held = {row.tobytes() for row in setup.rows.table.features[setup.rows.split.test]}
        assert not held & {row.tobytes() for row in table.features}
        assert table.stream is None
        splits = [changed.split(table, seed=seed) for seed in range(3)]
        assert len({tuple(split.test) for split in splits}) == 3
        if (groups := table.split_keys.groups) is not None:
            for split in splits:
                assert not set(groups.index[split.train]) & set(groups.index[split.test])
