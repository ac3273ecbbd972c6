r"""Where the values of several searches lie, with an interval; searches, not their seeds, are the units.

The location of a search is the interquartile mean of its values over seeds; it holds the luck of tuning and that of
training. Searches are independent and alike, so one sample of R locations :math:`x_r` is all there is to judge:

- with :data:`~lrdiff_bench.stats.looks.LOOKS` [0] searches or more, the estimate is their interquartile mean, and the
  interval that of Tukey and McLaughlin: with g = floor(R / 4) cut off at either end, and the winsorized deviation
  :math:`s_w`,

  .. math:: h = t_{R-2g-1}\, \frac{s_w}{(1 - 2g/R) \sqrt R}

  A few searches that found a bad winner neither decide nor widen it; Student's t on the plain mean misses its level
  on such luck (``python -m benchmarks.simulate_study`` counts both);
- with fewer, the estimate is their mean and the interval Student's t;
- with one search (a map, a table of a run) there is luck of training alone: a paired bootstrap over seeds, widened as
  t widens the normal.

Sources: Tukey and McLaughlin 1963, Sankhya A 25; Wilcox 2022, Introduction to Robust Estimation, 4.3; Agarwal et al.
2021, arXiv:2108.13264 (interquartile mean).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.intervals import t_quantile, widening
from lrdiff_bench.stats.looks import ERROR, LOOKS
from lrdiff_core.errors import DataError

__all__ = ["DRAWS", "Located", "Numbers", "interquartile_mean", "located"]

DRAWS = 4000
Numbers = NDArray[np.float64]


def interquartile_mean(values: Numbers, axis: int = -1) -> Any:
    """Mean without the lowest and the highest quarter.

    Example:
        >>> float(interquartile_mean(np.array([-100.0, 1.0, 2.0, 100.0])))
        1.5
    """
    count = values.shape[axis]
    cut = count // 4
    kept = np.sort(values, axis=axis).take(range(cut, count - cut), axis=axis)
    return kept.mean(axis=axis)


@dataclass(frozen=True, kw_only=True)
class Located:
    """An estimate and what makes it uncertain: the spread over searches, or over the seeds of a single one.

    Attributes:
        estimate: over all searches.
        by_search: location of each search. [searches]
        trimmed: how many searches are cut off at either end.
        draws: of the estimate, seeds drawn with replacement; empty with more than one search.
        seeds: of each search.
    """

    estimate: float
    by_search: Numbers
    trimmed: int
    draws: Numbers
    seeds: int

    def interval(self, error: float = ERROR) -> tuple[float, float]:
        """Low and high, which miss the truth with the probability ``error``."""
        if not len(self.draws):
            half = self.half_width(error, len(self.by_search))
            return self.estimate - half, self.estimate + half
        few = widening(self.seeds, 1.0 - error)
        low = float(np.quantile(self.draws, error / 2.0, method="lower"))
        high = float(np.quantile(self.draws, 1.0 - error / 2.0, method="higher"))
        return self.estimate - max(0.0, self.estimate - low) * few, self.estimate + max(0.0, high - self.estimate) * few

    def half_width(self, error: float, searches: int) -> float:
        """Of the interval that so many searches with this spread have."""
        cut = _trimmed(searches) if self.trimmed else 0
        return t_quantile(1.0 - error, searches - 2 * cut - 1) * self.spread / math.sqrt(searches)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the searches, of those that are cut off as if they lay at the cut."""
        have = len(self.by_search)
        ordered = np.sort(self.by_search)
        winsorized = np.clip(ordered, ordered[self.trimmed], ordered[have - self.trimmed - 1])
        return float(winsorized.std(ddof=1)) / (1.0 - 2.0 * self.trimmed / have)


def _trimmed(searches: int) -> int:
    """How many searches are cut off at either end: a quarter, where that leaves enough."""
    return searches // 4 if searches >= LOOKS[0].searches else 0


def located(values: Numbers, *, location: Any = interquartile_mean, draws: int = DRAWS, seed: int = 0) -> Located:
    """Estimate and uncertainty of values that belong to searches and the seeds of each, [searches, seeds].

    Args:
        values: of each search and seed.
        location: of a search over its seeds; where it is the mean, searches are averaged, too.
        draws, seed: of the bootstrap over the seeds of a single search.

    Raises:
        DataError: fewer than two seeds.

    Example:
        >>> found = located(np.full((3, 30), 0.5))
        >>> found.estimate, found.interval()
        (0.5, (0.5, 0.5))
    """
    searches, seeds = values.shape
    if seeds < 2:
        raise DataError(f"there are {seeds} seeds to compare on", help="train on two or more; ten and more report well")
    by_search = np.asarray(location(values, axis=1))
    cut = 0 if location is np.mean else _trimmed(searches)
    estimate = float(np.sort(by_search)[cut : searches - cut].mean())
    drawn = np.empty(0)
    if searches == 1:
        generator = np.random.default_rng(seed)
        part = max(1, 2_000_000 // seeds)
        sizes = [min(part, draws - start) for start in range(0, draws, part)]
        drawn = np.concatenate([location(values[0][generator.integers(0, seeds, (n, seeds))], axis=1) for n in sizes])
    return Located(estimate=estimate, by_search=by_search, trimmed=cut, draws=drawn, seeds=seeds)
