"""Comparing one output with its float64 answer; it needs NumPy alone, so that a deployer's check needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lrdiff_export.records import json_ready

__all__ = ["Budget", "Verdict", "as_dtype", "judge_output", "kind_of", "largest_error"]

_BLOCK = 2**17  # numbers compared at once, 1 MiB in float64


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one output may be wrong by.

    Attributes:
        dtype: of the output in float32 evaluation; other than floating ones must be equal exactly.
        scale: largest finite magnitude of the float64 output over all rows.
        unit: one eps unit in the output's own units, eps(dtype) times scale. Never below the smallest normal number of
            the dtype, so an output that is zero everywhere is judged without dividing by zero: it must be zero. For
            exact dtypes: what each number may be off by, 0 or 1.
        eager_error: error of eager float32, in eps units.
        conditioning: change of the float64 output under half-ULP input jitter, in eps units.
        allowed: the budget, in eps units.
    """

    dtype: str
    scale: float
    unit: float
    eager_error: float
    conditioning: float
    allowed: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json_ready(self)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one output compares.

    Attributes:
        output: its name.
        error: largest error in eps units over the elements that are finite on both sides; 0 for exact dtypes.
        allowed: the budget, in eps units; 0 for exact dtypes.
        mismatches: elements whose non-finite kind (NaN, +inf, -inf) differs, or, for exact dtypes, whose value does.
        row: the row of the largest error or of the first mismatch; None when there is neither.
        reason: why it does not agree, in one line; None when it agrees.
    """

    output: str
    error: float
    allowed: float
    mismatches: int = 0
    row: int | None = None
    reason: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the output is within its budget."""
        return self.reason is None

    @property
    def severity(self) -> tuple[bool, int, float]:
        """Orders verdicts, the worst last."""
        return (not self.agrees, self.mismatches, self.error / self.allowed if self.allowed else self.error)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json_ready(self)


def judge_output(
    name: str, output: np.ndarray, reference: np.ndarray, budget: Budget, excused: np.ndarray | None = None
) -> Verdict:
    """Compare one output with its float64 reference.

    Args:
        name: of the output.
        output: ``[batch, ...]``.
        reference: ``[batch, ...]``, float64 for floating outputs.
        budget: what it may be wrong by.
        excused: mask of what is not judged.

    Example:
        >>> exact = Budget(dtype="int64", scale=0.0, unit=0.0, eager_error=0.0, conditioning=0.0, allowed=0.0)
        >>> judge_output("label", np.array([1, 2]), np.array([1, 3]), exact).reason
        '1 of 2 elements differ'
    """
    infinite = float("inf")
    if str(output.dtype) != budget.dtype:
        unlike = f"dtype {output.dtype} instead of {budget.dtype}"
        return Verdict(output=name, error=infinite, allowed=budget.allowed, reason=unlike)
    if output.shape != reference.shape:
        unlike = f"shape {list(output.shape)} instead of {list(reference.shape)}"
        return Verdict(output=name, error=infinite, allowed=budget.allowed, reason=unlike)
    if excused is not None:
        output = np.where(excused, as_dtype(reference, output.dtype), output)
    if output.dtype.kind != "f":
        return _judge_exact(name, output, reference, budget)
    # Beyond the largest float32 the right answer of float32 is infinity.
    wrong_kind = kind_of(output) != kind_of(as_dtype(reference, output.dtype))
    mismatches = int(wrong_kind.sum())
    error, row = largest_error(output, reference, budget.unit)
    reason: str | None = None
    if mismatches:
        row = row_of(wrong_kind)
        reason = f"NaN or infinity in other places than in float64: {mismatches} of {output.size} elements"
    elif error > budget.allowed:
        reason = f"error {error:.4g} eps, allowed {budget.allowed:.4g}"
    return Verdict(output=name, error=error, allowed=budget.allowed, mismatches=mismatches, row=row, reason=reason)


def _judge_exact(name: str, output: np.ndarray, reference: np.ndarray, budget: Budget) -> Verdict:
    wrong = output != reference
    if budget.unit and output.dtype.kind != "b":
        wrong &= np.maximum(output, reference) != np.minimum(output, reference) + 1  # a difference might overflow
    mismatches = int(wrong.sum())
    if mismatches <= budget.allowed:
        return Verdict(output=name, error=0.0, allowed=0.0)
    reason = f"{mismatches} of {output.size} elements differ"
    return Verdict(output=name, error=0.0, allowed=0.0, mismatches=mismatches, row=row_of(wrong), reason=reason)


def as_dtype(reference: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round ``reference`` to ``dtype``; what is too large becomes infinity, without a warning."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(reference.astype(dtype))


def kind_of(values: np.ndarray) -> np.ndarray:
    """0 finite, 1 +inf, 2 -inf, 3 NaN."""
    kinds = np.zeros(values.shape, np.int8)
    if not (finite := np.isfinite(values)).all():
        odd = values[~finite]
        kinds[~finite] = np.where(np.isnan(odd), 3, np.where(odd > 0, 1, 2))
    return kinds


def largest_error(values: np.ndarray, reference: np.ndarray, unit: float) -> tuple[float, int | None]:
    """Largest error in units over the elements finite on both sides, and its row."""
    values, reference = np.atleast_1d(values), np.atleast_1d(reference)
    worst, row = 0.0, None
    rows = max(1, _BLOCK * len(reference) // max(reference.size, 1))
    for start in range(0, len(reference), rows):  # so that what is made on the way stays in the cache
        ours, theirs = values[start : start + rows], reference[start : start + rows]
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.abs(np.subtract(ours, theirs, dtype=np.float64)) / unit
        largest = distance.max(initial=0.0)
        if not np.isfinite(largest):
            distance[~(np.isfinite(ours) & np.isfinite(theirs))] = 0.0
            largest = distance.max(initial=0.0)
        if largest > worst:
            worst, row = float(largest), start + row_of(distance == largest)
    return worst, row


def row_of(marked: np.ndarray) -> int:
    """Index along the batch dimension of the first marked element."""
    return int(np.argwhere(marked)[0][0]) if marked.ndim else 0
