"""What the columns of a table were taken for, and what the model makes of them, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.report.tables import label, number
from lrdiff_core.data.kinds.dates import day_text

__all__ = ["columns_text", "encoding_text", "row_text"]

MOST_NAMES = 8  # of one kind
KINDS = ("number", "boolean", "category", "date", "time")


def columns_text(columns: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a paragraph a kind of column, with the rules taken; none where all are plain numbers.

    Args:
        columns: of the model, as :meth:`lrdiff_core.ColumnSpec.to_dict` gives them.
        left_out: the others.

    Example:
        >>> from lrdiff_core.data import ColumnSpec
        >>> columns_text([ColumnSpec(name="a", kind="category", rule="2 texts").to_dict()], [])
        ['category: a (2 texts)']
    """
    times = {column["source"] for column in columns}
    columns = [column for column in columns if not column["source"]]
    plain = all(_is_plain(column) for column in columns)
    said = []
    for kind in () if plain else KINDS:
        named = [column for column in columns if column["kind"] == kind]
        ruled = sorted(named, key=_is_plain)  # what needs a word first
        texts = [_named(column, ", with the time of day" if column["name"] in times else "") for column in ruled]
        if texts:
            said.append(f"{kind}: {_listed(texts)}")
    if others := [column for column in left_out if column["kind"] != "text"]:  # prose is warned of
        said.append(f"left out: {_listed([_named(column) for column in others])}")
    return said


def encoding_text(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the model makes of columns that are no plain numbers, a sentence each."""
    kinds = {column["kind"] for column in columns}
    said = []
    if "category" in kinds:
        said.append("a category becomes a column of 0 and 1; all are 0 where it is missing or was not met in training")
    if "date" in kinds:
        said.append("a date becomes days since 1970, and sine and cosine of its place in the week and in the year")
    if "time" in kinds:
        said.append("a time becomes sine and cosine of its place in the day, in UTC")
    if any(column["flags_missing"] for column in columns):
        names = [label(column["name"]) for column in columns if column["flags_missing"]]
        said.append(f"a column of 0 and 1 more says where a value is missing: {_listed(names)}")
    return said


def row_text(values: Sequence[float | None], columns: Sequence[Mapping[str, Any]]) -> str:
    """Return one raw row, categories and dates by name, in the middle shortened.

    Example:
        >>> from lrdiff_core.data import ColumnSpec
        >>> team = ColumnSpec(name="team", kind="category", categories=("north", "south"))
        >>> row_text([2.0, 0.5], [team.to_dict(), ColumnSpec(name="pay").to_dict()])
        '[south, 0.5]'
    """
    shown = [_value(value, column) for value, column in zip(values, columns, strict=True)]
    return f"[{', '.join(shown if len(shown) <= 5 else [*shown[:4], '...', shown[-1]])}]"


def _value(value: float | None, column: Mapping[str, Any]) -> str:
    if column["kind"] == "category":
        return label(column["categories"][int(value) - 1]) if value else "none"
    if value is None or value != value:
        return "missing"
    if column["kind"] == "time":
        return f"{int(value) // 3600:02d}:{int(value) // 60 % 60:02d}"
    return day_text(value) if column["kind"] == "date" else number(value, ".3g")


def _is_plain(column: Mapping[str, Any]) -> bool:
    return column["kind"] == "number" and column["rule"] in ("", "numbers")


def _named(column: Mapping[str, Any], more: str = "") -> str:
    rule = "" if _is_plain(column) else f" ({column['rule']}{more})"
    return label(column["name"]) + rule


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - MOST_NAMES
    return ", ".join(texts[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
