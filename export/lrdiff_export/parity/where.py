"""Where an output is wrong: which rows, positions and columns, and what the inputs have there that others have not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrdiff_export.verify.expected import Expected

__all__ = ["Axis", "Where", "locate"]

SHOWN = 8  # places that are listed


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The places along one dimension at which anything is wrong.

    Attributes:
        name: ``row``, ``column`` (the last dimension), ``position`` (a dimension between).
        places: the first of them, from 0.
        count, of: how many there are, of how many.
    """

    name: str
    places: tuple[int, ...]
    count: int
    of: int

    def __str__(self) -> str:
        if self.count == self.of:
            return f"every {self.name}"
        listed = ", ".join(map(str, self.places)) + (", ..." if self.count > len(self.places) else "")
        return f"{self.name}{'s' if self.count > 1 else ''} {listed} ({self.count} of {self.of})"


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where an output is wrong.

    Attributes:
        output: its name.
        wrong, of: how many numbers are beyond the tolerance, of how many.
        axes: one a dimension that is longer than 1, rows first.
        worst: place of the largest error, row first.
        given, right: the numbers there.
        only: what is true of the inputs there and nowhere else, in words; None where nothing was found.
    """

    output: str
    wrong: int
    of: int
    axes: tuple[Axis, ...]
    worst: tuple[int, ...]
    given: float
    right: float
    only: str | None = None

    @property
    def everywhere(self) -> bool:
        """Whether no row, position or column is spared."""
        return all(axis.count == axis.of for axis in self.axes)

    def __str__(self) -> str:
        if self.everywhere:
            return self._most
        places = " and ".join(map(str, self.axes))
        only = f", {self.only}" if self.only else ""
        return f"{self.wrong} of {self.of} numbers, in {places}{only}, {self._most}"

    @property
    def _most(self) -> str:
        """The largest error, and where."""
        return f"most at {list(self.worst)}: {self.given:.6g} instead of {self.right:.6g}"


def locate(expected: Expected, values: np.ndarray, rows: Sequence[np.ndarray] = ()) -> Where | None:
    """Return where an output is wrong; None where it is nowhere, or has another shape or dtype.

    Args:
        expected: what it should be.
        values: ``[batch, ...]``.
        rows: inputs that it was computed from, ``[batch, ...]`` each.

    Example:
        >>> from lrdiff_export.verify.compare import Budget
        >>> answer = np.zeros((100, 4))
        >>> values = answer.astype(np.float32)
        >>> values[3:5, 2] = 1
        >>> budget = Budget(dtype="float32", scale=1, unit=1e-7, eager_error=1, conditioning=1, allowed=8)
        >>> str(locate(Expected(name="y", answer=answer, budget=budget), values))
        '2 of 400 numbers, in rows 3, 4 (2 of 100) and column 2 (1 of 4), most at [3, 2]: 1 instead of 0'
    """
    answer = expected.answer
    if str(values.dtype) != expected.budget.dtype or values.shape != answer.shape:
        return None
    wrong = expected.wrong(values)
    if not wrong.any():
        return None
    axes = []
    for at, size in enumerate(wrong.shape):
        if size == 1:
            continue
        places = np.flatnonzero(wrong.any(axis=tuple(i for i in range(wrong.ndim) if i != at)))
        name = "row" if at == 0 else "column" if at == wrong.ndim - 1 else "position"
        listed = tuple(int(one) for one in places[:SHOWN])
        axes.append(Axis(name=name, places=listed, count=len(places), of=size))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(wrong, np.nan_to_num(np.abs(values.astype(np.float64) - answer), nan=np.inf), -1.0)
    worst = tuple(int(one) for one in np.unravel_index(int(error.argmax()), error.shape))
    return Where(
        output=expected.name,
        wrong=int(wrong.sum()),
        of=wrong.size,
        axes=tuple(axes),
        worst=worst,
        given=float(values[worst]),
        right=float(answer[worst]),
        only=_only_there(wrong, rows),
    )


def _only_there(wrong: np.ndarray, rows: Sequence[np.ndarray]) -> str | None:
    """What the inputs have exactly where the output is wrong: a masked position, a number that is not finite."""
    by_row = wrong.reshape(len(wrong), -1).any(axis=1)
    for number, one in enumerate(rows):
        for words, mark in _marks(one):
            if mark.shape == wrong.shape[: mark.ndim] and mark.ndim > 1:
                by_place = wrong.reshape(*mark.shape, -1).any(axis=-1)
                if np.array_equal(mark, by_place) and not mark.all():
                    return f"exactly the positions where input {number} {words}"
            some, all_of_it = mark.reshape(len(mark), -1).any(axis=1), mark.reshape(len(mark), -1).all(axis=1)
            for how, marked in (("only ", all_of_it), ("", some)):
                if np.array_equal(marked, by_row) and not marked.all():
                    what = words if mark.ndim == 1 else f"{words} everywhere" if how else f"{words} anywhere"
                    return f"exactly the rows where input {number} {what}"
    return None


def _marks(one: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Masks ``[batch, ...]`` of an input that a fault may depend on, and what is true there."""
    if one.dtype.kind == "f":
        return [
            ("is NaN", np.isnan(one)),
            ("is not finite", ~np.isfinite(one)),
            ("is 0", one == 0),
            ("is negative", one < 0),
        ]
    if one.dtype.kind == "b" or (one.size and one.min() >= 0 and one.max() <= 1):
        return [("is masked (0)", one == 0), ("is not masked (1)", one != 0)]
    return [("is 0", one == 0), ("is negative", one < 0), ("is the largest index", one == one.max(initial=0))]
