"""Medians with intervals: what the timer, the studies and the reports say about a handful of numbers.

The bootstrap is written out in numpy instead of calling :func:`scipy.stats.bootstrap`: that one interpolates between
draws, which gives NaN as soon as one draw is infinite, and its default method, BCa, rests on the jackknife, which is
inconsistent for a median (Efron and Tibshirani 1993, An Introduction to the Bootstrap, 10.6 and 11.6). The tests hold
both intervals against scipy's and count their coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrdiff_core.errors import ConfigError, DataError

__all__ = [
    "LEVEL",
    "Interval",
    "PairedDifference",
    "bootstrap_interval",
    "median_interval",
    "paired_difference",
    "t_quantile",
    "widening",
]

LEVEL = 0.95  # of every interval of the project where nothing else is said

# Draws are made in slices of this many numbers (32 MB), so that long samples do not exhaust memory.
_SLICE = 4_000_000


class Interval(NamedTuple):
    """An estimate and the interval around it.

    ``level`` is the confidence level that ``low`` to ``high`` holds: never a promise the sample size cannot keep.
    """

    estimate: float
    low: float
    high: float
    level: float


class PairedDifference(NamedTuple):
    """Two runs of everything, pair by pair: the median of ``a - b``, its interval, and how often ``a`` is lower."""

    median: float
    low: float
    high: float
    probability_of_improvement: float


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., NDArray[np.float64]] = np.median,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    nan_as: float = math.inf,
) -> Interval:
    """Percentile-bootstrap interval of a statistic of independent values.

    A run that diverged stays in the sample as infinite: dropping it would reward failing. All-equal values give an
    interval of no width. Around a median of six to forty values it holds 93 to 94 % where 95 % is asked (a test
    counts it); :func:`median_interval` keeps its level.

    Args:
        values: one-dimensional, at least one. [values]
        statistic: called as ``statistic(drawn, axis=1)`` with ``drawn`` of shape [draws, values].
        level: confidence level, between 0 and 1.
        draws: how many samples are drawn with replacement.
        seed: of the draws; the same seed gives the same interval.
        nan_as: what NaN counts as: ``inf`` where lower is better, ``-inf`` where higher is better.

    Raises:
        DataError: there are no values, or they are not one-dimensional.
        ConfigError: ``level`` or ``draws`` is out of range.

    Example:
        >>> bootstrap_interval([1.0, 2.0, 3.0, 4.0, math.inf]).estimate
        3.0
        >>> bootstrap_interval([7.0] * 5)
        Interval(estimate=7.0, low=7.0, high=7.0, level=0.95)

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    sample = _column(values, nan_as)
    _check_level(level)
    if draws < 1:
        raise ConfigError(f"draws is {draws}", help="write a whole number from 1 up; 10000 is usual")
    generator = np.random.default_rng(seed)
    slice_ = max(1, _SLICE // sample.size)
    drawn = np.concatenate(
        [
            _apply(statistic, sample[generator.integers(0, sample.size, (count, sample.size))])
            for count in _slices(draws, slice_)
        ]
    )
    tail = (1.0 - level) / 2.0
    # "lower" and "higher" take draws as they are: interpolating between a finite and an infinite one gives NaN.
    low = np.quantile(drawn, tail, method="lower")
    high = np.quantile(drawn, 1.0 - tail, method="higher")
    return Interval(float(_apply(statistic, sample[None, :])[0]), float(low), float(high), level)


def median_interval(values: ArrayLike, *, level: float = 0.95, nan_as: float = math.inf) -> Interval:
    """Median with its distribution-free interval: two of the values themselves, at a level that is exact.

    The interval from the k-th smallest to the k-th largest value holds the true median with probability
    ``1 - 2 P[Binomial(n, 1/2) < k]``, whatever the distribution. The largest ``k`` that keeps ``level`` is taken.
    Fewer than six values cannot keep 95 %: then the whole range is returned, with the lower level that it has.

    Args:
        values: one-dimensional, at least one. [values]
        level: confidence level asked for, between 0 and 1.
        nan_as: what NaN counts as: ``inf`` where lower is better, ``-inf`` where higher is better.

    Raises:
        DataError: there are no values, or they are not one-dimensional.
        ConfigError: ``level`` is out of range.

    Example:
        >>> interval = median_interval([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
        >>> interval.estimate, interval.low, interval.high, round(interval.level, 3)
        (3.5, 1.0, 6.0, 0.969)
        >>> round(median_interval([1.0, 2.0, 3.0]).level, 3)
        0.75

    Source: Conover 1999, Practical Nonparametric Statistics, 3.2 (as ``scipy.stats.quantile_test``).
    """
    sample = np.sort(_column(values, nan_as))
    _check_level(level)
    rank, exact = _rank(sample.size, level)
    middle = float(_apply(np.median, sample[None, :])[0])
    return Interval(middle, float(sample[rank - 1]), float(sample[sample.size - rank]), exact)


@lru_cache(maxsize=256)
def _rank(size: int, level: float) -> tuple[int, float]:
    """The largest k that keeps the level, and the level that it has."""
    from scipy.special import bdtr  # what scipy.stats.binom.cdf calls; scipy.stats takes a second to import

    ranks = np.arange(1, (size + 1) // 2 + 1)
    levels = 1.0 - 2.0 * bdtr(ranks - 1.0, size, 0.5)  # P[Binomial(size, 1/2) < rank] lies on either side
    rank = max(1, int((levels >= level).sum()))
    return rank, max(0.0, float(levels[rank - 1]))


@lru_cache(maxsize=256)
def t_quantile(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t: ``P[|T| <= t] = level``.

    Example:
        >>> round(t_quantile(0.95, 1), 3), round(t_quantile(0.95, 9), 3)
        (12.706, 2.262)
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1.0 + level) / 2.0))


