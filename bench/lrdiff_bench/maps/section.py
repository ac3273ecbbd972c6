"""What a map adds to a report: its findings, an explorer with a cursor, and cuts through the best pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrdiff_bench.maps.describe import axis_in_words, interval, number, seeds_in_words
from lrdiff_bench.maps.findings import Findings, find
from lrdiff_bench.report import charts, gains
from lrdiff_bench.report.parts import Part, fill_part
from lrdiff_bench.stats.intervals import median_interval

__all__ = ["map_part"]

MOST_CELLS = 256  # along an edge: a page of 6 MB holds no more; of larger maps every so many-th cell is shown


def map_part(dataset: Any, folder: str) -> Part:
    """The part of a report that shows one map.

    Args:
        dataset: of :func:`lrdiff_bench.maps.open_map`.
        folder: where it lies.
    """
    found = find(dataset)
    document, grid = found.document, found.grid
    choices = document["choices"]
    body = fill_part(
        "map.html",
        document=document,
        axes=[axis_in_words(document["axes"][name]) for name in ("x", "y")],
        seeds=document["seeds"],
        reporting=seeds_in_words(document["seeds"]["reporting"]),
        folder=folder,
        choices=[
            [
                name,
                *(number(rate, 4) for rate in one["rates"]),
                interval(one["loss"]),
                number(one["score"]),
                _steps(one),
            ]
            for name, one in choices.items()
        ],
        heads=["choice", f"rate of {grid.x.name}", f"rate of {grid.y.over or grid.y.name}"]
        if grid.x.over is None
        else ["choice", "x", "y"],
        shares=_shares(document),
        costs=[
            [
                f"{one['of']}, {'halved' if one['factor'] < 1 else 'doubled'}",
                "outside the plane" if one["cost"] is None else interval(one["cost"], signed=True),
            ]
            for one in document["cost"]
        ],
        cuts=_cuts(found),
        data=_data(found),
    )
    finding, rates = _found(document, grid.x.group, grid.y.group, ratio=bool(grid.x.over or grid.y.over))
    return Part(title=f"Map {Path(folder).name}", finding=finding, rates=rates, body=body, scripts=["map.js"])


def _found(document: Mapping[str, Any], x: str, y: str, *, ratio: bool) -> tuple[str, str]:
    choices = document["choices"]
    gain = document["gain"]
    helps = gain is not None and gain["verdict"] == "HELPS"
    name = "best pair" if helps or "best single" not in choices else "best single"
    named = zip((x, y), choices[name]["rates"], strict=True)
    rates = "\n".join([f"[rates]  # {name}", *(f'"{group}" = {rate:.4g}' for group, rate in named)])
    if gain is None:
        return "The map has no single rates or too few seeds for a verdict.", "" if ratio else rates
    return gains.found(gain, "the best pair of rates", "the best single rate"), "" if ratio else rates


def _steps(choice: Mapping[str, Any]) -> str:
    steps = choice["steps_to_target"]
    return "not reached" if steps is None or math.isinf(steps) else f"{steps:.0f}"


def _shares(document: Mapping[str, Any]) -> list[list[str]]:
    share = document["share"]
    words = {
        "better": "better than the best single rate",
        "surely_better": "shown to be better than it",
        "as_good": "shown to be as good as the best pair",
        "diverged": "diverged",
    }
    return [[text, f"{100 * share[name]:.3g} %"] for name, text in words.items() if share[name] is not None]


def _cuts(found: Findings) -> charts.Chart:
    """Along the diagonal and through the best pair; medians over all seeds with their intervals."""
    pair = found.document["choices"]["best pair"]["place"]
    grid = found.grid
    parts = [
        (f"{grid.x.name}, {grid.y.name} at {number(pair[1])}", grid.x.values, found.lines["x"]),
        (f"{grid.y.name}, {grid.x.name} at {number(pair[0])}", grid.y.values, found.lines["y"]),
    ]
    if len(grid.single):
        parts.insert(0, ("one rate for both", grid.single, found.single))
    series = []
    worst = float(np.median(found.single, axis=1)[0]) if len(grid.single) else float(np.nanmax(found.median))
    for name, values, losses in parts:
        bands = np.array([median_interval(row)[:3] for row in losses])
        bands[~np.isfinite(bands) | (bands > 1.5 * worst)] = np.nan  # what diverges would flatten all that trains
        y, low, high = ([None if math.isnan(v) else float(v) for v in bands[:, i]] for i in range(3))
        series.append(charts.Line(name=name, x=[float(v) for v in values], y=y, low=low, high=high))
    return charts.lines(
        series, label="Cuts through the best pair, and along the diagonal where one rate serves both",
        x="learning rate", y=found.document["loss"], log_x=True,
    )  # fmt: skip


def _data(found: Findings) -> dict[str, Any]:
    """What the explorer shows; losses exactly as they are in the store."""
    grid = found.grid
    rows, columns = (slice(None, None, -(-size // MOST_CELLS)) for size in found.median.shape)
    single = np.median(found.single, axis=1) if len(grid.single) else np.empty(0)
    places = [grid.place(rate, rate) for rate in grid.single]
    return {
        "title": found.document["title"],
        "loss": found.document["loss"],
        "x": {"name": grid.x.label, "values": grid.x.values[columns]},
        "y": {"name": grid.y.label, "values": grid.y.values[rows]},
        "values": found.median[rows, columns],
        "diverged": found.diverged[rows, columns].astype(int),
        "single": {"rates": grid.single, "values": single, "x": [x for x, _ in places], "y": [y for _, y in places]},
        "marks": {name: one["place"] for name, one in found.document["choices"].items()},
        "thinned": max(found.median.shape) > MOST_CELLS,
    }
