"""Pictures of a run, PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from lrdiff_core.files import atomic_path

__all__ = ["STYLES", "draw_comparison", "draw_metrics", "save_figure"]

# Okabe and Ito's colours, told apart with any colour vision; each curve also has its own dashes.
STYLES = (
    ("#0072B2", "-"),
    ("#999999", (0, (1, 1.5))),
    ("#CC79A7", (0, (5, 1.5))),
    ("#D55E00", "--"),
    ("#009E73", "-."),
)


def draw_metrics(folder: Path, summary: dict[str, Any]) -> None:
    """Draw loss and score by epoch into ``metrics.png`` and ``metrics.svg``.

    Args:
        folder: where to.
        summary: a run's summary.
    """
    metrics = summary["metrics"]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for i, part in enumerate(("train", "validation")):
        rows = [row for row in metrics["observations"] if row["split"] == part]
        for panel, key in zip(axes, ("loss", "score"), strict=True):
            color, dashes = STYLES[3 * i]
            epochs, values = [row["epoch"] for row in rows], [_plain(row[key]) for row in rows]
            panel.plot(epochs, values, color=color, linestyle=dashes, marker="o", markersize=3, label=part)
    for panel, label in zip(axes, (_loss_label(summary), metrics["score"]), strict=True):
        _finish(panel, label)
    rates = ", ".join(f"{layer['name']} {layer['rate']:g}" for layer in summary["training"]["layers"])
    figure.suptitle(f"{summary['name']}: {rates}", fontsize=11)
    save_figure(figure, folder / "metrics")


def draw_comparison(folder: Path, summary: dict[str, Any], curves: Sequence[tuple[str, str, Any]]) -> None:
    """Draw test loss by epoch of every scheme, median and 95 % band, into ``comparison.png`` and ``.svg``.

    Args:
        folder: where to.
        summary: a run's summary.
        curves: name, rates, and bands by epoch [epochs, 3] of each scheme.
    """
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    panel = figure.subplots()
    for (name, rates, bands), (color, dashes) in zip(curves, STYLES, strict=False):
        median, low, high = ([_plain(band[i]) for band in bands] for i in range(3))
        epochs, label = range(1, len(median) + 1), name if rates in name else f"{name}: {rates}"
        panel.plot(epochs, median, color=color, linestyle=dashes, linewidth=1.8, label=label)
        panel.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
    _finish(panel, "test " + _loss_label(summary))
    plan = summary["comparison"]["plan"]
    seeds = plan["searches"] * plan["report_seeds"]
    panel.set_title(
        f"{summary['name']}: differential against single rates, median of {seeds} seeds, 95 % bands", fontsize=11
    )
    save_figure(figure, folder / "comparison")


def _finish(panel: Any, label: str) -> None:
    panel.set_xlabel("epoch")
    panel.set_ylabel(label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=9)


def _loss_label(summary: dict[str, Any]) -> str:
    return "loss (variance units)" if summary["data"]["task"] == "regression" else "loss (nats)"


def _plain(value: float | None) -> float:
    return math.nan if value is None else value


def save_figure(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg")) -> None:
    """Write the figure as ``stem.png`` and ``stem.svg``, each whole or not at all; names are no formulas."""
    for text in figure.findobj(Text):
        if "$" in text.get_text() and r"\mathdefault" not in text.get_text():  # that is a power of ten beside an axis
            text.set_parse_math(False)
    # A fixed salt and no date: the same run draws the same bytes.
    with mpl.rc_context({"svg.hashsalt": "lrdiff", "svg.fonttype": "none"}):
        for kind in kinds:
            with atomic_path(stem.with_suffix(f".{kind}")) as beside:
                figure.savefig(beside, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
