r"""Expected best of k trials: what a tuning budget of k buys, estimated without bias from all trials.

.. math:: \hat E_k = \sum_{i=1}^{N} y_{(i)} \binom{N - i}{k - 1} \Big/ \binom{N}{k}

is the mean of the lowest of k over all subsets of k out of N trials, :math:`y_{(1)} \le \dots \le y_{(N)}`.

Source: Tang et al. 2020, https://aclanthology.org/2020.acl-main.246; Dodge et al. 2021, arXiv:2110.00613 (the
estimator with replacement of Dodge et al. 2019 is biased towards optimism at large k).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.search.plan import largest_k

__all__ = ["Crossing", "Curves", "best_of_curves", "expected_best"]

DRAWS = 1000
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where the curve of a scheme crosses that of the single rate.

    Attributes:
        k: the first number of trials after the crossing.
        better_before: the scheme was the better one before it, and is the worse one from ``k`` on.
        clear: at some k on either side the 95 % interval of the difference leaves zero out.
    """

    k: int
    better_before: bool
    clear: bool


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Best-of-k curves of all schemes, lower is better.

    Attributes:
        k: 1 up to 64, or to a third of the trials. [ks]
        expected, low, high: of each scheme, with 95 % intervals. [schemes, ks]
        difference, difference_low, difference_high: to the first scheme. [schemes, ks]
        crossings: of each scheme with the first.
    """

    k: NDArray[np.int64]
    expected: Numbers
    low: Numbers
    high: Numbers
    difference: Numbers
    difference_low: Numbers
    difference_high: Numbers
    crossings: tuple[tuple[Crossing, ...], ...]


def expected_best(values: Numbers, ks: NDArray[np.int64]) -> Numbers:
    """Mean of the lowest of k values over all subsets of k, exactly, [..., values] to [..., ks].

    Example:
        >>> expected_best(np.array([3.0, 1.0, 2.0]), np.array([1, 2, 3])).round(4).tolist()
        [2.0, 1.3333, 1.0]
    """
    return np.asarray(np.sort(values, axis=-1) @ _weights(values.shape[-1], ks).T)


def best_of_curves(scores: Numbers, *, seed: int = 0, draws: int = DRAWS) -> Curves:
    """Curves of all schemes over the trials of all searches.

    The interval is a bootstrap in the order in which chance came in: searches are drawn, then tuning seeds and points
    inside each drawn search. Schemes share searches, seeds and the base rates of points, and so they share the draws.

    Args:
        scores: lower is better, finite. [schemes, searches, points, seeds]
        seed, draws: of the bootstrap.

    Example:
        >>> curves = best_of_curves(np.random.default_rng(0).random((2, 3, 8, 2)))
        >>> curves.expected.shape
        (2, 8)
    """
    schemes, searches, points, seeds = scores.shape
    total = searches * points
    ks = np.arange(1, largest_k(total) + 1)
    weights = _weights(total, ks)
    expected = np.sort(scores.mean(axis=3).reshape(schemes, total), axis=-1) @ weights.T
    generator = np.random.default_rng(seed)
    drawn = np.empty((draws, schemes, len(ks)))
    for i in range(draws):
        which = generator.integers(0, searches, searches)
        # drawing seeds is the same for all points of a search: a weight for each seed
        share = generator.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=searches) / seeds
        means = np.einsum("crps,rs->crp", scores[:, which], share)
        inside = generator.integers(0, points, (1, searches, points))
        drawn[i] = np.sort(np.take_along_axis(means, inside, axis=2).reshape(schemes, total), axis=-1) @ weights.T
    difference = expected - expected[:1]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    apart_low, apart_high = np.quantile(drawn - drawn[:, :1], (0.025, 0.975), axis=0)
    return Curves(
        k=ks,
        expected=expected,
        low=low,
        high=high,
        difference=difference,
        difference_low=apart_low,
        difference_high=apart_high,
        crossings=tuple(find_crossings(ks, *one) for one in zip(difference, apart_low, apart_high, strict=True)),
    )


def find_crossings(ks: NDArray[np.int64], difference: Numbers, low: Numbers, high: Numbers) -> tuple[Crossing, ...]:
    """Where a difference changes its sign, and whether its interval shows that it does.

    Example:
        >>> d = np.array([1.0, 0.5, -0.5])
        >>> find_crossings(np.array([1, 2, 3]), d, d - 0.1, d + 0.1)
        (Crossing(k=3, better_before=False, clear=True),)
    """
    sign = np.sign(np.where(np.abs(difference) < 1e-12, 0.0, difference))
    at = [i for i in range(len(ks)) if sign[i] != 0]
    turns = [b for a, b in pairwise(at) if sign[a] != sign[b]]
    sure = np.where(low > 0, 1, np.where(high < 0, -1, 0))
    found = []
    bounds = [0, *turns, len(ks)]
    for start, turn, end in zip(bounds, turns, bounds[2:], strict=False):
        before, after = -sign[turn], sign[turn]
        clear = bool((sure[start:turn] == before).any() and (sure[turn:end] == after).any())
        found.append(Crossing(k=int(ks[turn]), better_before=bool(before < 0), clear=clear))
    return tuple(found)


def _weights(total: int, ks: NDArray[np.int64]) -> Numbers:
    """Share of the subsets of k in which the i-th lowest value is the lowest, [ks, values]."""
    table = np.zeros((len(ks), total))
    for row, k in zip(table, ks.tolist(), strict=True):
        whole = math.comb(total, k)
        for i in range(total - k + 1):
            row[i] = math.comb(total - i - 1, k - 1) / whole
    return table
