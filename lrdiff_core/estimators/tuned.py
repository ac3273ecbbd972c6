"""Rates chosen by the rows that were given: one rate for all layers, and the default ratios, tried at equal budget."""

from __future__ import annotations

import math

import numpy as np

from lrdiff_core.config import RunConfig
from lrdiff_core.data import Table
from lrdiff_core.errors import EstimatorError
from lrdiff_core.optimizers import STACKED
from lrdiff_core.population import PopulationOptions, population_task, train_population
from lrdiff_core.setup import default_rates

__all__ = ["tuned_rates"]

ALONE = 0.02  # share of the loss that counts as no difference, where one training of each must do
WINDOW = 5  # epochs that a curve is smoothed over
SEEDS = 4  # trainings of each candidate, each on a split of its own
OPERATIONS = 2e11  # above this one training of each must do: a few seconds of two cores in the kernel of populations


def tuned_rates(table: Table, config: RunConfig) -> dict[str, float]:
    """The rate of each layer that did best on rows it was not trained on.

    Every rate of ``config.compare.sweep`` is tried for all layers alike, and with the default ratios (the last layer at
    a tenth), as one population. What counts is the lowest validation loss on the way, as early stopping keeps it, of a
    curve that is smoothed first: high rates have noisy curves, and the lowest of many noisy values is luck. Of the
    candidates that are within one standard error of the best, the one nearest to the default rates is taken.

    Args:
        table: features and target; each seed splits it anew.
        config: the other settings.

    Raises:
        EstimatorError: populations do not train this.
    """
    for name, odd in ((config.optimizer, config.optimizer not in STACKED), ("dropout", config.dropout > 0)):
        if odd:
            raise EstimatorError(
                f'rates="tuned" trains a population, which has no {name}', help=f"give rates, or leave {name} out"
            )
    task = population_task(config, table=table)
    ratios = default_rates(task.layers)
    top = max(ratios.values())
    families = (dict.fromkeys(task.layers, 1.0), {name: rate / top for name, rate in ratios.items()})
    distinct = list({tuple(one.values()): one for one in families}.values())  # a network of one layer has one family
    tried = [
        {name: float(f"{rate * one[name]:.6g}") for name in task.layers}
        for one in distinct
        for rate in config.compare.sweep
    ]
    parameters = sum(weights.numel() for weights in task.model(config.seed).parameters())
    a_training = 6.0 * parameters * len(table.target) * task.epochs
    seeds = [config.seed + place for place in range(SEEDS if len(tried) * SEEDS * a_training <= OPERATIONS else 1)]
    members = [(seed, rates) for seed in seeds for rates in tried]
    found = train_population(
        task.model,
        {seed: task.rows(seed) for seed in seeds},
        [list(rates.values()) for _, rates in members],
        [seed for seed, _ in members],
        PopulationOptions(epochs=task.epochs, **task.options),
    )
    assert found.held_loss is not None
    curves = found.held_loss.double().nan_to_num(nan=math.inf).numpy()
    lowest = _smooth(curves).min(axis=1).reshape(len(seeds), len(tried))
    return tried[_choose(lowest, [_distance(rates, ratios) for rates in tried])]


def _smooth(curves: np.ndarray) -> np.ndarray:
    """Means of neighbouring epochs [members, epochs - window + 1]; one that is infinite spoils its neighbours."""
    window = min(WINDOW, curves.shape[1])
    return np.lib.stride_tricks.sliding_window_view(curves, window, axis=1).mean(axis=2)  # type: ignore[no-any-return]


def _distance(rates: dict[str, float], default: dict[str, float]) -> float:
    """How far rates are from others, in decades."""
    return sum(abs(math.log10(rates[name] / default[name])) for name in default)


def _choose(losses: np.ndarray, distances: list[float]) -> int:
    """The nearest candidate that is within one standard error of the best.

    Args:
        losses: [seeds, candidates], infinite where training diverged.
        distances: of each candidate.

    Example:
        >>> _choose(np.array([[0.30, 0.31], [0.32, 0.30], [0.30, 0.31]]), [2.0, 0.0])
        1
        >>> _choose(np.array([[0.30, 0.51], [0.32, 0.50], [0.30, 0.51]]), [2.0, 0.0])
        0
    """
    means = losses.mean(axis=0)
    best = int(means.argmin())
    near = [best]
    for place in np.flatnonzero(np.isfinite(means)):
        gaps = losses[:, place] - losses[:, best]
        error = gaps.std(ddof=1) / math.sqrt(len(gaps)) if len(gaps) > 1 else ALONE * abs(means[best])
        if gaps.mean() <= error:
            near.append(int(place))
    return min(near, key=lambda place: (distances[place], means[place]))
