"""What was seen of one parameter over a whole training: marks where it differs, and the figures that a report shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lrdiff_core.audit.asked import Asked, Mark
from lrdiff_core.audit.recognise import STILL, UNKNOWN, Applied, Change
from lrdiff_core.audit.snapshot import Entries

__all__ = ["RATE", "Sight", "Track"]

RATE = 0.01  # two rates this close are one; layers of a usual layer-wise decay differ by 10 % and more
MUON_RATE = 0.03  # of an iteration in bfloat16
DECAY = 0.03  # the same of decays
HALF_DIGITS = 8  # digits of the weight's dtype that a rate may be off by
LEAST = 1e-5  # of a step: a decay that differs by less than this share of it is of no consequence
SURE = 2.0  # errors are three standard deviations; among thousands of looks one may be off by more
_NOTHING = (-1.0, -math.inf)  # how far off a figure is, beyond what is tolerated, and the negative of its error


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look at a parameter's step.

    Args:
        step: of its optimizer, from 1.
        stepper: number of the optimizer.
        group: number of the group.
        change: before and after.
        applied: what was recognised; None where the step could not tell.
        asked: what was asked, before the schedule.
        factor: of the schedule.
        expected: the rule that the optimizer's class promises; None where it promises none.
        declared: the rate of the group.
        before: the rates of all groups at the step before.
        trainable: whether the parameter wants a gradient.
        planned: whether ``asked`` comes from a plan, not from the group itself.
    """

    step: int
    stepper: int
    group: int
    change: Change
    applied: Applied | None
    asked: Asked
    factor: float
    expected: str | None
    declared: float
    before: Sequence[float]
    trainable: bool
    planned: bool


