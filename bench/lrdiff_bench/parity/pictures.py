"""Pictures of a parity check, PNG and SVG: the matrix as a coloured table, and the error by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lrdiff_bench.report.figures import save_figure
from lrdiff_bench.report.parity_table import SHORT, eps

__all__ = ["draw_layers", "draw_matrix"]

# From Okabe and Ito's colours; every cell also says in words what it is.
FILLS = {"differs": "#E8A27C", "refused": "#F0E0A0", "unavailable": "#F4F4F4"}
AGREES = ("#DCEBF5", "#9CC7E3")  # far from the budget, near to it
INK = "#222222"
# One line a family: levels of one runtime would lie on each other.
LINES: dict[str, tuple[str, Any, str]] = {
    "eager": ("#0072B2", "-", "o"),
    "onnxruntime": ("#D55E00", "--", "s"),
    "onnx-reference": ("#666666", (0, (1, 1.5)), "D"),
    "openvino": ("#009E73", "-.", "^"),
    "onnxruntime-web": ("#CC79A7", (0, (5, 1.5)), "v"),
    "eager-bf16": ("#56B4E9", "-", "P"),
    "openvino-default": ("#E69F00", "-.", "X"),
    "cuda": ("#000000", "-", "*"),
    "cuda-tf32": ("#000000", "--", "p"),
    "cuda-bf16": ("#000000", ":", "h"),
    "mps": ("#8B4513", "-", "d"),
}


def draw_matrix(stem: Path, models: Mapping[str, dict[str, Any]], title: str) -> None:
    """Draw backends against models, error of allowed in each cell, into ``stem.png`` and ``stem.svg``.

    Args:
        stem: where to, without ending.
        models: reports by name.
        title: above it.
    """
    results = [report["results"] for report in models.values()]
    shown = [i for i in range(len(results[0])) if any(column[i]["status"] != "unavailable" for column in results)]
    height, left, width = len(shown), 2.9, 1.9
    figure = Figure(figsize=(left + width * len(models), 0.34 * height + 1.0), layout="constrained")
    panel = figure.subplots()
    for y, i in enumerate(shown):
        dtypes = "/".join(dict.fromkeys(SHORT[column[i]["dtype"]] for column in results))
        panel.text(-0.06, y, f"{results[0][i]['backend']}   {dtypes}", ha="right", va="center", fontsize=9, color=INK)
        for x, column in enumerate(results):
            row = column[i]
            panel.add_patch(Rectangle((x, y - 0.46), 0.98, 0.92, facecolor=_fill(row), edgecolor="none"))
            panel.text(x + 0.49, y, _words(row), ha="center", va="center", fontsize=9, color=INK)
    for x, (name, report) in enumerate(models.items()):
        panel.text(x + 0.49, -0.75, f"{name}, {report['rows']} rows", ha="center", va="center", fontsize=9, color=INK)
    panel.set_xlim(-left / width, len(models))
    panel.set_ylim(height - 0.4, -1.2)
    panel.axis("off")
    panel.set_title(title, fontsize=10)
    save_figure(figure, stem)


def _fill(row: Mapping[str, Any]) -> str:
    if row["status"] != "agrees":
        return FILLS[row["status"]]
    return AGREES[1] if row["tolerance"] and row["max_error"] > row["tolerance"] / 2 else AGREES[0]


def _words(row: Mapping[str, Any]) -> str:
    if row["status"] in ("refused", "unavailable"):
        return str(row["status"])
    words = f"{eps(row['max_error'])} of {eps(row['tolerance'])}"
    if row["status"] == "differs":
        return f"differs: {words}"
    # Where the error says more than the dtype does.
    arithmetic = None if row["dtype"] in (row["arithmetic"] or "") else row["arithmetic"]
    return (
        words
        if arithmetic in (None, "float32")
        else f"{words}, {'/'.join(SHORT.get(one, one) for one in arithmetic.split(' or '))}"
    )


def draw_layers(stem: Path, models: Mapping[str, list[dict[str, Any]]], title: str) -> None:
    """Draw each layer's error on each backend, one panel a model, into ``stem.png`` and ``stem.svg``.

    Args:
        stem: where to, without ending.
        models: by name, what :func:`lrdiff_export.parity.layers.layer_errors` found, as dictionaries.
        title: above it.
    """
    figure = Figure(figsize=(max(5.0, 3.3 * len(models)), 4.6), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, (name, found) in zip(panels, models.items(), strict=True):
        layers: list[str] = next((list(one["layers"]) for one in found if one["layers"]), [])
        for one in found:
            if one["backend"] in LINES and one["errors"]:
                color, dashes, mark = LINES[one["backend"]]
                # An exact layer has no place on a logarithmic axis.
                errors = [None if error is None else max(error, 0.05) for error in one["errors"]]
                panel.plot(
                    range(len(errors)), errors, color=color, linestyle=dashes, marker=mark, markersize=4.5,
                    linewidth=1.3, label=one["backend"],
                )  # fmt: skip
        panel.set_yscale("log")
        labels = [label.replace(" (", "\n(") for label in layers]
        panel.set_xticks(range(len(layers)), labels, rotation=90, fontsize=7)
        panel.set_title(name, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
        for level, words in ((1, "eps of fp32"), (2.0**13, "of tf32, fp16"), (2.0**16, "of bf16")):
            panel.axhline(level, color=INK, linewidth=0.6, alpha=0.5)
            if panel is panels[0]:
                panel.annotate(words, (0, level), xytext=(2, 2), textcoords="offset points", fontsize=7, color=INK)
    panels[0].set_ylabel("error of the layer's output (float32 eps)")
    handles = {label: one for panel in panels for one, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, stem)
