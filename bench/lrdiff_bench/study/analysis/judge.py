r"""The verdict on a scheme: paired differences over searches and seeds, with an interval that counts both.

Each search has its own winner, and every winner is trained on the same fresh seeds. So a difference
:math:`D_{rs}` (scheme minus single, lower is better) varies with the search r (luck in tuning) and with the seed s
(luck in training). The location of a search is the interquartile mean over its seeds; the estimate is their mean.
The interval has two parts that add as squares:

.. math:: h = \sqrt{h_\mathrm{seeds}^2 + \big(t_{R-1}\, s_R / \sqrt R\big)^2}

- :math:`h_\mathrm{seeds}`: a paired bootstrap over seeds, the searches held fixed, widened as t widens the normal;
- :math:`s_R`: the spread of the R searches' locations, with Student's t because R is small. It holds some of the
  seeds' noise a second time, which makes the interval too wide where tuning has no luck in it, and keeps its level
  where tuning has much and searches are few. Subtracting that noise, or Satterthwaite's degrees of freedom, gives
  narrower intervals that fall short of their level in some mixtures of three searches.

Sources: Zou and Donner 2008, https://doi.org/10.1002/sim.3095 (squares of recovered variances add); Davison and
Hinkley 1997, 3.8; Agarwal et al. 2021, arXiv:2108.13264 (interquartile mean, probability of improvement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats import hierarchical

__all__ = ["CLIP", "Judgement", "TwoWay", "holm", "interquartile_mean", "judge", "two_way"]

LEVEL = 0.95
DRAWS = 4000
CLIP = 1000.0  # smallest differences: a run that diverged counts as this much worse than one that did not
LEAST_IMPROVEMENT = 0.75  # probability of improvement that a verdict needs (Bouthillier et al. 2021, arXiv:2103.03098)
MOST_SEEDS = 100_000
MOST_SEARCHES = 50
Numbers = NDArray[np.float64]
t_quantile = lru_cache(hierarchical.t_quantile)


@lru_cache
def _normal_quantile(level: float) -> float:
    """Half-width of a central interval of the standard normal."""
    return NormalDist().inv_cdf((1.0 + level) / 2.0)


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
        by_search: location of each search. [searches]
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
        few = t_quantile(level, self.seeds - 1) / _normal_quantile(level) * math.sqrt(self.seeds / (self.seeds - 1))
        searches = len(self.by_search)
        spread = t_quantile(level, searches - 1) * float(self.by_search.std(ddof=1)) / math.sqrt(searches)
        return max(0.0, self.estimate - low) * few, max(0.0, high - self.estimate) * few, spread

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Low and high."""
        below, above, spread = self.parts(level)
        return self.estimate - math.hypot(below, spread), self.estimate + math.hypot(above, spread)


def two_way(values: Numbers, *, location: Any = interquartile_mean, draws: int = DRAWS, seed: int = 0) -> TwoWay:
    """Estimate and draws of values that belong to searches and seeds. [searches, seeds]

    Example:
        >>> found = two_way(np.full((3, 30), 0.5))
        >>> found.estimate, found.interval()
        (0.5, (0.5, 0.5))
    """
    seeds = values.shape[1]
    by_search = np.asarray(location(values, axis=1))
    generator = np.random.default_rng(seed)
    drawn = np.empty(draws)
    part = max(1, 2_000_000 // values.size)
    for start in range(0, draws, part):
        which = generator.integers(0, seeds, (min(part, draws - start), seeds))
        drawn[start : start + part] = location(values[:, which], axis=2).mean(axis=0)
    return TwoWay(estimate=float(by_search.mean()), by_search=by_search, draws=drawn, seeds=seeds)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the reporting seeds say about one scheme against the tuned single rate; negative is better.

    Attributes:
        verdict: ``"HELPS"``, ``"HURTS"``, ``"NO DIFFERENCE"`` or ``"INCONCLUSIVE"``.
        difference, low, high: with the 95 % interval, in the metric.
        improvement, improvement_low, improvement_high: probability of improvement over pairs, ties one half.
        smallest: difference that matters.
        p: the lowest error level at which the verdict still stands (1 where it is inconclusive).
        holm_p: the same among all that are judged together; set by :func:`holm`.
        seeds, searches: what it rests on.
        seeds_needed, searches_needed: in all, for an inconclusive one, if the estimate stays; None where no number
            would do.
        reason: why an inconclusive one is that.
    """

    verdict: str
    difference: float
    low: float
    high: float
    improvement: float
    improvement_low: float
    improvement_high: float
    smallest: float
    p: float
    seeds: int
    searches: int
    holm_p: float | None = None
    seeds_needed: int | None = None
    searches_needed: int | None = None
    reason: str = ""
    by_search: tuple[float, ...] = ()


def judge(single: Numbers, scheme: Numbers, *, smallest: float, draws: int = DRAWS) -> Judgement:
    """Judge a scheme against the tuned single rate.

    Args:
        single, scheme: lower is better, infinite where a run diverged; row r is the winner of search r, column s the
            fresh seed s, the same in both. [searches, seeds]
        smallest: difference that matters, fixed beforehand.
        draws: of the bootstrap.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (5, 30))
        >>> judge(noise, noise - 0.2, smallest=0.1).verdict
        'HELPS'
        >>> judge(noise, noise + 0.001, smallest=0.1).verdict
        'NO DIFFERENCE'
    """
    gap = np.zeros_like(single)
    unequal = single != scheme  # where both diverged there is no difference
    gap[unequal] = np.clip(scheme[unequal] - single[unequal], -CLIP * smallest, CLIP * smallest)
    difference = two_way(gap, draws=draws)
    better = (gap < 0) + 0.5 * (gap == 0)
    improvement = two_way(better, location=np.mean, draws=draws)
    verdict = _verdict(difference, improvement, smallest, LEVEL)
    low, high = difference.interval()
    better_low, better_high = (min(1.0, max(0.0, one)) for one in improvement.interval())
    found = Judgement(
        verdict=verdict,
        difference=difference.estimate,
        low=low,
        high=high,
        improvement=improvement.estimate,
        improvement_low=better_low,
        improvement_high=better_high,
        smallest=smallest,
        p=1.0 if verdict == "INCONCLUSIVE" else _lowest_level(difference, improvement, smallest, verdict),
        seeds=gap.shape[1],
        searches=gap.shape[0],
        by_search=tuple(float(one) for one in difference.by_search),
    )
    return found if verdict != "INCONCLUSIVE" else _with_need(found, difference, improvement)


def holm(judgements: Mapping[str, Judgement]) -> dict[str, Judgement]:
    """Judge several together: a verdict stays only where it stands after Holm's correction.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (5, 30))
        >>> one = judge(noise, noise - 0.2, smallest=0.1)
        >>> holm({"a": one, "b": one})["a"].verdict
        'HELPS'

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = sorted(judgements, key=lambda name: judgements[name].p)
    corrected, worst = {}, 0.0
    for rank, name in enumerate(order):
        one = judgements[name]
        worst = min(1.0, max(worst, one.p * (len(order) - rank)))
        if one.verdict == "INCONCLUSIVE" or worst <= 1.0 - LEVEL:
            corrected[name] = replace(one, holm_p=worst)
        else:
            reason = f"{one.verdict} by itself, not after Holm's correction over {len(order)}"
            corrected[name] = replace(one, holm_p=worst, verdict="INCONCLUSIVE", reason=reason)
    return {name: corrected[name] for name in judgements}


