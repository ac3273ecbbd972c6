"""Columns of a file to columns of the matrix that a model takes, by what is known of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from lrdiff_core.data.columns import (
    BOOLEAN_WORDS,
    Column,
    as_column,
    as_text,
    describe_faults,
    known_texts,
    read_numbers,
    refuse_text,
    refuse_type,
)
from lrdiff_core.data.formats import read_frame
from lrdiff_core.data.frames import SOURCE, to_frame
from lrdiff_core.data.kinds.dates import parse_dates, typed_dates
from lrdiff_core.data.kinds.numbers import parse_number
from lrdiff_core.data.spec import ColumnSpec
from lrdiff_core.data.table import Impute
from lrdiff_core.errors import DataError
from lrdiff_core.text import check_choice, count, listed, nearest_first

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Rows", "matrix_of", "read_column", "read_features", "read_rows"]

_ROWS_SHOWN = 5  # rows named in one message


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The rows of a prediction.

    Args:
        features: float32 [rows, features], what the model takes.
        ids: the texts [rows] of each column that names a row, where the file has it.
    """

    features: np.ndarray
    ids: dict[str, list[str]]


def read_features(
    source: Any, *, feature_names: Sequence[str], impute: Impute = "none", columns: Sequence[ColumnSpec] = ()
) -> np.ndarray:
    r"""Read the rows of a prediction: the model's columns by name, in its order; other columns are ignored.

    Args:
        source: a file or a table in memory, as for :func:`load_table`; it needs no target.
        feature_names: what the model was trained on.
        impute: as the model was trained. With ``mean`` and ``median`` values that are missing, infinite or too
            large become NaN, which the model fills in; so with ``auto``, where the model has met a missing value.
            Otherwise they are an error, for a prediction drops no row.
        columns: what the model knows of its columns, ``ModelSpec.columns``; left out, all are numbers. Cells are read
            as they were in training, never recognised anew; a category that was not met there has the code 0.

    Returns:
        float32 [rows, features].

    Raises:
        DataError: the file cannot be read, a column is missing, or a value is not a finite number.
        ConfigError: ``impute`` is none of its choices.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "new.csv"
        >>> _ = file.write_text("b,id,a\n1,first,2\n")
        >>> read_features(file, feature_names=["a", "b"]).tolist()
        [[2.0, 1.0]]
    """
    return read_rows(source, feature_names=feature_names, impute=impute, columns=columns).features


def read_rows(
    source: Any,
    *,
    feature_names: Sequence[str],
    impute: Impute = "none",
    columns: Sequence[ColumnSpec] = (),
    ids: Sequence[str] = (),
) -> Rows:
    """Read what :func:`read_features` reads, and the columns that name a row.

    Args:
        source: see there, as for all others.
        feature_names: the model's.
        impute: the model's.
        columns: the model's.
        ids: columns to keep as text; those that the file lacks are left out.

    Raises:
        DataError: see there.
        ConfigError: see there.
    """
    check_choice("impute", impute, get_args(Impute))
    if isinstance(source, str | os.PathLike):
        path = str(source)
        frame, _ = read_frame(Path(source))
    else:
        path, frame = SOURCE, to_frame(source)
    specs = tuple(columns) or tuple(ColumnSpec(name=name) for name in feature_names)
    needed = list(dict.fromkeys(spec.column for spec in specs))
    names = frozenset(frame.columns)
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise DataError(
            f"{path} lacks {count(len(lacking), 'column')} of the model: {listed(lacking)}",
            help=f"columns of the file, nearest first: {listed(nearest_first(lacking[0], frame.columns))}",
        )
    read = [read_column(frame[spec.column], spec, source=path) for spec in specs]
    _refuse_gaps(read, impute=impute, fills=any(spec.flags_missing for spec in specs), path=path)
    kept = {name: as_text(frame[name]).fill_null("").to_list() for name in ids if name in names}
    return Rows(features=matrix_of(read), ids=kept)


def _refuse_gaps(read: Sequence[Column], *, impute: Impute, fills: bool, path: str) -> None:
    """Values that the model does not fill in."""
    if impute == "drop":
        rows = np.flatnonzero(np.any([column.bad for column in read], axis=0)) + 1
        if rows.size:
            shown = ", ".join(str(row) for row in rows[:_ROWS_SHOWN])
            more = f" and {rows.size - _ROWS_SHOWN} more" if rows.size > _ROWS_SHOWN else ""
            raise DataError(
                f"{path} has values that are not finite numbers in row{'s' if rows.size > 1 else ''} {shown}{more}",
                help="prediction never drops a row: remove these, or train with `--impute mean|median`",
            )
    elif impute == "none" or (impute == "auto" and not fills):
        faults = describe_faults(read, source=path)
        if faults:
            raise DataError(faults, help="fill them in, or train with `--impute mean|median` so that the model does")


