"""What was asked of each parameter, and whether the optimizer's groups say the same, step by step.

A schedule moves all rates by one factor. What was asked at a step is therefore the plan's rate times that factor, and
the factor is known from the schedule where it was handed over, else from the groups themselves: from what a scheduler
left there (``initial_lr``, ``max_lr``), or from what most of them agree in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lrdiff_core.rates import RatePlan
from lrdiff_core.schedules import Schedule

__all__ = ["Asked", "Cell", "Declared", "Factor", "Mark", "base_rate", "of_groups", "of_plan"]

AGREE = 1e-4  # two factors this close are one: rates may be float32 numbers

Factor = Callable[[int], float]  # of a schedule, by the step counted from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one parameter was promised.

    Args:
        rate: before any schedule.
        decay: as the optimizer's ``weight_decay``.
        frozen: it is not to move, until it is unfrozen.
        own_schedule: it has a schedule of its own, so that its factor is not that of the others.
        tied: other names that are to be the same tensor.
    """

    rate: float
    decay: float
    frozen: bool = False
    own_schedule: bool = False
    tied: tuple[str, ...] = ()


def of_plan(plan: RatePlan) -> dict[str, Asked]:
    """By name, what a plan says."""
    return {
        entry.name: Asked(
            rate=entry.lr, decay=entry.weight_decay, frozen=entry.frozen, own_schedule=entry.schedule is not None,
            tied=entry.tied,
        )
        for entry in plan
    }  # fmt: skip


