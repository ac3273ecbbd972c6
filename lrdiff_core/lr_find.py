"""The range test: how the loss answers while the rate grows, for all rates together or for each group by itself.

It returns numbers; :mod:`lrdiff_bench` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.schedules import refuse_shared_rates, set_rate

__all__ = ["RateCurve", "lr_find", "lr_find_each"]

SMOOTHING = 0.98  # fastai's weight of the past in the running loss
DIVERGED = 4.0  # fastai stops where the smoothed loss is 4 times its best
SKIPPED = 0.1  # of the curve at its start, where the running loss has hardly any past, is never suggested
NEIGHBOURS = 0.03  # width of the bell that smooths a curve before a rate is suggested, as a share of its steps
ROUNDING = 1e-9  # a smaller fall of the running loss, relative to it, is none
LEAST_STEPS = 10


@dataclass(frozen=True)
class RateCurve:
    """What a range test saw.

    Args:
        rates: the swept rate at each step: the largest of all groups, or the one group's. ``[steps]``
        losses: the loss of each step, before the update at that rate. ``[steps]``
        smooth: the running mean of the losses, corrected for its start. ``[steps]``
        group: the index of the swept group, or None for all together.
        base_rates: the groups' own rates, as they were and are again.
        diverged: whether the loss left the sweep early, by growth or as NaN.

    Example:
        >>> rates = np.logspace(-4, 0, 41)
        >>> losses = 1 - 0.2 * (np.log10(rates) + 4) + np.maximum(0, np.log10(rates) + 1) * 3
        >>> curve = RateCurve(rates, losses, losses, None, (0.1, 0.001), False)
        >>> f"{curve.suggest('minimum'):.3f}"
        '0.006'
        >>> [f"{rate:.5f}" for rate in curve.suggested_rates("minimum")]
        ['0.00631', '0.00006']
    """

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    group: int | None
    base_rates: tuple[float, ...]
    diverged: bool

    def suggest(self, how: str = "minimum") -> float:
        """Read a rate off the curve.

        ::

            steepest   the rate where d loss / d log(rate) is lowest
            minimum    the rate where the loss is lowest, divided by 10; the steadier of the two on small batches

        The loss is the mean over neighbouring steps on both sides, weighted by a bell curve: the running mean
        ``smooth`` looks back only, and would point to a rate that is too high by as much as it lags behind.

        Raises:
            RateError: the loss never fell, or ``how`` is another word.
        """
        if how not in ("steepest", "minimum"):
            raise RateError(f'suggestion "{how}" is unknown', help="write one of: steepest, minimum")
        first = math.ceil(SKIPPED * len(self.rates))
        rates, smooth = self.rates[first:], _centred(self.losses)[first:]
        if smooth[0] - smooth.min() <= ROUNDING * abs(smooth[0]):
            raise RateError(
                "the loss never fell in the range test", help="start at a lower rate, or check the loss and the data"
            )
        slopes = np.diff(smooth) / np.diff(np.log(rates))
        return float(rates[slopes.argmin()]) if how == "steepest" else float(rates[smooth.argmin()]) / 10

    def suggested_rates(self, how: str = "minimum") -> list[float]:
        """The suggestion as one rate a group: ratios kept, or the swept group's changed and the others as they are."""
        rate = self.suggest(how)
        if self.group is not None:
            return [rate if i == self.group else base for i, base in enumerate(self.base_rates)]
        return [rate * base / max(self.base_rates) for base in self.base_rates]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, as JSON takes them; a loss that is not finite is None."""
        values: dict[str, Any] = {"group": self.group, "base_rates": list(self.base_rates), "diverged": self.diverged}
        for name in ("rates", "losses", "smooth"):
            values[name] = [float(x) if math.isfinite(x) else None for x in getattr(self, name)]
        return values


def lr_find(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Any],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> RateCurve:
    """Sweep all rates together, their ratios kept, and put everything back as it was.

    The largest rate grows as ``low * (high / low) ** (i / (steps - 1))``; each group keeps its ratio to it. The sweep
    ends early where the smoothed loss passes 4 times its best (a loss above 0), or where a loss is not finite.
    Afterwards parameters, buffers, gradients, the optimizer's state and rates and torch's random numbers are exactly
    as before; what ``closure`` moves besides (a data loader) is the caller's.

    Source: Smith 2017, arXiv:1506.01186 (range test); smoothing and stopping as in fastai's ``lr_find``.

    Args:
        model: the model that the optimizer trains.
        optimizer: any torch optimizer, with the rates whose ratios are to be kept.
        closure: takes the next batch, clears the gradients, calls ``backward`` and returns the loss, as for
            ``optimizer.step``.
        low: the largest rate at the first step.
        high: the largest rate at the last step.
        steps: points on the curve, 10 or more.

    Raises:
        RateError: a bad range or number of steps; the loss is not finite at the lowest rate; no rate above 0.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 1.0}, {"params": [model.bias], "lr": 0.1}])
        >>> x = torch.randn(64, 4)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        ...     loss.backward()
        ...     return loss
        >>> curve = lr_find(model, optimizer, closure, low=1e-4, high=10)
        >>> 0.001 < curve.suggest() < 1
        True
        >>> [group["lr"] for group in optimizer.param_groups]
        [1.0, 0.1]
    """
    base = _base_rates(optimizer, low, high, steps)
    largest = max(base)
    if largest <= 0:
        raise RateError(
            "no group of the optimizer has a rate above 0", help="set the rates whose ratios are to be kept"
        )
    return _sweep(model, optimizer, closure, base, [rate / largest for rate in base], None, (low, high, steps))


def lr_find_each(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Any],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> list[RateCurve]:
    """Sweep each group by itself, the others held still at rate 0; one curve a group, everything put back after each.

    Groups whose parameters are all frozen are left out. Arguments and faults as for :func:`lr_find`; besides:

    Raises:
        RateError: groups share one tensor as their rate; nothing is trainable.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (model(torch.ones(1, 1)) - 3).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> [curve.group for curve in lr_find_each(model, optimizer, closure)]
        [0, 1]
    """
    base = _base_rates(optimizer, low, high, steps)
    groups = optimizer.param_groups
    refuse_shared_rates(groups, list(range(len(groups))))
    live = [i for i, group in enumerate(groups) if any(param.requires_grad for param in group["params"])]
    if not live:
        raise RateError("every group of the optimizer is frozen", help="unfreeze what the test is to move")
    return [
        _sweep(model, optimizer, closure, base, [float(i == g) for i in range(len(groups))], g, (low, high, steps))
        for g in live
    ]


def _centred(losses: np.ndarray) -> np.ndarray:  # [steps] -> [steps]
    """Mean of each loss and its neighbours, weighted by a normal curve; a loss that is not finite counts as none."""
    known = np.isfinite(losses)
    at = np.arange(len(losses))
    weights = np.exp(-0.5 * ((at[:, None] - at) / (NEIGHBOURS * len(losses))) ** 2) * known
    smooth: np.ndarray = (weights @ np.where(known, losses, 0.0)) / weights.sum(axis=1)
    return smooth


def _sweep(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Any],
    base: tuple[float, ...],
    weights: list[float],
    group: int | None,
    sweep: tuple[float, float, int],
) -> RateCurve:
    low, high, steps = sweep
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    running, best, diverged = 0.0, math.inf, False
    with _put_back(model, optimizer):
        for i in range(steps):
            rate = low * (high / low) ** (i / (steps - 1))
            for each, weight in zip(optimizer.param_groups, weights, strict=True):
                set_rate(each, rate * weight)
            answer = closure()
            loss = float(answer.detach() if isinstance(answer, torch.Tensor) else answer)
            running = SMOOTHING * running + (1 - SMOOTHING) * loss
            rates.append(rate)
            losses.append(loss)
            smooth.append(running / (1 - SMOOTHING ** (i + 1)))
            if not math.isfinite(loss) or (best > 0 and smooth[-1] > DIVERGED * best):
                diverged = True
                break
            best = min(best, smooth[-1])
            optimizer.step()
    if not math.isfinite(losses[0]):
        raise RateError(f"the loss is {losses[0]} before any update", help="check the model, the data and the loss")
    if not math.isfinite(losses[-1]):  # a curve holds numbers only
        rates, losses, smooth = rates[:-1], losses[:-1], smooth[:-1]
    return RateCurve(np.array(rates), np.array(losses), np.array(smooth), group, base, diverged)


def _base_rates(optimizer: torch.optim.Optimizer, low: float, high: float, steps: int) -> tuple[float, ...]:
    """The groups' rates, once the range is checked."""
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (low, high))
    if not numbers or not 0 < low < high < math.inf:
        raise RateError(f"the range test goes from {low!r} to {high!r}", help="write 0 < low < high, both finite")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < LEAST_STEPS:
        raise RateError(f"the range test has {steps!r} steps", help=f"write a whole number of at least {LEAST_STEPS}")
    return tuple(float(group["lr"]) for group in optimizer.param_groups)


