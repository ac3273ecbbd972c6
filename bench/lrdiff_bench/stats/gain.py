"""What differential rates gain over a single rate: paired over seeds, with independent searches as the units.

Each search has its own points, its own winners and its own fresh seeds, on which both winners are trained. A gain
(single minus scheme where lower is better) is positive where the scheme is better;
:mod:`~lrdiff_bench.stats.location` estimates where the gains lie.

An interquartile mean does not see what less than a quarter of the runs do. So the mean, the share of pairs that are
much better or much worse, and the runs that diverged stand beside it, and change the word where they contradict it.

Source: Agarwal et al. 2021, arXiv:2108.13264 (probability of improvement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrdiff_bench.stats.location import DRAWS, Located, Numbers, located
from lrdiff_bench.stats.looks import ERROR, LOOKS, Look, looks_of
from lrdiff_bench.stats.verdict import Verdict, gain_verdict

__all__ = [
    "CLIP",
    "LARGE",
    "SMALLEST_DIFFERENCE",
    "Gain",
    "gains_of",
    "holm",
    "holm_adjusted",
    "judge_gain",
]

SMALLEST_DIFFERENCE = 0.01
"""Smallest difference in loss that matters: nats for classes, parts of the target's variance for regression."""

CLIP = 1000.0  # smallest differences: a run that diverged counts as this much worse than one that did not
LARGE = 10.0  # smallest differences: what "much better" and "much worse" mean
MOST_PAIRS = 0.75  # share of improved pairs that a bare HELPS needs (Bouthillier et al. 2021, arXiv:2103.03098)
AS_OFTEN = 0.01  # shares of diverged runs that lie no further apart do not contradict NO DIFFERENCE
MOST_SEEDS = 100_000
MOST_SEARCHES = 10_000


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What the reporting seeds say about one scheme against the tuned single rate; positive is better.

    Attributes:
        verdict: of ``estimate``'s interval, qualified by what stands beside it.
        estimate, low, high: interquartile mean of the paired gains, in the metric, with an interval at the look's own
            error level: those of all looks together hold the truth with 95 %.
        mean, mean_low, mean_high: the mean over pairs of runs that did not diverge; None where there are too few.
        improvement, improvement_low, improvement_high: share of pairs in which the scheme is better, ties one half.
        much_better, much_worse: share of pairs that differ by more than ``LARGE`` smallest differences.
        diverged, single_diverged: share of the runs.
        smallest: difference that matters.
        p: the lowest error level, over all looks, at which the verdict still stands (1 where it is inconclusive).
        holm_p: the same among all that are judged together; set by :func:`holm`.
        seeds, searches: what it rests on: seeds of each search, and searches at the look that settled it.
        seeds_needed, searches_needed: in all, for an inconclusive one, if the estimate stays; None where no number
            would do.
        reason: what qualifies the verdict, or why it is inconclusive.
        by_search: location of each search.
        looks: every look so far: its searches, its error level, estimate, low, high and verdict.
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
    looks: tuple[dict[str, Any], ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether more searches could settle it."""
        return self.verdict is Verdict.INCONCLUSIVE


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
    """Judge a scheme against the tuned single rate, look by look: the first that settles it counts.

    Args:
        single, scheme: lower is better, infinite where a run diverged; row r holds the winner of search r on that
            search's own fresh seeds, the same in both. [searches, seeds]
        smallest: difference that matters, fixed beforehand.
        draws: of the bootstrap over the seeds of a single search.

    Raises:
        DataError: fewer than two seeds.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (5, 30))
        >>> judge_gain(noise, noise - 0.2, smallest=0.1).verdict.value
        'HELPS'
        >>> judge_gain(noise, noise + 0.001, smallest=0.1).verdict.value
        'NO DIFFERENCE'
    """
    every = [
        _judge_look(single[: look.searches], scheme[: look.searches], smallest, draws, look)
        for look in looks_of(len(single))
    ]
    found = next((one for one in every if one.verdict is not Verdict.INCONCLUSIVE), every[-1])
    same = found.verdict if found.verdict in _NO_DIFFERENCE_BUT else found.verdict.plain
    p = min(one.p for one in every if same in (one.verdict, one.verdict.plain))
    kept = ("searches", "estimate", "low", "high", "verdict")
    looks = [
        {**{name: getattr(one, name) for name in kept}, "error": look.error}
        for one, look in zip(every, looks_of(len(single)), strict=True)
    ]
    return replace(found, p=p, looks=tuple(looks))


def _judge_look(single: Numbers, scheme: Numbers, smallest: float, draws: int, look: Look) -> Gain:
    gains = gains_of(single, scheme, most=CLIP * smallest)
    gain = located(gains, draws=draws)
    improvement = located((gains > 0) + 0.5 * (gains == 0), location=np.mean, draws=draws)
    low, high = gain.interval(look.error)
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
        p=1.0 if side is Verdict.INCONCLUSIVE else _lowest_error(gain, smallest, side, look) * ERROR / look.error,
        seeds=gains.shape[1],
        searches=gains.shape[0],
        by_search=tuple(float(one) for one in gain.by_search),
    )
    if side is Verdict.INCONCLUSIVE:
        return _with_need(found, gain)
    more = np.isinf(scheme).astype(float) - np.isinf(single)
    return _qualified(found, more[0] if len(more) == 1 else more.mean(axis=1), look)


def holm(gains: Mapping[str, Gain]) -> dict[str, Gain]:
    """Judge several together: a verdict stays only where it stands after Holm's correction.

    Example:
        >>> noise = np.random.default_rng(0).normal(0.0, 0.1, (5, 30))
        >>> one = judge_gain(noise, noise - 0.2, smallest=0.1)
        >>> holm({"a": one, "b": one})["a"].verdict.value
        'HELPS'

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    corrected = {}
    for (name, one), p in zip(gains.items(), holm_adjusted(np.array([one.p for one in gains.values()])), strict=True):
        corrected[name] = replace(one, holm_p=float(p))
        if one.verdict != Verdict.INCONCLUSIVE and p > ERROR + 1e-12:
            reason = f"{one.verdict} by itself, not after Holm's correction over {len(gains)}"
            corrected[name] = replace(corrected[name], verdict=Verdict.INCONCLUSIVE, reason=reason)
    return corrected


