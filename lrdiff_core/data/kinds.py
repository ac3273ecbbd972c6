"""What each column of a table is: recognised from its cells, or as somebody said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lrdiff_core.data.columns import BOOLEAN_WORDS, as_text, boolean_words, known_texts, refuse_type
from lrdiff_core.data.dates import CLOCK, find_date_formats, parse_dates, typed_dates
from lrdiff_core.data.numbers import find_number_format, parse_number
from lrdiff_core.data.spec import ColumnKind, ColumnSpec
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import count, listed, nearest_first, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Wishes", "recognise"]

MOST_CATEGORIES = 100  # of one column that get an indicator; rarer ones share code 0
FEW_CATEGORIES = 20  # so many texts are categories, however few rows there are
LEAST_COVER = 0.1  # of the rows that the most common categories must make up
FEWEST_INDEX_ROWS = 20  # in fewer rows, 1, 2, 3, ... may well be a measurement
ODD_WORDS = 0.2  # of the rows that one unknown word may make up to be taken for "missing"
LONGEST_ID = 40  # characters on average; beyond, a text that never repeats is prose
_ID_NAME = re.compile(r"(?i:(^|[^a-z])(id|idx|index|uuid|guid|row ?names?|row ?id|unnamed: 0)$)|[a-z0-9]I[dD]$")
_ZEROS = r"^[+-]?0\d+$"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What somebody said that columns are; all others are recognised.

    Args:
        drop: columns to leave out.
        categorical: columns whose values are names, also where they are numbers.
        id: columns that name a row: no features, repeated beside predictions.
        numeric: columns of numbers; any text among them counts as missing.
        date: columns of dates; ``COLUMN=%d/%m/%Y`` says how they are written.

    Example:
        >>> Wishes(drop=("x",), date=("when=%d/%m/%Y",)).of("when", ["x", "when"])
        ('date', '%d/%m/%Y')
    """

    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    date: tuple[str, ...] = ()

    def of(self, name: str, names: Sequence[str]) -> tuple[str, str] | None:
        """What was said of a column: the wish and, of a date, its format."""
        for wish in ("drop", "categorical", "id", "numeric", "date"):
            for entry in getattr(self, wish):
                column, form = _entry(entry, names) if wish == "date" else (entry, "")
                if column == name:
                    return wish, form
        return None

    def check(self, names: Sequence[str], *, target: str, source: str) -> None:
        """Refuse wishes for columns that are not there, for the target, and two for one column.

        Raises:
            DataError: no such column.
            ConfigError: it is the target, or was named twice.
        """
        seen: dict[str, str] = {}
        for wish in ("drop", "categorical", "id", "numeric", "date"):
            for entry in getattr(self, wish):
                column = _entry(entry, names)[0] if wish == "date" else entry
                if column not in names:
                    raise DataError(
                        f"{source} has no column {quoted(column)}, which {wish} names",
                        help=f"columns, nearest first: {listed(nearest_first(column, list(names)))}",
                    )
                if column == target:
                    raise ConfigError(
                        f"{wish} names the target {quoted(column)}", help="name features; --task says what a target is"
                    )
                if column in seen:
                    raise ConfigError(
                        f"column {quoted(column)} is named by {seen[column]} and by {wish}", help="name it once"
                    )
                seen[column] = wish


def _entry(entry: str, names: Sequence[str]) -> tuple[str, str]:
    name, equals, form = entry.rpartition("=")
    return (name, form) if equals and entry not in names else (entry, "")


@dataclass(kw_only=True)
class _Cells:
    """A column as it is looked at: texts without spaces around them, null where missing, and its distinct ones."""

    name: str
    source: str
    texts: pl.Series
    decimal_commas: bool
    loose: pl.Series  # the same, where words such as "-" and "?" are texts
    distinct: list[str] = field(default_factory=list)

    @property
    def known(self) -> int:
        return len(self.texts) - self.texts.null_count()


