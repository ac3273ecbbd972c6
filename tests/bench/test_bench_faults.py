"""What a stranger does to ``lrdiff bench``: damaged files, no runs, cases named twice, tools that fail."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import offline_page
from lrdiff_bench.cli import main
from lrdiff_bench.measure import command, conditions, pictures
from lrdiff_bench.measure.engine import child, store, suite
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.measure.engine.suite import CaseRun, choose_cases, measure_cases, measure_here
from lrdiff_bench.system.machine import describe_machine
from lrdiff_core.errors import ConfigError, DataError, UnavailableError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_here(find_case("main_step", rates=2), Effort.quick())


def test_a_damaged_run_does_not_hide_the_others(record: Record, tmp_path: Path, capsys) -> None:
    (tmp_path / "20260101T000000Z-a.jsonl").write_bytes(b'{"unfinished": ')
    (tmp_path / "20260102T000000Z-b.jsonl").write_bytes(b"\xff\xfe\n")
    store.append_record(tmp_path / "20260103T000000Z-c.jsonl", record)
    assert main(["bench", "ls", "--from", str(tmp_path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "20260101T000000Z-a: ended before its first record" in shown
    assert "20260102T000000Z-b: 20260102T000000Z-b.jsonl line 1 holds no record" in shown
    assert f"20260103T000000Z-c 1 {record.code.commit[:10] if record.code.commit else 'none'}" in shown
    assert main(["bench", "ls", "--json", "--from", str(tmp_path)]) == 0
    assert [run["records"] for run in json.loads(capsys.readouterr().out)] == [0, 0, 1]
    for words in (["show", "20260101"], ["compare", "20260101"], ["pictures", "20260101"]):
        assert main(["bench", *words, "--from", str(tmp_path)]) == 2
        assert "error: the run 20260101T000000Z-a ended before its first record\nhelp: " in capsys.readouterr().err
    assert main(["bench", "show", "20260102", "--from", str(tmp_path)]) == 2
    assert "remove the file" in capsys.readouterr().err


def test_a_record_may_hold_what_only_unicode_takes_for_the_end_of_a_line(record: Record, tmp_path: Path) -> None:
    odd = record.model_copy(update={"facts": {"name": "one\u2028two\u0085three\x1c"}})
    store.append_record(tmp_path / "run.jsonl", odd)
    assert store.read_run(tmp_path / "run.jsonl") == [odd]


@pytest.mark.skipif(resource is None, reason="limits of a process are POSIX")
@pytest.mark.parametrize("most", [0, 300])
def test_a_page_on_a_full_disk_is_an_error(record: Record, most: int, tmp_path: Path, capsys) -> None:
    store.append_record(tmp_path / "20260103T000000Z-c.jsonl", record)
    page, before = tmp_path / "pages" / "page.md", resource.getrlimit(resource.RLIMIT_FSIZE)
    page.parent.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        status = main(["bench", "show", "--to", str(page), "--from", str(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    error, help = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "File too large" in error
    assert help.startswith("help: ")
    assert not page.exists()
    assert not [file for file in page.parent.rglob("*") if file.name.startswith(".")]


@pytest.mark.parametrize("name", ["latest~x", "latest~-1", "latest~1.5", "latest~²"])
def test_no_run_is_guessed_at(name: str, record: Record, tmp_path: Path) -> None:
    store.append_record(tmp_path / "20260103T000000Z-c.jsonl", record)
    with pytest.raises(DataError, match=f"{name} is not a run\nhelp: write latest, latest~1"):
        store.find_run(name, tmp_path)


def test_both_sides_of_a_comparison_of_commits_are_told_apart(record: Record, tmp_path: Path, capsys) -> None:
    run = store.new_run(tmp_path)
    for commit in ("a" * 40, "b" * 40):
        store.append_record(run, record.model_copy(update={"code": replace(record.code, commit=commit)}))
    assert main(["bench", "show", "--from", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^   main_step a{10}\+? ", out, re.MULTILINE)
    assert re.search(r"^   main_step b{10}\+? ", out, re.MULTILINE)
    assert main(["bench", "compare", "latest", "latest", "--from", str(tmp_path)]) == 2
    assert "error: the run latest holds main_step[rates=2] twice" in capsys.readouterr().err


def test_a_busy_machine_is_warned_of_on_stderr_and_the_page_names_the_command(
    record: Record, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(
        command, "measure_cases", lambda cases, *_, **__: (CaseRun(one, record=record) for one in cases)
    )
    monkeypatch.setattr(conditions, "load_average", lambda: 1000.0)
    page = tmp_path / "page.md"
    given = ["bench", "main_step", "--param", "rates=2", "--quick", "--out", str(tmp_path)]
    assert main([*given, "--to", str(page)]) == 0
    said = capsys.readouterr()
    assert "the machine is busy (load 1000.0" in said.err
    assert "expect noise" not in said.out
    assert re.search(
        r"^Written by `lrdiff bench main_step --param rates=2 --quick [^`]*` on [-\d]+, 1 case: ",
        page.read_text(),
        re.M,
    )
    assert main(["bench", "show", "--to", str(page), "--from", str(tmp_path)]) == 0
    assert f"`lrdiff bench show --to {page} --from {tmp_path}`" in page.read_text()
    load = record.conditions.load
    assert load is None or f"load {load:.1f}, governor" in capsys.readouterr().out


def test_what_is_asked_for_twice_is_measured_once() -> None:
    labels = [case.label for case in choose_cases(["main_step", "main_step"], ["rates=1,1,2"])]
    assert labels == ["main_step[rates=1]", "main_step[rates=2]"]


@pytest.mark.parametrize(("name", "meant"), [("main_stpe", "main_step"), ("hsitory", "history")])
def test_a_misspelt_case_or_command_is_told_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(
        ConfigError, match=f"there is no case '{name}'\nhelp: did you mean {meant}\\? cases and commands: {meant}"
    ):
        choose_cases([name])


def test_a_band_is_not_made_of_a_pair_or_two(tmp_path: Path, capsys) -> None:
    assert main(["bench", "calibrate", "--processes", "3", "--out", str(tmp_path)]) == 2
    assert (
        "error: 3 pairs of processes are too few for an A/A band\nhelp: write --processes 4 or more"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["²", "0,", "-1", "a"])
def test_processors_that_are_none(text: str, tmp_path: Path, capsys) -> None:
    assert main(["bench", "main_step", "--affinity", text, "--out", str(tmp_path)]) == 2
    assert f"error: --affinity {text} is not a list of processors" in capsys.readouterr().err


def test_without_valgrind_nothing_is_measured(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match="valgrind is not installed\nhelp: .*leave out --instructions"):
        next(measure_cases([find_case("main_step")], Effort.quick(), instructions=True))


@pytest.mark.slow
def test_a_case_that_valgrind_cannot_count_keeps_its_times(monkeypatch) -> None:
    def cannot(case) -> float:
        raise UnavailableError(f"callgrind cannot count {case.label}: as planned", help="leave it")

    monkeypatch.setattr(suite, "check_valgrind", lambda: None)
    monkeypatch.setattr(suite, "count_instructions", cannot)
    (row,) = measure_cases([find_case("main_step", rates=2)], Effort.quick(), instructions=True)
    assert row.reason is None
    assert row.note == "callgrind cannot count main_step[rates=2]: as planned (leave it)"
    assert row.record is not None
    assert row.record.samples
    assert row.record.instructions is None
    from rich.console import Console

    from lrdiff_bench.measure.screen import run_table

    console = Console(width=80, record=True)
    console.print(run_table([row]))
    assert "main_step: callgrind cannot count" in console.export_text()


def test_a_picture_shows_what_its_title_says(record: Record) -> None:
    plain = {
        "shapes": "thousand",
        "optimizer": "adamw",
        "implementation": "ours",
        "device": "cpu",
        "threads": 1,
        "caches": "hot",
    }
    others = [{}, {"optimizer": "sgd"}, {"threads": 2}, {"device": "cuda"}, {"caches": "cold"}]
    rows = [
        record.model_copy(
            update={
                "id": f"{rates} {other}",
                "name": "optimizer_step",
                "parameters": {**plain, "rates": rates, **other},
            }
        )
        for other in others
        for rates in (1, 2, 8)
    ]
    drawn = pictures.steps_by_rates(rows)
    assert [one.id for line in drawn.values() for one in line] == ["1 {}", "2 {}", "8 {}"]


def test_a_driver_that_does_not_answer_is_no_end(tmp_path: Path, monkeypatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    found = describe_machine("cuda")
    assert (found.device, found.driver) == ("a GPU", None)
    tool.write_text("#!/bin/sh\necho 'Other GPU, 595.10, 1980'\n")
    assert (describe_machine("cuda").device, describe_machine("cuda").driver) == ("Other GPU", "595.10")


def test_a_package_that_lacks_a_file_leaves_the_page_as_it_is(tmp_path: Path, monkeypatch) -> None:
    tool = tmp_path / "npm"
    tool.write_text("#!/bin/sh\n: > x && tar czf jquery-3.3.1.tgz x\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    page = tmp_path / "html"
    page.mkdir()
    (page / "index.html").write_text('<script src="https://x.org/jquery-3.3.1.min.js"></script>')
    assert offline_page.make_offline(page) == "jquery@3.3.1 holds no dist/jquery.min.js"
    assert "https://" in (page / "index.html").read_text()
    assert not list((tmp_path / "vendor").iterdir())


@pytest.mark.parametrize("case", ["main_step", "no_such_case"])
def test_a_measuring_process_ends_without_a_word_when_nobody_asks_any_more(case: str, monkeypatch) -> None:
    monkeypatch.setattr("gc.disable", lambda: None)  # this process goes on
    request = {"case": case, "module": "lrdiff_bench.measure.cases.main_job", "parameters": {}, "device": "cpu"}
    request |= {"block_seconds": 0.001, "warmup_seconds": 0.01}
    reading, writing = os.pipe()
    os.close(reading)
    answers = os.fdopen(writing, "w")
    assert child._serve_reporting(io.StringIO(json.dumps(request) + "\n"), answers) == 1
    with suppress(BrokenPipeError):
        answers.close()


ORPHAN = """
import os, signal, time
from lrdiff_bench.measure import asv_records
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import parse_record
from lrdiff_bench.measure.engine.registry import find_case

driver = os.getpid()
record = parse_record(input(), where="stdin")

def measure(*_):
    os.kill(driver, signal.SIGKILL)
    while os.getppid() == driver:
        time.sleep(0.01)
    return record

asv_records.measure_here = measure
asv_records._measure_in_copy(find_case("main_step"), Effort.quick())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="copies are forked on Linux alone")
def test_a_forked_copy_ends_without_a_word_when_nobody_asks_any_more(record: Record) -> None:
    command = [sys.executable, "-c", ORPHAN]
    done = subprocess.run(command, input=record.model_dump_json(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-9, "")
