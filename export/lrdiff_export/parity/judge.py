"""Who says whether outputs are right: a module that can be evaluated in float64, or golden vectors beside a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from lrdiff_core.errors import LrdiffError
from lrdiff_export.model.precision import ARITHMETICS, find_arithmetic, name_arithmetic, name_by_pattern, simulations
from lrdiff_export.model.prepared import Prepared
from lrdiff_export.parity.where import Where, locate
from lrdiff_export.verify.compare import Verdict
from lrdiff_export.verify.expected import Expected, compare_outputs
from lrdiff_export.verify.golden import Golden
from lrdiff_export.verify.reference import Reference

__all__ = ["Case", "GoldenJudge", "Judge", "ModuleJudge"]


REVERSED, STRETCHED = "in reverse order", "rows up to 10 000 times as large"
LARGE_BATCH = 4099  # rows: beyond 4096, and a prime, so that nothing divides it
MOST_NUMBERS, MOST_WORK = 2**19, 2**35  # of the large batch: numbers that go in, times parameters
MOST_OUTPUTS = 2**22  # numbers that come out of a case of our own, 32 MiB in float64
_SEEN_ALONE = 8  # rows evaluated one by one to see whether a module looks at its batch
STRETCHES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # by turns
BACKWARDS = slice(None, None, -1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows to run, and what is right for them.

    Attributes:
        name: as reports write it.
        names: of the outputs.
        rows: one array an input.
        expected: from an arithmetic to what each output should be.
        other_shape: a model made for one size of batch cannot run it.
    """

    name: str
    names: Sequence[str]
    rows: tuple[np.ndarray, ...]
    expected: Callable[[str], Sequence[Expected]]
    other_shape: bool = False

    def judge(self, outputs: Sequence[np.ndarray], arithmetic: str) -> list[Verdict]:
        """Return one verdict an output; if the number of outputs is wrong, one verdict that says so."""
        return compare_outputs(outputs, self.expected(arithmetic))

    def locate(self, outputs: Sequence[np.ndarray], arithmetic: str, output: str) -> Where | None:
        """Say where one output is wrong; None where it is as a whole."""
        expected = self.expected(arithmetic)
        if output not in self.names or len(outputs) != len(expected):
            return None
        at = list(self.names).index(output)
        return locate(expected[at], np.asarray(outputs[at]), self.rows)


