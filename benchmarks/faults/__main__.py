"""What is lost, half-written or left running when commands are killed, disks are full and folders vanish; what is
said of files that are damaged, and of inputs that nobody would write.

::

    python -m benchmarks.faults --count 1000            # make faults
    python -m benchmarks.faults --count 40 --jobs train,export --seed 7
    python -m benchmarks.faults --parts damage,fuzz --count 10000

Every kill is SIGKILL, SIGTERM or SIGINT at a random moment of a command, or of the command that goes on with what an
earlier kill left; a finished one is compared with an undisturbed one. Processes are forked from this one, in which
everything is imported, so that moments fall into the work and not into the imports; one in twenty starts anew.

A damaged file is refused in one line, or what reads it answers as before, or it is told; a silent change, a traceback,
"a fault in lrdiff" and ten seconds without an answer are faults. So it is with what hypothesis makes up.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.faults.damage import KINDS, damaged
from benchmarks.faults.disks import crowds, full_disks, vanished
from benchmarks.faults.fuzz import fuzzed
from benchmarks.faults.jobs import JOBS, differences
from benchmarks.faults.kills import faults_of, fresh_folder, kill_at, start

PARTS = ("damage", "kills", "fuzz")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FRESH = 0.05  # share of kills that start a new interpreter


def main(arguments: list[str] | None = None) -> int:
    """Print the counts; the status is 1 where anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--count",
        type=int,
        default=1000,
        help="kills, and fuzzed inputs a kind; damaged files get a quarter of it, disks and folders a tenth",
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="of damaged files; names separated by commas")
    parser.add_argument("--parts", default=",".join(PARTS), help="names separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=",".join(JOBS), help="names separated by commas")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing new after so long")
    parser.add_argument("--out", type=Path, help="a JSON record of everything")
    asked = parser.parse_args(arguments)
    names, parts = asked.jobs.split(","), asked.parts.split(",")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    draw, begun = random.Random(asked.seed), time.monotonic()
    _import_all()
    record = _Record()
    with tempfile.TemporaryDirectory(prefix="lrdiff-faults-") as name:
        scratch = Path(name)
        if {*parts} - {"fuzz"}:
            _forked(parts, names, draw, begun, asked, scratch, record)
        if "fuzz" in parts:  # last: it computes here, and what has threads cannot be forked
            record.fuzz(fuzzed(asked.count, asked.seed, fresh_folder(scratch / "fuzz")))
    return _tell(record, begun, asked)


