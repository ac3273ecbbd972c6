"""What a trained population hands back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.settings import Settings
from lrdiff_core.population.work import Tile, TileResult

__all__ = ["Collected", "Population"]

SCORED = {"train_score": "targets", "held_score": "held_targets", "second_score": "second_targets"}


@dataclass(frozen=True, kw_only=True)
class Population:
    """Everything known about every member, on the CPU, in the order of the rates given.

    Members that diverged keep the weights they had before the step whose loss was not finite; from then on their
    losses and scores are NaN.

    Args:
        rates: [members, groups] as given, float64.
        seeds: [members], int64.
        groups: names of the parameters in each column of ``rates``.
        steps: optimizer steps of the whole training.
        evaluated_after: [evaluations] steps done at each evaluation.
        train_loss, train_score: [members, evaluations] over all training rows.
        held_loss, held_score: [members, evaluations] over the held-out rows; None without such rows.
        second_loss, second_score: the same over the second held-out rows.
        step_loss: [members, steps] mean loss of each step's batch before the update; None unless asked for.
        diverged_after: [members], steps done when the loss was first not finite, -1 for members that stayed finite.
        weights: final parameters by name, [members, ...] each; None unless asked for.
        path: ``"kernel"`` or ``"general"``, what trained them.

    A score is the accuracy, or R2 for regression.
    """

    rates: Tensor
    seeds: Tensor
    groups: tuple[tuple[str, ...], ...]
    steps: int
    evaluated_after: Tensor
    train_loss: Tensor
    train_score: Tensor
    held_loss: Tensor | None
    held_score: Tensor | None
    second_loss: Tensor | None
    second_score: Tensor | None
    step_loss: Tensor | None
    diverged_after: Tensor
    weights: dict[str, Tensor] | None
    path: str

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def diverged(self) -> Tensor:
        """[members], whether the loss was ever not finite."""
        return self.diverged_after >= 0


class Collected:
    """Results of all members, filled tile by tile, in the settings' dtype."""

    def __init__(self, members: int, settings: Settings) -> None:
        self.done = 0
        self.parts: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.diverged = torch.full((members,), -1, dtype=torch.int64)
        self._members = members
        self._settings = settings

    def put(self, members: Tensor, result: TileResult, tile: Tile) -> None:
        """Copy a tile's results to the places of its members."""
        losses = ("train_loss", "held_loss", "second_loss", "step_loss")
        for name in (*losses, "train_score", "held_score", "second_score"):
            values: Tensor | None = getattr(result, name)
            if values is None:
                continue
            if name.endswith("score"):
                values = _r2(values, tile, SCORED[name])
            self._store(self.parts, name, members, values)
        for name, weights in (result.weights or {}).items():
            self._store(self.weights, name, members, weights)
        self.diverged[members] = result.diverged_after
        self.done += len(members)

    def population(
        self,
        rates: Tensor,
        seeds: Sequence[int],
        groups: tuple[tuple[str, ...], ...],
        *,
        data: PopulationData,
        path: str,
    ) -> Population:
        """Hand back everything, with what was asked for; ``data``: rows of a seed, which tell what is held out."""
        settings, parts = self._settings, self.parts
        held, second = data.held_rows > 0, data.second_rows > 0
        return Population(
            rates=rates,
            seeds=torch.tensor(seeds),
            groups=groups,
            steps=settings.total_steps,
            evaluated_after=torch.tensor(settings.evaluated_after(), dtype=torch.int64),
            train_loss=parts["train_loss"],
            train_score=parts["train_score"],
            held_loss=parts["held_loss"] if held else None,
            held_score=parts["held_score"] if held else None,
            second_loss=parts["second_loss"] if second else None,
            second_score=parts["second_score"] if second else None,
            step_loss=parts.get("step_loss"),
            diverged_after=self.diverged,
            weights=self.weights if settings.keep_weights else None,
            path=path,
        )

    def _store(self, into: dict[str, Tensor], name: str, members: Tensor, values: Tensor) -> None:
        if name not in into:
            into[name] = torch.empty(self._members, *values.shape[1:], dtype=self._settings.dtype)
        into[name][members] = values.to(self._settings.dtype)


def _r2(values: Tensor, tile: Tile, of: str) -> Tensor:
    """For regression, the coefficient of determination from the squared error; for other tasks the score itself."""
    data = tile.data[tile.seeds[0]]
    if data.task != "regression" or data.loss is not None or getattr(data, of) is None:
        return values
    spreads = []
    for seed in tile.seeds:
        targets: Tensor = getattr(tile.data[seed], of)
        spread = (targets - targets.mean()).square().mean().item()
        spreads.append(spread if spread > 0 else math.nan)
    return 1 - values / torch.tensor(spreads, dtype=values.dtype)[tile.seed_of][:, None]
