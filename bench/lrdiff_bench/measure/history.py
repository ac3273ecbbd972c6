"""``lrdiff bench history``: the speed of every commit, measured and published by asv.

asv reads one configuration file; here one is derived from ``benchmarks/asv.conf.json`` for the repository, device and
folder at hand. Engine and cases come from this program's own checkout, only the code they call from the commit, so
that all commits are measured by one ruler. Commits that have results are skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.measure.asv_config import find_faults, read_asv_config
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.regressions import noisy_commits, read_regressions
from lrdiff_bench.report.json import write_document
from lrdiff_core.devices import device_status
from lrdiff_core.errors import CheckFailed, ConfigError, InputError, UnavailableError
from lrdiff_core.files import write_text

__all__ = [
    "derive_config",
    "list_commits",
    "measure_history",
    "open_page",
    "read_failures",
    "root_of",
    "with_parents",
]

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
DEFAULT_COUNT = 10
DEVICES = ("cpu", "cuda", "mps")


def measure_history(
    range_: str | None,
    *,
    repository: Path,
    out: Path,
    cases: Sequence[str] = (),
    device: str = "cpu",
    quick: bool = False,
    whole: bool = False,
    again: bool = False,
    affinity: Sequence[int] = (),
) -> dict[str, Any]:
    """Measure commits, publish the page, and say where it is, what failed and what got slower.

    Args:
        range_: as ``git rev-list`` takes it; None means the last ten commits.
        repository: a clone; a bare one is enough.
        out: environments, results, records and page; kept for the next time.
        cases: names of families; none means all.
        device: "cpu", "cuda" or "mps".
        quick: few samples, one process.
        whole: every view of each family, not only what a quick run measures.
        again: measure commits that have results, too; the new results take their place.
        affinity: processors to keep to.

    Raises:
        UnavailableError: there is no asv, or no ``benchmarks`` folder because this is no checkout.
        UnavailableError: the device is not here.
        ConfigError: the range names no commits, a case or a device is unknown, or there is no repository.
        CheckFailed: asv failed.
    """
    unknown = [name for name in cases if name not in CASES]
    if unknown:
        raise ConfigError(f"there is no case {unknown[0]!r}", help=f"cases: {', '.join(CASES)}")
    if device not in DEVICES:
        raise ConfigError(f"there is no device {device!r} to measure on", help=f"write one of: {', '.join(DEVICES)}")
    status = device_status(device)
    if not status.available:
        raise UnavailableError(f"no {device} here: {status.reason}", help="measure on another device: --device cpu")
    repository = root_of(repository)
    commits = list_commits(range_, repository)
    settings = derive_config(repository=repository, out=out.resolve(), device=device, quick=quick)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot write {out}: {problem.strerror}", help="name another folder with --out") from problem
    config = out / "asv.conf.json"
    write_document(config, settings)
    hashes = out / "commits.txt"
    write_text(hashes, "".join(f"{commit}\n" for commit in commits))
    _asv("machine", "--yes", config=config, silent=True)
    chosen = [f"--bench=\\.{benchmark_name(name)}([A-Z]\\w*)?\\." for name in cases]
    pinned = [f"--cpu-affinity={','.join(map(str, affinity))}"] if affinity else []
    variables = {"LRDIFF_BENCH_RECORDS": str((out / "records").resolve())}
    if whole:
        variables["LRDIFF_BENCH_ALL"] = "1"
    began = time.perf_counter()
    options = ["--record-samples", "--show-stderr", f"--launch-method={settings['launch_method']}", *pinned]
    skipping = [] if again else ["--skip-existing-successful"]
    _asv("run", f"HASHFILE:{hashes.resolve()}", *skipping, *options, *chosen, config=config, variables=variables)
    _asv("publish", config=config)
    page = out / "html"
    suspected = [one for one in read_regressions(page) if one["commit"] in commits]
    if suspected:
        # A busy minute looks like a regression. What is one is still there when commit and parent are measured again.
        doubtful = [one["commit"] for one in suspected]
        write_text(hashes, "".join(f"{one}\n" for one in with_parents(doubtful, repository)))
        suspects = dict.fromkeys(str(one["case"]).partition("(")[0] for one in suspected)
        names = [f"--bench=^{re.escape(name)}" for name in suspects]
        _asv("run", f"HASHFILE:{hashes.resolve()}", *options, *names, config=config, variables=variables)
        _asv("publish", config=config)
        write_text(hashes, "".join(f"{commit}\n" for commit in commits))
    seconds = time.perf_counter() - began
    regressions = read_regressions(page)
    left = {(one["case"], one["commit"]) for one in regressions}
    told = {*commits, *(one["commit"] for one in regressions)}
    return {
        "format": "lrdiff.bench.history",
        "version": 1,
        "page": str(page / "index.html"),
        "offline": _make_offline(page),
        "commits": len(commits),
        "seconds": seconds,
        "failures": read_failures(out / "results", commits),
        "regressions": regressions,
        "withdrawn": [one for one in suspected if (one["case"], one["commit"]) not in left],
        "noisy": [one for one in noisy_commits(out / "records") if one["commit"] in told],
    }


def derive_config(*, repository: Path, out: Path, device: str, quick: bool) -> dict[str, Any]:
    """The configuration for one repository, folder and device.

    Raises:
        UnavailableError: there is no asv, or no ``benchmarks`` folder.
        ConfigError: ``benchmarks/asv.conf.json`` has a fault.
    """
    source = BENCHMARKS / "asv.conf.json"
    if not source.is_file():
        raise UnavailableError("the asv suite is part of a checkout, not of the wheel", help="run this in a clone")
    settings = read_asv_config(source)
    faults = find_faults(settings)
    if faults:
        raise ConfigError(f"benchmarks/asv.conf.json: {faults[0]}", help="see `lrdiff doctor`")
    environment = {**settings["matrix"]["env_nobuild"], "LRDIFF_BENCH_DEVICE": [device]}
    if quick:
        environment["LRDIFF_BENCH_QUICK"] = ["1"]
    return {
        "version": 1,  # asv's reader takes it out
        **settings,
        "repo": str(repository.resolve()),
        "branches": [_branch(repository)],
        "matrix": {**settings["matrix"], "env_nobuild": environment},
        "install_command": [f"python {shlex.quote(str(BENCHMARKS / 'link_commit.py'))} {{build_dir}}"],
        "benchmark_dir": str(BENCHMARKS / settings["benchmark_dir"]),
        "env_dir": str(out / "env"),
        "results_dir": str(out / "results"),
        "html_dir": str(out / "html"),
        # CUDA and MPS do not survive a fork.
        "launch_method": "forkserver" if device == "cpu" else "spawn",
    }


def benchmark_name(case: str) -> str:
    """How the classes of the asv suite begin that run a case.

    Example:
        >>> benchmark_name("some_case")
        'SomeCase'
    """
    return "".join(word.capitalize() for word in case.split("_"))


def list_commits(range_: str | None, repository: Path) -> list[str]:
    """Hashes of the commits of a range, newest first; of a merge the first parent alone, as asv's page shows it.

    Raises:
        ConfigError: there are none, or this is no repository.
    """
    try:
        words = [f"--max-count={DEFAULT_COUNT}", "HEAD"] if range_ is None else shlex.split(range_)
    except ValueError as problem:
        raise ConfigError(f"the range {range_} cannot be read: {problem}", help="close the quotation mark") from problem
    done = _git(repository, "rev-list", "--first-parent", *words)
    commits = done.stdout.split()
    if done.returncode != 0 or not commits:
        why = done.stderr.strip().splitlines()
        raise ConfigError(
            f"{range_ or 'HEAD'} names no commits{': ' + why[0] if why else ''}",
            help='write a range as git takes it, such as HEAD~3..HEAD or "main -n 5"',
        )
    return commits


def with_parents(commits: Sequence[str], repository: Path) -> list[str]:
    """These commits and the first parent of each, every one once."""
    found = []
    for commit in dict.fromkeys(commits):
        done = _git(repository, "rev-list", "--first-parent", "--max-count=2", commit)
        found += done.stdout.split() if done.returncode == 0 else [commit]
    return list(dict.fromkeys(found))


def read_failures(results: Path, commits: Sequence[str]) -> list[dict[str, Any]]:
    """Which benchmarks of these commits have failed: case and commit, as asv's files of results tell.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp(), "machine")
        >>> folder.mkdir()
        >>> document = {"commit_hash": "abc", "result_columns": ["result"], "results": {"cases.x": [[None, 1.0]]}}
        >>> _ = (folder / "abc-env.json").write_text(json.dumps(document))
        >>> read_failures(folder.parent, ["abc"])
        [{'case': 'cases.x', 'commit': 'abc'}]
    """
    failed = []
    for file in sorted(results.glob("*/*-*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["commit_hash"] not in commits:
            continue
        column = document["result_columns"].index("result")
        for case, row in document["results"].items():
            # None as a whole, or for one choice of parameters; what was skipped is NaN.
            if len(row) <= column or row[column] is None or None in row[column]:
                failed.append({"case": case, "commit": document["commit_hash"]})
    return failed


def open_page(page: Path) -> None:
    """Serve the page on this machine and open a browser; returns when interrupted."""
    # A web server, because asv's page asks for its data over HTTP, which browsers refuse for files.
    _asv("preview", "--browser", config=page.parents[1] / "asv.conf.json")


def _make_offline(page: Path) -> str | None:
    """Put the page's libraries beside it; why that cannot be done, or None."""
    line = [sys.executable, str(BENCHMARKS / "offline_page.py"), str(page)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    return f"offline_page.py ended with status {done.returncode}" if done.returncode else done.stdout or None


def _asv(
    command: str, *arguments: str, config: Path, silent: bool = False, variables: Mapping[str, str] | None = None
) -> None:
    line = [sys.executable, "-m", "asv", command, *arguments, "--config", str(config)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | dict(variables or {})
    # asv speaks to people: its lines go to stderr, stdout is for results.
    said = subprocess.PIPE if silent else sys.stderr.fileno()
    done = subprocess.run(line, stdout=said, check=False, env=environment)
    # 2: benchmarks failed, the others have results and the page shows which.
    if done.returncode not in ((0, 2) if command == "run" else (0,)):
        raise CheckFailed(
            f"asv {command} ended with status {done.returncode}",
            help=f"its output is above; to see how the environment is built, run: asv run -v --config {config}",
        )


def root_of(repository: Path) -> Path:
    """The root of a working tree, or of a bare repository: asv clones neither from inside."""
    for question in ("--show-toplevel", "--absolute-git-dir"):
        done = _git(repository, "rev-parse", question)
        if done.returncode == 0:
            return Path(done.stdout.strip())
    raise ConfigError(f"{repository.resolve()} is in no git repository", help="name a clone with --repository")


def _branch(repository: Path) -> str:
    done = _git(repository, "symbolic-ref", "--short", "--quiet", "HEAD")
    return done.stdout.strip() or "HEAD"


def _git(repository: Path, *command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", "-C", str(repository), *command], capture_output=True, text=True, check=False)
    except FileNotFoundError as problem:
        raise UnavailableError("git is not installed", help="install git") from problem
