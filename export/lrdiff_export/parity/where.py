"""Where an output is wrong: which rows, which positions, which columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrdiff_export.verify.compare import Budget, as_dtype, kind_of

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
    """

    output: str
    wrong: int
    of: int
    axes: tuple[Axis, ...]

    @property
    def everywhere(self) -> bool:
        """Whether no row, position or column is spared."""
        return all(axis.count == axis.of for axis in self.axes)

    def __str__(self) -> str:
        places = " and ".join(map(str, self.axes))
        return f"{self.wrong} of {self.of} numbers" + (f", in {places}" if places else "")


def locate(
    output: str, values: np.ndarray, answer: np.ndarray, budget: Budget, excused: np.ndarray | None = None
) -> Where | None:
    """Return where an output is beyond its budget; None where it is nowhere, or has another shape or dtype.

    Args:
        output: its name.
        values: ``[batch, ...]``.
        answer: that of float64.
        budget: what it may be wrong by.
        excused: mask of what is not judged.

    Example:
        >>> answer = np.zeros((100, 4))
        >>> values = answer.astype(np.float32)
        >>> values[3:5, 2] = 1
        >>> budget = Budget(dtype="float32", scale=1, unit=1e-7, eager_error=1, conditioning=1, allowed=8)
        >>> str(locate("y", values, answer, budget))
        '2 of 400 numbers, in rows 3, 4 (2 of 100) and column 2 (1 of 4)'
    """
    if str(values.dtype) != budget.dtype or values.shape != answer.shape:
        return None
    if values.dtype.kind == "f":
        wrong = kind_of(values) != kind_of(as_dtype(answer, values.dtype))
        with np.errstate(invalid="ignore", over="ignore"):
            wrong |= np.abs(values.astype(np.float64) - answer) > budget.allowed * budget.unit
    else:
        wrong = values != answer
    if excused is not None:
        wrong &= ~excused
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
    return Where(output=output, wrong=int(wrong.sum()), of=wrong.size, axes=tuple(axes))
