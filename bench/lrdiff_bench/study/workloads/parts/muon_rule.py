"""Muon for the matrices of one group and AdamW for everything else, over a stack of trials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrdiff_core.optim.rules.muon import adjustment, orthogonalize
from lrdiff_core.population.updates import UpdateRule

__all__ = ["MuonRule"]

MOMENTUM = 0.95  # Keller Jordan's


class MuonRule(UpdateRule):
    """The updates of :class:`lrdiff_core.optim.MuonAdamW`, with Nesterov's momentum.

    Args:
        arguments, options: of :class:`~lrdiff_core.population.updates.UpdateRule`, with ``"adamw"``.
        column: of the group that Muon steps; all of its parameters are matrices, [trials, rows, columns].
        adjust_lr_fn: as of :class:`~lrdiff_core.optim.MuonAdamW`.
    """

    def __init__(self, *arguments: Any, column: int, adjust_lr_fn: str | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.column, self.adjust_lr_fn = column, adjust_lr_fn

    def scalars(self, step: int) -> dict[str, Tensor]:
        """Also the rate as it stands, without Adam's correction."""
        rate = self._place(self.columns.rate * self.factor[step])
        return {**super().scalars(step), "plain": rate}

    def update(
        self,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        moments: dict[str, dict[str, Tensor]],
        scalars: dict[str, Tensor],
        alive: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """As of AdamW for all but the group's matrices."""
        rest = {name: value for name, value in parameters.items() if self.group_of[name] != self.column}
        new, kept = super().update(rest, gradients, moments, scalars, alive)
        rate, decay = (scalars[key][:, self.column].reshape(-1, 1, 1) for key in ("plain", "weight_decay"))
        for name, value in parameters.items():
            if name in rest:
                continue
            grad = gradients[name]
            buffer = torch.lerp(moments["first"][name], grad, 1 - MOMENTUM)
            direction = orthogonalize(torch.lerp(grad, buffer, MOMENTUM)).to(value.dtype)
            moved = value * decay - rate * adjustment(self.adjust_lr_fn, value.shape[1:]) * direction
            new[name] = torch.where(alive.reshape(-1, 1, 1), moved, value)
            kept["first"][name] = buffer
        return {name: new[name] for name in parameters}, kept
