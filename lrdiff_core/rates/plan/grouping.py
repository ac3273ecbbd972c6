"""Parameters with equal settings as one group, and a readable name for each group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo
from lrdiff_core.rates.plan.entry import PlanEntry
from lrdiff_core.text import unlike

__all__ = ["ALL", "group_names", "hold_rate_as_tensor", "make_groups", "merged"]

ALL = "all"  # the name of a group that holds the whole model


def merged(entries: Iterable[PlanEntry]) -> list[list[PlanEntry]]:
    """Entries with equal settings together, in the order of their first ones."""
    found: dict[Any, list[PlanEntry]] = {}
    for entry in entries:
        found.setdefault(_hashable(tuple(entry.settings)), []).append(entry)
    return list(found.values())


def group_names(groups: Sequence[Sequence[PlanEntry]]) -> list[str]:
    """A name for each group, for logs: the modules that learn at its rate, and its decay where that alone differs.

    No two are equal, and all are of letters, digits, dots, dashes and underscores, which every logger takes.

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import LayerDecay, param_groups
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> plan = param_groups(model, weight_decay=0.1, scale=[LayerDecay(0.5)], no_weight_decay=["1d"])
        >>> group_names(merged(plan))
        ['0', '0.no_decay', '1', '1.no_decay']
    """
    rates: dict[str, set[float]] = {}  # of everything below a module
    for group in groups:
        for entry in group:
            for above in _prefixes(entry.name):
                rates.setdefault(above, set()).add(entry.lr)
    bare = [_modules_name([entry.name for entry in group], rates) for group in groups]
    names: list[str] = []
    for own, group in zip(bare, groups, strict=True):
        decay = group[0].weight_decay
        decays = {other[0].weight_decay for name, other in zip(bare, groups, strict=True) if name == own}
        if len(decays) > 1 and decay != max(decays):
            own += ".no_decay" if decay == 0 else f".decay_{decay:g}"
        names.append(unlike(own, names))
    return names


def make_groups(
    entries: Iterable[PlanEntry], infos: Mapping[str, ParamInfo], *, prefix: str, names: bool = True
) -> list[dict[str, Any]]:
    """Plain parameter groups for an optimizer, as :meth:`RatePlan.groups` describes them."""
    if not isinstance(prefix, str):
        raise RateError(f"prefix is {prefix!r}", help='write a name to put before the others, such as "generator"')
    front = f"{prefix.removesuffix('.')}." if prefix else ""
    groups = merged(entries)
    made = []
    for label, members in zip(group_names(groups), groups, strict=True):
        entry = members[0]
        group: dict[str, Any] = {"params": [infos[member.name].parameter for member in members]}
        if names:
            group["param_names"] = [front + member.name for member in members]
        group["name"] = (prefix.removesuffix(".") if label == ALL else front + label) if prefix else label
        made.append(group | {"lr": entry.lr, "weight_decay": entry.weight_decay, **dict(entry.options)})
    return made


def hold_rate_as_tensor(group: dict[str, Any], dtype: torch.dtype) -> None:
    """Replace a group's rate by a tensor of its own, on the device of its parameters."""
    devices = {param.device for param in group["params"]}
    device = devices.pop() if len(devices) == 1 else torch.device("cpu")
    group["lr"] = torch.tensor(group["lr"], dtype=dtype, device=device)


def _prefixes(name: str) -> list[str]:
    """``""``, ``encoder``, ``encoder.weight``: a parameter and all that holds it, from the root down."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _modules_name(names: Sequence[str], rates: Mapping[str, set[float]]) -> str:
    """The largest modules in which nothing learns at another rate."""
    largest = [next(above for above in _prefixes(name) if len(rates[above]) == 1) for name in names]
    covers = [re.sub(r"[^\w.-]", "_", one) or ALL for one in dict.fromkeys(largest)]
    if len(covers) > 2:
        return f"{covers[0]}_and_{len(covers) - 1}_more"
    return "_and_".join(covers)


def _hashable(value: Any) -> Any:
    """Settings as a dictionary key, in which True and 1 differ."""
    return tuple(_hashable(v) for v in value) if isinstance(value, tuple) else (type(value).__name__, value)
