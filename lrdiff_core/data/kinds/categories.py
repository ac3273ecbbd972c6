"""Columns of text: categories, ids, prose."""

from __future__ import annotations

from lrdiff_core.data.kinds.cells import Cells
from lrdiff_core.data.spec import ColumnKind, ColumnSpec
from lrdiff_core.text import count

__all__ = ["category", "texts"]

MOST_CATEGORIES = 100  # of one column that get an indicator; rarer ones share code 0
FEW_CATEGORIES = 20  # so many texts are categories, however few rows there are
LEAST_COVER = 0.1  # of the rows that the most common categories must make up
LONGEST_ID = 40  # characters on average; beyond, a text that never repeats is prose


def texts(cells: Cells) -> list[ColumnSpec]:
    """Categories, ids or prose."""
    _settle(cells)
    known, different = cells.known, len(cells.distinct)
    if different == known and known > 2 and known > len(cells.texts) / 2:
        long = sum(map(len, cells.distinct)) / different > LONGEST_ID
        kind: ColumnKind = "text" if long else "id"
        return [ColumnSpec(name=cells.name, kind=kind, rule=f"{different} texts, all different")]
    if different <= FEW_CATEGORIES or (different <= MOST_CATEGORIES and different <= known / 2):
        return [category(cells, count(different, "text"))]
    if different <= known / 2:
        spec = category(cells, "")
        if cells.texts.is_in(list(spec.categories)).sum() >= LEAST_COVER * known:
            return [category(cells, f"the {MOST_CATEGORIES} most common of {different} texts")]
    return [ColumnSpec(name=cells.name, kind="text", rule=f"{different} different texts in {known} rows")]


def category(cells: Cells, rule: str) -> ColumnSpec:
    """A column of names: its texts, or the most common of many."""
    _settle(cells)
    counts = cells.texts.drop_nulls().value_counts()
    found = sorted(counts.iter_rows(), key=lambda row: (-row[1], row[0]))
    if len(found) > MOST_CATEGORIES and "most common" not in rule:
        rule = f"{rule}; the {MOST_CATEGORIES} most common of {len(found)}"
    return ColumnSpec(
        name=cells.name, kind="category", categories=tuple(sorted(row[0] for row in found[:MOST_CATEGORIES])), rule=rule
    )


def _settle(cells: Cells) -> None:
    """Where only one text would be left, "-" may be one of two, as "+" is."""
    if len(cells.distinct) < 2:
        cells.with_loose_words()
