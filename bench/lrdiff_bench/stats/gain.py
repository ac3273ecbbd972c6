r"""What differential rates gain over a single rate: paired over seeds and searches, with an interval that counts both.

Each search has its own winner, and every winner is trained on the same fresh seeds. So a gain :math:`G_{rs}` (single
minus scheme where lower is better: positive where the scheme is better) varies with the search r (luck in tuning) and
with the seed s (luck in training). The location of a search is the interquartile mean over its seeds; the estimate is
their mean. The interval has two parts that add as squares:

.. math:: h = \sqrt{h_\mathrm{seeds}^2 + \big(t_{R-1}\, s_R / \sqrt R\big)^2}

- :math:`h_\mathrm{seeds}`: a paired bootstrap over seeds, the searches held fixed, widened as t widens the normal;
- :math:`s_R`: the spread of the R searches' locations, with Student's t because R is small. It holds some of the
  seeds' noise a second time, which makes the interval too wide where tuning has no luck in it, and keeps its level
  where tuning has much and searches are few. Subtracting that noise, or Satterthwaite's degrees of freedom, gives
  narrower intervals that fall short of their level in some mixtures of three searches.

An interquartile mean does not see what less than a quarter of the runs do. So the mean, the share of pairs that are
much better or much worse, and the runs that diverged stand beside it, and change the word where they contradict it.

Sources: Zou and Donner 2008, https://doi.org/10.1002/sim.3095 (squares of recovered variances add); Davison and
Hinkley 1997, 3.8; Agarwal et al. 2021, arXiv:2108.13264 (interquartile mean, probability of improvement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.intervals import LEVEL, t_quantile, widening
from lrdiff_bench.stats.verdict import Verdict, gain_verdict
from lrdiff_core.errors import DataError

__all__ = [
    "CLIP",
    "LARGE",
    "SMALLEST_DIFFERENCE",
    "Gain",
    "TwoWay",
    "gains_of",
    "holm",
    "interquartile_mean",
    "judge_gain",
    "two_way",
]

SMALLEST_DIFFERENCE = 0.01
"""Smallest difference in loss that matters: nats for classes, parts of the target's variance for regression."""

DRAWS = 4000
CLIP = 1000.0  # smallest differences: a run that diverged counts as this much worse than one that did not
LARGE = 10.0  # smallest differences: what "much better" and "much worse" mean
MOST_PAIRS = 0.75  # share of improved pairs that a bare HELPS needs (Bouthillier et al. 2021, arXiv:2103.03098)
AS_OFTEN = 0.01  # shares of diverged runs that lie no further apart do not contradict NO DIFFERENCE
MOST_SEEDS = 100_000
MOST_SEARCHES = 50
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
class TwoWay:
    """An estimate whose uncertainty has two sources: seeds and searches.

    Attributes:
        estimate: mean over searches.
        by_search: location of each search; of one search alone nothing is known about others. [searches]
        draws: of the estimate, seeds drawn with replacement.
        seeds: how many there are.
    """

    estimate: float
    by_search: Numbers
    draws: Numbers
    seeds: int

    def parts(self, level: float = LEVEL) -> tuple[float, float, float]:
        """Distances below and above the estimate from seeds, and the distance from searches."""
        tail = (1.0 - level) / 2.0
        low = float(np.quantile(self.draws, tail, method="lower"))
        high = float(np.quantile(self.draws, 1.0 - tail, method="higher"))
        few, searches = widening(self.seeds, level), len(self.by_search)
        spread = 0.0 if searches == 1 else t_quantile(level, searches - 1) * self.spread / math.sqrt(searches)
        return max(0.0, self.estimate - low) * few, max(0.0, high - self.estimate) * few, spread

    @property
    def spread(self) -> float:
        """Standard deviation of the searches' locations."""
        return float(self.by_search.std(ddof=1))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Low and high."""
        below, above, spread = self.parts(level)
        return self.estimate - math.hypot(below, spread), self.estimate + math.hypot(above, spread)


def two_way(values: Numbers, *, location: Any = interquartile_mean, draws: int = DRAWS, seed: int = 0) -> TwoWay:
    """Estimate and draws of values that belong to searches and seeds. [searches, seeds]

    Raises:
        DataError: fewer than two seeds.

    Example:
        >>> found = two_way(np.full((3, 30), 0.5))
        >>> found.estimate, found.interval()
        (0.5, (0.5, 0.5))
    """
    seeds = values.shape[1]
    if seeds < 2:
        raise DataError(f"there are {seeds} seeds to compare on", help="train on two or more; ten and more report well")
    by_search = np.asarray(location(values, axis=1))
    # Searches that chose the same rates have the same row; a mean of means needs one row alone.
    rows, weights = values.mean(axis=0, keepdims=True), np.ones(1)
    if location is not np.mean:
        rows, counts = np.unique(values, axis=0, return_counts=True)
        weights = counts / len(values)
    generator = np.random.default_rng(seed)
    drawn = np.empty(draws)
    part = max(1, 2_000_000 // rows.size)
    for start in range(0, draws, part):
        which = generator.integers(0, seeds, (min(part, draws - start), seeds))
        drawn[start : start + part] = weights @ location(rows[:, which], axis=2)
    return TwoWay(estimate=float(by_search.mean()), by_search=by_search, draws=drawn, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What the reporting seeds say about one scheme against the tuned single rate; positive is better.

    Attributes:
        verdict: of ``estimate``'s interval, qualified by what stands beside it.
        estimate, low, high: interquartile mean of the paired gains with its 95 % interval, in the metric.
        mean, mean_low, mean_high: the mean, over seeds on which no run diverged; None where there are too few.
        improvement, improvement_low, improvement_high: share of pairs in which the scheme is better, ties one half.
        much_better, much_worse: share of pairs that differ by more than ``LARGE`` smallest differences.
        diverged, single_diverged: share of the runs.
        smallest: difference that matters.
        p: the lowest error level at which the verdict still stands (1 where it is inconclusive).
        holm_p: the same among all that are judged together; set by :func:`holm`.
        seeds, searches: what it rests on.
        seeds_needed, searches_needed: in all, for an inconclusive one, if the estimate stays; None where no number
            would do.
        reason: what qualifies the verdict, or why it is inconclusive.
        by_search: location of each search.
    """

    verdict: Verdict
    estimate: float
    low: float
    high: float
    mean: float | None
    mean_low: float | None
    mean_high: float | None
    improvement: float
    improvement_low: float
    improvement_high: float
    much_better: float
    much_worse: float
    diverged: float
    single_diverged: float
    smallest: float
    p: float
    seeds: int
    searches: int
    holm_p: float | None = None
    seeds_needed: int | None = None
    searches_needed: int | None = None
    reason: str = ""
    by_search: tuple[float, ...] = ()


