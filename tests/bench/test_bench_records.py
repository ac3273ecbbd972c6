"""Records and their files: what is kept, what is refused, and that no append is ever lost or torn."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
import threading
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from pydantic import ValidationError

from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import Record, parse_record
from lrdiff_bench.measure.engine.suite import choose_cases, measure_here
from lrdiff_bench.system.machine import describe_code, describe_conditions, describe_machine
from lrdiff_core.errors import DataError, InputError


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_here(choose_cases(["main_step"], ["rates=2"])[0], Effort.quick())


def test_a_record_says_everything(record: Record) -> None:
    assert (record.case, record.name, record.parameters) == ("main_step[rates=2]", "main_step", {"rates": 2})
    assert [(s.process, s.block, s.order) for s in record.samples] == [(0, i, i) for i in range(7)]
    assert all(1e-7 < s.seconds < 1 for s in record.samples)
    process = record.processes[0]
    assert process.number > 1
    assert process.warmup
    assert process.first_call > record.median / 10
    assert process.clock_share < 0.001
    assert process.host_peak is not None
    assert process.host_peak >= process.host_before
    assert record.facts["groups"] == record.facts["rates"] == 2
    assert (record.facts["tensors"], record.facts["parameters"]) == (4, 61)
    assert record.facts["optimizer"] == "lrdiff_core.optim.rules.adam.Adam"
    assert record.parity is not None
    assert record.parity.held
    assert record.code == describe_code()
    assert record.code.commit is None or len(record.code.commit) == 40
    assert record.machine == describe_machine()
    assert record.conditions.threads == 1
    assert record.conditions.affinity
    assert record.created.endswith("+00:00")


def test_a_record_is_immutable_and_survives_its_json(record: Record) -> None:
    again = parse_record(record.model_dump_json(), where="here")
    assert again == record
    with pytest.raises(ValidationError):
        record.case = "other"
    with pytest.raises(FrozenInstanceError):
        record.machine.id = "other"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 1}, "schema 3: schema_version"),
        ({"format": "other"}, "format"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"machine": None}, "machine"),
        ({"processes": []}, "processes"),
    ],
)
def test_another_schema_is_refused_not_guessed_at(record: Record, change: dict, text: str) -> None:
    line = json.dumps(json.loads(record.model_dump_json()) | change)
    with pytest.raises(DataError, match=f"here holds no record of {'' if 'schema' in text else '.*'}{text}"):
        parse_record(line, where="here")


def test_a_missing_field_and_no_json_at_all(record: Record) -> None:
    document = json.loads(record.model_dump_json())
    del document["code"]
    with pytest.raises(DataError, match="code: Field required"):
        parse_record(json.dumps(document), where="here")
    for part in ("machine", "code", "conditions"):  # plain dataclasses, and as strict as the rest
        document = json.loads(record.model_dump_json())
        document[part]["surprise"] = 1
        with pytest.raises(DataError, match=f"{part}.surprise: "):
            parse_record(json.dumps(document), where="here")
    with pytest.raises(DataError, match="Invalid JSON"):
        parse_record("{", where="here")


def append_many(path, line: str, count: int) -> None:
    record = parse_record(line, where="test")
    for i in range(count):
        store.append_record(path, record.model_copy(update={"id": f"{os.getpid()}-{i}"}))


def test_several_processes_append_at_once_and_nothing_is_lost(record: Record, tmp_path) -> None:
    path = store.new_run(tmp_path)
    context = multiprocessing.get_context("spawn")
    long = record.model_copy(update={"facts": {"padding": "x" * 50_000}})  # more than a pipe or page takes at once
    writers = [context.Process(target=append_many, args=(path, long.model_dump_json(), 15)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    records = store.read_run(path)
    assert len({one.id for one in records}) == 45
    by_writer = {
        one.id.split("-")[0]: [r.id for r in records if r.id.startswith(one.id.split("-")[0])] for one in records
    }
    assert all(ids == sorted(ids, key=lambda i: int(i.split("-")[1])) for ids in by_writer.values())


@pytest.mark.skipif(sys.platform == "win32", reason="no flock on Windows")
def test_an_append_waits_for_the_one_before(record: Record, tmp_path) -> None:
    import fcntl

    path = store.new_run(tmp_path)
    with open(path, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = threading.Thread(target=store.append_record, args=(path, record))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert path.read_bytes() == b""
    writer.join(10)
    assert store.read_run(path) == [record]


def test_a_file_system_without_locks_keeps_records(record: Record, tmp_path, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="msvcrt locks there")

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    file = tmp_path / "r.jsonl"
    store.append_record(file, record)
    store.append_record(file, record)
    assert len(store.read_run(file)) == 2


def test_a_line_of_a_killed_writer_is_no_record_and_the_next_one_replaces_it(record: Record, tmp_path) -> None:
    path = store.new_run(tmp_path)
    store.append_record(path, record)
    with open(path, "ab") as file:
        file.write(record.model_dump_json().encode()[:5000])
    assert len(store.read_run(path)) == 1
    store.append_record(path, record.model_copy(update={"id": "second"}))
    assert [one.id for one in store.read_run(path)] == [record.id, "second"]


def test_a_changed_a_missing_and_an_earlier_line_are_told(record: Record, tmp_path, capsys) -> None:
    path = store.new_run(tmp_path)
    for id in ("a", "b", "c"):
        store.append_record(path, record.model_copy(update={"id": id}))
    first, second, third = path.read_bytes().splitlines(keepends=True)
    assert [one.id for one in store.read_run(path)] == ["a", "b", "c"]
    path.write_bytes(first + second.replace(b'"id":"b"', b'"id":"x"') + third)
    with pytest.raises(DataError, match="line 2 was changed or damaged"):
        store.read_run(path)
    assert capsys.readouterr().err == ""
    path.write_bytes((record.model_dump_json() + "\n").encode() + first)  # two files, one after the other
    assert len(store.read_run(path)) == 2
    assert "has no checksums (an earlier lrdiff wrote it)" in capsys.readouterr().err
    path.write_bytes(first + second[:-9])
    assert len(store.read_run(path)) == 1
    assert "the last line of" in capsys.readouterr().err


def test_lines_are_read_in_the_order_in_which_they_were_written(record: Record, tmp_path) -> None:
    """Every other order of the lines of two files, with and without some and with some twice, but for a cut end."""
    lines = {}
    for name in ("ab", "xy"):
        path = store.new_run(tmp_path)
        for id in name:
            store.append_record(path, record.model_copy(update={"id": id}))
        lines |= zip(name, path.read_bytes().splitlines(keepends=True), strict=True)
    path = store.new_run(tmp_path)
    for count in range(1, 4):
        for order in map("".join, itertools.product(lines, repeat=count)):
            path.write_bytes(b"".join(lines[id] for id in order))
            if order in ("a", "ab", "x", "xy"):
                assert "".join(one.id for one in store.read_run(path)) == order
                continue
            with pytest.raises(DataError, match=f"a record before {path.name} line [1-3] is missing, or it"):
                store.read_run(path)


def test_a_fault_in_the_middle_is_named_with_its_line(record: Record, tmp_path) -> None:
    path = store.new_run(tmp_path)
    store.append_record(path, record)
    with open(path, "ab") as file:
        file.write(b"nonsense\n")
    store.append_record(path, record)
    with pytest.raises(DataError, match=f"{path.name} line 2 holds no record"):
        store.read_run(path)


def test_runs_are_found_by_name_and_age(record: Record, tmp_path) -> None:
    files = [tmp_path / f"2026010{i}T000000Z-abc{i}.jsonl" for i in (1, 2, 3)]
    for file in files:
        store.append_record(file, record)
    assert store.run_files(tmp_path) == files
    assert store.find_run("latest", tmp_path) == files[2]
    assert store.find_run("latest~2", tmp_path) == files[0]
    assert store.find_run("20260102", tmp_path) == files[1]
    assert store.find_run(str(files[0]), tmp_path) == files[0]
    with pytest.raises(DataError, match="3 runs in .* begin with '2026'"):
        store.find_run("2026", tmp_path)
    with pytest.raises(DataError, match="0 runs in"):
        store.find_run("nothing", tmp_path)
    with pytest.raises(DataError, match="holds 3 runs, and latest~3 is not among them"):
        store.find_run("latest~3", tmp_path)
    with pytest.raises(DataError, match="no run at"):
        store.read_run(tmp_path / "nowhere.jsonl")


def test_records_of_two_machines_are_not_compared(record: Record) -> None:
    store.same_machine([record, record])
    other = record.model_copy(update={"machine": replace(record.machine, id="f" * 12)})
    with pytest.raises(InputError, match=r"different machines .*\nhelp: .*--across-machines"):
        store.same_machine([record, other])


def test_a_folder_that_cannot_be_made(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file.*\nhelp: name another folder with --out"):
        store.new_run(tmp_path / "file" / "runs")


def test_the_hosts_name_is_not_in_a_record(record: Record) -> None:
    import platform

    assert platform.node() not in json.dumps(asdict(record.machine))
    assert len(record.machine.id) == 12


def test_conditions_tell_what_changes_the_speed(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    conditions = describe_conditions("cpu", 1)
    assert conditions.environment["OMP_NUM_THREADS"] == "1"
    assert "PATH" not in conditions.environment
