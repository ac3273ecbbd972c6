"""Names of columns, and first lines of other libraries' messages."""

from __future__ import annotations

from pathlib import Path

from lrdiff_core.errors import DataError
from lrdiff_core.text import listed

__all__ = ["check_names", "first_line"]


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


def first_line(problem: Exception) -> str:
    """What a library says, in one line."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