def holm_adjusted(p: Numbers) -> Numbers:
    """Holm's adjusted p of every test, in the shape of the tests.

    Example:
        >>> holm_adjusted(np.array([0.03, 0.01, 0.5])).tolist()
        [0.06, 0.03, 0.5]
    """
    order = np.argsort(p, axis=None, kind="stable")
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p.ravel()[order] * np.arange(p.size, 0, -1)))
    return adjusted.reshape(p.shape)


def _more(searches: int) -> str:
    return "1 more search" if searches == 1 else f"{searches} more searches"


def _mean(single: Numbers, scheme: Numbers, draws: int) -> tuple[float, float, float] | tuple[None, None, None]:
    whole = np.isfinite(single) & np.isfinite(scheme)
    if (whole.sum(axis=1) < 2).any():
        return None, None, None
    if len(single) == 1:
        found = located((single - scheme)[whole][None], location=np.mean, draws=draws)
    else:  # a search counts as much as another, however many of its runs diverged
        gaps = np.subtract(single, scheme, out=np.zeros(whole.shape), where=whole)
        means = gaps.sum(axis=1, keepdims=True) / whole.sum(axis=1, keepdims=True)
        found = located(np.repeat(means, 2, axis=1), location=np.mean)
    return found.estimate, *found.interval()


def _qualified(found: Gain, more: Numbers, look: Look) -> Gain:
    """Change the word where what stands beside the interquartile mean contradicts it.

    Args:
        found: with a word.
        more: how much more often the scheme diverged, by search (by seed where there is one search).
        look: whose error level holds.
    """
    shares = f"{_percent(found.diverged)} of its runs diverge, {_percent(found.single_diverged)} with the single rate"
    if found.verdict is Verdict.NO_DIFFERENCE and abs(found.diverged - found.single_diverged) > AS_OFTEN:
        return _no_difference_but(found, shares, int((more > 0).sum()), int((more < 0).sum()), look)
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