def gains_of(single: Numbers, scheme: Numbers, *, most: float = math.inf) -> Numbers:
    """Gain of every pair, positive where the scheme is lower; two runs that diverged do not differ.

    Args:
        single, scheme: lower is better, infinite where a run diverged. [...]
        most: gains are cut off there, on either side.

    Example:
        >>> gains_of(np.array([1.0, np.inf, np.inf]), np.array([0.5, np.inf, 2.0]), most=10.0).tolist()
        [0.5, 0.0, 10.0]
    """
    gain = np.zeros(np.broadcast_shapes(single.shape, scheme.shape))
    np.subtract(single, scheme, out=gain, where=single != scheme)
    return np.clip(gain, -most, most)


def judge_gain(single: Numbers, scheme: Numbers, *, smallest: float, draws: int = DRAWS) -> Gain:
    """Judge a scheme against the tuned single rate.

    Args:
        single, scheme: lower is better, infinite where a run diverged; row r is the winner of search r, column s the
            fresh seed s, the same in both. [searches, seeds]
        smallest: difference that matters, fixed beforehand.
        draws: of the bootstrap.

    Raises:
        DataError: fewer than two seeds.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (5, 30))
        >>> judge_gain(noise, noise - 0.2, smallest=0.1).verdict.value
        'HELPS'
        >>> judge_gain(noise, noise + 0.001, smallest=0.1).verdict.value
        'NO DIFFERENCE'
    """
    gains = gains_of(single, scheme, most=CLIP * smallest)
    gain = two_way(gains, draws=draws)
    improvement = two_way((gains > 0) + 0.5 * (gains == 0), location=np.mean, draws=draws)
    low, high = gain.interval()
    better_low, better_high = (min(1.0, max(0.0, one)) for one in improvement.interval())
    mean, mean_low, mean_high = _mean(single, scheme, draws)
    side = gain_verdict(low, high, smallest)
    found = Gain(
        verdict=side,
        estimate=gain.estimate,
        low=low,
        high=high,
        mean=mean,
        mean_low=mean_low,
        mean_high=mean_high,
        improvement=improvement.estimate,
        improvement_low=better_low,
        improvement_high=better_high,
        much_better=float((gains > LARGE * smallest).mean()),
        much_worse=float((gains < -LARGE * smallest).mean()),
        diverged=float(np.isinf(scheme).mean()),
        single_diverged=float(np.isinf(single).mean()),
        smallest=smallest,
        p=1.0 if side is Verdict.INCONCLUSIVE else _lowest_level(gain, smallest, side),
        seeds=gains.shape[1],
        searches=gains.shape[0],
        by_search=tuple(float(one) for one in gain.by_search),
    )
    return _with_need(found, gain) if side is Verdict.INCONCLUSIVE else _qualified(found)


