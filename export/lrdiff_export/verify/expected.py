"""What an output should be, element by element; it needs NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrdiff_export.verify.columns import ColumnBudget
from lrdiff_export.verify.compare import Budget, Verdict, as_dtype, judge_output, kind_of

__all__ = ["Expected", "compare_outputs"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an output should be for some rows, and how far off it may be.

    Attributes:
        name: of the output.
        answer: ``[batch, ...]``, float64 for floating outputs.
        budget: what it may be wrong by.
        own: errors that single elements may have, ``[batch, ...]`` in the output's own units, where the program loses
            more digits than elsewhere; None where none does.
        others: answers ``[batch, ...]`` that are as right: of float32 where it leaves its range, and of runs that
            decide otherwise where a comparison hangs on the last bit.
        skipped: mask of what is not compared.
        columns: what each place of an answer may be wrong by; None to look at outputs as a whole alone.
    """

    name: str
    answer: np.ndarray
    budget: Budget
    own: np.ndarray | None = None
    others: tuple[np.ndarray, ...] = ()
    skipped: np.ndarray | None = None
    columns: ColumnBudget | None = None

    def take(self, places: np.ndarray | slice) -> Expected:
        """Return what is expected of some of the rows, in their order.

        Args:
            places: of the rows.
        """
        return replace(
            self,
            answer=self.answer[places],
            own=None if self.own is None else self.own[places],
            others=tuple(one[places] for one in self.others),
            skipped=None if self.skipped is None else self.skipped[places],
        )

    def widest(self, rows: np.ndarray | None = None) -> Budget:
        """Return one budget that is wide enough for every element.

        Args:
            rows: mask ``[batch]`` of the rows that count; all by default.
        """
        if self.own is None or not self.own.size:
            return self.budget
        own = self.own if rows is None else self.own[rows]
        return replace(self.budget, allowed=max(self.budget.allowed, float(own.max(initial=0.0)) / self.budget.unit))

    @property
    def one_answer(self) -> np.ndarray:
        """Mask ``[batch]`` of the rows that have one right answer, known to half of its digits at least."""
        plain = np.ones(self.answer.shape, bool)
        if self.answer.dtype.kind == "f" and self.budget.unit:
            plain &= self.allowed <= self.budget.unit / np.sqrt(np.finfo(self.budget.dtype).eps)
        if self.skipped is not None:
            plain &= ~self.skipped
        for other in self.others:
            if other.dtype.kind == "f":
                error, unlike = self.differences(other)
                plain &= ~unlike & (error <= 2 * self.allowed)
            else:
                plain &= other == self.answer
        return np.asarray(plain.reshape(len(plain), -1).all(axis=1))

    @property
    def allowed(self) -> np.ndarray:
        """Largest error of each element of a floating output, in its own units: one number, or ``[batch, ...]``."""
        whole = np.asarray(self.budget.allowed * self.budget.unit)
        return whole if self.own is None else np.maximum(whole, self.own)

    def differences(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance of each element, and a mask of where NaN or infinity stands in one of the two alone."""
        return _differences(output, self.answer)

    def compare(self, output: np.ndarray) -> Verdict:
        """Compare an output ``[batch, ...]`` with what is expected.

        Example:
            >>> exact = Budget(dtype="int64", scale=0.0, unit=0.0, eager_error=0.0, conditioning=0.0, allowed=0.0)
            >>> expected = Expected(name="label", answer=np.array([1, 3]), budget=exact, others=(np.array([2, 3]),))
            >>> [expected.compare(np.array(given)).reason for given in ([2, 3], [1, 2])]
            [None, '1 of 2 elements differ']
        """
        like = str(output.dtype) == self.budget.dtype and output.shape == self.answer.shape
        settled = self._settled(output) if like else None
        verdict = judge_output(self.name, output, self.answer, self.budget, settled)
        if self.columns is None or not verdict.agrees:
            return verdict
        error = self.differences(output)[0]
        found = self.columns.reason(self.answer, error if settled is None else np.where(settled, 0.0, error))
        return verdict if found is None else replace(verdict, reason=found[0], row=found[1])

    def wrong(self, output: np.ndarray) -> np.ndarray:
        """Return a mask of what is wrong in an output of the answer's shape and dtype."""
        settled = self._settled(output)
        if output.dtype.kind == "f":
            error, unlike = self.differences(output)
            wrong = unlike | (error > self.allowed)
        else:
            wrong = output != self.answer
        return np.asarray(wrong if settled is None else wrong & ~settled)

    def _settled(self, output: np.ndarray) -> np.ndarray | None:
        """Mask of what needs no comparison with the answer: it is not compared, or has another right answer."""
        settled = None if self.skipped is None else self.skipped.copy()
        if output.dtype.kind != "f":
            same = [output == other for other in self.others]
        else:
            # Other runs of float32 are as far from float64 as this one may be.
            pairs = [_differences(output, other) for other in self.others]
            same = [~unlike & (near <= 2 * self.allowed) for near, unlike in pairs]
            if self.own is not None:
                error, unlike = self.differences(output)
                same.append((self.own > 0) & ~unlike & (error <= self.own))
        for one in same:
            settled = one if settled is None else settled | one
        return settled


def _differences(output: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance where both are finite, 0 elsewhere; and where NaN, inf or -inf stand in one of them alone."""
    # Beyond the largest float32 the right answer of float32 is infinity.
    wrong_kind = kind_of(output) != kind_of(as_dtype(answer, output.dtype))
    distance = np.zeros(answer.shape)
    both = np.isfinite(output) & np.isfinite(answer)
    np.subtract(output, answer, out=distance, where=both)
    return np.abs(distance), wrong_kind


def compare_outputs(outputs: Sequence[np.ndarray], expected: Sequence[Expected]) -> list[Verdict]:
    """Return one verdict an output; if the number of outputs is wrong, one verdict that says so."""
    if len(outputs) != len(expected):
        reason = f"{len(outputs)} outputs instead of {len(expected)}"
        return [Verdict(output="all outputs", error=float("inf"), allowed=0.0, reason=reason)]
    return [one.compare(np.asarray(output)) for one, output in zip(expected, outputs, strict=True)]
