"""The commands of ``lrdiff bench``, in this process and with real measuring processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.pairs.sides import open_sides
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.engine.suite import choose_cases
from lrdiff_core.errors import CheckFailed, ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a run of two cases, two processes each, and the same run again."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["bench", "main_step", "--quick", "--processes", "2", "--out", str(folder)]) == 0
    (first,) = store.run_files(folder)
    shutil.copy(first, first.with_name(f"2{first.name}"))  # sorts behind it
    return folder


def said(capsys) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_help_loads_nothing_heavy_and_names_every_command() -> None:
    code = (
        "import sys; from lrdiff_bench.cli import main; main(['bench', '--help']);"
        "print([m for m in ('torch', 'numpy', 'rich.console', 'lrdiff_bench.measure.command') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for name in ("run", "ls", "show", "compare", "calibrate", "ab", "history", "pictures", "step"):
        assert f"  {name} " in done.stdout


@pytest.mark.slow
def test_a_run_keeps_records_of_several_fresh_processes(runs: Path) -> None:
    files = store.run_files(runs)
    assert len(files) == 2
    records = store.read_run(files[0])
    assert sorted(r.case for r in records) == ["main_step[rates=1]", "main_step[rates=2]"]
    for record in records:
        assert [p.process for p in record.processes] == [0, 1]
        assert len(record.by_process()) == 2
        assert all(3 <= len(blocks) <= 7 for blocks in record.by_process())
    orders = sorted(s.order for r in records for s in r.samples)
    assert orders == list(range(len(orders)))  # one order over the whole run


@pytest.mark.slow
def test_json_is_one_document_and_the_table_goes_to_stderr(tmp_path: Path, capsys) -> None:
    assert main(["bench", "main_memory", "--quick", "--json", "--out", str(tmp_path)]) == 0
    out, err = said(capsys)
    document = json.loads(out)
    (record,) = document["records"]
    assert Record.model_validate(record).peak > 50e6
    assert record["samples"] == []
    assert "main_memory" in err
    assert "MiB" in err


def test_ls_show_and_compare(runs: Path, capsys) -> None:
    from_option = ["--from", str(runs)]
    assert main(["bench", "ls", *from_option]) == 0
    out, _ = said(capsys)
    assert all(file.stem in out for file in store.run_files(runs))
    assert main(["bench", "ls", "--json", *from_option]) == 0
    assert [run["records"] for run in json.loads(said(capsys)[0])] == [2, 2]
    assert main(["bench", "show", *from_option]) == 0
    out, _ = said(capsys)
    lines = [line.strip() for line in out.splitlines()]
    assert "main_step" in lines
    assert [line.split()[0] for line in lines if line.startswith("rates=")] == ["rates=1", "rates=2"]
    assert "us" in out
    assert "error, eps" in out
    assert max(map(len, out.splitlines())) <= 80
    page = runs / "page.md"
    assert main(["bench", "show", "--to", str(page), *from_option]) == 0
    said(capsys)
    text = page.read_text()
    assert "| rates | median | IQR | first call | peak MiB | error, eps |\n|---|---|---|---|---|---|\n| " in text
    assert "## main_step" in text
    assert re.search(r"^Written by `lrdiff bench show [^`]+` on 20[-\d]{8}, 2 cases in [\d.]+ s: ", text, re.MULTILINE)
    assert main(["bench", "compare", "latest~1", "--json", *from_option]) in (0, 1)
    rows = json.loads(said(capsys)[0])
    assert {row["case"] for row in rows} == {"main_step[rates=1]", "main_step[rates=2]"}
    assert all(row["processes"] == 2 and row["band"] >= 0.02 for row in rows)
    assert main(["bench", "compare", "latest~1", *from_option]) in (0, 1)
    assert "ratio" in said(capsys)[0]


def test_notes_of_many_cases_are_one_line_and_labels_say_what_is_unusual(runs: Path) -> None:
    from rich.console import Console

    from lrdiff_bench.measure.engine.suite import CaseRun
    from lrdiff_bench.measure.screen import run_table

    record = store.read_run(store.find_run("latest", runs))[0]
    cases = choose_cases(["optimizer_step"], ["implementation=ours,fused", "threads=1,2", "device=cpu,cuda"])
    unsettled = record.processes[0].model_copy(update={"settled": False})
    noisy = record.model_copy(update={"processes": (unsettled,)})
    rows = [
        CaseRun(case, record=noisy) if case.parameters["device"] == "cpu" else CaseRun(case, reason="no CUDA here")
        for case in cases
    ]
    console = Console(width=80, record=True)
    console.print(run_table(rows))
    text = console.export_text()
    labels = re.findall(r"^     (\w+(?: threads=2)?) {2,}\d", text, re.MULTILINE)
    assert labels == ["ours", "ours threads=2", "fused", "fused threads=2"]
    flat = " ".join(text.split())
    assert flat.count("times had not settled when warm-up ended") == 1
    assert flat.count("and 1 more: no CUDA here") == 1


def test_a_page_is_written_where_it_can_be_and_refused_before_measuring_where_not(
    runs: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    from lrdiff_bench.measure import command
    from lrdiff_bench.measure.engine.suite import CaseRun

    record = store.read_run(store.find_run("latest", runs))[0]
    rows = [CaseRun(case, record=record) for case in choose_cases(["main_step"], ["rates=1"])]
    monkeypatch.setattr(command, "measure_cases", lambda *_, **__: iter(rows))
    given = ["bench", "main_step", "--param", "rates=1", "--out", str(tmp_path), "--to"]
    assert main([*given, str(tmp_path / "page.md")]) == 0
    assert "## main_step" in (tmp_path / "page.md").read_text()
    said(capsys)
    monkeypatch.setattr(command, "measure_cases", None)
    assert main([*given, str(tmp_path / "nowhere" / "page.md")]) == 2
    assert said(capsys)[1].startswith("error: cannot write ")


def test_ls_cases_names_every_family_and_parameter(capsys) -> None:
    assert main(["bench", "ls", "--cases"]) == 0
    out, _ = said(capsys)
    for name, family in CASES.items():
        assert family.summary in out
        assert f"{name} (" in out
    assert "implementation: ours, fused, foreach, default, compiled" in out


def test_runs_of_two_machines_are_refused_unless_told(runs: Path, tmp_path: Path, capsys) -> None:
    other = store.new_run(tmp_path)
    for record in store.read_run(store.find_run("latest", runs)):
        store.append_record(other, record.model_copy(update={"machine": replace(record.machine, id="x")}))
    here = str(store.find_run("latest", runs))
    assert main(["bench", "compare", here, str(other), "--from", str(tmp_path)]) == 2
    assert "different machines" in said(capsys)[1]
    assert main(["bench", "compare", here, str(other), "--across-machines", "--json", "--from", str(tmp_path)]) == 0
    compared = json.loads(said(capsys)[0])
    assert [(row["case"], row["ratio"]) for row in compared] == [
        ("main_step[rates=1]", 1.0),
        ("main_step[rates=2]", 1.0),
    ]


def test_a_slower_run_ends_with_status_1(runs: Path, tmp_path: Path, capsys) -> None:
    slower = store.new_run(tmp_path)
    source = store.find_run("latest", runs)

    def steady(record: Record, factor: float) -> Record:
        samples = [s.model_copy(update={"seconds": factor * (1 + s.block / 1e4)}) for s in record.samples]
        return record.model_copy(update={"samples": tuple(samples)})

    first = store.new_run(tmp_path)
    for record in store.read_run(source):
        store.append_record(first, steady(record, 1.0))
        store.append_record(slower, steady(record, 1.2))
    assert main(["bench", "compare", str(first), str(slower), "--from", str(tmp_path)]) == 1
    assert "error: slower: main_step[rates=1], main_step[rates=2]" in said(capsys)[1]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["nonsense"], 2, "there is no case 'nonsense'"),
        (["main_step", "--param", "rates=7"], 2, "has no rates=7"),
        (["main_step", "--param", "rates"], 2, "--param rates is not key=value"),
        (["main_step", "--param", "colour=red"], 2, "has no parameter 'colour'"),
        (["main_step", "--device", "cuda"], 2, "no case has these parameters"),
        (["main_step", "--affinity", "9999"], 2, "--affinity 9999 is not a list of processors"),
        (["main_step", "--processes", "0"], 2, "0 processes"),
        (["show", "nothing"], 2, "0 runs in"),
        (["ab", "no-such-ref", ".", "main_step"], 2, "'no-such-ref' is neither a commit"),
        (["ab", "ours", "fused", "optimizer_step", "--param", "rates=1,2"], 2, "2 cases have these parameters"),
        (["ab", "1", "2", "main_memory"], 2, "measures memory, not time"),
        (["pictures"], 2, "holds 0 runs"),
        (["history", "--case", "nonsense"], 2, "there is no case 'nonsense'"),
    ],
)
def test_wrong_usage(arguments: list[str], status: int, text: str, tmp_path: Path, capsys) -> None:
    option = "--from" if arguments[0] in ("show", "compare", "pictures") else "--out"
    assert main(["bench", *arguments, option, str(tmp_path / "runs")]) == status
    assert text in said(capsys)[1]


def test_a_device_that_is_not_here_says_so_and_ends_with_status_3(tmp_path: Path, capsys) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    given = ["bench", "optimizer_step", "--quick", "--device", "cuda", "--out", str(tmp_path)]
    assert main(given) == 3
    out, err = said(capsys)
    assert "CUDA" in out
    assert "nothing could be measured here" in err
    assert not store.run_files(tmp_path)


def test_parameters_choose_cases() -> None:
    def labels(names: list[str], parameters: list[str], **options) -> list[str]:
        return [case.label for case in choose_cases(names, parameters, **options)]

    assert labels(["inference"], ["batch=1,32"]) == [f"inference[backend=onnxruntime,batch={n}]" for n in (1, 32)]
    assert labels([], ["backend=eager"]) == ["inference[backend=eager,batch=1]", "prediction[backend=eager,model=main]"]
    assert all("device=cuda" in label for label in labels([], [], device="cuda"))
    assert len(labels([], [])) > len(labels([], [], quick=True)) > 10


@pytest.mark.slow
def test_ab_of_implementations_finds_a_large_difference(tmp_path: Path, capsys) -> None:
    given = ["bench", "ab", "ours", "default", "optimizer_step", "--quick", "--processes", "2", "--json"]
    status = main([*given, "--out", str(tmp_path)])  # torch's loop over 48 tensors is ten times slower
    out, err = said(capsys)
    document = json.loads(out)
    assert document["ratio"] > 1.5
    # Two pairs of processes on a busy machine may differ too much for a verdict, but not for a wrong one.
    assert (status, document["verdict"]) in ((1, "slower"), (0, "unresolved"))
    assert document["a"]["label"] == "implementation=ours"
    assert "processes 2 of 2" in err
    assert len(store.read_run(store.find_run("latest", tmp_path))) == 2


@pytest.mark.long
def test_ab_of_commits_finds_a_planted_slow_down(tmp_path: Path, capsys) -> None:
    """Two commits of a scratch repository, real processes: the second one waits 1 ms in the step of 10 us."""
    from test_asv_config import PLANTED

    repository = tmp_path / "project"
    for name in ("lrdiff_core", "export"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))

    def git(*command: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(repository), *identity, *command], check=True)

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "fast")
    with open(repository / "lrdiff_core" / "optim" / "rules" / "adam.py", "a") as file:
        file.write(PLANTED)
    git("commit", "-q", "-a", "-m", "slow")
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(repository), str(bare)], check=True)
    given = ["bench", "ab", "HEAD~1", "HEAD", "main_step", "--quick", "--processes", "2", "--repository", str(bare)]
    status = main([*given, "--out", str(tmp_path / "runs"), "--json"])
    document = json.loads(said(capsys)[0])
    assert (status, document["verdict"]) in ((1, "slower"), (0, "unresolved"))  # as above
    assert document["ratio"] > 3  # far below 100: a busy neighbour slows the fast side most
    first, second = store.read_run(store.find_run("latest", tmp_path / "runs"))
    assert first.code.commit != second.code.commit
    assert document["b"]["label"] == f"HEAD ({second.code.commit[:12]})"


def test_references_are_values_before_they_are_commits(tmp_path: Path) -> None:
    case = CASES["optimizer_step"].case()
    with open_sides("ours", "fused", case, repository=tmp_path) as (a, b):
        assert (a.label, b.label) == ("implementation=ours", "implementation=fused")
        assert b.case.parameters["implementation"] == "fused"
    with open_sides("rates=1", "rates=8", case, repository=tmp_path) as (a, b):
        assert (a.case.parameters["rates"], b.case.parameters["rates"]) == (1, 8)
    with pytest.raises(ConfigError, match="1 is a value of rates and of threads\nhelp: write rates=1"):
        open_sides("1", "8", case, repository=tmp_path).__enter__()


def test_the_working_tree_is_the_one_that_one_stands_in_or_refused(tmp_path: Path) -> None:
    case = CASES["main_step"].case()
    with pytest.raises(ConfigError, match="is in none of this project\nhelp: run this in a clone"):
        open_sides(".", ".", case, repository=tmp_path).__enter__()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(ConfigError, match="is in none of this project"):
        open_sides(".", ".", case, repository=tmp_path).__enter__()
    (tmp_path / "lrdiff_core").mkdir()
    (tmp_path / "lrdiff_core" / "__init__.py").write_text("")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)
    (tmp_path / "lrdiff_core" / "__init__.py").write_text("CHANGED = True\n")
    inside = tmp_path / "lrdiff_core"
    with open_sides("HEAD", ".", case, repository=inside) as (a, b):
        assert (a.dirty, b.dirty, a.commit) == (False, True, b.commit)
        assert b.label == f"working tree ({a.commit[:12]}, changed)"
        assert b.path[0] == tmp_path  # not what is installed
        assert "CHANGED" not in (a.path[0] / "lrdiff_core" / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("where", "change", "text"),
    [
        ("code", {"torch": "9.9"}, "torch {torch} and 9.9"),
        ("code", {"python": "3.99"}, "and 3.99"),
        ("conditions", {"threads": 7}, "1 and 7 threads"),
        ("conditions", {"environment": {"LRDIFF_KERNEL": "0"}}, "LRDIFF_KERNEL=(unset) and 0"),
    ],
)
def test_what_differs_beside_the_code_is_named_and_refused(
    where: str, change: dict, text: str, runs: Path, tmp_path: Path, capsys
) -> None:
    here, there = store.new_run(tmp_path), store.new_run(tmp_path)
    for record in store.read_run(store.find_run("latest", runs)):
        plain = record.model_copy(update={"conditions": replace(record.conditions, environment={})})
        store.append_record(here, plain)
        store.append_record(there, plain.model_copy(update={where: replace(getattr(plain, where), **change)}))
    told = text.format(torch=record.code.torch)
    given = ["bench", "compare", str(here), str(there), "--from", str(tmp_path)]
    assert main(given) == 2
    error = said(capsys)[1]
    assert "error: more than the code differs: " in error
    assert told in error
    assert "add --anyway" in error
    assert main([*given, "--anyway"]) == 0
    shown = said(capsys)[0]
    assert "differs: " in shown
    assert told in shown
    assert main([*given, "--anyway", "--json"]) == 0
    assert any(told in one for one in json.loads(said(capsys)[0])[0]["differences"])


@pytest.mark.long
def test_calibrate_keeps_the_band(tmp_path: Path, capsys) -> None:
    from lrdiff_bench.measure.ab_command import calibrate

    why = None
    try:
        calibrate("main_step", [], processes=4, folder=tmp_path, json=True, quick=True)
    except CheckFailed as problem:  # four quick pairs beside other tests
        why = problem.help
    assert (tmp_path / "calibration.json").is_file() == (why is None)
    if why:
        assert "nothing was kept" in why
        return
    document = json.loads(said(capsys)[0])
    assert document["paired"] > 0
    assert document["pairs"] == 4


def test_a_case_that_is_wrong_fails_the_run(tmp_path: Path, monkeypatch, capsys) -> None:
    """Fast but wrong cannot pass: the record is kept, the table marks it, the status is 1."""
    from lrdiff_bench.measure import command
    from lrdiff_bench.measure.engine.process import Effort
    from lrdiff_bench.measure.engine.record import ParityResult
    from lrdiff_bench.measure.engine.suite import CaseRun, measure_here

    def wrong(cases, effort, **options):
        for case in cases:
            record = measure_here(case, Effort.quick())
            failed = ParityResult(error=8388.6, budget=8.0, held=False)
            yield CaseRun(case, record=record.model_copy(update={"parity": failed}))

    monkeypatch.setattr(command, "measure_cases", wrong)
    assert main(["bench", "main_step", "--param", "rates=2", "--out", str(tmp_path)]) == 1
    out, err = said(capsys)
    assert "main_step: too far from float64: 8388.6 eps, budget 8.0" in out
    assert "measured with faults: main_step[rates=2]" in err
