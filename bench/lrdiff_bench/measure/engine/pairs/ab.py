"""One case, two sides, fresh processes, block against block: what a change costs.

A side is a commit, the working tree (``.``), or a value of one of the case's parameters. For every group of processes
all are built and warmed up, then measured in rounds that run forwards and backwards: a b b a, or with a control, which
is a second process of side ``a``, a b c c b a, in an order drawn by lot. Each block is taken in its own process while
the others wait: a drift of the machine hits all of them. Blocks are compared within one way through the round, forwards
or backwards: a burst that hits one of them spoils one pair. Then these processes end and the next group begins, because
two processes differ although they run the same code.

Processors of one machine are not equally fast at the same time: rented ones have been seen to lose a third of their
speed for a twentieth of a second at a time, presumably to a stranger's work on the other half of the core. So the
processes of a group share one processor where all of them do nothing but compute, one by lot for each group, and
blocks are short: what slows one of two neighbouring blocks then slows the other as well.

Copies of one warm process would start faster, but they share its memory layout and hash seed, and would repeat what is
only that one's luck: they are no independent evidence, and are not taken here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.pairs.judge import WIDEST, ClockRounds, Judgement, judge
from lrdiff_bench.measure.engine.process import Effort, MeasuringProcess
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.record_builder import RecordBuilder
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.stats.hierarchical import Groups, Outcome
from lrdiff_bench.stats.intervals import LEVEL
from lrdiff_bench.stats.verdict import BAND
from lrdiff_bench.system.machine import usable_processors

__all__ = ["Comparing", "Measured", "Pairing", "Side", "compare_sides"]

LEAST_ROUNDS = 3  # taken even where the time is up


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two things to compare.

    Args:
        label: as the table shows it.
        case: what is measured.
        path: folders of the code, where it is not the installed one.
        commit: of that code.
        dirty: whether the code differs from that commit.
    """

    label: str
    case: Case
    path: tuple[Path, ...] = ()
    commit: str | None = None
    dirty: bool = False


class Measured(Protocol):
    """A process that measures; a protocol, so that tests can plant their own samples."""

    def start(self, case: Case, effort: Effort) -> None:
        """Build the case and warm it up."""

    def block(self) -> Sample:
        """Measure one block."""

    def keep_to(self, processors: Sequence[int]) -> None:
        """Compute on these processors alone from now on."""

    def end(self) -> dict[str, Any]:
        """Finish, and tell everything that is not a sample."""

    def close(self) -> None:
        """End the process."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two sides, measured.

    Args:
        judgement: b judged against a.
        ratios: wall time of b over that of a, and where there is one over that of the control, twice a round: forwards
            and backwards. [processes][2 * rounds][twins]
        records: of a and of b, with every sample; that of a has the control's, too.
        seconds: that one more group of processes takes.
    """

    judgement: Judgement
    ratios: Groups
    records: tuple[Record, Record]
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """Of the clock that judged."""
        return self.judgement.outcome

    @property
    def minutes(self) -> float | None:
        """What settling an unresolved comparison would take; None where it is settled, or no time would do."""
        more = self.outcome.more_processes
        return None if more is None else more * self.seconds / 60


