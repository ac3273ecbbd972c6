"""Files people bring, read into one frame: CSV as strings, Parquet and Arrow IPC with their own types."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.errors import DataError
from lrdiff_core.text import count, listed, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SUFFIXES", "check_names", "read_frame"]

SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow", ".ipc", ".feather")
"""What a file must end in to be read."""

_NOT_TEXT = {  # first bytes: what the file really is, what to do about it
    b"PAR1": ("a Parquet file", "rename it to end in .parquet"),
    b"ARROW1": ("an Arrow file", "rename it to end in .arrow"),
    b"\x1f\x8b": ("a gzip archive", "unpack it first: gunzip reads it when its name ends in .gz"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
}
_PROBE = 8192  # bytes searched for a NUL, which text does not hold


def read_frame(path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a file whole.

    Args:
        path: a file that ends in one of :data:`SUFFIXES`, in capitals or not.

    Returns:
        The frame, with at least one row and with distinct names that are not empty, and notes for the reader.
        From CSV every column is of strings, as written.

    Raises:
        DataError: the file is missing, not of its format, damaged or empty, or its header has a fault.
    """
    suffix = path.suffix.lower()
    data = _read_bytes(path, suffix)
    if not data.strip():
        raise DataError(f"{path} is empty", help="use a file with a header and rows")
    if suffix in (".csv", ".tsv"):
        frame, notes = _read_csv(path, data, suffix)
    else:
        frame, notes = _read_columnar(path, data, suffix), ()
    check_names(path, frame.columns)
    if frame.height == 0:
        raise DataError(f"{path} has a header and no rows", help="use a file with rows below its header")
    return frame, notes


def _read_bytes(path: Path, suffix: str) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file", help=f"name one file in it that ends in {_suffixes()}")
    if not path.exists():
        raise DataError(f"{path} does not exist", help="check the name; a relative one starts at the current folder")
    if suffix == ".gz":
        raise DataError(
            f"{path} is compressed, and only uncompressed files are read", help=f"unpack it first: gunzip {path}"
        )
    if suffix not in SUFFIXES:
        ending = f"ends in {path.suffix}" if suffix else "has no suffix"
        raise DataError(f"{path} {ending}, so its format is not recognised", help=f"use a file in {_suffixes()}")
    try:
        return path.read_bytes()
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror}", help="check that you may read it") from problem


def _suffixes() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def check_names(source: Path | str, names: list[str]) -> None:
    """Refuse names of columns that are empty or occur twice.

    Raises:
        DataError: naming the columns.
    """
    unnamed = [str(place) for place, name in enumerate(names, start=1) if not name]
    if unnamed:
        raise DataError(
            f"{source} has no name for column {', '.join(unnamed)}",
            help="name every column in the header, or remove the column (pandas writes one unless index=False)",
        )
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(
            f"{source} has more than one column of the name {listed(twice)}", help="give every column a name of its own"
        )


# ---------------------------------------------------------------- CSV


def _read_csv(path: Path, data: bytes, suffix: str) -> tuple[pl.DataFrame, tuple[str, ...]]:
    # Python's csv module and not polars: polars fills short rows with nulls, takes a blank line for a row of nulls,
    # renames duplicate columns, all without a word, and differs in these from version to version.
    import polars as pl

    text = _decode(path, data)
    separator = "\t" if suffix == ".tsv" else _find_separator(text)
    notes = (f"columns are separated by {quoted(separator)}",) if suffix == ".csv" and separator != "," else ()
    rows: list[list[str]] = []
    try:
        records = _records(text, separator)
        header = [name.strip() for name in next(records)]
        check_names(path, header)
        for row, record in enumerate(records, start=1):
            if len(record) != len(header):
                raise DataError(
                    f"row {row} of {path} has {count(len(record), 'field')}, and the header has {len(header)}",
                    help=f"give every row {count(len(header), 'field')}; a value that holds {quoted(separator)} "
                    "must stand in double quotes",
                )
            rows.append(record)
    except csv.Error as problem:
        raise DataError(
            f"row {len(rows) + 1} of {path} is not CSV: {problem}",
            help="check its double quotes: each opens and closes a whole field, and one inside is written twice",
        ) from problem
    columns = [
        pl.Series(name, [record[place] for record in rows], dtype=pl.String) for place, name in enumerate(header)
    ]
    return pl.DataFrame(columns), notes


def _decode(path: Path, data: bytes) -> str:
    for first, (kind, help) in _NOT_TEXT.items():
        if data.startswith(first):
            raise DataError(f"{path} is not what its name says: it is {kind}", help=help)
    if b"\0" in data[:_PROBE]:
        raise DataError(
            f"{path} is not text", help="use comma-separated text in UTF-8, or give the file the suffix of its format"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise DataError(
            f"{path} is not UTF-8 text: byte 0x{data[problem.start]:02x} on line {line}",
            help=f"save it as UTF-8, for example: iconv -f latin1 -t utf-8 {path}",
        ) from problem


def _find_separator(text: str) -> str:
    """The first of comma, semicolon and tab that cuts the header into more than one field, else the comma."""
    for separator in ",;\t":
        try:
            if len(next(_records(text, separator))) > 1:
                return separator
        except csv.Error:  # quotes that make no sense with this separator
            continue
    return ","


def _records(text: str, separator: str) -> Iterator[list[str]]:
    """The records of a CSV text, blank lines left out."""
    # newline="" so that a line end inside quotes stays what it is; strict so that an open quote is an error
    for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
        if record and not (len(record) == 1 and record[0].isspace()):
            yield record


# ---------------------------------------------------------------- Parquet and Arrow IPC


def _read_columnar(path: Path, data: bytes, suffix: str) -> pl.DataFrame:
    import polars as pl
    from polars.exceptions import DuplicateError, PanicException, PolarsError

    kind = "Parquet" if suffix == ".parquet" else "Arrow IPC"
    try:
        if kind == "Parquet":
            return pl.read_parquet(io.BytesIO(data))
        if data.startswith(b"ARROW1"):
            return pl.read_ipc(io.BytesIO(data))
        return pl.read_ipc_stream(io.BytesIO(data))  # .arrow names both layouts
    except DuplicateError as problem:
        raise DataError(
            f"{path} has more than one column of the same name: {_first_line(problem)}",
            help="give every column a name of its own",
        ) from problem
    except PanicException as problem:  # an assertion in polars' own code, which says nothing to a reader
        raise DataError(
            f"{path} cannot be decoded: it is damaged, or two of its columns have the same name",
            help="write the file again, with a name of its own for every column",
        ) from problem
    except (PolarsError, OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} is not a complete {kind} file: {_first_line(problem)}",
            help="write the file again, or give it the suffix of its real format",
        ) from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
