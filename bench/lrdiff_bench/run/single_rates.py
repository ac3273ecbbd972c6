"""The run's rates against single rates: same model, data order and seeds; the tuned ones at the same budget.

Later studies deepen this (more trials, more workloads); the rules that keep it fair hold here already:

- tuning seeds and validation loss choose a rate, fresh seeds and test loss report;
- the tuned single rate and the tuned differential rates (the run's own ratios, one free base rate) try the same
  base rates on the same seeds;
- a run that diverges counts as an infinite loss and stays in the median.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE
from lrdiff_bench.stats.intervals import PairedDifference, median_interval, paired_difference
from lrdiff_core.config import RunConfig
from lrdiff_core.data import Table, load_table
from lrdiff_core.loop import Trained, set_up, train

__all__ = ["Comparison", "Scheme", "compare_single_rates", "verdict"]

FIRST_REPORTING_SEED = 1_000  # apart from the run's own seed and from the tuning seeds
FIRST_TUNING_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way to assign rates, and what it gave on every reporting seed."""

    name: str
    rates: dict[str, float]
    trials: int  # settings tried to arrive at these rates; 1 where nothing was tuned
    at_edge: bool  # the best rate was the lowest or highest of the sweep
    validation_loss: np.ndarray  # [seeds, epochs]
    train_loss: np.ndarray  # [seeds, epochs]
    train_score: np.ndarray  # [seeds, epochs]
    test_loss: np.ndarray  # [seeds], after the last epoch; inf where it diverged
    test_score: np.ndarray  # [seeds]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All schemes, and the paired differences in test loss behind the verdict; negative where the run's rates win."""

    schemes: tuple[Scheme, ...]
    seeds: tuple[int, ...]
    configured: PairedDifference  # the run's rates minus the tuned single rate
    tuned: PairedDifference  # the run's ratios with a tuned base rate minus the tuned single rate
    sweep: tuple[float, ...]
    tuning_loss: dict[str, list[float]]  # scheme -> median validation loss at each rate of the sweep

    def scheme(self, name: str) -> Scheme:
        """Return the scheme called ``name``."""
        return next(s for s in self.schemes if s.name == name)


def verdict(difference: PairedDifference, *, smallest: float = SMALLEST_DIFFERENCE) -> str:
    """Name what an interval of a paired difference (differential minus single) supports.

    ``"differential rates win"`` / ``"single rate wins"``: the whole interval lies beyond the smallest difference
    that matters; ``"no difference"``: wholly inside it; ``"inconclusive"``: anything else.

    Example:
        >>> verdict(PairedDifference(median=-0.05, low=-0.07, high=-0.03, probability_of_improvement=1.0))
        'differential rates win'
        >>> verdict(PairedDifference(median=0.0, low=-0.02, high=0.001, probability_of_improvement=0.5))
        'inconclusive'
    """
    if difference.high < -smallest:
        return "differential rates win"
    if difference.low > smallest:
        return "single rate wins"
    if -smallest <= difference.low and difference.high <= smallest:
        return "no difference"
    return "inconclusive"


