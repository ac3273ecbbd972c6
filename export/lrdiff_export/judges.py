"""Who says whether outputs are right: a module that can be evaluated in float64, or golden vectors beside a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from lrdiff_export.arithmetic import ARITHMETICS, find_arithmetic, name_arithmetic, simulations
from lrdiff_export.budget import Yardstick
from lrdiff_export.golden import Golden
from lrdiff_export.judging import Budget, Verdict, judge_output

__all__ = ["GoldenJudge", "Judge", "ModuleJudge"]


class Judge(ABC):
    """Compares outputs with float64 answers, in the budgets of the arithmetic that they were computed in.

    Attributes:
        names: of the outputs.
        answers: one array an output, ``[rows, ...]``, float64 for floating ones.
    """

    names: Sequence[str]
    answers: Sequence[np.ndarray]

    @abstractmethod
    def budgets(self, arithmetic: str) -> Sequence[Budget]:
        """Return one budget an output."""

    @abstractmethod
    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Return which arithmetic outputs were computed in that float32 does not explain; None if none does."""

    def excused(self, arithmetic: str) -> Sequence[np.ndarray | None]:
        """Return one mask an output of what nobody can be asked for in this arithmetic; None to judge everything."""
        return [None] * len(self.answers)

    def alone(self, rows: int) -> Sequence[np.ndarray]:
        """Return the answers to the first rows, each given by itself; the same unless a model looks at its batch."""
        return [answer[:rows] for answer in self.answers]

    def judge(self, outputs: Sequence[np.ndarray], arithmetic: str, *, alone: int | None = None) -> list[Verdict]:
        """Compare outputs with the answers.

        Args:
            outputs: one array an output.
            arithmetic: whose budgets to allow.
            alone: number of first rows that were run, one by one; None where all were run together.

        Returns:
            One verdict an output; if the number of outputs is wrong, one verdict that says so.
        """
        answers = self.answers if alone is None else self.alone(alone)
        if len(outputs) != len(answers):
            reason = f"{len(outputs)} outputs instead of {len(answers)}"
            return [Verdict(output="all outputs", error=float("inf"), allowed=0.0, reason=reason)]
        parts = zip(self.names, outputs, answers, self.budgets(arithmetic), self.excused(arithmetic), strict=True)
        return [
            judge_output(name, np.asarray(output), answer, budget, None if mask is None else mask[:alone])
            for name, output, answer, budget, mask in parts
        ]

    def within(self, output: np.ndarray, arithmetic: str) -> np.ndarray:
        """Return which rows ``[rows]`` of the first output lie within its budget."""
        answer, budget = self.answers[0], self.budgets(arithmetic)[0]
        if answer.dtype.kind != "f":
            return np.asarray((output == answer).reshape(len(answer), -1).all(axis=1))
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.abs(output.astype(np.float64) - answer) / budget.unit
        return np.asarray((off <= budget.allowed).reshape(len(answer), -1).all(axis=1))


class ModuleJudge(Judge):
    """Judges by a module, evaluated in float64 and in whatever arithmetic is asked for.

    Args:
        module: takes tensors by position, gives a tensor or a tuple of tensors.
        rows: one array an input, ``[batch, ...]``.
        names: of the outputs; ``output0 ...`` by default.

    Example:
        >>> judge = ModuleJudge(nn.Linear(3, 1), (np.ones((4, 3), np.float32),))
        >>> judge.judge([judge.answers[0].astype(np.float32)], "float32")[0].agrees
        True
    """

    def __init__(self, module: nn.Module, rows: tuple[np.ndarray, ...], names: Sequence[str] | None = None) -> None:
        self._rows = rows
        self._scales = {"float32": Yardstick(module, rows, names=names)}
        self._alone: list[np.ndarray] = []
        self._simulated: dict[str, list[list[np.ndarray]]] | None = None
        self.names = self._scales["float32"].names
        self.answers = self._scales["float32"].answers

    def _scale(self, arithmetic: str) -> Yardstick:
        if arithmetic not in self._scales:
            self._scales[arithmetic] = self._scales["float32"].in_arithmetic(arithmetic)
        return self._scales[arithmetic]

    def budgets(self, arithmetic: str) -> Sequence[Budget]:
        """Return what eager in this arithmetic and the conditioning allow."""
        return self._scale(arithmetic).budgets

    def excused(self, arithmetic: str) -> Sequence[np.ndarray | None]:
        """Return, below float32, what eager in the same arithmetic has not finite either."""
        return [None] * len(self.answers) if arithmetic == "float32" else list(self._scale(arithmetic).beyond)

    def alone(self, rows: int) -> Sequence[np.ndarray]:
        """Evaluate each row by itself."""
        if not self._alone:
            scale = self._scales["float32"]
            each = [scale.reference([one[row : row + 1] for one in self._rows]) for row in range(rows)]
            self._alone = [np.concatenate(parts) for parts in zip(*each, strict=True)]
        return self._alone

    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Compare the error with those of simulated arithmetics."""
        if any(one.shape != answer.shape for one, answer in zip(outputs, self.answers, strict=True)):
            return None
        if self._simulated is None:
            self._simulated = simulations(self._scales["float32"].module, self._rows)
        return name_arithmetic(outputs, self.answers, self._simulated)


class GoldenJudge(Judge):
    """Judges by golden vectors: their budgets are float32's; in other arithmetics an eps is larger, not their number.

    Args:
        golden: from :func:`lrdiff_export.golden.read_golden`.
    """

    def __init__(self, golden: Golden) -> None:
        self.names = golden.output_names
        self.answers = golden.outputs
        self._budgets = golden.budgets

    def budgets(self, arithmetic: str) -> Sequence[Budget]:
        """Return the budgets written with the vectors, in units of the arithmetic's eps."""
        larger = find_arithmetic(arithmetic).eps / ARITHMETICS["float32"].eps
        return [replace(one, unit=one.unit * larger) for one in self._budgets]

    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Name the finest arithmetic whose budgets hold; the error's size alone tells it."""
        for names in (("tfloat32", "float16"), ("bfloat16",)):
            if all(verdict.agrees for verdict in self.judge(outputs, names[0])):
                return " or ".join(names)
        return None
