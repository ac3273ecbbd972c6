"""The verification battery: which rows a file is run on, and what the right answers are.

The float64 side is computed once; any number of files can then be run against it. Rows of ordinary size (held-out
rows, normal ones, zeros, extremes, denormals) share one yardstick, so that a single row whose answer happens to lie
next to zero is judged by the same measure as the rest. Rows of 10 and 10 000 times the size have yardsticks of their
own, and there an element that eager float32 itself cannot hold is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lrdiff_core.errors import InputError, LrdiffError
from lrdiff_export.model.prepared import Prepared
from lrdiff_export.verify.tolerance import Yardstick

__all__ = ["BATCH_SIZES", "LADDER", "SCALES", "Battery", "Case", "drawn_rows"]

# One row, the smallest batches, one that no vector width divides, one larger than any unrolled tail, a large one.
BATCH_SIZES = (1, 2, 3, 7, 64, 1000)
SCALES = (10.0, 10_000.0)
# Input scales tried for the largest at which backends agree; float32 ends at 3.4e38.
LADDER = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e8, 1e10, 1e15, 1e20, 1e25, 1e30, 1e35)
DRAWN_ROWS = 64
ALONE_ROWS = 16  # rows run one by one
LADDER_ROWS = 16
MOST_EXTREMES = 32  # features whose extremes are tried; of more, as many evenly chosen ones
DENORMAL = 1e-40  # float32's smallest normal number is 1.2e-38
NEIGHBOURS = 8  # rows around one that is not finite


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows to run, with their answers.

    Attributes:
        name: of the case.
        feeds: one array an input, ``[batch, ...]``.
        answers: the float64 outputs.
        yardstick: what judges them.
        excused: one mask an output of what is not judged; None to judge everything.
        alone: run each row by itself and put the answers together.
    """

    name: str
    feeds: tuple[np.ndarray, ...]
    answers: tuple[np.ndarray, ...]
    yardstick: Yardstick
    excused: tuple[np.ndarray, ...] | None = None
    alone: bool = False

    @property
    def batch(self) -> int:
        """Number of rows."""
        return len(self.feeds[0])


