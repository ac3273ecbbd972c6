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
import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.boost.ways import OF_LIBRARIES, SCRIPTS, expected, fused, plain, with_ours
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import interval, seconds
from lrdiff_bench.stats.intervals import Interval, bootstrap_interval
from lrdiff_bench.stats.verdict import Verdict, speed_verdict
from lrdiff_bench.system.machine import pinned, provenance

STEPS = 400
ROUNDS = 12
LEAST_ROUNDS = 6  # below that no interval around a median reaches 95 %
WAYS: tuple[Callable[[Path, Sequence[str]], object], ...] = (with_ours, partial(fused, lasting=True), plain)
HEADS = ["script", "", "replaced", "ours", "fused over ours", "default over ours", "verdict"]
BOOST: Mapping[str, Any] = {"format": "lrdiff.boost_table", "version": 1}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One script.

    Args:
        script, about: its name and its first line.
        replaced: optimizers that were, and how many there are.
        ours: median seconds a run.
        fused, default: time of torch's over ours.
        against_fused, against_default: ours judged.
    """

    script: str
    about: str
    replaced: str
    ours: float
    fused: Interval
    default: Interval
    against_fused: Verdict
    against_default: Verdict


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
        script=script.stem,
        about=script.read_text(encoding="utf-8").splitlines()[0].strip('"'),
        replaced=f"{replaced} of {optimizers}",
        ours=sorted(row[0] for row in times)[len(times) // 2],
        fused=ratios[0],
        default=ratios[1],
        against_fused=judged[0],
        against_default=judged[1],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boost", description=__doc__.splitlines()[0])
    add_page_options(parser)
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
    command = as_given() if arguments is None else shlex.join(["python", "-m", "benchmarks.boost", *arguments])

    def measured() -> dict[str, Any]:
        where, rows = provenance(), []
        with pinned(given.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for script in chosen:
                rows.append(asdict(measure(script, steps=given.steps, rounds=given.rounds)))
                print("  ".join(cells(rows[-1])[i] for i in (0, 2, 3, 4, 5, 6)), flush=True)
        sizes = {"steps": given.steps, "rounds": given.rounds, "threads": given.threads}
        return {"command": command, "quick": given.steps < STEPS, **where, **sizes, "rows": rows}

    files = PageFiles.of(given)
    document = files.document(measured, **BOOST)
    files.write(boost_page(document))
    print(verdict(document))
    return 1 if slower(document) else 0


def boost_page(document: Mapping[str, Any]) -> str:
    """The document as Markdown."""
    rows = [cells(row) for row in document["rows"]]
    return render("boost.md", **document, heads=HEADS, cells=rows, verdict=verdict(document))


def cells(row: Mapping[str, Any]) -> list[str]:
    """A :class:`Row` as in the table."""
    ratios = [f"{middle:.2f} {interval(low, high, '.2f')}" for middle, low, high, _ in (row["fused"], row["default"])]
    verdicts = f"{row['against_fused']}; {row['against_default']}"
    return [row["script"], row["about"], row["replaced"], seconds(row["ours"]), *ratios, verdicts]


def slower(document: Mapping[str, Any]) -> list[str]:
    """Names of scripts that are slower for certain."""
    return [row["script"] for row in document["rows"] if "slower" in (row["against_fused"], row["against_default"])]


def verdict(document: Mapping[str, Any]) -> str:
    """Which scripts are slower, as a sentence."""
    found = slower(document)
    return f"Slower for certain: {', '.join(found)}." if found else "No script is slower for certain."


def _is_here(script: Path) -> bool:
    """Whether the libraries that a script imports are installed."""
    names = {
        line.split()[1].partition(".")[0]
        for line in script.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    }
    return all(importlib.util.find_spec(name) is not None for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
