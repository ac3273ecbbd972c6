"""A plan as aligned plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lrdiff_core.rates.entry import PlanEntry

__all__ = ["WIDTH", "plan_table"]

WIDTH = 100  # columns at most, where the names leave a choice
_HEADINGS = ("parameter", "shape", "rule", "rate", "decay", "frozen", "tied with")
_NAME, _RULE, _FROZEN, _TIED = (_HEADINGS.index(word) for word in ("parameter", "rule", "frozen", "tied with"))
_RIGHT = {3, 4}


def plan_table(entries: Sequence[PlanEntry], frozen: Collection[str], groups: int, width: int = WIDTH) -> str:
    """One row a parameter, the columns as wide as their content; on a narrow screen long names lose their middle.

    Args:
        entries: the rows.
        frozen: names to mark as frozen.
        groups: how many optimizer groups they make, for the last line.
        width: columns of the screen; the numbers and 24 letters of each name are shown on any.
    """
    rows = [_HEADINGS, *(_cells(entry, entry.name in frozen) for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    shown = list(range(len(_HEADINGS)))

    def excess() -> int:
        return sum(widths[i] for i in shown) + 2 * (len(shown) - 1) - width

    # Where it is too wide, columns that say nothing go first; then ties are shortened, then rules, then names.
    for column in (_FROZEN, _RULE, _TIED):
        if excess() > 0 and {row[column] for row in rows[1:]} == {"-"}:
            shown.remove(column)
    for column, least in ((_TIED, 12), (_RULE, 12), (_NAME, 24)):
        if column in shown and excess() > 0:
            widths[column] = max(min(widths[column], least), widths[column] - excess())
    lines = [_line(row, widths, shown) for row in rows]
    still = f", {len(frozen)} frozen" if frozen else ""
    return "\n".join([*lines, f"{_count(len(entries), 'parameter')} in {_count(groups, 'group')}{still}"])


def _cells(entry: PlanEntry, frozen: bool) -> tuple[str, ...]:
    shape = "x".join(str(size) for size in entry.shape) or "scalar"
    tied = ", ".join(entry.tied) or "-"
    rule = entry.rule or "-"
    return (entry.name, shape, rule, f"{entry.lr:.4g}", f"{entry.weight_decay:.4g}", "yes" if frozen else "-", tied)


def _line(cells: Sequence[str], widths: Sequence[int], shown: Sequence[int]) -> str:
    texts = {i: _shortened(cells[i], widths[i]) for i in shown}
    return "  ".join(t.rjust(widths[i]) if i in _RIGHT else t.ljust(widths[i]) for i, t in texts.items()).rstrip()


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
