"""Which point of a search wins: the best few of all points are trained again, and the winner is the best of those."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.search.points import BASE, Space

__all__ = ["Winner", "choose_winner", "finalists", "lower_is_better"]

_MIDDLE = (0.25, 0.75)  # an equally good point there shows that the edge is not where it gets better
_TIE = 0.25  # of the smallest difference that matters: less is no reason to sit at an edge
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The point that a search chose.

    Attributes:
        index: of the point; None where every point diverged.
        score: its mean over the seeds that decided, lower is better; infinite where one of them diverged.
        edges: where it lies at the edge, as :meth:`Space.edges`; the study is void if there are any.
        flat: where the best point lay at the edge but one in the middle was as good, so that it was taken.
    """

    index: int | None
    score: float
    edges: frozenset[tuple[str, str]]
    flat: frozenset[tuple[str, str]]


def lower_is_better(values: Numbers, metric: str) -> Numbers:
    """Losses as they are, accuracies negated; NaN (diverged) becomes infinite, the worst there is."""
    signed = -values if metric == "accuracy" else values
    return np.where(np.isnan(signed), np.inf, signed)


def finalists(scores: Numbers, count: int) -> NDArray[np.intp]:
    """The points to be trained again, best first: fewest seeds that diverged, then the lowest mean over the others.

    The best of 64 means over four seeds is partly luck, and sometimes a bad point: between searches the winners' losses
    then differ more than anything that is to be found. Those in front are told apart on seeds of their own.

    Args:
        scores: lower is better, infinite where a trial diverged. [points, seeds]
        count: how many; points that diverged on every seed are no finalists.

    Example:
        >>> finalists(np.array([[0.3, 0.3], [0.1, np.inf], [0.2, 0.2], [np.inf, np.inf]]), 3).tolist()
        [2, 0, 1]
    """
    lost = np.isinf(scores)
    order = _ranking(scores)
    return order[: min(count, int((~lost.all(axis=1)).sum()))]


def choose_winner(space: Space, unit: Numbers, scores: Numbers, *, smallest: float) -> Winner:
    """Choose the best point: fewest seeds that diverged, then the lowest mean.

    A winner at the edge (the outermost sixteenth) gives way to the best point of the middle half if that is as good:
    within a quarter of the smallest difference that matters, or within one standard error of the difference. Where a
    dimension has no effect, this keeps chance from voiding the study; where the score improves towards the edge, no
    point of the middle is as good.

    Args:
        space: of the scheme.
        unit: points in the unit cube. [points, dimensions or more]
        scores: lower is better, infinite where a trial diverged. [points, seeds]
        smallest: difference that matters.

    Example:
        >>> space = Space(names=(BASE,), intervals=((0.001, 1.0),))
        >>> unit = np.array([[0.01], [0.3], [0.6], [0.9]])
        >>> choose_winner(space, unit, np.array([[0.1], [0.5], [0.6], [0.7]]), smallest=0.1).edges
        frozenset({('base rate', 'low')})
        >>> choose_winner(space, unit, np.array([[0.49], [0.5], [0.6], [0.7]]), smallest=0.1).index
        1

    Source: the one-standard-error rule is that of Breiman et al. 1984, Classification and Regression Trees, 3.4.3.
    """
    if scores.size == 0 or np.isinf(scores).all():  # too high a rate everywhere is the likely reason
        return Winner(index=None, score=math.inf, edges=frozenset({(BASE, "low")}), flat=frozenset())
    unit, means = unit[:, : len(space.names)], scores.mean(axis=1)
    best = int(_ranking(scores)[0])
    edges = frozenset(space.edges(unit[best]))
    if edges and math.isfinite(means[best]):
        names = {name for name, _ in edges}
        inside = np.isfinite(means)
        for i, name in enumerate(space.names):
            low, high = _MIDDLE if name in names else (1.0 / 16.0, 15.0 / 16.0)
            inside &= (unit[:, i] >= low) & (unit[:, i] <= high)
        if inside.any():
            other = int(np.argmin(np.where(inside, means, np.inf)))
            if means[other] - means[best] <= max(_TIE * smallest, _standard_error(scores)):
                return Winner(index=other, score=float(means[other]), edges=frozenset(), flat=edges)
    return Winner(index=best, score=float(means[best]), edges=edges, flat=frozenset())


def _ranking(scores: Numbers) -> NDArray[np.intp]:
    """Points from best to worst."""
    lost = np.isinf(scores)
    kept = np.where(lost, 0.0, scores).sum(axis=1) / np.maximum(1, (~lost).sum(axis=1))
    return np.lexsort((kept, lost.sum(axis=1)))


def _standard_error(scores: Numbers) -> float:
    """Of the difference of two points' means over the same seeds, from what seeds and points leave unexplained.

    The better half of the points is taken: the worse half is noisier, and no candidate.
    """
    means = scores.mean(axis=1)
    good = scores[means <= np.median(means)]
    good = good[np.isfinite(good).all(axis=1)]
    points, seeds = good.shape
    if points < 2 or seeds < 2:
        return 0.0
    left = good - good.mean(axis=1, keepdims=True) - good.mean(axis=0, keepdims=True) + good.mean()
    variance = float((left**2).sum()) / ((points - 1) * (seeds - 1))
    return math.sqrt(2.0 * variance / seeds)
