"""The whole of ``lrdiff map``: plan, compute with progress, sum up, draw, tell."""

from __future__ import annotations

import dataclasses
import textwrap
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lrdiff_bench.maps.describe import WIDTH, as_text, axis_in_words
from lrdiff_bench.maps.plan import MapPlan, MapRequest, make_plan
from lrdiff_bench.maps.run import compute_map
from lrdiff_bench.maps.store import open_map
from lrdiff_bench.maps.tiles import CELLS, COLUMNS, run_job
from lrdiff_bench.report.errors import write_out
from lrdiff_bench.report.json import json_ready, print_json
from lrdiff_bench.report.tables import duration, make_console
from lrdiff_core.config import name_from
from lrdiff_core.errors import UnavailableError
from lrdiff_core.files import sealed, write_json, write_text

__all__ = ["drive", "plan_document", "plan_text"]

LINES_EVERY = 10  # percent: without a terminal the progress is printed so often


def drive(
    request: MapRequest,
    *,
    out: Path | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    only_plan: bool = False,
    json: bool = False,
) -> None:
    """Do what the command line asks for and print it; see ``lrdiff map --help``.

    Raises:
        LrdiffError: it cannot be done.
    """
    plan = make_plan(request)
    if only_plan:
        document = plan_document(plan)
        _print(document, plan_text(document), json)
        return
    folder = out or Path("runs") / _folder_name(plan, request)
    with _ProgressBar() as bar:
        seconds = compute_map(plan, folder, scheduler=scheduler, workers=workers, on_tile=bar.advance, tell=bar.say)
    document, files = sum_up(folder)
    document |= {"seconds": seconds, "computed_now": seconds is not None, "files": [str(file) for file in files]}
    _print(document, "\n".join([whole_text(document), *_files_lines(document)]), json)


