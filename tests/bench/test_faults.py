"""A short form of ``make faults``: it finds nothing here, and does find what is planted."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.faults import whole
from benchmarks.faults.__main__ import main
from benchmarks.faults.kills import Ended, faults_of


def test_what_is_half_is_found(tmp_path):
    for name, text in {
        "a.json": '{"a": 1',
        "b.jsonl": '{"a": 1}\n{"a"\n',
        "c.svg": "<svg>",
        "d.parquet": "PAR1....",
        "e.toml": "a = ",
        "f.safetensors": "123",
        "g.npz": "PK",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "whole.jsonl").write_text('{"a": 1}\n{"unfin')  # never a record
    (tmp_path / ".h.json.tmp.json").write_text("{")
    assert [one[0] for one in whole.half_files(tmp_path)] == list("abcdefg")
    assert whole.left_beside(tmp_path) == [".h.json.tmp.json"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": 1, "signal": 15}, "status 1"),
        ({"after": 11.0}, "from the signal to the end"),
        ({"err": "Traceback (most recent call last)"}, "traceback"),
        ({"err": "error: a fault in lrdiff, KeyError"}, "a fault in lrdiff"),
        ({"stayed": 2}, "2 processes stayed"),
        ({"out": "test split: loss 0.3"}, "a finished training is lost"),
        ({}, None),
    ],
)
def test_what_is_wrong_after_a_kill_is_found(tmp_path, changes, fault):
    fields = {"status": 130, "signal": 2, "seconds": 1.0, "after": 0.1, "out": "", "err": "", "stayed": 0}
    found = faults_of(Ended(**fields | changes), tmp_path, had=False)
    assert [fault in one for one in found] == ([True] if fault else [])


@pytest.mark.long
@pytest.mark.parametrize("count", [3, 12])
@pytest.mark.skipif(not Path("/proc/self/stat").exists() or not hasattr(os, "fork"), reason="Linux alone")
def test_kills_lose_nothing(count, tmp_path):
    import subprocess

    record = tmp_path / "faults.json"
    command = ["--count", str(count), "--jobs", "train,records", "--minutes", "2", "--out", str(record)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *command], capture_output=True, text=True, check=False
    )
    found = json.loads(record.read_text())
    assert found["found"] == [], done.stderr
    assert done.returncode == 0
    assert found["kills"] > 0
    assert callable(main)
