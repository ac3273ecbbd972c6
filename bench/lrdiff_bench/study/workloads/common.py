"""Workloads whose trials are members of a population: rows and a network are all that is left to say."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.study.workload import Outcomes, Scheme, Trials
from lrdiff_core.errors import ConfigError

if TYPE_CHECKING:
    from lrdiff_core.population import Population, PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["CHEAP", "FEWEST", "Described", "PopulationWorkload", "check_trials", "outcomes"]

CHEAP = 200
"""Fresh seeds of a report where a trial takes milliseconds."""

FEWEST = 30
"""Fresh seeds of a report elsewhere: 29 are the fewest that the protocol allows."""

TIMED_TRIALS = 64  # side by side, as in a batch of a search
LARGE = 20_000  # parameters from which a fifth of the steps is enough to time


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the protocol wants to know of a workload; see :class:`lrdiff_bench.study.workload.Workload`."""

    name: str
    title: str
    question: str
    groups: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    metric: str
    base_rates: tuple[float, float]
    default_rate: float
    smallest_difference: float
    steps: int
    label: str = ""
    report_seeds: int = CHEAP


@dataclass(frozen=True, kw_only=True)
class PopulationWorkload(Described):
    """Trains through :func:`lrdiff_core.population.train_population`.

    Subclasses give the rows of a seed and the network; everything drawn must follow from the seed.

    Args:
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        batch_size: rows a step.
        evaluations: how often the metric is taken, evenly over the steps.
    """

    optimizer: str
    batch_size: int
    evaluations: int = 10
    _timed: dict[Any, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @abstractmethod
    def rows(self, seed: int, judged_on: str) -> PopulationData:
        """Rows to learn from, and as held-out rows those of ``judged_on`` and no others."""

    @abstractmethod
    def network(self, trials: Trials) -> ModelFactory:
        """What makes the network of a seed."""

    def columns(self) -> Mapping[str, int] | None:
        """Group of each parameter by name; None where each layer is a group."""
        return None

    def prepare(self, trials: Trials) -> None:
        """Make what several seeds share the work of, such as pretrained weights."""

    def train(self, trials: Trials) -> Outcomes:
        """Train all trials side by side."""
        check_trials(self, trials)
        self.prepare(trials)
        factory = self.network(trials)
        compiling = self._compile(factory, trials)
        population = self._population(factory, trials, evaluate=max(1, self.steps // self.evaluations))
        return outcomes(
            population, self.metric, seconds_a_step=self._seconds_a_step(factory, trials), seconds_to_compile=compiling
        )

    def _population(self, factory: ModelFactory, trials: Trials, **options: Any) -> Population:
        from lrdiff_core.population import train_population

        data = {seed: self.rows(seed, trials.judged_on) for seed in sorted({int(seed) for seed in trials.seeds})}
        settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "steps": self.steps,
            "optimizer": self.optimizer,
            "groups": self.columns(),
            "path": self.path(),
        }
        return train_population(
            factory, data, trials.rates, [int(seed) for seed in trials.seeds], **{**settings, **options}
        )

    def path(self) -> str:
        """Which path of the population; ``"auto"`` unless there is a reason."""
        return "auto"

    def _compile(self, factory: ModelFactory, trials: Trials) -> float:
        """Seconds that the first step of this network took beyond what a step takes; 0 where it is ready."""
        key = ("compiled", *self._shapes(factory, trials))
        if key in self._timed:
            return 0.0
        one = _still(trials, 1)
        first, again = (self._seconds(factory, one, steps=1) for _ in range(2))
        self._timed[key] = max(0.0, first - again)
        return self._timed[key]

    def _seconds_a_step(self, factory: ModelFactory, trials: Trials) -> float:
        """Measured once for a network: a trial's share of a batch that is not evaluated.

        With rates of 0, so that no trial diverges and is spared its steps.
        """
        shapes = self._shapes(factory, trials)
        key = ("step", *shapes)
        if key not in self._timed:
            large = sum(math.prod(shape) for shape in shapes) > LARGE
            steps = max(1, self.steps // 5) if large else self.steps
            seconds = self._seconds(factory, _still(trials, TIMED_TRIALS), steps=steps)
            self._timed[key] = seconds / (TIMED_TRIALS * steps)
        return self._timed[key]

    def _seconds(self, factory: ModelFactory, trials: Trials, *, steps: int) -> float:
        begin = time.perf_counter()
        self._population(factory, trials, steps=steps, evaluate="never")
        return time.perf_counter() - begin

    def _shapes(self, factory: ModelFactory, trials: Trials) -> tuple[tuple[int, ...], ...]:
        from lrdiff_core.population.members import build

        return tuple(tuple(p.shape) for p in build(factory, int(trials.seeds[0])).parameters())


def check_trials(workload: Described, trials: Trials) -> None:
    """Refuse trials that are not of this workload.

    Raises:
        ConfigError: another number of groups, seeds that do not fit, or a split that does not exist.
    """
    if trials.rates.ndim != 2 or trials.rates.shape[1] != len(workload.groups) or len(trials.rates) == 0:
        raise ConfigError(
            f"rates of {workload.name} have the shape {list(trials.rates.shape)}",
            help=f"give one column for each of {', '.join(workload.groups)}",
        )
    if trials.seeds.shape != trials.rates.shape[:1]:
        raise ConfigError(
            f"{len(trials.rates)} trials have {trials.seeds.size} seeds", help="give one whole number a trial"
        )
    if trials.judged_on not in ("validation", "test"):
        raise ConfigError(f"judged_on is {trials.judged_on!r}", help='write "validation" or "test"')


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
        seconds_a_step=seconds_a_step,
        seconds_to_compile=seconds_to_compile,
    )


def mask_diverged(
    metric: np.ndarray, train_loss: np.ndarray, *more: np.ndarray, evaluated_after: np.ndarray, **seconds: float
) -> Outcomes:
    """Put NaN from the first evaluation on at which a trial's metric, loss or one of ``more`` is not finite.

    Args:
        metric, train_loss, more: [trials, evaluations].
        evaluated_after: [evaluations].
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
        **seconds,
    )


def _still(trials: Trials, count: int) -> Trials:
    """``count`` trials of the first seed that do not move."""
    return Trials(
        rates=np.zeros((count, trials.rates.shape[1])),
        seeds=np.full(count, int(trials.seeds[0]), dtype=np.int64),
        scheme=trials.scheme,
        judged_on=trials.judged_on,
    )