class Battery:
    """All cases for one module and its held-out rows.

    Args:
        prepared: the module.
        rows: held-out rows, one array an input.

    Attributes:
        prepared: the module.
        yardstick: the one of ordinary rows; its budgets are those of the report.
        rows: the held-out rows.

    Raises:
        DataError: the module does not take the rows.
        InputError: the module cannot be evaluated in float64, or its answers cannot be compared: not one a row, or
            none finite.

    Example:
        >>> from lrdiff_export.model.prepared import prepare
        >>> rows = (np.ones((3, 2), np.float32),)
        >>> battery = Battery(prepare(torch.nn.Linear(2, 1), torch.ones(3, 2)), rows)
        >>> [case.name for case in battery.cases()][:3]
        ['held out', 'batch 1', 'batch 2']
    """

    def __init__(self, prepared: Prepared, rows: tuple[np.ndarray, ...]) -> None:
        self.prepared = prepared
        self.rows = rows
        self._parts = {"held out": rows}
        if self._floating:
            self._parts |= {
                "normal": _with_integers_of(rows, drawn_rows(rows, DRAWN_ROWS)),
                "zeros": _with_integers_of(rows, tuple(np.zeros((1, *one.shape[1:]), one.dtype) for one in rows)),
                "extremes": _with_integers_of(rows, _extremes(rows)),
                "denormals": _scaled(_some(rows, LADDER_ROWS), DENORMAL),
            }
        pool = tuple(np.concatenate([part[i] for part in self._parts.values()]) for i in range(len(rows)))
        self.yardstick = Yardstick(prepared, pool)
        self._check_answers(len(pool[0]))

    def _check_answers(self, rows: int) -> None:
        for name, answer in zip(self.yardstick.names, self.yardstick.answers, strict=True):
            if answer.shape[:1] != (rows,):
                raise InputError(
                    f"output {name!r} has shape {list(answer.shape)} for {rows} rows", help="give one answer per row"
                )
            if answer.size and answer.dtype.kind == "f" and not np.isfinite(answer).any():
                broken = [key for key, one in self.prepared.inner.state_dict().items() if not torch.isfinite(one).all()]
                raise InputError(
                    f"output {name!r} is not finite for any row: nothing can be compared",
                    help=f"look at {broken[0]}, which holds NaN or infinity" if broken else "give rows with answers",
                )

    @property
    def _floating(self) -> bool:
        return any(one.dtype.kind == "f" for one in self.rows)

    def cases(self) -> Iterator[Case]:
        """Yield every case; those that need a floating input only where there is one."""
        held_out, *others = self.ordinary()
        yield held_out
        yield from (self._of_rows(f"batch {size}", size) for size in BATCH_SIZES)
        yield self._of_rows("rows alone", min(ALONE_ROWS, len(self.rows[0])), alone=True)
        yield from others
        if not self._floating:
            return
        yield self._round_numbers()
        for scale in SCALES:
            yield self.at_scale(scale, f"{scale:,.0f} times".replace(",", " "), DRAWN_ROWS)
        for name, value in (("a NaN row", np.nan), ("an infinite row", np.inf)):
            yield self._with_row_of(name, value)

    def ordinary(self) -> Iterator[Case]:
        """Yield the cases that share the battery's yardstick, each a part of its rows, held-out rows first."""
        first = 0
        for name, feeds in self._parts.items():
            yield self._case(name, feeds, np.arange(first, first + len(feeds[0])))
            first += len(feeds[0])

    def at_scale(self, scale: float, name: str, rows: int = LADDER_ROWS) -> Case:
        """Return a case of held-out rows times ``scale``, judged by a yardstick of its own."""
        feeds = _scaled(_some(self.rows, rows), scale)
        yardstick = self.yardstick.on(feeds)
        return Case(
            name=name,
            feeds=feeds,
            answers=tuple(yardstick.answers),
            yardstick=yardstick,
            excused=tuple(yardstick.beyond),
        )

    def _case(self, name: str, feeds: tuple[np.ndarray, ...], places: np.ndarray, *, alone: bool = False) -> Case:
        answers = tuple(answer[places] for answer in self.yardstick.answers)
        return Case(name=name, feeds=feeds, answers=answers, yardstick=self.yardstick, alone=alone)

    def _of_rows(self, name: str, size: int, *, alone: bool = False) -> Case:
        places = np.arange(size) % len(self.rows[0])
        return self._case(name, tuple(one[places] for one in self.rows), places, alone=alone)

    def _round_numbers(self) -> Case:
        """Held-out rows at multiples of one half, where thresholds lie and roundings are decided.

        An answer that changes with the last bit there is not asked for: eager float32 must have it, too.
        """
        feeds = tuple(
            (np.round(2 * one) / 2).astype(one.dtype) if one.dtype.kind == "f" else one
            for one in _some(self.rows, DRAWN_ROWS)
        )
        answers, sure = self.yardstick.sure(feeds)
        return Case(
            name="round numbers",
            feeds=feeds,
            answers=tuple(answers),
            yardstick=self.yardstick,
            excused=tuple(~one for one in sure),
        )

    def _with_row_of(self, name: str, value: float) -> Case:
        """A row that is not finite among others: its neighbours keep their answers, and it has the module's own.

        Only where that is a finite number: a module that fills missing values means it. What becomes of NaN differs
        between runtimes, and a label made of it is none.
        """
        case = self._of_rows(name, NEIGHBOURS)
        middle = NEIGHBOURS // 2
        feeds = tuple(one.copy() for one in case.feeds)
        for one in feeds:
            if one.dtype.kind == "f":
                one[middle] = value
        excused = tuple(np.zeros(answer.shape, bool) for answer in case.answers)
        answers = tuple(answer.copy() for answer in case.answers)
        try:
            found, sure = self.yardstick.sure([one[middle : middle + 1] for one in feeds])
        except LrdiffError:  # it refuses such rows itself
            found, sure = [], []
        for mask in excused:
            mask[middle] = True
        for answer, mask, its, known in zip(answers, excused, found, sure, strict=False):
            if answer.dtype.kind == "f":
                answer[middle], mask[middle] = its[0], ~known[0]
        return Case(name=name, feeds=feeds, answers=answers, yardstick=self.yardstick, excused=excused)


