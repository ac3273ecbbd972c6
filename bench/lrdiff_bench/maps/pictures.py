"""The picture of a map: median loss, border, diagonal, and what was found, readable without colour."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lrdiff_bench.maps.describe import number
from lrdiff_bench.maps.findings import Findings
from lrdiff_bench.maps.grid import Axis
from lrdiff_bench.report.figures import STYLES, save_figure
from lrdiff_bench.stats.intervals import median_interval

__all__ = ["MARKS", "draw_cuts", "draw_map", "title"]

COLOURS = "cividis"  # even to the eye, and to one that lacks red or green
LINES = 6  # contour lines, at most
MOST_CELLS = 1024  # along an edge: more than the picture has dots; of larger maps every so many-th cell is drawn
WORST = 0.95  # of what trained: what lies above is one colour, so that the valley has many
# Marker, size and fill: told apart in black and white.
MARKS = {
    "best single": ("o", 9, "white"),
    "best pair": ("*", 15, "white"),
    "as configured": ("s", 8, "black"),
}
_HALO = [patheffects.withStroke(linewidth=3, foreground="black", alpha=0.6)]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What is drawn of a map: arrays [rows, columns] and the values along the axes."""

    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray  # NaN where it diverged
    diverged: np.ndarray
    as_good: np.ndarray

    @property
    def has_area(self) -> bool:
        return min(self.loss.shape) > 3


def draw_map(found: Findings, stem: Path) -> None:
    """Draw a map into ``stem.png`` and ``stem.svg``.

    Colours are the cells themselves; the lines of equal loss and the region of what is as good as the best
    pair are smoothed over neighbouring cells, so that they can be followed.

    Args:
        found: what the map shows.
        stem: of the files, without a suffix.
    """
    document, grid = found.document, found.grid
    plane = coarsened(found)
    figure = Figure(figsize=(7.0, 6.8), layout="constrained")
    panel = figure.subplots()
    _axes(panel, grid.x, grid.y)  # first: labels on lines are placed by the scale as it is
    norm = _norm(plane.loss)
    mesh = panel.pcolormesh(_edges(plane.x), _edges(plane.y), plane.loss, cmap=COLOURS, norm=norm, rasterized=True)
    panel.set_facecolor("white")
    handles: list[Any] = []
    if plane.has_area:
        _contours(panel, plane, norm)
        if plane.diverged.any():
            handles.append(_diverged(panel, plane, document))
        if document["level"] and plane.as_good.any():
            handles.append(_as_good(panel, plane))
    if len(grid.single):
        handles.append(_diagonal(panel, found))
    for name, choice in document["choices"].items():
        handles.append(_mark(panel, name, choice, inside=grid.holds(*choice["place"])))
    above = np.nanmax(plane.loss, initial=-np.inf) > (norm.vmax or 0) * (1 + 1e-6)
    bar = figure.colorbar(mesh, ax=panel, shrink=0.9, pad=0.02, extend="max" if above else "neither")
    bar.set_label(_loss_label(document), fontsize=12)
    _plain_ticks(bar.ax.yaxis, norm)
    panel.set_title(title(document), fontsize=13)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=True, facecolor="0.8", fontsize=10.5)
    save_figure(figure, stem)


def title(document: dict[str, Any]) -> str:
    """What a picture is of."""
    seeds = document["seeds"]["all"]
    of = f"seed {seeds[0]}" if len(seeds) == 1 else f"median over {len(seeds)} seeds"
    return f"{document['workload']['name']}: {of}"


