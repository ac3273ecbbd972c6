"""The directions that known update rules would have gone with the gradients and moments of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lrdiff_core.audit.least_squares import fit_columns, norm
from lrdiff_core.audit.snapshot import Entries, Look
from lrdiff_core.optim.rules.muon import COEFFICIENTS, EPS, STEPS, orthogonalize

__all__ = ["RULES", "Change", "Guess", "moment_decay", "number_of"]

TOLERANCE = 1e-3  # of a step, what a rule may leave unexplained in float32
MUON_TOLERANCE = 0.05  # the Newton-Schulz iteration is computed in bfloat16, each time in another order


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


@dataclass(frozen=True, slots=True)
class Guess:
    """A direction that a rule would have gone; ``moment`` names the one whose history tells a decay in the gradient."""

    direction: Entries
    moment: str | None = None
    scale: float = 1.0  # the direction's own factor, part of the rule
    tolerance: float = TOLERANCE


def number_of(options: Mapping[str, Any], key: str, default: float) -> float:
    """An option, where it is one number: other optimizers may mean other things by its name."""
    value = options.get(key)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) else default


def _sgd(change: Change) -> Iterator[Guess]:
    for gradient in change.gradients:
        yield Guess(gradient)


def _momentum(change: Change) -> Iterator[Guess]:
    for name, moment in change.after.moments.items():
        yield Guess(moment, name)


def _nesterov(change: Change) -> Iterator[Guess]:
    for name, moment in change.after.moments.items():
        momentum = number_of(change.options, "momentum", 0.0) or moment_decay(change, name)[2]
        for gradient in change.gradients if momentum else ():
            yield Guess(gradient + momentum * moment, name)


def _adam(change: Change, *, corrected: bool = True) -> Iterator[Guess]:
    moments, steps = change.after.moments, change.after.steps or change.options.get("step")
    squares = [name for name in ("max_exp_avg_sq", "exp_avg_sq") if name in moments] or list(moments)
    firsts = ["exp_avg"] if "exp_avg" in moments else list(moments)
    eps = number_of(change.options, "eps", 1e-8)
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
            yield Guess(m / (np.sqrt(v) + eps), first)


def _uncorrected_adam(change: Change) -> Iterator[Guess]:
    return _adam(change, corrected=False)


def _lion(change: Change) -> Iterator[Guess]:
    for name in change.after.moments:
        moment = change.before.moments.get(name, np.zeros_like(change.before.weight))
        for gradient in change.gradients:
            beta = _beta_pair(change.options)[0]
            mixed = beta * moment + (1 - beta) * gradient
            yield Guess(np.sign(mixed))


def _muon(change: Change) -> Iterator[Guess]:
    shape, options = change.shape, change.options
    if shape is None or len(shape) < 2:
        return
    rows, columns = shape[0], math.prod(shape[1:])
    fitting = {
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        "original": math.sqrt(max(1, rows / columns)),
    }
    scale = fitting.get(options.get("adjust_lr_fn") or "original", 1.0)
    how = options.get("ns_coefficients", COEFFICIENTS), int(number_of(options, "ns_steps", STEPS)), EPS
    for moment in change.after.moments.values():
        mu = number_of(options, "momentum", 0.95)
        mixes = [moment, *((1 - mu) * gradient + mu * moment for gradient in change.gradients)]
        for mixed in reversed(mixes) if options.get("nesterov", True) else mixes:
            matrix = torch.from_numpy(mixed).reshape(1, rows, columns).float()
            direction = orthogonalize(matrix, *how).double().reshape(-1).numpy()
            yield Guess(direction, scale=scale, tolerance=MUON_TOLERANCE)


def moment_decay(change: Change, name: str) -> tuple[float, float, float]:
    r"""The decay in a moment, its error, and :math:`\mu`: from :math:`m' = \mu m + \kappa (g + \lambda w)`."""
    moment = change.after.moments[name]
    before = change.before.moments.get(name, np.zeros_like(moment))
    hidden = change.digits * norm(moment)
    for gradient in change.gradients:
        fit = fit_columns(moment, [before, gradient, change.before.weight], hidden)
        if fit is not None and fit.factors[1] and fit.rest < 0.1 * norm(moment):
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
    kept = moment_decay(change, first)[2]
    before = change.before.moments.get(square)
    for gradient in change.gradients if before is not None else ():
        assert before is not None
        fit = fit_columns(change.after.moments[square], [before, gradient**2], 0.0)
        if fit is not None:
            return kept, fit.factors[0]
    return kept, 0.0


# In the order in which they are tried; of rules that explain a step equally well, the hint and then the first.
RULES: dict[str, Callable[[Change], Iterator[Guess]]] = {
    "SGD": _sgd,
    "SGD momentum": _momentum,
    "SGD Nesterov": _nesterov,
    "AdamW": _adam,
    "Adam": _adam,
    "Lion": _lion,
    "Muon": _muon,
    "Adam without bias correction": _uncorrected_adam,
}
