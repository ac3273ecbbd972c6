"""The history: what asv is given to measure, one measurement for all who ask, and what the command says of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.measure import asv_records, history
from lrdiff_bench.measure.asv_records import measure_in_copies
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import ParityResult, Record, join_records
from lrdiff_bench.measure.engine.registry import CASES, find_case
from lrdiff_bench.measure.engine.suite import measure_here
from lrdiff_bench.measure.history import benchmark_name, list_commits, read_failures
from lrdiff_bench.measure.regressions import noisy_commits
from lrdiff_core.errors import CheckFailed, ConfigError

ROOT = Path(__file__).parents[2]
LIST = """
import json, sys
sys.path.insert(0, sys.argv[1])
from asv_runner.discovery import disc_benchmarks
found = []
for one in disc_benchmarks(sys.argv[1] + "/asv_suite"):
    kind = type(one.func.__self__)
    fixed, names, params = dict(kind.fixed), list(kind.param_names), list(kind.params)
    if "within_budget" not in one.name:  # it counts over cases
        found.append([one.name, one.type, one.unit, one.version, kind.case, fixed, names, params])
print(json.dumps(found))
"""


def benchmarks(**variables: str) -> dict[str, SimpleNamespace]:
    """Every benchmark that asv finds, by name, with the labels of the cases that it runs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ASV_", "LRDIFF_BENCH_"))}
    done = subprocess.run(
        [sys.executable, "-c", LIST, str(ROOT / "benchmarks")],
        env={**environment, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {}
    for name, kind, unit, version, case, fixed, names, params in json.loads(done.stdout):
        choices = itertools.product(*params)
        labels = [CASES[case].case(**fixed, **dict(zip(names, one, strict=True))).label for one in choices]
        found[name] = SimpleNamespace(kind=kind, unit=unit, version=version, case=case, labels=labels)
    return found


@pytest.mark.slow
def test_by_default_asv_follows_what_a_quick_run_measures_and_all_of_it_when_asked() -> None:
    found, whole = benchmarks(), benchmarks(LRDIFF_BENCH_ALL="1")
    assert found.items() <= whole.items()  # what is there by default goes on
    for name, family in CASES.items():
        mine = {key: one for key, one in found.items() if one.case == name}
        methods = {key.rpartition(".")[2]: one for key, one in mine.items()}
        assert all(f".{benchmark_name(name)}." in key for key in mine)
        assert all(one.version == family.version for one in mine.values())
        assert all(sorted(one.labels) == sorted(c.label for c in family.cases(quick=True)) for one in mine.values())
        if family.metric == "memory":
            assert {(one.kind, one.unit) for one in methods.values()} == {("peakmemory", "bytes")}
            continue
        assert (methods["time_step"].kind, methods["time_step"].unit) == ("time", "seconds")
        assert ("track_error" in methods) == family.parity
        # What only another device has is not here; the others are all followed.
        followed = {label for one in whole.values() if one.case == name for label in one.labels}
        wanted = {case.label for case in family.cases() if case.parameters.get("device", "cpu") == "cpu"}
        assert wanted <= followed, wanted - followed


@pytest.mark.long
def test_asv_measures_a_case_once_for_its_time_and_its_error_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    """Through asv's own classes: samples are the engine's, a case that is not here is skipped, wrong results fail."""
    script = """
import json, sys
sys.path.insert(0, sys.argv[1])
from asv_runner.discovery import disc_benchmarks
all = {one.name: one for one in disc_benchmarks(sys.argv[1] + "/asv_suite")}
time, error = all["main_job.MainStep.time_step"], all["main_job.MainStep.track_error"]
for one in (time, error):
    one.set_param_idx(1)
    assert one.do_setup() is False
samples, first = time.do_run(), error.do_run()
record = error.func.__self__.record("another reader")
measured = all["main_job.MainStep.time_step"].func.__self__
wrong = measured.record
class Wrong:
    samples, case = (), "main_step"
    class parity: error, budget, held = 9.0, 8.0, False
time.func.__self__._step, time.func.__self__.record = None, lambda reader: Wrong
try:
    time.func.__self__.repeat
except Exception as problem:
    refused = str(problem)
cuda = all["shipping.Export.time_step"]
print(json.dumps([samples, first, [s.seconds for s in record.samples], record.parity.error, refused, cuda.do_setup()]))
"""
    command = [sys.executable, "-c", script, str(ROOT / "benchmarks")]
    variables = {**os.environ, "LRDIFF_BENCH_QUICK": "1", "LRDIFF_BENCH_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    samples, error, kept, parity, refused, skipped = json.loads(done.stdout.splitlines()[-1])
    assert samples == {"samples": kept, "number": 1}
    assert error == parity
    assert "9.0 eps from float64, 8.0 are allowed" in refused
    assert skipped is False
    variables["LRDIFF_BENCH_DEVICE"] = "cuda"
    last = "print(json.dumps([None, None, None, None, None, cuda.do_setup()]))"
    short = script.split("time, error =")[0] + 'cuda = all["shipping.Export.time_step"]\n' + last
    command = [sys.executable, "-c", short, str(ROOT / "benchmarks")]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])[-1] is True


COUNT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from asv_runner.discovery import disc_benchmarks
all = {one.name: one for one in disc_benchmarks(sys.argv[1] + "/asv_suite")}
found = []
for name in ("shipping.PredictionParity.track_rows_within_budget", "around.TimeToTarget.track_steps_to_target"):
    one = all[name]
    one.set_param_idx(0)
    assert one.do_setup() is False
    found.append([one.do_run(), one.unit, len(getattr(one.func.__self__, "rows", []))])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_asv_follows_parity_and_convergence(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT, str(ROOT / "benchmarks")]
    variables = {**os.environ, "LRDIFF_BENCH_QUICK": "1", "LRDIFF_BENCH_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (held, rows, of), (steps, unit, _) = json.loads(done.stdout.splitlines()[-1])
    assert (rows, unit) == ("rows", "steps")
    assert 3 <= held == of  # onnxruntime twice and torch at the least, and all of them hold
    assert 0 < steps <= 280


@pytest.fixture(scope="module")
def record() -> Record:
    return measure_here(find_case("main_step", rates=2), Effort.quick())


def test_a_case_is_measured_once_for_all_its_readers_and_anew_for_one_that_asks_again(
    record: Record, tmp_path: Path, monkeypatch
) -> None:
    taken = [record.model_copy(update={"id": str(i)}) for i in range(4)]
    waiting = iter(taken)
    monkeypatch.setattr(asv_records, "measure_in_copies", lambda case, effort: next(waiting))
    monkeypatch.setattr(asv_records, "commit_seconds", lambda: 1_700_000_000)
    folder, kept = tmp_path / "shared", tmp_path / "kept"
    folder.mkdir()

    def ask(reader: str, rates: int = 2) -> str:
        case = find_case("main_step", rates=rates)
        return asv_records.shared_record(case, Effort.quick(), folder, reader=reader, records=kept).id

    assert [ask("error"), ask("time"), ask("time"), ask("error")] == ["0", "0", "1", "1"]
    assert ask("error", rates=1) == "2"  # another case
    if record.code.commit is None:
        pytest.skip("no git checkout: no run a commit")
    (run,) = store.run_files(kept)
    assert run.name == f"20231114T221320Z-{record.code.commit[:10]}.jsonl"
    assert [one.id for one in store.read_run(run)] == ["2"]  # of each case the newest


def test_a_record_takes_the_place_of_the_same_case_on_the_same_machine(record: Record, tmp_path: Path) -> None:
    other = record.model_copy(update={"case": "main_step[rates=1]", "id": "other"})
    elsewhere = record.model_copy(update={"machine": dataclasses.replace(record.machine, id="x"), "id": "elsewhere"})
    for one in (record, other, elsewhere, record.model_copy(update={"id": "new"})):
        store.replace_record(tmp_path / "run.jsonl", one)
    assert [one.id for one in store.read_run(tmp_path / "run.jsonl")] == ["other", "elsewhere", "new"]


def test_a_record_of_copies_is_one_record_of_several_processes() -> None:
    record = measure_in_copies(find_case("main_step", rates=2), Effort.quick(processes=2))
    assert [process.process for process in record.processes] == [0, 1]
    assert [len(blocks) for blocks in record.by_process()] == [7, 7]
    assert [(s.process, s.order) for s in record.samples] == [(i // 7, i) for i in range(14)]
    assert record.parity is not None
    assert record.parity.held


def test_no_copy_is_begun_when_the_time_of_a_case_is_up() -> None:
    short = dataclasses.replace(Effort.quick(processes=5), case_seconds=1e-9)
    assert len(measure_in_copies(find_case("main_step"), short).processes) == 1


def test_a_copy_that_fails_says_why_and_ends(capfd) -> None:
    def broken() -> Workload:
        raise RuntimeError("as planned")

    case = Case(name="broken", version="1", factory=broken)
    with pytest.raises(CheckFailed, match="process that measured broken ended with status 1"):
        measure_in_copies(case, Effort.quick())
    assert "RuntimeError: as planned" in capfd.readouterr().err


def test_one_wrong_process_makes_the_case_wrong(record: Record) -> None:
    right, wrong, nothing = (
        ParityResult(error=error, budget=8.0, held=held) for error, held in ((1.0, True), (9.0, False), (None, False))
    )
    parts = [record.model_copy(update={"parity": one}) for one in (right, wrong, right)]
    assert join_records(parts).parity == wrong
    parts = [record.model_copy(update={"parity": one}) for one in (wrong, nothing, right)]
    assert join_records(parts).parity == nothing
    assert join_records([record.model_copy(update={"parity": None})]).parity is None


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_of_a_merge_the_commits_that_the_page_shows_are_measured(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    for message in ("one", "two"):
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", message)
    git(tmp_path, "checkout", "-q", "-b", "side", "HEAD~1")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "aside")
    git(tmp_path, "checkout", "-q", "main")
    git(tmp_path, "merge", "-q", "--no-ff", "-m", "merge", "side")
    shown = git(tmp_path, "log", "--first-parent", "--format=%H").split()
    assert len(shown) == 3
    assert list_commits(None, tmp_path) == shown
    assert list_commits("HEAD~1..HEAD", tmp_path) == shown[:1]
    with pytest.raises(ConfigError, match='the range " cannot be read: No closing quotation\nhelp: close'):
        list_commits('"', tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--repository", "{tmp}"], 2, "{tmp} is in no git repository\nhelp: name a clone with --repository"),
        (["--repository", "{tmp}/nowhere"], 2, "{tmp}/nowhere is in no git repository\nhelp: "),
        (["--device", "auto"], 2, "there is no device 'auto' to measure on\nhelp: write one of: cpu, cuda, mps"),
        (["nowhere..HEAD"], 2, "nowhere..HEAD names no commits: "),
        (["--affinity", "9999"], 2, "--affinity 9999 is not a list of processors"),
    ],
)
def test_what_a_history_refuses_leaves_nothing_behind(
    arguments: list[str], status: int, text: str, tmp_path: Path, capsys
) -> None:
    given = [word.format(tmp=tmp_path) for word in arguments]
    if "--repository" not in given:
        git(tmp_path, "init", "-q")
        given += ["--repository", str(tmp_path)]
    assert main(["bench", "history", *given, "--out", str(tmp_path / "out")]) == status
    assert f"error: {text.format(tmp=tmp_path)}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_inside_a_repository_stands_for_all_of_it(tmp_path: Path) -> None:
    inside = tmp_path / "project" / "inside"
    inside.mkdir(parents=True)
    git(inside.parent, "init", "-q")
    assert history.root_of(inside) == inside.parent
    git(tmp_path, "clone", "-q", "--bare", str(inside.parent), "bare.git")
    assert history.root_of(tmp_path / "bare.git" / "objects") == tmp_path / "bare.git"


def test_failures_are_found_in_asvs_results(tmp_path: Path) -> None:
    results = {
        "cases.whole": [[1.0, 2.0], []],
        "cases.skipped": [[float("nan"), 1.0], []],
        "cases.half": [[None, 1.0], []],
        "cases.none": [None, []],
        "cases.cut": [],
    }
    (tmp_path / "machine").mkdir()
    for commit in ("abc", "other"):
        document = {"commit_hash": commit, "result_columns": ["result", "params"], "results": results}
        (tmp_path / "machine" / f"{commit}-env.json").write_text(json.dumps(document))
    failed = read_failures(tmp_path, ["abc"])
    assert failed == [{"case": f"cases.{name}", "commit": "abc"} for name in ("half", "none", "cut")]


def test_a_history_says_what_failed_and_ends_with_status_1(tmp_path: Path, monkeypatch, capsys) -> None:
    report = {
        "page": str(tmp_path / "html" / "index.html"), "offline": None, "commits": 2, "seconds": 90.0,
        "regressions": [{"case": "x.time_y", "factor": 3.0, "commit": "d" * 40, "before": 1e-6, "after": 3e-6,
                         "unit": "seconds", "where": {}}],
        "noisy": [{"commit": "d" * 40, "load": 3.0, "memory_copy": 1.4}],
        "withdrawn": [{"case": "some.Case", "commit": "c" * 40, "factor": 3.4}],
        "failures": [{"case": "cases.track_export", "commit": "0123456789abcdef"}] * 3,
    }  # fmt: skip
    monkeypatch.setattr(history, "measure_history", lambda *_, **__: report)
    assert main(["bench", "history", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "commits: 2 in 1.5 min, regressions: 1" in said.out
    since = "since dddddddddddd, from 1.00 µs to 3.00 µs there (beside other work)"
    assert f"x.time_y: 3.00 times slower {since}" in said.out
    assert "dddddddddddd was measured beside other work: load 3.0, memory_copy 1.40 times its median" in said.out
    assert "some.Case: not slower when cccccccccccc was measured again" in said.out
    assert "error: not measured: cases.track_export of 0123456789ab and 2 more\nhelp: " in said.err
    report["failures"] = []
    assert main(["bench", "history", "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["failures"] == []


def test_commits_measured_on_a_busy_machine_are_known_by_load_and_memory(record: Record, tmp_path: Path) -> None:
    def write(commit: str, load: float, slower: float) -> None:
        samples = tuple(one.model_copy(update={"seconds": one.seconds * slower}) for one in record.samples)
        code = dataclasses.replace(record.code, commit=commit)
        kept = record.model_copy(update={
            "name": "memory_copy", "case": "memory_copy", "samples": samples, "code": code,
            "machine": dataclasses.replace(record.machine, cpus=2),
            "conditions": dataclasses.replace(record.conditions, load=load),
        })  # fmt: skip
        store.append_record(tmp_path / f"{commit}.jsonl", kept)

    for commit, load, slower in (("a", 1.2, 1.0), ("b", 2.5, 1.0), ("c", 1.2, 1.25), ("d", 1.9, 1.05), ("e", 1.0, 0.8)):
        write(commit, load, slower)
    assert [one["commit"] for one in noisy_commits(tmp_path)] == ["b", "c", "e"]
    assert noisy_commits(tmp_path / "nowhere") == []


def test_the_regressions_of_any_asv_page_are_listed_as_text(tmp_path: Path, capsys) -> None:
    entries = [
        [
            "m.time_x(1)",
            "graphs/x.json",
            {"machine": "here"},
            0,
            3e-6,
            1e-6,
            [[1, 2, 1e-6, 2e-6], [None, 3, 2e-6, 3e-6]],
        ],
        ["m.track_bytes", "graphs/y.json", {}, None, 1030, 1000, [[None, 2, 1000, 1030]]],
    ]
    hashes = {str(number): letter * 40 for number, letter in enumerate("abcd")}
    units = {"m.time_x": {"unit": "seconds"}, "m.track_bytes": {"unit": "bytes"}}
    (tmp_path / "regressions.json").write_text(json.dumps({"regressions": entries}))
    (tmp_path / "index.json").write_text(json.dumps({"revision_to_hash": hashes, "benchmarks": units}))
    assert main(["bench", "regressions", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "m.time_x(1), machine here: 3.00 times slower since dddddddddddd, from 2.00 µs to 3.00 µs there",
        "m.track_bytes: 1.03 times more since cccccccccccc, from 1000 bytes to 1030 bytes there",
    ]
    assert "lrdiff ab dddddddddddd~1 dddddddddddd" in said.err
    assert main(["bench", "regressions", str(tmp_path), "--threshold", "5%", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["regressions"]) == 1
    assert main(["bench", "regressions", str(tmp_path), "--threshold", "99%"]) == 1
    assert main(["bench", "regressions", str(tmp_path / "nowhere")]) == 2
    assert "is no page of asv" in capsys.readouterr().err


@pytest.mark.parametrize("still_there", [False, True])
def test_a_suspected_regression_is_measured_again_before_it_is_told(
    still_there: bool, tmp_path: Path, monkeypatch
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    for name in ("one", "two", "three"):
        git("commit", "-q", "--allow-empty", "-m", name)
    newest, parent, _ = git("rev-list", "HEAD").split()
    suspect = {"case": "main_job.MainStep.time_step(1)", "factor": 3.4, "commit": newest}
    told = [[suspect], [suspect] if still_there else []]
    calls: list[tuple[str, ...]] = []
    measured: list[list[str]] = []

    def asv(command: str, *arguments: str, config: Path, **_) -> None:
        calls.append((command, *arguments))
        if command == "run":
            measured.append(Path(arguments[0].removeprefix("HASHFILE:")).read_text().split())

    monkeypatch.setattr(history, "_asv", asv)
    monkeypatch.setattr(history, "_make_offline", lambda page: None)
    monkeypatch.setattr(history, "read_regressions", lambda page: told.pop(0))
    monkeypatch.setattr(history, "derive_config", lambda **_: {"launch_method": "spawn"})
    report = history.measure_history("HEAD -n 2", repository=tmp_path, out=tmp_path / "out", again=still_there)
    assert measured == [[newest, parent], [newest, parent]]
    first, second = [call for call in calls if call[0] == "run"]
    assert ("--skip-existing-successful" in first) == (not still_there)  # --again
    assert "--skip-existing-successful" not in second
    assert second[-1] == r"--bench=^main_job\.MainStep\.time_step"
    assert report["regressions"] == ([suspect] if still_there else [])
    assert report["withdrawn"] == ([] if still_there else [suspect])
    told[:] = [[], []]
    history.measure_history("HEAD -n 1", repository=tmp_path, out=tmp_path / "out")
    assert len(measured) == 3  # nothing suspected, nothing again