def coarsened(found: Findings) -> Plane:
    height, width = found.median.shape
    rows, columns = (slice(None, None, -(-size // MOST_CELLS)) for size in (height, width))
    loss = np.where(found.diverged | ~np.isfinite(found.median), np.nan, found.median)
    return Plane(
        x=found.grid.x.values[columns],
        y=found.grid.y.values[rows],
        loss=loss[rows, columns],
        diverged=found.diverged[rows, columns],
        as_good=found.as_good[rows, columns],
    )


def _norm(trained: np.ndarray) -> Normalize:
    """Colours by the logarithm of the loss, most of them for the better half."""
    values = trained[np.isfinite(trained)]
    if not values.size or values.min() <= 0:
        return Normalize(float(values.min()), float(values.max())) if values.size else Normalize(0, 1)
    low, high = float(values.min()), float(np.quantile(values, WORST))
    return LogNorm(low, high if high > 1.001 * low else 1.01 * low)


def smoothed(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over the cells around each, NaN left out; NaN where the cell itself is."""
    height, width = values.shape
    padded = np.pad(values, radius, constant_values=np.nan)
    total, count = np.zeros(values.shape), np.zeros(values.shape)
    for dy, dx in itertools.product(range(2 * radius + 1), repeat=2):
        part = padded[dy : dy + height, dx : dx + width]
        there = np.isfinite(part)
        total += np.where(there, part, 0.0)
        count += there
    return np.where(np.isfinite(values), total / np.maximum(count, 1), np.nan)


def _contours(panel: Any, plane: Plane, norm: Normalize) -> None:
    """Lines of equal loss with their values, closer in the valley, as the colours are."""
    assert norm.vmin is not None
    assert norm.vmax is not None
    low, high = norm.vmin, norm.vmax
    logs = isinstance(norm, LogNorm)
    values = np.log(plane.loss) if logs else plane.loss
    values = smoothed(values, max(1, min(plane.loss.shape) // 32))
    values = np.exp(values) if logs else values
    shares = np.linspace(0, 1, LINES + 1)[1:] ** 1.5
    levels = low * (high / low) ** shares if logs else low + (high - low) * shares
    levels = np.unique([float(f"{level:.2g}") for level in levels])
    levels = levels[(levels > np.nanmin(values)) & (levels < np.nanmax(values))]
    if not levels.size:
        return
    shown = np.ma.masked_invalid(values)
    lines = panel.contour(plane.x, plane.y, shown, levels=levels, colors="black", linewidths=0.7, alpha=0.85)
    labels = panel.clabel(lines, fmt=lambda level: f"{level:g}", fontsize=9, inline=True, inline_spacing=2)
    for label in labels:
        label.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white", alpha=0.9)])


def _diverged(panel: Any, plane: Plane, document: dict[str, Any]) -> Patch:
    lost = plane.diverged.astype(float)
    panel.contourf(plane.x, plane.y, lost, levels=[0.5, 1.5], colors="none", hatches=["xx"])
    panel.contour(plane.x, plane.y, lost, levels=[0.5], colors="black", linewidths=2.0)
    label = "diverged (half the seeds or more)" if len(document["seeds"]["all"]) > 1 else "diverged"
    return Patch(facecolor="white", edgecolor="black", hatch="xx", label=label)


def _as_good(panel: Any, plane: Plane) -> Patch:
    as_good = smoothed(plane.as_good.astype(float), 1)
    panel.contourf(plane.x, plane.y, as_good, levels=[0.5, 1.5], colors="none", hatches=["..."])
    panel.contour(plane.x, plane.y, as_good, levels=[0.5], colors="white", linewidths=1.8)
    return Patch(facecolor="0.4", edgecolor="white", hatch="...", label="shown to be as good as the best pair")


def _diagonal(panel: Any, found: Findings) -> Line2D:
    grid = found.grid
    places = np.array([grid.place(rate, rate) for rate in grid.single])
    style: dict[str, Any] = {
        "color": "white", "linewidth": 1.8, "linestyle": (0, (5, 3)), "path_effects": _HALO,
        "label": "one rate for both: the single rates",
    }  # fmt: skip
    panel.plot(places[:, 0], places[:, 1], **style)
    return Line2D([], [], **style)


def _mark(panel: Any, name: str, choice: dict[str, Any], *, inside: bool) -> Any:
    marker, size, fill = MARKS[name]
    edge = "black" if fill == "white" else "white"
    place = choice["place"]
    rates = " / ".join(
        number(value, 2) for value in (choice["rates"] if name != "best single" else choice["rates"][:1])
    )
    where = "" if inside else " (outside)"
    x, y = (place[:1], place[1:]) if inside else ([], [])
    return panel.plot(
        x, y, marker=marker, markersize=size, color=fill, markeredgecolor=edge, markeredgewidth=1.4,
        linestyle="none", zorder=6, label=f"{name}: {rates}{where}", clip_on=False,
    )[0]  # fmt: skip


def _axes(panel: Any, x: Axis, y: Axis) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(*_edges(x.values)[[0, -1]])
    panel.set_ylim(*_edges(y.values)[[0, -1]])
    panel.set_xlabel(x.label, fontsize=12)
    panel.set_ylabel(y.label, fontsize=12)


def _plain_ticks(axis: Any, norm: Normalize) -> None:
    """A handful of plain numbers: a log scale of less than a decade would show one tick, or powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if not isinstance(norm, LogNorm):
        return
    assert norm.vmin is not None
    assert norm.vmax is not None
    ticks = np.unique([float(f"{value:.2g}") for value in np.geomspace(norm.vmin, norm.vmax, 7)])
    axis.set_major_locator(FixedLocator([t for t in ticks if norm.vmin <= t <= norm.vmax]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _loss_label(document: dict[str, Any]) -> str:
    return document["loss"] if document["unit"] == "1" else f"{document['loss']} ({document['unit']})"


def _edges(values: np.ndarray) -> np.ndarray:
    """[size + 1] between the cells, geometric."""
    half = (values[-1] / values[0]) ** (0.5 / (len(values) - 1))
    return np.concatenate([values / half, [values[-1] * half]])


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
        _mark_on_curve(left, "best single", choice["rates"][0], values, found.single)
        left.legend(frameon=False, fontsize=9)
    else:
        left.text(0.5, 0.5, "no single rate\nlies in this plane", ha="center", va="center", transform=left.transAxes)
    for axis, losses, style, at, other in (
        (grid.x, found.lines["x"], STYLES[0], pair[0], f"{grid.y.name} at {number(pair[1])}"),
        (grid.y, found.lines["y"], STYLES[4], pair[1], f"{grid.x.name} at {number(pair[0])}"),
    ):
        shown += [_curve(right, axis.values, losses, style, f"{axis.name}, with {other}")]
        _mark_on_curve(right, "best pair", at, axis.values, losses)
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


def _mark_on_curve(panel: Any, name: str, rate: float, values: np.ndarray, losses: np.ndarray) -> None:
    marker, size, fill = MARKS[name]
    at = int(np.abs(np.log(values / rate)).argmin())
    panel.plot(
        [values[at]], [np.median(losses[at])], marker=marker, markersize=size, color=fill, markeredgecolor="black",
        markeredgewidth=1.4, linestyle="none", zorder=6, label=name if name == "best single" else None,
    )  # fmt: skip
