"""A plan as aligned plain text, blocks that are equal but for their rates folded into one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lrdiff_core.rates.plan.entry import PlanEntry

__all__ = ["FOLD_ABOVE", "WIDTH", "Row", "plan_table", "rows_of"]

WIDTH = 100  # columns at most, where the names leave a choice
FOLD_ABOVE = 32  # parameters: about what a screen shows
_FEWEST_BLOCKS = 3  # that are worth folding


@dataclass(frozen=True)
class Row:
    """One line of the table: a parameter, or the same one of several blocks.

    Args:
        name: where blocks are folded, ``{0..11}`` stands for their numbers.
        entry: of the first block.
        frozen: whether the parameter is frozen.
        rates: in order.
    """

    name: tuple[str, ...]
    entry: PlanEntry
    frozen: bool
    rates: tuple[float, ...]

    @property
    def kind(self) -> tuple[object, ...]:
        """What has to agree for two rows to be folded: everything but the rate and the block's number."""
        entry = self.entry
        return (entry.shape, entry.rule, entry.weight_decay, self.frozen, entry.tied, entry.schedule, entry.options)


class _Cells(NamedTuple):
    parameter: str
    shape: str
    rule: str
    rate: str
    decay: str
    frozen: str
    tied: str


_HEADINGS = _Cells("parameter", "shape", "rule", "rate", "decay", "frozen", "tied with")
_RIGHT = ("rate", "decay")
_EMPTY_FIRST = ("frozen", "rule", "tied")  # columns that go where they say nothing
_SHORTEN_FIRST = (("tied", 12), ("rule", 12), ("parameter", 24))  # and how far


def rows_of(entries: Iterable[PlanEntry], frozen: Collection[str], *, fold: bool) -> list[Row]:
    """One row a parameter; folded, numbered siblings with the same rows become one.

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import param_groups
        >>> plan = param_groups(nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)]))
        >>> [".".join(row.name) for row in rows_of(plan, (), fold=True)]
        ['{0..3}.weight', '{0..3}.bias']
    """
    rows = [Row(tuple(entry.name.split(".")), entry, entry.name in frozen, (entry.lr,)) for entry in entries]
    return _folded(rows) if fold else rows


def plan_table(rows: Sequence[Row], *, notes: Sequence[str], groups: int, width: int = WIDTH) -> str:
    """The columns as wide as their content; on a narrow screen long names lose their middle.

    Args:
        rows: see :func:`rows_of`.
        notes: lines to stand below.
        groups: how many optimizer groups the parameters make, for the last line.
        width: columns of the screen; the numbers and 24 letters of each name are shown on any.
    """
    cells = [_HEADINGS, *map(_cells, rows)]
    widths = {column: max(len(getattr(one, column)) for one in cells) for column in _Cells._fields}
    columns = list(_Cells._fields)

    def excess() -> int:
        return sum(widths[column] for column in columns) + 2 * (len(columns) - 1) - width

    # Where it is too wide, columns that say nothing go first; then ties are shortened, then rules, then names.
    for column in _EMPTY_FIRST:
        if excess() > 0 and {getattr(one, column) for one in cells[1:]} == {"-"}:
            columns.remove(column)
    for column, least in _SHORTEN_FIRST:
        if column in columns and excess() > 0:
            widths[column] = max(min(widths[column], least), widths[column] - excess())
    count = sum(len(row.rates) for row in rows)
    still = sum(len(row.rates) for row in rows if row.frozen)
    last = f"{_count(count, 'parameter')} in {_count(groups, 'group')}" + (f", {still} frozen" if still else "")
    if count > len(rows):
        last += "; equal blocks folded, plan.table(full=True) shows every row"
    lines = [_line(one, widths, columns) for one in cells]
    return "\n".join([*lines, *map(_printable, notes), last])


def _folded(rows: Sequence[Row], depth: int = 0) -> list[Row]:
    """Rows that agree in their first ``depth`` components, folded at this depth and below."""
    parts: dict[str, list[Row]] = {}  # by the component at this depth, in order
    for row in rows:
        parts.setdefault(row.name[depth], []).append(row)
    runs: list[dict[str, list[Row]]] = []  # blocks with the same rows and numbers that follow each other
    for component, below in parts.items():
        is_module = all(len(row.name) > depth + 1 for row in below)
        inside = _folded(below, depth + 1) if is_module else below
        last, before = next(reversed(runs[-1].items()), ("", [])) if runs else ("", [])
        follows = component.isdecimal() and last.isdecimal() and int(component) == int(last) + 1
        if follows and _agree(before, inside, depth + 1):
            runs[-1][component] = inside
        else:
            runs.append({component: inside})
    out: list[Row] = []
    for run in runs:
        if len(run) < _FEWEST_BLOCKS:
            out += [row for inside in run.values() for row in inside]
            continue
        first, *_, last = run
        for same in zip(*run.values(), strict=True):
            name = (*same[0].name[:depth], f"{{{first}..{last}}}", *same[0].name[depth + 1 :])
            out.append(replace(same[0], name=name, rates=tuple(rate for row in same for rate in row.rates)))
    return out


def _agree(one: Sequence[Row], other: Sequence[Row], depth: int) -> bool:
    """Whether two blocks have the same rows, from ``depth`` on."""
    return [(row.name[depth:], row.kind) for row in one] == [(row.name[depth:], row.kind) for row in other]


def _cells(row: Row) -> _Cells:
    entry = row.entry
    cells = _Cells(
        parameter=".".join(row.name),
        shape="x".join(str(size) for size in entry.shape) or "scalar",
        rule=entry.rule or "-",
        rate=_range(row.rates),
        decay=f"{entry.weight_decay:.4g}",
        frozen="yes" if row.frozen else "-",
        tied=", ".join(entry.tied) or "-",
    )
    return _Cells(*map(_printable, cells))


def _range(rates: Sequence[float]) -> str:
    """``0.001``, or the rates of the first and the last block (of the slowest and the fastest, in no order)."""
    low, high = min(rates), max(rates)
    if low == high:
        return f"{low:.4g}"
    ends = (rates[0], rates[-1]) if {rates[0], rates[-1]} == {low, high} else (low, high)
    return "..".join(f"{rate:.4g}" for rate in ends)


def _printable(text: str) -> str:
    """Names come from models, and a terminal obeys the control characters in them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _line(cells: _Cells, widths: dict[str, int], columns: Sequence[str]) -> str:
    texts = {column: _shortened(getattr(cells, column), widths[column]) for column in columns}
    aligned = (t.rjust(widths[c]) if c in _RIGHT else t.ljust(widths[c]) for c, t in texts.items())
    return "  ".join(aligned).rstrip()


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 2) // 2
    return f"{text[:head]}..{text[len(text) - (width - 2 - head) :]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
