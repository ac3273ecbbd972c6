"""What training gave, as the protocol wants it: NaN from where a trial diverged, and seconds that compare."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.study.workloads.workload import Outcomes

if TYPE_CHECKING:
    from lrdiff_core.population import Population

__all__ = ["Courses", "mask_diverged", "outcomes", "time_step"]

TIMED_TRIALS = 64  # side by side, as in a batch of a search
LARGE = 20_000  # parameters from which a fifth of the steps is enough to time


def outcomes(population: Population, metric: str, *, seconds_a_step: float) -> Outcomes:
    """Hand on what a population found on its held-out rows.

    A trial counts as diverged from the first evaluation on at which one of its losses is not finite.
    """
    assert population.held_loss is not None
    assert population.held_score is not None
    found = population.held_loss if metric == "loss" else population.held_score
    held_loss = population.held_loss.double().numpy()
    return mask_diverged(
        found.double().numpy(),
        population.train_loss.double().numpy(),
        held_loss,
        evaluated_after=population.evaluated_after.numpy(),
        score=population.held_score[:, -1].double().numpy(),
        seconds_a_step=seconds_a_step,
    )


@dataclass(frozen=True, kw_only=True)
class Courses:
    """Trainings by evaluation, NaN from where one was not finite or had ended.

    Attributes: (all [trials, evaluations] but the last)
        chosen: loss on the validation rows.
        held, score: loss and score on the rows to be judged on.
        train: loss on the training rows.
        evaluated_after: [evaluations] steps.
    """

    chosen: np.ndarray
    held: np.ndarray
    score: np.ndarray
    train: np.ndarray
    evaluated_after: np.ndarray

    @classmethod
    def of(cls, trained: Population) -> Courses:
        """From a population with the validation rows held out, and as second ones those to be judged on, if others."""
        found = {"chosen": trained.held_loss, "held": trained.second_loss, "score": trained.second_score}
        if trained.second_loss is None:
            found |= {"held": trained.held_loss, "score": trained.held_score}
        found["train"] = trained.train_loss
        return cls(
            evaluated_after=trained.evaluated_after.numpy(),
            **{name: one.double().numpy() for name, one in found.items() if one is not None},
        )

    def kept(self, patience: int) -> Outcomes:
        """What the weights have that :func:`lrdiff_core.train` would have kept after each evaluation.

        Args:
            patience: evaluations without a better validation loss that end a training; 0: none do, and the last is
                kept.
        """
        trials, count = self.chosen.shape
        if not patience:
            every = (self.held, self.train, self.chosen)
            score = self.score[:, -1]
            return mask_diverged(*every, evaluated_after=self.evaluated_after, score=score, seconds_a_step=math.nan)
        at = np.full((trials, count), -1)
        best, epoch, going = np.full(trials, np.inf), np.full(trials, -1), np.ones(trials, dtype=bool)
        for one in range(count):
            better = going & (self.chosen[:, one] < best)  # what is not a number never is
            best, epoch = np.where(better, self.chosen[:, one], best), np.where(better, one, epoch)
            at[:, one] = epoch
            going &= one - epoch < patience
        none, rows = at < 0, np.arange(trials)[:, None]
        metric, train, score = (
            np.where(none, np.nan, values[rows, at]) for values in (self.held, self.train, self.score)
        )
        return Outcomes(
            metric=metric,
            train_loss=train,
            evaluated_after=np.asarray(self.evaluated_after, dtype=np.int64),
            score=score[:, -1],
            seconds_a_step=math.nan,
        )


def mask_diverged(
    metric: np.ndarray,
    train_loss: np.ndarray,
    *more: np.ndarray,
    evaluated_after: np.ndarray,
    score: np.ndarray | None = None,
    seconds_a_step: float,
) -> Outcomes:
    """Put NaN from the first evaluation on at which a trial's metric, loss or one of ``more`` is not finite.

    Args:
        metric, train_loss, more: [trials, evaluations].
        evaluated_after: [evaluations].
        score: [trials] at the end.
        seconds_a_step: of one trial.
    """
    fine = np.ones(metric.shape, dtype=bool)
    for values in (metric, train_loss, *more):
        fine &= np.isfinite(values)
    diverged = np.logical_or.accumulate(~fine, axis=1)
    return Outcomes(
        metric=np.where(diverged, np.nan, metric),
        train_loss=np.where(diverged, np.nan, train_loss),
        evaluated_after=np.asarray(evaluated_after, dtype=np.int64),
        score=np.full(len(metric), np.nan) if score is None else np.where(diverged[:, -1], np.nan, score),
        seconds_a_step=seconds_a_step,
    )


def time_step(train: Callable[[int, int], Any], *, parameters: int, steps: int) -> float:
    """Seconds of a step: a trial's share of a batch.

    Args:
        train: called with a number of trials and of steps; trains them with rates of 0 (so that no trial diverges and
            is spared its steps) and evaluates nothing. It has trained before: what is built for a network once, and
            kept, is not on the clock.
        parameters: of the network.
        steps: of a trial.
    """
    steps = max(1, steps // 5) if parameters > LARGE else steps
    begin = time.perf_counter()
    train(TIMED_TRIALS, steps)
    return (time.perf_counter() - begin) / (TIMED_TRIALS * steps)