def matrix_of(columns: Sequence[Column]) -> np.ndarray:
    """float32 [rows, columns], NaN for every bad value."""
    values = np.stack([column.values for column in columns], axis=1)
    values[~np.isfinite(values)] = np.nan
    return values


def read_column(column: pl.Series, spec: ColumnSpec, *, source: str) -> Column:
    """One column of the matrix, read as its description says.

    Args:
        column: of the file.
        spec: of the matrix.
        source: of the table, for messages.

    Raises:
        DataError: a cell is not what the description says, with the first and its row, or the type cannot be used.

    Example:
        >>> import polars as pl
        >>> spec = ColumnSpec(name="x", kind="category", categories=("a", "b"))
        >>> read_column(pl.Series("x", ["b", "a", "", "c"]), spec, source="t.csv").values.tolist()
        [2.0, 1.0, 0.0, 0.0]
    """
    import polars as pl

    if spec.kind in ("date", "time"):
        days, seconds = _dates(column, spec, source)
        values = days if spec.kind == "date" else seconds
        return Column(name=spec.name, exact=values, values=values.astype(np.float32))
    if spec.kind == "category":
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            refuse_type(column, source=source, use="turn it into text")
        codes = {category: code for code, category in enumerate(spec.categories, start=1)}
        found = as_text(column).replace_strict(codes, default=0, return_dtype=pl.Float64)
        return as_column(spec.name, found.fill_null(0.0))
    if spec.kind == "boolean":
        column = _words_to_numbers(column)
    elif spec.format != "plain" and column.dtype == pl.String:
        column = _written(column, spec, source)
    return read_numbers(column.rename(spec.name), source=source, missing=spec.missing, lenient=spec.lenient)


def _words_to_numbers(column: pl.Series) -> pl.Series:
    """Words for true and false as 1 and 0; anything else is left to be refused."""
    import polars as pl

    if column.dtype != pl.String:
        return column
    words = {word: "1" if place == 0 else "0" for pair in BOOLEAN_WORDS for place, word in enumerate(pair)}
    texts = as_text(column)
    return texts.str.to_lowercase().replace_strict(words, default=texts, return_dtype=pl.String)


def _written(column: pl.Series, spec: ColumnSpec, source: str) -> pl.Series:
    import polars as pl

    texts = known_texts(as_text(column))
    values = {text: parse_number(text, spec.format) for text in texts.drop_nulls().unique()}
    known = {text: value for text, value in values.items() if value is not None}
    numbers = texts.replace_strict(known, default=None, return_dtype=pl.Float64)
    wrong = (texts.is_not_null() & numbers.is_null() & ~texts.is_in(list(spec.missing))).arg_true()
    if len(wrong) and not spec.lenient:
        refuse_text(texts[wrong[0]], name=column.name, row=wrong[0] + 1, source=source)
    return numbers


def _dates(column: pl.Series, spec: ColumnSpec, source: str) -> tuple[np.ndarray, np.ndarray]:
    import polars as pl

    if column.dtype in (pl.Date, pl.Datetime):
        return typed_dates(column)
    if column.dtype == pl.Time and spec.kind == "time":
        seconds = (column.cast(pl.Int64).cast(pl.Float64) / 1e9).fill_null(float("nan")).to_numpy()
        return np.where(np.isnan(seconds), np.nan, 0.0), seconds
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object, pl.Duration, pl.Time):
        refuse_type(column, source=source, use="turn it into dates")
    form = "%Y-%m-%d" if spec.format == "typed" else spec.format
    texts = known_texts(as_text(column))
    days, seconds = parse_dates(texts, form)
    known = texts.is_not_null() & ~texts.is_in(list(spec.missing)).fill_null(False)
    wrong = np.flatnonzero(np.isnan(days) & known.to_numpy())
    if wrong.size:
        row = int(wrong[0])
        refuse_text(texts[row], name=column.name, row=row + 1, source=source, wanted=f"write {spec.kind}s as {form}")
    return days, seconds
