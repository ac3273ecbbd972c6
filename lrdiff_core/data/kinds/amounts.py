"""Columns of numbers: plain, written as people write them, or said to be some; an index; text among numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from lrdiff_core.data.columns import boolean_words
from lrdiff_core.data.kinds.categories import category
from lrdiff_core.data.kinds.cells import Cells, has_digit, on_command_line, one_odd_word
from lrdiff_core.data.kinds.numbers import find_number_format, parse_number
from lrdiff_core.data.spec import ColumnSpec
from lrdiff_core.errors import DataError
from lrdiff_core.text import count, listed, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["index_or_number", "numbers", "plain_numbers", "said_numbers"]

FEWEST_INDEX_ROWS = 20  # in fewer rows, 1, 2, 3, ... may well be a measurement
FEW_TEXTS = 20  # so many different texts with numbers among them may well be names
_ID_NAME = re.compile(r"(?i:(^|[^a-z])(id|idx|index|uuid|guid|row ?names?|row ?id|unnamed: 0)$)|[a-z0-9]I[dD]$")
_ZEROS = r"^\s*[+-]?0\d+\s*$"


def index_or_number(column: pl.Series, numbers: pl.Series) -> ColumnSpec:
    """A column of plain numbers, or an index of the rows."""
    name, rows = column.name, len(column)
    plain = ColumnSpec(name=name, rule="numbers")
    if rows < FEWEST_INDEX_ROWS or numbers.null_count():
        return plain
    values = numbers.to_numpy()
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        return plain
    for first in (0, 1):
        if values[0] == first and (values == np.arange(first, first + rows)).all():
            return ColumnSpec(name=name, kind="index", rule=f"counts the rows from {first}")
    if _ID_NAME.search(name) and len(np.unique(values)) == rows:
        return ColumnSpec(name=name, kind="id", rule="whole numbers, all different, under the name of an id")
    return plain


def plain_numbers(column: pl.Series) -> list[ColumnSpec] | None:
    """Text of nothing but plain numbers: most columns, and of wide tables there are thousands."""
    import polars as pl

    if column.dtype != pl.String:
        return None
    found = column.cast(pl.Float64, strict=False)
    if found.null_count():
        return None
    values = found.to_numpy()
    whole = values == np.floor(values)
    if not np.isfinite(values).all() or (whole.any() and column.str.contains(_ZEROS).any()):
        return None
    return [index_or_number(column, found) if whole.all() else ColumnSpec(name=column.name, rule="numbers")]


def numbers(column: pl.Series, cells: Cells) -> list[ColumnSpec] | None:
    """Text of numbers, however they are written, with gaps; None for any other text.

    Raises:
        DataError: numbers with slips among them, or written in more than one way.
    """
    import polars as pl

    plain = cells.texts.cast(pl.Float64, strict=False)
    words = plain.is_null() & cells.texts.is_not_null()
    if not words.any():
        if cells.texts.str.contains(_ZEROS).any():  # a code such as 01234, which is another one than 1234
            return [category(cells, "whole numbers with zeros in front: codes")]
        found = find_number_format(cells.distinct, decimal_commas=True) if cells.decimal_commas else None
        if found is not None and _only_thousands(cells.texts):
            return [ColumnSpec(name=cells.name, format=found[0], rule=found[1])]
        return [index_or_number(column, plain)]
    if (
        plain.null_count() - cells.texts.null_count() < cells.known
        and not (words & boolean_words(cells.texts).is_null()).any()
    ):
        return [ColumnSpec(name=cells.name, rule="numbers, true is 1 and false is 0")]
    return _written(cells)


def _only_thousands(texts: pl.Series) -> bool:
    """Whether every point stands before a last group of three digits, and some do: 1.234 beside decimal commas."""
    points = texts.filter(texts.str.contains(".", literal=True))
    return len(points) > 0 and bool(points.str.contains(r"^[+-]?[1-9]\d{0,2}\.\d{3}$").all())


def _written(cells: Cells) -> list[ColumnSpec] | None:
    found = find_number_format(cells.distinct, decimal_commas=cells.decimal_commas)
    if found is not None:
        return [ColumnSpec(name=cells.name, format=found[0], rule=found[1])]
    if not any(has_digit(text) for text in cells.distinct[:1000]):
        return None
    odd = one_odd_word(cells)
    if odd is not None:
        rest = [text for text in cells.distinct if text != odd]
        found = find_number_format(rest, decimal_commas=cells.decimal_commas)
        if found is not None:
            form = "plain" if found[0] == "point" and all(_is_plain(text) for text in rest) else found[0]
            rule = f"numbers; {quoted(odd)} is taken for missing"
            return [ColumnSpec(name=cells.name, format=form, missing=(odd,), rule=rule)]
    _refuse_mixture(cells)
    return None


def _refuse_mixture(cells: Cells) -> None:
    """Numbers with a slip among them are no categories."""
    forms = ("point", "comma", "point %", "comma %")
    fits = [any(parse_number(text, form) is not None for form in forms) for text in cells.distinct]
    if len(cells.distinct) <= FEW_TEXTS or sum(fits) < len(fits) / 2:
        return
    odd = {text for text, fit in zip(cells.distinct, fits, strict=True) if not fit}
    if not odd:
        raise DataError(
            f"column {quoted(cells.name)} of {cells.source} holds numbers that are written in more than one way: "
            f"{listed(sorted(cells.distinct, key=len, reverse=True)[:3])}",
            help=f"write them in one way, or leave the column out: --drop {on_command_line(cells.name)}",
        )
    at = np.flatnonzero(cells.texts.is_in(list(odd)).fill_null(False).to_numpy())
    name = on_command_line(cells.name)
    raise DataError(
        f"column {quoted(cells.name)} of {cells.source} holds numbers, and text in {count(at.size, 'row')}: "
        f"{quoted(cells.texts[int(at[0])])} in row {at[0] + 1}",
        help=f"correct it, or say what the column is: --numeric {name} takes text for missing, "
        f"--categorical {name} takes all for names, --drop {name} leaves it out",
    )


def _is_plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def said_numbers(cells: Cells) -> ColumnSpec:
    """A column that somebody said is of numbers: text among them is missing."""
    import polars as pl

    form, rule = "plain", "numbers, as you said"
    if cells.texts.cast(pl.Float64, strict=False).null_count() > cells.texts.null_count():
        rest = [text for text in cells.distinct if has_digit(text)]
        found = find_number_format(rest, decimal_commas=cells.decimal_commas)
        if found is not None and not all(_is_plain(text) for text in rest):
            form, rule = found[0], f"{found[1]}, as you said"
    return ColumnSpec(name=cells.name, format=form, lenient=True, rule=rule)