@dataclass(eq=False)
class Track:
    """One parameter's history.

    Attributes:
        marks: by kind, where it differed: ``"applied"`` (its rate is not its group's), ``"late"`` (it is the one of
            the step before), ``"hidden"`` (rounding swallows its steps), ``"decay"``, ``"rule"``, ``"frozen"`` (it
            moved and should not), ``"outside"`` (it moved between steps).
        looks, blind, flat: sampled steps, those without a gradient, those with a gradient of zeros.
        start, end: fingerprints; equal where it never moved.
        wanted, trainable, learnt: it wants a gradient at the start, at the end, in a step that was looked at.
        reached: a gradient was there after a step that was looked at, in an optimizer or not.
        steppers: numbers of the optimizers that step it.
        asked: at the last look.
    """

    name: str
    shape: tuple[int, ...]
    start: int | None = None
    end: int | None = None
    wanted: bool = True
    trainable: bool = True
    marks: dict[str, Mark] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)
    steppers: dict[int, int] = field(default_factory=dict)  # number -> group
    looks: int = 0
    blind: int = 0
    flat: int = 0
    learnt: bool = False
    reached: bool = False
    promised: str | None = None
    asked: Asked | None = None
    size: float = 0.0  # root mean square of the last way that was not nothing
    rate: float | None = None  # the one that differs most from what was asked, without the schedule's factor
    decay: float | None = None
    declared: float = 0.0
    _worst: tuple[float, float] = _NOTHING
    _worst_decay: tuple[float, float] = _NOTHING

    @property
    def rule(self) -> str | None:
        """The rule seen most often; None where none was recognised."""
        return self.rules.most_common(1)[0][0] if self.rules else None

    @property
    def moved(self) -> bool:
        """Whether it differs from the start."""
        return self.start != self.end

    def take(self, sight: Sight) -> None:
        """Add one look."""
        self.looks += 1
        self.steppers[sight.stepper] = sight.group
        self.declared = sight.declared
        self.promised = sight.expected or self.promised
        if sight.asked != self.asked:  # another optimizer has it now
            self.asked, self._worst, self._worst_decay = sight.asked, _NOTHING, _NOTHING
        self.learnt |= sight.trainable
        gradients = sight.change.gradients
        self.blind += not gradients
        self.flat += bool(gradients) and not any(one.any() for one in gradients)
        if not sight.trainable and not np.array_equal(sight.change.before.weight, sight.change.after.weight):
            Mark.note(self.marks, "frozen", sight.step, decay=sight.change.options.get("weight_decay"))
        if sight.applied is None:
            return
        self.size = sight.applied.size or self.size
        if sight.applied.rule not in (UNKNOWN, STILL):
            self.rules[sight.applied.rule] += 1
        as_promised = self._check_rule(sight, sight.applied)
        self._check_rate(sight, sight.applied, as_promised)
        self._check_decay(sight, sight.applied)

    def moved_outside(self, left: Entries, now: Entries) -> None:
        """Note that it moved between two steps; mere shrinking is distinguished from other moves."""
        way = now - left
        square = float(left @ left)
        shrunk = -float(way @ left) / square if square else 0.0
        rest = float(np.linalg.norm(way + shrunk * left))
        allowed = 0.01 * float(np.linalg.norm(way)) + 3e-7 * float(np.linalg.norm(now))
        decay = shrunk / self.declared if rest <= allowed and shrunk > 0 and self.declared else None
        Mark.note(self.marks, "outside", self.looks, decay=decay)

    def _check_rule(self, sight: Sight, applied: Applied) -> bool:
        if sight.expected is None or applied.rule in (sight.expected, UNKNOWN, STILL):
            return True
        if {applied.rule, sight.expected} == {"Adam", "AdamW"} and not applied.decay:
            return True
        Mark.note(self.marks, "rule", sight.step, rule=applied.rule, expected=sight.expected)
        return False

    def _check_rate(self, sight: Sight, applied: Applied, as_promised: bool) -> None:
        if applied.rate is None:
            return
        tolerance = max(MUON_RATE if applied.rule == "Muon" else RATE, HALF_DIGITS * sight.change.digits)

        def same(rate: float) -> bool:
            assert applied.rate is not None
            return abs(applied.rate - rate) <= max(tolerance * abs(rate), SURE * applied.rate_error)

        resolved = applied.rate_error <= RATE * max(abs(applied.rate), sight.declared)
        if resolved and sight.factor:
            off = abs(math.log(max(applied.rate, 1e-300) / (sight.asked.rate * sight.factor or 1e-300)))
            error = applied.rate_error / max(abs(applied.rate), 1e-300)  # what stands still has a rate of 0
            if (worst := (max(off - tolerance, 0.0), -error)) > self._worst:
                self._worst, self.rate = worst, applied.rate / sight.factor
        if sight.expected is None or not as_promised:
            return
        if applied.rule == STILL and applied.rate_error >= sight.declared > 0:
            Mark.note(self.marks, "hidden", sight.step)
        elif not same(sight.declared):
            before = sight.before[sight.group] if sight.group < len(sight.before) else None
            late = before is not None and same(before)
            Mark.note(self.marks, "late" if late else "applied", sight.step, rate=applied.rate, declared=sight.declared)

    def _check_decay(self, sight: Sight, applied: Applied) -> None:
        declared = sight.change.options.get("weight_decay")
        declared = declared if isinstance(declared, int | float) else None
        wanted = sight.asked.decay if sight.planned or declared is None else float(declared)
        if declared is not None and not _close(float(declared), wanted, 1e-6):
            Mark.note(self.marks, "decay", sight.step, decay=float(declared), asked=wanted, group=True)
        if applied.decay is None or applied.rule in (UNKNOWN, STILL) or applied.rate is None:
            return
        resolved = applied.decay_error <= DECAY * max(wanted, applied.decay)
        weight = sight.change.before.weight
        weights = applied.rate * math.sqrt(float(weight @ weight) / weight.size)
        if not resolved and applied.decay_error * weights < 1e-3 * applied.size:
            resolved = not wanted  # no decay, as exactly as it matters
        off = abs(applied.decay - wanted)
        if resolved and (worst := (max(off - DECAY * wanted, 0.0), -applied.decay_error)) > self._worst_decay:
            self._worst_decay = worst
            self.decay = applied.decay if abs(applied.decay) > applied.decay_error else 0.0
        if sight.expected is None:
            return
        if off > max(DECAY * wanted, SURE * applied.decay_error) and off * weights > LEAST * applied.size:
            Mark.note(
                self.marks, "decay", sight.step, decay=applied.decay, asked=wanted, coupled=applied.coupled, group=False
            )


def _close(one: float, other: float, tolerance: float) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
