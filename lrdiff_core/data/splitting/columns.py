"""Columns and files that say how a table is split, read: a group column, a time column, a file of test rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_core.data.columns import fault_text, read_strings
from lrdiff_core.data.formats import read_frame
from lrdiff_core.data.frames import SOURCE, to_frame
from lrdiff_core.data.kinds.dates import FORMATS, find_date_formats, parse_dates, typed_dates
from lrdiff_core.data.splitting.keys import Groups, SplitKeys, Times
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import count, listed, nearest_first, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["KeyedFrame", "read_groups", "read_times", "split_frame"]


@dataclass(frozen=True, kw_only=True)
class KeyedFrame:
    """A table's rows without the columns that only say how it is split.

    Args:
        frame: all rows, those of a test file last.
        source: its name, for messages.
        notes: for the reader.
        keys: what splits respect.
    """

    frame: pl.DataFrame
    source: str
    notes: tuple[str, ...]
    keys: SplitKeys


def split_frame(
    frame: pl.DataFrame,
    source: str,
    *,
    target: str | None,
    test: Any = None,
    groups: str | None = None,
    time: str | None = None,
    time_form: str = "",
) -> KeyedFrame:
    """Add the rows of a test file, and take the columns that splits respect out of the features.

    Args:
        frame: the rows.
        source: their name, for messages.
        target: the column to predict.
        test: a file, or a table in memory, with the same columns.
        groups: the group column.
        time: the time column.
        time_form: how its days are written, as strftime; left out, it is recognised.

    Raises:
        ConfigError: groups and time together.
        DataError: the file cannot be read or lacks a column; no such column; it is the target, or a row has no value in
            it; or a group stands in both files.
    """
    if groups is not None and time is not None:
        raise ConfigError(
            "groups and time are both given, and rows of one group happen at many times",
            help="give one of them: groups where rows of one source are alike, time where the future is predicted",
        )
    for use, name in (("group", groups), ("time", time)):
        if name is not None and name not in frame.columns:
            raise DataError(
                f"{source} has no {use} column {quoted(name)}",
                help=f"columns, nearest first: {listed(nearest_first(name, frame.columns))}",
            )
        if name is not None and name == target:
            raise DataError(
                f"{quoted(name)} of {source} is both the target and the {use} column",
                help="name another column for one of them",
            )
    test_rows, test_file = None, None
    notes: tuple[str, ...] = ()
    if test is not None:
        test_file = str(test) if isinstance(test, str | os.PathLike) else f"test= ({SOURCE})"
        frame, test_rows, notes = _add_test_rows(frame, source, test, test_file)
        source = f"{source} followed by {test_file}"
    keys = SplitKeys(
        groups=None if groups is None else read_groups(frame[groups], source=source),
        times=None if time is None else read_times(frame[time], source=source, form=time_form),
        test=test_rows,
        test_file=test_file,
    )
    if keys.groups is not None and test_rows is not None:
        _refuse_shared(frame[keys.groups.name], keys.groups.index, test_rows)
    rest = frame.drop([name for name in (groups, time) if name is not None])
    return KeyedFrame(frame=rest, source=source, notes=notes, keys=keys)


def _add_test_rows(
    frame: pl.DataFrame, source: str, test: Any, test_file: str
) -> tuple[pl.DataFrame, np.ndarray, tuple[str, ...]]:
    """All rows, with the columns of ``frame``; which of them are the test file's, bool [rows]; notes."""
    import polars as pl

    notes: tuple[str, ...] = ()
    if isinstance(test, str | os.PathLike):
        other, notes = read_frame(Path(test))
    else:
        other = to_frame(test)
    lacking = [name for name in frame.columns if name not in other.columns]
    if lacking:
        raise DataError(
            f"{test_file} lacks {count(len(lacking), 'column')} of {source}: {listed(lacking)}",
            help=f"its columns, nearest first: {listed(nearest_first(lacking[0], other.columns))}",
        )
    more = [name for name in other.columns if name not in frame.columns]
    if more:
        notes = (*notes, f"{test_file} has {count(len(more), 'column')} that {source} lacks, not used: {listed(more)}")
    other = other.select(frame.columns)
    for name in frame.columns:
        kinds = frame[name].dtype, other[name].dtype
        if kinds[0] != kinds[1] and not (kinds[0].is_numeric() and kinds[1].is_numeric()):
            frame = frame.with_columns(pl.col(name).cast(pl.String))
            other = other.with_columns(pl.col(name).cast(pl.String))
    rows = np.repeat([False, True], [frame.height, other.height])
    return pl.concat([frame, other], how="vertical_relaxed"), rows, notes