_NO_DIFFERENCE_BUT = (Verdict.NO_DIFFERENCE_BUT_DIVERGES, Verdict.NO_DIFFERENCE_BUT_STEADIER)


def _no_difference_but(found: Gain, shares: str, more: int, fewer: int, look: Look) -> Gain:
    """Where typical runs do not differ and other shares of them diverge: a word of its own, if that is not luck.

    A sign test over searches, the units: in so many the scheme diverged more often, in so many less often. Runs of one
    search share a winner and diverge together, so counting runs would take one bad winner for many.
    """
    p = _sign_test(more, fewer)
    if p <= look.error:
        word = Verdict.NO_DIFFERENCE_BUT_DIVERGES if more > fewer else Verdict.NO_DIFFERENCE_BUT_STEADIER
        return replace(found, verdict=word, p=max(found.p, p * ERROR / look.error), reason=shares)
    reason = f"typical runs do not differ, but {shares}"
    for later in LOOKS:
        grown = later.searches / found.searches
        if grown > 1.0 and _sign_test(int(more * grown), int(fewer * grown)) <= later.error:
            need = f"{_more(later.searches - found.searches)} would settle that if the shares stay"
            reason = f"{reason}; {need}"
            return replace(
                found, verdict=Verdict.INCONCLUSIVE, p=1.0, reason=reason, searches_needed=later.searches
            )  # fmt: skip
    return replace(found, verdict=Verdict.INCONCLUSIVE, p=1.0, reason=f"{reason}; it may be luck")


def _sign_test(one: int, other: int) -> float:
    """Two-sided: how likely so uneven a split of that many is where either side is as likely."""
    from scipy.special import bdtr

    total = one + other
    return min(1.0, 2.0 * float(bdtr(float(min(one, other)), total, 0.5))) if total else 1.0


def _lowest_error(gain: Located, smallest: float, side: Verdict, look: Look) -> float:
    """The lowest error level at which the verdict stands; intervals are nested, so halving finds it."""
    holds, fails = look.error, 0.0
    for _ in range(20):
        middle = (holds + fails) / 2.0
        if gain_verdict(*gain.interval(middle), smallest) is side:
            holds = middle
        else:
            fails = middle
    # draws cannot show less than one in their number on either side
    return max(holds, 2.0 / (len(gain.draws) + 1)) if len(gain.draws) else holds


def _with_need(found: Gain, gain: Located) -> Gain:
    """Say how many seeds, or searches, a verdict would take if the estimate and the spread stay."""
    room = abs(abs(found.estimate) - found.smallest)
    if found.searches == 1:
        width = (found.high - found.low) / 2.0  # shrinks with the root of the seeds
        needed = math.ceil(found.seeds * (width / max(room, 1e-300)) ** 2) if width < 1e3 * room else MOST_SEEDS + 1
        if needed <= MOST_SEEDS:
            needed = max(found.seeds + 1, needed)
            return replace(found, seeds_needed=needed, reason=f"about {needed} seeds in all would settle it")
        return replace(found, reason=f"{_TOO_CLOSE} number of seeds will do")
    fixed = found.searches < LOOKS[0].searches
    ways = [(n, ERROR) for n in range(found.searches + 1, LOOKS[0].searches)] if fixed else []
    ways += [(look.searches, look.error) for look in LOOKS if look.searches > found.searches]
    last = LOOKS[-1]
    ways += [(n, last.error) for n in np.unique(np.geomspace(last.searches + 1, MOST_SEARCHES, 400).astype(int))]
    needed = next((int(n) for n, error in ways if gain.half_width(error, int(n)) <= room), MOST_SEARCHES + 1)
    if needed > MOST_SEARCHES:
        return replace(found, reason=f"{_TOO_CLOSE} number of searches will do")
    reason = f"{_more(needed - found.searches)} would settle it if the estimate stays"
    if needed > last.searches:
        reason = f"{last.searches} searches, the last look, would not settle it; it would take about {needed}"
    return replace(found, searches_needed=needed, reason=reason)


_TOO_CLOSE = "the estimate lies so close to the smallest difference that no affordable"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else f"{max(1, math.floor(100 * share + 0.5))} %"
