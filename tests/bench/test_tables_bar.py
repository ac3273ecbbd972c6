"""The bar over twenty tables: its sources, its records and its verdict; nothing is measured here."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from benchmarks.tables.__main__ import main
from benchmarks.tables.models import _dates_to_numbers, _theirs
from benchmarks.tables.page import write_page
from benchmarks.tables.sources import TABLES, read_table
from lrdiff_bench.system.machine import provenance
from lrdiff_core.data import load_table, split_table
from lrdiff_core.errors import InputError, UnavailableError


def record(table: str, seed: int, ours: float, seconds: float = 5.0) -> dict:
    others = {"score": 0.9 + 0.001 * seed, "loss": 0.2, "seconds": 0.1, "wall": 0.1}
    own = {"score": others["score"] + ours, "loss": 0.2, "seconds": seconds, "wall": seconds - 1.0, "whole": seed == 0}
    return {"table": table, "seed": seed, "rows": 150, "columns": 4, "ours": own, "mlp": others, "linear": others}


def test_there_are_twenty_tables_of_both_tasks_and_all_can_be_read_or_name_the_extra():
    assert len({table.name for table in TABLES}) == 20
    assert {table.task for table in TABLES} == {"classification", "regression"}
    read = 0
    for table in TABLES:
        try:
            distribution(table.package)
        except PackageNotFoundError:
            with pytest.raises(UnavailableError, match=r"\[tables\]"):
                read_table(table)
            continue
        frame = read_table(table)
        read += 1
        assert 100 <= frame.height <= 20_000, table.name
        assert frame.width > 1, table.name
        assert frame[table.target].null_count() == 0, table.name
    assert read >= 5  # scikit-learn's own


@pytest.mark.parametrize(
    ("ours", "seconds", "held", "word"),
    [(0.05, 5.0, True, "HELPS 5"), (0.0, 5.0, True, "NO DIFFERENCE 5"), (-0.05, 5.0, False, "HURTS 5"),
     (0.05, 200.0, False, "HELPS 5")],
)  # fmt: skip
def test_the_verdict_follows_the_records(ours, seconds, held, word):
    tables = TABLES[:5]
    rows = [record(table.name, seed, ours, seconds) for table in tables for seed in range(5)]
    text, found = write_page(rows, tables, seeds=5)
    assert found is held
    assert word in text
    assert ("MISSED" in text) is not held
    assert write_page(rows[:20], tables, seeds=5)[1] is False  # a table that was not measured is not passed over


def test_what_is_recorded_is_not_measured_again(tmp_path, monkeypatch, capsys):
    records, page = tmp_path / "records.jsonl", tmp_path / "tables.md"
    here = {**provenance("scikit-learn"), "commit": "abc123"}
    whole = json.dumps({**record("iris", 0, 0.1), **here})
    nowhere, failed = json.dumps(record("iris", 1, 0.1)), json.dumps({"table": "iris", "seed": 2, "problem": "killed"})
    records.write_text("\n".join([whole, nowhere, failed, whole[:30]]) + "\n")
    asked, run = [], subprocess.run

    def answer(command, **options):
        if "benchmarks.tables.models" not in command:  # git
            return run(command, **options)
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, 0, json.dumps(record("iris", int(command[-1]), 0.1)) + "\n", "")

    monkeypatch.setattr(subprocess, "run", answer)
    arguments = ["tables", "--tables", "iris", "--seeds", "3", "--records", str(records), "--out", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    assert asked == ["1", "2"]
    assert "reached" in capsys.readouterr().out
    assert main() == 0
    assert asked == ["1", "2"]
    kept = tmp_path / "tables.json"
    monkeypatch.setattr(sys, "argv", [*arguments, "--record", str(kept)])
    assert main() == 0
    text = page.read_text()
    page.unlink()
    monkeypatch.setattr(sys, "argv", ["tables", "--from", str(kept), "--out", str(page)])
    elsewhere = records.read_text().replace(json.dumps(here["machine"]["cpu"]), '"another processor"')
    records.unlink()
    assert main() == 0
    assert page.read_text() == text
    assert "- commit: abc123 and " in text  # of the one that was there, and of those measured here

    monkeypatch.setattr(sys, "argv", arguments)
    records.write_text(elsewhere)
    assert main() == 0, "a page is of the machine that measured, wherever it is written"
    assert "another processor, " in page.read_text()
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "4"])
    with pytest.raises(InputError, match="on another machine"):
        main()
    assert asked == ["1", "2"]


def test_the_other_models_learn_from_text_dates_and_holes(tmp_path):
    import polars as pl

    count = 120
    frame = pl.DataFrame({
        "when": [f"2020-{1 + row % 12:02d}-01" for row in range(count)],
        "kind": [None if row % 11 == 0 else "ab"[row % 2] for row in range(count)],
        "size": [None if row % 7 == 0 else row * 1.5 for row in range(count)],
        "y": ["no" if row % 2 else "yes" for row in range(count)],
    })  # fmt: skip
    assert _dates_to_numbers(frame).columns[-2:] == ["when sine", "when cosine"]
    table = load_table(frame.select(pl.col("size").fill_null(0.0), "y"), target="y")
    split = split_table(table)
    for name in ("mlp", "linear"):
        frame_with_target = frame.rename({"y": TABLES[0].target})
        answer = _theirs(name, TABLES[0], frame_with_target, table, split.train, split.test, 0)
        assert answer.shape == (len(split.test), 2)
        assert (answer.argmax(axis=1) == table.target[split.test]).mean() > 0.8
