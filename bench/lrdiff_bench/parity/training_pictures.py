"""Pictures of training parity: how far each lane is from float64, step by step, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrdiff_bench.report.figures import save_figure

__all__ = ["draw_training_parity", "sharp_text"]

# Okabe and Ito's colours, told apart with any colour vision; marks tell lines apart that lie on each other.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LEAST = 1e-2  # eps units; less is drawn there: it is no error at all
MARKED = 8  # marks a line


def draw_training_parity(report: Mapping[str, Any], stem: Path) -> list[Path]:
    """Draw a report into ``stem.png`` and ``stem.svg``; a column an arithmetic that something ran in.

    Args:
        report: of :func:`lrdiff_export.check_training_parity`, as JSON has it.
        stem: the files without their ending.

    Returns:
        The files; none where nothing ran.
    """
    ran = [row for row in report["results"] if row["distances"]]
    arithmetics = [one for one in report["budgets"] if any(row["arithmetic"] == one["arithmetic"] for row in ran)]
    if not arithmetics:
        return []
    figure = Figure(figsize=(max(8.0, 4.6 * len(arithmetics)), 6.4), layout="constrained")
    panels = figure.subplots(2, len(arithmetics), squeeze=False, sharex=True, height_ratios=(3, 2))
    names = list(dict.fromkeys((row["implementation"], row["device"]) for row in ran))
    looks = {name: (COLORS[i % len(COLORS)], MARKS[i % len(MARKS)]) for i, name in enumerate(names)}
    for column, budget in enumerate(arithmetics):
        rows = [row for row in ran if row["arithmetic"] == budget["arithmetic"]]
        _draw_distance(panels[0][column], budget, rows, looks)
        _draw_share(panels[1][column], rows, looks)
        for panel in panels[:, column]:
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.25)
        panels[1][column].set_xlabel("step")
        panels[1][column].xaxis.get_major_locator().set_params(integer=True)
    panels[0][0].set_ylabel("distance of the weights\nfrom float64 (eps units)")
    panels[1][0].set_ylabel("share of the tolerance used")
    handles = {text: one for panel in panels[0] for one, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8,
    )  # fmt: skip
    figure.suptitle(
        f"{report['job']}: {report['optimizer']}, {report['steps']} steps, torch {report['flags']['torch']}",
        fontsize=11,
    )
    save_figure(figure, stem)
    return [stem.with_suffix(".png"), stem.with_suffix(".svg")]


def _draw_distance(
    panel: Axes, budget: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], looks: Mapping[Any, tuple[str, str]]
) -> None:
    steps = range(1, len(budget["allowed"]) + 1)
    panel.fill_between(
        steps, LEAST, _shown(budget["allowed"]), color="#F0E442", alpha=0.35, linewidth=0,
        label="tolerance (largest tensor's)",
    )  # fmt: skip
    panel.plot(steps, _shown(budget["conditioning"]), color="#666666", linewidth=1, linestyle="--",
               label="float64, moved by half a digit")  # fmt: skip
    for row in rows:
        color, mark = looks[row["implementation"], row["device"]]
        label = row["implementation"] + ("" if row["device"] == "cpu" else f", {row['device']}")
        _line(panel, row["distances"], color, mark, label)
        if (left := row["departure"]) is not None and left["step"]:
            _mark(panel, left["step"], _shown(row["distances"])[left["step"] - 1], left)
    panel.set_yscale("log")
    panel.set_ylim(bottom=LEAST)
    said = sharp_text(budget).replace(": ", ":\n")  # two lines where one would run out of the panel
    panel.set_title(f"{budget['arithmetic']}: {said}", fontsize=9)


def _draw_share(panel: Axes, rows: Sequence[Mapping[str, Any]], looks: Mapping[Any, tuple[str, str]]) -> None:
    panel.axhline(1.0, color="#333333", linewidth=1)
    for row in rows:
        color, mark = looks[row["implementation"], row["device"]]
        _line(panel, row["shares"], color, mark, None)
    panel.set_yscale("log")
    panel.set_ylim(bottom=LEAST)


def sharp_text(budget: Mapping[str, Any]) -> str:
    """What a budget still means after the last step.

    Example:
        >>> sharp_text({"sharpness": 1.3e-5, "blunt_from": None})
        'resolves 0.0013 % of the distance moved'
        >>> sharp_text({"sharpness": 1.2, "blunt_from": 36})
        'covers 120 % of the distance moved: says little from step 36 on'
    """
    if budget["blunt_from"] is not None:
        covered = f"covers {100 * budget['sharpness']:.3g} % of the distance moved"
        return f"{covered}: says little from step {budget['blunt_from']} on"
    return f"resolves {100 * budget['sharpness']:.2g} % of the distance moved"


def _line(panel: Axes, values: Sequence[float | None], color: str, mark: str, label: str | None) -> None:
    shown = _shown(values)
    every = max(1, len(shown) // MARKED)
    start = every * MARKS.index(mark) // len(MARKS)  # lines lie on each other: marks take turns
    panel.plot(range(1, len(shown) + 1), shown, color=color, marker=mark, markevery=(start, every), markersize=4,
               linewidth=1.2, alpha=0.9, label=label)  # fmt: skip


def _mark(panel: Axes, step: int, height: float, left: Mapping[str, Any]) -> None:
    panel.plot([step], [height], color="#D00000", marker="x", markersize=9, markeredgewidth=2, linestyle="none")
    panel.annotate(
        f"step {left['step']}: {left['parameter']}", (step, height), xytext=(8, 4), textcoords="offset points",
        fontsize=7, color="#D00000",
    )  # fmt: skip


def _shown(values: Sequence[float | None]) -> list[float]:
    """On a logarithmic axis: nothing is drawn at the bottom, and what is not finite not at all."""
    return [math.nan if value is None or not math.isfinite(value) else max(value, LEAST) for value in values]
