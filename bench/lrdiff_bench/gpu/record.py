"""What a part of ``make gpu`` reports, and the page made of it.

Rows are one JSON line each, written as they come, so that a part that runs out of time keeps what it found.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lrdiff_bench.report.json import json_line
from lrdiff_bench.report.page import render

__all__ = ["NO_TIME", "PARTS", "Part", "Request", "GpuRow", "Reporter", "gpu_page", "part", "read_rows", "writer"]

Result = Literal["passed", "failed", "measured", "unavailable"]


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """One line of the table.

    Attributes:
        what: was checked or measured.
        result: ``passed`` or ``failed`` for a check, ``measured`` for a number that nothing depends on, ``unavailable``
            for what cannot run here.
        value: what was measured, in words.
        note: why it failed or is missing, or how it was measured.
        numbers: for programs.
    """

    what: str
    result: Result
    value: str = ""
    note: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


Reporter = Callable[[GpuRow], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """How a part is to run.

    Attributes:
        device: ``cuda``, ``mps`` or ``cpu``.
        quick: at the smallest size, to see that everything runs.
        seconds: the part may take; None where nobody waits.
        began: when it began, by :func:`time.monotonic`.
    """

    device: str
    quick: bool
    seconds: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def small(self) -> bool:
        """Whether sizes that only a GPU copes with are out of question."""
        return self.quick or self.device == "cpu"

    def in_time(self) -> bool:
        """Whether something slow may still be begun: a part that is ended loses what it was at."""
        return self.seconds is None or time.monotonic() - self.began < LAST_START * self.seconds


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part: what it does, what it may take, what does it.

    Attributes:
        name: as asked for.
        title: over its table.
        seconds: it may take; the rest is cut off, and counts as failed.
        module: whose ``run(request, report)`` does it.
    """

    name: str
    title: str
    seconds: float
    module: str


SHOWN: dict[Result, str] = {
    "passed": "passed",
    "failed": "**failed**",
    "measured": "",
    "unavailable": "not available here",
}
PARTS: dict[str, Part] = {}
LAST_START = 0.75  # of a part's time; the slowest single thing, compiling, takes up to 20 s
NO_TIME = "no time was left for it"


def part(name: str, title: str, seconds: float) -> None:
    """Add a part, run by the module of that name in this package."""
    PARTS[name] = Part(name=name, title=title, seconds=seconds, module=f"lrdiff_bench.gpu.{name}")


# Together 7 minutes and 20 seconds: starting processes takes the rest of 8 minutes.
part("prediction", "Prediction parity", 115)
part("training", "Training parity", 115)
part("checks", "Tests that need an accelerator", 90)
part("steps", "Cost of an optimizer step", 60)
part("population", "Population training", 60)


def writer(path: Path) -> Reporter:
    """Return a function that appends a row to a file, whole, at once."""

    def report(row: GpuRow) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json_line(asdict(row)))

    return report


def read_rows(path: Path) -> list[GpuRow]:
    """Return the rows written so far; a line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(GpuRow(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return rows


def gpu_page(document: Mapping[str, Any]) -> str:
    """Return the document as Markdown: where the numbers come from, then a table a part.

    Args:
        document: as in ``gpu.json``.
    """
    parts = [
        {
            **part,
            "counts": {result: sum(row["result"] == result for row in part["rows"]) for result in SHOWN},
            "cells": [[row["what"], SHOWN[row["result"]], row["value"], row["note"]] for row in part["rows"]],
        }
        for part in document["parts"]
    ]
    return render("gpu.md", **{**document, "parts": parts})
