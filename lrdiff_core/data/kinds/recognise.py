"""What each column of a table is: recognised from its cells, or as somebody said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_core.data.columns import BOOLEAN_WORDS, refuse_type
from lrdiff_core.data.kinds.amounts import index_or_number, numbers, plain_numbers, said_numbers
from lrdiff_core.data.kinds.categories import category, texts
from lrdiff_core.data.kinds.cells import Cells, has_digit, on_command_line, one_odd_word
from lrdiff_core.data.kinds.dates import CLOCK, find_date_formats, parse_dates, typed_dates
from lrdiff_core.data.kinds.wishes import Wishes
from lrdiff_core.data.spec import ColumnKind, ColumnSpec
from lrdiff_core.errors import DataError
from lrdiff_core.text import count, listed, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["recognise", "recognise_all"]


def recognise_all(
    frame: pl.DataFrame,
    *,
    target: str,
    wishes: Wishes,
    source: str,
    semicolons: bool = False,
    indexed: bool = True,
) -> list[ColumnSpec]:
    """Say what every column but the target is.

    Args:
        frame: the rows that may say it: not those of a test file.
        target: the column to predict.
        wishes: what was said.
        source: of the table, for messages.
        semicolons: whether they separate the file's columns, as where the comma is for decimals.
        indexed: whether numbers may be an index or an id; in an array whose columns have no names they never are.

    Raises:
        DataError, ConfigError: of :func:`recognise`; or a wish cannot be.
    """
    names = frame.columns
    wishes.check(names, target=target, source=source)
    columns = {name: frame[name] for name in names if name != target}
    options: dict[str, Any] = {"names": names, "wishes": wishes, "source": source, "indexed": indexed}
    found = {name: recognise(column, **options) for name, column in columns.items()}
    # One column shows how the table writes decimals; 1.234 and 1,234 by themselves can be read in two ways.
    commas = any(spec.format.startswith("comma") for specs in found.values() for spec in specs)
    points = commas and any(
        _has_decimal_points(columns[name]) for name, specs in found.items() if specs[0].kind == "number"
    )
    doubtful = {"plain", "point"} if commas and not points else {"point"} if commas or semicolons else set()
    for name, specs in found.items():
        if specs[0].kind in ("number", "index") and specs[0].format in doubtful:
            found[name] = recognise(columns[name], decimal_commas=True, **options)
    return [spec for specs in found.values() for spec in specs]


def _has_decimal_points(column: pl.Series) -> bool:
    """Whether a point in a column of text is surely one for decimals."""
    import polars as pl

    surely = r"^\s*[+-]?(0?\.\d|\d+\.\d{1,2}\s*$|\d+\.\d{4})"
    return column.dtype == pl.String and bool(column.str.contains(surely).any())


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
        decimal_commas: whether ``1,234`` is rather 1.234 and ``1.234`` 1234, as other columns show.
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
    plain = None if wish or decimal_commas else plain_numbers(column)
    if plain is not None:
        return plain
    cells = Cells(column, source=source, decimal_commas=decimal_commas)
    if not cells.known:
        return [_empty(column.name)]
    if wish == "categorical":
        return [category(cells, "as you said")]
    if wish == "numeric":
        return [said_numbers(cells)]
    if wish == "date":
        return _said_dates(cells, column, form)
    return numbers(column, cells) or _booleans(cells) or _dates(cells) or texts(cells)


def _empty(name: str) -> ColumnSpec:
    return ColumnSpec(name=name, kind="empty", rule="no value at all")


# ---------------------------------------------------------------- typed columns


def _typed(column: pl.Series, *, source: str, wish: str) -> list[ColumnSpec] | None:
    """Columns whose type says what they are; None for text, and where somebody wants something else."""
    import polars as pl

    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return None
    if wish == "categorical" and not column.dtype.is_nested() and column.dtype not in (pl.Binary, pl.Object):
        return None
    if column.dtype in (pl.Date, pl.Datetime):
        return _day_and_time(column.name, *typed_dates(column), "typed", str(column.dtype.base_type()).lower())
    if column.dtype == pl.Boolean:
        return [ColumnSpec(name=column.name, kind="boolean", rule="booleans")]
    if column.dtype == pl.Time and wish != "numeric":
        return [ColumnSpec(name=column.name, kind="time", format=CLOCK, rule="a time of the day")]
    if column.dtype.is_numeric():
        if wish == "date":
            return None
        plain = ColumnSpec(name=column.name, rule="numbers")
        return [plain if wish == "numeric" else index_or_number(column, column.cast(pl.Float64, strict=False))]
    if column.dtype in (pl.Time, pl.Duration):
        return [ColumnSpec(name=column.name, rule="seconds")]
    refuse_type(column, source=source, use="turn it into numbers or text, or leave it out: `--drop`")


# ---------------------------------------------------------------- text


def _booleans(cells: Cells) -> list[ColumnSpec] | None:
    pairs = {frozenset(pair) for pair in BOOLEAN_WORDS}
    words = frozenset(text.lower() for text in cells.distinct)
    if words not in pairs:
        return None
    yes, no = next(pair for pair in BOOLEAN_WORDS if frozenset(pair) == words)
    return [ColumnSpec(name=cells.name, kind="boolean", rule=f"{yes} is 1, {no} is 0")]


def _dates(cells: Cells) -> list[ColumnSpec] | None:
    import polars as pl

    odd = one_odd_word(cells)
    distinct = [text for text in cells.distinct if text != odd]
    if not all(has_digit(text) for text in distinct[:100]):
        return None
    forms = find_date_formats(pl.Series(distinct, dtype=pl.String))
    if not forms:
        return None
    if len(forms) > 1:
        either = [on_command_line(f"{cells.name}={form}") for form in forms]
        raise DataError(
            f"column {quoted(cells.name)} of {cells.source} holds dates that can be read in two ways: "
            f"{quoted(sorted(distinct)[0])} is {' or '.join(forms)}",
            help=f"say which: --date {either[0]} or --date {either[1]}",
        )
    rule = forms[0] if odd is None else f"{forms[0]}; {quoted(odd)} is taken for missing"
    found = _day_and_time(cells.name, *parse_dates(cells.texts, forms[0]), forms[0], rule)
    return [replace(spec, missing=() if odd is None else (odd,)) for spec in found]


def _said_dates(cells: Cells, column: pl.Series, form: str) -> list[ColumnSpec]:

    if not form:
        found = _dates(cells)
        if found is None:
            raise DataError(
                f"column {quoted(cells.name)} of {cells.source} does not hold dates of one form: "
                f"{listed(sorted(cells.distinct)[:3])}",
                help=f"say how they are written: --date {on_command_line(f'{cells.name}=%d/%m/%Y')}",
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
