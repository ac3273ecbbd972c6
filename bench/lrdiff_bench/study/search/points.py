"""Where to try: points of a scrambled Sobol sequence in a space of base rate and ratios, its edge, and widening it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.workloads.workload import LAYER_DECAY, Scheme

__all__ = ["BASE", "EDGE", "Space", "group_rates", "space_of", "unit_points"]

BASE = "base rate"
EDGE = 1.0 / 16.0  # the outermost part of an interval, on a logarithmic scale, at either end
_WIDER = 0.5  # of its logarithmic width an interval gains on the side where the winner lay

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Space:
    """Intervals of what a scheme searches: the base rate, then the ratio of each free group.

    Attributes:
        names: :data:`BASE`, then the free groups. [dimensions]
        intervals: low and high of each, both positive; points lie evenly on a logarithmic scale. [dimensions]

    Example:
        >>> space = Space(names=(BASE,), intervals=((0.001, 0.1),))
        >>> space.values(np.array([[0.0], [0.5], [1.0]])).round(4).tolist()
        [[0.001], [0.01], [0.1]]
        >>> space.widened({(BASE, "high")}).intervals[0][1]
        1.0
    """

    names: tuple[str, ...]
    intervals: tuple[Interval, ...]

    @cached_property
    def label(self) -> str:
        """A short name that other intervals do not have."""
        return hashlib.sha256(repr((self.names, self.intervals)).encode()).hexdigest()[:8]

    def values(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """Base rates and ratios of points in the unit cube, both [points, dimensions]."""
        low, high = (np.log([interval[i] for interval in self.intervals]) for i in (0, 1))
        return np.asarray(np.exp(low + unit[:, : len(self.names)] * (high - low)))

    def edges(self, unit: NDArray[np.float64]) -> set[tuple[str, str]]:
        """Where one point [dimensions] lies at the edge: pairs of a name and ``"low"`` or ``"high"``."""
        found = set()
        for name, at in zip(self.names, unit, strict=False):
            if at < EDGE:
                found.add((name, "low"))
            elif at > 1.0 - EDGE:
                found.add((name, "high"))
        return found

    def widened(self, edges: Iterable[tuple[str, str]]) -> Space:
        """The space with the named intervals half as wide again (logarithmically) on the named sides."""
        wider = dict(zip(self.names, self.intervals, strict=True))
        before = dict(wider)
        for name, side in edges:
            if name in wider:
                by = _WIDER * math.log(before[name][1] / before[name][0])
                low, high = wider[name]
                wider[name] = (low * math.exp(-by), high) if side == "low" else (low, high * math.exp(by))
        # twelve digits: so that the bounds read well, and are the same wherever they are computed
        return replace(self, intervals=tuple((float(f"{a:.12g}"), float(f"{b:.12g}")) for a, b in wider.values()))

    def to_dict(self) -> dict[str, list[float]]:
        """Intervals by name, for JSON."""
        return {name: list(interval) for name, interval in zip(self.names, self.intervals, strict=True)}

    @classmethod
    def from_dict(cls, intervals: Mapping[str, Sequence[float]]) -> Space:
        """The inverse of :meth:`to_dict`."""
        return cls(names=tuple(intervals), intervals=tuple((float(a), float(b)) for a, b in intervals.values()))


def space_of(scheme: Scheme, base_rates: Interval) -> Space:
    """What a scheme searches, with the interval of the base rate that all schemes share."""
    return Space(
        names=(BASE, *scheme.free), intervals=(base_rates, *((low, high) for low, high in scheme.free.values()))
    )


def unit_points(count: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """Points of a scrambled Sobol sequence in the unit cube, [count, dimensions].

    Schemes of one search take the first columns of the same points, so all of them try the same base rates.

    Args:
        count: how many; the first of a sequence whose length is a power of two.
        dimensions: of the scheme with the most.
        seed: of the scrambling.

    Example:
        >>> unit_points(8, 3, seed=1).shape
        (8, 3)
        >>> sorted((unit_points(8, 1, seed=1)[:, 0] * 8).astype(int).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]

    Source: Sobol 1967, Owen 1998 (scrambling), as in :class:`scipy.stats.qmc.Sobol`.
    """
    from scipy.stats import qmc

    sequence: Any = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    return np.asarray(sequence.random_base2(max(0, math.ceil(math.log2(count)))))[:count]


def group_rates(scheme: Scheme, groups: Sequence[str], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rate of each group at points of a scheme's space: base rate times ratio, [points, groups].

    Args:
        scheme: whose ratios hold; a group that it neither fixes nor frees has the ratio 1.
        groups: of the workload, in order.
        values: base rate and free ratios, from :meth:`Space.values`. [points, dimensions]

    Example:
        >>> scheme = Scheme(name="free", ratios={"body": 1.0}, free={"head": (0.1, 10.0)})
        >>> group_rates(scheme, ["body", "head"], np.array([[0.01, 3.0]])).round(6).tolist()
        [[0.01, 0.03]]
    """
    free = list(scheme.free)
    columns = []
    for group in groups:
        ratio: Any = values[:, 1 + free.index(group)] if group in free else scheme.ratios.get(group, 1.0)
        if LAYER_DECAY in free:
            ratio = ratio * values[:, 1 + free.index(LAYER_DECAY)] ** scheme.depths.get(group, 0)
        columns.append(values[:, 0] * ratio)
    return np.stack(columns, axis=1)
