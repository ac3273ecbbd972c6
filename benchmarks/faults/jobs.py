"""What is killed: every command that takes a while, small, and how it is gone on with and compared afterwards."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["JOBS", "Job", "differences"]

SETTINGS = """
name = "small"
data = "seed"
hidden = [5]
epochs = {epochs}
patience = 0
tune = false
[rates]
layer1 = 0.01
layer2 = 0.001
[compare]
seeds = 10
tuning_seeds = 1
searches = 2
sweep = [0.003, 0.01, 0.03]
"""
# What differs from one undisturbed run to the next, or tells of how it came about.
_OF_THE_MOMENT = {
    "seconds",
    "missing",
    "created",
    "started",
    "begun",
    "ended",
    "machine",
    "wall",
    "step_cost",
    "parity",
    "commit",
    "commit_has_changes",
    "sha256",
    *("trial", "final_trial", "report_trials"),  # numbers in the database: what a kill cut off has one, too
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command as it is killed.

    Args:
        arguments: of ``lrdiff``, in a folder of its own; a function takes the place of the command.
        again: from the folder, of the command that goes on; the same one where it does so by itself.
        prepare: fills the folder before the first start.
        patch: called in the process before the command.
        bytes_of: patterns of files that must be those of an undisturbed run, byte for byte.
        numbers_of: patterns of JSON files that must hold the same, but for times.
        weight: how many of the kills it gets, beside the others.
    """

    arguments: list[str] | Callable[[], int]
    again: Callable[[Path], list[str]] | None = None
    prepare: Callable[[Path], None] = lambda folder: None
    patch: Callable[[], None] = lambda: None
    bytes_of: tuple[str, ...] = ()
    numbers_of: tuple[str, ...] = ()
    weight: int = 1
    needs: tuple[str, ...] = field(default=())


def _settings(epochs: int) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "small.toml").write_text(SETTINGS.format(epochs=epochs))

    return prepare


def _go_on(command: str) -> Callable[[Path], list[str]]:
    def arguments(folder: Path) -> list[str]:
        if (summary := folder / "r" / "summary.json").is_file():
            # A signal at the very end leaves a finished run: it is only looked at, and compared.
            return [command, "--resume", "r"] if json.loads(summary.read_text())["missing"] else ["trace", "r"]
        return [command, "small.toml", "--out", "r"]

    return arguments


def _often() -> None:
    """Keep the state of short trainings, too."""
    from lrdiff_bench.run.files import resuming

    resuming.INTERVAL_SECONDS = 0.02
    resuming.SHARE = 0.2


def _few_backends() -> None:
    """Keep the state of short trainings, and leave out compilers: what they cost is no work of ours."""
    from lrdiff_export import BACKENDS

    _often()
    for name in {*BACKENDS} - {"eager", "onnxruntime"}:
        del BACKENDS[name]


def _planted() -> None:
    """A study that is made of formulas: what is tried is the ledger, not the training."""
    from benchmarks.simulate_study import SINGLE, TEN, TENTH, Planted
    from lrdiff_bench.study.workloads.workload import WORKLOADS

    made = Planted(name="planted", gain={"ratio 10": 0.1}, schemes=(SINGLE, TENTH, TEN), report_seeds=30)
    WORKLOADS["planted"] = lambda: made


def _records() -> int:
    """Append records to a run and replace pages and documents, again and again.

    Like a command, it takes away first what a killed one was writing beside, and reads what that one left.
    """
    from lrdiff_bench.measure.engine.store import append_record, find_run, read_run
    from lrdiff_bench.report.json import write_document
    from lrdiff_core.files import remove_left_behind, write_text

    remove_left_behind(Path())
    run, record = Path("run.jsonl"), read_run(find_run("latest", Path("b")))[0]
    for i in range(100):
        append_record(run, record)
        write_text("page.html", f"<html>{i}{'x' * 20_000}</html>\n")
        write_document(Path("record.json"), {"number": i, "values": list(range(2000))})
    read_run(run)
    return 0


