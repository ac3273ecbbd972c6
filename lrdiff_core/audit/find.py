"""What lives in this process: the models that an optimizer's tensors belong to, plans made for them, other optimizers.

Nothing has to be handed over: Python's garbage collector knows every object. It is asked when an optimizer that was not
seen before takes its first step.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrdiff_core.rates import ParamInfo, RatePlan, list_parameters
from lrdiff_core.rates.names import Occurrence

__all__ = ["Models", "fitting_plan", "living", "optimizers_of"]

T = TypeVar("T")


def living(kind: type[T]) -> list[T]:
    """Every object of a class in this process, the oldest first.

    Example:
        >>> class Mine: ...
        >>> one = Mine()
        >>> living(Mine) == [one]
        True
    """
    # type() and not isinstance(): that would wake up proxies
    return [one for one in gc.get_objects() if issubclass(type(one), kind)]


class Models:
    """The models that optimizers train, found by their tensors; the first keeps its names, others get their class's.

    Example:
        >>> models = Models()
        >>> net = nn.Linear(2, 1)
        >>> [info.name for info in models.parameters({"SGD.0": net.weight, "SGD.1": torch.zeros(1)})]
        ['weight', 'bias', 'SGD.1']
    """

    def __init__(self) -> None:
        self.roots: dict[str, nn.Module] = {}  # by prefix

    def parameters(self, tensors: Mapping[str, Tensor]) -> list[ParamInfo]:
        """Every parameter of the models that these tensors belong to; tensors of no model keep the name given here."""
        infos = self._list()
        for _ in tensors:
            known = {id(info.parameter) for info in infos}
            missing = {id(tensor) for tensor in tensors.values()} - known
            if not missing or not self._add_root(missing):
                break
            infos = self._list()
        known = {id(info.parameter) for info in infos}
        loose = [(name, tensor) for name, tensor in tensors.items() if id(tensor) not in known]
        return infos + [_alone(name, tensor) for name, tensor in loose]

    def _add_root(self, missing: set[int]) -> bool:
        """Take in the module that holds most of what is missing, and of several the outermost."""
        best, most = None, (0, 0)
        for module in living(nn.Module):
            if "_parameters" not in vars(module):
                continue  # its __init__ has not run yet
            own = {id(parameter) for parameter in module.parameters()}
            rank = len(own & missing), sum(1 for _ in module.modules())
            if rank > most and rank[0]:
                best, most = module, rank
        if best is None:
            return False
        prefix = "" if not self.roots else f"{type(best).__name__}."
        while prefix in self.roots:
            prefix = f"{prefix[:-1]}'."
        self.roots[prefix] = best
        return True

    def _list(self) -> list[ParamInfo]:
        found: dict[int, ParamInfo] = {}
        for prefix, root in self.roots.items():
            for info in list_parameters(root):
                places = tuple(replace(place, name=prefix + place.name) for place in info.occurrences)
                found.setdefault(id(info.parameter), replace(info, occurrences=places))
        return list(found.values())


def _alone(name: str, tensor: Any) -> ParamInfo:
    """A tensor that stands in no module."""
    return ParamInfo(tensor, (Occurrence(name, nn.Module(), (), 0),), tuple(tensor.shape))


def fitting_plan(infos: Sequence[ParamInfo]) -> RatePlan | None:
    """The plan of this process that names these parameters; None where there is none, or two that differ."""
    here = {info.name: info.shape for info in infos}
    fitting = [plan for plan in living(RatePlan) if len(plan) and _fits(plan, here)]
    return fitting[-1] if fitting and all(plan == fitting[-1] for plan in fitting) else None


def _fits(plan: RatePlan, here: Mapping[str, Any]) -> bool:
    return all(here.get(entry.name) == entry.shape for entry in plan)


def optimizers_of(tensors: Iterable[Tensor], *, but: Iterable[Any]) -> list[torch.optim.Optimizer]:
    """Other optimizers of this process that hold some of these tensors."""
    gc.collect()  # what nobody holds any more would still be found
    wanted, known = set(map(id, tensors)), set(map(id, but))
    others = (one for one in living(torch.optim.Optimizer) if id(one) not in known and "param_groups" in vars(one))
    return [one for one in others if any(id(p) in wanted for group in one.param_groups for p in group["params"])]
