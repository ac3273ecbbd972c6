"""Parquet and Arrow IPC, read and written with their own types."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.data.formats.names import first_line
from lrdiff_core.data.formats.room import check_room
from lrdiff_core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_arrow", "read_parquet", "write_arrow", "write_parquet"]


def read_parquet(path: Path, data: bytes) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a whole Parquet file.

    Raises:
        DataError: damaged, or names occur twice.
    """
    return _read(path, data, "Parquet"), ()


def read_arrow(path: Path, data: bytes) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a whole Arrow file, in the layout of files or of streams.

    Raises:
        DataError: damaged, or names occur twice.
    """
    return _read(path, data, "Arrow IPC"), ()


def write_parquet(frame: pl.DataFrame) -> bytes:
    """Return the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def write_arrow(frame: pl.DataFrame) -> bytes:
    """Return the bytes of an Arrow file."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def _read(path: Path, data: bytes, kind: str) -> pl.DataFrame:
    import polars as pl
    from polars.exceptions import DuplicateError, PanicException, PolarsError

    try:
        if kind == "Parquet":
            check_room(path, len(data), pl.scan_parquet(io.BytesIO(data)))
            return pl.read_parquet(io.BytesIO(data))
        if data.startswith(b"ARROW1"):
            check_room(path, len(data), pl.scan_ipc(io.BytesIO(data)))
            return pl.read_ipc(io.BytesIO(data))
        frame = pl.read_ipc_stream(io.BytesIO(data))  # .arrow names both layouts, and this one cannot be read in part
        check_room(path, len(data), frame.lazy())
        return frame
    except DuplicateError as problem:
        raise DataError(
            f"{path} has more than one column of the same name: {first_line(problem)}",
            help="give every column a name of its own",
        ) from problem
    except PanicException as problem:  # an assertion in polars' own code, which says nothing to a reader
        raise DataError(
            f"{path} cannot be decoded: it is damaged, or two of its columns have the same name",
            help="write the file again, with a name of its own for every column",
        ) from problem
    except (PolarsError, OSError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} is not a complete {kind} file: {first_line(problem)}",
            help="write the file again, or give it the suffix of its real format",
        ) from problem
