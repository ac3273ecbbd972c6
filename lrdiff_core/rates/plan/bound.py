"""The model that a plan belongs to, looked at anew whenever it is needed; and an optimizer held against a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo, list_parameters, some
from lrdiff_core.rates.plan.entry import PlanEntry
from lrdiff_core.text import count

__all__ = ["BoundModel", "departures", "held", "strangers"]

PLAN_ANEW = "make a plan for the model as it is now: param_groups(model, ...)"


class BoundModel:
    """A module, and the names and shapes that its parameters had when the plan was made.

    Args:
        module: the model, or a part of it.
        shapes: by the plan's names.
        plan_names: by the module's own names, the plan's, where they differ (a part of the planned model).
    """

    def __init__(
        self, module: nn.Module, shapes: Mapping[str, Sequence[int]], plan_names: Mapping[str, str] | None = None
    ) -> None:
        self.module = module
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._plan_names = plan_names

    @classmethod
    def of(cls, infos: Sequence[ParamInfo]) -> BoundModel:
        """Bind to the model that these parameters were listed from, with their shapes."""
        return cls(infos[0].occurrences[0].path[0].module, {info.name: info.shape for info in infos})

    def infos(
        self, help: str = "make a plan for the model as it is now: param_groups(model, ...)"
    ) -> dict[str, ParamInfo]:
        """The parameters as they are now, by the plan's names: what was replaced since is taken as it is.

        Raises:
            RateError: a name or a shape has changed; ``help`` says what to do.
        """
        if changes := self.changes():
            raise RateError(f"the model is not as it was when the plan was made; {changes}", help=help)
        return self._here()

    def changes(self) -> str | None:
        """What parameters have come, gone or got another shape, in words."""
        here = self._here()
        parts = {
            "new": [name for name in here if name not in self._shapes],
            "gone": [name for name in self._shapes if name not in here],
            "of another shape": [n for n, info in here.items() if self._shapes.get(n, info.shape) != info.shape],
        }
        return "; ".join(f"{word}: {some(names)}" for word, names in parts.items() if names) or None

    def _here(self) -> dict[str, ParamInfo]:
        known = self._plan_names or {}
        return {known.get(info.name, info.name): info for info in list_parameters(self.module)}


def held(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """The group of every parameter that an optimizer holds, by the parameter's identity."""
    return {id(param): group for group in optimizer.param_groups for param in group["params"]}


def strangers(planned: Iterable[ParamInfo], optimizer: torch.optim.Optimizer) -> list[str]:
    """List what is wrong with the tensors that an optimizer holds, whatever their settings; empty where nothing is."""
    groups = held(optimizer)
    found = []
    if strange := set(groups) - {id(info.parameter) for info in planned}:
        found.append(f"it holds {count(len(strange), 'tensor')} not in the model")
    if twice := sum(len(group["params"]) for group in optimizer.param_groups) - len(groups):
        found.append(f"it holds {count(twice, 'tensor')} twice")
    return found


def departures(
    entries: Iterable[PlanEntry], infos: Mapping[str, ParamInfo], optimizer: torch.optim.Optimizer
) -> list[str]:
    """List how an optimizer departs from a plan; empty where it follows it.

    A rate that a scheduler has moved is compared by its base (``initial_lr``).
    """
    groups = held(optimizer)
    found = []
    missing = [e.name for e in entries if id(infos[e.name].parameter) not in groups]
    if missing:
        found.append(f"it does not hold {some(missing, 3)}")
    for entry in entries:
        group = groups.get(id(infos[entry.name].parameter))
        for key, planned in {"lr": entry.lr, "weight_decay": entry.weight_decay, **dict(entry.options)}.items():
            if group is None:
                continue
            has = group.get("initial_lr", group.get("lr")) if key == "lr" else group.get(key)
            if not _same(has, planned) and not (key == "weight_decay" and has is None and planned == 0):
                found.append(f"{key} of {entry.name} is {_text(has)}, planned {_text(planned)}")
    return found


def _same(has: Any, planned: Any) -> bool:
    if isinstance(has, torch.Tensor):
        eps = torch.finfo(has.dtype if has.dtype in (torch.float16, torch.bfloat16) else torch.float32).eps
        return has.numel() == 1 and math.isclose(float(has), planned, rel_tol=eps)
    return type(has) is type(planned) and has == planned if isinstance(planned, bool) else bool(has == planned)


def _text(value: Any) -> str:
    return f"{float(value):g}" if isinstance(value, float | torch.Tensor) else f"{value}"
