"""Cuts through a map: along the diagonal, where one rate serves both groups, and through the best pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lrdiff_bench.maps.describe import number
from lrdiff_bench.maps.findings import Findings
from lrdiff_bench.maps.pictures import MARKS, title
from lrdiff_bench.report.figures import STYLES, save_figure
from lrdiff_bench.stats.intervals import median_interval

__all__ = ["draw_cuts"]


def draw_cuts(found: Findings, stem: Path) -> None:
    """Draw the cuts into ``stem.png`` and ``stem.svg``: median over all seeds, and its interval.

    Args:
        found: what the map shows.
        stem: of the files, without a suffix.
    """
    document, grid = found.document, found.grid
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    pair = document["choices"]["best pair"]["place"]
    shown = []
    if len(grid.single):
        values = grid.single
        shown += [_curve(left, values, found.single, STYLES[3], "one rate for both")]
        choice = document["choices"]["best single"]
        _mark(left, "best single", choice["rates"][0], values, found.single)
        left.legend(frameon=False, fontsize=9)
    else:
        left.text(0.5, 0.5, "no single rate\nlies in this plane", ha="center", va="center", transform=left.transAxes)
    for axis, losses, style, at, other in (
        (grid.x, found.lines["x"], STYLES[0], pair[0], f"{grid.y.name} at {number(pair[1])}"),
        (grid.y, found.lines["y"], STYLES[4], pair[1], f"{grid.x.name} at {number(pair[0])}"),
    ):
        shown += [_curve(right, axis.values, losses, style, f"{axis.name}, with {other}")]
        _mark(right, "best pair", at, axis.values, losses)
    right.legend(frameon=False, fontsize=9)
    left.set_title("along the diagonal", fontsize=11)
    right.set_title("through the best pair", fontsize=11)
    left.set_xlabel("learning rate of both groups")
    right.set_xlabel("learning rate" if grid.x.over is None and grid.y.over is None else "learning rate, or ratio")
    unit = "" if document["unit"] == "1" else f" ({document['unit']})"
    loss = document["loss"] if len(document["loss"]) < 30 else "loss over the first"
    left.set_ylabel(f"{loss}{unit}")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    lows, highs = zip(*shown, strict=True)
    low, high = min(lows), max(highs)
    if high > low:
        left.set_ylim(low - 0.05 * (high - low), low + (high - low) * 1.05)
    count = len(document["seeds"]["all"])
    band = "" if count == 1 else f", {100 * median_interval(np.zeros(count)).level:.3g} % bands"
    figure.suptitle(f"{title(document)}{band}", fontsize=11)
    save_figure(figure, stem)


def _curve(panel: Any, values: np.ndarray, losses: np.ndarray, style: Any, label: str) -> tuple[float, float]:
    """Draw a median with its interval; returns the lowest and the highest loss that the picture should hold."""
    bands = np.array([median_interval(row)[:3] for row in losses])
    bands[~np.isfinite(bands)] = np.nan
    color, dashes = style
    panel.plot(values, bands[:, 0], color=color, linestyle=dashes, linewidth=1.8, label=label)
    if losses.shape[1] > 1:
        panel.fill_between(values, bands[:, 1], bands[:, 2], color=color, alpha=0.18, linewidth=0)
    trained = bands[np.isfinite(bands[:, 0])]
    if not trained.size:
        return 0.0, 1.0
    # One that diverges reaches any height; the slow end, at the lowest rates, is what should be seen.
    return float(np.nanmin(trained[:, 1])), float(np.nanmax(trained[: trained[:, 0].argmin() + 1, 2]))


def _mark(panel: Any, name: str, rate: float, values: np.ndarray, losses: np.ndarray) -> None:
    marker, size, fill = MARKS[name]
    at = int(np.abs(np.log(values / rate)).argmin())
    panel.plot(
        [values[at]], [np.median(losses[at])], marker=marker, markersize=size, color=fill, markeredgecolor="black",
        markeredgewidth=1.4, linestyle="none", zorder=6, label=name if name == "best single" else None,
    )  # fmt: skip
