"""Trials with losses of their own, which ``train_population`` cannot train: side by side through torch.func.

A workload says what one trial does (starting point, gradients, judgement); here it is stacked over trials. The update
rules are those of populations. No number of one trial enters another's, so a trial that diverges is masked and its
neighbours do not notice.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.study.workloads.common import check_trials
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from lrdiff_core.population.updates import UpdateRule

__all__ = ["SideBySide", "State"]

TILE = 128  # trials at once: a search has about 200, a report 50

State = dict[str, "Tensor"]


@dataclass(frozen=True, kw_only=True)
class SideBySide(Workload):
    """Subclasses say what one trial does; everything drawn must follow from the seed.

    Args:
        optimizer: ``"adam"`` or ``"adamw"``.
        betas, weight_decay: of it.
        schedule: shape of the rates over the steps; None: they stay.
        evaluations: how often the metric is taken, evenly over the steps.
        tile: trials at once; fewer where one of them is larger.
    """

    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Mapping[str, Any] | None = None
    evaluations: int = 10
    tile: int = TILE

    @abstractmethod
    def start(self, seed: int) -> State:
        """Parameters by name."""

    @abstractmethod
    def columns(self) -> Mapping[str, int]:
        """Group of each parameter by name."""

    @abstractmethod
    def given(self, seed: int, judged_on: str) -> State:
        """What a trial learns from, and what it is judged on: rows of ``judged_on`` and no others."""

    @abstractmethod
    def gradients(self, parameters: State, given: State, step: Tensor) -> tuple[State, Tensor]:
        """Gradient of every parameter of one trial at a step (from 0), and a loss that is finite while all is well."""

    @abstractmethod
    def judge(self, parameters: State, given: State) -> tuple[Tensor, Tensor]:
        """Metric on the rows that are judged, and the loss on those that are learnt from, of one trial."""

    def rule_of(self, scheme: Scheme) -> Callable[..., UpdateRule]:
        """What makes the update rule of a scheme."""
        from lrdiff_core.population.updates import UpdateRule

        return UpdateRule

    def train(self, trials: Trials) -> Outcomes:
        """Train all trials, up to ``tile`` at once."""
        import torch

        from lrdiff_core.devices import repeatable

        check_trials(self, trials)
        with repeatable(torch.device("cpu"), threads=1):
            starts = range(0, len(trials.rates), self.tile)
            parts = [self.train_tile(trials, slice(at, at + self.tile))[:3] for at in starts]
        return mask_diverged(
            np.concatenate([part[0] for part in parts]),
            np.concatenate([part[1] for part in parts]),
            evaluated_after=self.evaluated_after(),
            seconds_a_step=sum(part[2] for part in parts) / (len(trials.rates) * self.steps),
        )

    def evaluated_after(self) -> np.ndarray:
        """Steps done at each evaluation."""
        every = max(1, self.steps // self.evaluations)
        return np.array(sorted({*range(every, self.steps + 1, every), self.steps}))

    def train_tile(self, trials: Trials, members: slice) -> tuple[np.ndarray, np.ndarray, float, State]:
        """Metric and loss [trials, evaluations], seconds that all steps took, and the last parameters."""
        import torch
        from torch.func import vmap

        from lrdiff_core.population import PopulationOptions
        from lrdiff_core.population.members import hyperparameters
        from lrdiff_core.population.settings import Settings
        from lrdiff_core.schedules import Shape

        rates, seeds = trials.rates[members], [int(seed) for seed in trials.seeds[members]]
        parameters, moving = self._stacked(seeds)
        given = _stack({seed: self.given(seed, trials.judged_on) for seed in set(seeds)}, seeds)
        options = PopulationOptions(
            batch_size=1, steps=self.steps, optimizer=self.optimizer, betas=self.betas, weight_decay=self.weight_decay,
            schedule=None if self.schedule is None else Shape(**self.schedule),
        )  # fmt: skip
        own = hyperparameters(torch.from_numpy(np.array(rates, dtype=np.float64)), options)
        rule = self.rule_of(trials.scheme)(
            self.optimizer, own, moving, Settings.of(options, rows=1).factors(), nesterov=False,
            like=next(iter(parameters.values())),
        )  # fmt: skip
        moments = rule.start(parameters)
        alive = torch.ones(len(seeds), dtype=torch.bool)
        gradients = vmap(self.gradients, in_dims=(0, 0, None))
        judge = vmap(self.judge)
        evaluated_after = set(self.evaluated_after().tolist())
        found: list[tuple[Tensor, ...]] = []
        seconds = 0.0
        for t in range(self.steps):
            begin = time.perf_counter()
            slopes, losses = gradients(parameters, given, torch.tensor(t))
            alive = alive & torch.isfinite(losses)
            parameters, moments = rule.update(parameters, slopes, moments, rule.scalars(t), alive)
            seconds += time.perf_counter() - begin
            if t + 1 in evaluated_after:
                with torch.no_grad():
                    found.append(tuple(torch.where(alive, one, torch.nan) for one in judge(parameters, given)))
        metric, loss = (torch.stack([one[i] for one in found], dim=1).double().numpy() for i in range(2))
        return metric, loss, seconds, parameters

    def _stacked(self, seeds: list[int]) -> tuple[State, dict[str, int]]:
        """Parameters [trials, ...] in their order, and the group of each."""
        stacked = _stack({seed: self.start(seed) for seed in set(seeds)}, seeds)
        group_of = self.columns()
        return stacked, {name: group_of[name] for name in stacked}


def _stack(of: Mapping[int, State], seeds: list[int]) -> State:
    """Tensors of each seed to tensors of each trial, [trials, ...]."""
    import torch

    return {name: torch.stack([of[seed][name] for seed in seeds]) for name in of[seeds[0]]}