def _forked(
    parts: list[str],
    names: list[str],
    draw: random.Random,
    begun: float,
    asked: argparse.Namespace,
    scratch: Path,
    record: _Record,
) -> None:
    """What is done to processes that are forked from this one."""
    prepared = _prepared(scratch)
    if "damage" in parts:
        count = max(asked.count // 4, 1)
        for kind, outcome, found in damaged(draw, scratch, prepared, count, asked.kinds.split(",")):
            record.add(f"damage, {kind}: {outcome}", f"damage, {kind}", found)
            if time.monotonic() - begun > 60 * asked.minutes:
                break
    if "kills" not in parts:
        return
    whole = {name: _undisturbed(name, scratch, prepared, record) for name in names}
    plan = draw.choices(names, [JOBS[name].weight for name in names], k=10 * asked.count)
    going: dict[str, bool] = {}
    for job_name in plan:
        if record.kills >= asked.count or time.monotonic() - begun > 60 * asked.minutes:
            break
        _kill(job_name, scratch, prepared, whole[job_name], draw, going, record)
    tenth = max(asked.count // 10, 2)
    for cases in (
        full_disks(draw, scratch, prepared, tenth),
        vanished(draw, scratch, prepared, tenth),
        crowds(scratch, (2, 20) if asked.count >= 200 else (2,)),
    ):
        for what, found in cases:
            record.add(what.split(",")[0], what, found)
            if time.monotonic() - begun > 60 * asked.minutes:
                break


def _tell(record: _Record, begun: float, asked: argparse.Namespace) -> int:
    record.seconds = time.monotonic() - begun
    print(record.text())
    if asked.out is not None:
        asked.out.write_text(json.dumps(record.document(asked.seed), indent=2) + "\n")
    return 1 if record.found else 0


class _Record:
    """What was done and what was found."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.found: list[dict[str, Any]] = []
        self.kills, self.finished, self.seconds = 0, 0, 0.0
        self.slowest = 0.0

    def add(self, kind: str, what: str, found: list[str]) -> None:
        self.counts[kind] += 1
        for fault in found:
            self.found.append({"case": what, "fault": fault})
            print(f"FOUND  {what}: {fault}", file=sys.stderr, flush=True)

    def fuzz(self, kinds: Iterable[tuple[str, int, list[str]]]) -> None:
        for kind, tried, found in kinds:
            self.add(f"fuzz, {kind}", f"fuzz, {kind}", found)
            self.counts[f"fuzz, {kind}"] = tried

    def text(self) -> str:
        lines = [f"{count:6d}  {kind}" for kind, count in sorted(self.counts.items())]
        return "\n".join([
            *lines,
            f"{self.kills} kills, {self.finished} commands finished and compared; "
            f"slowest end {self.slowest:.1f} s after SIGINT or SIGTERM; {len(self.found)} faults; {self.seconds:.0f} s",
        ])  # fmt: skip

    def document(self, seed: int) -> dict[str, Any]:
        return {
            "format": "lrdiff.faults",
            "version": 1,
            "seed": seed,
            "counts": dict(self.counts),
            "kills": self.kills,
            "finished": self.finished,
            "slowest_end": self.slowest,
            "seconds": self.seconds,
            "found": self.found,
        }


def _import_all() -> None:
    """Import what commands import, and compute nothing: runtimes with threads cannot be forked."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of fork beside threads; here are none of ours
    import lrdiff_export.publish.export  # noqa: F401


def _prepared(scratch: Path) -> Path:
    folder = fresh_folder(scratch / "prepared")
    JOBS["train"].prepare(folder)
    ended = start(JOBS["train"], folder).end()
    if ended.status != 0:
        raise SystemExit(f"the training that all begin with failed:\n{ended.err}")
    return folder


def _undisturbed(name: str, scratch: Path, prepared: Path, record: _Record) -> tuple[Path, float]:
    """A folder in which the job was done in one go, and how long that took."""
    folder = _begin(name, scratch / f"whole-{name}", prepared)
    ended = start(JOBS[name], folder).end()
    record.add("undisturbed", name, faults_of(ended, folder, had=False))
    return folder, ended.seconds


def _begin(name: str, folder: Path, prepared: Path) -> Path:
    fresh_folder(folder)
    for needed in JOBS[name].needs:
        shutil.copytree(prepared / needed, folder / needed)
    JOBS[name].prepare(folder)
    return folder


def _kill(
    name: str,
    scratch: Path,
    prepared: Path,
    undisturbed: tuple[Path, float],
    draw: random.Random,
    going: dict[str, bool],
    record: _Record,
) -> None:
    job, (whole, seconds), folder = JOBS[name], undisturbed, scratch / name
    if not going.get(name):
        _begin(name, folder, prepared)
    number = draw.choice(SIGNALS)
    had = (folder / "r" / "model.safetensors").exists()
    ended = kill_at(
        job, folder, number, draw.uniform(0.01, seconds), go_on=going.get(name, False), fresh=draw.random() < FRESH
    )
    found = faults_of(ended, folder, had=had)
    was_killed = ended.signal != 0 and ended.status != 0
    if was_killed:
        record.kills += 1
        if number != signal.SIGKILL:
            record.slowest = max(record.slowest, ended.after)
    elif ended.status == 0:
        record.finished += 1
        found += differences(job, folder, whole)
    going[name] = was_killed and not found
    kind = f"{name}, {number.name}" if was_killed else f"{name}, finished"
    record.add(kind, f"{kind} (seed draw {record.kills})", found)


if __name__ == "__main__":
    sys.exit(main())