# Shares of the kills: what takes long gets 5 in 100 and more, what is written often and is cheap to kill the rest; each
# kill of a map in processes starts Dask, and costs about ten seconds of a processor.
JOBS: dict[str, Job] = {
    "train": Job(
        arguments=["train", "small.toml", "--out", "r"],
        again=_go_on("train"),
        prepare=_settings(60),
        patch=_often,
        bytes_of=("r/model.safetensors", "r/metrics.parquet", "r/config.toml", "r/rates.json"),
        numbers_of=("r/summary.json",),
        weight=20,
    ),
    "run": Job(
        arguments=["run", "small.toml", "--out", "r"],
        again=_go_on("run"),
        prepare=_settings(20),
        patch=_few_backends,
        bytes_of=("r/model.safetensors", "r/metrics.parquet", "r/config.toml", "r/model.onnx", "r/model.golden.*"),
        numbers_of=("r/summary.json",),
        weight=5,
    ),
    "map": Job(
        arguments=shlex.split("map --size 6 --tile 2 --seeds 2 --epochs 1 --workers 0 --out m"),
        bytes_of=("m/map.zarr/**/[!.]*",),
        numbers_of=("m/map.json",),
        weight=6,
    ),
    "map in processes": Job(
        arguments=shlex.split("map --size 6 --tile 2 --seeds 2 --epochs 1 --workers 2 --out m"),
        bytes_of=("m/map.zarr/**/[!.]*",),
        numbers_of=("m/map.json",),
    ),
    "study": Job(
        arguments=["study", "run", "planted", "--quick", "--out", "s"],
        patch=_planted,
        numbers_of=("s/**/study.json",),
        weight=11,
    ),
    "bench": Job(arguments=["bench", "main_step", "--quick", "--out", "b"], weight=5),
    "export": Job(arguments=["export", "r"], needs=("r",), weight=14),
    "parity": Job(
        arguments=["parity", "r", "--backends", "eager,onnxruntime", "--out", "p"],
        needs=("r",),
        weight=5,
    ),
    "records": Job(arguments=_records, needs=("b",), bytes_of=("page.html",), numbers_of=("record.json",), weight=34),
}


def differences(job: Job, folder: Path, whole: Path) -> list[str]:
    """What of a finished folder is not as in an undisturbed one."""
    found = []
    for pattern in job.bytes_of:
        names = sorted(str(file.relative_to(whole)) for file in whole.glob(pattern) if file.is_file())
        here = sorted(str(file.relative_to(folder)) for file in folder.glob(pattern) if file.is_file())
        if names != here or not names:
            found.append(f"{pattern}: {names} and {here}")
        found += [
            name for name in names if name in here and (folder / name).read_bytes() != (whole / name).read_bytes()
        ]
    for pattern in job.numbers_of:
        for file in whole.glob(pattern):
            other = folder / file.relative_to(whole)
            if not other.is_file():
                found.append(f"{other.name} is missing")
            elif (path := _first_difference(json.loads(other.read_text()), json.loads(file.read_text()))) is not None:
                found.append(f"{other.name}: {path}")
    return found


def _first_difference(one: Any, other: Any, path: str = "") -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if key in _OF_THE_MOMENT or "seconds" in key:
                continue
            if key not in one or key not in other:
                return f"{path}.{key} is in one alone"
            if (found := _first_difference(one[key], other[key], f"{path}.{key}")) is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for i, (a, b) in pairs if (found := _first_difference(a, b, f"{path}[{i}]"))), None)
    return None if one == other else f"{path} is {one!r:.60} and {other!r:.60}"


def run_here(job: Job, arguments: list[str] | None) -> int:
    """Do the job in this process and return its exit status."""
    job.patch()
    if arguments is None:
        from lrdiff_bench.report.errors import print_error
        from lrdiff_bench.system.interruption import ends_on_signals
        from lrdiff_core.errors import LrdiffError

        assert callable(job.arguments)
        with ends_on_signals():
            try:
                return job.arguments()
            except (LrdiffError, OSError) as problem:  # as the command line tells it
                return print_error(str(problem), "correct it and run again", 2)
    from lrdiff_bench.__main__ import main

    sys.argv = ["lrdiff", *arguments]
    return main()
