"""Curves drawn with braille dots, for a terminal or a log file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

__all__ = ["draw_curves"]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # Unicode braille, [row][column] of a 4 x 2 cell
_MARKS = "●○▲△■□"


def draw_curves(
    curves: Mapping[str, Sequence[float]], *, width: int = 60, height: int = 10, x_label: str = "epoch"
) -> str:
    """Draw curves that share their x values 1, 2, ..., n; each point is marked, the line between is dotted.

    Args:
        curves: name to y values; values that are not finite are left out.
        width: columns of the plotting area.
        height: lines of the plotting area.
        x_label: what x counts.

    Example:
        >>> print(draw_curves({"loss": [0.8, 0.4, 0.2]}, width=12, height=3))
           0.80 ┤●⠢⢄
                │   ⠉⠒⠤●
           0.20 ┤       ⠉⠑⠢⠤●
                └────────────
                 1          3
                 epoch   ● loss
    """
    finite = [y for ys in curves.values() for y in ys if math.isfinite(y)]
    if not finite:
        return "no finite value to draw"
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    count = max(len(ys) for ys in curves.values())
    rows, columns = 4 * height, 2 * width

    def place(index: int, y: float) -> tuple[int, int]:  # dot column, dot row
        across = 0 if count == 1 else round(index * (columns - 1) / (count - 1))
        return across, round((high - y) / span * (rows - 1))

    dots = [[0] * width for _ in range(height)]
    marks: dict[tuple[int, int], str] = {}
    for curve, ys in enumerate(curves.values()):
        points = [place(i, y) for i, y in enumerate(ys) if math.isfinite(y)]
        for (x0, y0), (x1, y1) in pairwise(points):
            for x in range(x0, x1 + 1):
                y = round(y0 + (y1 - y0) * (x - x0) / max(1, x1 - x0))
                dots[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        for x, y in points:
            marks.setdefault((y // 4, x // 2), _MARKS[curve % len(_MARKS)])
    lines = []
    for i in range(height):
        label = f"{high:#7.2g} ┤" if i == 0 else f"{low:#7.2g} ┤" if i == height - 1 else " " * 8 + "│"
        cells = (marks.get((i, j)) or (chr(0x2800 + bits) if bits else " ") for j, bits in enumerate(dots[i]))
        lines.append(label + "".join(cells).rstrip())
    legend = "  ".join(f"{_MARKS[i % len(_MARKS)]} {name}" for i, name in enumerate(curves))
    ends = "1" if count == 1 else "1" + str(count).rjust(width - 1)
    lines += [" " * 8 + "└" + "─" * width, f"{' ' * 9}{ends}", f"{' ' * 9}{x_label}   {legend}"]
    return "\n".join(lines)
