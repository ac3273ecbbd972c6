"""From a name or a file to a table, and from a file to the rows of a prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lrdiff_core.data.builtin import BUILTIN_TABLES
from lrdiff_core.data.columns import Column, describe_faults, read_numbers
from lrdiff_core.data.formats import STANDARD_INPUT, SUFFIXES, read_frame, table_name
from lrdiff_core.data.frames import SOURCE, to_frame
from lrdiff_core.data.labels import Target, encode_target, read_target
from lrdiff_core.data.splitting.columns import KeyedFrame, split_frame
from lrdiff_core.data.table import Impute, Table, Task
from lrdiff_core.errors import DataError
from lrdiff_core.text import check_choice, check_seed, count, listed, nearest_first, quoted

__all__ = ["load_table", "read_features"]

_ROWS_SHOWN = 5  # rows named in one message
_IMPUTE_HELP = "`--impute mean|median|drop` fills them in from the training rows, or drops their rows"


def load_table(
    source: Any,
    *,
    target: str | None = None,
    task: Literal["auto"] | Task = "auto",
    impute: Impute = "none",
    seed: int = 0,
    columns: Sequence[str] | None = None,
    test: Any = None,
    groups: str | None = None,
    time: str | None = None,
) -> Table:
    """Load a built-in table by its name, a file by its path, or a table in memory.

    A pandas, polars or pyarrow table gives what the same table in a file gives; the index of a pandas table is not
    a column. Every column of a table but the target is a feature. Rows are counted from 1, the first below the header.
    In CSV, an empty cell, NA, N/A, null and nan are missing values; true and false count as 1 and 0.

    With ``task="auto"``: text and boolean labels are classes; so are numbers with two distinct values; so are
    whole numbers with at most 20 distinct values, each occurring at least twice on average; all else is
    regression. Two classes make the task binary, more multiclass. Classes are ordered by number, or else by text.

    Args:
        source: a built-in name, or a path; a word that is a file, or has a suffix, is a path. Or a pandas, polars
            or pyarrow table, a NumPy array with named fields, or one of [rows, columns].
        target: the column to predict; needed for all but a built-in table.
        task: what the target is to be taken for.
        impute: what to do about features that are missing, infinite or too large for float32: refuse them
            (``none``), leave NaN for the model to fill in from the training rows (``mean``, ``median``), or
            drop their rows (``drop``). Rows without a target are always dropped.
        seed: of the generator behind the table ``seed``; nothing else here is random.
        columns: names of the columns of a plain array; left out: ``x1``, ``x2``, ...
        test: a second file or table with the same columns, whose rows and no others are the test part of every
            split.
        groups: a column whose equal values stay in one part of every split; it is no feature.
        time: a column of dates, timestamps or numbers: every split trains on the earliest rows and tests on the
            latest; it is no feature.

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
    is_file = isinstance(source, str | os.PathLike)
    if is_file and columns is not None:
        raise DataError(f"columns= is given, and {quoted(str(source))} names its own", help="leave columns= out")
    if isinstance(source, str) and source != STANDARD_INPUT and not Path(source).suffix and not Path(source).is_file():
        given = {"test": test, "groups": groups, "time": time}
        for name in (name for name, value in given.items() if value is not None):
            raise DataError(
                f"{name} is given, and built-in table {quoted(source)} has no such file or column",
                help="write the table to a file and name that, or leave it out",
            )
        return _built_in(source, target=target, task=task, seed=seed)
    frame, notes = read_frame(Path(source)) if is_file else (to_frame(source, columns=columns), ())
    keyed = split_frame(frame, str(source) if is_file else SOURCE, target=target, test=test, groups=groups, time=time)
    return _from_frame(
        keyed,
        (*notes, *keyed.notes),
        name=table_name(Path(source)) if is_file else "table",
        kind="file" if is_file else "memory",
        target=target,
        task=task,
        impute=impute,
    )


def read_features(source: Any, *, feature_names: Sequence[str], impute: Impute = "none") -> np.ndarray:
    r"""Read the rows of a prediction: the model's columns by name, in its order; other columns are ignored.

    Args:
        source: a file or a table in memory, as for :func:`load_table`; it needs no target.
        feature_names: what the model was trained on.
        impute: as the model was trained. With ``mean`` and ``median`` values that are missing, infinite or too
            large become NaN, which the model fills in; otherwise they are an error, for a prediction drops no row.

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
    check_choice("impute", impute, get_args(Impute))
    if isinstance(source, str | os.PathLike):
        path: str | Path = Path(source)
        frame, _ = read_frame(Path(source))
    else:
        path, frame = SOURCE, to_frame(source)
    lacking = [name for name in feature_names if name not in frame.columns]
    if lacking:
        raise DataError(
            f"{path} lacks {count(len(lacking), 'column')} of the model: {listed(lacking)}",
            help=f"columns of the file, nearest first: {listed(nearest_first(lacking[0], frame.columns))}",
        )
    columns = [read_numbers(frame[name], source=str(path)) for name in feature_names]
    if impute == "drop":
        rows = np.flatnonzero(np.any([column.bad for column in columns], axis=0)) + 1
        if rows.size:
            shown = ", ".join(str(row) for row in rows[:_ROWS_SHOWN])
            more = f" and {rows.size - _ROWS_SHOWN} more" if rows.size > _ROWS_SHOWN else ""
            raise DataError(
                f"{path} has values that are not finite numbers in row{'s' if rows.size > 1 else ''} {shown}{more}",
                help="prediction never drops a row: remove these, or train with `--impute mean|median`",
            )
    elif impute == "none":
        faults = describe_faults(columns, source=str(path))
        if faults:
            raise DataError(faults, help="fill them in, or train with `--impute mean|median` so that the model does")
    return _matrix(columns)


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
    columns = [read_numbers(frame[name], source=source) for name in frame.columns if name != target]
    labels = read_target(frame[target], source=source)
    keep = _rows_to_keep(columns, labels, impute=impute)
    values, classes, task = encode_target(labels, keep, task=task)
    features = _matrix(columns)[keep]
    return Table(
        features=features,
        target=values,
        feature_names=tuple(column.name for column in columns),
        classes=classes,
        task=task,
        name=name,
        target_name=target,
        source=kind,
        notes=(*notes, *_notes(features, labels, impute)),
        split_keys=keyed.keys.take(keep),
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
    empty = [column.name for column in columns if column.bad.all()]
    if empty:
        raise DataError(
            f"{labels.source} has no finite number in {count(len(empty), 'column')}: {listed(empty)}",
            help=f"remove {'it' if len(empty) == 1 else 'them'}: there is nothing to compute a {impute} from",
        )
    return keep


def _matrix(columns: Sequence[Column]) -> np.ndarray:
    """float32 [rows, columns], NaN for every bad value."""
    values = np.stack([column.values for column in columns], axis=1)
    values[~np.isfinite(values)] = np.nan
    return values


def _notes(features: np.ndarray, labels: Target, impute: Impute) -> list[str]:
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
            f"filled in with the {impute} of the training rows"
        )
    return notes