class Comparing:
    """A comparison on its way: group after group of processes, judged whenever one likes.

    Args:
        a, b: the sides; the same side twice is an A/A comparison.
        effort: its samples are the rounds of a group.
        control: whether side a gets a second process in every group, for the A/A band of this very run.
        seed: of the order of blocks.
        affinity: processors to choose from for what only computes; left out, all that this process may use.
        launch: starts a process for a side.
    """

    def __init__(
        self,
        a: Side,
        b: Side,
        effort: Effort,
        *,
        launch: Callable[[Side], Measured],
        control: bool = True,
        seed: int = 0,
        affinity: Sequence[int] = (),
    ) -> None:
        self.sides = (a, b, a) if control else (a, b)
        self.effort, self.launch, self.control = effort, launch, control
        self.affinity = tuple(affinity) or usable_processors()
        self.seconds = 0.0
        self.groups = 0
        self._lot = random.Random(seed)
        self._building = RecordBuilder(a.case), RecordBuilder(b.case)
        # By clock: what each process of a group took forwards and backwards. [groups][2 * rounds][processes]
        self._wall: list[list[list[float]]] = []
        self._processor: list[list[list[float | None]]] = []
        self._busy: list[list[bool | None]] = [[], []]
        self._order = 0

    def measure(self) -> None:
        """Measure one more group of fresh processes.

        Raises:
            LrdiffError: what a measuring process says.
        """
        whole = time.perf_counter()
        count = len(self.sides)
        wall: list[list[float]] = []
        processor: list[list[float | None]] = []
        blocks = [0] * count
        with ExitStack() as stack:
            processes = [self.launch(side) for side in self.sides]  # they load side by side
            for process in processes:
                stack.callback(process.close)
            for i in self._lot.sample(range(count), count):
                processes[i].start(self.sides[i].case, self.effort)
            began = time.perf_counter()
            shared: list[int] = []
            while len(wall) < 2 * self.effort.samples and (
                len(wall) < 2 * LEAST_ROUNDS or time.perf_counter() - began < self.effort.most_seconds
            ):
                forwards = self._lot.sample(range(count), count)
                seconds: list[list[Sample]] = [[] for _ in range(count)]
                for i in (*forwards, *reversed(forwards)):
                    taken = processes[i].block()
                    seconds[i].append(taken)
                    self._keep(taken, i, blocks[i])
                    blocks[i] += 1
                for way in zip(*seconds, strict=True):
                    wall.append([one.seconds for one in way])
                    processor.append([one.processor for one in way])
                if len(wall) == 2 and self.affinity and all(one.busy for two in seconds for one in two):
                    shared = [self._lot.choice(self.affinity)]
                    for process in processes:
                        process.keep_to(shared)
            for i, process in enumerate(processes):
                if shared:  # what comes at the end, such as parity in float64, may use them all
                    process.keep_to(self.affinity)
                self._building[i % 2].finish(self._process(i), process.end())
        self._wall.append(wall)
        self._processor.append(processor)
        self.groups += 1
        self.seconds += time.perf_counter() - whole

    def judge(self, *, band: float = BAND, widest: float = WIDEST, level: float = LEVEL) -> Judgement:
        """What the groups measured so far say; the arguments are those of :func:`judge`."""
        every = [time for group in self._processor for row in group for time in row]
        known = [[[time for time in row if time] for row in group] for group in self._processor]
        busy = [None if not side or None in side else sum(map(bool, side)) / len(side) for side in self._busy]
        return judge(
            _rounds(self._wall), _rounds(known) if all(every) else None, busy, band=band, widest=widest, level=level
        )  # fmt: skip

    def pairing(self, *, band: float = BAND, widest: float = WIDEST, level: float = LEVEL) -> Pairing:
        """The verdict with everything that was measured; the arguments are those of :meth:`judge`."""
        a, b = (_of_commit(building.record(), side) for building, side in zip(self._building, self.sides, strict=False))
        return Pairing(
            judgement=self.judge(band=band, widest=widest, level=level),
            ratios=_rounds(self._wall).ratios,
            records=(a, b),
            seconds=self.seconds / max(1, self.groups),
        )

    def _process(self, i: int) -> int:
        """Number of a group's process in its side's record: that of side a holds the control's, too."""
        return 2 * self.groups + i // 2 if self.control and i % 2 == 0 else self.groups

    def _keep(self, taken: Sample, i: int, block: int) -> None:
        self._building[i % 2].add(taken, process=self._process(i), block=block, order=self._order)
        self._busy[i % 2].append(taken.busy)
        self._order += 1


def compare_sides(
    a: Side,
    b: Side,
    effort: Effort,
    *,
    band: float = BAND,
    widest: float = WIDEST,
    control: bool = True,
    seed: int = 0,
    affinity: Sequence[int] = (),
    launch: Callable[[Side], Measured] | None = None,
    watch: Callable[[int], None] = lambda done: None,
) -> Pairing:
    """Measure two sides in fresh processes and judge ``b`` against ``a``.

    Args:
        a, b: the sides; the same side twice is an A/A comparison.
        effort: groups of processes; its samples are the rounds of a group.
        band: relative difference that is of no consequence.
        widest: the A/A band of this run may be so wide for "equivalent" to be said.
        control: whether side a gets a second process in every group, for that band.
        seed: of the order of blocks.
        affinity: processors to keep to.
        launch: starts a process for a side; another one only in tests.
        watch: called after every group with the number of groups done.

    Raises:
        LrdiffError: what a measuring process says.
    """
    comparing = Comparing(
        a, b, effort, control=control, seed=seed, affinity=affinity,
        launch=launch or (lambda side: MeasuringProcess(path=side.path, affinity=affinity)),
    )  # fmt: skip
    for _ in range(effort.processes):
        comparing.measure()
        watch(comparing.groups)
    return comparing.pairing(band=band, widest=widest)


def _rounds(groups: list[list[list[float]]]) -> ClockRounds:
    """Ratios of b over a, and where there is one over its control; and of the control over a."""
    ratios = [[[b / one for one in (a, *control)] for a, b, *control in group] for group in groups]
    control = [[c / a for a, _, c in group] for group in groups] if len(groups[0][0]) > 2 else None
    return ClockRounds(ratios, control)


def _of_commit(record: Record, side: Side) -> Record:
    """Say which commit was measured: the process saw files without a repository."""
    if side.commit is None:
        return record
    return record.model_copy(update={"code": replace(record.code, commit=side.commit, dirty=side.dirty)})
