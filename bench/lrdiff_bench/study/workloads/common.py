"""Workloads whose trials are members of a population: rows and a network are all that is left to say."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.outcomes import Courses, outcomes, time_step
from lrdiff_bench.study.workloads.workload import Outcomes, Trials, UntunedSetting, Workload
from lrdiff_core.errors import ConfigError
from lrdiff_core.optimizers import STACKED

if TYPE_CHECKING:
    from lrdiff_core.config import RunConfig
    from lrdiff_core.population import Population, PopulationData, PopulationTask
    from lrdiff_core.population.members import ModelFactory

__all__ = ["PopulationWorkload", "RunWorkload", "check_trials", "trained_one_by_one"]


@dataclass(frozen=True, kw_only=True)
class PopulationWorkload(Workload):
    """Trains through :func:`lrdiff_core.population.train_population`.

    Subclasses give the rows of a seed and the network; everything drawn must follow from the seed.

    Args:
        optimizer: a name in :data:`lrdiff_core.optimizers.STACKED`.
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
        population = self.population_of(factory, trials, evaluate=max(1, self.steps // self.evaluations))
        seconds = self._seconds_a_step(factory, trials) if self.timed else math.nan
        return outcomes(population, self.metric, seconds_a_step=seconds)

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

    def _seconds_a_step(self, factory: ModelFactory, trials: Trials) -> float:
        """Measured once for a network."""
        shapes = self._shapes(factory, trials)
        if shapes not in self._timed:
            self._timed[shapes] = time_step(
                self._stander(factory, trials), parameters=sum(map(math.prod, shapes)), steps=self.steps
            )
        return self._timed[shapes]

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
        patience: evaluations without a better validation loss that end a training; what is reported of it is then
            that of the weights which are kept, as :func:`lrdiff_core.train` keeps them. 0: those of the last epoch.
            The lowest of many losses on the rows that chose the epoch flatters rates at which the loss jumps about, so
            trials are then judged on the split's third part, whoever asks: seeds that choose never report.
    """

    settings: Mapping[str, Any] | PopulationTask
    listed_rates: tuple[float, ...] = ()
    untuned_settings: tuple[UntunedSetting, ...] = ()
    patience: int = 0

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
        return self.task.rows_of_both(seed) if self.patience else self.task.rows(seed, judged_on)

    @override
    def network(self, trials: Trials) -> ModelFactory:
        return self.task.model

    @override
    def options(self) -> dict[str, Any]:
        return self.task.options

    @override
    def train(self, trials: Trials) -> Outcomes:
        if not self.patience and not trained_one_by_one(self.task.config):
            return super().train(trials)
        check_trials(self, trials)
        if self.patience:
            trials = replace(trials, judged_on="test")
        train = self._one_by_one if trained_one_by_one(self.task.config) else self._together
        return train(trials).kept(self.patience)

    def _together(self, trials: Trials) -> Courses:
        return Courses.of(self.population_of(self.task.model, trials, evaluate="epoch"))

    def _one_by_one(self, trials: Trials) -> Courses:
        """Every trial by the loop of a run: for what a population cannot train."""
        import torch

        from lrdiff_core.devices import repeatable
        from lrdiff_core.loop import evaluate, fit
        from lrdiff_core.schedules import Schedule
        from lrdiff_core.setup import make_optimizer, plan_rates

        task, config = self.task, self.task.config
        shape, epochs = config.shape(), -(-self.steps // self.task.steps_an_epoch)
        found = np.full((4, len(trials.seeds), epochs), np.nan)
        for number, (rates, seed) in enumerate(zip(trials.rates, map(int, trials.seeds), strict=True)):
            net, rows = copy.deepcopy(task.model(seed)), task.prepared(seed)
            net.dropout = config.dropout
            given = [max(float(rate), 1e-30) for rate in rates]  # the untrained model has rates of 0
            plan = plan_rates(net, dict(zip(task.layers, given, strict=True)), config)
            optimizer = make_optimizer(config.optimizer, plan.groups(), momentum=config.momentum)
            schedule = None if shape is None else Schedule(optimizer, total_steps=self.steps, shape=shape)
            course = found[:, number]

            def note(epoch: int, news: Any, net: Any = net, rows: Any = rows, course: Any = course) -> None:
                judged = evaluate(net, rows, trials.judged_on)
                course[:, epoch - 1] = news[1].loss, judged.loss, judged.score, news[0].loss

            with repeatable(torch.device("cpu"), threads=1):
                fit(
                    net, rows, optimizer, epochs=epochs, batch_size=task.batch_size, seed=seed,
                    patience=self.patience, schedule=schedule, on_epoch=note,
                )  # fmt: skip
        chosen, held, score, train = found
        after = np.arange(1, epochs + 1) * task.steps_an_epoch
        return Courses(chosen=chosen, held=held, score=score, train=train, evaluated_after=after)

    @override
    def tiny(self) -> RunWorkload:
        return replace(self, steps=self.task.steps_an_epoch, evaluations=2)


def trained_one_by_one(config: RunConfig) -> str:
    """Say why a population cannot train these settings; empty where it can.

    Example:
        >>> from lrdiff_core import make_config
        >>> trained_one_by_one(make_config({"dropout": 0.1})), trained_one_by_one(make_config({}))
        ('dropout', '')
    """
    return "dropout" if config.dropout else "" if config.optimizer in STACKED else config.optimizer


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