def sum_up(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Write findings and pictures of a complete map into its folder; returns the findings and the files."""
    from lrdiff_bench.maps.findings import find
    from lrdiff_bench.maps.pictures import (
        draw_cuts,  # here: matplotlib takes a second
        draw_map,
    )

    found = find(open_map(folder))
    document: dict[str, Any] = json_ready(found.document)
    draw_map(found, folder / "map")
    draw_cuts(found, folder / "cuts")
    write_json(folder / "findings.json", sealed(document))
    write_text(folder / "findings.txt", whole_text(document) + "\n")
    names = ("map.zarr", "map.png", "map.svg", "cuts.png", "cuts.svg", "findings.json", "findings.txt")
    return document, [folder / name for name in names]


def plan_document(plan: MapPlan) -> dict[str, Any]:
    """What would be computed, JSON-ready, with the time that one small tile takes here."""
    block = next(tile for tile in plan.tiles if tile.kind == CELLS)
    height, width = plan.grid.shape
    if plan.workload.device == "cpu":  # a corner of a tile tells; a GPU is only busy with a whole one
        rows, columns = ((n // 2, min(n // 2 + 4, n)) for n in (height, width))
        block = dataclasses.replace(block, rows=rows, columns=columns)
    job = plan.job(block, None)
    members = len(job.rates) * len(plan.seeds)
    timed: dict[str, Any] = {"trainings": members, "seconds": None, "reason": None}
    try:
        run_job(job, threads=1)  # the first compiles
        started = time.perf_counter()
        run_job(job, threads=1)
        timed["seconds"] = time.perf_counter() - started
    except UnavailableError as problem:  # a map can be planned where its device is not
        timed["reason"] = problem.message
    stored = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())
    return {
        "format": "lrdiff.map.plan",
        "version": 1,
        "workload": plan.workload.describe(),
        "axes": {"x": str(plan.grid.x), "y": str(plan.grid.y)},
        "cells": list(plan.grid.shape),
        "seeds": len(plan.seeds),
        "trainings": plan.members,
        "steps": plan.steps,
        "tiles": len(plan.tiles),
        "operations": plan.operations,
        "bytes": plan.members * stored,
        "timed": timed,
        "all_seconds": None if timed["seconds"] is None else timed["seconds"] / members * plan.members,
    }


def plan_text(document: dict[str, Any]) -> str:
    """The plan as the command prints it."""
    width, height = document["cells"][1], document["cells"][0]
    timed = document["timed"]
    if timed["seconds"] is None:
        times = [f"  not timed: {timed['reason']}"]
    else:
        device = document["workload"]["device"]
        times = [
            f"  {timed['trainings']} trainings took {timed['seconds']:.3g} s here on {device}, one thread;",
            f"  all take about {duration(document['all_seconds'])} of that, shared by all workers",
        ]
    return "\n".join([
        f"{document['workload']['name']}: {width} x {height} cells, seeds: {document['seeds']}",
        f"  x {axis_in_words(document['axes']['x'])}, y {axis_in_words(document['axes']['y'])}",
        f"  {document['trainings']} trainings of {document['steps']} steps in {document['tiles']} tiles",
        f"  about {document['operations']:.2g} floating-point operations",
        f"  {document['bytes'] / 2**20:.3g} MiB of results before compression",
        *times,
    ])  # fmt: skip


class _ProgressBar:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.console: Console = make_console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._first: tuple[int, float] | None = None  # tiles and time when the first was done: processes have started
        self._last = -1

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int, total: int, before: int) -> None:
        """Called after every tile, and once before the first."""
        if done == before and before:
            self.console.print(f"going on: {before} of {total} tiles are there")
        if self.console.is_terminal:
            self._draw(done, total, before)
            return
        percent = 100 * done // total
        if done > before and self._first is None:
            self._first = (done, time.perf_counter())
        elif self._first is not None and percent // LINES_EVERY > self._last // LINES_EVERY:
            a_tile = (time.perf_counter() - self._first[1]) / (done - self._first[0])
            self.console.print(f"{done} of {total} tiles, {duration(a_tile * (total - done))} left")
            self._last = percent

    def say(self, text: str) -> None:
        """A line about a worker."""
        self.console.print(text, style="yellow", highlight=False)

    def _draw(self, done: int, total: int, before: int) -> None:
        if self._bar is None:
            columns = (
                TextColumn("tiles"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("tiles", total=total, completed=before)
        self._bar.update(self._task, completed=done)


def _folder_name(plan: MapPlan, request: MapRequest) -> str:
    zoom = "" if request.zoom is None else f"-zoom-{request.zoom.replace(':', '-')}"
    return f"{name_from(plan.workload.name)}-map{zoom}"


def whole_text(document: dict[str, Any]) -> str:
    """Findings and where they come from, as the command prints them."""
    return "\n".join([as_text(document), "", *_provenance_lines(document)])


def _provenance_lines(document: dict[str, Any]) -> list[str]:
    made = document["provenance"]
    commit = made["commit"][:12] + (" with changes" if made["commit_has_changes"] == "True" else "")
    lines = [
        f"  trained by the {document['trained_by']}, in {_seconds(document)}",
        f"  lrdiff {made['lrdiff']}, commit {commit}, torch {made['torch']}",
        f"  {made['cpu']}",
    ]
    return lines


def _files_lines(document: dict[str, Any]) -> list[str]:
    lines = [] if document["computed_now"] else ["  the map was complete, nothing was computed"]
    first, *rest = (Path(file) for file in document["files"])
    wrote = f"wrote {first}, {', '.join(file.name for file in rest)}"
    return [
        *lines,
        *textwrap.wrap(
            wrote, WIDTH, break_long_words=False, break_on_hyphens=False, initial_indent="  ", subsequent_indent="  "
        ),
    ]


def _seconds(document: dict[str, Any]) -> str:
    taken = document["trained_seconds"]
    return taken if taken == "several runs" else f"{taken} s"


def _print(document: dict[str, Any], text: str, json: bool) -> None:
    if json:
        print_json(document)
    else:
        write_out(text + "\n")