def _verdict(difference: TwoWay, improvement: TwoWay, smallest: float, level: float) -> str:
    low, high = difference.interval(level)
    if -smallest <= low and high <= smallest:
        return "NO DIFFERENCE"
    if high < -smallest or low > smallest:
        better_low, better_high = improvement.interval(level)
        if high < -smallest and improvement.estimate >= LEAST_IMPROVEMENT and better_low > 0.5:
            return "HELPS"
        if low > smallest and improvement.estimate <= 1.0 - LEAST_IMPROVEMENT and better_high < 0.5:
            return "HURTS"
    return "INCONCLUSIVE"


def _lowest_level(difference: TwoWay, improvement: TwoWay, smallest: float, verdict: str) -> float:
    """The lowest error level at which the verdict stands; intervals are nested, so halving finds it."""
    holds, fails = 1.0 - LEVEL, 0.0
    for _ in range(12):
        middle = (holds + fails) / 2.0
        if _verdict(difference, improvement, smallest, 1.0 - middle) == verdict:
            holds = middle
        else:
            fails = middle
    # draws cannot show less than one in their number on either side
    return max(holds, 2.0 / (len(difference.draws) + 1))


def _with_need(found: Judgement, difference: TwoWay, improvement: TwoWay) -> Judgement:
    """Say how many seeds (and, if those cannot do it, searches) a verdict would take if the estimates stay."""
    distance = abs(abs(found.difference) - found.smallest)
    needs = [(difference, distance)]
    if abs(found.difference) > found.smallest:
        share = found.improvement if found.difference < 0 else 1.0 - found.improvement
        if share < LEAST_IMPROVEMENT:
            reason = (
                f"better in {100 * share:.0f} % of the pairs only"
                if found.difference < 0
                else f"worse in {100 * share:.0f} % of the pairs only"
            )
            return replace(found, reason=f"{reason}, and {100 * LEAST_IMPROVEMENT:.0f} % are asked for: if that stays, no number of seeds will do")  # fmt: skip # noqa: E501
        needs.append((improvement, share - 0.5))
    ways = [
        (searches, max(_seeds_for(one, room, searches) for one, room in needs))
        for searches in range(found.searches, MOST_SEARCHES)
    ]
    searches, seeds = min(ways, key=lambda way: way[0] * way[1])  # every winner is trained on every seed
    if seeds <= MOST_SEEDS:
        more = f"about {seeds} seeds in all"
        if searches > found.searches:
            more += f" and {searches} searches"
        return replace(found, seeds_needed=seeds, searches_needed=searches, reason=f"{more} would settle it")
    return replace(
        found, reason="the estimate lies so close to the smallest difference that no affordable number of seeds will do"
    )


def _seeds_for(one: TwoWay, room: float, searches: int) -> int:
    """Seeds with which an interval keeps to ``room``: the seeds' part shrinks with the root, the searches' too."""
    below, above, _ = one.parts()
    spread = float(one.by_search.std(ddof=1))
    left = room**2 - (t_quantile(LEVEL, searches - 1) * spread) ** 2 / searches
    if left <= 0.0:
        return MOST_SEEDS + 1
    return max(one.seeds + 1, math.ceil(one.seeds * max(below, above) ** 2 / left))
