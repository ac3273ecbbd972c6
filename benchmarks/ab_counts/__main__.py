"""How often `lrdiff ab` is wrong, beside busy loops that come and go, on suites of other people's projects.

::

    git clone https://github.com/pypa/packaging clones/packaging        # and so on: --list says which
    python -m benchmarks.ab_counts --clones clones --minutes 60 --records docs/results/ab.jsonl --out docs/results/ab.md

Every comparison is a line of JSON in ``--records``. What is there is not measured again: an interrupted campaign goes
on, an hour a day, and those that the page was written from lie beside it. Without ``--out`` the page is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ab_counts.neighbours import neighbours
from benchmarks.ab_counts.page import KINDS, write_counts
from benchmarks.ab_counts.rules import asv_rule, compare_fail
from benchmarks.ab_counts.suites import SUITES, ForeignSuite
from lrdiff_bench.measure.foreign import job
from lrdiff_bench.measure.foreign.checkouts import Checkout, find_suite, open_checkouts
from lrdiff_bench.measure.foreign.inside.blocks import Blocks, Work, planted
from lrdiff_bench.measure.foreign.process import ForeignCase, ForeignProcess, list_cases
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import CheckFailed, LrdiffError

LOOKS = 2  # groups of processes that say what a planted turn adds to a call
LOOKED, LOOKING = 50, 2.0  # blocks, within so many seconds, that say how long a call takes: the least one met nobody


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--clones", type=Path, default=Path("runs/clones"), help="the folder with a clone of each suite"
    )
    parser.add_argument("--records", type=Path, default=Path("runs/ab_counts.jsonl"), help="a line a comparison")
    parser.add_argument("--out", type=Path, help="the page to write; left out: it is printed")
    parser.add_argument("--minutes", type=float, help="begin no comparison after so long")
    parser.add_argument("--python", default=sys.executable, help="runs the suites; left out: the one that runs this")
    parser.add_argument("--case-seconds", type=float, default=240.0,
                        help="begin no group of processes of a comparison after so long (default 240)")  # fmt: skip
    parser.add_argument("--load", type=int, default=2, help="busy loops beside it (default 2)")
    parser.add_argument("--suites", help="names, separated by commas; left out: all")
    parser.add_argument("--only-page", action="store_true", help="measure nothing: write the page from the records")
    parser.add_argument("--list", action="store_true", help="say which clones are needed, and end")
    given = parser.parse_args()
    chosen = [one for one in SUITES if not given.suites or one.name in given.suites.split(",")]
    if given.list or not chosen:
        for one in SUITES:
            clone = given.clones / one.name
            print(f"git clone {one.url} {clone} && git -C {clone} checkout {one.commit}")
        return 0 if given.list else 2
    if not given.only_page:
        missing = [one.name for one in chosen if not (given.clones / one.name).is_dir()]
        if missing:
            parser.error(f"no clone of {', '.join(missing)} in {given.clones}; --list says how to make it")
        ends = None if given.minutes is None else time.monotonic() + 60 * given.minutes
        try:
            measure(chosen, given, ends=ends)
        except LrdiffError as problem:
            print(f"error: {problem.message}\nhelp: {problem.help}", file=sys.stderr)
            return problem.exit_status
    text, held = write_counts(read(given.records), sys.argv[1:])
    if given.out is None:
        print(text)
    else:
        given.out.write_text(text, encoding="utf-8")
        print(f"wrote {given.out}")
    return 0 if held else 1


def measure(suites: Sequence[ForeignSuite], given: argparse.Namespace, *, ends: float | None) -> None:
    """Every comparison that is not in the records yet, until the time is up."""
    kept = read(given.records)
    done = {(row["kind"], row["number"]) for row in kept}
    said = provenance("asv_runner", "pytest-benchmark")
    where = {"cpu": said["machine"]["cpu"], "cpus": said["machine"]["cpus"], "versions": said["versions"],
             "commit": said["commit"], "load": given.load, "case_seconds": given.case_seconds}  # fmt: skip
    with ExitStack() as stack:
        opened: dict[str, tuple[tuple[Checkout, Checkout], list[ForeignCase]]] = {}
        added = {row["case"]: row["planted"] / row["turns"] for row in kept
                 if row["turns"] and all(row[name] == where[name] for name in ("cpu", "versions"))}  # fmt: skip
        for number, kind in plan():
            suite = suites[number % len(suites)]
            if ends is not None and time.monotonic() >= ends:
                return
            if (kind, number) in done:
                continue
            if suite.name not in opened:
                found = find_suite(given.clones / suite.name / suite.path)
                pair = stack.enter_context(open_checkouts(suite.commit, suite.commit, found, python=given.python))
                # Of both sides: that compiles what is imported there, so their first processes start alike.
                listed = [list_cases(side.place)[0] for side in pair]
                opened[suite.name] = pair, job.choose(listed[0], suite.cases)
            pair, cases = opened[suite.name]
            case = cases[(number // len(suites)) % len(cases)]
            share, turns = KINDS[kind][0], 0
            if share:
                if case.id not in added:
                    added[case.id] = share_of_a_turn(case, pair)
                turns = max(1, round(share / added[case.id]))
            with neighbours(given.load, seed=number):
                row = compare(case, pair, turns, seed=number, case_seconds=given.case_seconds)
            append(given.records, {"kind": kind, "number": number, "suite": suite.name, "case": case.id,
                                   "turns": turns, "planted": turns * added.get(case.id, 0.0),
                                   **where, **row})  # fmt: skip
            print(f"{kind} {number}  {suite.name} {case.id}: {row['verdict']}, {row['seconds']:.0f} s", flush=True)


def plan() -> Iterator[tuple[int, str]]:
    """Kinds by lot, so that an unfinished campaign has some of each."""
    every = [(number, kind) for kind, (_, count) in KINDS.items() for number in range(count)]
    random.Random(0).shuffle(every)
    yield from every


def call_seconds(case: ForeignCase, side: Checkout) -> float:
    """The processor's seconds of a call of a case, the least of several blocks."""
    process = ForeignProcess(side.place, {case.id: case})
    times: list[float] = []
    try:
        process.start(case.case(), job.foreign_effort(1))
        ends = time.monotonic() + LOOKING
        while len(times) < LOOKED and (not times or time.monotonic() < ends):
            times.append(process.block().processor or math.inf)
        process.end()
    finally:
        process.close()
    return min(times)


