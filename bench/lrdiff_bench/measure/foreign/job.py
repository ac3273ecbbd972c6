"""The whole of ``lrdiff ab``: case after case in turn, in fresh processes, until each is settled or its time is up.

Cases are interleaved: every round of the job measures one group of processes of each case that is still open, in an
order drawn by lot, so that what the machine does for a while hits all of them. At numbers of groups that are fixed
beforehand each case is judged. Every look has its own error; together they spend :data:`ERROR`, so a case that does
not differ is called different in at most so many of its comparisons, however often it was looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lrdiff_bench.measure.engine.pairs.ab import Comparing, Measured, Side
from lrdiff_bench.measure.engine.pairs.comparison import Comparison, comparison_of
from lrdiff_bench.measure.engine.pairs.judge import WIDEST
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.foreign.checkouts import Checkout
from lrdiff_bench.measure.foreign.process import ForeignCase, ForeignProcess
from lrdiff_bench.stats.looks import Look
from lrdiff_bench.stats.verdict import BAND, Verdict
from lrdiff_core.errors import ConfigError, LrdiffError
from lrdiff_core.text import nearest

__all__ = ["ERROR", "LOOKS", "CaseResult", "choose", "foreign_effort", "level_of", "run_cases"]

LOOKS = (
    Look(4, 0.002), Look(6, 0.002), Look(9, 0.003), Look(13, 0.003), Look(18, 0.003), Look(24, 0.003),
    Look(34, 0.002), Look(48, 0.002),
)  # fmt: skip
"""Groups of processes after which a case is judged, and the error that each look may spend."""

ERROR = sum(look.error for look in LOOKS)
LEAST_GROUPS = LOOKS[0].searches


@dataclass
class CaseResult:
    """A benchmark on its way to a verdict.

    Args:
        case: the benchmark.
        comparing: what was measured of it.
        reason: why it was not measured, or not to the end.
        failed: the reason is a fault, not that the suite leaves it out.
        comparison: the verdict.
        records: of both sides.
    """

    case: ForeignCase
    comparing: Comparing
    reason: str | None = None
    failed: bool = False
    comparison: Comparison | None = None
    records: tuple[Record, Record] | None = None

    @property
    def open(self) -> bool:
        """Whether it is still to be measured."""
        return self.comparison is None and self.reason is None


def choose(cases: Sequence[ForeignCase], only: Sequence[str]) -> list[ForeignCase]:
    """The cases that ``--only`` names: by their whole id, without its parameters, or by a pattern with ``*``.

    Raises:
        ConfigError: one that names none.

    Example:
        >>> cases = [ForeignCase(id=f"sums.Add.time_add({n})", name="sums.Add.time_add") for n in (1, 2)]
        >>> [one.id for one in choose(cases, ["sums.Add.time_add(2)"])], len(choose(cases, ["sums.Add.time_add"]))
        (['sums.Add.time_add(2)'], 2)
    """
    if not only:
        return list(cases)
    found: dict[str, ForeignCase] = {}
    for text in only:
        chosen = [
            one for one in cases if text in (one.id, one.name, one.id.partition("[")[0], one.id.partition("(")[0])
        ]
        chosen = chosen or [one for one in cases if "*" in text and fnmatchcase(one.id, text)]
        if not chosen:
            raise ConfigError(
                f"the suite has no benchmark {text}",
                help=nearest(text, [one.id for one in cases], "benchmarks", most=8),
            )
        found |= {one.id: one for one in chosen}
    return list(found.values())


def foreign_effort(groups: int) -> Effort:
    """What is spent on one group of processes: about a second where calls are fast; beside load, as long as a start.

    Many rounds of short blocks: where a machine changes its speed twenty times a second, groups of a hundred rounds of
    a millisecond scattered by 1 to 3 %, those of ten rounds of 10 to 30 ms by 5 to 14 % (docs/decisions.md).
    """
    return Effort(processes=groups, samples=100, block_seconds=0.001, warmup_seconds=0.1, most_seconds=3.0)


def run_cases(
    cases: Sequence[ForeignCase],
    a: Checkout,
    b: Checkout,
    *,
    groups: int = LOOKS[-1].searches,
    case_seconds: float = 60.0,
    band: float = BAND,
    widest: float = WIDEST,
    seed: int = 0,
    launch: Callable[[Checkout, Mapping[str, ForeignCase]], Measured] | None = None,
    watch: Callable[[int, CaseResult], None] = lambda group, row: None,
) -> list[CaseResult]:
    """Measure cases in turn until each is settled.

    Args:
        cases: benchmarks of the suite.
        a, b: the sides; ``b`` is judged.
        groups: most groups of processes a case.
        case_seconds: no group of a case is begun after so long, once there are four.
        band: relative difference that is of no consequence.
        widest: the A/A band may be so wide for "equivalent" to be said.
        seed: of every lot.
        launch: starts a process; another one only in tests.
        watch: called when a group has been measured, and when a case is settled.

    Returns:
        A row a case, in the order given.
    """
    start = launch or (lambda side, known: ForeignProcess(side.place, known))
    known = {one.id: one for one in cases}
    lot = random.Random(seed)
    sides = {"a": a, "b": b}
    rows = []
    for one in cases:
        first, second = (
            Side(label=side.label, case=one.case(), commit=side.commit, dirty=side.dirty) for side in (a, b)
        )
        places = {id(first): "a", id(second): "b"}
        rows.append(
            CaseResult(
                case=one,
                comparing=Comparing(
                    first, second, foreign_effort(groups), seed=lot.randrange(2**32), affinity=a.place.affinity,
                    launch=lambda side, places=places: start(sides[places[id(side)]], known),  # type: ignore[misc]
                ),
            )
        )  # fmt: skip
    for group in range(1, groups + 1):
        waiting = [row for row in rows if row.open]
        lot.shuffle(waiting)
        for row in waiting:
            try:
                row.comparing.measure()
            except LrdiffError as problem:
                row.reason, row.failed = f"{problem.message} ({problem.help})", problem.exit_status != 3
                if row.comparing.groups >= LEAST_GROUPS:
                    _settle(row, level_of(row.comparing.groups, last=True), band, widest)
            else:
                late = row.comparing.seconds >= case_seconds and group >= LEAST_GROUPS
                if group == groups or late or group in [look.searches for look in LOOKS]:
                    _look(row, group == groups or late, band, widest)
            watch(group, row)
    return rows


def _look(row: CaseResult, last: bool, band: float, widest: float) -> None:
    level = level_of(row.comparing.groups, last=last)
    verdict = row.comparing.judge(band=band, widest=widest, level=level).outcome.verdict
    if last or verdict != Verdict.UNRESOLVED:
        _settle(row, level, band, widest)


def _settle(row: CaseResult, level: float, band: float, widest: float) -> None:
    pairing = row.comparing.pairing(band=band, widest=widest, level=level)
    row.records = pairing.records
    row.comparison = comparison_of(pairing, row.comparing.sides[0], row.comparing.sides[1])


def level_of(groups: int, *, last: bool) -> float:
    """Of the look after so many groups: what the plan says, or at the last one all that no look before has spent.

    That time is up says nothing about the code, so the rest may be spent then.

    Example:
        >>> level_of(4, last=False), level_of(4, last=True), round(level_of(24, last=True), 4)
        (0.998, 0.98, 0.993)
    """
    if last:
        return 1.0 - (ERROR - sum(look.error for look in LOOKS if look.searches < groups))
    return 1.0 - next(look.error for look in LOOKS if groups <= look.searches)
