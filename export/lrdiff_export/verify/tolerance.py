r"""How far a float32 answer may lie from float64: derived from arithmetic and from the program, never chosen.

The error of an answer :math:`y` against the float64 answer :math:`y_{64}` is measured in units of the dtype's
epsilon at the scale of the output,

.. math:: E = \max |y - y_{64}| \,/\, (\varepsilon \max |y_{64}|),

and may be at most :math:`B = \max(8,\; 4 k,\; 4 \min(E_{eager}, 4 k))`: a floor for reordered sums; the
conditioning :math:`k`, what half a unit in the last place, up or down, at every input and every result of the program
does to its outputs (:mod:`lrdiff_export.model.shadow`); and what eager float32 itself loses, as far as the conditioning
explains it.

Where eager and float64 lie further apart than that, something else than rounding is at work, and the file is held to
eager. Where the program loses far more digits than elsewhere (a difference of large numbers), that place has an
allowance of its own, and the other places keep theirs.

Elementwise ULP is no measure: next to a zero of the output a healthy model shows thousands of them. The backward-error
view is that of N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002, chapter 1.

Each column is then judged once more among answers of its usual size (:mod:`lrdiff_export.verify.columns`): the scale of
a whole output is that of its largest number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrdiff_export.verify.columns import ColumnBudget, column_budget
from lrdiff_export.verify.compare import Budget, as_dtype

__all__ = ["CEILING", "FLOOR", "MARGIN", "FloatingTolerance", "allowed_error", "exact_budget", "floating_tolerance"]

FLOOR = 8.0  # eps units that two correct orders of summation may differ by
MARGIN = 4.0  # another runtime may be this much worse than eager float32, or than the conditioning
CEILING = 4.0  # eager's error counts up to this many times the conditioning; over 30 models it was 0.4 to 2.7 times
FAR = 64.0  # times the median conditioning: beyond, a place is judged by its own


def allowed_error(eager_error: float, conditioning: float = 0.0) -> float:
    """Return what is allowed, in eps units, where eager and the conditioning are known as two numbers.

    Example:
        >>> allowed_error(0.5), allowed_error(10.0), allowed_error(0.5, 3.0)
        (8.0, 40.0, 12.0)
    """
    return max(FLOOR, MARGIN * eager_error, MARGIN * conditioning)


@dataclass(frozen=True, kw_only=True)
class FloatingTolerance:
    """What a floating output may be off by.

    Attributes:
        budget: of the output as a whole.
        error: what arithmetic loses at each place, ``[batch, ...]`` in the output's own units.
        own: allowances of places that lose far more than others; None where none does.
        unexplained: mask of where eager differs from float64 by more than rounding explains.
        overflows: mask of where eager is not finite as float64 is.
    """

    budget: Budget
    error: np.ndarray
    own: np.ndarray | None
    unexplained: np.ndarray
    overflows: np.ndarray

    def columns(self, answer: np.ndarray) -> ColumnBudget:
        """Return what each place of an answer ``[batch, ...]`` may be off by."""
        # Places with an allowance of their own set none for others.
        error = self.error if self.own is None else np.where(self.own > 0, 0.0, self.error)
        eps = float(np.finfo(np.dtype(self.budget.dtype)).eps)
        return column_budget(answer, error, scale=self.budget.scale, eps=eps, floor=FLOOR, margin=MARGIN)


def floating_tolerance(
    answer: np.ndarray,
    eager: np.ndarray,
    moved: list[np.ndarray],
    *,
    eps: float,
    least_scale: float = 0.0,
    bounded: bool = True,
) -> FloatingTolerance:
    """Derive what a floating output may be off by.

    Args:
        answer: ``[batch, ...]``, float64.
        eager: the same in the arithmetic that is judged.
        moved: the same in float64 with random rounding, one array a draw.
        eps: of that arithmetic.
        least_scale: of the output; that of these rows may be larger.
        bounded: whether eager's error counts only as far as the conditioning explains it.

    Example:
        >>> answer = np.array([[1.0], [2.0]])
        >>> moved = [answer * (1 + 2.0**-24)]
        >>> found = floating_tolerance(answer, np.float32([[1.0], [3.0]]), moved, eps=2.0**-23)
        >>> found.budget.allowed, found.unexplained.ravel().tolist()
        (8.0, [False, True])
    """
    finite = np.isfinite(eager)
    overflows = finite != np.isfinite(as_dtype(answer, eager.dtype))
    overflows |= ~finite & ~_same_kind(eager, as_dtype(answer, eager.dtype))
    # Beyond the range of float32, float64 says nothing about what may be lost.
    fits = finite & np.isfinite(as_dtype(answer, eager.dtype))
    scale = max(float(np.abs(answer[fits]).max(initial=0.0)), least_scale)
    unit = max(eps * scale, float(np.finfo(eager.dtype).tiny))
    lost = _distance(eager, answer, fits)
    spread = np.zeros(answer.shape)
    for one in moved:
        np.maximum(spread, _distance(one, answer, fits), out=spread)
    positive = spread[spread > 0]
    # What the floor allows anyway needs no allowance of its own.
    median = float(np.median(positive)) if positive.size else 0.0
    far = spread > max(FAR * median, FLOOR / MARGIN * unit)
    usual = float(spread[~far].max(initial=0.0))
    explained = CEILING * np.maximum(spread, usual)
    unexplained = lost > np.maximum(explained, FLOOR * unit) if bounded else np.zeros(answer.shape, bool)
    lost = np.where(unexplained, 0.0, np.minimum(lost, explained) if bounded else lost)
    error = np.maximum(lost, spread)
    eager_error = float(lost[~far].max(initial=0.0)) / unit
    budget = Budget(
        dtype=str(eager.dtype),
        scale=scale,
        unit=unit,
        eager_error=eager_error,
        conditioning=usual / unit,
        allowed=allowed_error(eager_error, usual / unit),
    )
    own = np.where(far, MARGIN * error, 0.0) if far.any() else None
    return FloatingTolerance(budget=budget, error=error, own=own, unexplained=unexplained, overflows=overflows)


def exact_budget(dtype: np.dtype, eager_error: float = 0.0, conditioning: float = 0.0, tolerance: int = 0) -> Budget:
    """Return the budget of integers and bools: none in float32; in less, labels next to a tie are lost.

    Args:
        dtype: of the output.
        eager_error: elements that eager loses in the lower arithmetic.
        conditioning: elements that rounding in that arithmetic, at random, changes.
        tolerance: what each whole number may be off by, 0 or 1, as the author of the model declares.
    """
    return Budget(
        dtype=str(dtype),
        scale=0.0,
        unit=float(tolerance),
        eager_error=eager_error,
        conditioning=conditioning,
        allowed=MARGIN * max(eager_error, conditioning),
    )


def _distance(values: np.ndarray, answer: np.ndarray, fits: np.ndarray) -> np.ndarray:
    """Where both are finite; 0 elsewhere."""
    found = np.zeros(answer.shape)
    np.subtract(values, answer, out=found, where=fits & np.isfinite(values))
    return np.abs(found)


def _same_kind(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((np.isnan(one) & np.isnan(other)) | (one == other))
