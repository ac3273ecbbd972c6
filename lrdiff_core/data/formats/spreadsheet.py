"""Excel: the first sheet of a workbook, its first row as the header. Reading needs fastexcel."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.data.formats.compressed import most_bytes, unpacked_limit, zip_members
from lrdiff_core.data.formats.names import check_names, first_line
from lrdiff_core.errors import DataError, UnavailableError
from lrdiff_core.text import quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_excel"]


def read_excel(path: Path, data: bytes) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read the first sheet of a workbook.

    Raises:
        DataError: not a workbook, no header, names that occur twice, or one that unpacks to too much.
        UnavailableError: fastexcel is not installed.
    """
    try:
        import fastexcel
    except ImportError:
        raise UnavailableError(
            f"{path} is an Excel file, and reading one needs fastexcel, which is not installed",
            help="pip install fastexcel, or save the sheet as CSV",
        ) from None
    import polars as pl
    from polars.exceptions import PolarsError

    _check_size(path, data)
    try:
        sheets = fastexcel.read_excel(data).sheet_names
        header = pl.read_excel(
            io.BytesIO(data), sheet_id=1, engine="calamine", has_header=False, read_options={"n_rows": 1},
            drop_empty_rows=False, drop_empty_cols=False, raise_if_empty=False,
        )  # fmt: skip
        names = [] if header.height == 0 else ["" if value is None else str(value).strip() for value in header.row(0)]
        if not names:
            raise DataError(f"{path} has an empty first sheet {quoted(sheets[0])}", help="put the rows on that sheet")
        check_names(path, names)
        frame = pl.read_excel(
            io.BytesIO(data), sheet_id=1, engine="calamine", infer_schema_length=None, drop_empty_cols=False,
            raise_if_empty=False,
        )  # fmt: skip
    except (fastexcel.FastExcelError, PolarsError, OSError, ValueError) as problem:
        raise DataError(
            f"{path} is not a complete Excel file: {first_line(problem)}",
            help="save the sheet again as .xlsx, or as CSV",
        ) from problem
    frame.columns = names
    more = len(sheets) - 1
    if not more:
        return frame, ()
    return frame, (f"sheet {quoted(sheets[0])} is read, and {more} more {'is' if more == 1 else 'are'} not",)


def _check_size(path: Path, data: bytes) -> None:
    """A workbook is a zip: refuse one that says it unpacks to more than the limit."""
    try:
        size = sum(member.file_size for member in zip_members(data))
    except zipfile.BadZipFile as problem:
        raise DataError(
            f"{path} is not a complete Excel file: {first_line(problem)}",
            help="save the sheet again as .xlsx, or as CSV",
        ) from problem
    if size > unpacked_limit(len(data)):
        raise most_bytes(path, len(data))
