"""Who says whether outputs are right: a module that can be evaluated in float64, or golden vectors beside a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from lrdiff_core.errors import LrdiffError
from lrdiff_export.model.precision import ARITHMETICS, find_arithmetic, name_arithmetic, simulations
from lrdiff_export.model.prepared import Prepared
from lrdiff_export.parity.where import Where, locate
from lrdiff_export.verify.compare import Budget, Verdict, judge_output
from lrdiff_export.verify.golden import Golden
from lrdiff_export.verify.reference import Reference

__all__ = ["Case", "GoldenJudge", "Judge", "ModuleJudge"]


REVERSED, STRETCHED = "in reverse order", "rows up to 10 000 times as large"
LARGE_BATCH = 4099  # rows: beyond 4096, and a prime, so that nothing divides it
MOST_NUMBERS, MOST_WORK = 2**19, 2**35  # of the large batch: numbers that go in, times parameters
MOST_OUTPUTS = 2**22  # numbers that come out of a case of our own, 32 MiB in float64
_SEEN_ALONE = 8  # rows evaluated one by one to see whether a module looks at its batch
STRETCHES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # by turns


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows to run, and what is right for them.

    Attributes:
        name: as reports write it.
        names: of the outputs.
        rows: one array an input.
        answers: one array an output, float64 for floating ones.
        limits: from an arithmetic to one budget an output, and one mask an output of what is not judged.
        other_shape: a model made for one size of batch cannot run it.
    """

    name: str
    names: Sequence[str]
    rows: tuple[np.ndarray, ...]
    answers: Sequence[np.ndarray]
    limits: Callable[[str], tuple[Sequence[Budget], Sequence[np.ndarray | None]]]
    other_shape: bool = False

    def judge(self, outputs: Sequence[np.ndarray], arithmetic: str) -> list[Verdict]:
        """Return one verdict an output; if the number of outputs is wrong, one verdict that says so."""
        if len(outputs) != len(self.answers):
            reason = f"{len(outputs)} outputs instead of {len(self.answers)}"
            return [Verdict(output="all outputs", error=float("inf"), allowed=0.0, reason=reason)]
        parts = zip(self.names, outputs, self.answers, *self.limits(arithmetic), strict=True)
        return [judge_output(name, np.asarray(one), answer, budget, mask) for name, one, answer, budget, mask in parts]

    def locate(self, outputs: Sequence[np.ndarray], arithmetic: str, output: str) -> Where | None:
        """Say where one output is wrong; None where it is as a whole."""
        if output not in self.names or len(outputs) != len(self.answers):
            return None
        at = list(self.names).index(output)
        budgets, excused = self.limits(arithmetic)
        return locate(output, np.asarray(outputs[at]), self.answers[at], budgets[at], excused[at])


