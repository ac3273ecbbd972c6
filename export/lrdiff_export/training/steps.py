r"""One-step parity: every update, and some gradients, judged from the state that the lane itself was in.

Trajectories amplify what one step did to the next, and in bfloat16 their budget soon is as large as the way that the
weights go. A single step amplifies nothing. From the lane's own weights, moments and gradient before a step, torch's
optimizer in float64 says what the weights and moments have to be after it; rounded to the lane's dtype that is
:math:`p`. Of each tensor the distance :math:`d = \sum_i |x_i - p_i|` is compared with

.. math:: 4 \max(d_{plain}, d_{moved}) + 8\,u,

where :math:`d_{plain}` is the distance of torch's default in the lane's dtype from the same state, :math:`d_{moved}`
that of float64 with gradient and moments moved by half a digit, and :math:`u` the largest digit of the tensor: a
number that lies between two neighbours may be rounded either way, and few numbers give no average. Both the step alone
and all steps so far are judged; the sum sees what is smaller than a digit in each of them. Gradients are compared the
same way with float64's at the same weights, by the root of the summed squares, in some of the steps.

The view that a computed step is the exact step of data moved a little is that of N. J. Higham, *Accuracy and Stability
of Numerical Algorithms*, 2nd ed., SIAM 2002, chapter 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdiff_export.training.arithmetic import Arithmetic
from lrdiff_export.training.diagnose import NOISE, RIGHT, explain, gradients_at, judge_gradients
from lrdiff_export.training.jitter import Jitter
from lrdiff_export.training.job import Placed, TrainingJob
from lrdiff_export.training.rules import other_rule
from lrdiff_export.training.twin import State, Twin, state_of

__all__ = ["GRADIENT", "OneStep", "StepWatch", "WrongStep"]

MARGIN = 4.0  # another implementation may be this much worse than torch's default, or than moved float64
FLIPS = 8.0  # digits that may be rounded the other way: with fewer, one healthy tensor in millions would fail
GRADIENTS = 8  # steps whose gradients are judged: each costs as much as four steps
FEWEST = 16  # numbers over all those steps; of fewer there is no average to judge
GRADIENT = "the gradient of {}"


@dataclass(frozen=True, kw_only=True)
class WrongStep:
    """The first step that is not float64's.

    Attributes:
        step: from 1.
        parameter: whose weight, moment or gradient it is.
        what: the tensor as reports write it: ``exp_avg of layer1.weight``.
        error, allowed: as shares of the way that it should have gone.
        meaning: in one line.
        rule: which other rule it follows; None where none explains it.
    """

    step: int
    parameter: str
    what: str
    error: float
    allowed: float
    meaning: str
    rule: str | None = None


@dataclass(frozen=True, kw_only=True)
class OneStep:
    """What one-step parity found in a lane.

    Attributes:
        steps, gradients: how many updates and gradients were judged.
        unseen: why none could be; None where they were.
        what, step: the tensor and step that came closest to the budget, or furthest beyond it.
        error, allowed: there, as shares of the way that float64 goes.
        covers: the budget of all updates together as a share of the way, of the median weight tensor.
        wrong: the first step that left the budget.
    """

    steps: int = 0
    gradients: int = 0
    unseen: str | None = None
    what: str | None = None
    step: int | None = None
    error: float | None = None
    allowed: float | None = None
    covers: float | None = None
    wrong: WrongStep | None = None


class StepWatch:
    """Looks at a lane before and after each step; ask it for :meth:`result` at the end.

    Args:
        job: what is trained.
        arithmetic: that the lane promises.

    Example:
        >>> from torch import nn
        >>> from lrdiff_export.training.job import RateGroup
        >>> from lrdiff_export.training import ARITHMETICS, IMPLEMENTATIONS
        >>> job = TrainingJob(
        ...     name="line", module=nn.Linear(2, 1), batches=[(torch.ones(4, 2),)] * 3, optimizer="adam",
        ...     loss=lambda module, x: (module(x) - 1).square().mean(),
        ...     groups=(RateGroup(names=("weight", "bias"), options={"lr": 0.1}),),
        ... )
        >>> placed = job.place("cpu", torch.float32)
        >>> running = IMPLEMENTATIONS["torch-fused"].start(placed, ARITHMETICS["float32"])
        >>> watch = StepWatch(job, ARITHMETICS["float32"])
        >>> watch.begin(placed, running.optimizer)
        >>> for step in range(job.steps):
        ...     loss = running.step(*placed.batch(step))
        ...     watch.after(placed, running.optimizer, step + 1)
        >>> watch.result().steps, watch.result().wrong
        (3, None)
    """

    def __init__(self, job: TrainingJob, arithmetic: Arithmetic) -> None:
        self._job, self._arithmetic = job, arithmetic
        self._exact, self._plain = Twin(job, torch.float64), Twin(job, arithmetic.dtype)
        self._moved = Twin(job, torch.float64, Jitter(arithmetic, torch.Generator().manual_seed(0)))
        self._names = self._exact.placed.names[:-1]  # without the probe
        places = np.linspace(0, job.steps - 1, min(GRADIENTS, job.steps))
        self._looked_at = {int(place) + 1 for place in places}
        self._before: State | None = None
        self._sums: dict[str, _Sums] = {}
        self._worst: tuple[float, str, int, float, float] = (-1.0, "", 0, 0.0, 0.0)
        self._wrong: WrongStep | None = None
        self._unseen: str | None = None
        self._steps = self._gradients = 0

    def begin(self, placed: Placed, optimizer: Any) -> None:
        """Look at it before the first step."""
        self._before = state_of(placed, optimizer)

    def after(self, placed: Placed, optimizer: Any, step: int) -> None:
        """Look at it after a step, from 1."""
        if self._unseen is not None or self._before is None:
            return
        before, now = self._before, state_of(placed, optimizer)
        self._before = now
        taken = [param.grad for param in placed.params[:-1]]
        grads = [one.detach().cpu().clone() for one in taken if one is not None and one.layout is torch.strided]
        if len(grads) < len(taken):
            self._unseen = "there are no dense gradients to be seen after the step"
            return
        if not all(bool(torch.isfinite(one).all()) for one in (*before.weights, *grads)):
            self._unseen = f"numbers are not finite from step {step} on" if self._steps == 0 else None
            return
        exact = self._exact.step(before, grads, step)
        if any(set(mine) != set(right) for mine, right in zip(now.moments, exact.moments, strict=True)):
            self._unseen = "its state is kept under other names than torch's"
            return
        if step in self._looked_at:
            self._judge_gradients(before, grads, step)
        self._judge_update(before, now, exact, grads, step)
        self._steps += 1

    def result(self) -> OneStep:
        """Return what was found."""
        if self._unseen is not None or not self._steps:
            return OneStep(unseen=self._unseen or "it made no step", wrong=self._wrong)
        _, what, step, error, allowed = self._worst
        shares = [self._sums[name].allowed / self._sums[name].way for name in self._names if self._sums[name].way]
        return OneStep(
            steps=self._steps,
            gradients=self._gradients,
            what=what,
            step=step,
            error=error,
            allowed=allowed,
            covers=float(np.median(shares)) if shares else None,
            wrong=self._wrong,
        )

    def _judge_update(self, before: State, now: State, exact: State, grads: list[Tensor], step: int) -> None:
        dtype = self._arithmetic.dtype
        moved = self._moved.step(before, grads, step).rounded(dtype)
        told_by = (before, now, exact.rounded(dtype), self._plain.step(before, grads, step), moved)
        for i, name in enumerate(self._names):
            for key in ("", *exact.moments[i]):
                was, mine, told, theirs, near = (one.part(i, key) for one in told_by)
                what = f"{key} of {name}" if key else name
                left = self._add(
                    what,
                    step,
                    off=_sum(mine - told),
                    spread=max(_sum(theirs - told), _sum(near - told)),
                    way=_sum(told - was),
                    floor=FLIPS * _digit(np.abs(told).max(initial=0.0), dtype),
                )
                if left is None:
                    continue
                rule = other_rule(
                    self._job, name, step, weight=before.weights[i], moments=before.moments[i], gradient=grads[i],
                    found=mine, key=key,
                )  # fmt: skip
                meaning = f"from the same state, float64 makes another {key}" + (
                    f": this is one {rule}" if rule else ""
                )
                if not key:
                    everything = torch.cat([one.reshape(-1) for one in now.weights]).double().numpy()
                    meaning = explain(
                        self._job, name, step, moved=mine - was, exact=told - was, weights=mine, everything=everything,
                        eps=self._arithmetic.eps, gradients=RIGHT, rule=rule,
                    )  # fmt: skip
                self._wrong = WrongStep(
                    step=step, parameter=name, what=what, error=left[0], allowed=left[1], meaning=meaning, rule=rule
                )

    def _judge_gradients(self, before: State, grads: list[Tensor], step: int) -> None:
        at = torch.cat([one.reshape(-1) for one in before.weights]).double().numpy()
        way = {torch.bfloat16: "bfloat16", torch.float64: "float64"}.get(self._arithmetic.dtype, "float32")
        way = {"tfloat32": "tf32", "autocast": "autocast bfloat16"}.get(self._arithmetic.name, way)
        exact, plain = gradients_at(self._job, step, at, "float64"), gradients_at(self._job, step, at, way)
        jitter = Jitter(self._arithmetic, torch.Generator().manual_seed(step))
        aside = gradients_at(self._job, step, at, "float64", jitter=jitter)
        if exact is None or plain is None or aside is None:
            return
        self._gradients += 1
        most = max(_root(one) / max(one.numel(), 1) ** 0.5 for one in exact)
        for name, mine, right, theirs, near in zip(self._names, grads, exact, plain, aside, strict=True):
            if mine.numel() * len(self._looked_at) < FEWEST:
                continue
            size = max(_root(right), NOISE * most * right.numel() ** 0.5)
            what = GRADIENT.format(name)
            found = self._add(
                what,
                step,
                off=_root(mine.double() - right),
                spread=max(_root(theirs - right), _root(near - right), self._arithmetic.eps * size),
                way=size,
                floor=0.0,
                alone=mine.numel() >= FEWEST,
            )
            if found is not None:
                told = judge_gradients(self._job, step, taken=grads, before=at, eps=self._arithmetic.eps)
                meaning = told if told not in (None, RIGHT) else "its gradient is not that of float64"
                self._wrong = WrongStep(
                    step=step, parameter=name, what=what, error=found[0], allowed=found[1], meaning=str(meaning)
                )

    def _add(
        self, what: str, step: int, *, off: float, spread: float, way: float, floor: float, alone: bool = True
    ) -> tuple[float, float] | None:
        """Count a step in; return error and budget as shares of the way where it is the first to leave the budget.

        Args:
            what: the tensor.
            step: from 1.
            off: distance from the exact step.
            spread: the larger of the two distances that it is compared with.
            way: length of the exact step.
            floor: eight digits of the tensor.
            alone: judge the step by itself, too.
        """
        sums = self._sums.setdefault(what, _Sums())
        sums.off, sums.spread, sums.way = sums.off + off, sums.spread + spread, sums.way + way
        sums.floor = max(sums.floor, floor)
        here = _Sums(off=off, spread=spread, way=way, floor=floor)
        for one in (here, sums) if alone else (sums,):
            told = (one.off / one.way, one.allowed / one.way) if one.way else (math.inf, math.inf)
            if one.share > self._worst[0]:
                self._worst = (one.share, what, step, *told)
            if one.share > 1 and self._wrong is None:
                return told
        return None


@dataclass(kw_only=True)
class _Sums:
    """Of one tensor, over one step or over all so far."""

    off: float = 0.0
    spread: float = 0.0
    way: float = 0.0
    floor: float = 0.0

    @property
    def allowed(self) -> float:
        return MARGIN * self.spread + self.floor

    @property
    def share(self) -> float:
        """Of the budget that is used."""
        if not math.isfinite(self.off):
            return math.inf
        return self.off / self.allowed if self.allowed else math.inf if self.off else 0.0


def _digit(value: float, dtype: torch.dtype) -> float:
    """The distance from a number to the next one."""
    return float(np.ldexp(torch.finfo(dtype).eps, np.frexp(value)[1] - 1)) if np.isfinite(value) else math.inf


def _sum(values: np.ndarray) -> float:
    return float(np.abs(values).sum())


def _root(values: Tensor) -> float:
    return float(values.double().square().sum().sqrt())
