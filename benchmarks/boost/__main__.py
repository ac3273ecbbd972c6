"""What ``lrdiff boost`` gains in scripts of many shapes, whole loops in turn with torch's default and its fused step.

::

    python -m benchmarks.boost --out docs/results/boost.md

Every script of the tests is run so many steps, three ways in alternating order in one process; a ratio is of two runs
side by side, its interval is over rounds. Ends with 1 where a script is slower for certain than with torch's fused step
or its default.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.boost.ways import OF_LIBRARIES, SCRIPTS, expected, fused, plain, with_ours
from lrdiff_bench.report.page import markdown_table
from lrdiff_bench.report.tables import interval, seconds
from lrdiff_bench.stats.intervals import Interval, bootstrap_interval
from lrdiff_bench.stats.verdict import Verdict, speed_verdict
from lrdiff_bench.system.machine import pinned, provenance
from lrdiff_core.files import write_text

STEPS = 400
ROUNDS = 12
LEAST_ROUNDS = 6  # below that no interval around a median reaches 95 %
WAYS: tuple[Callable[[Path, Sequence[str]], object], ...] = (with_ours, partial(fused, lasting=True), plain)
HEADS = ["script", "", "replaced", "ours", "fused over ours", "default over ours", "verdict"]
PAGE = """# What `lrdiff boost` gains in whole scripts

Written by `{command}`.

- machine: {cpu}, {cpus} CPUs, load {load:.1f} before, {system}
- versions: {versions}
- commit: {commit}
- {steps} steps a run, {rounds} rounds of each script three ways in alternating order, one process, {threads}
- a time is that of the whole script with its set-up; ratios are medians with 95 % intervals over rounds, larger is
  better; a difference of less than 2 % is called equivalent
- models are of about a thousand parameters, so that most of a step is what it costs to begin one: the guide tells more

{table}

{slower}
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One script.

    Args:
        script: its file.
        replaced: optimizers that were, and how many there are.
        ours: median seconds a run.
        fused, default: time of torch's over ours.
        against_fused, against_default: ours judged.
    """

    script: Path
    replaced: str
    ours: float
    fused: Interval
    default: Interval
    against_fused: Verdict
    against_default: Verdict

    def cells(self) -> list[str]:
        """As in the table."""
        text = self.script.read_text(encoding="utf-8").splitlines()[0].strip('"')
        ratios = [f"{one.estimate:.2f} {interval(one.low, one.high, '.2f')}" for one in (self.fused, self.default)]
        verdict = f"{self.against_fused}; {self.against_default}"
        return [self.script.stem, text, self.replaced, seconds(self.ours), *ratios, verdict]


def measure(script: Path, *, steps: int, rounds: int) -> Row:
    """Run a script three ways in turn."""
    times: list[list[float]] = []
    for number in range(rounds + 1):
        row = [0.0] * len(WAYS)
        order = range(len(WAYS)) if number % 2 else reversed(range(len(WAYS)))
        for way in order:
            began = time.perf_counter()
            WAYS[way](script, [str(steps)])
            row[way] = time.perf_counter() - began
        times.append(row)
    times = times[1:]  # the first compiles, imports and fills caches
    ratios = [bootstrap_interval([row[way] / row[0] for row in times]) for way in (1, 2)]
    judged = [speed_verdict(bootstrap_interval([row[0] / row[way] for row in times])) for way in (1, 2)]
    replaced, optimizers, _ = expected(script)
    return Row(
        script=script,
        replaced=f"{replaced} of {optimizers}",
        ours=sorted(row[0] for row in times)[len(times) // 2],
        fused=ratios[0],
        default=ratios[1],
        against_fused=judged[0],
        against_default=judged[1],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boost", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the page to write; left out: only lines on the screen")
    parser.add_argument("--scripts", help="names, separated by commas; left out: all whose libraries are here")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of a run (default {STEPS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of three runs (default {ROUNDS})")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    here = [*SCRIPTS, *(script for script in OF_LIBRARIES if _is_here(script))]
    chosen = [script for script in here if not given.scripts or script.stem in given.scripts.split(",")]
    if not chosen:
        parser.error(f"no such script; there are: {', '.join(script.stem for script in here)}")
    if given.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds is at least {LEAST_ROUNDS}")
    where, rows = provenance(), []
    with pinned(given.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for script in chosen:
            rows.append(measure(script, steps=given.steps, rounds=given.rounds))
            print("  ".join(rows[-1].cells()[i] for i in (0, 2, 3, 4, 5, 6)), flush=True)
    slower = [row.script.stem for row in rows if Verdict.SLOWER in (row.against_fused, row.against_default)]
    verdict = f"Slower for certain: {', '.join(slower)}." if slower else "No script is slower for certain."
    print(verdict)
    if given.out is not None:
        machine, versions = where["machine"], where["versions"]
        command = ["python -m benchmarks.boost", *(arguments if arguments is not None else _typed())]
        table = markdown_table(HEADS, [row.cells() for row in rows], "lllrrrl")
        page = PAGE.format(
            command=" ".join(command), cpu=machine["cpu"], cpus=machine["cpus"], load=machine["load"] or 0.0,
            system=machine["system"], versions=", ".join(f"{name} {value}" for name, value in versions.items()),
            commit=where["commit"], steps=given.steps, rounds=given.rounds,
            threads=f"{given.threads} thread" + "s" * (given.threads > 1), table=table, slower=verdict,
        )  # fmt: skip
        write_text(given.out, page)
        print(f"wrote {given.out}")
    return 1 if slower else 0


def _is_here(script: Path) -> bool:
    """Whether the libraries that a script imports are installed."""
    names = {
        line.split()[1].partition(".")[0]
        for line in script.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    }
    return all(importlib.util.find_spec(name) is not None for name in names)


def _typed() -> list[str]:
    import sys

    return sys.argv[1:]


if __name__ == "__main__":
    raise SystemExit(main())
