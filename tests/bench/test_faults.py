"""A short form of ``make faults``: it finds nothing here, and does find what is planted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import strategies as some

from benchmarks.faults import damage, fuzz, whole
from benchmarks.faults.jobs import Job
from benchmarks.faults.kills import Ended, faults_of, kill_at


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
    found = faults_of(Ended(**fields | changes), tmp_path)
    assert [fault in one for one in found] == ([True] if fault else [])


def test_what_is_killed_at_once_has_not_said_what_another_said_before_it(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    for ending in (".out", ".err"):
        folder.with_suffix(ending).write_text("test split: loss 0.3, Traceback")
    job = Job(arguments=lambda: time.sleep(60) or 0)
    ended = kill_at(job, folder, signal.SIGKILL, 0.0, go_on=False, fresh=False)
    assert (ended.status, ended.out, ended.err) == (-9, "", "")
    assert faults_of(ended, folder) == []


def test_what_an_earlier_kill_left_is_no_fault_of_the_next(tmp_path):
    ended = Ended(status=143, signal=15, seconds=1.0, after=0.1, out="", err="", stayed=0)
    earlier, now = (f".a.json.{number:016x}.tmp.json" for number in (1, 2))
    (tmp_path / earlier).touch()
    assert faults_of(ended, tmp_path, left=[earlier]) == []
    (tmp_path / now).touch()
    assert faults_of(ended, tmp_path, left=[earlier]) == [f"left beside: {now}"]


ERROR = "error: x is damaged\nhelp: y\n"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"status": 2, "err": ERROR}, "refused"),
        ({"status": 1, "err": ERROR}, "refused"),
        ({"out": "0.25, in 3.1 s"}, "same answer"),
        ({"out": "0.5, in 3.0 s"}, "silent change"),
        ({"out": "0.5, in 3.0 s", "err": "note: left out\n"}, "told"),
        ({"out": "a: line 2 holds no\nrecord"}, "told"),
        ({"status": 2, "err": "Traceback (most recent call last)"}, "traceback"),
        ({"status": 1, "err": "error: a fault in lrdiff, KeyError"}, "traceback"),
        ({"status": 2, "err": ""}, "traceback"),
        ({"status": -11}, "traceback"),
        ({"signal": 9, "status": -9}, "hang"),
    ],
)
def test_what_is_said_of_a_damaged_file_is_judged(changes, outcome):
    right = {"status": 0, "signal": 0, "seconds": 1.0, "after": 0.0, "out": "0.25, in 3.0 s", "err": "", "stayed": 0}
    assert damage.judge(Ended(**right | changes), "", Ended(**right), "") == outcome
    assert damage.judge(Ended(**right), "page", Ended(**right), "another") == "silent change"


def test_bytes_are_damaged_in_three_ways(tmp_path):
    file, draw = tmp_path / "a", random.Random(0)
    data = bytes(range(1, 256)) * 8
    for way in damage.WAYS:
        file.write_bytes(data)
        damage.damage(file, way, draw)
        found = file.read_bytes()
        assert found != data
        assert (len(found) < len(data)) == (way == "cut")
        assert (0 in found) == (way == "zero")


@pytest.mark.slow
def test_inputs_that_are_made_up_are_taken_or_refused(tmp_path):
    found = {kind: (tried, faults) for kind, tried, faults in fuzz.fuzzed(25, 0, tmp_path)}
    assert found.keys() == fuzz.KINDS.keys()
    assert {kind: faults for kind, (_, faults) in found.items() if faults} == {}
    assert min(tried for tried, _ in found.values()) >= 10


def test_a_planted_fault_is_found_and_made_small(tmp_path, monkeypatch):
    def planted(scratch):
        return some.integers(), lambda number: 1 // (0 if number > 1000 else 1)

    monkeypatch.setitem(fuzz.KINDS, "planted", planted)
    ((_, _, faults),) = fuzz.fuzzed(200, 0, tmp_path, ["planted"])
    assert len(faults) == 1
    assert faults[0].startswith("ZeroDivisionError")
    assert faults[0].endswith("of 1001")


SHORT = ["--count", "12", "--jobs", "train,export,records", "--kinds", "summary,checkpoint,golden vectors"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists() or not hasattr(os, "fork"), reason="Linux alone")
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(SHORT, marks=pytest.mark.slow, id="a part of it"),
        pytest.param(["--count", "60"], marks=pytest.mark.long, id="all of it"),
    ],
)
def test_a_short_form_finds_nothing(asked, tmp_path):
    file = tmp_path / "faults.json"
    command = [sys.executable, "-m", "benchmarks.faults", *asked, "--parts", "kills,disks,damage", "--out", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert file.exists(), done.stderr
    record = json.loads(file.read_text())
    assert record["found"] == [], done.stderr
    assert done.returncode == 0
    count = int(asked[1])
    assert record["kills"] >= count
    kinds = record["counts"]
    assert sum(kinds[kind] for kind in kinds if kind.startswith("damage")) == count // 4
    assert any(kind.startswith("full disk") for kind in kinds)
    assert any(kind.startswith("2 writers") for kind in kinds)
