"""Two oracles: what a module gives in float64, and what eager float32 makes of the same rows.

Numbers are those of float64, within what rounding explains; the way through comparisons, roundings and indices is that
of eager. Where a decision hangs on the last bit of a sum, a matrix product or a function, which runtimes may round
otherwise, every way that float32 may take is right, and no other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import DataError, LrdiffError
from lrdiff_export.model.precision import evaluate_in, find_arithmetic
from lrdiff_export.model.prepared import Prepared, prepare
from lrdiff_export.model.shadow import DRAWS, ShadowRun, joined, run_perturbed, run_with_shadows
from lrdiff_export.model.signature import Arrays, as_arrays
from lrdiff_export.records import first_line
from lrdiff_export.verify.compare import Budget, Verdict
from lrdiff_export.verify.expected import Expected, compare_outputs
from lrdiff_export.verify.ties import decides_otherwise, with_other_ways
from lrdiff_export.verify.tolerance import exact_budget, floating_tolerance

__all__ = ["Reference"]

SCOUTS = 4  # perturbed runs that show whether any decision hangs on the last bit
RUNS = 12  # perturbed runs where one does


class Reference:
    """The float64 answers of a module for given rows, and how far off float32 may be.

    The scale and the budgets come from all rows together, so that a batch of one row whose output happens to lie
    next to zero is judged by the same measure as the rest.

    Args:
        module: takes tensors by position, gives a tensor or a tuple of tensors; or one that is prepared.
        rows: one array an input, ``[batch, ...]``, float32, integer or bool.
        most_rows: that the module is made for at once; None for any number.
        at_once: of these rows, so that the float64 values on the way fit into memory; None for all together.
        draws: of random rounding.
        tolerances: what whole numbers of an output may be off by, by its name.

    Attributes:
        names: of the outputs.
        rows: one array an input.
        arithmetic: whose errors the budgets allow; float32, see :meth:`in_arithmetic`.
        expected: what each output should be.
        beyond: one mask an output, true where eager float32 itself is not finite as float64 is.
        operators: plain names of those that the module calls on floating values.

    Raises:
        DataError: the rows cannot be fed to a model, or not to this one.

    Example:
        >>> rows = np.ones((4, 3), np.float32)
        >>> reference = Reference(nn.Linear(3, 1), rows)
        >>> reference.compare([reference.answers[0].astype(np.float32)])[0].agrees
        True
    """

    def __init__(
        self,
        module: nn.Module | Prepared,
        rows: Arrays,
        *,
        most_rows: int | None = None,
        at_once: int | None = None,
        draws: int = DRAWS,
        tolerances: Mapping[str, int] | None = None,
    ) -> None:
        self.rows = as_arrays(rows)
        self.most_rows = most_rows
        self.at_once = at_once
        self.draws = draws
        self.tolerances = tolerances or {}
        examples = [torch.from_numpy(one[:2].copy()) for one in self.rows]
        self.prepared = module if isinstance(module, Prepared) else prepare(module, examples)
        self.arithmetic = "float32"
        self._measure(None)

    @property
    def module(self) -> nn.Module:
        """The copy that it measures by, called by position."""
        return self.prepared.module

    @property
    def answers(self) -> list[np.ndarray]:
        """One array an output; where float64 and eager differ by more than rounding, those of eager."""
        return [one.answer for one in self.expected]

    @property
    def budgets(self) -> list[Budget]:
        """One an output, wide enough for each of its elements; :meth:`compare` is stricter."""
        return [one.widest() for one in self.expected]

    def answer(self, rows: Arrays) -> list[np.ndarray]:
        """Return the float64 outputs for other rows, one array an input; exact dtypes stay what they are."""
        return self._run(as_arrays(rows), draws=0).answers

    def on(self, rows: Arrays) -> Reference:
        """Return the reference of the same module for other rows, with budgets of its own.

        The scale is at least that of this one's rows: probabilities that have all gone to zero are judged as
        probabilities.
        """
        other = copy.copy(self)
        other.rows, other.at_once = as_arrays(rows), None
        other._measure([budget.scale for budget in self.budgets])
        return other

    def in_arithmetic(self, name: str) -> Reference:
        """Return the reference of the same module and rows that allows what another arithmetic loses.

        Exact outputs, such as labels, may differ in as many elements as eager in that arithmetic and moved inputs make
        differ, times the same margin.

        Raises:
            ConfigError: no such arithmetic.
            InputError: the module does not run in it.
        """
        other = copy.copy(self)
        other.arithmetic = find_arithmetic(name).name
        other._measure(None)
        return other

    def compare(self, outputs: Sequence[np.ndarray], places: np.ndarray | None = None) -> list[Verdict]:
        """Compare outputs with what is expected.

        Args:
            outputs: one array an output, ``[batch, ...]``.
            places: of their rows among the reference's; all by default.

        Returns:
            One verdict an output; if the number of outputs is wrong, one verdict that says so.
        """
        expected = self.expected if places is None else [one.take(places) for one in self.expected]
        return compare_outputs(outputs, expected)

    def _measure(self, scales: Sequence[float] | None) -> None:
        run = self._run(self.rows, draws=self.draws if self.arithmetic == "float32" else 0)
        self.operators = run.operators
        single = self.arithmetic == "float32"
        eager = run.outputs if single else evaluate_in(self.module, self.rows, self.arithmetic)
        names = self.prepared.output_names
        self.names = list(names) if len(names) == len(eager) else [f"output{i}" for i in range(len(eager))]
        self.beyond: list[np.ndarray] = []
        self.expected: list[Expected] = []
        if not single:  # there decisions may differ, too
            run = replace(run, moved=[self._rounded_at_random(draw) for draw in range(DRAWS)])
        for index, name in enumerate(self.names):
            moved = [one[index] for one in run.moved]
            scale = scales[index] if scales else 0.0
            finer = single and scales is None  # rows of another size have answers of another size
            found = self._expect(name, run.answers[index], eager[index], moved, scale=scale, finer=finer)
            self.expected.append(found)
        if single and run.decides:
            self._find_other_ways(eager, whole_rows=scales is not None)

    def _run(self, rows: Sequence[np.ndarray], draws: int) -> ShadowRun:
        try:
            return joined([run_with_shadows(self.module, piece, draws=draws) for piece in self._pieces(rows)])
        except LrdiffError:
            raise
        except Exception as problem:
            raise DataError(
                f"{self.prepared.name} does not take these rows: {first_line(problem)}",
                help="give rows that it is made for; integers must lie within its tables",
            ) from problem

    def _pieces(self, rows: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        step = min(self.most_rows or len(rows[0]), self.at_once or len(rows[0]))
        return [[one[first : first + step] for one in rows] for first in range(0, len(rows[0]), step)]

    def _perturbed(self, draw: int) -> list[np.ndarray]:
        parts = [run_perturbed(self.module, piece, draw=draw) for piece in self._pieces(self.rows)]
        return [np.concatenate(several) for several in zip(*parts, strict=True)]

    def _expect(
        self, name: str, answer: np.ndarray, eager: np.ndarray, moved: list[np.ndarray], *, scale: float, finer: bool
    ) -> Expected:
        single, arithmetic = self.arithmetic == "float32", find_arithmetic(self.arithmetic)
        if eager.dtype.kind != "f":
            self.beyond.append(np.zeros(eager.shape, bool))
            lost = 0.0 if single else float(np.sum(eager != answer))
            changed = 0.0 if single else float(max(np.sum(one != answer) for one in moved))
            budget = exact_budget(eager.dtype, lost, changed, self.tolerances.get(name, 0))
            return Expected(name=name, answer=answer, budget=budget)
        found = floating_tolerance(answer, eager, moved, eps=arithmetic.eps, least_scale=scale, bounded=single)
        self.beyond.append(found.overflows)
        right = np.where(found.unexplained, eager.astype(np.float64), answer)
        return Expected(
            name=name,
            answer=right,
            budget=found.budget,
            own=found.own,
            others=(eager,) if single and found.overflows.any() else (),
            columns=found.columns(right) if finer and right.size else None,
        )

    def _rounded_at_random(self, draw: int) -> list[np.ndarray]:
        eps = find_arithmetic(self.arithmetic).eps
        return run_perturbed(self.module, self.rows, draw=draw, amount=eps / 2, everything=True)

    def _find_other_ways(self, eager: Sequence[np.ndarray], *, whole_rows: bool) -> None:
        """Add what float32 gives where it decides otherwise, if any decision hangs on the last bit."""
        runs: list[list[np.ndarray]] = []
        for draw in range(RUNS):
            try:
                runs.append(self._perturbed(draw))
            except Exception:  # noqa: BLE001 - a module may refuse numbers that a sum has moved out of its range
                return
            if draw + 1 == SCOUTS and not any(map(self._decides_otherwise, runs)):
                return
        self.expected = [
            with_other_ways(one, eager[index], [run[index] for run in runs], whole_rows=whole_rows)
            for index, one in enumerate(self.expected)
        ]

    def _decides_otherwise(self, outputs: Sequence[np.ndarray]) -> bool:
        return any(decides_otherwise(one, output) for one, output in zip(self.expected, outputs, strict=True))