def compare_single_rates(
    table: Table,
    config: RunConfig,
    rates: Mapping[str, float],
    *,
    on_trial: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Train every scheme on the same fresh seeds and compare them in pairs.

    Args:
        table: the run's rows; the generator's rows are drawn anew for every seed.
        config: the run's settings; ``config.compare`` gives the seeds and the sweep.
        rates: the run's rate of each layer.
        on_trial: called after each training with how many are done and how many there are.

    Example:
        >>> from lrdiff_core import load_table, make_config
        >>> config = make_config({"epochs": 1, "compare": {"seeds": 10, "tuning_seeds": 1, "sweep": [0.001, 0.01]}})
        >>> result = compare_single_rates(load_table("seed"), config, {"layer1": 0.01, "layer2": 0.001})
        >>> [scheme.name for scheme in result.schemes]
        ['as configured', 'single 0.001', 'single 0.01', 'tuned single', 'tuned ratios']
    """
    layers, top = list(rates), max(rates.values())
    sweep = tuple(sorted(set(config.compare.sweep)))
    seeds = [config.seed + FIRST_REPORTING_SEED + i for i in range(config.compare.seeds)]
    tuning_seeds = [config.seed + FIRST_TUNING_SEED + i for i in range(config.compare.tuning_seeds)]
    families: dict[str, Callable[[float], dict[str, float]]] = {
        "tuned single": lambda base: dict.fromkeys(layers, base),
        "tuned ratios": lambda base: {name: base * rate / top for name, rate in rates.items()},
    }
    singles = sorted({min(rates.values()), top})
    total = len(families) * len(sweep) * len(tuning_seeds) + (1 + len(singles) + len(families)) * len(seeds)
    trials = _Trials(table, config, on_trial=lambda done: None if on_trial is None else on_trial(done, total))
    schemes = [trials.report("as configured", dict(rates), seeds)]
    schemes += [trials.report(f"single {rate:g}", dict.fromkeys(layers, rate), seeds) for rate in singles]
    tuning_loss: dict[str, list[float]] = {}
    for name, assign in families.items():
        losses = [trials.tuning_loss(assign(base), tuning_seeds) for base in sweep]
        tuning_loss[name] = losses
        best = int(np.argmin(losses))
        schemes.append(
            trials.report(name, assign(sweep[best]), seeds, trials=len(sweep), at_edge=best in (0, len(sweep) - 1))
        )
    configured, single, ratios = schemes[0], schemes[-2], schemes[-1]
    return Comparison(
        schemes=tuple(schemes),
        seeds=tuple(seeds),
        configured=paired_difference(configured.test_loss, single.test_loss),
        tuned=paired_difference(ratios.test_loss, single.test_loss),
        sweep=sweep,
        tuning_loss=tuning_loss,
    )


class _Trials:
    """Trains rates on seeds; schemes that arrive at the same rates share runs."""

    def __init__(self, table: Table, config: RunConfig, *, on_trial: Callable[[int], None]) -> None:
        self._table, self._config, self._on_trial = table, config, on_trial
        self._done = 0
        self._tables: dict[int, Table] = {}
        self._results: dict[tuple[tuple[float, ...], int], np.ndarray] = {}

    def report(
        self, name: str, assigned: dict[str, float], seeds: Sequence[int], *, trials: int = 1, at_edge: bool = False
    ) -> Scheme:
        """Train rates on every reporting seed."""
        stacked = np.stack([self._trial(assigned, seed) for seed in seeds])  # [seeds, 3, epochs + 1]
        return Scheme(
            name=name,
            rates=assigned,
            trials=trials,
            at_edge=at_edge,
            train_loss=stacked[:, 0, :-1],
            validation_loss=stacked[:, 1, :-1],
            train_score=stacked[:, 2, :-1],
            test_loss=stacked[:, 0, -1],
            test_score=stacked[:, 2, -1],
        )

    def tuning_loss(self, assigned: dict[str, float], seeds: Sequence[int]) -> float:
        """Median validation loss after the last epoch."""
        return float(np.median([self._trial(assigned, seed)[1, -2] for seed in seeds]))

    def _trial(self, assigned: dict[str, float], seed: int) -> np.ndarray:  # [3, epochs + 1]
        self._done += 1
        self._on_trial(self._done)
        key = (tuple(assigned.values()), seed)
        if key not in self._results:
            setup = set_up(self._rows(seed), self._config, rates=assigned, seed=seed)
            self._results[key] = _outcome(train(setup, self._config))
        return self._results[key]

    def _rows(self, seed: int) -> Table:
        if self._table.source != "generator":
            return self._table
        if seed not in self._tables:
            self._tables[seed] = load_table(self._config.data, seed=seed)
        return self._tables[seed]


def _outcome(trained: Trained) -> np.ndarray:
    """Loss of training and test, validation loss, score: [3, epochs + 1], the last column after the last epoch."""
    by_split = {part: [row for row in trained.observations if row.split == part] for part in _PARTS}
    test = by_split["test"][0]
    return np.array([
        [*(_finite_or_inf(row.loss) for row in by_split["train"]), _finite_or_inf(test.loss)],
        [*(_finite_or_inf(row.loss) for row in by_split["validation"]), math.nan],
        [*(row.score for row in by_split["train"]), test.score],
    ])  # fmt: skip


_PARTS = ("train", "validation", "test")


def _finite_or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def bands(losses: np.ndarray) -> list[tuple[float, float, float]]:
    """Return median and 95 % interval of the median for every column of ``losses`` [seeds, epochs]."""
    return [median_interval(column)[:3] for column in losses.T]


def describe_rates(rates: Mapping[str, float]) -> str:
    """Write rates shortly: one number where all are equal, else all of them.

    Example:
        >>> describe_rates({"layer1": 0.01, "layer2": 0.001})
        '0.01 / 0.001'
    """
    distinct: Sequence[float] = list(dict.fromkeys(rates.values()))
    return f"{distinct[0]:g}" if len(distinct) == 1 else " / ".join(f"{rate:g}" for rate in rates.values())