class Judge(ABC):
    """Compares outputs with float64 answers, in the budgets of the arithmetic that they were computed in.

    Attributes:
        names: of the outputs.
        answers: one array an output, ``[rows, ...]``, float64 for floating ones.
        module: that the answers come from; None where there is only a file.
    """

    names: Sequence[str]
    answers: Sequence[np.ndarray]
    module: nn.Module | None = None
    _rows: tuple[np.ndarray, ...]

    @abstractmethod
    def expected(self, arithmetic: str) -> Sequence[Expected]:
        """Return what each output should be, for the rows as they were given."""

    @abstractmethod
    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Return which arithmetic outputs were computed in that float32 does not explain; None if none does."""

    def shares_pattern(self, outputs: Sequence[np.ndarray]) -> bool:
        """Whether the error has the pattern of an arithmetic, and not its size alone."""
        return False

    def together(self) -> Case:
        """Return the rows as they were given."""
        return Case(name="", names=self.names, rows=self._rows, expected=self.expected)

    def one_by_one(self, rows: int) -> Case:
        """Return the first rows, each run by itself."""
        return self._some("one by one", slice(rows))

    def cases(self) -> Sequence[Case]:
        """Return further rows to run: what a stale answer, a clipped input or a small buffer would show in."""
        return ()

    def judge(self, outputs: Sequence[np.ndarray], arithmetic: str) -> list[Verdict]:
        """Compare outputs for the rows as they were given with the answers, within the budgets of an arithmetic."""
        return self.together().judge(outputs, arithmetic)

    def within(self, output: np.ndarray, arithmetic: str) -> np.ndarray:
        """Return which rows ``[rows]`` of the first output lie within its budget."""
        wrong = self.expected(arithmetic)[0].wrong(output)
        return np.asarray(~wrong.reshape(len(wrong), -1).any(axis=1))

    def _some(self, name: str, places: slice) -> Case:
        """Some of the rows in another order; what is right for each is what was right for it among all."""
        rows = tuple(np.ascontiguousarray(one[places]) for one in self._rows)
        return Case(
            name=name,
            names=self.names,
            rows=rows,
            expected=lambda arithmetic: [one.take(places) for one in self.expected(arithmetic)],
        )


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
        self._references = {"float32": Reference(module, rows)}
        self._alone: list[np.ndarray] = []
        self._cases: list[Case] | None = None
        self._simulated: dict[str, list[list[np.ndarray]]] | None = None
        single = self._references["float32"]
        self.names, self.answers, self.module = single.names, single.answers, single.module

    def expected(self, arithmetic: str) -> Sequence[Expected]:
        """Return what each output should be; below float32, what eager in it has not finite either is not compared."""
        return _expected(self._reference(arithmetic))

    def _reference(self, arithmetic: str) -> Reference:
        if arithmetic not in self._references:
            self._references[arithmetic] = self._references["float32"].in_arithmetic(arithmetic)
        return self._references[arithmetic]

    def one_by_one(self, rows: int) -> Case:
        """Return the first rows, each run by itself."""
        case = super().one_by_one(rows)
        return case if self._by_row() else _with_answers(case, self._answers_alone(rows))

    def cases(self) -> Sequence[Case]:
        """Return the rows in reverse order, stretched, and repeated to a large batch, as far as each is possible."""
        if self._cases is None:
            self._cases = [self._reversed(), *self._stretched(), *self._large()]
        return self._cases

    def _reversed(self) -> Case:
        case = self._some(REVERSED, BACKWARDS)
        return case if self._by_row() else _with_answers(case, self._references["float32"].answer(case.rows))

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
            references = {"float32": self._references["float32"].on(rows)}
        except LrdiffError:  # a module may refuse such numbers
            return

        def expected(arithmetic: str) -> Sequence[Expected]:
            if arithmetic not in references:
                references[arithmetic] = references["float32"].in_arithmetic(arithmetic)
            # Labels of saturated scores are ties.
            return [
                one if one.answer.dtype.kind == "f" else replace(one, skipped=np.ones(one.answer.shape, bool))
                for one in _expected(references[arithmetic])
            ]

        yield Case(name=STRETCHED, names=self.names, rows=rows, expected=expected)

    def _large(self) -> Iterator[Case]:
        here, numbers = len(self._rows[0]), LARGE_BATCH * sum(one[0].size for one in self._rows)
        weights = sum(one.numel() for one in self._references["float32"].module.parameters())
        outputs = LARGE_BATCH * sum(one[0].size for one in self.answers)
        small = numbers <= MOST_NUMBERS and outputs <= MOST_OUTPUTS and numbers * weights <= MOST_WORK
        if here >= LARGE_BATCH or not small or not self._by_row():
            return
        places = np.arange(LARGE_BATCH) % here

        def expected(arithmetic: str) -> Sequence[Expected]:
            # A label that the arithmetic loses is lost as often as its row is repeated.
            times = -(-LARGE_BATCH // here)
            return [
                one if one.answer.dtype.kind == "f"
                else replace(one, budget=replace(one.budget, allowed=one.budget.allowed * times))
                for one in (whole.take(places) for whole in self.expected(arithmetic))
            ]  # fmt: skip

        yield Case(
            name=f"in a batch of {LARGE_BATCH}", names=self.names, rows=tuple(one[places] for one in self._rows),
            expected=expected, other_shape=True,
        )  # fmt: skip

    def _by_row(self) -> bool:
        """Whether each row's answer depends on that row alone, as far as the first ones show."""
        rows = min(_SEEN_ALONE, len(self._rows[0]))
        try:
            alone = self._answers_alone(rows)
            together = self._references["float32"].answer([one[:rows] for one in self._rows])
        except LrdiffError:
            return False
        return all(
            one.shape == answer.shape and np.allclose(one, answer, rtol=1e-9, atol=1e-12, equal_nan=True)
            for one, answer in zip(alone, together, strict=True)
        )

    def _answers_alone(self, rows: int) -> Sequence[np.ndarray]:
        """Evaluate each row by itself."""
        if not self._alone:
            single = self._references["float32"]
            each = [single.answer([one[row : row + 1] for one in self._rows]) for row in range(rows)]
            self._alone = [np.concatenate(parts) for parts in zip(*each, strict=True)]
        return self._alone

    def name(self, outputs: Sequence[np.ndarray]) -> str | None:
        """Compare the error with those of simulated arithmetics."""
        return self._compared(name_arithmetic, outputs)

    def shares_pattern(self, outputs: Sequence[np.ndarray]) -> bool:
        """Whether the error has the pattern of an arithmetic, and not its size alone."""
        return self._compared(name_by_pattern, outputs) is not None

    def _compared(self, named: Callable[..., str | None], outputs: Sequence[np.ndarray]) -> str | None:
        if any(one.shape != answer.shape for one, answer in zip(outputs, self.answers, strict=True)):
            return None
        few = self._few()
        if self._simulated is None:
            self._simulated = simulations(self._references["float32"].module, [one[:few] for one in self._rows])
        first, answers = ([one[:few] for one in several] for several in (outputs, self.answers))
        return named(first, answers, self._simulated)


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
        return (self._some(REVERSED, BACKWARDS),)

    def expected(self, arithmetic: str) -> Sequence[Expected]:
        """Return the answers and the budgets written with them, in units of the arithmetic's eps."""
        larger = find_arithmetic(arithmetic).eps / ARITHMETICS["float32"].eps
        return [
            Expected(name=name, answer=answer, budget=replace(budget, unit=budget.unit * larger))
            for name, answer, budget in zip(self.names, self.answers, self._budgets, strict=True)
        ]

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


def _expected(reference: Reference) -> list[Expected]:
    """Outputs as a whole, as every arithmetic and runtime is judged; below float32 less what eager loses, too."""
    lower = reference.arithmetic != "float32"
    return [
        replace(one, columns=None, skipped=beyond if lower else one.skipped)
        for one, beyond in zip(reference.expected, reference.beyond, strict=True)
    ]


def _with_answers(case: Case, answers: Sequence[np.ndarray]) -> Case:
    """A case of a module that looks at its whole batch: other batches have other answers."""

    def expected(arithmetic: str) -> Sequence[Expected]:
        return [replace(one, answer=answer) for one, answer in zip(case.expected(arithmetic), answers, strict=True)]

    return replace(case, expected=expected)
