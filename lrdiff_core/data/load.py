"""From a name or a file to a table, and from a file to the rows of a prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lrdiff_core.data.builtin import BUILTIN_TABLES
from lrdiff_core.data.columns import Column, describe_faults
from lrdiff_core.data.formats import STANDARD_INPUT, SUFFIXES, read_frame, table_name
from lrdiff_core.data.frames import SOURCE, to_frame
from lrdiff_core.data.kinds import Wishes, recognise_all
from lrdiff_core.data.labels import Target, encode_target, read_target
from lrdiff_core.data.read import matrix_of, read_column
from lrdiff_core.data.spec import MODEL_KINDS, ColumnSpec
from lrdiff_core.data.splitting.columns import KeyedFrame, split_frame
from lrdiff_core.data.splitting.keys import SplitKeys
from lrdiff_core.data.streamed import MOST_CELLS, Stream, is_large, take_sample
from lrdiff_core.data.streamed.pieces import STREAMED
from lrdiff_core.data.table import Impute, Table, Task
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import check_choice, check_seed, count, listed, nearest_first, quoted

__all__ = ["load_table"]

_IMPUTE_HELP = "`--impute mean|median|drop` fills them in from the training rows, or drops their rows"


def load_table(
    source: Any,
    *,
    target: str | None = None,
    task: Literal["auto"] | Task = "auto",
    impute: Impute = "auto",
    seed: int = 0,
    columns: Sequence[str] | None = None,
    test: Any = None,
    groups: str | None = None,
    time: str | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    id: Sequence[str] = (),
    numeric: Sequence[str] = (),
    date: Sequence[str] = (),
    stream: Literal["auto", "always", "never"] = "auto",
) -> Table:
    """Load a built-in table by its name, a file by its path, or a table in memory.

    A pandas, polars or pyarrow table gives what the same table in a file gives; the index of a pandas table is not
    a column. Rows are counted from 1, the first below the header. Every column but the target is looked at:

    * numbers, also with thousands separators, decimal commas, currencies, percent, negatives in parentheses;
    * booleans: true and false, yes and no, y and n, t and f, on and off are 1 and 0;
    * dates, timestamps and times of the day, in UTC, as days since 1970 and seconds of the day. Dates that can be
      read in two ways, such as 3/4/2021, are refused;
    * categories: text with at most 20 different values, or with 100 that repeat; of more, the 100 most common.
      Whole numbers with zeros in front, such as 01234, are categories;
    * left out: an index (0, 1, 2, ... or 1, 2, 3, ... in 20 rows or more), ids (text, or whole numbers under a name
      that ends in id, that never repeat), other text, and columns without a value.

    In text, an empty cell, NA, N/A, null, nan, none, ?, -, --, . and a few more are missing values.
    ``Table.columns`` and ``Table.left_out`` say what was taken for what, and why.

    With ``task="auto"``: text and boolean labels are classes; so are numbers with two distinct values; so are
    whole numbers with at most 20 distinct values, each occurring at least twice on average; all else is
    regression. Two classes make the task binary, more multiclass. Classes are ordered by number, or else by text.

    Args:
        source: a built-in name, or a path; a word that is a file, or has a suffix, is a path. Or a pandas, polars
            or pyarrow table, a NumPy array with named fields, or one of [rows, columns].
        target: the column to predict; needed for all but a built-in table.
        task: what the target is to be taken for.
        impute: what to do about numbers and dates that are missing, infinite or too large for float32: leave NaN for
            the model to fill in from the training rows (``mean``, ``median``), with the median and a column more that
            says where (``auto``), refuse them (``none``), or drop their rows (``drop``). Rows without
            a target are always dropped. A missing category has the code 0, whatever is written here.
        seed: of the generator behind the table ``seed``; nothing else here is random.
        columns: names of the columns of a plain array; left out: ``x1``, ``x2``, ...
        test: a second file or table with the same columns, whose rows and no others are the test part of every
            split.
        groups: a column whose equal values stay in one part of every split; it is no feature.
        time: a column of dates, timestamps or numbers: every split trains on the earliest rows and tests on the
            latest; it is no feature.
        drop: columns to leave out.
        categorical: columns whose values are names, also where they look like numbers.
        id: columns that name a row: no features, repeated beside predictions.
        numeric: columns of numbers; any text among them counts as missing.
        date: columns of dates; ``COLUMN=%d/%m/%Y`` also says how they are written.
        stream: whether a CSV or Parquet file is read piece by piece in training: ``auto`` where it has more than 20
            million cells. The table is then a sample of its rows, which ``Table.stream`` reads.

    Returns:
        The table, its notes saying what was dropped, left to fill in, or recognised.

    Raises:
        DataError: the source, its rows, its columns or its labels cannot be used.
        ConfigError: an argument is none of its choices, or the seed is negative.

    Example:
        >>> table = load_table("seed", seed=1)
        >>> table.features.shape, table.task, table.classes
        ((1000, 10), 'binary', ('0', '1'))
        >>> load_table(np.array([[0, 2.5], [1, 3.5], [0, 1.5], [1, 4.5]]), target="x1").classes
        ('0', '1')
    """
    check_choice("task", task, ("auto", *get_args(Task)))
    check_choice("impute", impute, get_args(Impute))
    check_seed(seed)
    wishes = Wishes(
        drop=tuple(drop), categorical=tuple(categorical), id=tuple(id), numeric=tuple(numeric), date=tuple(date)
    )
    is_file = isinstance(source, str | os.PathLike)
    if is_file and columns is not None:
        raise DataError(f"columns= is given, and {quoted(str(source))} names its own", help="leave columns= out")
    if isinstance(source, str) and source != STANDARD_INPUT and not Path(source).suffix and not Path(source).is_file():
        given = {"test": test, "groups": groups, "time": time} | {
            wish: getattr(wishes, wish) or None for wish in ("drop", "categorical", "id", "numeric", "date")
        }
        for name in (name for name, value in given.items() if value is not None):
            raise DataError(
                f"{name} is given, and built-in table {quoted(source)} has no such file or column",
                help="write the table to a file and name that, or leave it out",
            )
        return _built_in(source, target=target, task=task, seed=seed)
    check_choice("stream", stream, ("auto", "always", "never"))
    keyed_by = [name for name, value in (("test", test), ("groups", groups), ("time", time)) if value is not None]
    if is_file and _is_streamed(Path(source), stream, keyed_by):
        return _streamed(Path(source), target=target, task=task, impute=impute, wishes=wishes)
    frame, notes = read_frame(Path(source)) if is_file else (to_frame(source, columns=columns), ())
    own = {name for name in (groups, time) if name is not None}
    keyed = split_frame(
        frame,
        str(source) if is_file else SOURCE,
        target=target,
        test=test,
        groups=groups,
        time=time,
        time_form=wishes.form_of(time, frame.columns),
    )
    wishes, named = wishes.without(own, frame.columns)
    return _from_frame(
        keyed,
        (*notes, *keyed.notes),
        name=table_name(Path(source)) if is_file else "table",
        kind="file" if is_file else "memory",
        target=target,
        task=task,
        impute=impute,
        wishes=wishes,
        indexed=not isinstance(source, np.ndarray),
        named=named,
    )


def _is_streamed(path: Path, stream: str, keyed_by: Sequence[str]) -> bool:
    if stream == "never" or (stream == "auto" and (keyed_by or not is_large(path))):
        return False
    if keyed_by:
        raise ConfigError(
            f"{keyed_by[0]} is given, and the rows of {path} are streamed, which splits them by their places",
            help='leave it out, or write stream = "never" to read the whole file into memory',
        )
    if path.suffix.lower() not in STREAMED:
        raise DataError(f"{path} cannot be streamed", help=f"write it as {', '.join(STREAMED)}, uncompressed")
    return path.is_file()


def _streamed(path: Path, *, target: str | None, task: Literal["auto"] | Task, impute: Impute, wishes: Wishes) -> Table:
    """A sample of a file's rows, with the stream of all of them."""
    sample = take_sample(path)
    keyed = KeyedFrame(frame=sample.frame, source=str(path), notes=(), keys=SplitKeys(drawn=sample.drawn))
    notes = (
        f"{sample.rows} rows are streamed, and trained on piece by piece; tables of {MOST_CELLS // 10**6} million "
        "cells and less are read whole",
        f"kinds of columns, medians, comparisons, metrics and checks are of a sample of {sample.frame.height} rows; "
        "the split follows from the place of a row and is not stratified; rows are shuffled within pieces",
    )
    table = _from_frame(
        keyed,
        notes,
        name=table_name(path),
        kind="file",
        target=target,
        task=task,
        impute=impute,
        wishes=wishes,
        indexed=False,
    )
    stream = Stream(
        path=path,
        rows=sample.rows,
        columns=table.columns,
        target=table.target_name,
        kind=read_target(sample.frame[table.target_name], source=str(path)).kind,
        classes=table.classes,
        impute=impute,
    )
    return replace(table, stream=stream)


