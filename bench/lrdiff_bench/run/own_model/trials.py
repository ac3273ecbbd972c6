"""Trainings of a model of one's own for a comparison: side by side in a population, or one after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor
from typing_extensions import override

from lrdiff_bench.run.own_model.setup import Development, OwnSetup, set_up_own
from lrdiff_bench.run.own_model.training import evaluate_own, fit_own
from lrdiff_bench.study.workloads.outcomes import Courses
from lrdiff_bench.study.workloads.workload import Outcomes, Trials, UntunedSetting, Workload
from lrdiff_bench.system.batches import Batch, stacked
from lrdiff_core.config import RunConfig

__all__ = ["MOST_MEMBERS_ROWS", "OwnWorkload", "bare"]

MOST_MEMBERS_ROWS = 20_000  # rows that a population is given


@dataclass(frozen=True, kw_only=True)
class OwnWorkload(Workload):
    """Trainings of one's own model; a step of it is an epoch.

    Args:
        config: of the run, resolved.
        development: rows that are split anew for every seed.
        columns: group of every parameter by name.
        listed_rates: base rates that every search tries.
        untuned_settings: reported beside.
        patience: epochs without a better validation loss that end a training; 0: none do.
        together: whether populations train it.
        counted: trainings so far, in its one place.
    """

    config: RunConfig
    development: Development
    columns: Mapping[str, int]
    listed_rates: tuple[float, ...]
    untuned_settings: tuple[UntunedSetting, ...]
    patience: int
    together: bool = False
    counted: list[int] = field(default_factory=lambda: [0], compare=False)

    @property
    @override
    def base_points(self) -> tuple[float, ...]:
        return self.listed_rates

    @property
    @override
    def untuned(self) -> tuple[UntunedSetting, ...]:
        return self.untuned_settings

    def train(self, trials: Trials) -> Outcomes:
        """Train all of them; the epoch of each is chosen on validation rows."""
        self.counted[0] += len(trials.seeds)
        if self.together:
            return self._side_by_side(trials)
        judged = "test" if self.patience else trials.judged_on  # the epoch is chosen on the validation rows
        found = np.full((4, len(trials.seeds), self.steps), np.nan)
        for course, rates, seed in zip(found.transpose(1, 0, 2), trials.rates, trials.seeds, strict=True):
            setup = set_up_own(bare(self.config), seed=int(seed), rows=self.development)
            wanted = {name: float(rates[column]) for name, column in self.columns.items()}

            def note(epoch: int, news: Any, setup: OwnSetup = setup, course: Any = course) -> None:
                held = news[1] if judged == "validation" else evaluate_own(setup, judged)
                course[:, epoch - 1] = news[1].loss, held.loss, held.score, news[0].loss

            fit_own(setup, rates=wanted, epochs=self.steps, patience=self.patience, on_epoch=note)
        return self._kept(Courses(
            chosen=found[0], held=found[1], score=found[2], train=found[3], evaluated_after=np.arange(1, self.steps + 1)
        ))  # fmt: skip

    def _kept(self, courses: Courses) -> Outcomes:
        return courses.kept(self.patience)

    def tiny(self) -> OwnWorkload:
        """One epoch."""
        return replace(self, steps=1)

    def _side_by_side(self, trials: Trials) -> Outcomes:
        from lrdiff_core.population import PopulationOptions, train_population

        setups = {int(seed): self.setup_of(int(seed)) for seed in dict.fromkeys(trials.seeds)}
        first = next(iter(setups.values()))
        steps = first.steps_an_epoch
        assert steps is not None  # streams are trained alone
        options = PopulationOptions(
            batch_size=first.batch_size,
            steps=self.steps * steps,
            evaluate=steps,
            optimizer=self.config.optimizer,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            device=self.config.device,
        )

        judged = "test" if self.patience else trials.judged_on  # the epoch is chosen on the validation rows
        trained = train_population(
            lambda seed: copy.deepcopy(setups[seed].module),
            {seed: self.population_data(one, judged) for seed, one in setups.items()},
            trials.rates,
            [int(seed) for seed in trials.seeds],
            options,
            groups=dict(self.columns),
        )
        return self._kept(Courses.of(trained))

    @cached_property
    def _setups(self) -> dict[int, OwnSetup]:
        return {}

    def setup_of(self, seed: int) -> OwnSetup:
        """Of a seed; made once."""
        if seed not in self._setups:
            self._setups[seed] = set_up_own(bare(self.config), seed=seed, rows=self.development)
        return self._setups[seed]

    def population_data(self, setup: OwnSetup, judged_on: str) -> Any:
        """Rows of one seed in the form that a population takes."""
        from lrdiff_core.population import PopulationData

        train, held = (_whole(setup, name) for name in ("train", "validation"))
        second = None if judged_on == "validation" else _whole(setup, judged_on)
        task: Any = setup.task.kind if setup.task.kind != "own" else "regression"
        return PopulationData(
            inputs=train.tensors()[0],
            targets=train.targets,
            held_inputs=held.tensors()[0],
            held_targets=held.targets,
            second_inputs=None if second is None else second.tensors()[0],
            second_targets=None if second is None else second.targets,
            task=task,
            loss=setup.user.options.get("loss") if setup.task.kind == "own" else None,
        )


def _whole(setup: OwnSetup, name: str) -> Batch:
    part = setup.parts[name]
    whole = stacked(part, MOST_MEMBERS_ROWS if part.rows is None else part.rows)
    if not isinstance(whole.targets, Tensor) or whole.rows != part.rows:
        raise RuntimeError("rows that cannot be stacked")
    return whole


def bare(config: RunConfig) -> RunConfig:
    """The settings without what was filled in for this run's rows."""
    fields = {key: getattr(config, key) for key in config.model_fields_set}
    if not fields.get("data"):
        fields.pop("data", None)
    return RunConfig.model_construct(_fields_set=set(fields), **fields)
