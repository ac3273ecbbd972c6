r"""Judging errors: how far a float32 answer may lie from float64, derived from arithmetic and from the model.

The error of an answer :math:`y` against the float64 answer :math:`y_{64}` is measured in units of the dtype's
epsilon at the scale of the output,

.. math:: E = \max |y - y_{64}| \,/\, (\varepsilon \max |y_{64}|),

and may be at most :math:`B = \max(8,\; 4 E_{eager},\; 4 k)`: a floor for reordered sums, what eager float32 itself
loses, and the conditioning :math:`k`, the change of the float64 output in the same units when every input moves by
half a unit in the last place (or every weight, where no input is floating). Elementwise ULP is no gate: next to a zero
of the output a healthy model shows thousands of them. What the budget cannot see: an error smaller than the effect of
rounding the inputs.

The backward-error view is that of N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002,
chapter 1.

In float32 each column is then judged once more among answers of its usual size (:mod:`lrdiff_export.verify.columns`):
the scale of a whole output is that of its largest number.

The same rule judges lower precision: eps, eager evaluation and jitter are then those of bfloat16, float16 or TF32, and
agreeing means as good as that arithmetic allows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import DataError, LrdiffError
from lrdiff_export.model.float64 import evaluate_float64
from lrdiff_export.model.precision import evaluate_in, find_arithmetic
from lrdiff_export.model.prepared import Prepared, prepare
from lrdiff_export.model.signature import Arrays, as_arrays
from lrdiff_export.records import first_line
from lrdiff_export.verify.columns import ColumnBudget, column_budget
from lrdiff_export.verify.compare import Budget, Verdict, as_dtype, judge_output, kind_of, largest_error

__all__ = ["FLOOR", "JITTER_DRAWS", "MARGIN", "Budget", "Verdict", "Yardstick"]

FLOOR = 8.0  # eps units that two correct orders of summation may differ by
MARGIN = 4.0  # another runtime may be this much worse than eager float32, or than the conditioning
JITTER_DRAWS = 3  # draws of input jitter; their maximum is the conditioning
_JITTER_SEED = 0


class Yardstick:
    """The float64 answers of a module and the error that float32 may make on given rows.

    The scale and the budgets come from all rows together, so that a batch of one row whose output happens to lie
    next to zero is judged by the same measure as the rest.

    Args:
        module: takes tensors by position, gives a tensor or a tuple of tensors; or one that is prepared.
        rows: one array an input, ``[batch, ...]``, float32, integer or bool.

    Attributes:
        names: of the outputs.
        arithmetic: whose errors the budgets allow; float32, see :meth:`in_arithmetic`.
        budgets: one an output.
        answers: the float64 outputs of ``rows``.
        beyond: one mask an output, true where eager float32 itself is not finite as float64 is: nobody can be asked
            for more there.

    Raises:
        DataError: the rows cannot be fed to a model, or not to this one.
        InputError: the module cannot be evaluated in float64.

    Example:
        >>> rows = np.ones((4, 3), np.float32)
        >>> yardstick = Yardstick(nn.Linear(3, 1), rows)
        >>> answer = yardstick.reference(rows)[0].astype(np.float32)
        >>> yardstick.judge([answer], yardstick.reference(rows))[0].agrees
        True
    """

    def __init__(self, module: nn.Module | Prepared, rows: Arrays) -> None:
        arrays = as_arrays(rows)
        self._prepared = module if isinstance(module, Prepared) else prepare(module, _examples(arrays))
        self.arithmetic = "float32"
        self._measure(arrays)

    def _measure(self, rows: Sequence[np.ndarray], scales: Sequence[float] | None = None) -> None:
        self._rows = rows
        eager = self._eager(rows)
        self._dtypes = [output.dtype for output in eager]
        self.answers = self.reference(rows)
        jittered = list(self._jittered(rows))
        names = self._prepared.output_names
        self.names = list(names) if len(names) == len(eager) else [f"output{i}" for i in range(len(eager))]
        self.budgets = [
            _budget(
                self.answers[index],
                eager[index],
                [outputs[index] for outputs in jittered],
                least_scale=scales[index] if scales else 0.0,
                eps=None if self.arithmetic == "float32" else find_arithmetic(self.arithmetic).eps,
            )
            for index in range(len(eager))
        ]
        # Rows of another size have answers of another size; there the scale of the ordinary ones is the measure.
        finer = self.arithmetic == "float32" and scales is None
        self._columns: list[ColumnBudget | None] = [
            column_budget(
                self.answers[index],
                eager[index],
                [outputs[index] for outputs in jittered],
                scale=self.budgets[index].scale,
                floor=FLOOR,
                margin=MARGIN,
            )
            if finer
            else None
            for index in range(len(eager))
        ]
        self.beyond = [
            kind_of(output) != kind_of(as_dtype(answer, output.dtype))
            if output.dtype.kind == "f"
            else np.zeros(output.shape, bool)
            for output, answer in zip(eager, self.answers, strict=True)
        ]

    def _eager(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return evaluate_in(self.module, rows, self.arithmetic)
        except LrdiffError:
            raise
        except Exception as problem:
            raise DataError(
                f"{self._prepared.name} does not take these rows: {first_line(problem)}",
                help="give rows that it is made for; integers must lie within its tables",
            ) from problem

    @property
    def module(self) -> nn.Module:
        """The module that it measures by."""
        return self._prepared.module

    @property
    def prepared(self) -> Prepared:
        """The same with the names of its inputs and outputs."""
        return self._prepared

    def on(self, rows: Arrays) -> Yardstick:
        """Return a yardstick of the same module for other rows, with budgets of their own.

        The scale is at least that of this one's rows: probabilities that have all gone to zero are judged as
        probabilities.
        """
        other = copy.copy(self)
        other._measure(as_arrays(rows), [budget.scale for budget in self.budgets])
        return other

    def in_arithmetic(self, name: str) -> Yardstick:
        """Return a yardstick of the same module and rows that allows what another arithmetic loses.

        Exact outputs, such as labels, may differ in as many elements as eager in that arithmetic and jittered inputs
        make differ, times the same margin.

        Raises:
            ConfigError: no such arithmetic.
            InputError: the module does not run in it.
        """
        other = copy.copy(self)
        other.arithmetic = find_arithmetic(name).name
        other._measure(self._rows)
        return other

    def reference(self, rows: Arrays) -> list[np.ndarray]:
        """Return the float64 outputs for ``rows``, one array an input; exact dtypes stay what they are."""
        return evaluate_float64(self._prepared.float64, _sequence(rows), self._dtypes)

    def _jittered(self, rows: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Yield the float64 outputs with every float moved by half an ULP up or down; the same draws everywhere."""
        generator = np.random.default_rng(_JITTER_SEED)
        half_ulp = find_arithmetic(self.arithmetic).eps / 2

        def factor(shape: tuple[int, ...]) -> np.ndarray:
            return 1.0 + half_ulp * (2.0 * generator.integers(0, 2, size=shape) - 1.0)

        floating = any(one.dtype.kind == "f" for one in rows)
        for _ in range(JITTER_DRAWS):
            if floating:
                moved = [one.astype(np.float64) * factor(one.shape) if one.dtype.kind == "f" else one for one in rows]
                yield evaluate_float64(self._prepared.float64, moved, self._dtypes)
                continue
            with _moved_weights(self._prepared.float64, factor):
                yield evaluate_float64(self._prepared.float64, rows, self._dtypes)

    def judge(
        self,
        outputs: Sequence[np.ndarray],
        reference: Sequence[np.ndarray],
        *,
        excused: Sequence[np.ndarray] | None = None,
    ) -> list[Verdict]:
        """Compare outputs with the float64 reference of the very same rows.

        Args:
            outputs: one array an output, ``[batch, ...]``.
            reference: from :meth:`reference`.
            excused: one mask an output; what it marks is not judged.

        Returns:
            One verdict an output; if the number of outputs is wrong, one verdict that says so.
        """
        if len(outputs) != len(reference):
            reason = f"{len(outputs)} outputs instead of {len(reference)}"
            return [Verdict(output="all outputs", error=float("inf"), allowed=0.0, reason=reason)]
        masks = [None] * len(outputs) if excused is None else list(excused)
        parts = zip(self.names, outputs, reference, self.budgets, self._columns, masks, strict=True)
        verdicts = []
        for name, output, answer, budget, columns, mask in parts:
            verdict = judge_output(name, np.asarray(output), answer, budget, mask)
            if verdict.agrees and columns is not None and (found := columns.reason(output, answer, mask)):
                verdict = replace(verdict, reason=found[0], row=found[1])
            verdicts.append(verdict)
        return verdicts

    def sure(self, rows: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the answers to rows, and one mask an output of those that eager float32 gives, too.

        Sure are answers that both have finite, no larger than those of this yardstick's rows, and within its budget;
        labels, those that are the same. Elsewhere nobody can be asked for more.
        """
        eager, answers = self._eager(rows), self.reference(rows)
        sure = []
        for one, answer, budget in zip(eager, answers, self.budgets, strict=True):
            if one.dtype.kind != "f":
                sure.append(one == answer)
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                near = np.abs(one.astype(np.float64) - answer) <= budget.allowed * budget.unit
                sure.append(near & np.isfinite(answer) & (np.abs(answer) <= budget.scale))
        return answers, sure


@contextmanager
def _moved_weights(module: nn.Module, factor: Callable[[tuple[int, ...]], np.ndarray]) -> Iterator[None]:
    """Multiply every weight inside, and put the weights back."""
    weights = [one for one in module.parameters() if one.is_floating_point()]
    before = [one.detach().clone() for one in weights]
    with torch.no_grad():
        for one in weights:
            one.mul_(torch.from_numpy(np.asarray(factor(tuple(one.shape)))))
    try:
        yield
    finally:
        with torch.no_grad():
            for one, old in zip(weights, before, strict=True):
                one.copy_(old)


def _examples(arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(one[:2].copy()) for one in arrays]


def _sequence(rows: Arrays) -> tuple[np.ndarray, ...]:
    return (rows,) if isinstance(rows, np.ndarray) else as_arrays(rows)


def _budget(
    reference: np.ndarray,
    eager: np.ndarray,
    jittered: list[np.ndarray],
    *,
    least_scale: float = 0.0,
    eps: float | None = None,
) -> Budget:
    if eager.dtype.kind != "f":
        return _exact_budget(reference, eager, jittered, lower=eps is not None)
    info = np.finfo(eager.dtype)
    # An element that eager float32 loses to infinity must not set the scale by which the others are judged.
    fits = np.isfinite(as_dtype(reference, eager.dtype)) & np.isfinite(eager)
    scale = max(float(np.abs(reference[fits]).max(initial=0.0)), least_scale)
    unit = max((eps or float(info.eps)) * scale, float(info.tiny))
    # Where float32 must overflow, finite float64 answers would make the budget as large as they are.
    reference = np.where(fits, reference, np.nan)
    eager_error = largest_error(eager, reference, unit)[0]
    conditioning = max(largest_error(moved, reference, unit)[0] for moved in jittered)
    allowed = max(FLOOR, MARGIN * eager_error, MARGIN * conditioning)
    return Budget(
        dtype=str(eager.dtype),
        scale=scale,
        unit=unit,
        eager_error=eager_error,
        conditioning=conditioning,
        allowed=allowed,
    )


def _exact_budget(reference: np.ndarray, eager: np.ndarray, jittered: list[np.ndarray], *, lower: bool) -> Budget:
    """In float32 every element must be right; in less, labels next to a tie are lost by the arithmetic itself."""
    lost, moved = float(np.sum(eager != reference)), float(max(np.sum(one != reference) for one in jittered))
    return Budget(
        dtype=str(eager.dtype),
        scale=0.0,
        unit=0.0,
        eager_error=lost if lower else 0.0,
        conditioning=moved if lower else 0.0,
        allowed=MARGIN * max(lost, moved) if lower else 0.0,
    )