def recognise(
    column: pl.Series,
    *,
    names: Sequence[str],
    wishes: Wishes,
    source: str,
    decimal_commas: bool = False,
    indexed: bool = True,
) -> list[ColumnSpec]:
    """Say what a column is.

    Args:
        column: of the file.
        names: of all its columns.
        wishes: what was said.
        source: of the table, for messages.
        decimal_commas: whether ``1,234`` is rather 1.234, as in files that are separated by semicolons.
        indexed: whether numbers may be an index or an id.

    Returns:
        One description, or two for timestamps: their day, and their time.

    Raises:
        DataError: it is of a type that cannot be used, mixes numbers with text, or its dates can be read in two ways.
    """
    wish, form = wishes.of(column.name, names) or ("", "")
    if wish in ("drop", "id"):
        kind: ColumnKind = "dropped" if wish == "drop" else "id"
        return [ColumnSpec(name=column.name, kind=kind, rule="as you said")]
    if not indexed and not wish and column.dtype.is_numeric():
        wish = "numeric"
    if column.null_count() == len(column):
        return [_empty(column.name)]
    typed = _typed(column, source=source, wish=wish)
    if typed is not None:
        return typed
    cells = _cells(column, source=source, decimal_commas=decimal_commas)
    if not cells.known:
        return [_empty(column.name)]
    if wish == "categorical":
        return [_category(cells, "as you said")]
    if wish == "numeric":
        return [_said_numbers(cells)]
    if wish == "date":
        return _said_dates(cells, column, form)
    return _numbers(column, cells) or _booleans(cells) or _dates(cells) or _texts(cells)


def _empty(name: str) -> ColumnSpec:
    return ColumnSpec(name=name, kind="empty", rule="no value at all")


# ---------------------------------------------------------------- typed columns


def _typed(column: pl.Series, *, source: str, wish: str) -> list[ColumnSpec] | None:
    """Columns whose type says what they are; None for text, and where somebody wants something else."""
    import polars as pl

    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return None
    if column.dtype in (pl.Date, pl.Datetime):
        return (
            None
            if wish == "categorical"
            else _day_and_time(column.name, *typed_dates(column), "typed", str(column.dtype.base_type()).lower())
        )
    if column.dtype == pl.Boolean:
        return None if wish == "categorical" else [ColumnSpec(name=column.name, kind="boolean", rule="booleans")]
    if column.dtype == pl.Time and not wish:
        return [ColumnSpec(name=column.name, kind="time", format=CLOCK, rule="a time of the day")]
    if column.dtype.is_numeric() or column.dtype in (pl.Time, pl.Duration):
        if wish in ("categorical", "date"):
            return None
        return [_index(column, column.cast(pl.Float64, strict=False) if column.dtype.is_numeric() else None, wish)]
    refuse_type(column, source=source, use="turn it into numbers or text, or leave it out: `--drop`")


def _index(column: pl.Series, numbers: pl.Series | None, wish: str) -> ColumnSpec:
    """A column of plain numbers, or an index of the rows."""
    name, rows = column.name, len(column)
    plain = ColumnSpec(name=name, rule="numbers")
    if wish == "numeric" or numbers is None or rows < FEWEST_INDEX_ROWS or numbers.null_count():
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


# ---------------------------------------------------------------- text


def _cells(column: pl.Series, *, source: str, decimal_commas: bool) -> _Cells:
    texts = as_text(column)
    cells = _Cells(
        name=column.name,
        source=source,
        texts=known_texts(texts),
        decimal_commas=decimal_commas,
        loose=known_texts(texts, loose=False),
    )
    cells.distinct = cells.texts.drop_nulls().unique().to_list()
    return cells


def _numbers(column: pl.Series, cells: _Cells) -> list[ColumnSpec] | None:
    import polars as pl

    plain = cells.texts.cast(pl.Float64, strict=False)
    words = plain.is_null() & cells.texts.is_not_null()
    if not words.any():
        if cells.texts.str.contains(_ZEROS).any():  # a code such as 01234, which is another one than 1234
            return [_category(cells, "whole numbers with zeros in front: codes")]
        return [_index(column, plain if not plain.null_count() else None, "")]
    if (
        plain.null_count() - cells.texts.null_count() < cells.known
        and not (words & boolean_words(cells.texts).is_null()).any()
    ):
        return [ColumnSpec(name=cells.name, rule="numbers, true is 1 and false is 0")]
    return _written(cells)


