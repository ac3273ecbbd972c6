"""The target column: which task it makes, and its class indices or numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrdiff_core.data.columns import Column, as_column, boolean_words, fault_text, read_strings, refuse_type
from lrdiff_core.data.kinds.numbers import find_number_format, parse_number
from lrdiff_core.data.table import Task
from lrdiff_core.errors import DataError
from lrdiff_core.text import count, listed, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Target", "encode_target", "read_target"]

MOST_INTEGER_CLASSES = 20  # more distinct whole numbers than this are an amount, not labels
ROWS_PER_CLASS = 2  # on average; below this whole numbers are an amount too
FEWEST_CLASS_ROWS = 2  # a class must be learned from one row and tested on another
_SHOWN = 3  # classes named in one message
_EXACT_INTEGER = 2.0**53  # float64 tells whole numbers apart below this


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target column as read.

    Args:
        name: of the column.
        source: of the table, for messages.
        kind: ``number`` or ``boolean`` if every label is one, else ``text``.
        labels: object [rows], the labels as text, None where missing; for numbers all None.
        numbers: the labels of a ``number`` target.
        words: bool [rows], labels that are not numbers.
        bad: bool [rows], rows without a label to learn from.
    """

    name: str
    source: str
    kind: Literal["number", "boolean", "text"]
    labels: np.ndarray
    numbers: Column | None
    words: np.ndarray
    bad: np.ndarray

    def faults(self) -> str:
        """Each kind of bad label with its count and first row, counted from 1."""
        if self.numbers is not None:
            return self.numbers.faults()
        return fault_text(self.bad, "missing")

    def __str__(self) -> str:
        return f"target {quoted(self.name)} of {self.source}"


def read_target(column: pl.Series, *, source: str) -> Target:
    """Tell whether a target holds numbers, booleans or text; a mixture is text.

    Raises:
        DataError: the column is of a type that can be no target, such as a date.
    """
    import polars as pl

    kind: Literal["number", "boolean", "text"]
    if column.dtype == pl.Null or column.dtype.is_numeric():
        strings = pl.Series(column.name, [None] * len(column), dtype=pl.String)
        cast = column.cast(pl.Float64)
        kind = "number"
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
        strings = read_strings(column.cast(pl.String))
        cast = strings.cast(pl.Float64, strict=False)
        if cast.null_count() > strings.null_count():
            cast = _written(strings, cast)
        if cast.null_count() == strings.null_count():
            kind = "number"
        elif boolean_words(strings).null_count() == strings.null_count():
            kind, strings = "boolean", strings.str.to_lowercase()
        else:
            kind = "text"
    else:
        refuse_type(column, source=source, use="name a target of numbers, booleans or text")
    numbers = as_column(column.name, cast) if kind == "number" else None
    return Target(
        name=column.name,
        source=source,
        kind=kind,
        labels=np.array(strings.to_list(), dtype=object),
        numbers=numbers,
        words=(strings.is_not_null() & cast.is_null()).to_numpy(),
        bad=strings.is_null().to_numpy() if numbers is None else numbers.bad,
    )


def _written(strings: pl.Series, cast: pl.Series) -> pl.Series:
    """Amounts such as $1,200 or 1,5; the same as before where labels are none."""
    import polars as pl

    texts = strings.drop_nulls().unique().to_list()
    found = find_number_format(texts)
    if found is None:
        return cast
    return strings.replace_strict({text: parse_number(text, found[0]) for text in texts}, return_dtype=pl.Float64)


def encode_target(
    target: Target, rows: np.ndarray, *, task: Task | Literal["auto"]
) -> tuple[np.ndarray, tuple[str, ...], Task]:
    """Class indices or numbers of the rows that are kept.

    With ``task="auto"``: text and booleans are classes; so are numbers with two distinct values; so are whole
    numbers with at most 20 distinct values, each occurring at least twice on average; all else is regression.
    Classes are ordered by number, or else by text.

    Args:
        target: the column.
        rows: which rows to keep, int64 [kept], none of them bad.
        task: ``auto``, or the task to force.

    Returns:
        int64 [kept] indices with their class labels, or float32 [kept] with none, and the task.

    Raises:
        DataError: one class or value only, a class with a single row, or labels that the forced task does not take.
    """
    values = target.labels[rows] if target.numbers is None else target.numbers.exact[rows]
    distinct, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    if task == "auto":
        amounts = target.kind == "number" and not _are_classes(distinct, rows.size)
        task = "regression" if amounts else "binary" if distinct.size == 2 else "multiclass"
    if task == "regression":
        return _numbers(target, rows, distinct), (), task

    classes = tuple(_label(value) for value in distinct)
    if len(classes) == 1:
        raise DataError(f"{target} has one class only: {quoted(classes[0])}", help="use rows of at least two classes")
    if task == "binary" and len(classes) != 2:
        raise DataError(
            f"{target} has {len(classes)} classes, and binary takes two: {listed(classes)}",
            help="use `--task multiclass`, or keep the rows of two classes",
        )
    if target.numbers is not None and np.abs(distinct).max() >= _EXACT_INTEGER:
        raise DataError(
            f"{target} has class labels beyond 2^53, where different numbers become equal: {quoted(classes[-1])}",
            help="write the labels as text, such as id_1",
        )
    single = [
        f"{quoted(label)} (row {rows[np.flatnonzero(index == place)[0]] + 1})"
        for place, label in enumerate(classes)
        if counts[place] < FEWEST_CLASS_ROWS
    ]
    if single:
        raise DataError(
            f"{target} has {count(len(single), 'class', 'classes')} with a single row: {', '.join(single[:_SHOWN])}"
            + (f" and {len(single) - _SHOWN} more" if len(single) > _SHOWN else ""),
            help=_single_row_help(target, rows),
        )
    return index.astype(np.int64), classes, task


def _are_classes(distinct: np.ndarray, rows: int) -> bool:
    if distinct.size <= 2:
        return True
    whole = bool((distinct == np.floor(distinct)).all())
    return whole and distinct.size <= MOST_INTEGER_CLASSES and rows >= ROWS_PER_CLASS * distinct.size


def _numbers(target: Target, rows: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    if target.numbers is None:
        first = rows[np.flatnonzero(target.words[rows])[0]]
        raise DataError(
            f"{target} holds text, and regression needs numbers: {quoted(target.labels[first])} in row {first + 1}",
            help="correct the value, name a target of numbers, or leave the task to be recognised",
        )
    if distinct.size == 1:
        raise DataError(
            f"{target} has one value only: {quoted(_label(distinct[0]))}", help="use rows with at least two values"
        )
    values: np.ndarray = target.numbers.values[rows]
    return values


def _label(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))


def _single_row_help(target: Target, rows: np.ndarray) -> str:
    words = np.flatnonzero(target.words[rows])
    if target.kind == "number":
        return "bring more rows of it or remove it; if the target is an amount, use `--task regression`"
    if words.size < rows.size / 2:  # mostly numbers: likely an amount with a slip in it
        first = rows[words[0]]
        return f"if the target is an amount, correct {quoted(target.labels[first])} in row {first + 1}, which is text"
    return "bring at least two rows of every class, or remove the class"
