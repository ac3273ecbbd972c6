"""Two clocks, one verdict: which of them may judge a comparison, which is quieter, and how far the same code differs.

The wall clock sees everything, and a busy neighbour, too: where the processor is taken away in the middle of a block,
the block lasts longer. The processor's clock stands still meanwhile, but it stands still as well while a program
sleeps, waits for a disk, a lock, a device or another process. So it may judge only where both sides were seen to do
nothing but compute, in one thread; of the clocks that may, the one judges by which the same code differs less.

How far the same code differs is measured in the same run: side ``a`` runs in two processes, and what they differ by is
the A/A band of this very comparison. It is told beside the verdict. A difference inside the band is no difference that
was found; and where the band is wider than what is to be found, "equivalent" is not said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from lrdiff_bench.stats.hierarchical import Groups, Outcome, compare_paired, same_code_band
from lrdiff_bench.stats.intervals import LEVEL
from lrdiff_bench.stats.verdict import BAND, Verdict

__all__ = ["BUSY_SHARE", "WIDEST", "ClockOutcome", "ClockRounds", "Judgement", "judge"]

Clock = Literal["wall", "processor"]

BUSY_SHARE = 0.9  # of the blocks of either side that did nothing but compute, for the processor's clock to judge
# What a comparison is to find at most: a wider A/A band would call such a change equivalent.
WIDEST = 0.1


class ClockRounds(NamedTuple):
    """One clock's ratios, [processes][pairs]: ``b`` over ``a`` (or over each ``a``), and the second over the first."""

    ratios: Groups
    control: Groups | None


@dataclass(frozen=True, kw_only=True)
class ClockOutcome:
    """What one clock says.

    Args:
        outcome: ``b`` judged against ``a`` by this clock alone.
        control: ``a`` judged against itself; None where that was not measured.
        same: relative difference of the same code from itself, in 95 of 100 such comparisons; None likewise.
        noise: spread of the pairs (1.48 times the median deviation of logarithms).
    """

    outcome: Outcome
    control: Outcome | None
    same: float | None
    noise: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict of a comparison, and by which clock.

    Args:
        clock: that judged.
        why: the other one did not, in words.
        wall: what the wall clock says.
        processor: what the processor's clock says, whether it may judge or not; None where there is none.
        outcome: of the clock that judged, with the band that was measured.
        doubt: why a difference or an equivalence that the interval shows is not told; None where nothing is held back.
    """

    clock: Clock
    why: str
    wall: ClockOutcome
    processor: ClockOutcome | None
    outcome: Outcome
    doubt: str | None

    @property
    def judged(self) -> ClockOutcome:
        """What the clock that judged says."""
        return self.processor if self.clock == "processor" and self.processor is not None else self.wall


def judge(
    wall: ClockRounds,
    processor: ClockRounds | None,
    busy: Sequence[float | None],
    *,
    band: float = BAND,
    widest: float = WIDEST,
    level: float = LEVEL,
) -> Judgement:
    """Judge ``b`` against ``a``.

    Args:
        wall, processor: the pairs by each clock.
        busy: of either side, the share of blocks that did nothing but compute; None where that is not known.
        band: relative difference that is of no consequence.
        widest: the A/A band may be so wide for "equivalent" to be said.
        level: of the interval.

    Example:
        >>> quiet = ClockRounds([[1.2, 1.21], [1.2, 1.2], [1.21, 1.2]], [[1.0, 1.0], [1.0, 1.01], [1.0, 1.0]])
        >>> noisy = ClockRounds([[1.2, 2.4], [0.9, 1.7], [1.2, 1.9]], [[1.0, 1.9], [0.5, 1.4], [1.0, 0.7]])
        >>> verdict = judge(noisy, quiet, (1.0, 1.0))
        >>> verdict.clock, str(verdict.outcome.verdict), judge(noisy, quiet, (1.0, 0.0)).clock
        ('processor', 'slower', 'wall')
    """
    by_wall = _by_clock(wall, band, level)
    by_processor = None if processor is None else _by_clock(processor, band, level)
    clock, why = _choose(by_wall, by_processor, busy)
    chosen = by_processor if clock == "processor" and by_processor is not None else by_wall
    outcome, doubt = _hold_back(chosen, band, widest)
    return Judgement(clock=clock, why=why, wall=by_wall, processor=by_processor, outcome=outcome, doubt=doubt)


def _by_clock(rounds: ClockRounds, band: float, level: float) -> ClockOutcome:
    control = None if rounds.control is None else compare_paired(rounds.control, band=band, level=level)
    same = None if rounds.control is None else same_code_band(rounds.control)
    return ClockOutcome(
        outcome=compare_paired(rounds.ratios, band=band, level=level),
        control=control,
        same=same,
        noise=_noise(rounds.control or rounds.ratios, about_one=rounds.control is not None),
    )


def _choose(wall: ClockOutcome, processor: ClockOutcome | None, busy: Sequence[float | None]) -> tuple[Clock, str]:
    if processor is None or any(share is None for share in busy):
        return "wall", "the processor's time is not known here"
    if any(share is not None and share < BUSY_SHARE for share in busy):
        return "wall", "it waits, or several threads or processes work: the processor's time is not the whole"
    # By the noise of the same code, not by the width of the interval: choosing the narrower of two is choosing luck.
    if processor.noise <= wall.noise:
        return "processor", f"pairs spread by {_percent(processor.noise)}, by the wall clock {_percent(wall.noise)}"
    return "wall", f"pairs spread by {_percent(wall.noise)}, by the processor's clock {_percent(processor.noise)}"


def _hold_back(chosen: ClockOutcome, band: float, widest: float) -> tuple[Outcome, str | None]:
    """The outcome, unresolved where the same code differs too far from itself for the word that it would have."""
    outcome, same = chosen.outcome, chosen.same
    if same is None or outcome.verdict == Verdict.UNRESOLVED:
        return outcome, None
    told = f"the same code differs by {_percent(same)} from itself here"
    if outcome.verdict == Verdict.EQUIVALENT:
        doubt = told if same > widest else None
    else:
        # Nearer to 1 than the same code's own differences.
        nearest = min(abs(math.log(outcome.ratio.low)), abs(math.log(outcome.ratio.high)))
        doubt = told if math.log1p(max(band, same)) > nearest else None
    if doubt is None:
        return outcome, None
    return replace(outcome, verdict=Verdict.UNRESOLVED, more_processes=outcome.processes), doubt


def _noise(groups: Groups, *, about_one: bool) -> float:
    values = np.log(np.concatenate([np.asarray(one, dtype=float) for one in groups]))
    middle = 0.0 if about_one else float(np.median(values))
    return 1.4826 * float(np.median(np.abs(values - middle)))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
