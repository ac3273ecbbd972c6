"""A second look at an output, column by column, at the answers of the size that is usual there.

One budget for a whole output is as coarse as its largest number: beside prices of a million a probability may be all
wrong, and one outlier among the rows hides a missing bias in all others. So each column (each place of an answer) is
judged once more among its usual answers, by the same rule and with a wider margin, because the maximum of a few
rounding errors varies more than that of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ColumnBudget", "column_budget"]

USUAL = 16.0  # times the median magnitude of a column; what is larger the budget of the whole output judges alone
WIDER = 4.0  # times what the rule for whole outputs allows
# Answers are not told apart below the eps of 1 where an output is of that size or more: ONNX Runtime's sigmoid ends at
# 1.5e-8 where float64's goes on towards 0.
UNIT = 1.0


@dataclass(frozen=True, kw_only=True)
class ColumnBudget:
    """What each place of an answer may be wrong by.

    Attributes:
        largest: magnitude up to which answers are looked at, one a place of an answer, ``[...]``.
        allowed: largest error there, in the output's own units, ``[...]``.
    """

    largest: np.ndarray
    allowed: np.ndarray

    def reason(self, answer: np.ndarray, error: np.ndarray) -> tuple[str, int] | None:
        """Say what is wrong with an output and in which row; None where nothing is.

        Args:
            answer: ``[batch, ...]``, float64.
            error: distance from it, 0 where nothing is compared.
        """
        with np.errstate(invalid="ignore"):
            wrong = (np.abs(answer) <= self.largest) & (error > self.allowed)
        if not wrong.any():
            return None
        excess = np.where(wrong, error / np.maximum(self.allowed, np.finfo(np.float64).tiny), 0.0)
        row, *place = (int(index) for index in np.unravel_index(int(excess.argmax()), excess.shape))
        where = f"column {', '.join(map(str, place))}" if place else "an ordinary row"
        limit = self.allowed[tuple(place)]
        return f"error {error[(row, *place)]:.3g} in {where}, allowed {limit:.3g} there", row


def column_budget(
    answer: np.ndarray, error: np.ndarray, *, scale: float, eps: float, floor: float, margin: float
) -> ColumnBudget:
    """Return what each place of an answer may be wrong by.

    Args:
        answer: ``[batch, ...]``, float64.
        error: ``[batch, ...]``, what arithmetic may lose there, in the output's own units.
        scale: of the whole output.
        eps: of the output's dtype.
        floor: eps units that two correct orders of summation may differ by.
        margin: how much worse another runtime may be.

    Example:
        >>> answer = np.array([[1e6, 0.5], [2e6, 0.25]])
        >>> found = column_budget(answer, np.zeros((2, 2)), scale=2e6, eps=2.0**-23, floor=8.0, margin=4.0)
        >>> found.allowed.round(6).tolist()
        [7.629395, 4e-06]
    """
    size = np.where(np.isfinite(answer), np.abs(answer), 0.0)
    largest = USUAL * _median_of_nonzero(size)
    usual = size <= largest
    unit = eps * np.maximum(np.where(usual, size, 0.0).max(axis=0), min(UNIT, scale))
    allowed = WIDER * np.maximum(floor * unit, margin * np.where(usual, error, 0.0).max(axis=0))
    return ColumnBudget(largest=largest, allowed=np.maximum(allowed, np.finfo(np.float32).tiny))


def _median_of_nonzero(size: np.ndarray) -> np.ndarray:
    """Median over the rows [batch, ...] of what is not zero; 0 where all is."""
    ordered = np.sort(size, axis=0)
    zeros = (ordered == 0).sum(axis=0)
    middle = np.minimum(zeros + (len(size) - zeros) // 2, len(size) - 1)
    return np.asarray(np.take_along_axis(ordered, middle[None], axis=0)[0])