def _refuse_shared(column: pl.Series, groups: np.ndarray, test_rows: np.ndarray) -> None:
    import polars as pl

    both = np.intersect1d(groups[test_rows], groups[~test_rows])
    if both.size:
        names = column.cast(pl.String)
        first = [str(names[int(np.flatnonzero(groups == one)[0])]) for one in both[:3]]
        raise DataError(
            f"{count(len(both), 'group')} of column {quoted(column.name)} stand{'s' if len(both) == 1 else ''} "
            f"in both files: {listed(first)}",
            help="remove their rows from one of the files, or leave the groups out",
        )


def read_groups(column: pl.Series, *, source: str) -> Groups:
    """Number the groups of a column; the same text, or the same number, is the same group.

    Raises:
        DataError: a row has no group.

    Example:
        >>> import polars as pl
        >>> read_groups(pl.Series("who", ["b", "a", "b "]), source="t.csv").index.tolist()
        [1, 0, 1]
    """
    import polars as pl

    strings = read_strings(column.cast(pl.String))
    _refuse_missing(strings, use="group", source=source)
    numbers = strings.cast(pl.Float64, strict=False)
    values = strings.to_list() if numbers.null_count() else numbers.to_list()
    return Groups(name=column.name, index=np.unique(np.array(values), return_inverse=True)[1].astype(np.int64))


def read_times(column: pl.Series, *, source: str, form: str = "") -> Times:
    """Read a column of dates, timestamps or numbers that order the rows.

    Args:
        column: of the table.
        source: the table's name, for messages.
        form: how days are written, as strftime; left out, it is recognised.

    Raises:
        DataError: a row has no time, or one that cannot be read, or day and month cannot be told apart.

    Example:
        >>> import polars as pl
        >>> times = read_times(pl.Series("day", ["1970-01-02", "1970-01-01"]), source="t.csv")
        >>> times.values.tolist(), times.kind
        ([86400.0, 0.0], 'date')
    """
    import polars as pl

    if column.dtype == pl.String:
        column = read_strings(column)
    _refuse_missing(column, use="time", source=source)
    if column.dtype.is_numeric():
        return _numbers(column, source)
    if column.dtype in (pl.Date, pl.Datetime):
        return _moments(column.name, *typed_dates(column))
    if column.dtype != pl.String:
        raise DataError(
            f"time column {quoted(column.name)} of {source} is of type {str(column.dtype.base_type()).lower()}",
            help="use a column of dates, timestamps or numbers",
        )
    texts = _whole_dates(column)
    forms = [form] if form else find_date_formats(texts.unique())
    if len(forms) > 1:
        raise DataError(
            f"time column {quoted(column.name)} of {source} can be read as {' and as '.join(forms)}: "
            f"{quoted(str(column[0]))}",
            help=f"say which: --date {column.name}={forms[0]}, or write dates as 2024-01-31",
        )
    if forms:
        days, seconds = parse_dates(texts, forms[0])
        if np.isfinite(days).all():
            return _moments(column.name, days, seconds)
    numbers = column.cast(pl.Float64, strict=False)
    if numbers.null_count() == 0 and not form:
        return _numbers(numbers, source)
    tries = [numbers.is_null().to_numpy(), *(np.isnan(parse_dates(texts, one)[0]) for one in forms or FORMATS)]
    row = int(np.flatnonzero(min(tries[1:] if form else tries, key=np.count_nonzero))[0])
    raise DataError(
        f"time column {quoted(column.name)} of {source} holds {quoted(str(column[row]))} in row {row + 1}, "
        "and no one way to write dates reads every row",
        help="write dates as 2024-01-31, timestamps as 2024-01-31 23:59:00, or use numbers",
    )


def _refuse_missing(column: pl.Series, *, use: str, source: str) -> None:
    if column.null_count():
        raise DataError(
            f"{use} column {quoted(column.name)} of {source} has rows without a value: "
            f"{fault_text(column.is_null().to_numpy(), 'missing')}",
            help="fill them in or remove the rows: a row without a value belongs to no part",
        )


def _numbers(column: pl.Series, source: str) -> Times:
    import polars as pl

    values = column.cast(pl.Float64).to_numpy()
    if not np.isfinite(values).all():
        raise DataError(
            f"time column {quoted(column.name)} of {source} has values that are not finite: "
            f"{fault_text(~np.isfinite(values), 'bad')}",
            help="remove these rows, or correct their times",
        )
    return Times(name=column.name, values=values, kind="number")


def _moments(name: str, days: np.ndarray, seconds: np.ndarray) -> Times:
    return Times(name=name, values=days * 86400.0 + seconds, kind="timestamp" if seconds.any() else "date")


def _whole_dates(column: pl.Series) -> pl.Series:
    """Eight digits that are all days, and years with months, as dates with all their parts."""
    import polars as pl

    for shape, form, more in ((r"^\d{8}$", "%Y%m%d", ""), (r"^\d{4}-\d{2}$", "%Y-%m-%d", "-01")):
        if column.str.contains(shape).all():
            days = (column + more).str.to_date(form, strict=False)
            return column if days.null_count() else days.cast(pl.String)
    return column
