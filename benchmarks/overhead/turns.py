"""Two things in turn in one run, and the time of one by the other: what the commands of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lrdiff_bench.stats.intervals import bootstrap_interval

WARM = 10


class Turns(NamedTuple):
    """Medians in seconds, and the second's time over the first's: ``[low, estimate, high]`` at 95 %."""

    first: float
    second: float
    ratio: list[float]


def in_turn(first: Callable[[], float], second: Callable[[], float], rounds: int) -> Turns:
    """Call both in the order first, second, second, first; each returns its seconds, ten rounds are thrown away."""
    for _ in range(WARM):
        first(), second()
    found = []
    for _ in range(rounds):
        a1, b1, b2, a2 = first(), second(), second(), first()
        found.append(((a1 + a2) / 2, (b1 + b2) / 2))
    times = np.array(found)  # [rounds, 2]
    one, other = np.median(times, axis=0).tolist()
    return Turns(one, other, ratio_of(times[:, 1], times[:, 0]))


def ratio_of(times: np.ndarray, by: np.ndarray) -> list[float]:
    """``[low, estimate, high]`` of the times of rounds by those of something else in the same rounds."""
    found = bootstrap_interval((times / by).tolist())
    return [found.low, found.estimate, found.high]


def ratio_text(ratio: Sequence[float], form: str = ".2f") -> str:
    """``1.30 [1.20, 1.40]``."""
    low, middle, high = ratio
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"
