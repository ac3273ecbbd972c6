"""Judging errors: how far a float32 answer may lie from float64, derived from arithmetic and from the model.

The error of an answer :math:`y` against the float64 answer :math:`y_{64}` is measured in units of the dtype's
epsilon at the scale of the output,

.. math:: E = \\max |y - y_{64}| \\,/\\, (\\varepsilon \\max |y_{64}|),

and may be at most :math:`B = \\max(8,\\; 4 E_{eager},\\; 4 k)`: a floor for reordered sums, what eager float32 itself
loses, and the conditioning :math:`k`, the change of the float64 output in the same units when every input moves by
half a unit in the last place. Elementwise ULP is no gate: next to a zero of the output a healthy model shows
thousands of them. What the budget cannot see: an error smaller than the effect of rounding the inputs.

The backward-error view is that of N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002,
chapter 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from lrdiff_export.records import json_ready
from lrdiff_export.reference import check_rows, evaluate, evaluate_float64, evaluation_copy, float64_copy

__all__ = ["FLOOR", "JITTER_DRAWS", "MARGIN", "Budget", "Verdict", "Yardstick"]

FLOOR = 8.0  # eps units that two correct orders of summation may differ by
MARGIN = 4.0  # another runtime may be this much worse than eager float32, or than the conditioning
JITTER_DRAWS = 3  # draws of input jitter; their maximum is the conditioning
_JITTER_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one output may be wrong by.

    Attributes:
        dtype: of the output in float32 evaluation; other than floating ones must be equal exactly.
        scale: largest finite magnitude of the float64 output over all rows.
        unit: one eps unit in the output's own units, eps(dtype) times scale. Never below the smallest normal number of
            the dtype, so an output that is zero everywhere is judged without dividing by zero: it must be zero.
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


class Yardstick:
    """The float64 answers of a module and the error that float32 may make on given rows.

    The scale and the budgets come from all rows together, so that a batch of one row whose output happens to lie
    next to zero is judged by the same measure as the rest.

    Args:
        module: takes one float tensor ``[batch, features...]``, gives a tensor or a tuple of tensors.
        rows: ``[batch, features...]``, float32.
        names: names of the outputs; ``output0, output1 ...`` by default.

    Raises:
        DataError: the rows cannot be fed to a model.
        InputError: the module cannot be evaluated in float64.

    Example:
        >>> rows = np.ones((4, 3), np.float32)
        >>> yardstick = Yardstick(nn.Linear(3, 1), rows)
        >>> answer = yardstick.reference(rows)[0].astype(np.float32)
        >>> yardstick.judge([answer], yardstick.reference(rows))[0].agrees
        True
    """

    def __init__(self, module: nn.Module, rows: np.ndarray, *, names: Sequence[str] | None = None) -> None:
        rows = check_rows(rows)
        eager = evaluate(evaluation_copy(module), rows)
        self._module64 = float64_copy(module)
        self._dtypes = [output.dtype for output in eager]
        reference = self.reference(rows)
        jittered = [self.reference(moved) for moved in _jitter(rows)]
        self.names = list(names) if names is not None else [f"output{index}" for index in range(len(eager))]
        self.budgets = [
            _budget(reference[index], eager[index], [outputs[index] for outputs in jittered])
            for index in range(len(eager))
        ]

    def reference(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the float64 outputs for ``rows`` ``[batch, features...]``; exact dtypes stay what they are."""
        return evaluate_float64(self._module64, rows, self._dtypes)

    def judge(self, outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> list[Verdict]:
        """Compare outputs with the float64 reference of the very same rows.

        Args:
            outputs: one array an output, ``[batch, ...]``.
            reference: from :meth:`reference`.

        Returns:
            One verdict an output; if the number of outputs is wrong, one verdict that says so.
        """
        if len(outputs) != len(reference):
            reason = f"{len(outputs)} outputs instead of {len(reference)}"
            return [Verdict(output="all outputs", error=float("inf"), allowed=0.0, reason=reason)]
        return [
            _judge(name, np.asarray(output), answer, budget)
            for name, output, answer, budget in zip(self.names, outputs, reference, self.budgets, strict=True)
        ]


def _jitter(rows: np.ndarray) -> list[np.ndarray]:
    """Move every element by half a unit in the last place, up or down; the same draws in every process."""
    generator = np.random.default_rng(_JITTER_SEED)
    half_ulp = float(np.finfo(np.float32).eps) / 2
    rows64 = rows.astype(np.float64)
    return [rows64 * (1.0 + half_ulp * generator.choice([-1.0, 1.0], size=rows.shape)) for _ in range(JITTER_DRAWS)]


def _budget(reference: np.ndarray, eager: np.ndarray, jittered: list[np.ndarray]) -> Budget:
    if eager.dtype.kind != "f":
        return Budget(dtype=str(eager.dtype), scale=0.0, unit=0.0, eager_error=0.0, conditioning=0.0, allowed=0.0)
    info = np.finfo(eager.dtype)
    fits = np.isfinite(_as_dtype(reference, eager.dtype))
    scale = float(np.abs(reference[fits]).max(initial=0.0))
    unit = max(float(info.eps) * scale, float(info.tiny))
    # Where float32 must overflow, finite float64 answers would make the budget as large as they are.
    reference = np.where(fits, reference, np.nan)
    eager_error = _largest(eager, reference, unit)[0]
    conditioning = max(_largest(moved, reference, unit)[0] for moved in jittered)
    allowed = max(FLOOR, MARGIN * eager_error, MARGIN * conditioning)
    return Budget(
        dtype=str(eager.dtype),
        scale=scale,
        unit=unit,
        eager_error=eager_error,
        conditioning=conditioning,
        allowed=allowed,
    )


def _judge(name: str, output: np.ndarray, reference: np.ndarray, budget: Budget) -> Verdict:
    infinite = float("inf")
    if str(output.dtype) != budget.dtype:
        unlike = f"dtype {output.dtype} instead of {budget.dtype}"
        return Verdict(output=name, error=infinite, allowed=budget.allowed, reason=unlike)
    if output.shape != reference.shape:
        unlike = f"shape {list(output.shape)} instead of {list(reference.shape)}"
        return Verdict(output=name, error=infinite, allowed=budget.allowed, reason=unlike)
    if output.dtype.kind != "f":
        return _judge_exact(name, output, reference)
    # Beyond the largest float32 the right answer of float32 is infinity.
    wrong_kind = _kind(output) != _kind(_as_dtype(reference, output.dtype))
    mismatches = int(wrong_kind.sum())
    error, row = _largest(output, reference, budget.unit)
    reason: str | None = None
    if mismatches:
        row = _row_of(wrong_kind)
        reason = f"NaN or infinity in other places than in float64: {mismatches} of {output.size} elements"
    elif error > budget.allowed:
        reason = f"error {error:.4g} eps, allowed {budget.allowed:.4g}"
    return Verdict(output=name, error=error, allowed=budget.allowed, mismatches=mismatches, row=row, reason=reason)


def _judge_exact(name: str, output: np.ndarray, reference: np.ndarray) -> Verdict:
    wrong = output != reference
    mismatches = int(wrong.sum())
    if not mismatches:
        return Verdict(output=name, error=0.0, allowed=0.0)
    reason = f"{mismatches} of {output.size} elements differ"
    return Verdict(output=name, error=0.0, allowed=0.0, mismatches=mismatches, row=_row_of(wrong), reason=reason)


def _as_dtype(reference: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(reference.astype(dtype))


def _kind(values: np.ndarray) -> np.ndarray:
    """0 finite, 1 +inf, 2 -inf, 3 NaN."""
    return np.where(np.isnan(values), 3, np.where(np.isposinf(values), 1, np.where(np.isneginf(values), 2, 0)))


def _largest(values: np.ndarray, reference: np.ndarray, unit: float) -> tuple[float, int | None]:
    """Largest error in units over the elements finite on both sides, and its row."""
    distance = np.zeros(reference.shape)
    both = np.isfinite(values) & np.isfinite(reference)
    np.subtract(values, reference, out=distance, where=both)
    with np.errstate(over="ignore"):
        distance = np.abs(distance) / unit
    if not distance.size or not distance.any():
        return 0.0, None
    return float(distance.max()), _row_of(distance == distance.max())


def _row_of(marked: np.ndarray) -> int:
    """Index along the batch dimension of the first marked element."""
    return int(np.argwhere(marked)[0][0]) if marked.ndim else 0
