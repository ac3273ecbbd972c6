r"""Which rule moved a tensor, at which rate and decay, read off the numbers alone.

A step by a known rule moves the looked-at entries :math:`w` along a direction :math:`u` that follows from gradient and
moments, and towards zero by the decay:

.. math:: w' - w = -\gamma\, u - \gamma\lambda\, w

======================  ===================================================================
SGD                     :math:`u = g`
SGD, momentum           :math:`u = m'`, the momentum after the step
SGD, Nesterov           :math:`u = g + \mu m'`
Adam, AdamW             :math:`u = \hat m' / (\sqrt{\hat v'} + \epsilon)`
Lion                    :math:`u = \operatorname{sign}(\beta_1 m + (1 - \beta_1) g)`
Muon                    :math:`u = \rho\, \mathrm{NS}(m')`, or of :math:`(1 - \mu) g + \mu m'`
NAdam, RAdam            as Adam, with the mix or the rectification of their papers
Adagrad, RMSprop        :math:`u = g / (\sqrt{v'} + \epsilon)`; with momentum :math:`u = b'`
======================  ===================================================================

Least squares give rate :math:`\gamma` and decay :math:`\lambda`; what they leave unexplained says whether it was that
rule. The last two lines are tried where torch's class promises them; Adagrad's and RMSprop's decay is taken on trust.
A decay that went through the gradient (SGD, Adam) shows in the moments:
:math:`m' = \mu m + \kappa (g + \lambda w)`.
Of rules that explain a step equally well, that one is taken which does so at the group's rate. Errors are three
standard deviations, of the rest or of the weights' own rounding, whichever is larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lrdiff_core.audit.least_squares import FEWEST, SIGMAS, fit_columns, norm
from lrdiff_core.audit.snapshot import Entries
from lrdiff_core.audit.update_rules import MUON_TOLERANCE, PROMISED, RULES, Change, Guess, moment_decay, number_of

__all__ = ["RULES", "Applied", "Change", "expected_rule", "recognise"]

UNKNOWN = "unknown"
STILL = "-"  # it did not move


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a step really did to a tensor.

    Args:
        rule: one of :data:`RULES` or :data:`PROMISED`, ``"unknown"``, or ``"-"`` where it stood still.
        rate: None where the rule is unknown.
        rate_error: the rate may be off by so much.
        decay: as ``weight_decay`` counts it; None where it cannot be found from the step.
        decay_error: the same of the decay.
        coupled: the part of the decay that went through the gradient.
        size: root mean square of the way that the entries went.
    """

    rule: str
    rate: float | None = None
    rate_error: float = math.inf
    decay: float | None = None
    decay_error: float = math.inf
    coupled: float = 0.0
    size: float = 0.0

    def at(self, rate: float) -> bool:
        """Whether the step was made at about this rate."""
        return self.rate is not None and math.isclose(self.rate, rate, rel_tol=MUON_TOLERANCE)


def recognise(change: Change) -> Applied:
    """Determine the rule, rate and decay of one step.

    Example:
        >>> from lrdiff_core.audit.snapshot import Look
        >>> rng = np.random.default_rng(0)
        >>> weight, gradient = rng.normal(size=100), rng.normal(size=100)
        >>> after = weight - 0.1 * (gradient + 0.01 * weight)
        >>> change = Change(before=Look(weight=weight), after=Look(weight=after), gradients=[gradient])
        >>> found = recognise(change)
        >>> found.rule, round(found.rate, 6), round(found.decay, 6)
        ('SGD', 0.1, 0.01)
    """
    moved = change.after.weight - change.before.weight
    size = norm(moved) / math.sqrt(moved.size) if moved.size else 0.0
    noise = change.digits / 2 * np.maximum(np.abs(change.before.weight), np.abs(change.after.weight))
    # Of few numbers, or of numbers that rounding blurs, every rule makes sense.
    any_rule = moved.size < FEWEST or SIGMAS * norm(noise) > 0.1 * norm(moved)
    names = [change.hint] if any_rule and change.hint else [change.hint, *(n for n in RULES if n != change.hint)]
    wanted = number_of(change.options, "lr", 0.0)
    first = None
    for name in filter(None, names):
        for guess in (RULES.get(name) or PROMISED[name])(change):
            found = _explain(name, guess, change, moved, noise)
            if found is not None and (not wanted or found.rule == STILL or found.at(wanted)):
                return replace(found, size=size)
            first = first or found
    return replace(first or Applied(rule=UNKNOWN if size else STILL), size=size)