def _built_in(name: str, *, target: str | None, task: Literal["auto"] | Task, seed: int) -> Table:
    if name not in BUILTIN_TABLES:
        names = ", ".join(nearest_first(name, list(BUILTIN_TABLES)))
        raise DataError(
            f"{quoted(name)} is neither a built-in table nor an existing file",
            help=f"built-in tables, nearest first: {names}; a file ends in {', '.join(SUFFIXES)}",
        )
    table = BUILTIN_TABLES[name](seed)
    if target not in (None, table.target_name):
        raise DataError(
            f"built-in table {name} has the target {quoted(table.target_name)}, not {quoted(str(target))}",
            help="leave the target out, or write the table to a file and name that",
        )
    if task not in ("auto", table.task):
        raise DataError(
            f"built-in table {name} is for {table.task}, not {task}",
            help="leave the task out, or write the table to a file and name that",
        )
    return table


def _from_frame(
    keyed: KeyedFrame,
    notes: Sequence[str],
    *,
    name: str,
    kind: str,
    target: str | None,
    task: Literal["auto"] | Task,
    impute: Impute,
    wishes: Wishes,
    indexed: bool,
    named: Sequence[str] = (),
) -> Table:
    frame, source = keyed.frame, keyed.source
    if target is None:
        raise DataError(f"{source} needs a target column", help=f"add `--target` with one of: {listed(frame.columns)}")
    if target not in frame.columns:
        raise DataError(
            f"{source} has no column {quoted(target)}",
            help=f"columns, nearest first: {listed(nearest_first(target, frame.columns))}",
        )
    if frame.width == 1:
        raise DataError(
            f"{source} has no column besides the target {quoted(target)}", help="add at least one feature column"
        )
    specs, left_out = _kinds(keyed, notes, target, wishes, indexed)
    left_out += [ColumnSpec(name=one, kind="id", rule="as you said; rows are split by it") for one in named]
    read = [(spec, read_column(frame[spec.column], spec, source=source)) for spec in specs]
    left_out += [replace(spec, kind="empty", rule="no number in it") for spec, column in read if column.bad.all()]
    read = [(spec, column) for spec, column in read if not column.bad.all()]
    if not read:
        raise _nothing_left(source, target, left_out)
    columns = [column for _, column in read]
    flagged = impute == "auto"
    specs = [
        replace(spec, flags_missing=flagged and not spec.source and bool(column.bad.any())) for spec, column in read
    ]
    labels = read_target(frame[target], source=source)
    keep = _rows_to_keep(columns, labels, impute=impute)
    values, classes, task = encode_target(labels, keep, task=task)
    features = matrix_of(columns)[keep]
    return Table(
        features=features,
        target=values,
        feature_names=tuple(column.name for column in columns),
        classes=classes,
        task=task,
        name=name,
        target_name=target,
        source=kind,
        notes=(*notes, *_notes(features[:, [not spec.source for spec in specs]], labels, impute)),
        columns=tuple(specs),
        left_out=tuple(left_out),
        split_keys=keyed.keys.take(keep),
    )


