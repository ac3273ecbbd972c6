"""Feature columns to numbers, with an account of every value that is missing, infinite or too large."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from lrdiff_core.errors import DataError
from lrdiff_core.text import count, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "BOOLEAN_WORDS",
    "LOOSE",
    "MISSING",
    "Column",
    "as_column",
    "as_text",
    "boolean_words",
    "describe_faults",
    "known_texts",
    "read_numbers",
    "read_strings",
    "refuse_type",
    "refuse_text",
    "fault_text",
]

MISSING = ("", "na", "n/a", "null", "nan")
"""How a missing value is written, in capitals or not, with spaces around it or not."""

LOOSE = ("none", "?", "-", "--", ".", "n.a.", "#n/a", "<na>", "nat")
"""What else is a missing value, but for a target, and where nothing else would be left than one text."""

BOOLEAN_WORDS = (("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("on", "off"))
"""Pairs of words for 1 and 0, in capitals or not."""

_SHOWN = 3  # columns named in one message


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of numbers: float64 [rows], NaN where missing, and float32 [rows], what the model sees."""

    name: str
    exact: np.ndarray
    values: np.ndarray

    @property
    def bad(self) -> np.ndarray:
        """Whether a value is not a finite float32, bool [rows]."""
        bad: np.ndarray = ~np.isfinite(self.values)
        return bad

    def faults(self) -> str:
        """Each kind of bad value with its count and first row, counted from 1; empty if there is none."""
        missing, infinite = np.isnan(self.exact), np.isinf(self.exact)
        large = self.bad & ~missing & ~infinite
        first = self.exact[np.flatnonzero(large)[:1]]
        kinds = [
            fault_text(missing, "missing"),
            fault_text(infinite, "infinite"),
            fault_text(large, "too large for float32", "".join(f"{value:g} in " for value in first)),
        ]
        return ", ".join(kind for kind in kinds if kind)


def fault_text(mask: np.ndarray, word: str, value: str = "") -> str:
    """How many rows of ``mask``, bool [rows], are set, and the first, counted from 1; empty if none is.

    Example:
        >>> fault_text(np.array([False, True, True]), "missing"), fault_text(np.array([True]), "infinite")
        ('2 missing (first in row 2)', '1 infinite (row 1)')
    """
    rows = np.flatnonzero(mask) + 1
    if not rows.size:
        return ""
    lead = "" if rows.size == 1 else "first " if value else "first in "
    return f"{rows.size} {word} ({lead}{value}row {rows[0]})"


def read_strings(column: pl.Series) -> pl.Series:
    """A column of strings with spaces around them cut off and null for every way to write a missing value."""
    bare = column.str.strip_chars()
    return bare.set(bare.str.to_lowercase().is_in(MISSING), None)


def boolean_words(strings: pl.Series) -> pl.Series:
    """1.0 for true, 0.0 for false, in capitals or not; null for anything else."""
    import polars as pl

    return strings.str.to_lowercase().replace_strict({"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64)


def as_text(column: pl.Series) -> pl.Series:
    """Any column as texts without spaces around them, null where there is no value; whole numbers without a point.

    Example:
        >>> import polars as pl
        >>> as_text(pl.Series([1.0, 2.5, None])).to_list(), as_text(pl.Series([True])).to_list()
        (['1', '2.5', None], ['true'])
    """
    import polars as pl

    if column.dtype == pl.Duration:
        column = column.dt.total_microseconds() / 1e6
    if column.dtype.is_float():
        column = column.fill_nan(None)
        known = column.drop_nulls().to_numpy()
        if np.isfinite(known).all() and (known % 1 == 0).all() and (np.abs(known) < 2.0**53).all():
            column = column.cast(pl.Int64)
        else:
            texts = [None if one is None else repr(int(one) if one % 1 == 0 else one) for one in column]
            return pl.Series(column.name, texts, dtype=pl.String)
    return column.cast(pl.String).str.strip_chars()


def known_texts(texts: pl.Series, *, loose: bool = True) -> pl.Series:
    """The same with null for every way to write a missing value; ``loose``: for :data:`LOOSE`, too."""
    words = (*MISSING, *LOOSE) if loose else MISSING
    return texts.set(texts.str.to_lowercase().is_in(list(words)).fill_null(True), None)


def read_numbers(column: pl.Series, *, source: str, missing: Sequence[str] = (), lenient: bool = False) -> Column:
    """One feature column as numbers; ``true`` and ``false`` count as 1 and 0.

    Args:
        column: of numbers, booleans or strings.
        source: of the table, for messages.
        missing: further words for a missing value.
        lenient: whether any other text counts as missing.

    Raises:
        DataError: the column holds text, with the first bad value and its row, or a type that is not numeric.
    """
    import polars as pl

    if column.dtype == pl.String:
        numbers = column.cast(pl.Float64, strict=False)
        if numbers.null_count():  # most columns are plain numbers, and of wide tables there are thousands
            strings = known_texts(as_text(column))
            numbers = strings.cast(pl.Float64, strict=False)
            numbers = numbers.zip_with(numbers.is_not_null(), boolean_words(strings))
            text = (strings.is_not_null() & numbers.is_null() & ~strings.is_in(list(missing))).arg_true()
            if len(text) and not lenient:
                refuse_text(strings[text[0]], name=column.name, row=text[0] + 1, source=source)
    elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        numbers = column.cast(pl.Float64)
    elif column.dtype == pl.Duration:
        numbers = column.dt.total_microseconds().cast(pl.Float64) / 1e6
    elif column.dtype == pl.Time:
        numbers = column.cast(pl.Int64).cast(pl.Float64) / 1e9
    else:
        refuse_type(column, source=source, use="turn it into numbers, or remove the column")
    return as_column(column.name, numbers)


def as_column(name: str, numbers: pl.Series) -> Column:
    """A float64 series, null where missing, as a :class:`Column`."""
    exact = (numbers.fill_null(float("nan")) if numbers.null_count() else numbers).to_numpy()
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is counted as bad
        return Column(name=name, exact=exact, values=exact.astype(np.float32))


def refuse_type(column: pl.Series, *, source: str, use: str) -> NoReturn:
    """Refuse a column by its type.

    Raises:
        DataError: always.
    """
    kind = str(column.dtype.base_type()).lower()
    raise DataError(f"column {quoted(column.name)} of {source} is of type {kind}, not numbers", help=use)


def refuse_text(value: str, *, name: str, row: int, source: str, wanted: str = "turn it into numbers") -> NoReturn:
    """Refuse a cell of text.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"column {quoted(name)} of {source} holds text: {quoted(value)} in row {row}",
        help=f"{wanted}, or leave the value out; row 1 is the first row below the header",
    )


def describe_faults(columns: Iterable[Column], *, source: str) -> str | None:
    """The message on every value that is not a finite number, or None if there is none."""
    faulty: Sequence[Column] = [column for column in columns if column.bad.any()]
    if not faulty:
        return None
    said = "; ".join(f"{quoted(column.name)} {column.faults()}" for column in faulty[:_SHOWN])
    more = len(faulty) - _SHOWN
    return f"{source} has values that are not finite numbers: {said}" + (
        f"; and {count(more, 'more column')}" if more > 0 else ""
    )
