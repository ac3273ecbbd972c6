"""When a growing study may be judged, and how much error each of these looks may spend.

A study may be looked at after a fixed number of searches, and goes on where nothing is settled. Each look has an error
level that was fixed beforehand; they add up to less than 5 %, so that a verdict at any of them is wrong with at most
that probability, however the looks depend on each other. What a study says follows from its searches alone, not from
how often it was run or read: going on never spends a level twice.

HELPS and HURTS take an interval that lies beyond the smallest difference: half of the level on either side. NO
DIFFERENCE takes two one-sided tests, each at half of the level, which is the same interval inside the smallest
difference. At exactly the smallest difference both words are wrong, and the two halves make up the level.

Sources: Haybittle 1971, Peto et al. 1976 (few looks, strict early ones); Jennison and Turnbull 2000, Group Sequential
Methods, chapters 2 and 9 (repeated confidence intervals); Schuirmann 1987 (two one-sided tests).
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ERROR", "LOOKS", "Look", "looks_of"]

ERROR = 0.05  # of all looks together, and of a comparison that is judged once


class Look(NamedTuple):
    """A number of searches, and the error level that is spent there."""

    searches: int
    error: float


LOOKS = (Look(16, 0.0015), Look(24, 0.0025), Look(40, 0.004), Look(64, 0.007), Look(100, 0.01))
"""The plan. The levels add up to 2.5 %: the other half of 5 % is for luck in tuning that is skewed."""


def looks_of(searches: int) -> tuple[Look, ...]:
    """The looks at so many searches; fewer than the first look has are judged once.

    Example:
        >>> looks_of(30)
        (Look(searches=16, error=0.0015), Look(searches=24, error=0.0025))
        >>> looks_of(5)
        (Look(searches=5, error=0.05),)
    """
    return tuple(look for look in LOOKS if look.searches <= searches) or (Look(searches, ERROR),)
