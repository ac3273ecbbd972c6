"""What is lost, half-written or left running when commands are killed, disks are full and folders vanish; what is
said of files that are damaged, and of inputs that nobody would write.

::

    python -m benchmarks.faults --count 1000            # make faults
    python -m benchmarks.faults --count 40 --jobs train,export --seed 7
    python -m benchmarks.faults --parts damage,fuzz --count 1000

Every kill is SIGKILL, SIGTERM or SIGINT at a random moment of a command, or of the command that goes on with what an
earlier kill left; a finished one is compared with an undisturbed one. Processes are forked from this one, which
imports what each command was seen to import, so that moments fall into the work and not into the imports; one in
fifty starts anew. As many cases as there are processors are tried at a time.

A damaged file is refused in one line, or what reads it answers as before, or it is told; a silent change, a traceback,
"a fault in lrdiff" and ten seconds without an answer are faults. So it is with what hypothesis makes up.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.faults import fuzz
from benchmarks.faults.damage import KINDS, damaged
from benchmarks.faults.disks import crowds, full_disks, vanished
from benchmarks.faults.jobs import JOBS, differences
from benchmarks.faults.kills import faults_of, fresh_folder, import_all, kill_at, start
from benchmarks.faults.record import Record, side_by_side
from benchmarks.faults.whole import left_beside
from lrdiff_bench.system.machine import usable_cpus

PARTS = ("kills", "damage", "disks", "fuzz")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FRESH = 0.02  # share of kills that start a new interpreter
MOST_KILLS = 40  # of a task

Cases = Iterable[tuple[str, list[str]]]


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Nothing new is begun after :attr:`until`, a time of the monotonic clock."""

    scratch: Path
    prepared: Path
    until: float

    def over(self) -> bool:
        return time.monotonic() > self.until


def main(arguments: list[str] | None = None) -> int:
    """Print the counts; the status is 1 where anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--count", type=int, default=1000,
        help="kills; damaged files get a quarter of it, disks and folders a twentieth each, "
        "made-up inputs of each kind ten times it",
    )  # fmt: skip
    parser.add_argument("--kinds", default=",".join(KINDS), help="of damaged files; names separated by commas")
    parser.add_argument("--parts", default=",".join(PARTS), help="names separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=",".join(JOBS), help="names separated by commas")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing new after so long")
    parser.add_argument("--at-once", type=int, default=usable_cpus(), help="processes that try cases")
    parser.add_argument("--out", type=Path, help="a JSON record of everything")
    asked = parser.parse_args(arguments)
    names, parts, kinds = asked.jobs.split(","), asked.parts.split(","), asked.kinds.split(",")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    begun, record = time.monotonic(), Record()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # cases are tried side by side
    with tempfile.TemporaryDirectory(prefix="lrdiff-faults-") as name:
        scratch = Path(name)
        prepared = scratch
        if {*parts} - {"fuzz"}:
            prepared = _prepared(scratch, names if {*parts} & {"kills", "disks"} else [])
        bounds = _Bounds(scratch=scratch, prepared=prepared, until=begun + 60 * asked.minutes)
        together = partial(side_by_side, record=record, scratch=scratch, at_once=asked.at_once)
        if "kills" in parts:
            together([("undisturbed", partial(_undisturbed, one, bounds)) for one in names])
        tasks = {  # the longest first
            "fuzz": lambda: _fuzz(10 * asked.count, asked.seed, bounds),
            "kills": lambda: _kills(names, asked.count, bounds),
            "disks": lambda: _disks(names, asked.count, bounds),
            "damage": lambda: _damage(kinds, asked.count, bounds),
        }
        seeds = random.Random(asked.seed)
        together([
            (f"{part}, {of}", partial(task, random.Random(seeds.random()), fresh_folder(scratch / f"{part}-{i}")))
            for part in tasks if part in parts
            for i, (of, task) in enumerate(tasks[part]())
        ])  # fmt: skip
    seconds = time.monotonic() - begun
    print(record.text(seconds))
    if asked.out is not None:
        asked.out.write_text(json.dumps(record.document() | {"seed": asked.seed, "seconds": seconds}, indent=2) + "\n")
    return 1 if record.found else 0


Task = Callable[[random.Random, Path, Record], None]
Named = list[tuple[str, Task]]  # by what each is spent on


def _kills(names: list[str], count: int, bounds: _Bounds) -> Named:
    """Tasks of at most :data:`MOST_KILLS` kills of one job."""
    tasks: Named = []
    weights = sum(JOBS[name].weight for name in names)
    for name in names:
        kills = -(-count * JOBS[name].weight // weights)
        tasks += [
            (name, partial(_kill_often, name, min(MOST_KILLS, kills - i), bounds)) for i in range(0, kills, MOST_KILLS)
        ]
    return tasks


def _disks(names: list[str], count: int, bounds: _Bounds) -> Named:
    some_of = max(count // 20, 2)
    tasks: Named = []
    for cases in (full_disks, vanished):
        for i in range(0, some_of, 10):
            some = min(10, some_of - i)
            tasks.append((cases.__name__.replace("_", " "), lambda draw, scratch, record, cases=cases, some=some: _told(  # type: ignore[misc]
                cases(draw, scratch, bounds.prepared, some, names), bounds, record
            )))  # fmt: skip
    sizes = (2, 20) if count >= 200 else (2,)
    return [*tasks, ("crowds", lambda draw, scratch, record: _told(crowds(scratch, sizes), bounds, record))]


def _told(cases: Cases, bounds: _Bounds, record: Record) -> None:
    for what, found in cases:
        record.add(what.split(",")[0], what, found)
        if bounds.over():
            return


def _damage(kinds: list[str], count: int, bounds: _Bounds) -> Named:
    files = max(count // 4, 1)
    shares = {kind: len(range(i, files, len(kinds))) for i, kind in enumerate(kinds)}

    def task(kind: str, draw: random.Random, scratch: Path, record: Record) -> None:
        for _, outcome, found in damaged(draw, scratch, bounds.prepared, shares[kind], [kind]):
            record.add(f"damage, {kind}: {outcome}", f"damage, {kind}", found)
            if bounds.over():
                return

    return [(kind, partial(task, kind)) for kind in kinds if shares[kind]]


def _fuzz(inputs: int, seed: int, bounds: _Bounds) -> Named:
    def task(kind: str, draw: random.Random, scratch: Path, record: Record) -> None:
        if not bounds.over():
            for _, tried, found in fuzz.fuzzed(inputs, seed, scratch, [kind]):
                record.add(f"fuzz, {kind}", f"fuzz, {kind}", found, tried=tried)

    return [(kind, partial(task, kind)) for kind in fuzz.KINDS]


def _prepared(scratch: Path, names: list[str]) -> Path:
    """A folder with a finished training; and what the jobs import is imported here.

    Nothing is computed in this process: runtimes with threads cannot be forked.
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of fork beside threads; here are none of ours
    folder = fresh_folder(scratch / "prepared")
    JOBS["train"].prepare(folder)
    others_need = ["train", *(["bench"] if "records" in names else [])]
    for name in dict.fromkeys([*others_need, *names]):
        place = folder if name in others_need else _begin(name, scratch / f"imports-{name}", folder)
        ended = start(JOBS[name], place, imports=True).end()
        if ended.status != 0:
            raise SystemExit(f"{name}, which nobody disturbed, failed:\n{ended.err}")
        import_all(place)
    gc.freeze()  # those who are forked from here have it, too, and need not look through it
    return folder


