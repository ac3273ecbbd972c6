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

__all__ = ["PROMISED", "RULES", "Change", "Guess", "moment_decay", "number_of"]

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
    trusts: bool = False  # a decay of the group's is in the direction, as the group has it, and cannot be read


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


def _coupled(change: Change) -> Iterator[Entries]:
    """Gradients with the group's own decay in them, where it goes that way."""
    decay = 0.0 if change.options.get("decoupled_weight_decay") else number_of(change.options, "weight_decay", 0.0)
    for gradient in change.gradients:
        yield gradient + decay * change.before.weight


def _moments_of_adam(change: Change) -> tuple[Entries, Entries, int, float, float, float] | None:
    """First and second moment, steps, betas and eps."""
    moments, steps = change.after.moments, change.after.steps
    beta1, beta2 = _beta_pair(change.options, (0.0, 0.0))
    if not {"exp_avg", "exp_avg_sq"} <= moments.keys() or not steps or not (0 < beta1 < 1 and 0 < beta2 < 1):
        return None
    return moments["exp_avg"], moments["exp_avg_sq"], steps, beta1, beta2, number_of(change.options, "eps", 1e-8)


def _nadam(change: Change) -> Iterator[Guess]:
    found = _moments_of_adam(change)
    if found is None:
        return
    m, v, steps, beta1, beta2, eps = found
    slowing = number_of(change.options, "momentum_decay", 4e-3)
    weight = [beta1 * (1 - 0.5 * 0.96 ** (step * slowing)) for step in (steps, steps + 1)]
    product = 1.0
    for step in range(1, steps + 1):
        product *= beta1 * (1 - 0.5 * 0.96 ** (step * slowing))
        if product < np.finfo(float).eps:  # what is left of it no longer shows
            break
    for gradient in _coupled(change):
        mixed = weight[1] * m / (1 - product * weight[1]) + (1 - weight[0]) * gradient / (1 - product)
        yield Guess(mixed / (np.sqrt(v / (1 - beta2**steps)) + eps), "exp_avg")


def _radam(change: Change) -> Iterator[Guess]:
    found = _moments_of_adam(change)
    if found is None:
        return
    m, v, steps, beta1, beta2, eps = found
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * steps * beta2**steps / (1 - beta2**steps)
    direction = m / (1 - beta1**steps)
    if length > 5:
        chance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        direction = direction * math.sqrt(chance * (1 - beta2**steps)) / (np.sqrt(v) + eps)
    yield Guess(direction, "exp_avg")


def _adagrad(change: Change) -> Iterator[Guess]:
    total, steps = change.after.moments.get("sum"), change.after.steps
    if total is None or not steps:
        return
    scale = 1 / (1 + (steps - 1) * number_of(change.options, "lr_decay", 0.0))
    for gradient in _coupled(change):
        yield Guess(gradient / (np.sqrt(total) + number_of(change.options, "eps", 1e-10)), scale=scale, trusts=True)


def _rmsprop(change: Change) -> Iterator[Guess]:
    moments = change.after.moments
    if number_of(change.options, "momentum", 0.0):
        if "momentum_buffer" in moments:
            yield Guess(moments["momentum_buffer"], trusts=True)
        return
    if "square_avg" not in moments:
        return
    spread = moments["square_avg"] - (moments["grad_avg"] ** 2 if "grad_avg" in moments else 0.0)
    for gradient in _coupled(change):
        root = np.sqrt(np.maximum(spread, 0.0)) + number_of(change.options, "eps", 1e-8)
        yield Guess(gradient / root, trusts=True)


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
# Tried only where the optimizer is torch's class of that name, or one of its heirs.
PROMISED: dict[str, Callable[[Change], Iterator[Guess]]] = {
    "NAdam": _nadam,
    "RAdam": _radam,
    "Adagrad": _adagrad,
    "RMSprop": _rmsprop,
}
