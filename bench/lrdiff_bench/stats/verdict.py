"""One verdict for everything that is measured: a word only where the whole interval lies on one side of a bound.

Three rooms share one decision and differ in their words. A *gain* (positive where differential rates are better) is
held against the smallest difference that matters, a *ratio of times* against a band around 1, and a *goal* against
its bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from lrdiff_bench.stats.intervals import Interval

__all__ = ["BAND", "COURT", "Goal", "Verdict", "decide", "gain_verdict", "speed_verdict"]

# Ratios this close to 1 are of no consequence. Identical code differs by 0.3 % within one job (google/benchmark's
# figure), and by more on a machine shared with others.
BAND = 0.02


COURT = 2
"""Of the rules: another number wherever the same results may come to another word, so that kept ones are not taken."""


class Verdict(StrEnum):
    """Every word that a comparison can end with; a verdict is also the text it is written as.

    Example:
        >>> Verdict.HELPS == "HELPS", f"{Verdict.NO_DIFFERENCE}"
        (True, 'NO DIFFERENCE')
    """

    HELPS = "HELPS"
    HELPS_ON_AVERAGE = "HELPS ON AVERAGE"  # but not in most pairs
    HELPS_BUT_DIVERGES = "HELPS BUT DIVERGES"  # more often than the single rate does
    NO_DIFFERENCE = "NO DIFFERENCE"
    NO_DIFFERENCE_BUT_DIVERGES = "NO DIFFERENCE BUT DIVERGES"  # typical runs do not differ, but more of them diverge
    NO_DIFFERENCE_BUT_STEADIER = "NO DIFFERENCE BUT STEADIER"  # ... but fewer of them diverge
    HURTS_ON_AVERAGE = "HURTS ON AVERAGE"
    HURTS = "HURTS"
    INCONCLUSIVE = "INCONCLUSIVE"

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"

    MET = "met"
    MISSED = "missed"

    UNRESOLVED = "unresolved"
    UNAVAILABLE = "unavailable"

    @property
    def plain(self) -> Verdict:
        """Without what qualifies it: HELPS of HELPS ON AVERAGE."""
        return Verdict(self.split(" ON ")[0].split(" BUT ")[0])


class Words(NamedTuple):
    """What the three places of an interval are called, and what it is called where it lies in none of them."""

    below: Verdict
    inside: Verdict
    above: Verdict
    undecided: Verdict


GAIN = Words(Verdict.HURTS, Verdict.NO_DIFFERENCE, Verdict.HELPS, Verdict.INCONCLUSIVE)
SPEED = Words(Verdict.FASTER, Verdict.EQUIVALENT, Verdict.SLOWER, Verdict.UNRESOLVED)
GOAL = Words(Verdict.MISSED, Verdict.MET, Verdict.MISSED, Verdict.UNRESOLVED)


def decide(low: float, high: float, band: tuple[float, float], words: Words) -> Verdict:
    """Say where the interval from ``low`` to ``high`` lies: below the band, inside it, above it, or in none of these.

    Example:
        >>> [str(decide(low, low + 1.0, (-2.0, 2.0), SPEED)) for low in (-4.0, -1.0, 1.5, 3.0)]
        ['faster', 'equivalent', 'unresolved', 'slower']
    """
    if high < band[0]:
        return words.below
    if low > band[1]:
        return words.above
    return words.inside if band[0] <= low and high <= band[1] else words.undecided


def gain_verdict(low: float, high: float, smallest: float) -> Verdict:
    """Judge the interval of a gain by the smallest difference that matters.

    Example:
        >>> str(gain_verdict(0.02, 0.05, 0.01)), str(gain_verdict(-0.004, 0.02, 0.01))
        ('HELPS', 'INCONCLUSIVE')
    """
    return decide(low, high, (-smallest, smallest), GAIN)


def speed_verdict(ratio: Interval, band: float = BAND) -> Verdict:
    """Judge a ratio of times: differences of less than ``band`` (0.02 is 2 %) are of no consequence.

    Example:
        >>> str(speed_verdict(Interval(1.05, 1.03, 1.08, 0.95))), str(speed_verdict(Interval(1.05, 0.99, 1.11, 0.95)))
        ('slower', 'unresolved')
    """
    # 1 / (1 + band), not 1 - band: exchanging the two sides must mirror the verdict.
    return decide(ratio.low, ratio.high, (1.0 / (1.0 + band), 1.0 + band), SPEED)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a ratio is to reach.

    Args:
        least, most: bounds of the ratio; None where there is none.
        text: as people read it.

    Example:
        >>> goal = Goal(least=4.0, text="at least 4x faster")
        >>> [str(goal.verdict(low, low + 1.0)) for low in (4.5, 3.5, 2.0)]
        ['met', 'unresolved', 'missed']
    """

    text: str
    least: float | None = None
    most: float | None = None

    def verdict(self, low: float, high: float) -> Verdict:
        """Whether the interval from ``low`` to ``high`` meets the goal."""
        band = (-math.inf if self.least is None else self.least, math.inf if self.most is None else self.most)
        return decide(low, high, band, GOAL)