def _whole(name: str, bounds: _Bounds) -> Path:
    """A folder in which the job was done in one go; beside it how long that took."""
    return bounds.scratch / f"whole-{name}"


def _undisturbed(name: str, bounds: _Bounds, record: Record) -> None:
    folder = _begin(name, _whole(name, bounds), bounds.prepared)
    ended = start(JOBS[name], folder).end()
    record.add("undisturbed", name, faults_of(ended, folder))
    folder.with_suffix(".seconds").write_text(str(ended.seconds))


def _begin(name: str, folder: Path, prepared: Path) -> Path:
    fresh_folder(folder)
    for needed in JOBS[name].needs:
        shutil.copytree(prepared / needed, folder / needed)
    JOBS[name].prepare(folder)
    return folder


def _kill_often(name: str, count: int, bounds: _Bounds, draw: random.Random, scratch: Path, record: Record) -> None:
    """Kill one job that many times; what the last kill left is gone on with to the end."""
    job, whole, folder = JOBS[name], _whole(name, bounds), scratch / name
    seconds = float(whole.with_suffix(".seconds").read_text())
    going = False
    for _ in range(10 * count):  # a job that is never killed in time has an end, too
        if (record.kills >= count and not going) or bounds.over():
            return
        if not going:
            _begin(name, folder, bounds.prepared)
        last = record.kills >= count
        had, left = (folder / "r" / "model.safetensors").exists(), left_beside(folder)
        if last:
            ended = start(job, folder, go_on=True).end()
        else:
            ended = kill_at(
                job, folder, draw.choice(SIGNALS), draw.uniform(0.01, seconds), go_on=going, fresh=draw.random() < FRESH
            )
        found = faults_of(ended, folder, had=had, left=left)
        was_killed = ended.signal != 0 and ended.status != 0
        kind = f"{name}, {signal.Signals(ended.signal).name}" if was_killed else f"{name}, finished"
        if was_killed:
            record.kills += 1
            if ended.signal != signal.SIGKILL:
                record.slowest = max(record.slowest, ended.after)
        elif ended.status == 0:
            record.finished += 1
            found += differences(job, folder, whole)
        going = was_killed and not found
        record.add(kind, f"{kind} (kill {record.kills} of {scratch.name})", found)


if __name__ == "__main__":
    sys.exit(main())
