"""What a plan says about one parameter, and what differs between two plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from lrdiff_core.rates.values import check_decay, check_rate
from lrdiff_core.schedules import Shape

__all__ = ["Factor", "GroupSettings", "PlanDiff", "PlanEntry"]


class Factor(NamedTuple):
    """One number of the product that makes a rate, and where it comes from."""

    label: str
    value: float


class GroupSettings(NamedTuple):
    """What an optimizer group holds: parameters that agree in it share a group."""

    lr: float
    weight_decay: float
    schedule: Shape | None
    options: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One parameter's row of a plan.

    Args:
        name: canonical name.
        shape: of the parameter.
        rule: the labels of the rules that set something, with ``+`` between, or None.
        lr: the effective rate.
        weight_decay: as the optimizer gets it.
        frozen: whether the plan starts it frozen.
        schedule: a shape of its own, or None.
        options: optimizer options as sorted pairs.
        tied: other names of the same parameter.
        factors: what the rate is a product of, the base rate first.
        decay_by: what set the weight decay, or None for the plan's own.
    """

    name: str
    shape: tuple[int, ...]
    rule: str | None
    lr: float
    weight_decay: float
    frozen: bool
    schedule: Shape | None = None
    options: tuple[tuple[str, Any], ...] = ()
    tied: tuple[str, ...] = ()
    factors: tuple[Factor, ...] = ()
    decay_by: str | None = None

    @property
    def settings(self) -> GroupSettings:
        """What decides the parameter's group; being frozen does not."""
        return GroupSettings(self.lr, self.weight_decay, self.schedule, self.options)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON takes them."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        row["shape"], row["tied"] = list(self.shape), list(self.tied)
        row["schedule"] = self.schedule.to_dict() if self.schedule else None
        row["options"] = {name: list(v) if isinstance(v, tuple) else v for name, v in self.options}
        row["factors"] = [list(pair) for pair in self.factors]
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> PlanEntry:
        """The entry that :meth:`to_dict` wrote."""
        values = dict(row)
        values["lr"] = check_rate(row["lr"], f'lr of "{row["name"]}"')
        values["weight_decay"] = check_decay(row["weight_decay"], f'weight_decay of "{row["name"]}"')
        values["shape"], values["tied"] = tuple(row["shape"]), tuple(row["tied"])
        values["schedule"] = Shape(**row["schedule"]) if row["schedule"] else None
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in row["options"].items()}
        values["options"] = tuple(sorted(options.items()))
        values["factors"] = tuple(Factor(label, float(number)) for label, number in row["factors"])
        return cls(**values)


@dataclass(frozen=True)
class PlanDiff:
    """What differs between an old plan and a new one; false where nothing does.

    Args:
        added: names only the new plan has.
        removed: names only the old plan has.
        changed: by name, by field, the old and the new value.

    Example:
        >>> print(PlanDiff(added=(), removed=("head.bias",), changed={"head.weight": {"lr": (0.1, 0.01)}}))
        - head.bias
        ~ head.weight: lr 0.1 -> 0.01
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, Mapping[str, tuple[Any, Any]]] = field(default_factory=dict)

    @classmethod
    def between(cls, old: Mapping[str, PlanEntry], new: Mapping[str, PlanEntry]) -> PlanDiff:
        """Compare the entries of two plans by name. Which rule or factor set a value does not count."""
        changed: dict[str, dict[str, tuple[Any, Any]]] = {}
        for name in old:
            if name in new:
                before, after = old[name].to_dict(), new[name].to_dict()
                parts = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
                parts = {key: pair for key, pair in parts.items() if key not in ("rule", "factors", "decay_by")}
                if parts:
                    changed[name] = parts
        added = tuple(name for name in new if name not in old)
        return cls(added=added, removed=tuple(name for name in old if name not in new), changed=changed)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dictionaries, as JSON takes them."""
        changed = {
            name: {key: {"old": old, "new": new} for key, (old, new) in parts.items()}
            for name, parts in self.changed.items()
        }
        return {"added": list(self.added), "removed": list(self.removed), "changed": changed}

    def __str__(self) -> str:
        lines = [f"+ {name}" for name in self.added] + [f"- {name}" for name in self.removed]
        for name, parts in self.changed.items():
            lines.append(f"~ {name}: " + ", ".join(f"{key} {old} -> {new}" for key, (old, new) in parts.items()))
        return "\n".join(lines) or "no difference"