def _kinds(
    keyed: KeyedFrame, notes: Sequence[str], target: str, wishes: Wishes, indexed: bool
) -> tuple[list[ColumnSpec], list[ColumnSpec]]:
    """What columns are features, and those that are left out; rows of a test file have no say in it."""
    frame, source = keyed.frame, keyed.source
    held = keyed.keys.test
    found = recognise_all(
        frame if held is None else frame.filter(~held),
        target=target,
        wishes=wishes,
        source=source,
        semicolons=any('";"' in note for note in notes),
        indexed=indexed,
    )
    if not any(spec.kind in MODEL_KINDS for spec in found):  # better than nothing
        found = [replace(spec, kind="number") if spec.kind == "index" else spec for spec in found]
    specs = [spec for spec in found if spec.kind in MODEL_KINDS]
    left_out = [spec for spec in found if spec.kind not in MODEL_KINDS]
    if not specs:
        raise _nothing_left(source, target, left_out)
    return specs, left_out


def _nothing_left(source: str, target: str, left_out: Sequence[ColumnSpec]) -> DataError:
    said = "; ".join(f"{quoted(spec.name)}: {spec.rule}" for spec in left_out[:3])
    return DataError(
        f"{source} has no column to learn from besides the target {quoted(target)}: {said}",
        help="bring columns of numbers, dates or repeated text, or say what one is: --numeric, --categorical",
    )


def _rows_to_keep(columns: Sequence[Column], labels: Target, *, impute: Impute) -> np.ndarray:
    """Row indices to learn from, int64 [kept]; refuses what ``impute`` does not cover."""
    if impute == "drop":
        keep = np.flatnonzero(~np.any([labels.bad, *(column.bad for column in columns)], axis=0))
        if not keep.size:
            raise DataError(
                f"{labels.source} has no row without a value that is missing or not finite, so `drop` leaves none",
                help="remove the columns that are mostly missing, or use `--impute mean|median`",
            )
        return keep
    keep = np.flatnonzero(~labels.bad)
    if not keep.size:
        raise DataError(
            f"{labels} has no value to learn from: {labels.faults()}", help="name another target, or fill it in"
        )
    if impute == "none":
        faults = describe_faults(columns, source=labels.source)
        if faults:
            raise DataError(faults, help=_IMPUTE_HELP)
    return keep


def _notes(features: np.ndarray, labels: Target, impute: Impute) -> list[str]:
    """What was dropped and what is missing, in features [rows, columns of the file]."""
    notes = []
    rows, unlabelled = labels.bad.size, int(labels.bad.sum())
    dropped, holes = rows - unlabelled - len(features), np.isnan(features)
    if unlabelled:
        notes.append(
            f"{unlabelled} of {count(rows, 'row')} dropped: the target {quoted(labels.name)} has no value there, "
            f"{labels.faults()}"
        )
    if dropped:
        notes.append(f"{dropped} of {count(rows, 'row')} dropped for values that are missing or not finite")
    if holes.any():
        where = count(int(holes.any(axis=0).sum()), "column")
        notes.append(
            f"{count(int(holes.sum()), 'value')} in {where} missing or not finite, "
            f"filled in with the {'median' if impute == 'auto' else impute} of the training rows"
            + (", and flagged in a column more" if impute == "auto" else "")
        )
    return notes
