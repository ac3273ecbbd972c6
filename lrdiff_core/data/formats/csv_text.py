"""CSV and TSV as strings, as written: no cell is taken for anything before its column is known."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.data.formats.names import check_names
from lrdiff_core.errors import DataError
from lrdiff_core.text import count, quoted, unlike

if TYPE_CHECKING:
    import polars as pl

__all__ = ["decode", "find_separator", "read_csv", "read_tsv", "write_csv", "write_tsv"]

_NOT_TEXT = {  # first bytes: what the file really is, what to do about it
    b"PAR1": ("a Parquet file", "rename it to end in .parquet"),
    b"ARROW1": ("an Arrow file", "rename it to end in .arrow"),
    b"\x1f\x8b": ("a gzip archive", "rename it to end in .gz behind the suffix of its format"),
    b"BZh": ("a bzip2 archive", "rename it to end in .bz2 behind the suffix of its format"),
    b"\xfd7zXZ": ("an xz archive", "rename it to end in .xz behind the suffix of its format"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "rename it to end in .zst behind the suffix of its format"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "rename it to end in .zip or .xlsx"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
}
_PROBE = 8192  # bytes searched for a NUL, which text does not hold


def read_csv(path: Path, data: bytes) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a whole file whose columns are separated by the first of comma, semicolon and tab that cuts its header.

    Raises:
        DataError: not text in UTF-8, a row of another length than the header, or quotes that do not close.
    """
    text = decode(path, data)
    separator = find_separator(text)
    notes = (f"columns are separated by {quoted(separator)}",) if separator != "," else ()
    return _read(path, text, separator), notes


def read_tsv(path: Path, data: bytes) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a whole file whose columns are separated by tabs.

    Raises:
        DataError: as :func:`read_csv`.
    """
    return _read(path, decode(path, data), "\t"), ()


def write_csv(frame: pl.DataFrame) -> bytes:
    """Return the bytes of a CSV file; numbers with as many digits as tell them apart, at most nine for float32."""
    return _written(frame, ",")


def write_tsv(frame: pl.DataFrame) -> bytes:
    """Return the bytes of a TSV file."""
    return _written(frame, "\t")


def _written(frame: pl.DataFrame, separator: str) -> bytes:
    import polars as pl

    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n", delimiter=separator)
    table.writerow(frame.columns)
    forms = [".9g" if kind == pl.Float32 else ".17g" if kind == pl.Float64 else "" for kind in frame.dtypes]
    for row in frame.iter_rows():
        table.writerow(["" if value is None else format(value, form) for value, form in zip(row, forms, strict=True)])
    return out.getvalue().encode()


def _read(path: Path, text: str, separator: str) -> pl.DataFrame:
    # Python's csv module and not polars: polars fills short rows with nulls, takes a blank line for a row of nulls,
    # renames duplicate columns, all without a word, and differs in these from version to version.
    import polars as pl

    rows: list[list[str]] = []
    try:
        records = _records(text, separator)
        header = [name.strip() for name in next(records)]
        if len(header) > 1 and not header[0]:
            header[0] = unlike("index", header)  # pandas writes its index so
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
    return pl.DataFrame(columns)


def decode(path: Path, data: bytes) -> str:
    """Return the text of a file.

    Raises:
        DataError: it is something else, or not in UTF-8, with the line.
    """
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


def find_separator(text: str) -> str:
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