def _written(cells: _Cells) -> list[ColumnSpec] | None:
    found = find_number_format(cells.distinct, decimal_commas=cells.decimal_commas)
    if found is not None:
        return [ColumnSpec(name=cells.name, format=found[0], rule=found[1])]
    if not any(any(c.isdigit() for c in text) for text in cells.distinct[:1000]):
        return None
    odd = [text for text in cells.distinct if not any(c.isdigit() for c in text)]
    rest = [text for text in cells.distinct if any(c.isdigit() for c in text)]
    if len(odd) == 1 and rest:
        rows = int((cells.texts == odd[0]).sum())
        found = find_number_format(rest, decimal_commas=cells.decimal_commas)
        if found is not None and rows <= ODD_WORDS * cells.known:
            form = "plain" if found[0] == "point" and all(_is_plain(text) for text in rest) else found[0]
            rule = f"numbers; {quoted(odd[0])} is taken for missing"
            return [ColumnSpec(name=cells.name, format=form, missing=(odd[0],), rule=rule)]
    _refuse_mixture(cells)
    return None


def _refuse_mixture(cells: _Cells) -> None:
    """Numbers with a slip among them are no categories."""
    fits = [
        any(parse_number(text, form) is not None for form in ("point", "comma", "point %", "comma %"))
        for text in cells.distinct
    ]
    if len(cells.distinct) <= FEW_CATEGORIES or sum(fits) < len(fits) / 2:
        return
    odd = {text for text, fit in zip(cells.distinct, fits, strict=True) if not fit}
    if not odd:
        raise DataError(
            f"column {quoted(cells.name)} of {cells.source} holds numbers that are written in more than one way: "
            f"{listed(sorted(cells.distinct, key=len, reverse=True)[:3])}",
            help=f"write them in one way, or leave the column out: --drop {_word(cells.name)}",
        )
    at = np.flatnonzero(cells.texts.is_in(list(odd)).fill_null(False).to_numpy())
    raise DataError(
        f"column {quoted(cells.name)} of {cells.source} holds numbers, and text in {count(at.size, 'row')}: "
        f"{quoted(cells.texts[int(at[0])])} in row {at[0] + 1}",
        help=f"correct it, or say what the column is: --numeric {_word(cells.name)} takes text for missing, "
        f"--categorical {_word(cells.name)} takes all for names, --drop {_word(cells.name)} leaves it out",
    )


def _word(text: str) -> str:
    """A name as it is written on a command line; on one line, whatever is in it."""
    return shlex.quote(text) if text.isprintable() else quoted(text)


def _is_plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _said_numbers(cells: _Cells) -> ColumnSpec:
    import polars as pl

    form, rule = "plain", "numbers, as you said"
    if cells.texts.cast(pl.Float64, strict=False).null_count() > cells.texts.null_count():
        rest = [text for text in cells.distinct if any(c.isdigit() for c in text)]
        found = find_number_format(rest, decimal_commas=cells.decimal_commas)
        if found is not None and not all(_is_plain(text) for text in rest):
            form, rule = found[0], f"{found[1]}, as you said"
    return ColumnSpec(name=cells.name, format=form, lenient=True, rule=rule)


def _booleans(cells: _Cells) -> list[ColumnSpec] | None:
    pairs = {frozenset(pair) for pair in BOOLEAN_WORDS}
    words = frozenset(text.lower() for text in cells.distinct)
    if words not in pairs:
        return None
    yes, no = next(pair for pair in BOOLEAN_WORDS if frozenset(pair) == words)
    return [ColumnSpec(name=cells.name, kind="boolean", rule=f"{yes} is 1, {no} is 0")]


