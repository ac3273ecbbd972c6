"""The one registry of formats: suffix, reader and writer of each; compressed ones by the suffix behind."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.data.formats.columnar import read_arrow, read_parquet, write_arrow, write_parquet
from lrdiff_core.data.formats.compressed import FIRST_BYTES, PACKED, pack, unpack, zip_members
from lrdiff_core.data.formats.csv_text import read_csv, read_tsv, write_csv, write_tsv
from lrdiff_core.data.formats.json_lines import read_json_lines, write_json_lines
from lrdiff_core.data.formats.names import check_names
from lrdiff_core.data.formats.spreadsheet import read_excel
from lrdiff_core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FORMATS", "STANDARD_INPUT", "SUFFIXES", "Format", "encode_frame", "has_suffix", "read_frame", "table_name"]

STANDARD_INPUT = "-"
"""In place of a file's name: rows from standard input, whose first bytes tell the format."""

Reader = Callable[[Path, bytes], "tuple[pl.DataFrame, tuple[str, ...]]"]
Writer = Callable[["pl.DataFrame"], bytes]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A way to store a table.

    Args:
        name: what people call it.
        suffixes: what its files end in.
        read: from a file's name and bytes to a frame and notes.
        write: from a frame to a file's bytes; None where it is only read.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Reader
    write: Writer | None


FORMATS = (
    Format(name="CSV", suffixes=(".csv",), read=read_csv, write=write_csv),
    Format(name="TSV", suffixes=(".tsv",), read=read_tsv, write=write_tsv),
    Format(name="Parquet", suffixes=(".parquet",), read=read_parquet, write=write_parquet),
    Format(name="Arrow", suffixes=(".arrow", ".ipc", ".feather"), read=read_arrow, write=write_arrow),
    Format(name="JSON lines", suffixes=(".jsonl", ".ndjson"), read=read_json_lines, write=write_json_lines),
    Format(name="Excel", suffixes=(".xlsx",), read=read_excel, write=None),
)
"""All formats; a new one is one line here, and the contract test tries it."""

SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)
"""What a file must end in to be read, each also with one of ``PACKED`` behind it."""

_BY_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}


def read_frame(path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read a file whole.

    Args:
        path: a file that ends in one of :data:`SUFFIXES`, in capitals or not, compressed or not; or ``-`` for
            standard input.

    Returns:
        The frame, with at least one row and with distinct names that are not empty, and notes for the reader.
        From CSV every column is of strings, as written.

    Raises:
        DataError: the file is missing, not of its format, damaged or empty, or its header has a fault.
        UnavailableError: the format needs a package that is not here.
    """
    if str(path) == STANDARD_INPUT:
        path, data = Path("standard input"), sys.stdin.buffer.read()
        data, suffix = _recognise(path, data)
    else:
        suffix, packed = _suffixes_of(path)
        data = _read_bytes(path, suffix, packed)
        if packed and data.strip():
            data, inner = unpack(path, data, packed)
            suffix = inner or suffix
    if suffix not in _BY_SUFFIX:
        raise DataError(
            f"{path} holds a file that ends in {suffix or 'no suffix'}, so its format is not recognised",
            help=f"what is inside must be a file in {_choices()}",
        )
    if not data.strip():
        raise DataError(f"{path} is empty", help="use a file with a header and rows")
    frame, notes = _BY_SUFFIX[suffix].read(path, data)
    check_names(path, frame.columns)
    if frame.height == 0:
        raise DataError(f"{path} has a header and no rows", help="use a file with rows below its header")
    return frame, notes


def encode_frame(frame: pl.DataFrame, path: Path) -> bytes:
    r"""Return the bytes of a file of the format that its name asks for.

    Args:
        frame: the table.
        path: ends in a suffix of a format that is written, and perhaps in one of ``PACKED`` behind it.

    Raises:
        DataError: no format that is written has that suffix.
        UnavailableError: the compression needs a package that is not here.

    Example:
        >>> import polars as pl
        >>> encode_frame(pl.DataFrame({"a": [1, 2]}), Path("t.jsonl"))
        b'{"a":1}\n{"a":2}\n'
    """
    suffix, packed = _suffixes_of(path)
    one = _BY_SUFFIX.get(suffix)
    if one is None or one.write is None:
        written = [ending for format in FORMATS if format.write is not None for ending in format.suffixes]
        raise DataError(
            f"{path} ends in {path.suffix or 'no suffix'}, and no format that is written has it",
            help=f"use a file in {', '.join(written[:-1])} or {written[-1]}",
        )
    data = one.write(frame)
    return pack(path, data, packed, f"{table_name(path)}{suffix}") if packed else data


def has_suffix(path: Path) -> bool:
    """Whether a name ends as a table's does.

    Example:
        >>> has_suffix(Path("a.CSV.gz")), has_suffix(Path("a.gz")), has_suffix(Path("a.toml"))
        (True, False, False)
    """
    return _suffixes_of(path)[0] in _BY_SUFFIX


def table_name(path: Path) -> str:
    """A file's name without folders and suffixes.

    Example:
        >>> table_name(Path("data/iris.csv.gz")), table_name(Path("v1.2.csv"))
        ('iris', 'v1.2')
    """
    stem = path.stem
    inner = Path(stem)
    return inner.stem if path.suffix.lower() in PACKED and inner.suffix.lower() in _BY_SUFFIX else stem


def _suffixes_of(path: Path) -> tuple[str, str]:
    """The suffix of the format and that of the compression, each perhaps empty."""
    last = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), last) if last in PACKED else (last, "")


def _read_bytes(path: Path, suffix: str, packed: str) -> bytes:
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file", help=f"name one file in it that ends in {_choices()}")
    if not path.exists():
        raise DataError(f"{path} does not exist", help="check the name; a relative one starts at the current folder")
    if suffix not in _BY_SUFFIX and packed != ".zip":  # whose member has a suffix of its own
        ending = f"ends in {suffix}{packed}" if suffix or packed else "has no suffix"
        raise DataError(
            f"{path} {ending}, so its format is not recognised",
            help=f"use a file in {_choices()}, or one of them compressed: {', '.join(PACKED)}",
        )
    try:
        return path.read_bytes()
    except OSError as problem:
        raise DataError(f"cannot read {path}: {problem.strerror}", help="check that you may read it") from problem


def _recognise(path: Path, data: bytes) -> tuple[bytes, str]:
    """What standard input holds, unpacked, and the suffix of its format."""
    for first, packed in FIRST_BYTES.items():
        if data.startswith(first):
            data, _ = unpack(path, data, packed)
            break
    if data.startswith(b"PK\x03\x04"):
        try:
            if any(member.filename == "xl/workbook.xml" for member in zip_members(data)):
                return data, ".xlsx"
        except zipfile.BadZipFile:
            pass
        return unpack(path, data, ".zip")
    if data.startswith(b"PAR1"):
        return data, ".parquet"
    if data.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return data, ".arrow"
    return data, ".jsonl" if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else ".csv"


def _choices() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