class Judge(ABC):
    """Compares outputs with float64 answers, in the budgets of the arithmetic that they were computed in.

    Attributes:
        names: of the outputs.
        answers: one array an output, ``[rows, ...]``, float64 for floating ones.
    """

    names: Sequence[str]
    answers: Sequence[np.ndarray]
    _rows: tuple[np.ndarray, ...]

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

    def together(self) -> Case:
        """Return the rows as they were given."""
        return Case(
            name="", names=self.names, rows=self._rows, answers=self.answers,
            limits=lambda arithmetic: (self.budgets(arithmetic), self.excused(arithmetic)),
        )  # fmt: skip

    def one_by_one(self, rows: int) -> Case:
        """Return the first rows, each run by itself."""

        def limits(arithmetic: str) -> tuple[Sequence[Budget], Sequence[np.ndarray | None]]:
            return self.budgets(arithmetic), [
                None if mask is None else mask[:rows] for mask in self.excused(arithmetic)
            ]

        first = tuple(one[:rows] for one in self._rows)
        return Case(name="one by one", names=self.names, rows=first, answers=self.alone(rows), limits=limits)

    def cases(self) -> Sequence[Case]:
        """Return further rows to run: what a stale answer, a clipped input or a small buffer would show in."""
        return ()

    def judge(self, outputs: Sequence[np.ndarray], arithmetic: str) -> list[Verdict]:
        """Compare outputs for the rows as they were given with the answers, within the budgets of an arithmetic."""
        return self.together().judge(outputs, arithmetic)

    def _turned(self, answers: Sequence[np.ndarray]) -> Case:
        def limits(arithmetic: str) -> tuple[Sequence[Budget], Sequence[np.ndarray | None]]:
            return self.budgets(arithmetic), [None if mask is None else mask[::-1] for mask in self.excused(arithmetic)]

        rows = tuple(np.ascontiguousarray(one[::-1]) for one in self._rows)
        return Case(name=REVERSED, names=self.names, rows=rows, answers=answers, limits=limits)

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
        module: takes tensors by position, gives a tensor or a tuple of tensors; or one that is prepared.
        rows: one array an input, ``[batch, ...]``.

    Example:
        >>> judge = ModuleJudge(nn.Linear(3, 1), (np.ones((4, 3), np.float32),))
        >>> judge.judge([judge.answers[0].astype(np.float32)], "float32")[0].agrees
        True
    """

    def __init__(self, module: nn.Module | Prepared, rows: tuple[np.ndarray, ...]) -> None:
        self._rows = rows
        self._scales = {"float32": Reference(module, rows)}
        self._alone: list[np.ndarray] = []
        self._cases: list[Case] | None = None
        self._simulated: dict[str, list[list[np.ndarray]]] | None = None
        self.names = self._scales["float32"].names
        self.answers = self._scales["float32"].answers

    def _scale(self, arithmetic: str) -> Reference:
        if arithmetic not in self._scales:
            self._scales[arithmetic] = self._scales["float32"].in_arithmetic(arithmetic)
        return self._scales[arithmetic]

    def budgets(self, arithmetic: str) -> Sequence[Budget]:
        """Return what eager in this arithmetic and the conditioning allow."""
        return self._scale(arithmetic).budgets

    def excused(self, arithmetic: str) -> Sequence[np.ndarray | None]:
        """Return, below float32, what eager in the same arithmetic has not finite either."""
        return [None] * len(self.answers) if arithmetic == "float32" else list(self._scale(arithmetic).beyond)

    def cases(self) -> Sequence[Case]:
        """Return the rows in reverse order, stretched, and repeated to a large batch, as far as each is possible."""
        if self._cases is None:
            self._cases = [self._reversed(), *self._stretched(), *self._large()]
        return self._cases

    def _reversed(self) -> Case:
        rows = tuple(np.ascontiguousarray(one[::-1]) for one in self._rows)
        return self._turned(self._scales["float32"].answer(rows))  # a module may look at its whole batch

    def _few(self) -> int:
        """How many rows give no more numbers than are looked at more than once."""
        return max(1, MOST_OUTPUTS // int(sum(answer[0].size for answer in self.answers)))

    def _stretched(self) -> Iterator[Case]:
        turns = np.resize(np.array(STRETCHES), min(len(self._rows[0]), self._few()))
        if len(turns) < len(STRETCHES) or not any(one.dtype.kind == "f" for one in self._rows):
            return
        with np.errstate(over="ignore"):
            rows = tuple(
                (one * turns.reshape(-1, *[1] * (one.ndim - 1))).astype(one.dtype) if one.dtype.kind == "f" else one
                for one in (whole[: len(turns)] for whole in self._rows)
            )
        try:
            scales = {"float32": self._scales["float32"].on(rows)}
        except LrdiffError:  # a module may refuse such numbers
            return

        def limits(arithmetic: str) -> tuple[Sequence[Budget], Sequence[np.ndarray | None]]:
            if arithmetic not in scales:
                scales[arithmetic] = scales["float32"].in_arithmetic(arithmetic)
            scale = scales[arithmetic]
            # Labels of saturated scores are ties.
            return scale.budgets, [
                mask if answer.dtype.kind == "f" else np.ones(answer.shape, bool)
                for mask, answer in zip(scale.beyond, scale.answers, strict=True)
            ]

        yield Case(name=STRETCHED, names=self.names, rows=rows, answers=scales["float32"].answers, limits=limits)

    def _large(self) -> Iterator[Case]:
        here, numbers = len(self._rows[0]), LARGE_BATCH * sum(one[0].size for one in self._rows)
        weights = sum(one.numel() for one in self._scales["float32"].module.parameters())
        outputs = LARGE_BATCH * sum(one[0].size for one in self.answers)
        small = numbers <= MOST_NUMBERS and outputs <= MOST_OUTPUTS and numbers * weights <= MOST_WORK
        if here >= LARGE_BATCH or not small or not self._by_row():
            return
        places = np.arange(LARGE_BATCH) % here

        def limits(arithmetic: str) -> tuple[Sequence[Budget], Sequence[np.ndarray | None]]:
            # A label that the arithmetic loses is lost as often as its row is repeated.
            budgets = [
                one if np.dtype(one.dtype).kind == "f" else replace(one, allowed=one.allowed * -(-LARGE_BATCH // here))
                for one in self.budgets(arithmetic)
            ]
            return budgets, [None if mask is None else mask[places] for mask in self.excused(arithmetic)]

        yield Case(
            name=f"in a batch of {LARGE_BATCH}", names=self.names, rows=tuple(one[places] for one in self._rows),
            answers=[answer[places] for answer in self.answers], limits=limits, other_shape=True,
        )  # fmt: skip

    def _by_row(self) -> bool:
        """Whether each row's answer depends on that row alone, as far as the first ones show."""
        rows = min(_SEEN_ALONE, len(self._rows[0]))
        try:
            alone = self.alone(rows)
        except LrdiffError:
            return False
        return all(
            one.shape == answer[:rows].shape and np.allclose(one, answer[:rows], rtol=1e-9, atol=1e-12, equal_nan=True)
            for one, answer in zip(alone, self.answers, strict=True)
        )

    def alone(self, rows: int) -> Sequence[np.ndarray]:
        """Evaluate each row by itself."""
        if not self._alone:
            scale = self._scales["float32"]
            each = [scale.answer([one[row : row + 1] for one in self._rows]) for row in range(rows)]
            self._alone = [np.concatenate(parts) for parts in zip(*each, strict=True)]
        return self._alone

    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Compare the error with those of simulated arithmetics."""
        if any(one.shape != answer.shape for one, answer in zip(outputs, self.answers, strict=True)):
            return None
        few = self._few()
        if self._simulated is None:
            self._simulated = simulations(self._scales["float32"].module, [one[:few] for one in self._rows])
        first, answers = ([one[:few] for one in several] for several in (outputs, self.answers))
        return name_arithmetic(first, answers, self._simulated)


class GoldenJudge(Judge):
    """Judges by golden vectors: their budgets are float32's; in other arithmetics an eps is larger, not their number.

    Args:
        golden: from :func:`lrdiff_export.verify.golden.read_golden`.
    """

    def __init__(self, golden: Golden) -> None:
        self.names = golden.output_names
        self.answers = golden.outputs
        self._rows = golden.inputs
        self._budgets = golden.budgets

    def cases(self) -> Sequence[Case]:
        """Return the rows in reverse order; other answers than those of the file are not known."""
        return (self._turned([answer[::-1] for answer in self.answers]),)

    def budgets(self, arithmetic: str) -> Sequence[Budget]:
        """Return the budgets written with the vectors, in units of the arithmetic's eps."""
        larger = find_arithmetic(arithmetic).eps / ARITHMETICS["float32"].eps
        return [replace(one, unit=one.unit * larger) for one in self._budgets]

    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Name the arithmetics of which the error has the size; nothing else is known of a file alone."""
        fine, coarse = (self.judge(outputs, name) for name in ("tfloat32", "bfloat16"))
        if not all(verdict.agrees for verdict in coarse):
            return None
        if not all(verdict.agrees for verdict in fine):
            return "bfloat16"
        # A model may well lose less than one digit of bfloat16: eight of the others.
        small = all(verdict.error <= 1 for verdict in fine)
        return "tfloat32 or float16" if small else "tfloat32 or float16 or bfloat16"
