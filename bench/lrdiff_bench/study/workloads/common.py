"""Workloads whose trials are members of a population: rows and a network are all that is left to say."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.outcomes import outcomes, time_compiling, time_step
from lrdiff_bench.study.workloads.workload import Outcomes, Trials, UntunedSetting, Workload
from lrdiff_core.errors import ConfigError

if TYPE_CHECKING:
    from lrdiff_core.population import Population, PopulationData, PopulationTask
    from lrdiff_core.population.members import ModelFactory

__all__ = ["PopulationWorkload", "RunWorkload", "check_trials"]


@dataclass(frozen=True, kw_only=True)
class PopulationWorkload(Workload):
    """Trains through :func:`lrdiff_core.population.train_population`.

    Subclasses give the rows of a seed and the network; everything drawn must follow from the seed.

    Args:
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        batch_size: rows a step.
        evaluations: how often the metric is taken, evenly over the steps.
        timed: measure the seconds of a step and of compiling; without, they are NaN.
    """

    optimizer: str
    batch_size: int
    evaluations: int = 10
    timed: bool = True
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
        compiling = self._compile(factory, trials) if self.timed else math.nan
        population = self.population_of(factory, trials, evaluate=max(1, self.steps // self.evaluations))
        seconds = self._seconds_a_step(factory, trials) if self.timed else math.nan
        return outcomes(population, self.metric, seconds_a_step=seconds, seconds_to_compile=compiling)

    def population_of(self, factory: ModelFactory, trials: Trials, **options: Any) -> Population:
        """The population that trains these trials."""
        from lrdiff_core.population import PopulationOptions, train_population

        data = {seed: self.rows(seed, trials.judged_on) for seed in sorted({int(seed) for seed in trials.seeds})}
        settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "steps": self.steps,
            "optimizer": self.optimizer,
            "path": self.path(),
            **self.options(),
        }
        return train_population(
            factory,
            data,
            trials.rates,
            [int(seed) for seed in trials.seeds],
            PopulationOptions(**{**settings, **options}),
            groups=self.columns(),
        )

    def options(self) -> dict[str, Any]:
        """Further options of the population."""
        return {}

    def path(self) -> str:
        """Which path of the population; ``"auto"`` unless there is a reason."""
        return "auto"

    def _compile(self, factory: ModelFactory, trials: Trials) -> float:
        """Seconds of compiling this network; measured before its first batch, the same for every later one."""
        key = ("compiled", *self._shapes(factory, trials))
        if key not in self._timed:
            self._timed[key] = time_compiling(self._stander(factory, trials))
        return self._timed[key]

    def _seconds_a_step(self, factory: ModelFactory, trials: Trials) -> float:
        """Measured once for a network."""
        shapes = self._shapes(factory, trials)
        if ("step", *shapes) not in self._timed:
            self._timed["step", *shapes] = time_step(
                self._stander(factory, trials), parameters=sum(map(math.prod, shapes)), steps=self.steps
            )
        return self._timed["step", *shapes]

    def _stander(self, factory: ModelFactory, trials: Trials) -> Callable[[int, int], Any]:
        """What trains so many trials for so many steps without moving them."""
        return lambda count, steps: self.population_of(factory, _still(trials, count), steps=steps, evaluate="never")

    def _shapes(self, factory: ModelFactory, trials: Trials) -> tuple[tuple[int, ...], ...]:
        from lrdiff_core.population.members import build

        return tuple(tuple(p.shape) for p in build(factory, int(trials.seeds[0])).parameters())


@dataclass(frozen=True, kw_only=True)
class RunWorkload(PopulationWorkload):
    """The training of a run's settings; each layer is a group.

    Args:
        settings: as in a run's TOML file, or what was made of them already.
        listed_rates: base rates that every search tries; empty: each search draws points of its own.
        untuned_settings: reported beside the schemes; empty: the untuned default.
    """

    settings: Mapping[str, Any] | PopulationTask
    listed_rates: tuple[float, ...] = ()
    untuned_settings: tuple[UntunedSetting, ...] = ()

    @cached_property
    def task(self) -> PopulationTask:
        """Models, rows and options for every seed; made when something is trained."""
        if not isinstance(self.settings, Mapping):
            return self.settings
        from lrdiff_core.config import make_config
        from lrdiff_core.population import population_task

        return population_task(make_config(self.settings))

    @property
    @override
    def base_points(self) -> tuple[float, ...]:
        return self.listed_rates

    @property
    @override
    def untuned(self) -> tuple[UntunedSetting, ...]:
        return self.untuned_settings or super().untuned

    @override
    def rows(self, seed: int, judged_on: str) -> PopulationData:
        return self.task.rows(seed, judged_on)

    @override
    def network(self, trials: Trials) -> ModelFactory:
        return self.task.model

    @override
    def options(self) -> dict[str, Any]:
        return self.task.options

    @override
    def tiny(self) -> RunWorkload:
        return replace(self, steps=self.task.steps_an_epoch, evaluations=2)


def check_trials(workload: Workload, trials: Trials) -> None:
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
            f"{len(trials.rates)} trials have {trials.seeds.size} seeds", help="give one whole number per trial"
        )
    if trials.judged_on not in ("validation", "test"):
        raise ConfigError(f"judged_on is {trials.judged_on!r}", help='write "validation" or "test"')


def _still(trials: Trials, count: int) -> Trials:
    """``count`` trials of the first seed that do not move."""
    return Trials(
        rates=np.zeros((count, trials.rates.shape[1])),
        seeds=np.full(count, int(trials.seeds[0]), dtype=np.int64),
        scheme=trials.scheme,
        judged_on=trials.judged_on,
    )