@contextmanager
def _put_back(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restore values in place, so that every tensor keeps its identity; state made inside is dropped."""
    held = [param for group in optimizer.param_groups for param in group["params"]]
    params = list({id(param): param for param in [*model.parameters(), *held]}.values())
    grads = [None if param.grad is None else param.grad.clone() for param in params]
    tensors: list[torch.Tensor] = [*params, *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    states = {param: _copied(optimizer.state[param]) for param in held if param in optimizer.state}
    settings = [_copied({key: v for key, v in g.items() if key != "params"}) for g in optimizer.param_groups]
    cpu_random = torch.get_rng_state()
    cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            for param in held:
                if param in states:
                    _put_into(optimizer.state[param], states[param])
                else:
                    optimizer.state.pop(param, None)
            for group, saved in zip(optimizer.param_groups, settings, strict=True):
                _put_into(group, saved)
        torch.set_rng_state(cpu_random)
        if cuda_random:
            torch.cuda.set_rng_state_all(cuda_random)


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    return {key: v.detach().clone() if isinstance(v, torch.Tensor) else v for key, v in values.items()}


def _put_into(target: dict[str, Any], saved: dict[str, Any]) -> None:
    """Make a dictionary hold the saved values again; tensors that are still there are filled in place."""
    for key in [key for key in target if key not in saved and key != "params"]:
        del target[key]
    for key, value in saved.items():
        now = target.get(key)
        if isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor):
            now.copy_(value)
        else:
            target[key] = value
