"""Search rates by group in the time of few trainings: one rate first, then ratios, then the best few again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.search.winner import lower_is_better
from lrdiff_bench.study.tune.found import SEEDS_FROM, FoundRates, trainings_of
from lrdiff_bench.study.tune.proposals import Proposals
from lrdiff_bench.study.workloads.workload import Trials, Workload

__all__ = ["Told", "find_rates"]

Told = Callable[[str, int, int], None]
"""Is told the stage, how many trainings are done, and how many there will be."""

ONE_RATE = 10  # points with one rate
BATCH = 8  # trainings side by side between two looks at the surface
FINALISTS, AGAIN = 3, 4  # the best points, and the seeds that they are trained on once more


def find_rates(
    workload: Workload, trainings: int | None = None, *, seeds_from: int = 0, told: Told | None = None
) -> FoundRates:
    """Search the rates of a workload.

    One rate is tried first, evenly over its interval. Then draws from a surface through all that is known say which
    ratios to try; every batch has a seed of its own. Trainings that come one after the other are stopped early where
    they do not look promising.

    Args:
        workload: whose groups and intervals hold; its own scheme of free ratios is searched where it has one.
        trainings: how many; left out, 56 side by side (an eighth of a search by the protocol), else 12.
        seeds_from: added to every seed.
        told: is told how far it is.

    Raises:
        ConfigError: fewer than 8 trainings.
        InputError: every training diverged.

    Example:
        >>> from benchmarks.simulate_study import Planted
        >>> planted = Planted(gain=lambda logs: 0.1 - 0.1 * (logs[:, 1] - 1.0) ** 2)
        >>> found = find_rates(planted)
        >>> found.trainings, 3.0 < found.ratios["head"] < 30.0
        (56, True)
    """
    count = trainings_of(workload, trainings)
    if workload.at_once == 1:
        from lrdiff_bench.study.tune.alone import find_alone

        return find_alone(workload, count, seeds_from=seeds_from, told=told)
    begin = time.perf_counter()
    search = _SideBySide(workload, count, SEEDS_FROM + seeds_from, told or (lambda *_: None))
    again = min(FINALISTS * AGAIN, count // 4)
    search.train("one rate", search.points.one_rate(min(ONE_RATE, count // 4)))
    while search.done < count - again:
        search.train("ratios", search.points.propose(min(BATCH, count - again - search.done)))
    best = search.points.finalists(max(1, min(FINALISTS, again // 2)))
    search.train("finalists", best, seeds=again // len(best))
    base, ratios = search.points.best_of(best)
    return FoundRates(
        single=search.points.best_one_rate(),
        base_rate=base,
        ratios=ratios,
        trainings=search.done,
        spent=float(search.done),
        seconds=time.perf_counter() - begin,
        diverged=float(np.isinf(search.points.scores).mean()),
    )


class _SideBySide:
    def __init__(self, workload: Workload, count: int, seed: int, told: Told) -> None:
        # what a step costs is measured by a study; here it would take longer than the search
        timed = any(one.name == "timed" for one in fields(workload))
        changes: dict[str, Any] = {"timed": False} if timed else {}
        self.workload, self.count, self.seed, self.told = replace(workload, **changes), count, seed, told
        self.points = Proposals(workload, seed)

    @property
    def done(self) -> int:
        """Trainings so far."""
        return len(self.points.scores)

    def train(self, stage: str, values: NDArray[np.float64], *, seeds: int = 1) -> None:
        """Train some points on so many seeds of their own, all in one call."""
        rates, scheme = np.tile(self.points.rates(values), (seeds, 1)), self.points.scheme
        numbers = self.seed + np.repeat(np.arange(seeds, dtype=np.int64), len(values))
        found = self.workload.train(Trials(rates=rates, seeds=numbers, scheme=scheme, judged_on="validation"))
        scores = lower_is_better(found.metric[:, -1], self.workload.metric).reshape(seeds, len(values))
        for own in scores:
            self.points.add(values, own, self.seed)
            self.seed += 1
        self.told(stage, self.done, self.count)