def expected_rule(optimizer: torch.optim.Optimizer, options: Mapping[str, Any]) -> str | None:
    """The rule that an optimizer promises for a group, by the names of its classes; None where they say none.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> expected_rule(torch.optim.SGD([weight], momentum=0.9), {"momentum": 0.9})
        'SGD momentum'
    """
    for cls in type(optimizer).__mro__:
        name = cls.__name__.lower()
        if "muon" in name and options.get("use_muon", "use_muon" not in options):
            return "Muon"
        if name == "lion":
            return "Lion"
        if name == "adamw" or "muon" in name:
            return "AdamW"
        if name == "adam":
            return "AdamW" if options.get("decoupled_weight_decay") else "Adam"
        if name == "sgd":
            if not options.get("momentum"):
                return "SGD"
            return "SGD Nesterov" if options.get("nesterov") else "SGD momentum"
        for rule in PROMISED:
            if cls is getattr(torch.optim, rule):
                return rule
    return None


def _explain(name: str, guess: Guess, change: Change, moved: Entries, noise: Entries) -> Applied | None:
    """Fit the step to a guess; None where it does not explain it."""
    before, direction = change.before.weight, guess.direction * guess.scale
    if not direction.any():
        return None
    if not moved.any():  # at most what rounding swallows
        seen = np.abs(direction) > 0
        return Applied(rule=STILL, rate=0.0, rate_error=float((noise[seen] / np.abs(direction[seen])).max(initial=0.0)))
    hidden = norm(noise)
    allowed = SIGMAS * hidden + max(guess.tolerance, 8 * change.digits) * norm(moved)
    fit = fit_columns(moved, [direction, before], hidden)
    own = number_of(change.options, "weight_decay", 0.0)
    if fit is None:  # too few numbers, or all weights along the direction: take the decay on trust
        fit = fit_columns(moved, [direction + own * before if name in _OUTSIDE else direction], hidden)
        if fit is None or fit.rest > allowed:
            return None
        return Applied(rule=name, rate=-fit.factors[0], rate_error=fit.errors[0])
    if fit.rest > allowed or not fit.factors[0]:
        return None
    rate, decoupled = -fit.factors[0], -fit.factors[1]
    # 1 - rate * decay is a number of the weight's dtype, too
    decay, error = decoupled / rate, (fit.errors[1] + change.digits / 2) / abs(rate)
    coupled = coupled_error = 0.0
    if guess.moment is not None and (name != "AdamW" or abs(decay - own) > error):
        coupled, coupled_error, _ = moment_decay(change, guess.moment)
    if name == "SGD Nesterov":  # g alone stands in its direction, without the decay that its momentum holds
        decay -= coupled
    rule = name
    if name in ("Adam", "AdamW") and max(decay - error, coupled - 2 * coupled_error) > 0:
        rule = "AdamW" if decay > coupled else "Adam"
    error = math.inf if guess.trusts and own else math.hypot(error, coupled_error)
    return Applied(
        rule=rule,
        rate=rate,
        rate_error=fit.errors[0],
        coupled=coupled,
        decay=decay + coupled if math.isfinite(error) else None,
        decay_error=error,
    )


_OUTSIDE = frozenset({"SGD", "SGD Nesterov", "AdamW", "Lion", "Muon"})  # whose direction does not hold the decay yet
