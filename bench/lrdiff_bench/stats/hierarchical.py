"""Ratios of times from several processes: interval, verdict, and how much is missing for one.

Two processes that run the same code differ by more than two blocks of one process do (memory layout, hash seeds,
which core), so blocks are no independent evidence. The statistic is the mean over processes of the median of the
logarithms inside a process: bursts of the machine spoil single blocks, not the median. Its interval is Student's, from
what processes differ by; what pairs (or blocks) scatter by is a part of that, and would count twice if it were added.

From a dozen processes on it is their interquartile mean, with a bootstrap over processes: beside load single processes
have run a fifth slower than their twins from start to end (docs/decisions.md).

A process may be compared with several twins at a time. Each twin has a median of its own, and their mean counts: the
median of a ratio to the twins' mean would not be 1 where they are equal, because bursts only lengthen a block, and of
two blocks one is hit more often than of one. Of two blocks that are alike the median ratio is 1, whatever hits them.

Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, 3.8 (hierarchical data); Hesterberg 2015,
https://doi.org/10.1080/00031305.2015.1089789 (percentile intervals of few values are too narrow, and how to widen).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.intervals import LEVEL, Interval, t_quantile, widening
from lrdiff_bench.stats.location import interquartile_mean
from lrdiff_bench.stats.verdict import BAND, Verdict, speed_verdict
from lrdiff_core.errors import DataError

__all__ = ["Outcome", "compare_paired", "compare_unpaired", "middles", "same_code_band"]

DRAWS = 2000
ROBUST = 12  # processes from which on the interquartile mean costs little: of fewer, none is to spare
MOST_MORE = 1000.0  # an unresolved comparison that needs so many times more is not worth it

Groups = Sequence[Sequence[float] | Sequence[Sequence[float]]]  # [processes][values], or [processes][values][twins]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``b`` judged against ``a``.

    Args:
        ratio: time of ``b`` over time of ``a`` with its 95 % interval; infinitely wide with one process.
        band: ratios between ``1 / (1 + band)`` and ``1 + band`` are of no consequence.
        verdict: ``b`` is faster, slower, equivalent, or the interval is too wide to say (unresolved).
        processes: on the smaller side.
        values: pairs (or blocks) on the smaller side, over all processes.
        more_processes: about how many more processes an unresolved one needs; None where it is resolved, and
            where the estimate lies so close to the edge of the band that no number would do.
    """

    ratio: Interval
    band: float
    verdict: Verdict
    processes: int
    values: int
    more_processes: int | None

    @property
    def more_samples(self) -> int | None:
        """The same in pairs (or blocks), as many a process as there were."""
        return None if self.more_processes is None else math.ceil(self.more_processes * self.values / self.processes)


def compare_paired(ratios: Groups, *, band: float = BAND, level: float = LEVEL, seed: int = 0) -> Outcome:
    """Judge ratios that were taken in pairs, a pair being blocks of both sides right after one another.

    Args:
        ratios: time of ``b`` over time of ``a``. [processes][pairs], or with several processes of ``a`` measured beside
            each of ``b`` [processes][pairs][twins]
        band: relative difference that is of no consequence.
        level: of the interval; more than 0.95 where it is looked at several times.
        seed: of the bootstrap's draws.

    Raises:
        DataError: a process without pairs, or a time that is not positive and finite.

    Example:
        >>> compare_paired([[1.10, 1.11, 1.09], [1.10, 1.10, 1.11], [1.09, 1.10, 1.10]]).verdict.value
        'slower'
    """
    logs = _logarithms(ratios)
    medians, robust = _middles(logs), len(logs) >= ROBUST
    estimate = float(_middle(medians, robust))
    if len(logs) == 1:
        return _outcome(estimate, math.inf, math.inf, band, logs, level)
    if not robust:
        half = t_quantile(level, len(logs) - 1) * math.sqrt(_variance(medians))
        return _outcome(estimate, half, half, band, logs, level)
    low, high = _widened(_draw(medians, np.random.default_rng(seed), robust), estimate, len(logs), level)
    return _outcome(estimate, low, high, band, logs, level)


def same_code_band(ratios: Groups, *, seed: int = 0) -> float:
    """How far a comparison of as many processes of one and the same code lies from 1, in 95 of 100 at least.

    What these processes lie off by themselves is in it, in case it stays: of luck alone it holds 98 of 100.

    Args:
        ratios: of times of one and the same code, taken in pairs. [processes][pairs]
        seed: of the bootstrap's draws.

    Returns:
        A relative difference: 0.02 is 2 %. Infinite with one process.

    Example:
        >>> 0.005 < same_code_band([[0.99, 0.99], [1.01, 1.0], [1.0, 0.99], [1.01, 1.01]]) < 0.05
        True
    """
    logs = _logarithms(ratios)
    if len(logs) == 1:
        return math.inf
    draws = np.abs(_draw(_middles(logs), np.random.default_rng(seed), len(logs) >= ROBUST))
    return math.expm1(min(float(np.quantile(draws, LEVEL)) * widening(len(logs)), 700.0))


