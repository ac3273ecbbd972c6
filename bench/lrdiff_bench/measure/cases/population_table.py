"""``lrdiff bench population``: the speed table with its goals, a million members, and where the numbers come from."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from json import loads
from typing import Any

from lrdiff_bench.measure.cases.population_speed import SpeedCase, SpeedRow, measure, ours
from lrdiff_bench.report.errors import write_out
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.page import as_given, render, table_row
from lrdiff_bench.report.record import NO_FILES, PageFiles
from lrdiff_bench.stats.verdict import Goal, Verdict
from lrdiff_bench.system.machine import provenance
from lrdiff_bench.system.memory import peak_resident_bytes
from lrdiff_core.errors import CheckFailed, ConfigError

__all__ = ["GOALS", "MILLION", "MILLION_GIB", "POPULATION", "population_page", "present", "run_population_table"]

HEADS = ("optimizer", "trained by", "seconds", "over lrdiff (95 %)", "share of matmul rate", "note")
POPULATION: Mapping[str, Any] = {"format": "lrdiff.population_speed", "version": 1}
MILLION = 1_000_000
MILLION_GIB = 4.0
# Times as fast as the peer, at least; by optimizer and the beginning of the row's name.
GOALS = {
    ("sgd", "JAX jit"): 4.0, ("sgd", "JAX, own"): 4.0, ("sgd", "plain"): 300.0,
    ("adam", "JAX jit"): 3.0, ("adam", "JAX, own"): 4.0, ("adam", "plain"): 250.0,
}  # fmt: skip
QUICK_MEMBERS = 256
_ROUNDS = 6
_CHILD = """
import sys
from lrdiff_bench.measure.cases.population_table import train_many
train_many(int(sys.argv[1]), int(sys.argv[2]))
"""


def run_population_table(
    *, quick: bool = False, threads: int = 2, files: PageFiles = NO_FILES, sizes: SpeedCase | None = None
) -> tuple[dict[str, Any], str]:
    """Measure, with a line each on stderr, and write the table.

    Args:
        quick: 256 members in place of 4096, and not a million: to see that it works.
        threads: of torch and of the kernel.
        files: a Markdown file to write too, a record to keep, or one to read instead of measuring.
        sizes: another training than the one described in :mod:`~lrdiff_bench.measure.cases.population_speed`.

    Returns:
        The document and its Markdown.

    Raises:
        ConfigError: a thread count below 1.
        CheckFailed: the process with a million members ended with an error.
    """
    if threads < 1:
        raise ConfigError(f"threads is {threads}", help="write a whole number from 1 up")
    document = files.document(lambda: _measured(quick, threads, sizes), **POPULATION)
    text = population_page(document)
    files.write(text)
    return document, text


def _measured(quick: bool, threads: int, sizes: SpeedCase | None) -> dict[str, Any]:
    before = provenance("optax", "jax")
    sizes = sizes or SpeedCase(optimizer="sgd", threads=threads)
    sizes = replace(sizes, members=min(QUICK_MEMBERS, sizes.members)) if quick else sizes
    rows: list[SpeedRow] = []
    for optimizer in ("sgd", "adam"):
        for row in measure(replace(sizes, optimizer=optimizer), rounds=_ROUNDS, every_path=not quick):
            rows.append(row)
            print(table_row(cells(vars(row))), file=sys.stderr, flush=True)
    return {
        "command": as_given(),
        "quick": quick,
        "members": sizes.members,
        "threads": threads,
        **before,
        "rows": [vars(row) | {"goal": goal_of(row), "verdict": verdict_of(row)} for row in rows],
        "million": None if quick else train_in_a_process(MILLION, threads),
    }


def present(*, quick: bool, threads: int, files: PageFiles, json: bool) -> int:
    """Measure and print; returns the exit status: 1 where a goal was missed, and 0 always for a quick look."""
    document, text = run_population_table(quick=quick, threads=threads, files=files)
    if json:
        print_json(document)
    else:
        write_out(text)
    missed = any(row["verdict"] == "missed" for row in document["rows"])
    if document["million"] is not None:
        missed = missed or not document["million"]["met"]
    return 1 if missed and not quick else 0


def goal_of(row: SpeedRow) -> float | None:
    """How many times as fast as this peer a population should be; None where nothing was set.

    Example:
        >>> goal_of(SpeedRow(optimizer="sgd", name="plain PyTorch loop", seconds=1.0))
        300.0
    """
    goals = (
        goal for (optimizer, name), goal in GOALS.items() if optimizer == row.optimizer and row.name.startswith(name)
    )
    return next(goals, None)


def verdict_of(row: SpeedRow) -> Verdict | None:
    """Whether the goal is met; None without one, or where nothing was measured."""
    goal = goal_of(row)
    if goal is None or row.ratio is None:
        return None
    return Goal(least=goal, text="times as fast").verdict(*row.ratio[1:])


def train_many(members: int, threads: int) -> None:
    """Train so many members in this process and print what it took, as JSON; runs in a process of its own."""
    train = ours(SpeedCase(optimizer="sgd", members=members, threads=threads))
    started = time.perf_counter()
    found = train()
    seconds = time.perf_counter() - started
    trained = {"members": len(found), "seconds": seconds, "path": found.path, "peak_gib": peak_resident_bytes() / 2**30}
    print_json(trained)


def train_in_a_process(members: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _CHILD, str(members), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise CheckFailed(
            f"a population of {members} ended with status {done.returncode}: {last}", help="see its output above"
        )
    found: dict[str, Any] = loads(done.stdout)
    return found | {"met": found["peak_gib"] < MILLION_GIB}


def population_page(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    shown = [*map(cells, document["rows"])]
    return render("population.md", **document, heads=HEADS, cells=shown, million_gib=MILLION_GIB)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table: the fields of a :class:`SpeedRow`."""
    seconds, ratio, share = row["seconds"], row["ratio"], row["share"]
    return [
        row["optimizer"],
        row["name"],
        "-" if seconds is None else f"{seconds:.3g}",
        "-" if ratio is None else f"{ratio[0]:.3g} ({ratio[1]:.3g} to {ratio[2]:.3g})",
        "-" if share is None else f"{100 * share:.3g} %",
        row["note"],
    ]
