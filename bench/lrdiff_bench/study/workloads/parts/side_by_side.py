"""Trials with losses of their own, which ``train_population`` cannot train: side by side through torch.func.

A workload says what one trial does (starting point, gradients, judgement); here it is stacked over trials. The update
rules are those of populations. No number of one trial enters another's, so a trial that diverges is masked and its
neighbours do not notice.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lrdiff_bench.study.workloads.common import check_trials
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.workload import Outcomes, Trials, Workload

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SideBySide", "State"]

TILE = 128  # trials at once: a search has about 200, a report 50

State = dict[str, "Tensor"]


@dataclass(frozen=True, kw_only=True)
class SideBySide(Workload):
    """Subclasses say what one trial does; everything drawn must follow from the seed.

    Args:
        betas: of Adam.
        evaluations: how often the metric is taken, evenly over the steps.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    evaluations: int = 10

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

    def train(self, trials: Trials) -> Outcomes:
        """Train all trials, up to :data:`TILE` at once."""
        import torch

        from lrdiff_core.devices import repeatable

        check_trials(self, trials)
        with repeatable(torch.device("cpu"), threads=1):
            parts = [self.train_tile(trials, slice(at, at + TILE))[:3] for at in range(0, len(trials.rates), TILE)]
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
        from lrdiff_core.population.updates import UpdateRule

        rates, seeds = trials.rates[members], [int(seed) for seed in trials.seeds[members]]
        parameters, moving = self._stacked(seeds)
        given = _stack({seed: self.given(seed, trials.judged_on) for seed in set(seeds)}, seeds)
        own = hyperparameters(
            torch.from_numpy(np.array(rates, dtype=np.float64)),
            PopulationOptions(batch_size=1, steps=self.steps, betas=self.betas),
        )
        rule = UpdateRule(
            "adam", own, moving, torch.ones(self.steps), nesterov=False, like=next(iter(parameters.values()))
        )
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
