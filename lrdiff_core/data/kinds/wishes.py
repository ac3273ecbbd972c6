"""What somebody said that columns are."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import listed, nearest_first, quoted

__all__ = ["Wishes"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What somebody said that columns are; all others are recognised.

    Args:
        drop: columns to leave out.
        categorical: columns whose values are names, also where they are numbers.
        id: columns that name a row: no features, repeated beside predictions.
        numeric: columns of numbers; any text among them counts as missing.
        date: columns of dates; ``COLUMN=%d/%m/%Y`` says how they are written.

    Example:
        >>> Wishes(drop=("x",), date=("when=%d/%m/%Y",)).of("when", ["x", "when"])
        ('date', '%d/%m/%Y')
    """

    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    date: tuple[str, ...] = ()

    def of(self, name: str, names: Sequence[str]) -> tuple[str, str] | None:
        """What was said of a column: the wish and, of a date, its format."""
        for wish in ("drop", "categorical", "id", "numeric", "date"):
            for entry in getattr(self, wish):
                column, form = _entry(entry, names) if wish == "date" else (entry, "")
                if column == name:
                    return wish, form
        return None

    def form_of(self, name: str | None, names: Sequence[str]) -> str:
        """How the days of a column are written, where that was said; else empty."""
        found = None if name is None else self.of(name, names)
        return found[1] if found is not None and found[0] == "date" else ""

    def without(self, columns: Container[str], names: Sequence[str]) -> tuple[Wishes, tuple[str, ...]]:
        """What was said of all other columns, and which of ``columns`` are to name a row."""
        left = {
            wish: tuple(
                one for one in getattr(self, wish) if (_entry(one, names)[0] if wish == "date" else one) not in columns
            )
            for wish in ("drop", "categorical", "id", "numeric", "date")
        }
        return Wishes(**left), tuple(one for one in self.id if one in columns)

    def check(self, names: Sequence[str], *, target: str, source: str) -> None:
        """Refuse wishes for columns that are not there, for the target, and two for one column.

        Raises:
            DataError: no such column.
            ConfigError: it is the target, or was named twice.
        """
        seen: dict[str, str] = {}
        for wish in ("drop", "categorical", "id", "numeric", "date"):
            for entry in getattr(self, wish):
                column = _entry(entry, names)[0] if wish == "date" else entry
                if column not in names:
                    raise DataError(
                        f"{source} has no column {quoted(column)}, which {wish} names",
                        help=f"columns, nearest first: {listed(nearest_first(column, list(names)))}",
                    )
                if column == target:
                    raise ConfigError(
                        f"{wish} names the target {quoted(column)}", help="name features; --task says what a target is"
                    )
                if column in seen:
                    raise ConfigError(
                        f"column {quoted(column)} is named by {seen[column]} and by {wish}", help="name it once"
                    )
                seen[column] = wish


def _entry(entry: str, names: Sequence[str]) -> tuple[str, str]:
    name, equals, form = entry.rpartition("=")
    return (name, form) if equals and entry not in names else (entry, "")
