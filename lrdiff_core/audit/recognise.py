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
======================  ===================================================================

Least squares give rate :math:`\gamma` and decay :math:`\lambda`; what they leave unexplained says whether it was that
rule. A decay that went through the gradient (SGD, Adam) shows in the moments:
:math:`m' = \mu m + \kappa (g + \lambda w)`.
Of rules that explain a step equally well, that one is taken which does so at the group's rate. Errors are three
standard deviations, of the rest or of the weights' own rounding, whichever is larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from lrdiff_core.audit.snapshot import Entries, Look
from lrdiff_core.optim.muon import COEFFICIENTS, EPS, STEPS, orthogonalize

__all__ = ["RULES", "Applied", "Change", "expected_rule", "recognise"]

UNKNOWN = "unknown"
STILL = "-"  # it did not move
TOLERANCE = 1e-3  # of a step, what a rule may leave unexplained in float32
MUON_TOLERANCE = 0.05  # the Newton-Schulz iteration is computed in bfloat16, each time in another order
FEWEST = 6  # entries; of fewer, any rule explains the step, and the expected one is taken
SIGMAS = 3.0
FLAT = 1e-4  # two columns this parallel are one


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One tensor's step.

    Args:
        before, after: what was looked at.
        gradients: that the step may have used, ``[entries]`` each: before it, and after it, where an optimizer clips.
        options: of the parameter's group.
        digits: of the weight's dtype, see :func:`~lrdiff_core.audit.snapshot.digits`.
        shape: of the tensor, where all of it was looked at.
        hint: the rule that is tried first.
    """

    before: Look
    after: Look
    gradients: Sequence[Entries] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    digits: float = 2.0**-23
    shape: tuple[int, ...] | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a step really did to a tensor.

    Args:
        rule: one of :data:`RULES`, ``"unknown"``, or ``"-"`` where it stood still.
        rate: None where the rule is unknown.
        rate_error: the rate may be off by so much.
        decay: as ``weight_decay`` counts it; None where it cannot be told from the step.
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


@dataclass(frozen=True, slots=True)
class _Guess:
    """A direction that a rule would have gone; ``moment`` names the one whose history tells a decay in the gradient."""

    direction: Entries
    moment: str | None = None
    scale: float = 1.0  # the direction's own factor, part of the rule
    tolerance: float = TOLERANCE


def recognise(change: Change) -> Applied:
    """Tell rule, rate and decay of one step.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> weight, gradient = rng.normal(size=100), rng.normal(size=100)
        >>> after = weight - 0.1 * (gradient + 0.01 * weight)
        >>> change = Change(before=Look(weight=weight), after=Look(weight=after), gradients=[gradient])
        >>> told = recognise(change)
        >>> told.rule, round(told.rate, 6), round(told.decay, 6)
        ('SGD', 0.1, 0.01)
    """
    moved = change.after.weight - change.before.weight
    size = _norm(moved) / math.sqrt(moved.size) if moved.size else 0.0
    noise = change.digits / 2 * np.maximum(np.abs(change.before.weight), np.abs(change.after.weight))
    # Of few numbers, or of numbers that rounding blurs, every rule makes sense.
    any_rule = moved.size < FEWEST or SIGMAS * _norm(noise) > 0.1 * _norm(moved)
    names = [change.hint] if any_rule and change.hint else [change.hint, *(n for n in RULES if n != change.hint)]
    wanted = _number(change.options, "lr", 0.0)
    first = None
    for name in filter(None, names):
        for guess in RULES[name](change):
            told = _weigh(name, guess, change, moved, noise)
            if told is not None and (not wanted or told.rule == STILL or told.at(wanted)):
                return replace(told, size=size)
            first = first or told
    return replace(first or Applied(rule=UNKNOWN if size else STILL), size=size)


def _number(options: Mapping[str, Any], key: str, default: float) -> float:
    """An option, where it is one number: other optimizers may mean other things by its name."""
    value = options.get(key)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) else default


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
    return None


# -- fitting -----------------------------------------------------------------------------------------------------------


def _weigh(name: str, guess: _Guess, change: Change, moved: Entries, noise: Entries) -> Applied | None:
    """Fit the step to a guess; None where it does not explain it."""
    before, direction = change.before.weight, guess.direction * guess.scale
    if not direction.any():
        return None
    if not moved.any():  # at most what rounding swallows
        seen = np.abs(direction) > 0
        return Applied(rule=STILL, rate=0.0, rate_error=float((noise[seen] / np.abs(direction[seen])).max(initial=0.0)))
    hidden = _norm(noise)
    allowed = SIGMAS * hidden + max(guess.tolerance, 8 * change.digits) * _norm(moved)
    fit = _fit(moved, [direction, before], hidden)
    own = _number(change.options, "weight_decay", 0.0)
    if fit is None:  # too few numbers, or all weights along the direction: take the decay on trust
        fit = _fit(moved, [direction + own * before if name in _OUTSIDE else direction], hidden)
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
        coupled, coupled_error, _ = _transition(change, guess.moment)
    if name == "SGD Nesterov":  # g alone stands in its direction, without the decay that its momentum holds
        decay -= coupled
    told = name
    if name in ("Adam", "AdamW") and max(decay - error, coupled - 2 * coupled_error) > 0:
        told = "AdamW" if decay > coupled else "Adam"
    error = math.hypot(error, coupled_error)
    return Applied(
        rule=told,
        rate=rate,
        rate_error=fit.errors[0],
        coupled=coupled,
        decay=decay + coupled if math.isfinite(error) else None,
        decay_error=error,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    factors: tuple[float, ...]
    errors: tuple[float, ...]
    rest: float  # norm of what is left


def _fit(target: Entries, columns: Sequence[Entries], hidden: float) -> _Fit | None:
    """Least squares; columns of zeros get the factor 0. None where the columns do not differ, or are too many."""
    norms = [_norm(column) for column in columns]
    used = [i for i, norm in enumerate(norms) if norm > 0]
    count = target.size
    if not used or count < len(used) or (len(used) > 1 and count < FEWEST):
        return None
    matrix = np.array([columns[i] / norms[i] for i in used])  # [columns, entries]
    inverse = _inverse(matrix @ matrix.T)
    if inverse is None:
        return None
    found = inverse @ (matrix @ target)
    rest = _norm(target - found @ matrix)
    spread = max(rest / math.sqrt(max(count - len(used), 1)), hidden / math.sqrt(count))
    factors, errors = [0.0] * len(columns), [math.inf] * len(columns)
    for place, i in enumerate(used):
        factors[i] = float(found[place]) / norms[i]
        errors[i] = SIGMAS * spread * math.sqrt(float(inverse[place, place])) / norms[i]
    return _Fit(tuple(factors), tuple(errors), rest)


def _inverse(gram: Entries) -> Entries | None:
    """Of the products of columns of length 1; None where two of them are one."""
    if len(gram) == 2:  # by hand: numpy takes ten times as long
        cosine = float(gram[0, 1])
        sine = 1 - cosine**2
        return np.array([[1.0, -cosine], [-cosine, 1.0]]) / sine if sine > FLAT**2 else None
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        return None
    return np.asarray(inverse) if (inverse.diagonal() < 1 / FLAT**2).all() else None


def _norm(numbers: Entries) -> float:
    return math.sqrt(float(numbers @ numbers))


# -- the rules ---------------------------------------------------------------------------------------------------------


def _sgd(change: Change) -> Iterator[_Guess]:
    for gradient in change.gradients:
        yield _Guess(gradient)


def _momentum(change: Change) -> Iterator[_Guess]:
    for name, moment in change.after.moments.items():
        yield _Guess(moment, name)


def _nesterov(change: Change) -> Iterator[_Guess]:
    for name, moment in change.after.moments.items():
        momentum = _number(change.options, "momentum", 0.0) or _transition(change, name)[2]
        for gradient in change.gradients if momentum else ():
            yield _Guess(gradient + momentum * moment, name)


def _adam(change: Change, *, corrected: bool = True) -> Iterator[_Guess]:
    moments, steps = change.after.moments, change.after.steps or change.options.get("step")
    squares = [name for name in ("max_exp_avg_sq", "exp_avg_sq") if name in moments] or list(moments)
    firsts = ["exp_avg"] if "exp_avg" in moments else list(moments)
    eps = _number(change.options, "eps", 1e-8)
    for first in firsts:
        for square in squares:
            if square == first or (moments[square] < 0).any():
                continue
            m, v = moments[first], moments[square]
            if corrected:
                beta1, beta2 = _betas(change, first, square)
                if not isinstance(steps, int) or not (0 < beta1 < 1 and 0 < beta2 < 1):
                    continue
                m, v = m / (1 - beta1**steps), v / (1 - beta2**steps)
            yield _Guess(m / (np.sqrt(v) + eps), first)


def _uncorrected_adam(change: Change) -> Iterator[_Guess]:
    return _adam(change, corrected=False)


def _lion(change: Change) -> Iterator[_Guess]:
    for name in change.after.moments:
        moment = change.before.moments.get(name, np.zeros_like(change.before.weight))
        for gradient in change.gradients:
            beta = _beta_pair(change.options)[0]
            mixed = beta * moment + (1 - beta) * gradient
            yield _Guess(np.sign(mixed))


def _muon(change: Change) -> Iterator[_Guess]:
    shape, options = change.shape, change.options
    if shape is None or len(shape) < 2:
        return
    rows, columns = shape[0], math.prod(shape[1:])
    fitting = {
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        "original": math.sqrt(max(1, rows / columns)),
    }
    scale = fitting.get(options.get("adjust_lr_fn") or "original", 1.0)
    how = options.get("ns_coefficients", COEFFICIENTS), int(_number(options, "ns_steps", STEPS)), EPS
    for moment in change.after.moments.values():
        mu = _number(options, "momentum", 0.95)
        mixes = [moment, *((1 - mu) * gradient + mu * moment for gradient in change.gradients)]
        for mixed in reversed(mixes) if options.get("nesterov", True) else mixes:
            matrix = torch.from_numpy(mixed).reshape(1, rows, columns).float()
            direction = orthogonalize(matrix, *how).double().reshape(-1).numpy()
            yield _Guess(direction, scale=scale, tolerance=MUON_TOLERANCE)


def _transition(change: Change, name: str) -> tuple[float, float, float]:
    r"""The decay in a moment, its error, and :math:`\mu`: from :math:`m' = \mu m + \kappa (g + \lambda w)`."""
    moment = change.after.moments[name]
    before = change.before.moments.get(name, np.zeros_like(moment))
    hidden = change.digits * _norm(moment)
    for gradient in change.gradients:
        fit = _fit(moment, [before, gradient, change.before.weight], hidden)
        if fit is not None and fit.factors[1] and fit.rest < 0.1 * _norm(moment):
            kept, taken, decay = fit.factors
            return decay / taken, fit.errors[2] / abs(taken), kept
    return 0.0, math.inf if change.gradients else 0.0, 0.0


def _beta_pair(options: Mapping[str, Any], default: tuple[float, float] = (0.9, 0.99)) -> tuple[float, float]:
    match options.get("betas"):
        case (float() as first, float() as second, *_):
            return first, second
    return default


def _betas(change: Change, first: str, square: str) -> tuple[float, float]:
    given = _beta_pair(change.options, (0.0, 0.0))
    if all(given):
        return given
    kept = _transition(change, first)[2]
    before = change.before.moments.get(square)
    for gradient in change.gradients if before is not None else ():
        assert before is not None
        fit = _fit(change.after.moments[square], [before, gradient**2], 0.0)
        if fit is not None:
            return kept, fit.factors[0]
    return kept, 0.0


# In the order in which they are tried; of rules that explain a step equally well, the hint and then the first.
RULES: dict[str, Callable[[Change], Iterator[_Guess]]] = {
    "SGD": _sgd,
    "SGD momentum": _momentum,
    "SGD Nesterov": _nesterov,
    "AdamW": _adam,
    "Adam": _adam,
    "Lion": _lion,
    "Muon": _muon,
    "Adam without bias correction": _uncorrected_adam,
}
_OUTSIDE = frozenset({"SGD", "SGD Nesterov", "AdamW", "Lion", "Muon"})  # whose direction does not hold the decay yet
