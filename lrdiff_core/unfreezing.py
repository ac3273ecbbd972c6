"""Unfreezing over time: the layers of a plan join the training one after the other, from the head down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import RatePlan, layer_depths, list_parameters
from lrdiff_core.rates.matching import Match

__all__ = ["GradualUnfreezing", "head_down"]


def head_down(model: nn.Module, layers: Any = None) -> list[list[str]]:
    """The layers of a model from the head down to the stem, each as the names of its parameters.

    Args:
        model: any module.
        layers: what the layers are, as for :class:`~lrdiff_core.rates.LayerDecay`; None: they are found.

    Example:
        >>> head_down(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1, bias=False)))
        [['2.weight'], ['1.weight', '1.bias'], ['0.weight', '0.bias']]
    """
    depths = layer_depths(list_parameters(model), layers)
    return [[name for name in depths if depths[name] == depth] for depth in sorted(set(depths.values()), reverse=True)]


class GradualUnfreezing:
    """Freezes all stages but the first when it is made, and unfreezes the next one every ``every`` steps.

    Frozen parameters stay in their groups, so neither the groups nor the optimizer's state nor a scheduler notice, and
    a resume goes on with what was unfrozen. What the plan itself freezes, or no stage names, stays as it is.

    Args:
        plan: whose groups the optimizer has.
        optimizer: the one that was given ``plan.groups()``.
        every: calls of :meth:`step` between two stages: optimizer steps, or epochs.
        stages: what trains first, second, ...: matches as in a rule; :func:`head_down` lists a model's layers so.

    Raises:
        RateError: no stages, ``every`` below 1, or a stage that matches nothing.

    Example:
        >>> from lrdiff_core.rates import param_groups
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        >>> plan = param_groups(model, lr=0.1)
        >>> optimizer = torch.optim.SGD(plan.groups())
        >>> unfreezing = GradualUnfreezing(plan, optimizer, every=2, stages=head_down(model))
        >>> [unfreezing.step() for _ in range(4)]
        [[], ['1.weight', '1.bias'], [], ['0.weight', '0.bias']]

    Source: Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification, arXiv:1801.06146.
    """

    def __init__(
        self, plan: RatePlan, optimizer: torch.optim.Optimizer, *, every: int, stages: Sequence[Match]
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise RateError(f"every is {every!r}", help="write a whole number of steps or epochs, 1 or more")
        if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
            raise RateError(
                f"stages are {stages!r}",
                help='list what trains first, second, ...: ["head", "blocks.1"]; or head_down(model)',
            )
        self._plan, self._optimizer, self.every = plan, optimizer, every
        self.count = 0
        taken = {entry.name for entry in plan if entry.frozen}
        found = []
        for stage in stages:
            plan.unfreeze(optimizer, stage)
            names = [name for name in plan.freeze(optimizer, stage) if name not in taken]
            taken.update(names)  # what two stages match trains with the earlier one
            found.append(tuple(names))
        self.stages = tuple(found)
        self.step(0)

    @property
    def stage(self) -> int:
        """The last stage that trains, counted from 0."""
        return min(len(self.stages) - 1, self.count // self.every)

    def step(self, to: int | None = None) -> list[str]:
        """Go one step on, or to a step, and unfreeze what is due.

        Returns:
            The names that train from now on and did not before.
        """
        self.count = self.count + 1 if to is None else int(to)
        due = [name for names in self.stages[: self.stage + 1] for name in names]
        late = [name for names in self.stages[self.stage + 1 :] for name in names]
        if set(late) - set(self._plan.frozen):  # gone back, by a resume
            self._plan.freeze(self._optimizer, late)
        waiting = set(self._plan.frozen)
        due = [name for name in due if name in waiting]
        return self._plan.unfreeze(self._optimizer, due) if due else []

    def state_dict(self) -> dict[str, int]:
        """How many steps were taken."""
        return {"count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Restore what was frozen and what was not when the state was taken."""
        if set(state_dict) != {"count"}:
            raise RateError("this state was not written by a GradualUnfreezing", help='it should hold "count"')
        self.step(state_dict["count"])