@lru_cache(maxsize=256)
def widening(count: int, level: float = LEVEL) -> float:
    """What percentiles of bootstrap draws over so few things are to be multiplied with, as t widens the normal.

    Resampling n values has the variance (n - 1) / n of theirs, and n of them know their spread only to t's accuracy.

    Example:
        >>> round(widening(4), 2), round(widening(16), 2)
        (1.87, 1.12)

    Source: Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789.
    """
    from scipy.special import ndtri

    return t_quantile(level, count - 1) / float(ndtri((1.0 + level) / 2.0)) * math.sqrt(count / (count - 1))


def paired_difference(a: ArrayLike, b: ArrayLike, *, level: float = 0.95, nan_as: float = math.inf) -> PairedDifference:
    """Compare two equally long lists of results, pair by pair, where lower is better.

    Two runs that both diverged count as no difference. Ties count one half in ``probability_of_improvement``, the
    share of pairs in which ``a`` is lower than ``b``.

    Args:
        a, b: results with the same seeds in the same order. [pairs]
        level: confidence level of the interval around the median of ``a - b``.
        nan_as: what NaN counts as; ``inf`` is a run that diverged.

    Raises:
        DataError: the lists differ in length, or are empty.
        ConfigError: ``level`` is out of range.

    Example:
        >>> difference = paired_difference([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 3.0, 4.0, 5.0, 6.0, math.nan])
        >>> difference.median, difference.high, difference.probability_of_improvement
        (-1.0, -1.0, 1.0)

    Source: Agarwal et al. 2021, arXiv:2108.13264 (probability of improvement), here over pairs.
    """
    first, second = _column(a, nan_as), _column(b, nan_as)
    if first.size != second.size:
        raise DataError(
            f"the lists to compare have {first.size} and {second.size} values",
            help="run both with the same seeds, and give one value per seed",
        )
    difference = np.zeros(first.size)
    unequal = first != second  # where both are infinite the difference would be NaN; it is none
    difference[unequal] = first[unequal] - second[unequal]
    # The exact interval, not the bootstrap: it keeps its level at the ten seeds that studies have.
    interval = median_interval(difference, level=level)
    wins = float(np.mean((first < second) + 0.5 * (first == second)))
    return PairedDifference(interval.estimate, interval.low, interval.high, wins)


def _column(values: ArrayLike, nan_as: float) -> NDArray[np.float64]:
    column = np.array(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise DataError(
            f"statistics need a list of numbers, this has the shape {column.shape}", help="give one number per run"
        )
    column[np.isnan(column)] = nan_as
    return column


def _apply(statistic: Callable[..., Any], drawn: NDArray[np.float64]) -> NDArray[np.float64]:  # [draws, values]
    with np.errstate(invalid="ignore"):  # halfway between -inf and inf is NaN, and no cause for a warning
        return np.asarray(statistic(drawn, axis=1))


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level is {level}", help="write a number between 0 and 1; 0.95 is usual")


def _slices(total: int, size: int) -> Sequence[int]:
    return [min(size, total - start) for start in range(0, total, size)]