def of_groups(groups: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> dict[str, Asked]:
    """By name, what an optimizer's groups say now.

    Args:
        groups: of the optimizer.
        names: of the model's parameters, by ``id``.
    """
    return {
        names[id(parameter)]: Asked(rate=base_rate(group), decay=float(group.get("weight_decay") or 0.0))
        for group in groups
        for parameter in group["params"]
        if id(parameter) in names
    }


def base_rate(group: Mapping[str, Any]) -> float:
    """A group's rate before its schedule, with the factor that timm's groups leave to timm's schedulers."""
    return _peak(group) * float(group.get("lr_scale", 1.0))


def _peak(group: Mapping[str, Any]) -> float:
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


@dataclass(slots=True)
class Mark:
    """Steps at which something differed: the first, the last, how many, and what was seen at the first."""

    first: int
    last: int
    count: int = 1
    seen: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def note(cls, marks: dict[str, Mark], kind: str, step: int, **seen: Any) -> None:
        """Add a step to the mark of a kind."""
        found = marks.get(kind)
        if found is None:
            marks[kind] = cls(step, step, 1, seen)
        else:
            found.last, found.count = step, found.count + 1


@dataclass(slots=True)
class Cell:
    """Parameters of one group that were asked to learn at one rate.

    Args:
        group: number of the group.
        rate: asked, before the schedule.
        names: of the parameters.
        own_schedule: they have a schedule of their own.
        least, most: of the group's rate over the asked one, before the schedule.
        furthest: from 1, of the group's rate over the asked one at the same step.
        marks: ``"rate"`` where the group's rate is not the asked one times the schedule's factor; ``"late"`` where it
            is that of the step before.
    """

    group: int
    rate: float
    names: tuple[str, ...]
    own_schedule: bool = False
    least: float = math.inf
    most: float = -math.inf
    furthest: float = 1.0
    marks: dict[str, Mark] = field(default_factory=dict)


class Declared:
    """The rates that an optimizer's groups hold, against those asked for.

    Args:
        optimizer: whose groups.
        asked: by name.
        names: of the model's parameters, by ``id``.
        schedule: the one that drives it, or its factor by step; None: the groups tell it.

    Attributes:
        asked: by name.
        bases: the groups' rates before any schedule.
        cells: one a group and asked rate.
        rates: the groups' rates at this step and at the one before.
        factor: of the schedule at this step.
        factors: the least and the most it was.
        moving: whether it ever changed.
        base: where the rates that a scheduler starts from are the asked ones times a constant.
        lost: steps at which all groups held one rate, though several were asked for.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        asked: Mapping[str, Asked],
        names: Mapping[int, str],
        schedule: Schedule | Factor | None,
    ) -> None:
        self.optimizer, self.asked, self.schedule = optimizer, asked, schedule
        self.bases = tuple(base_rate(group) for group in optimizer.param_groups)
        self.rates: tuple[float, ...] = ()
        self.before: tuple[float, ...] = ()
        self.factor = 1.0
        self.factors = (math.inf, -math.inf)
        self.lost = 0
        self.cells: list[Cell] = []
        self.moving = False
        self.base: dict[str, Mark] = {}
        for number, group in enumerate(optimizer.param_groups):
            by_rate: dict[tuple[float, bool], list[str]] = {}
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name is not None and name in asked:
                    by_rate.setdefault((asked[name].rate, asked[name].own_schedule), []).append(name)
            self.cells += [
                Cell(number, rate, tuple(held), own_schedule) for (rate, own_schedule), held in by_rate.items()
            ]

    def read(self, step: int) -> None:
        """Take the groups' rates of a step, counted from 1, and mark the cells that were asked for others."""
        groups = self.optimizer.param_groups
        self.before, self.rates = self.rates, tuple(float(group["lr"]) for group in groups)
        if self.rates == self.before and self.schedule is None:
            for cell in self.cells:
                for mark in cell.marks.values():
                    if mark.last == step - 1:
                        mark.last, mark.count = step, mark.count + 1
            self.lost += bool(self.lost) and len(set(self.rates)) == 1
            return
        held = {cell.group: self.rates[cell.group] for cell in self.cells if cell.group < len(groups)}
        common = self.factor_of(0, step) if self.schedule is not None else self._common(held, step)
        if self.factors[0] <= self.factors[1] and not _same(common, self.factor):
            self.moving = True
        self.factor = common
        several = len({cell.rate for cell in self.cells}) > 1
        self.lost += several and len(set(held.values())) == 1 and any(held.values())
        self.factors = min(self.factors[0], common), max(self.factors[1], common)
        for cell in self.cells:
            if cell.group not in held or not cell.rate:
                continue
            own, wanted = held[cell.group] / cell.rate, self.factor_of(cell.group, step)
            cell.least, cell.most = min(cell.least, own), max(cell.most, own)
            if _same(own, wanted) or (cell.own_schedule and self.schedule is None):
                continue
            Mark.note(cell.marks, "rate", step, rate=held[cell.group], asked=cell.rate * wanted)
            if own and wanted and abs(math.log(own / wanted)) > abs(math.log(cell.furthest)):
                cell.furthest = own / wanted
            if self.schedule is not None and step > 1 and _same(own, self.factor_of(cell.group, step - 1)):
                Mark.note(cell.marks, "late", step)

    def factor_of(self, group: int, step: int) -> float:
        """The schedule's factor for a group at a step that was read."""
        schedule = self.schedule
        if isinstance(schedule, Schedule):
            shape = schedule.shapes[group] if group < len(schedule.shapes) else schedule.later
            return shape.factor(step - 1, schedule.total_steps)
        return self.factor if schedule is None else float(schedule(step - 1))

    def _common(self, held: Mapping[int, float], step: int) -> float:
        """The factor by which a schedule moves all rates at this step, as the groups tell it."""
        votes: dict[float, int] = {}  # parameters by factor
        for cell in sorted(self.cells, key=lambda cell: -cell.rate):
            if cell.group in held and cell.rate and not cell.own_schedule:
                own = held[cell.group] / cell.rate
                same = next((factor for factor in votes if _same(factor, own)), own)
                votes[same] = votes.get(same, 0) + len(cell.names)
        groups = self.optimizer.param_groups
        scheduled = [i for i in held if {"initial_lr", "max_lr"} & set(groups[i]) and _peak(groups[i])]
        moved = [held[i] / _peak(groups[i]) for i in scheduled]
        together = len(moved) == len(held) and all(_same(one, moved[0]) for one in moved)
        if len(votes) == 1:
            (factor,) = votes
            if together and moved and moved[0] and not _same(factor, moved[0]):
                Mark.note(self.base, "base", step, ratio=factor / moved[0])
            return factor
        if together and moved:
            return moved[0]
        if not votes or len(set(held.values())) == 1 or any(_same(factor, 1.0) for factor in votes):
            return 1.0
        return max(votes, key=votes.__getitem__)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=AGREE, abs_tol=1e-12)