def _dates(cells: _Cells) -> list[ColumnSpec] | None:
    import polars as pl

    if not all(any(c.isdigit() for c in text) for text in cells.distinct[:100]):
        return None
    forms = find_date_formats(pl.Series(cells.distinct, dtype=pl.String))
    if len(forms) > 1:
        shown = quoted(sorted(cells.distinct)[0])
        raise DataError(
            f"column {quoted(cells.name)} of {cells.source} holds dates that can be read in two ways: {shown} is "
            f"{' or '.join(forms)}",
            help=f"say which: --date {_word(f'{cells.name}={forms[0]}')} or --date {_word(f'{cells.name}={forms[1]}')}",
        )
    return _day_and_time(cells.name, *parse_dates(cells.texts, forms[0]), forms[0], forms[0]) if forms else None


def _said_dates(cells: _Cells, column: pl.Series, form: str) -> list[ColumnSpec]:

    if not form:
        found = _dates(cells)
        if found is None:
            raise DataError(
                f"column {quoted(cells.name)} of {cells.source} does not hold dates of one form: "
                f"{listed(sorted(cells.distinct)[:3])}",
                help=f"say how they are written: --date {_word(f'{cells.name}=%d/%m/%Y')}",
            )
        return found
    days, seconds = parse_dates(cells.texts, form)
    wrong = np.flatnonzero(np.isnan(days) & cells.texts.is_not_null().to_numpy())
    if wrong.size:
        raise DataError(
            f"column {quoted(cells.name)} of {cells.source} has {count(wrong.size, 'text')} not of the form {form}: "
            f"{quoted(cells.texts[int(wrong[0])])} in row {wrong[0] + 1}",
            help="correct it, or give another form in the letters of strftime, such as %Y-%m-%d",
        )
    return _day_and_time(cells.name, days, seconds, form, f"{form}, as you said")


def _day_and_time(name: str, days: np.ndarray, seconds: np.ndarray, form: str, rule: str) -> list[ColumnSpec]:
    if form == CLOCK:
        return [ColumnSpec(name=name, kind="time", format=form, rule="a time of the day")]
    day = ColumnSpec(name=name, kind="date", format=form, rule=rule)
    if not np.nansum(seconds):
        return [day]
    return [day, ColumnSpec(name=f"{name} (time of day)", kind="time", format=form, source=name, rule=rule)]


def _texts(cells: _Cells) -> list[ColumnSpec]:
    """Categories, ids or prose."""
    if len(cells.distinct) < 2:  # then "-" may be one of two, as "+" is
        cells.texts = cells.loose
        cells.distinct = cells.texts.drop_nulls().unique().to_list()
    known, different = cells.known, len(cells.distinct)
    if different == known and known > 2 and known > len(cells.texts) / 2:
        long = sum(map(len, cells.distinct)) / different > LONGEST_ID
        kind: ColumnKind = "text" if long else "id"
        return [ColumnSpec(name=cells.name, kind=kind, rule=f"{different} texts, all different")]
    if different <= FEW_CATEGORIES or (different <= MOST_CATEGORIES and different <= known / 2):
        return [_category(cells, count(different, "text"))]
    if different <= known / 2:
        spec = _category(cells, "")
        if cells.texts.is_in(list(spec.categories)).sum() >= LEAST_COVER * known:
            return [_category(cells, f"the {MOST_CATEGORIES} most common of {different} texts")]
    return [ColumnSpec(name=cells.name, kind="text", rule=f"{different} different texts in {known} rows")]


def _category(cells: _Cells, rule: str) -> ColumnSpec:
    counts = cells.texts.drop_nulls().value_counts()
    found = sorted(counts.iter_rows(), key=lambda row: (-row[1], row[0]))
    if len(found) > MOST_CATEGORIES and "most common" not in rule:
        rule = f"{rule}; the {MOST_CATEGORIES} most common of {len(found)}"
    return ColumnSpec(
        name=cells.name, kind="category", categories=tuple(sorted(row[0] for row in found[:MOST_CATEGORIES])), rule=rule
    )
