"""What became slower by asv's results: its page of regressions as text, and commits measured on a busy machine.

The text is what asv itself has no command for (https://github.com/airspeed-velocity/asv/issues/450). It is read from
the files of any page that ``asv publish`` has written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.store import read_run, run_files
from lrdiff_bench.report.errors import print_error
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.tables import seconds
from lrdiff_core.errors import InputError

__all__ = ["list_regressions", "noise_words", "noisy_commits", "read_regressions", "regression_words"]

MOVED = 0.1  # of the memory's speed: what moves it that far moves every case
WITNESS = "memory_copy"  # a case that no commit changes


def read_regressions(page: Path) -> list[dict[str, Any]]:
    """What asv's regression page shows: case, factor, the commit since which, values before and after, unit.

    Args:
        page: the folder that ``asv publish`` wrote.

    Raises:
        InputError: it is none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "regressions.json").write_text('{"regressions": []}')
        >>> _ = (folder / "index.json").write_text('{"revision_to_hash": {}}')
        >>> read_regressions(folder)
        []
    """
    try:
        index, said = (json.loads((page / f"{name}.json").read_text(encoding="utf-8"))
                       for name in ("index", "regressions"))  # fmt: skip
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{page} is no page of asv: {problem}",
            help="name the folder that `asv publish` wrote",
        ) from problem
    found = []
    for name, _, where, _, latest, best, jumps in said["regressions"]:
        # jumps: [[revision before, None where it is the parent; revision since; value before; value since], ...]
        _, since, before, after = jumps[-1]
        unit = index.get("benchmarks", {}).get(name.partition("(")[0], {}).get("unit", "seconds")
        commit, factor = index["revision_to_hash"][str(since)], latest / best if best else math.inf
        values = {"before": before, "after": after, "unit": unit, "where": where}
        found.append({"case": name, "factor": factor, "commit": commit, **values})
    return found


def regression_words(one: Mapping[str, Any]) -> str:
    """A regression as a line.

    Example:
        >>> told = {"case": "m.MainStep.time_step(1)", "factor": 2.0, "commit": 40 * "a", "unit": "seconds"}
        >>> regression_words({**told, "before": 1e-6, "after": 2e-6, "where": {}})
        'm.MainStep.time_step(1): 2.00 times slower since aaaaaaaaaaaa, from 1.00 µs to 2.00 µs there'
    """
    if one["unit"] == "seconds":
        word, values = "slower", [seconds(value) for value in (one["before"], one["after"])]
    else:
        word, values = "more", [f"{value:.4g} {one['unit']}" for value in (one["before"], one["after"])]
    place = "".join(f", {key} {value}" for key, value in one["where"].items())
    since = f"since {one['commit'][:12]}, from {values[0]} to {values[1]} there"
    return f"{one['case']}{place}: {one['factor']:.2f} times {word} {since}"


def noisy_commits(records: Path) -> list[dict[str, Any]]:
    """Commits during whose measuring the machine had other things to do: commit, load, speed of memory.

    The load counts beyond the one process that measures. ``memory_copy`` is how long a copy of memory took, over the
    median of all commits: no commit changes that.

    Args:
        records: folder of runs, a run a commit; those of the newest one's machine are looked at.
    """
    runs = [rows for file in run_files(records) if (rows := read_run(file))]
    runs = [run for run in runs if run[0].machine.id == runs[-1][0].machine.id]
    copies = [_copy(run) for run in runs]
    known = [one for one in copies if one is not None]
    found: list[dict[str, Any]] = []
    for run, copy in zip(runs, copies, strict=True):
        load = max((one.conditions.load for one in run if one.conditions.load is not None), default=None)
        moved = 1.0 if copy is None else copy / median(known)
        busy = load is not None and load - 1.0 > run[0].machine.cpus / 2
        if busy or abs(math.log(moved)) > math.log1p(MOVED):
            found.append({"commit": run[0].code.commit, "load": load, WITNESS: moved})
    return found


def noise_words(one: Mapping[str, Any]) -> str:
    """A noisy commit as a line.

    Example:
        >>> noise_words({"commit": 40 * "b", "load": 3.25, "memory_copy": 1.31})
        'bbbbbbbbbbbb was measured beside other work: load 3.2, memory_copy 1.31 times its median'
    """
    load = "" if one["load"] is None else f"load {one['load']:.1f}, "
    return (
        f"{str(one['commit'])[:12]} was measured beside other work: {load}{WITNESS} {one[WITNESS]:.2f} times its median"
    )


def list_regressions(page: Path, *, threshold: float, json: bool) -> int:
    """Print the regressions of a page that are larger than a threshold; 1 where there is one."""
    found = [one for one in read_regressions(page) if one["factor"] > 1.0 + threshold]
    if json:
        print_json({"format": "lrdiff.bench.regressions", "version": 1, "page": str(page), "regressions": found})
    for one in () if json else found:
        print(regression_words(one))
    if not found:
        return 0
    commit = found[0]["commit"][:12]
    return print_error(
        f"regressions: {len(found)}", f"to see whether one is real: lrdiff ab {commit}~1 {commit} --only CASE"
    )


def _copy(run: Sequence[Record]) -> float | None:
    times = [one.median for one in run if one.name == WITNESS and one.samples]
    return times[0] if times else None