def turn_seconds() -> float:
    """The processor's seconds of a turn of the empty loop that is planted, the least of several."""
    if not _TURN:
        blocks = Blocks(Work(planted(lambda: None, 10_000)), block_seconds=0.001, warmup_seconds=0.05)
        blocks.warm_up()
        _TURN.append(min(blocks.block()["processor"] for _ in range(LOOKED)) / 10_000)
    return _TURN[0]


_TURN: list[float] = []


def share_of_a_turn(case: ForeignCase, pair: tuple[Checkout, Checkout]) -> float:
    """What one turn of the empty loop adds to a call, as a share of it, between processes like those of the comparison.

    Found with so many turns that a call takes about twice as long: a few would drown in noise. What the loop takes in
    this process says little: under another load processors are not equally fast at all that they do.

    Raises:
        CheckFailed: the case cannot be measured.
    """
    turns = max(1, round(call_seconds(case, pair[0]) / turn_seconds()))
    row = slowed(case, pair, turns, groups=LOOKS)
    if row.comparison is None:
        raise CheckFailed(f"{case.id} cannot be measured: {row.reason}", help="leave its suite out with --suites")
    return (row.comparison.ratio - 1.0) / turns


def slowed(case: ForeignCase, pair: tuple[Checkout, Checkout], turns: int, **options: Any) -> job.CaseResult:
    """The second side with so many turns of an empty loop after each call, against the first without."""
    a, b = (replace(side, place=replace(side.place, planted={case.id: count}))
            for side, count in zip(pair, (0, turns), strict=True))  # fmt: skip
    return job.run_cases([case], a, b, **options)[0]


def compare(
    case: ForeignCase, pair: tuple[Checkout, Checkout], turns: int, *, seed: int, case_seconds: float
) -> dict[str, Any]:
    """One comparison as `lrdiff ab` makes it, and what the others' rules say of the same blocks."""
    row = slowed(case, pair, turns, seed=seed, case_seconds=case_seconds)
    one = row.comparison
    if one is None or row.records is None:
        return {"verdict": "failed", "reason": row.reason, "seconds": row.comparing.seconds, "asv": "same",
                "fail_min": False, "fail_median": False}  # fmt: skip
    first, second = row.records
    before = [sample.seconds for sample in first.samples if sample.process % 2 == 0]  # the others are the control's
    after = [sample.seconds for sample in second.samples]
    return {
        "verdict": str(one.verdict), "ratio": one.ratio, "low": one.low, "high": one.high, "clock": one.clock,
        "wall": str(one.wall.verdict), "same_band": one.judged.same_band, "groups": one.processes,
        "seconds": one.seconds, "machine_load": one.load, "asv": asv_rule(before, after),
        "fail_min": compare_fail(before, after, "min"), "fail_median": compare_fail(before, after, "median"),
    }  # fmt: skip


def read(records: Path) -> list[dict[str, Any]]:
    """Every comparison kept; a line that a kill left unfinished is none."""
    if not records.is_file():
        return []
    return [json.loads(line) for line in records.read_text(encoding="utf-8").split("\n")[:-1] if line]


def append(records: Path, row: dict[str, Any]) -> None:
    """Keep a comparison."""
    records.parent.mkdir(parents=True, exist_ok=True)
    with open(records, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
