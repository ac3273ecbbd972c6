"""The modules of a model that hold parameters, as a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Self

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lrdiff_core.rates.names import ParamInfo

__all__ = ["ModuleTree"]


@dataclass(frozen=True)
class ModuleTree:
    """Modules by canonical name, each with the child modules that hold parameters, in order of registration.

    A wrapper and what it wraps are one entry, the latter; the modules of a parametrization belong to the tensor that
    they make and are left out.

    Args:
        modules: by canonical name, "" for the root.
        children: names of the children of each.
        matrices: how many parameters of two or more dimensions each holds, its children's included.
        kinds: the class of each; a parametrization gives a module a class of its own, below the true one.
    """

    modules: dict[str, nn.Module]
    children: dict[str, list[str]]
    matrices: Mapping[str, int]
    kinds: dict[str, type[nn.Module]]

    @classmethod
    def of(cls, infos: Sequence[ParamInfo]) -> Self:
        """The tree of a model's parameters; every name of a tied one counts. Takes time linear in their number."""
        modules: dict[str, nn.Module] = {}
        children: dict[str, list[str]] = {}
        matrices: Counter[str] = Counter()
        lines: dict[str, list[str]] = {}  # of each owner, the modules from the root down to it
        places = [(place.order, place, info) for info in infos for place in info.occurrences]
        for _, place, info in sorted(places, key=itemgetter(0)):
            owner = place.path[-1].name
            if owner not in lines:
                lines[owner] = []
                for name, module in place.path:
                    above = lines[owner][-1] if lines[owner] else None
                    if above is not None and "." in name[len(above) :].removeprefix("."):
                        break  # "0.weight.0": a module of the parametrization of 0.weight
                    if name not in children:
                        children[name] = []
                        if above is not None:
                            children[above].append(name)
                    modules[name] = module
                    if name != above:
                        lines[owner].append(name)
            if len(info.shape) > 1:
                matrices.update(lines[owner])
        kinds = {name: type(m).__bases__[0] if is_parametrized(m) else type(m) for name, m in modules.items()}
        return cls(modules, children, matrices, kinds)

    @cached_property
    def trunk(self) -> str:
        """The root, or the first module below it that has more than one child."""
        name = ""
        while len(children := self.children[name]) == 1 and self.children[children[0]]:
            name = children[0]
        return name

    def is_block(self, name: str) -> bool:
        """Whether a module holds modules, and several matrices: more than a layer with its norm."""
        return bool(self.children[name]) and self.matrices[name] > 1