def drawn_rows(rows: Sequence[np.ndarray], count: int) -> tuple[np.ndarray, ...]:
    """Draw rows like those given, the same in every process.

    Floating inputs are normal with each feature's mean and spread; integers are uniform between the smallest and
    largest seen, so that no index leaves its table.

    Args:
        rows: one array an input, ``[batch, ...]``.
        count: rows to draw.

    Example:
        >>> drawn_rows([np.array([[3], [5]])], 4)[0].tolist()
        [[5], [4], [4], [3]]
    """
    generator = np.random.default_rng(0)
    drawn = []
    for one in rows:
        shape = (count, *one.shape[1:])
        if one.dtype.kind == "f":
            finite = np.where(np.isfinite(one), one, 0.0).astype(np.float64)
            spread = finite.std(axis=0)
            # One row, or a constant feature, tells no spread: take that of standardised features.
            values = finite.mean(axis=0) + np.where(spread > 0, spread, 1.0) * generator.standard_normal(shape)
        else:
            values = generator.integers(int(one.min()), int(one.max()) + 1, size=shape)
        drawn.append(np.asarray(values).astype(one.dtype))
    return tuple(drawn)


def _with_integers_of(rows: tuple[np.ndarray, ...], made: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Take integers and bools from held-out rows, whole: which combinations a module takes cannot be known.

    A row that attention masks altogether, for one, is zero in PyTorch and an average in ONNX.
    """
    places = np.arange(len(made[0])) % len(rows[0])
    return tuple(new if new.dtype.kind == "f" else old[places] for old, new in zip(rows, made, strict=True))


def _extremes(rows: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Rows at the mean but for one floating feature, which is at its smallest or largest."""
    floating = [one.reshape(len(one), -1) for one in rows if one.dtype.kind == "f"]
    width = sum(one.shape[1] for one in floating)
    chosen: list[int] = []
    if width:
        chosen = np.unique(np.linspace(0, width - 1, min(width, MOST_EXTREMES)).round().astype(int)).tolist()
    count = 2 * max(len(chosen), 1)
    made = []
    offset = 0
    for one in rows:
        if one.dtype.kind != "f":
            made.append(np.zeros((count, *one.shape[1:]), one.dtype))
            continue
        flat = one.reshape(len(one), -1)
        finite = np.where(np.isfinite(flat), flat, 0.0)
        values = np.repeat(finite.mean(axis=0, dtype=np.float64)[None].astype(np.float32), count, axis=0)
        for place, feature in enumerate(chosen):
            if 0 <= feature - offset < flat.shape[1]:
                column = finite[:, feature - offset]
                values[2 * place, feature - offset] = column.min()
                values[2 * place + 1, feature - offset] = column.max()
        offset += flat.shape[1]
        made.append(values.reshape(count, *one.shape[1:]))
    return tuple(made)


def _some(rows: tuple[np.ndarray, ...], count: int) -> tuple[np.ndarray, ...]:
    return tuple(one[:count] for one in rows)


def _scaled(rows: tuple[np.ndarray, ...], scale: float) -> tuple[np.ndarray, ...]:
    with np.errstate(over="ignore", under="ignore"):
        return tuple((one * np.float64(scale)).astype(one.dtype) if one.dtype.kind == "f" else one for one in rows)
