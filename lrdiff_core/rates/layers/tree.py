"""The modules of a model that hold parameters, as a tree; and the nearest names to one that it does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from operator import itemgetter
from typing import Self

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from lrdiff_core.rates.names import ParamInfo, some
from lrdiff_core.text import closest, nearest

__all__ = ["ModuleTree", "help_for_name"]


@dataclass(frozen=True)
class ModuleTree:
    """Modules by canonical name, each with the child modules that hold parameters, in order of registration.

    A wrapper and what it wraps are one entry, the latter; the modules of a parametrization belong to the tensor that
    they make and are left out.

    Args:
        modules: by canonical name, "" for the root.
        children: names of the children of each.
        matrices: how many parameters of two or more dimensions each holds, its children's included.
    """

    modules: dict[str, nn.Module]
    children: dict[str, list[str]]
    matrices: Mapping[str, int]

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
        return cls(modules, children, matrices)

    @cached_property
    def trunk(self) -> str:
        """The root, or the first module below it that has more than one child."""
        name = ""
        while len(children := self.children[name]) == 1 and self.children[children[0]]:
            name = children[0]
        return name

    def kind(self, name: str) -> type[nn.Module]:
        """The class of a module; registering a parametrization gives each module a class of its own."""
        module = self.modules[name]
        return type(module).__bases__[0] if is_parametrized(module) else type(module)

    def is_block(self, name: str) -> bool:
        """Whether a module holds modules, and several matrices: more than a layer with its norm."""
        return bool(self.children[name]) and self.matrices[name] > 1


def help_for_name(text: str, infos: Sequence[ParamInfo], noun: str = "parameters of this model start with") -> str:
    """A line of help for a name or glob that matches nothing: the nearest that does, then where names start.

    The text is followed down the module tree, component by component, to the first that is not there.

    Example:
        >>> from lrdiff_core.rates import list_parameters
        >>> deep = nn.ModuleDict({"encoder": nn.ModuleDict({"attention": nn.Linear(1, 1)}), "head": nn.Linear(1, 1)})
        >>> help_for_name("encoder.atention.*", list_parameters(deep))
        'did you mean encoder.attention.*? parameters of this model start with: encoder, head'
        >>> help_for_name("attention", list_parameters(deep))
        'did you mean encoder.attention? parameters of this model start with: encoder, head'
    """
    names = [place.name for info in infos for place in info.occurrences]
    tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
    wanted = _with_its_front(text, names) or _mended(text, names)
    if wanted is None or wanted in tops:
        return nearest(text.partition(".")[0], tops, noun)
    return f"did you mean {wanted}? {noun}: {some(tops, 12)}"


def _with_its_front(text: str, names: Sequence[str]) -> str | None:
    """``encoder.layer.3`` for ``layer.3``: a name given without what it stands in."""
    for name in names:
        before, found, _ = f".{name}.".partition(f".{text}.")
        if found and before:
            return f"{before[1:]}.{text}"
    return None


def _mended(text: str, names: Sequence[str]) -> str | None:
    """The text with its first wrong component replaced by the nearest one of the same place."""
    here = [name.split(".") for name in names]
    parts = text.split(".")
    for depth, part in enumerate(parts):
        below = [one for one in here if len(one) > depth and fnmatchcase(one[depth], part)]
        if below:
            here = below
            continue
        choices = {one[depth] for one in here if len(one) > depth}
        if any("*" in before for before in parts[:depth]):  # it crosses dots, so the rest may stand anywhere below
            choices = {component for one in here for component in one[depth:]}
            if part in choices:
                continue
        close = closest(part, sorted(choices), cutoff=0.6)
        return ".".join([*parts[:depth], close, *parts[depth + 1 :]]) if close else None
    return None
