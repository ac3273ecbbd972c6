"""A plan as aligned plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lrdiff_core.rates.entry import PlanEntry

__all__ = ["plan_table"]

WIDTH = 100  # columns at most, where the names leave a choice
_HEADINGS = ("parameter", "shape", "rule", "rate", "decay", "frozen", "tied with")
_RIGHT = {3, 4}


def plan_table(entries: Sequence[PlanEntry], frozen: Collection[str], groups: int) -> str:
    """One row a parameter, the columns as wide as their content; long names lose their middle.

    Args:
        entries: the rows.
        frozen: names to mark as frozen.
        groups: how many optimizer groups they make, for the last line.
    """
    rows = [_cells(entry, entry.name in frozen) for entry in entries]
    widths = [max(len(row[i]) for row in [_HEADINGS, *rows]) for i in range(len(_HEADINGS))]
    gaps = 2 * (len(widths) - 1)
    for column, least in ((6, 12), (2, 12), (0, 24)):  # shorten ties first, then rules, then names
        excess = sum(widths) + gaps - WIDTH
        if excess > 0:
            widths[column] = max(min(widths[column], least), widths[column] - excess)
    lines = [_line(_HEADINGS, widths), *(_line(row, widths) for row in rows)]
    still = f", {len(frozen)} frozen" if frozen else ""
    return "\n".join([*lines, f"{_count(len(entries), 'parameter')} in {_count(groups, 'group')}{still}"])


def _cells(entry: PlanEntry, frozen: bool) -> tuple[str, ...]:
    shape = "x".join(str(size) for size in entry.shape) or "scalar"
    tied = ", ".join(entry.tied) or "-"
    rule = entry.rule or "-"
    return (entry.name, shape, rule, f"{entry.lr:.4g}", f"{entry.weight_decay:.4g}", "yes" if frozen else "-", tied)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = _shortened(cell, width)
        parts.append(text.rjust(width) if i in _RIGHT else text.ljust(width))
    return "  ".join(parts).rstrip()


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
