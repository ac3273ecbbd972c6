"""A new case takes one function, and for asv a class; command line, pytest-benchmark and asv show the same median."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import asv
import pytest

ROOT = Path(__file__).parents[2]
# Sleeping takes as long on a busy machine as on a quiet one, or nearly: waking up late cost 7 ms with ten at work.
NEW_CASE = '''

@case_family(version="1", parameters={"milliseconds": (250,)})
def planted(milliseconds: int) -> Workload:
    """A case of a test."""
    import time

    return Workload(step=lambda: time.sleep(milliseconds / 1000))
'''

NEW_CLASS = '''

class Planted(measured.Timed):
    """A benchmark of a test."""

    case = "planted"
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of this project with one function more."""
    project = tmp_path_factory.mktemp("fronts") / "project"
    for name in ("lrdiff_core", "export", "bench", "benchmarks"):
        shutil.copytree(
            ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "env", "results", "html")
        )
    with open(project / "bench" / "lrdiff_bench" / "measure" / "cases" / "main_job.py", "a") as file:
        file.write(NEW_CASE)
    with open(project / "benchmarks" / "asv_suite" / "main_job.py", "a") as file:
        file.write(NEW_CLASS)
    return project


def call(project: Path, *command: str, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PYTEST_"))} | {
        "PYTHONPATH": os.pathsep.join(str(project / folder) for folder in (".", "export", "bench")),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LRDIFF_BENCH_QUICK": "1",
        **variables,
    }
    done = subprocess.run(
        command, cwd=project / "benchmarks", env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def from_the_command_line(project: Path) -> float:
    run = json.loads(call(project, sys.executable, "-P", "-m", "lrdiff_bench", "bench", "planted", "--quick", "--json"))
    (record,) = run["records"]
    assert record["case"] == "planted[milliseconds=250]"
    samples = sorted(sample["seconds"] for sample in record["samples"])
    return samples[len(samples) // 2]


def from_pytest_benchmark(project: Path) -> float:
    out = project / "pytest.json"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "test_benchmarks.py",
        "-k",
        "planted and milliseconds=250 and not milliseconds=25",
        "-p",
        "no:cacheprovider",
    ]
    call(project, *command, f"--benchmark-json={out}")
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
    assert benchmark["name"] == "test_planted[milliseconds=250]"
    record = benchmark["extra_info"]["record"]
    assert record["format"] == "lrdiff.bench.record"
    seconds = sorted(sample["seconds"] for sample in record["samples"])
    assert benchmark["stats"]["median"] == pytest.approx(seconds[len(seconds) // 2])
    # --benchmark-compare reads what --benchmark-json wrote
    compared = call(project, *command, f"--benchmark-compare={out}", "--benchmark-columns=median")
    assert compared.count("planted") >= 2
    return benchmark["stats"]["median"]


def from_asv(project: Path) -> float:
    home = project / "home"
    home.mkdir()
    variables = {"HOME": str(home), "PYTHONPATH": ""}
    identity = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    call(project, sys.executable, "-m", "venv", "--without-pip", str(project / "venv"), **variables)
    python = str(project / "venv" / "bin" / "python")
    purelib = Path(
        call(project, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", **variables).strip()
    )
    # Sorts behind lrdiff_commit.pth: the scratch project wins over what is installed beside the tests.
    (purelib / "packages.pth").write_text(f"{Path(asv.__file__).parents[1]}\n")
    call(project, python, "link_commit.py", str(project), **variables)
    (project / ".gitignore").write_text("venv\nhome\n")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        call(project, "git", "-C", str(project), *command, **variables, **identity)
    commit = call(project, "git", "rev-parse", "HEAD", **variables).strip()
    run_asv = [sys.executable, "-m", "asv"]
    call(project, *run_asv, "machine", "--yes", **variables)
    call(project, *run_asv, "run", "-E", f"existing:{python}", f"--set-commit-hash={commit}", "--bench",
         "main_job.Planted",
         **variables)  # fmt: skip
    (result,) = (project / "benchmarks" / "results").glob("*/*existing*.json")
    document = json.loads(result.read_text())
    values = dict(zip(document["result_columns"], document["results"]["main_job.Planted.time_step"], strict=False))
    return float(values["result"][0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_one_function_shows_up_in_all_three_fronts_with_the_same_median(project: Path) -> None:
    medians = {
        "command line": from_the_command_line(project),
        "pytest-benchmark": from_pytest_benchmark(project),
        "asv": from_asv(project),
    }
    # A sleep ends late on a busy machine; what this is about is units, and who measures what.
    assert all(0.25 <= median < 0.35 for median in medians.values()), medians
    assert max(medians.values()) / min(medians.values()) < 1.25, medians


def test_nothing_lists_the_cases_by_hand() -> None:
    """The new function above is the only edit for pytest-benchmark and the command line: they name no family."""
    from lrdiff_bench.measure.engine.registry import CASES

    fronts = [ROOT / "benchmarks" / name for name in ("test_benchmarks.py", "conftest.py")]
    fronts += [ROOT / "bench" / "lrdiff_bench" / "measure" / name for name in ("command.py", "page.py", "history.py")]
    for file in fronts:
        named = {name for name in CASES if name != "export" and f'"{name}"' in file.read_text()}  # a folder, too
        assert not named, f"{file.name} names {named}"


def options(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_benchmarks.py"],
        cwd=ROOT / "benchmarks",
        env={**environment, "LRDIFF_BENCH_QUICK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_pytest_selects_by_a_parameters_value_exactly() -> None:
    chosen = "rates=1 and not caches=cold and (optimizer_step or main_step) and not implementation=fused"
    names = [line for line in options("--co", "-k", chosen).stdout.splitlines() if "::" in line]
    assert [name.partition("::test_")[2].partition("[")[0] for name in names] == ["main_step", "optimizer_step"]
    assert all("rates=1]" in name or "rates=1," in name for name in names)


@pytest.mark.slow
def test_pytest_benchmarks_options_work_or_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    given = [
        "-k",
        "main_step or shipping or command_start",
        "--benchmark-group-by=param:rates",
        f"--benchmark-json={file}",
    ]
    given += [
        "--benchmark-min-rounds=3",
        "--benchmark-cprofile=tottime",
        f"--benchmark-histogram={tmp_path / 'picture'}",
    ]
    done = options(*given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"rates=1", "rates=2", "rates=-"} <= set(re.findall(r"benchmark '(rates=\S+)'", done.stdout))
    assert "optim/base.py" in done.stdout  # the step is profiled, not the replaying of its times
    assert len(list(tmp_path.glob("picture*.svg"))) == 3
    for benchmark in json.loads(file.read_text())["benchmarks"]:
        assert benchmark["stats"]["rounds"] == 3
        assert benchmark["params"] is None or set(benchmark["params"]) <= {"rates", "command"}
    for option in ("--benchmark-timer=time.time", "--benchmark-warmup=on"):
        refused = options(option)
        assert refused.returncode == 4
        assert f"{option.partition('=')[0]} has no effect here: the engine" in refused.stderr


def test_a_checkout_that_is_not_the_one_installed_is_refused(tmp_path: Path) -> None:
    """Else pytest-benchmark's file names the commit of the checkout, and the record that of the code."""
    from benchmarks import conftest

    assert conftest.other_code(ROOT) is None
    assert conftest.other_code(tmp_path) == ROOT / "lrdiff_core"
