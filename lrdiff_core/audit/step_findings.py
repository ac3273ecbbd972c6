"""Findings about steps: the rate, rule and decay that they were made with, and what moved between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lrdiff_core.audit.asked import Mark
from lrdiff_core.audit.least_squares import FEWEST
from lrdiff_core.audit.report import Finding
from lrdiff_core.audit.track import DECAY, Track
from lrdiff_core.audit.watch import Watch
from lrdiff_core.audit.words import few, numbers, verb

__all__ = ["step_findings"]


def step_findings(watch: Watch) -> Iterator[Finding]:
    """What sampled steps did that was not asked for; one finding for all parameters that share it."""
    steps = max(one.steps for one in watch.steppers)
    alike: dict[tuple[Any, ...], list[tuple[Track, Mark]]] = {}
    renamed = any("rule" in track.marks for track in watch.tracks.values())
    for track in watch.tracks.values():
        for kind, mark in track.marks.items():
            if kind == "applied" and renamed and math.prod(track.shape) < FEWEST:
                continue  # too small to tell its rule, and the larger tensors say that it is another one
            alike.setdefault((kind, *_KEYS.get(kind, _no_key)(mark)), []).append((track, mark))
    for (kind, *_), several in sorted(alike.items(), key=lambda item: _ORDER.index(item[0][0])):
        names = tuple(track.name for track, _ in several)
        marks = [mark for _, mark in several]
        since, last = min(mark.first for mark in marks), max(mark.last for mark in marks)
        until = None if last + 2 * watch.every > steps else last
        found = _FINDINGS[kind](names, marks)
        if found.kind == "hidden" and not all(track.moved for track, _ in several):
            found = _with(found, note=False)
        yield _with(found, parameters=names, since=None if kind == "outside" else since, until=until)


def _with(finding: Finding, **changes: Any) -> Finding:
    return Finding(**{key: getattr(finding, key) for key in Finding.__slots__} | changes)


def _finding_applied(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    rates, declared = [mark.seen["rate"] for mark in marks], [mark.seen["declared"] for mark in marks]
    way = f"{verb(names, 'move')} as at {numbers(rates)}" if any(rates) else f"{verb(names, 'stand')} still"
    return Finding(
        kind="applied",
        text=f"{few(names)} {way}, while the groups say {numbers(declared)} (step {marks[0].first})",
        help="the optimizer does not use its groups' lr: it may have copied it, or multiply it by something",
    )


def _finding_late(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    seen = marks[0].seen
    return Finding(
        kind="late",
        text=f"{few(names)} {verb(names, 'move')} at the rate of the step before: {seen['rate']:.3g} while the group "
        f"says {seen['declared']:.3g} (step {marks[0].first})",
        help="the optimizer reads its rates too early: let it read lr from its groups inside of step()",
    )


def _finding_hidden(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    return Finding(
        kind="hidden",
        text=f"{few(names)} {verb(names, 'stand')} still: steps at this rate are smaller than the weights' digits",
        help="keep the weights in float32 (autocast, or master weights), or raise the rate",
        note=True,
    )


def _finding_rule(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    rule, expected = marks[0].seen["rule"], marks[0].seen["expected"]
    return Finding(
        kind="rule",
        text=f"{few(names)} {verb(names, 'are')} stepped by {rule}, not by {expected} as the optimizer promises",
        help="look at the settings that choose the rule (momentum, use_muon, the stage of a sharded optimizer)",
    )


def _finding_decay(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    kind = _decay_kind(marks[0])
    asked, applied = (numbers(mark.seen[key] for mark in marks) for key in ("asked", "decay"))
    plural, what = verb(names, "decay"), f"the decay of {few(names)}"
    text, help = {
        "decay-twice": (f"{what} is applied twice: {applied} instead of {asked}", _DECAY_ONCE),
        "decay-lost": (f"{what} is not applied: {asked} was asked for", "look at which weight_decay the groups have"),
        "decay-everywhere": (
            f"{few(names)} {plural} at {applied} and should not at all",
            "give what is not to decay (biases, norms) a group with weight_decay=0",
        ),
        "decay": (f"{what} is {applied} instead of {asked}", "look at which weight_decay the optimizer really gets"),
    }[kind]
    return Finding(kind=kind, text=text, help=help)


def _decay_kind(mark: Mark) -> str:
    applied, asked = mark.seen["decay"], mark.seen["asked"]
    if not asked:
        return "decay-everywhere"
    if math.isclose(applied, 2 * asked, rel_tol=2 * DECAY):
        return "decay-twice"
    return "decay-lost" if abs(applied) < DECAY * asked else "decay"


_DECAY_ONCE = "decay in one place: the optimizer's weight_decay, or your own, not both"


def _finding_frozen(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    return Finding(
        kind="frozen-moves",
        text=f"{few(names)} {verb(names, 'are')} frozen and {verb(names, 'move')} in optimizer steps",
        help="drop the gradient that is left (grad = None) when you freeze: momentum and decay go on with it",
    )


def _finding_outside(names: Sequence[str], marks: Sequence[Mark]) -> Finding:
    decays = [mark.seen["decay"] for mark in marks]
    if None not in decays:
        return Finding(
            kind="decay-twice",
            text=f"{few(names)} {verb(names, 'shrink')} between steps, as by a decay of {numbers(decays)} beside the "
            "optimizer's",
            help=_DECAY_ONCE,
        )
    return Finding(
        kind="outside",
        text=f"{few(names)} {verb(names, 'move')} between steps, by no optimizer's step",
        help="right where you clamp or replace weights yourself; else look for who writes to them",
        note=True,
    )


_FINDINGS: dict[str, Callable[[Sequence[str], Sequence[Mark]], Finding]] = {
    "rule": _finding_rule,
    "applied": _finding_applied,
    "late": _finding_late,
    "decay": _finding_decay,
    "outside": _finding_outside,
    "frozen": _finding_frozen,
    "hidden": _finding_hidden,
}
_ORDER = list(_FINDINGS)


# What two parameters' marks have to share to be one finding.
def _no_key(mark: Mark) -> tuple[Any, ...]:
    return ()


_KEYS: dict[str, Callable[[Mark], tuple[Any, ...]]] = {
    "rule": lambda mark: (mark.seen["rule"], mark.seen["expected"]),
    "decay": lambda mark: (_decay_kind(mark),),
    "outside": lambda mark: (mark.seen["decay"] is None,),
}
