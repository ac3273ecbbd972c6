"""A CSV or Parquet file as frames of some rows each, in order; what is held at a time does not grow with the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.data.formats import check_names
from lrdiff_core.data.formats.csv_text import decode, find_separator
from lrdiff_core.data.formats.names import first_line
from lrdiff_core.errors import DataError
from lrdiff_core.text import listed

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MOST_CELLS", "STREAMED", "is_large", "pieces_of"]

MOST_CELLS = 20_000_000
"""Cells of a table, rows times columns, that are read into memory; a file of more is streamed."""

STREAMED = (".csv", ".tsv", ".parquet")
"""What can be streamed."""

PIECE_CELLS = 2**22
PIECE_BYTES = 2**24
_HEAD_BYTES = 2**20  # that tell the separator, the header and about how long a row is


def is_large(path: Path) -> bool:
    """Whether a file has more than :data:`MOST_CELLS`; of a CSV that is estimated from its size and first rows.

    A file that cannot be read is not large: whoever reads it says what is wrong with it.
    """
    suffix = path.suffix.lower()
    if suffix not in STREAMED or not path.is_file():
        return False
    try:
        if suffix == ".parquet":
            import polars as pl

            lazy = pl.scan_parquet(path)
            return int(lazy.select(pl.len()).collect().item()) * len(lazy.collect_schema()) > MOST_CELLS
        if (size := path.stat().st_size) < 2 * MOST_CELLS:  # a cell and its separator are two bytes or more
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        columns = len(_Header(path, head).names)
        return size / len(head) * head.count(b"\n") * columns > MOST_CELLS
    except Exception as problem:
        if isinstance(problem, DataError | OSError | ValueError) or type(problem).__module__.startswith("polars"):
            return False
        raise


def pieces_of(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """Read a file piece by piece; from CSV every column is of strings, as written.

    A CSV row that is shorter than the header lacks its last values, which are missing then; a longer one is an error.

    Args:
        path: ends in one of :data:`STREAMED`.
        columns: which to read; left out: all.

    Raises:
        DataError: damaged, not text, a row longer than the header, or a column that is not there.
    """
    return _parquet(path, columns) if path.suffix.lower() == ".parquet" else _csv(path, columns)


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
    import polars as pl
    from polars.exceptions import PanicException, PolarsError

    try:
        lazy = pl.scan_parquet(path)
        names = lazy.collect_schema().names()
        check_names(path, names)
        _check_columns(path, columns, names)
        rows = int(lazy.select(pl.len()).collect().item())
        wanted = lazy if columns is None else lazy.select(columns)
        height = max(1024, PIECE_CELLS // len(names))
        for begin in range(0, rows, height):
            yield wanted.slice(begin, height).collect()
    except (PolarsError, PanicException, OSError) as problem:
        raise DataError(
            f"{path} is not a complete Parquet file: {first_line(problem)}",
            help="write the file again, or give it the suffix of its real format",
        ) from problem


def _csv(path: Path, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
    import polars as pl
    from polars.exceptions import PolarsError

    with path.open("rb") as file:
        rest = file.read(_HEAD_BYTES)
        header = _Header(path, rest)
        _check_columns(path, columns, header.names)
        rest = rest[header.size :]
        schema = dict.fromkeys(header.names, pl.String)
        row = 1
        while True:
            more = file.read(PIECE_BYTES)
            rest += more
            cut = _cut(rest) if more else len(rest)
            block, rest = rest[:cut], rest[cut:]
            if block.strip():
                try:
                    frame = pl.read_csv(io.BytesIO(block), has_header=False, schema=schema, separator=header.separator)
                except PolarsError as problem:
                    raise DataError(
                        f"{path} is not CSV behind row {row}: {first_line(problem)}",
                        help=f"give every row {len(header.names)} fields in UTF-8; a value that holds a separator must "
                        "stand in double quotes",
                    ) from problem
                row += frame.height
                yield frame if columns is None else frame.select(columns)
            if not more:
                return


class _Header:
    """What the first bytes of a CSV file say: names, separator, and where rows begin."""

    def __init__(self, path: Path, head: bytes) -> None:
        text = decode(path, head[: max(_cut(head), 0)] or head)
        self.separator = "\t" if path.suffix.lower() == ".tsv" else find_separator(text)
        self.size, line = len(b"\xef\xbb\xbf") if head.startswith(b"\xef\xbb\xbf") else 0, b""
        while not line.strip() or line.count(b'"') % 2:  # blank lines before it, line ends in its quotes
            end = head.find(b"\n", self.size + (len(line) if line.strip() else 0))
            if end < 0:
                raise DataError(f"{path} has no line end in its first MiB", help="use a file with a header and rows")
            if not line.strip():
                self.size += len(line)
            line = head[self.size : end + 1]
        self.size += len(line)
        record = next(csv.reader(io.StringIO(decode(path, line), newline=""), delimiter=self.separator))
        self.names = [name.strip() for name in record]
        check_names(path, self.names)


def _cut(data: bytes) -> int:
    """Where the last whole record ends: behind a line end with an even number of quotes before it; 0 if nowhere."""
    end = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, end)
    while end > 0 and quotes % 2:
        before = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', before, end)
        end = before
    return end


def _check_columns(path: Path, columns: Sequence[str] | None, names: Sequence[str]) -> None:
    lacking = [name for name in columns or () if name not in names]
    if lacking:
        raise DataError(f"{path} has no column {listed(lacking)}", help=f"its columns: {listed(list(names))}")
