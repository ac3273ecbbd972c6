"""Why an optimizer's groups hold other rates than those asked for: one cause for all groups that share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lrdiff_core.audit.asked import Cell, Declared
from lrdiff_core.audit.report import Finding
from lrdiff_core.audit.stepper import Stepper
from lrdiff_core.audit.track import RATE
from lrdiff_core.audit.words import few, numbers, verb

__all__ = ["causes"]


def causes(stepper: Stepper, declared: Declared, *, note: bool) -> Iterator[Finding]:
    """Findings about an optimizer's groups.

    Args:
        stepper: that stepped.
        declared: the groups' rates, as they were read at each step.
        note: nothing else was asked than what the groups said at first, so that a change of ratios may be meant.
    """
    cells = [cell for cell in declared.cells if cell.rate and cell.least <= cell.most]
    if not cells:
        return
    if all(cell.most == 0 for cell in cells):
        yield Finding(
            kind="rate-zero",
            text=f"all rates of {stepper.label} are 0 at every step",
            help="look at its scheduler: was it made at rates of 0, or is its warm-up longer than this?",
            parameters=_names(cells),
            since=1,
        )
        return
    marked = [cell for cell in cells if "rate" in cell.marks]
    if marked:
        yield _why(stepper, declared, marked, note)
    elif declared.schedule is None:
        yield from _whether_scaled(stepper, declared, [cell for cell in cells if not cell.own_schedule], note)


def _whether_scaled(stepper: Stepper, declared: Declared, cells: Sequence[Cell], note: bool) -> Iterator[Finding]:
    """Ratios are kept: are the rates themselves those asked for?"""
    ratio, since = max((cell.most for cell in cells), default=1.0), 1
    mark = declared.base.get("base")
    if mark is not None and (mark.first > 1 or abs(ratio - 1) > 2 * RATE):  # else it starts low and peaks as asked
        ratio, since = mark.seen["ratio"], mark.first
    elif declared.moving:
        return
    if abs(ratio - 1) > RATE:
        common: dict[str, Any] = {"parameters": _names(cells), "since": since, "note": note}
        loaded = next((at for at in stepper.loaded if at + 1 == since), None)
        yield (
            _scaled(stepper, cells, ratio, common)
            if loaded is None
            else _loaded(loaded, common, f"at {ratio:.3g} times the rate asked for")
        )


def _loaded(step: int, common: dict[str, Any], how: str) -> Finding:
    names = common["parameters"]
    return Finding(
        kind="loaded",
        text=f"a state loaded after step {step} overrides the rates: {few(names)} {verb(names, 'learn')} {how}",
        help="set the groups' lr and initial_lr again after load_state_dict",
        **common,
    )


def _why(stepper: Stepper, declared: Declared, marked: Sequence[Cell], note: bool) -> Finding:
    """Name the cause by what the marks look like."""
    marks = [cell.marks["rate"] for cell in marked]
    since, last = min(mark.first for mark in marks), max(mark.last for mark in marks)
    until = None if last >= stepper.steps else last
    names, label = _names(marked), stepper.label
    common: dict[str, Any] = {"parameters": names, "since": since, "until": until, "note": note}
    when = f"since step {since}" if until is None else f"from step {since} to {until}"
    rates, ratios = [mark.seen["rate"] for mark in marks], [_ratio(cell) for cell in marked]
    instead = f"at {numbers(rates)} instead of {numbers(mark.seen['asked'] for mark in marks)}"
    steps = sum(mark.count for mark in marks)
    all_alike = len(marked) == len(declared.cells) and all(math.isclose(r, ratios[0], rel_tol=RATE) for r in ratios)

    if sum(cell.marks["late"].count for cell in marked if "late" in cell.marks) > 0.9 * steps:
        what = f"the schedule lags: {label} takes each step at the rate of the step before"
        return Finding(
            kind="late", text=what, help="step the scheduler once after every optimizer step, before the next", **common
        )
    scales = [float(stepper.optimizer.param_groups[cell.group].get("lr_scale", 1.0)) for cell in marked]
    unscaled = [math.isclose(ratio * scale, 1.0, rel_tol=RATE) for ratio, scale in zip(ratios, scales, strict=True)]
    if any(scale != 1 for scale in scales) and all(unscaled):
        what = f"nothing applies the lr_scale of {label}'s groups: {few(names)} {verb(names, 'learn')} {instead}"
        help = "multiply it into lr (plan.groups() does), or use the scheduler that knows lr_scale"
        return Finding(kind="lr-scale", text=what, help=help, **{**common, "note": False})
    loaded = next((at for at in stepper.loaded if at + 1 == since), None)
    if loaded is not None:
        return _loaded(loaded, common, instead)
    if declared.schedule is not None and all_alike:
        what = f"the rates of {label} do not follow the schedule {when}: {few(names)} {verb(names, 'learn')} {instead}"
        help = "step the scheduler once an optimizer step; after load_state_dict, let it move the groups that are new"
        return Finding(kind="schedule", text=what, help=help, **common)
    asked = sorted({cell.rate for cell in declared.cells if cell.rate})
    if declared.lost > 0.9 * (last - since + 1):
        what = (
            f"{len(asked)} rates were asked for ({numbers(asked)}), and all {len(_names(declared.cells))} parameters "
            f"of {label} learn at one, {numbers(declared.rates)} {when}"
        )
        help = "hand plan.groups() to the optimizer that really steps, and give its scheduler a factor, not a rate"
        return Finding(kind="groups-lost", text=what, help=help, **common)
    if len(set(rates)) > 1 and sorted(rates) == sorted(cell.rate for cell in marked):
        what = f"groups of {label} hold each other's rates: {few(names)} {verb(names, 'learn')} {instead}"
        return Finding(kind="swapped", text=what, help="load by name, and keep the order of the groups", **common)
    if since == 1 and until is not None and len(marked) < len(declared.cells):
        times = f"{numbers(ratios)} times what the other groups' schedule means"
        what = f"the warm-up moves some groups only: {when} {few(names)} {verb(names, 'learn')} at {times}"
        help = "let the scheduler set every group: one factor for all, or one a group"
        return Finding(kind="warm-up", text=what, help=help, **common)
    if declared.moving or any(cell.least != cell.most for cell in marked):
        times = f"up to {numbers(cell.furthest for cell in marked)} times what was asked"
        what = f"the schedule of {label} does not keep ratios: {when} {few(names)} {verb(names, 'learn')} at {times}"
        help = "multiply each group's own rate by one factor (Schedule does); an absolute eta_min does not"
        return Finding(kind="ratio", text=what, help=help, **common)
    what = f"{few(names)} {verb(names, 'learn')} {instead} {when}, by the groups of {label}"
    help = "look at what makes or changes the groups: print optimizer.param_groups before the first step"
    return Finding(kind="rate", text=what, help=help, **common)


def _scaled(stepper: Stepper, cells: Sequence[Cell], ratio: float, common: dict[str, Any]) -> Finding:
    rate = cells[0].rate
    return Finding(
        kind="scaled",
        text=f"all rates of {stepper.label} are {ratio:.3g} times those asked, {rate * ratio:.3g} for {rate:.3g}",
        help="look for a setting that multiplies the rate (number of processes, batch size, a configuration's own lr)",
        **common,
    )


def _ratio(cell: Cell) -> float:
    """The group's rate over the asked one, at the first step that was marked."""
    seen = cell.marks["rate"].seen
    return seen["rate"] / seen["asked"] if seen["asked"] else math.inf


def _names(cells: Iterable[Cell]) -> tuple[str, ...]:
    return tuple(name for cell in cells for name in cell.names)