def holm(gains: Mapping[str, Gain]) -> dict[str, Gain]:
    """Judge several together: a verdict stays only where it stands after Holm's correction.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (5, 30))
        >>> one = judge_gain(noise, noise - 0.2, smallest=0.1)
        >>> holm({"a": one, "b": one})["a"].verdict.value
        'HELPS'

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = sorted(gains, key=lambda name: gains[name].p)
    corrected, worst = {}, 0.0
    for rank, name in enumerate(order):
        one = gains[name]
        worst = min(1.0, max(worst, one.p * (len(order) - rank)))
        if one.verdict == Verdict.INCONCLUSIVE or worst <= 1.0 - LEVEL:
            corrected[name] = replace(one, holm_p=worst)
        else:
            reason = f"{one.verdict} by itself, not after Holm's correction over {len(order)}"
            corrected[name] = replace(one, holm_p=worst, verdict=Verdict.INCONCLUSIVE, reason=reason)
    return {name: corrected[name] for name in gains}


def _mean(single: Numbers, scheme: Numbers, draws: int) -> tuple[float, float, float] | tuple[None, None, None]:
    whole = (np.isfinite(single) & np.isfinite(scheme)).all(axis=0)
    if whole.sum() < 2:
        return None, None, None
    found = two_way(single[:, whole] - scheme[:, whole], location=np.mean, draws=draws)
    return found.estimate, *found.interval()


def _qualified(found: Gain) -> Gain:
    """Change the word where what stands beside the interquartile mean contradicts it."""
    shares = f"{_percent(found.diverged)} of its runs diverge, {_percent(found.single_diverged)} with the single rate"
    if found.verdict is Verdict.NO_DIFFERENCE and abs(found.diverged - found.single_diverged) > AS_OFTEN:
        reason = f"typical runs do not differ, but {shares}"
        return replace(found, verdict=Verdict.INCONCLUSIVE, p=1.0, reason=reason)
    if found.verdict is Verdict.HELPS:
        if found.diverged > found.single_diverged:
            return replace(found, verdict=Verdict.HELPS_BUT_DIVERGES, reason=shares)
        if found.improvement < MOST_PAIRS or found.improvement_low <= 0.5:
            reason = f"better in {_percent(found.improvement)} of the pairs"
            return replace(found, verdict=Verdict.HELPS_ON_AVERAGE, reason=reason)
    if found.verdict is Verdict.HURTS and (found.improvement > 1.0 - MOST_PAIRS or found.improvement_high >= 0.5):
        reason = f"worse in {_percent(1.0 - found.improvement)} of the pairs"
        return replace(found, verdict=Verdict.HURTS_ON_AVERAGE, reason=reason)
    return found


def _lowest_level(gain: TwoWay, smallest: float, side: Verdict) -> float:
    """The lowest error level at which the verdict stands; intervals are nested, so halving finds it."""
    holds, fails = 1.0 - LEVEL, 0.0
    for _ in range(12):
        middle = (holds + fails) / 2.0
        if gain_verdict(*gain.interval(1.0 - middle), smallest) is side:
            holds = middle
        else:
            fails = middle
    # draws cannot show less than one in their number on either side
    return max(holds, 2.0 / (len(gain.draws) + 1))


def _with_need(found: Gain, gain: TwoWay) -> Gain:
    """Say how many seeds (and, if those cannot do it, searches) a verdict would take if the estimate stays."""
    room = abs(abs(found.estimate) - found.smallest)
    most = found.searches if found.searches == 1 else max(MOST_SEARCHES, 2 * found.searches)
    ways = [(searches, _seeds_for(gain, room, searches)) for searches in range(found.searches, most + 1)]
    searches, seeds = min(ways, key=lambda way: way[0] * way[1])  # every winner is trained on every seed
    if seeds > MOST_SEEDS:
        reason = "the estimate lies so close to the smallest difference that no affordable number of seeds will do"
        return replace(found, reason=reason)
    more = f"about {seeds} seeds in all" + (f" and {searches} searches" if searches > found.searches else "")
    return replace(found, seeds_needed=seeds, searches_needed=searches, reason=f"{more} would settle it")


def _seeds_for(one: TwoWay, room: float, searches: int) -> int:
    """Seeds with which an interval keeps to ``room``: the seeds' part shrinks with the root, the searches' too."""
    below, above, _ = one.parts()
    left = room**2
    if searches > 1:
        left -= (t_quantile(LEVEL, searches - 1) * one.spread) ** 2 / searches
    if left <= 0.0:
        return MOST_SEEDS + 1
    return max(one.seeds + 1, math.ceil(one.seeds * max(below, above) ** 2 / left))


def _percent(share: float) -> str:
    return "0 %" if share == 0 else f"{max(1, math.floor(100 * share + 0.5))} %"
