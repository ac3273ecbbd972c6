"""What a split must respect besides chance: groups that stay together, a time that is cut, rows that are the test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

__all__ = ["Groups", "SplitKeys", "Times"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Rows that belong together: ``index`` int64 [rows], numbered from 0, of the column ``name``."""

    name: str
    index: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Times:
    """When rows happened.

    Args:
        name: of the column.
        values: float64 [rows]: seconds since 1970 UTC for ``date`` and ``timestamp``, else the numbers themselves.
        kind: how a value is written.
    """

    name: str
    values: np.ndarray
    kind: Literal["number", "date", "timestamp"]

    def text(self, value: float) -> str:
        """Write one value as people do.

        Example:
            >>> Times(name="day", values=np.zeros(1), kind="date").text(86400.0)
            '1970-01-02'
        """
        if self.kind == "number":
            return f"{value:.10g}"
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)
        return moment.strftime("%Y-%m-%d" if self.kind == "date" else "%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitKeys:
    """What every split of a table respects, whatever the seed.

    Args:
        groups: rows of one group come into one part.
        times: the earliest rows are trained on, the latest tested on.
        test: bool [rows], the rows of a test file; they and no others are the test part.
        test_file: its name.
        drawn: float64 [rows], from 0 to 1: of a streamed file, what decides of a row's part, whatever the seed.

    Example:
        >>> SplitKeys().groups is None
        True
    """

    groups: Groups | None = None
    times: Times | None = None
    test: np.ndarray | None = None
    test_file: str | None = None
    drawn: np.ndarray | None = None

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays of one entry a row that are there, by name."""
        found = {
            "groups": None if self.groups is None else self.groups.index,
            "times": None if self.times is None else self.times.values,
            "test": self.test,
            "drawn": self.drawn,
        }
        return {name: values for name, values in found.items() if values is not None}

    def take(self, rows: np.ndarray) -> SplitKeys:
        """Return the keys of these rows alone, int64 [kept]."""
        groups, times, test = self.groups, self.times, self.test
        return SplitKeys(
            groups=None if groups is None else Groups(name=groups.name, index=groups.index[rows]),
            times=None if times is None else Times(name=times.name, values=times.values[rows], kind=times.kind),
            test=None if test is None else test[rows],
            test_file=self.test_file,
            drawn=None if self.drawn is None else self.drawn[rows],
        )
