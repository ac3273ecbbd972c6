"""The campaign that counts how often `lrdiff ab` is wrong: its rules, its page, and that it goes on where it ended."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.ab_counts import __main__ as counts, rules
from benchmarks.ab_counts.neighbours import main as run_beside, neighbours
from benchmarks.ab_counts.page import write_counts
from benchmarks.ab_counts.suites import SUITES
from lrdiff_bench.measure.foreign.inside.blocks import planted
from lrdiff_core.errors import CheckFailed

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def row(kind: str, number: int, verdict: str, **more) -> dict:
    return {"kind": kind, "number": number, "verdict": verdict, "ratio": 1.01, "seconds": 30.0, "asv": "same",
            "fail_min": False, "fail_median": False, "cpu": "a processor", "cpus": 2, "load": 2, "case_seconds": 120.0,
            "commit": "abc", "versions": {"python": "3.11"}, **more}  # fmt: skip


def whole(same: str = "equivalent", wrong: int = 2, missed: int = 5, **more) -> list[dict]:
    rows = [row("same", i, "slower" if i < wrong else same) for i in range(200)]
    rows += [row("five", i, "unresolved" if i < missed else "slower") for i in range(100)]
    return rows + [row("twenty", i, "slower", **more) for i in range(40)]


def test_the_bar_is_held_only_where_all_of_it_is() -> None:
    assert write_counts(whole())[1]
    for rows in (whole(wrong=3), whole(missed=6), whole(seconds=61.0), whole()[:-1]):
        assert not write_counts(rows)[1]
    text, _ = write_counts(whole(asv="slower", fail_min=True))
    assert "| nothing | 200 | 1.010 | 0 | 2 | 198 | 0 | 0 | 0 | 0 |" in text
    assert "| 20 % | 40 | 1.010 | 0 | 40 | 0 | 0 | 40 | 40 | 0 |" in text
    assert "- false verdicts: 2 of 200 (2 of 200 are allowed)" in text
    assert all(one.commit[:12] in text for one in SUITES)
    assert "- a processor, 2 CPUs; commit abc; 2 busy loops; no group of processes begun after 120 s" in text
    assert "python 3.11: 340 comparisons" in text
    assert "not yet all measured" in write_counts([])[0]


def test_the_page_is_what_its_comparisons_give() -> None:
    page = (RESULTS / "ab.md").read_text(encoding="utf-8")
    command = page.partition("Written by `")[2].partition("`")[0]
    written, held = write_counts(counts.read(RESULTS / "ab.jsonl"), shlex.split(command)[3:])
    assert page == written, f"write it again: {command}"
    assert ("- held" in page.splitlines()) == held


def test_rules_of_others() -> None:
    steady = [1.0, 1.01, 0.99, 1.0] * 5
    assert rules.asv_rule(steady, [1.3 * x for x in steady]) == "slower"
    assert rules.asv_rule(steady, [0.7 * x for x in steady]) == "faster"
    assert rules.asv_rule(steady, [1.05 * x for x in steady]) == "same"  # below its factor
    assert rules.compare_fail([1.0, 2.0], [1.06, 2.0], "min")
    assert not rules.compare_fail([1.0, 2.0], [1.06, 2.0], "mean")


def test_what_is_planted_takes_time() -> None:
    assert planted(lambda: 7, 10)() == 7
    assert 1e-9 < counts.turn_seconds() < 1e-6


def test_as_much_is_planted_as_is_said(monkeypatch) -> None:
    asked = []

    def slowed(case, pair, turns, *, groups):
        asked.append((turns, groups))
        return Namespace(comparison=Namespace(ratio=1.0 + 0.004 * turns), reason=None)

    monkeypatch.setattr(counts, "slowed", slowed)
    monkeypatch.setattr(counts, "turn_seconds", lambda: 1e-8)
    monkeypatch.setattr(counts, "call_seconds", lambda case, side: 1e-6)
    case = Namespace(id="case")
    assert counts.share_of_a_turn(case, (None, None)) == pytest.approx(0.004)
    assert asked == [(100, 2)]
    monkeypatch.setattr(counts, "slowed", lambda *_, **__: Namespace(comparison=None, reason="it ended"))
    with pytest.raises(CheckFailed, match="case cannot be measured: it ended"):
        counts.share_of_a_turn(case, (None, None))
    shares = {kind: share for kind, (share, _) in counts.KINDS.items()}
    for one in counts.read(RESULTS / "ab.jsonl"):
        assert one["planted"] == pytest.approx(shares[one["kind"]], rel=0.1), one["case"]  # turns are whole
        assert one["turns"] >= 10 or one["kind"] == "same", one["case"]


def test_the_campaign_goes_on_where_it_ended(tmp_path: Path, monkeypatch) -> None:
    measured: list[tuple[str, int]] = []

    def compare(case, pair, turns, *, seed, case_seconds):
        measured.append((case, turns))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return {"verdict": "equivalent", "seconds": 30.0}

    class Case(str):
        id = "case"

    side = Namespace(place=None)
    monkeypatch.setattr(counts, "compare", compare)
    found: list[str] = []
    monkeypatch.setattr(counts, "share_of_a_turn", lambda case, pair: found.append(case) or 0.004)
    monkeypatch.setattr(counts, "find_suite", lambda path: None)
    monkeypatch.setattr(counts, "list_cases", lambda place: ([], {}))
    monkeypatch.setattr(counts.job, "choose", lambda cases, names: [Case()])
    monkeypatch.setattr(counts, "open_checkouts", lambda *_, **__: neighbours(0))
    monkeypatch.setattr(counts, "KINDS", {"same": (0.0, 3), "five": (0.05, 2)})
    monkeypatch.setattr(counts.ExitStack, "enter_context", lambda self, one: (side, side))
    records = tmp_path / "counts.jsonl"

    def run(ends: float | None = None) -> None:
        given = Namespace(clones=tmp_path, records=records, load=0, case_seconds=60.0, python="python")
        counts.measure(SUITES, given, ends=ends)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(counts.read(records)) == 2
    run(ends=time.monotonic() - 1)
    assert len(counts.read(records)) == 2
    run()
    kept = [(one["kind"], one["number"]) for one in counts.read(records)]
    assert sorted(kept) == [("five", 0), ("five", 1), ("same", 0), ("same", 1), ("same", 2)]
    assert len(measured) == 6
    assert {one["kind"]: (one["turns"], one["planted"]) for one in counts.read(records)} == {
        "same": (0, 0.0), "five": (12, pytest.approx(0.048))
    }  # fmt: skip
    lines = records.read_text(encoding="utf-8").splitlines(keepends=True)
    records.write_text("".join(one for one in lines if '"five", "number": 1' not in one), encoding="utf-8")
    found.clear()
    run()  # what a turn adds is known from the other comparison
    assert (len(measured), found) == (7, [])


def test_a_command_is_run_beside_them_and_its_status_is_theirs(monkeypatch, capfd) -> None:
    waited = []
    monkeypatch.setattr("benchmarks.ab_counts.neighbours.time.sleep", waited.append)
    for given, status in ((["2", sys.executable, "-c", "print(6 * 7); exit(3)"], 3), (["two", "ls"], 2), (["2"], 2)):
        monkeypatch.setattr(sys, "argv", ["neighbours", *given])
        assert run_beside() == status
    assert waited == [60]
    out, err = capfd.readouterr()
    assert out == "42\n"
    assert err.count("usage: python -m benchmarks.ab_counts.neighbours COUNT COMMAND\n") == 2


def test_neighbours_come_and_are_gone_afterwards() -> None:
    with neighbours(2, seed=1):
        time.sleep(0.2)
        assert "while True: pass" in of_ours()
    assert "while True: pass" not in of_ours()


def of_ours() -> str:
    words = ["ps", "-o", "args", "--ppid", str(os.getpid())]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
