"""JSON lines: one object a line, whose keys are columns; a key that a line leaves out is missing there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrdiff_core.data.formats.csv_text import decode
from lrdiff_core.data.formats.names import check_names
from lrdiff_core.errors import DataError
from lrdiff_core.text import count, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_json_lines", "write_json_lines"]


def read_json_lines(path: Path, data: bytes) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a whole file; columns in the order in which their names first appear.

    A column of numbers, of booleans or of texts has that type; a mixture becomes text.

    Raises:
        DataError: a line is no object, or holds a list or an object, with its number.
    """
    import polars as pl

    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for number, text in enumerate(decode(path, data).split("\n"), start=1):
        if text.strip():
            row = _object(path, text, number)
            names.update(dict.fromkeys(row))
            rows.append(row)
    check_names(path, list(names))  # polars gives an empty name one of its own
    full = all(len(row) == len(names) for row in rows)
    notes = () if full else (_left_out(rows, list(names)),)
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names]), notes


def write_json_lines(frame: pl.DataFrame) -> bytes:
    """Return the bytes of a file of one object a line."""
    text: str = frame.write_ndjson()
    return text.encode()


def _object(path: Path, text: str, number: int) -> dict[str, Any]:
    def single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            raise DataError(f"line {number} of {path} has a key twice", help="give every key of a line one value")
        return row

    try:
        row = json.loads(text, object_pairs_hook=single)
    except (ValueError, RecursionError) as problem:
        raise DataError(
            f"line {number} of {path} is not JSON: {str(problem).splitlines()[0]}",
            help='write one object a line, such as {"age": 31, "city": "Bern"}',
        ) from problem
    if not isinstance(row, dict):
        raise DataError(
            f"line {number} of {path} is not an object but a {type(row).__name__}",
            help='write one object a line, such as {"age": 31, "city": "Bern"}',
        )
    for name, value in row.items():
        if isinstance(value, dict | list):
            kind = "an object" if isinstance(value, dict) else "a list"
            raise DataError(
                f"{quoted(name)} in line {number} of {path} holds {kind}",
                help="give every key one number, text or boolean: nested values are no columns",
            )
    return row


def _left_out(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    missing = sum(len(row) < len(names) for row in rows)
    return f"{count(missing, 'line')} of {len(rows)} without every key: what is left out is missing there"


def _column(name: str, values: list[Any]) -> pl.Series:
    import polars as pl

    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pl.Series(name, values, dtype=pl.Boolean if known else pl.Null)
    if all(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 for value in known):
        return pl.Series(name, values, dtype=pl.Int64)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String)
