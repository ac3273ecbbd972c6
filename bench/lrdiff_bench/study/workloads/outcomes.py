"""What training gave, as the protocol wants it: NaN from where a trial diverged, and seconds that compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.study.workloads.workload import Outcomes

if TYPE_CHECKING:
    from lrdiff_core.population import Population

__all__ = ["mask_diverged", "outcomes", "time_compiling", "time_step"]

TIMED_TRIALS = 64  # side by side, as in a batch of a search
LARGE = 20_000  # parameters from which a fifth of the steps is enough to time


def outcomes(
    population: Population, metric: str, *, seconds_a_step: float, seconds_to_compile: float = 0.0
) -> Outcomes:
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
        seconds_to_compile=seconds_to_compile,
    )


def mask_diverged(
    metric: np.ndarray,
    train_loss: np.ndarray,
    *more: np.ndarray,
    evaluated_after: np.ndarray,
    score: np.ndarray | None = None,
    **seconds: float,
) -> Outcomes:
    """Put NaN from the first evaluation on at which a trial's metric, loss or one of ``more`` is not finite.

    Args:
        metric, train_loss, more: [trials, evaluations].
        evaluated_after: [evaluations].
        score: [trials] at the end.
        seconds: the clock's fields of :class:`Outcomes`.
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
        **seconds,
    )


def time_step(train: Callable[[int, int], Any], *, parameters: int, steps: int) -> float:
    """Seconds of a step: a trial's share of a batch.

    Args:
        train: called with a number of trials and of steps; trains them with rates of 0 (so that no trial diverges and
            is spared its steps) and evaluates nothing.
        parameters: of the network.
        steps: of a trial.
    """
    steps = max(1, steps // 5) if parameters > LARGE else steps
    return _seconds(train, TIMED_TRIALS, steps) / (TIMED_TRIALS * steps)


def time_compiling(train: Callable[[int, int], Any]) -> float:
    """Seconds that the first step took beyond what a step takes; about 0 where it is compiled already."""
    first, again = (_seconds(train, 1, 1) for _ in range(2))
    return max(0.0, first - again)


def _seconds(train: Callable[[int, int], Any], trials: int, steps: int) -> float:
    begin = time.perf_counter()
    train(trials, steps)
    return time.perf_counter() - begin
