"""What was trained in a search for rates, and where to train next: draws from the surface through all that is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.search.points import Space, group_rates, space_of, unit_points
from lrdiff_bench.study.tune.found import free_scheme, rounded
from lrdiff_bench.study.tune.surface import Surface, capped
from lrdiff_bench.study.workloads.workload import Workload
from lrdiff_core.errors import InputError

__all__ = ["Proposals"]

Numbers = NDArray[np.float64]
CANDIDATES = 256
NEAR = 0.35  # decades around the best point, from which half of the candidates come
APART = 0.15  # decades between finalists


class Proposals:
    """Points of a workload's free ratios: base rate, then the ratio of each free group.

    Args:
        workload: whose groups and intervals hold.
        seed: of the candidates and draws.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload, self.scheme = workload, free_scheme(workload)
        self.space: Space = space_of(self.scheme, workload.base_rates)
        self.random = np.random.default_rng([seed, 1])
        self.values = np.empty((0, len(self.space.names)))
        self.scores: Numbers = np.empty(0)  # lower is better, infinite where it diverged
        self.seeds: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def add(self, values: Numbers, scores: Numbers, seed: int) -> None:
        """Keep what points [points, dimensions] gave on a seed."""
        self.values = np.concatenate([self.values, values])
        self.scores = np.concatenate([self.scores, scores])
        self.seeds = np.concatenate([self.seeds, np.full(len(values), seed, dtype=np.int64)])

    def rates(self, values: Numbers) -> Numbers:
        """Rates of all groups, [points, groups]."""
        return group_rates(self.scheme, self.workload.groups, values)

    def one_rate(self, count: int) -> Numbers:
        """Points with the ratio 1 everywhere, evenly over the interval of the base rate."""
        low, high = np.log(self.workload.base_rates)
        base = np.exp(low + (np.arange(count) + 0.5) / count * (high - low))
        return np.column_stack([base, np.ones((count, len(self.space.names) - 1))])

    def propose(self, count: int) -> Numbers:
        """Where a draw of the surface is lowest, so many draws: the better a place may be, the likelier it is tried."""
        candidates = self._candidates()
        draws = self._surface().draws(self._logs(candidates), count, self.random)
        taken: list[int] = []
        for draw in draws:
            taken.append(next(int(one) for one in np.argsort(draw) if one not in taken))
        return np.asarray(candidates[taken])

    def finalists(self, count: int) -> Numbers:
        """The lowest places of the surface that lie apart and are not one rate, trained or near the best."""
        points = np.concatenate([self.values, self._candidates()])
        points = points[(points[:, 1:] != 1.0).any(axis=1)]
        logs = self._logs(points)
        chosen: list[int] = []
        for one in np.argsort(self._surface().mean(logs)):
            if all(np.abs(logs[one] - logs[other]).max() > APART for other in chosen):
                chosen.append(int(one))
            if len(chosen) == count:
                break
        return np.asarray(points[chosen])

    def best_of(self, points: Numbers) -> tuple[float, dict[str, float]]:
        """Base rate and ratios of that point at which the surface is lowest, with two digits.

        Raises:
            InputError: all that was trained diverged.
        """
        if np.isinf(self.scores).all():
            low, high = self.workload.base_rates
            raise InputError(
                f"every training of {self.workload.name} diverged, at rates from {low:g} to {high:g}",
                help="search lower rates: base_rates",
            )
        won = points[int(self._surface().mean(self._logs(points)).argmin())]
        ratios = dict.fromkeys(self.workload.groups, 1.0) | dict(self.scheme.ratios)
        ratios |= {group: rounded(float(ratio)) for group, ratio in zip(self.scheme.free, won[1:], strict=True)}
        return rounded(float(won[0])), ratios

    def best_one_rate(self) -> float:
        """The lowest place of the curve through the trainings with one rate, between the neighbours of the best."""
        line = (self.values[:, 1:] == 1.0).all(axis=1)
        base, scores = self.values[line, 0], self.scores[line]
        if np.isinf(scores).all():
            return float(base.min())
        curve = Surface(np.log10(base)[:, None], self.seeds[line], capped(scores))
        tried = np.unique(base)
        at = int(np.searchsorted(tried, base[scores.argmin()]))
        fine = np.geomspace(tried[max(0, at - 1)], tried[min(len(tried) - 1, at + 1)], 41)
        return rounded(float(fine[int(curve.mean(np.log10(fine)[:, None]).argmin())]))

    def _candidates(self) -> Numbers:
        """Half of them anywhere, half near the best point so far, [points, dimensions]."""
        dimensions = len(self.space.names)
        unit = unit_points(CANDIDATES, dimensions, int(self.random.integers(2**31)))
        best = self.values[int(self.scores.argmin())]
        near = np.exp(np.log(best) + self.random.normal(0.0, NEAR * np.log(10.0), (CANDIDATES, dimensions)))
        low, high = (np.array([interval[i] for interval in self.space.intervals]) for i in (0, 1))
        return np.concatenate([self.space.values(unit), np.clip(near, low, high)])

    def _surface(self) -> Surface:
        return Surface(self._logs(self.values), self.seeds, capped(self.scores))

    def _logs(self, values: Numbers) -> Numbers:
        """Decimal logarithms of the rates of all groups."""
        return np.asarray(np.log10(np.maximum(self.rates(values), 1e-300)))
