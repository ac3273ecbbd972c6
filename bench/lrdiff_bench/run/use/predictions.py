"""Answers of a model as a table, and where it goes: CSV on standard output, or a file of the format it is named for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.report.errors import write_out
from lrdiff_core.data.formats import encode_frame
from lrdiff_core.errors import ConfigError
from lrdiff_core.files import write_bytes
from lrdiff_core.text import unlike

if TYPE_CHECKING:
    import polars as pl

__all__ = ["predictions_table", "without_formulas", "write_predictions"]


def predictions_table(
    answers: np.ndarray, *, target: str, classes: Sequence[str], ids: Mapping[str, Sequence[Any]] | None = None
) -> pl.DataFrame:
    """Put answers into columns: what names a row, the predicted class or value, one probability a class.

    Args:
        answers: [rows, 1] values, or the probability of the second class; else [rows, classes].
        target: the name of what is predicted.
        classes: names in index order; empty for regression.
        ids: columns that name a row, [rows] each.

    Example:
        >>> predictions_table(np.array([[0.25]], np.float32), target="ill", classes=("no", "yes")).rows()
        [('no', 0.75, 0.25)]
    """
    import polars as pl

    columns: dict[str, pl.Series] = {}

    def add(name: str, values: Any, kind: Any = None) -> None:
        columns[unlike(name, columns)] = pl.Series(values, dtype=kind)

    for name, values in (ids or {}).items():
        add(name, values)
    answers = answers.astype(np.float32)
    if not classes:
        add(target, answers[:, 0])
    else:
        shares = np.concatenate([1 - answers, answers], axis=1) if answers.shape[1] == 1 else answers
        add(target, [classes[index] for index in shares.argmax(axis=1)], pl.String)
        for name, column in zip(classes, shares.T, strict=True):
            add(f"p({name})", np.ascontiguousarray(column))
    return pl.DataFrame(columns)


def without_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """The table with ``'`` before every text that a spreadsheet takes for a formula, in its head and in its cells.

    That is text that begins with ``= + - @``, a tab or a carriage return; numbers stay numbers. Names stay different.

    Example:
        >>> import polars as pl
        >>> without_formulas(pl.DataFrame({"@a": ["=1+1", "no"], "b": [-1.0, 2.0]})).to_dict(as_series=False)
        {"'@a": ["'=1+1", 'no'], 'b': [-1.0, 2.0]}
    """
    import polars as pl

    words = pl.col(pl.String)
    quoted = pl.when(words.str.contains(r"^[=+\-@\t\r]")).then("'" + words).otherwise(words).name.keep()
    renamed: dict[str, str] = {}
    for name in table.columns:
        renamed[unlike(f"'{name}" if name.startswith(tuple("=+-@\t\r")) else name, renamed)] = name
    return table.with_columns(quoted).rename({old: new for new, old in renamed.items()})


def write_predictions(table: pl.DataFrame, out: Path | None, *, quote_formulas: bool = False) -> None:
    """Write them.

    Args:
        table: of :func:`predictions_table`.
        out: a file whose suffix says its format; None: CSV on standard output.
        quote_formulas: see :func:`without_formulas`.

    Raises:
        ConfigError: formulas are to be quoted in a format that no spreadsheet takes for text.
        DataError: no format that is written has that suffix.
        InputError: the file cannot be written.
    """
    if quote_formulas:
        if out is not None and not {".csv", ".tsv"} & {suffix.lower() for suffix in out.suffixes}:
            raise ConfigError(
                f"--quote-formulas is for CSV, and {out} is none", help="leave it out: cells there have types"
            )
        table = without_formulas(table)
    if out is None:
        write_out(encode_frame(table, Path("predictions.csv")).decode(), data=True)
        return
    write_bytes(out, encode_frame(table, out))
    write_out(f"wrote {out}\n")
