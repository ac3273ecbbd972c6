"""The picture of a range test, PNG and SVG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lrdiff_bench.report.figures import STYLES, save_figure
from lrdiff_core.errors import RateError
from lrdiff_core.lr_find import RateCurve

__all__ = ["draw_lr_find"]

COLUMNS = 3  # panels beside each other


def draw_lr_find(
    folder_or_path: str | os.PathLike[str],
    curves: RateCurve | Sequence[RateCurve],
    *,
    names: Sequence[str] | None = None,
    how: str = "minimum",
    title: str = "Range test",
) -> Path:
    """Draw loss against rate on a log axis, one panel a curve, as PNG and SVG.

    Every panel shows the loss of each step, its running mean, and where there is one the suggestion.

    Args:
        folder_or_path: the folder, for ``lr_find.png`` and ``lr_find.svg`` in it; or a path that ends in ``.png`` or
            ``.svg``, for both beside each other under that name.
        curves: from :func:`lrdiff_core.lr_find.lr_find` (one) or ``lr_find_each`` (one a group).
        names: of the panels; left out, ``all rates`` or ``group 0`` and so on.
        how: which suggestion is marked, as for :meth:`~lrdiff_core.lr_find.RateCurve.suggest`.
        title: of the picture.

    Returns:
        The path of the PNG.

    Raises:
        InputError: the folder cannot be written.
        RateError: there is nothing to draw.
    """
    shown = [curves] if isinstance(curves, RateCurve) else list(curves)
    if not shown:
        raise RateError("there is no curve to draw", help="pass what lr_find or lr_find_each returned")
    given = Path(folder_or_path)
    stem = given.with_suffix("") if given.suffix in (".png", ".svg") else given / "lr_find"
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(max(6.0, 4.2 * columns), 3.2 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for number, (panel, curve) in enumerate(zip(panels, shown, strict=False)):
        name = names[number] if names is not None else "all rates" if curve.group is None else f"group {curve.group}"
        _draw(panel, curve, name, how)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, stem)
    return stem.with_suffix(".png")


def _draw(panel: Any, curve: RateCurve, name: str, how: str) -> None:
    (color, dashes), (gray, _), (mark, mark_dashes) = STYLES[0], STYLES[1], STYLES[3]
    smoothed = not np.array_equal(curve.losses, curve.smooth)
    if smoothed:
        panel.plot(curve.rates, curve.losses, color=gray, linewidth=0.8, alpha=0.8, label="loss of each step")
    label = "running mean" if smoothed else "loss"
    panel.plot(curve.rates, curve.smooth, color=color, linestyle=dashes, linewidth=2, label=label)
    try:
        rate = curve.suggest(how)
    except RateError:  # a curve without a fall is still worth a look
        panel.set_title(f"{name}: no suggestion, the loss never fell", fontsize=10)
    else:
        panel.axvline(rate, color=mark, linestyle=mark_dashes, linewidth=1.2)
        height = np.interp(np.log(rate), np.log(curve.rates), curve.smooth)
        label = "steepest fall" if how == "steepest" else "a tenth of the lowest loss's rate"
        panel.plot([rate], [height], "o", color=mark, label=label)
        panel.set_title(f"{name}: {rate:.2g}", fontsize=10)
    # A loss that leaves the sweep reaches any height; what is read is where it falls.
    low, high = min(curve.losses.min(), curve.smooth.min()), curve.smooth[: curve.smooth.argmin() + 1].max()
    if high > low:
        panel.set_ylim(low - 0.05 * (high - low), high + 0.3 * (high - low))
    panel.set_xscale("log")
    panel.set_xlabel("learning rate" if curve.group is not None else "largest learning rate (ratios kept)")
    panel.set_ylabel("loss")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=8)