def compare_unpaired(a: Groups, b: Groups, *, band: float = BAND, seed: int = 0) -> Outcome:
    """Judge samples of two runs that were not taken side by side: a drift of the machine between them is not seen.

    Args:
        a, b: seconds a step. [processes][blocks]
        band: relative difference that is of no consequence.
        seed: of the bootstrap's draws.

    Raises:
        DataError: a process without blocks, or a time that is not positive and finite.

    Example:
        >>> compare_unpaired([[1.0, 1.1]], [[1.0, 1.1]]).verdict.value  # one process cannot tell
        'unresolved'
    """
    first, second = _logarithms(a), _logarithms(b)
    robust = min(len(first), len(second)) >= ROBUST  # of both or of none: luck is skewed
    before, after = _middles(first), _middles(second)
    estimate = float(_middle(after, robust) - _middle(before, robust))
    fewer = min(first, second, key=len)
    if len(fewer) == 1:
        return _outcome(estimate, math.inf, math.inf, band, fewer)
    if not robust:
        half = t_quantile(LEVEL, len(fewer) - 1) * math.sqrt(_variance(before) + _variance(after))
        return _outcome(estimate, half, half, band, fewer)
    generator = np.random.default_rng(seed)
    draws = _draw(after, generator, robust) - _draw(before, generator, robust)
    low, high = _widened(draws, estimate, len(fewer))
    return _outcome(estimate, low, high, band, fewer)


def middles(groups: Groups) -> NDArray[np.float64]:
    """Of each process the median of the logarithms, or with twins the mean of the medians with each, [processes].

    Raises:
        DataError: a process without values, or one that is not positive and finite.

    Example:
        >>> np.exp(middles([[1.0, 2.0, 64.0], [[1.0, 4.0]] * 3])).round(6).tolist()
        [2.0, 2.0]
    """
    return _middles(_logarithms(groups))


def _middles(logs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.array([np.median(group, axis=0).mean() for group in logs])


def _logarithms(groups: Groups) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    if not arrays or any(array.size == 0 for array in arrays):
        raise DataError("a process has no samples to compare", help="measure again: every process needs one at least")
    if any(not np.all(np.isfinite(array) & (array > 0)) for array in arrays):
        raise DataError("a time to compare is not a positive number", help="measure again; see `lrdiff bench show`")
    return [np.log(array).reshape(len(array), -1) for array in arrays]


def _draw(medians: NDArray[np.float64], generator: np.random.Generator, robust: bool) -> NDArray[np.float64]:
    """Bootstrap draws of the middle over processes, [draws]."""
    return np.asarray(_middle(medians[generator.integers(0, len(medians), (DRAWS, len(medians)))], robust))


def _variance(medians: NDArray[np.float64]) -> float:
    """Of their mean."""
    return float(medians.var(ddof=1)) / len(medians)


def _middle(medians: NDArray[np.float64], robust: bool) -> Any:
    """The middle over processes, which are the last axis."""
    return interquartile_mean(medians) if robust else medians.mean(axis=-1)


def _widened(draws: NDArray[np.float64], estimate: float, processes: int, level: float = LEVEL) -> tuple[float, float]:
    """Distances below and above the estimate: percentiles, widened for few processes and for a higher level."""
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(draws, (tail, 1.0 - tail))
    # Draws of few processes have no tails to take a higher level from: t has.
    factor = widening(processes) * t_quantile(level, processes - 1) / t_quantile(LEVEL, processes - 1)
    return max(0.0, estimate - float(low)) * factor, max(0.0, float(high) - estimate) * factor


def _outcome(
    estimate: float,
    below: float,
    above: float,
    band: float,
    groups: Sequence[NDArray[np.float64]],
    level: float = LEVEL,
) -> Outcome:
    ratio = Interval(math.exp(estimate), math.exp(estimate - below), math.exp(min(estimate + above, 700.0)), level)
    verdict = speed_verdict(ratio, band)
    processes = len(groups)
    more = None
    if verdict is Verdict.UNRESOLVED:
        more = 1
        distance = abs(abs(estimate) - math.log1p(band))
        width = max(below, above)
        if math.isfinite(width):  # widths shrink with the root of the number of processes
            factor = (width / max(distance, 1e-12)) ** 2
            more = max(1, math.ceil(processes * (factor - 1.0))) if factor < MOST_MORE else None
    return Outcome(
        ratio=ratio,
        band=band,
        verdict=verdict,
        processes=processes,
        values=sum(map(len, groups)),
        more_processes=more,
    )
