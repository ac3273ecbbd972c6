"""Search rates where trainings come one after the other, and stop those that do not look promising."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lrdiff_bench.study.search.optuna_storage import optuna_module
from lrdiff_bench.study.search.winner import lower_is_better
from lrdiff_bench.study.tune.found import SEEDS_FROM, FoundRates
from lrdiff_bench.study.tune.proposals import Numbers, Proposals
from lrdiff_bench.study.workloads.workload import Trials, Workload

__all__ = ["find_alone"]

KEPT = 3  # one of so many goes on from rung to rung (Li et al. 2020, arXiv:1810.05934)
RUNG = 2  # evaluations before the first
FINALISTS = 2


def find_alone(
    workload: Workload, count: int, *, seeds_from: int = 0, told: Callable[[str, int, int], None] | None = None
) -> FoundRates:
    """Search in the time of so many trainings.

    A third of them has one rate, evenly over the interval; then the surface proposes base rate and ratios. All are
    trained on one seed, and Optuna's pruner of successive halving stops those that are not among the best third of
    what came as far. The best two are trained again on seeds of their own, which decide.

    Args:
        workload: whose groups and intervals hold.
        count: whole trainings that the search may take; where they can be stopped early, it tries more.
        seeds_from: added to every seed.
        told: as for :func:`~lrdiff_bench.study.tune.search.find_rates`.

    Raises:
        InputError: every training diverged.
        UnavailableError: Optuna is not installed.
    """
    begin = time.perf_counter()
    search = _Alone(workload, SEEDS_FROM + seeds_from)
    say = told or (lambda *_: None)
    again, lines = max(FINALISTS, count // 4), max(4, count // 3)
    for values in search.points.one_rate(lines):
        search.train(values)
        say("one rate", round(search.spent), count)
    while search.spent <= count - again - 0.5 and len(search.points.scores) < 10 * count:
        search.train(search.points.propose(1)[0])
        say("ratios", round(search.spent), count)
    best = search.points.finalists(FINALISTS)
    for i in range(max(1, again // FINALISTS)):
        for values in best:
            search.train(values, further=1 + i)
            say("finalists", round(search.spent), count)
    base, ratios = search.points.best_of(best)
    return FoundRates(
        single=search.points.best_one_rate(),
        base_rate=base,
        ratios=ratios,
        trainings=len(search.points.scores),
        spent=round(search.spent, 2),
        seconds=time.perf_counter() - begin,
        diverged=float(np.isinf(search.points.scores).mean()),
    )


class _Alone:
    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload, self.seed = workload, seed
        self.points = Proposals(workload, seed)
        self.spent = 0.0
        self.courses: list[list[float]] = []  # of the trainings that came to their end
        optuna = optuna_module()
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNG, reduction_factor=KEPT)
        # the sampler has nothing to do: points are handed over
        self.study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
        self.pruned = optuna.trial.TrialState.PRUNED

    def train(self, values: Numbers, *, further: int = 0) -> None:
        """Train a point on the first seed, or to its end on a further one."""
        watch = _Watch(self.study.ask(), self.workload.metric, ends=not further)
        rates, scheme, seed = self.points.rates(values[None]), self.points.scheme, self.seed + further
        trials = Trials(rates=rates, seeds=np.array([seed]), scheme=scheme, judged_on="validation")
        found, share = self.workload.train_one(trials, watch)
        self.spent += share
        score = float(lower_is_better(np.array([found]), self.workload.metric)[0])
        if watch.stopped:
            self.study.tell(watch.trial, state=self.pruned)
            score -= self._drop_after(len(watch.course))
        else:
            self.study.tell(watch.trial, score if np.isfinite(score) else 1e300)
            if np.isfinite(score):
                self.courses.append([*watch.course, score])
        self.points.add(values[None], np.array([score]), seed)

    def _drop_after(self, evaluations: int) -> float:
        """How much the metric of those that came to their end still fell after so many evaluations, in the middle."""
        drops = [course[evaluations - 1] - course[-1] for course in self.courses if len(course) > evaluations]
        return float(np.median(drops)) if drops else 0.0


class _Watch:
    """Tells Optuna each value, and asks whether to stop."""

    def __init__(self, trial: Any, metric: str, *, ends: bool) -> None:
        self.trial, self.metric, self.ends = trial, metric, ends
        self.course: list[float] = []
        self.stopped = False

    def __call__(self, step: float, value: float) -> bool:
        """Whether a training is to stop after this value."""
        if not (np.isfinite(value) and self.ends):
            return False  # what diverged ends by itself
        self.course.append(float(lower_is_better(np.array([value]), self.metric)[0]))
        self.trial.report(self.course[-1], len(self.course))
        self.stopped = bool(self.trial.should_prune())
        return self.stopped
