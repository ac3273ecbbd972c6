"""The user's own workload: rows from a file, a model from a factory (or the project's own network), rates by group.

Models that a population can train are trained side by side; others one after the other, on the device.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lrdiff_bench.study.workloads.outcomes import mask_diverged, outcomes, time_step
from lrdiff_bench.study.workloads.workload import AT_ONCE, FEWEST, Outcomes, Trials, Workload
from lrdiff_core.errors import DataError, InputError, LrdiffError

if TYPE_CHECKING:
    from torch import nn

    from lrdiff_bench.study.one_model import TrainingCourse
    from lrdiff_core.population import PopulationData, PopulationTask

__all__ = ["UserModelWorkload"]

SMALL = 200_000  # parameters up to which a population pays; larger models fill the machine alone
_PROBE = 2  # members and steps that show whether torch.func takes the model

Factory = Callable[[int], "nn.Module"]


@dataclass(frozen=True, kw_only=True)
class UserModelWorkload(Workload):
    """A workload over a table.

    Attributes:
        data, target, task: of the table, as for ``lrdiff run``.
        model: ``MODULE:FACTORY``; None for the project's own network with ``hidden``.
        hidden: hidden sizes of that.
        patterns: which parameters each group has: names, globs or ``/expressions/``; empty: each layer is a group.
        optimizer, momentum, weight_decay, batch_size: of the training.
        evaluations: how often the metric is taken.
        device: as for ``lrdiff run``.
        together: whether populations train it; left out, where they can.
        timed: measure the seconds of a step side by side; without, they are NaN.
    """

    report_seeds: int = FEWEST
    data: str
    target: str | None = None
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    model: str | None = None
    hidden: tuple[int, ...] | None = None
    patterns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    optimizer: str = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 32
    evaluations: int = 10
    device: str = "auto"
    together: bool | None = None
    timed: bool = True

    @property
    def at_once(self) -> int:
        """Trainings of one call: one where they come one after the other."""
        return AT_ONCE if self.side_by_side() else 1

    def train(self, trials: Trials) -> Outcomes:
        """Train all of them, side by side where that works."""
        seeds = [int(seed) for seed in trials.seeds]
        rows = {seed: self.rows(seed, trials.judged_on) for seed in dict.fromkeys(seeds)}
        columns = self.columns(self.build(seeds[0]))
        if self.side_by_side():
            return self._population(trials, rows, seeds, columns)
        return self._alone(trials, rows, seeds, columns)

    def train_one(self, trials: Trials, stop: Callable[[float, float], bool]) -> tuple[float, float]:
        """Train one by itself, and end it where ``stop`` says so."""
        seed = int(trials.seeds[0])
        columns, rows = self.columns(self.build(seed)), self.rows(seed, trials.judged_on)
        course = self._course(trials.rates[0], rows, seed, columns, stop)
        known = course.metric[: sum(after <= course.steps for after in self.evaluated_after())]
        whole = len(known) and np.isfinite(known).all()
        return float(known[-1]) if whole else math.nan, course.steps / self.steps

    def tiny(self) -> UserModelWorkload:
        """A few steps."""
        return replace(self, steps=min(self.steps, 4), evaluations=2)

    def fingerprint(self) -> str:
        """Rows of the file, and parts and weights of the model of seed 0."""
        model, table = self.build(0), self.table_task.table
        digest = hashlib.sha256(repr([(name, type(part).__name__) for name, part in model.named_modules()]).encode())
        for values in (table.features, table.target, *(v.detach().cpu().numpy() for v in model.state_dict().values())):
            digest.update(f"{values.dtype}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def evaluated_after(self) -> list[int]:
        """Numbers of steps at which the metric is taken."""
        every = max(1, self.steps // self.evaluations)
        return sorted({*range(every, self.steps + 1, every), self.steps})

    def rows(self, seed: int, judged_on: str) -> PopulationData:
        """Rows to learn from and those of one other split, standardized by the former."""
        return self.table_task.rows(seed, judged_on)

    def build(self, seed: int) -> nn.Module:
        """The model of a seed; a factory's weights are drawn anew for each, a ready module's are taken as they are.

        Raises:
            InputError: the factory fails, or makes no module.
        """
        if self.model is None:
            from lrdiff_core import build_model

            return build_model(self.table_task.spec, seed=seed)
        from lrdiff_bench.system.factory import load_model
        from lrdiff_core.population.members import build

        target = self.model
        return copy.deepcopy(build(lambda _: load_model(target).module, seed))

    def columns(self, model: nn.Module) -> dict[str, int]:
        """Group of every parameter of a model, by its name."""
        from lrdiff_bench.study.one_model import group_columns

        return group_columns(model, self.patterns, self.groups)

    def side_by_side(self) -> bool:
        """Whether populations train it: small enough, and torch.func takes it."""
        return self._fits if self.together is None else self.together

    @cached_property
    def table_task(self) -> PopulationTask:
        """Rows for every seed, and the project's own network for them."""
        from lrdiff_core.config import make_config
        from lrdiff_core.population import population_task

        settings = {
            "data": self.data, "target": self.target, "task": self.task, "batch_size": self.batch_size,
            "hidden": self.hidden,
        }  # fmt: skip
        return population_task(make_config({key: value for key, value in settings.items() if value is not None}))

    def check(self) -> None:
        """Check that model, groups and rows fit together, before anything is trained.

        Raises:
            InputError: the model makes no use of the rows, or not what the task needs.
            RateError: a pattern that matches nothing.
            ConfigError: a parameter in no group.
        """
        model = self.build(0)
        self._check_outputs(model)
        self.columns(model)

    @cached_property
    def _fits(self) -> bool:
        model = self.build(0)
        if sum(p.numel() for p in model.parameters()) > SMALL:
            return False
        rows, columns = self.rows(0, "validation"), self.columns(model)
        try:
            self._train_population(
                {0: rows},
                np.full((_PROBE, len(self.groups)), 1e-6),
                [0] * _PROBE,
                columns,
                steps=_PROBE,
                evaluate=_PROBE,
            )
        except DataError:
            raise  # rows that do not fit the model fit it no better alone
        except (LrdiffError, RuntimeError):
            return False  # BatchNorm, Dropout, a loop over values: what torch.func cannot stack
        return True

    def _check_outputs(self, model: nn.Module) -> None:
        """Refuse a model whose outputs are not what the task's loss takes."""
        import torch

        from lrdiff_bench.study.one_model import network_of

        rows = self.rows(0, "validation")
        classes = self.table_task.spec.outputs
        model.eval()
        network = network_of(model)
        try:
            with torch.no_grad():
                outputs = network(rows.inputs[:2].cpu())
        except Exception as problem:  # whatever the user's own code raises
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise InputError(
                f"{self.model} cannot take rows [2, {rows.inputs.shape[1]}]: {reason[:200]}",
                help=f"let it map [rows, {rows.inputs.shape[1]}] to [rows, {classes}]",
            ) from problem
        if not isinstance(outputs, torch.Tensor):
            raise InputError(
                f"{self.model} gives a {type(outputs).__name__}, not a tensor",
                help=f"let it map [rows, {rows.inputs.shape[1]}] to [rows, {classes}]",
            )
        if tuple(outputs.shape) != (2, classes):
            raise InputError(
                f"{self.model} maps [2, {rows.inputs.shape[1]}] to {list(outputs.shape)}",
                help=f"a {rows.task} task over these rows needs [rows, {classes}], logits without a sigmoid or softmax",
            )

    def _train_population(
        self,
        rows: Mapping[int, PopulationData],
        rates: np.ndarray,
        seeds: list[int],
        columns: Mapping[str, int],
        **options: Any,
    ) -> Any:
        from lrdiff_core.population import PopulationOptions, train_population

        return train_population(
            self.build,
            rows,
            rates,
            seeds,
            PopulationOptions(
                batch_size=self.batch_size,
                optimizer=self.optimizer,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                device=self.device,
                **options,
            ),
            groups=dict(columns),
        )

    def _population(
        self, trials: Trials, rows: Mapping[int, PopulationData], seeds: list[int], columns: Mapping[str, int]
    ) -> Outcomes:
        every = max(1, self.steps // self.evaluations)
        found = self._train_population(rows, trials.rates, seeds, columns, steps=self.steps, evaluate=every)
        return outcomes(
            found,
            self.metric,
            seconds_a_step=self._seconds_side_by_side if self.timed else math.nan,
        )

    @cached_property
    def _seconds_side_by_side(self) -> float:
        parameters = sum(p.numel() for p in self.build(0).parameters())
        return time_step(self._standing_still, parameters=parameters, steps=self.steps)

    @cached_property
    def _standing_still(self) -> Callable[[int, int], Any]:
        """What trains so many trials for so many steps without moving them."""
        rows, columns = {0: self.rows(0, "validation")}, self.columns(self.build(0))
        return lambda count, steps: self._train_population(
            rows, np.zeros((count, len(self.groups))), [0] * count, columns, steps=steps, evaluate="never"
        )

    def _alone(
        self, trials: Trials, rows: Mapping[int, PopulationData], seeds: list[int], columns: Mapping[str, int]
    ) -> Outcomes:
        courses = [
            self._course(rates, rows[seed], seed, columns) for seed, rates in zip(seeds, trials.rates, strict=True)
        ]
        # A trial that diverged was spared its other steps.
        seconds_a_step = sum(one.seconds for one in courses) / max(1, sum(one.steps for one in courses))
        return mask_diverged(
            np.stack([one.metric for one in courses]),
            np.stack([one.losses for one in courses]),
            evaluated_after=np.array(self.evaluated_after()),
            seconds_a_step=seconds_a_step,
        )

    def _course(
        self,
        rates: np.ndarray,
        rows: PopulationData,
        seed: int,
        columns: Mapping[str, int],
        stop: Callable[[float, float], bool] | None = None,
    ) -> TrainingCourse:
        from lrdiff_bench.study.one_model import LoneTraining, train_alone

        how = LoneTraining(
            optimizer=self.optimizer,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            device=self.device,
            steps=self.steps,
            evaluated_after=tuple(self.evaluated_after()),
            metric=self.metric,
        )
        return train_alone(self.build(seed), rows, rates, seed, columns, how, stop)
