r"""The float64 trajectory of a training, and how far from it arithmetic alone can lead, step by step.

For each tensor and step the distance is :math:`E_t = \max |w_t - w^{64}_t| / (\varepsilon\, s_t)` with
:math:`s_t = \max_{r \le t} \max |w^{64}_r|`, and may be

.. math:: B_t = \max_{r \le t} \max(f,\; 4 E^{plain}_r,\; 4 k_r),

where :math:`f` is two digits of what a weight is kept in (it is rounded once here and once there) and eight of the
loss (a sum in another order), :math:`E^{plain}` is the distance of torch's default optimizer on the CPU in the same
arithmetic (from the given start, and from starts moved by a digit), and :math:`k` that of float64 trajectories whose
weights (at the start and after every step), rows and bias corrections are moved by half a unit in the last place. Where
a training amplifies rounding, these do too, and the budget grows with them: it is never a number chosen beforehand, and
*sharpness* says what it still means, as a share of the way that the weights went.

The backward-error view is that of N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002,
chapter 1; an optimizer as a map whose rounding errors are amplified from step to step: chapter 18 (matrix powers).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdiff_core.errors import InputError
from lrdiff_export.model.float64 import float64_throughout
from lrdiff_export.records import first_line
from lrdiff_export.training.arithmetic import Arithmetic
from lrdiff_export.training.implementations import TrainingImplementation
from lrdiff_export.training.jitter import Jitter, random_signs
from lrdiff_export.training.job import Placed, TrainingJob
from lrdiff_export.training.optimizers import plain_optimizer

__all__ = ["FLOOR", "LOSS", "MARGIN", "Snapshot", "TrainingReference", "snapshots"]

FLOOR = 2.0  # eps units of what a weight is kept in: it is rounded here and there
LOSS_FLOOR = 8.0  # the same of the loss: two correct orders of summation may differ by so much
MARGIN = 4.0  # another implementation may be this much worse than plain arithmetic, or than the conditioning
DRAWS = 3  # of trajectories moved by half a digit, in float64, and of plain ones
MOST_BYTES = 2**31  # of the float64 trajectory, which is kept
LOSS = "loss"  # stands last among the names, and counts as a tensor of one number


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """After one step, or before the first.

    Attributes:
        values: float64 ``[numbers]``: all weights in order, and the loss from before the step.
        bits: a digest of each tensor and of the loss, in their own dtype.
    """

    values: np.ndarray
    bits: tuple[bytes, ...]


def snapshots(placed: Placed, step: Any) -> Iterator[Snapshot]:
    """Train a placed job to its end; yield before the first step and after each.

    Args:
        placed: trained in place.
        step: takes a batch, returns the loss.
    """
    yield _snapshot(placed, None)
    for number in range(placed.job.steps):
        yield _snapshot(placed, step(*placed.batch(number)))


def _snapshot(placed: Placed, loss: Tensor | None) -> Snapshot:
    flat = torch.cat([param.detach().reshape(-1) for param in placed.params]).cpu()
    told = torch.zeros(1, dtype=flat.dtype) if loss is None else loss.detach().reshape(1).cpu()
    sizes = [param.numel() for param in placed.params]
    raw = flat.view(torch.uint8).numpy()
    ends = np.cumsum([0, *sizes]) * flat.element_size()
    parts = [raw[start:end] for start, end in pairwise(ends)] + [told.view(torch.uint8).numpy()]
    bits = [hashlib.blake2b(part.tobytes(), digest_size=8).digest() for part in parts]
    return Snapshot(values=torch.cat([flat.double(), told.double()]).numpy(), bits=tuple(bits))


class TrainingReference:
    """The float64 trajectory of a job as one arithmetic begins it, and its budget.

    Args:
        job: what is trained.
        arithmetic: whose weights and rows it begins with, and whose unit errors are counted in.

    Attributes:
        names: of the tensors, the probe and the loss last.
        values: float64 ``[steps + 1, numbers]``.
        unit: one eps at the scale of each tensor, ``[steps + 1, tensors]``.
        conditioning: of moved float64 trajectories, in units, ``[steps + 1, tensors]``.
        plain: of plain arithmetic, in units, ``[steps + 1, tensors]``.
        allowed: the budget, in units, ``[steps + 1, tensors]``.
        judged: the last step at which plain arithmetic is finite as float64 is; nobody can be asked for more after it.

    Raises:
        InputError: the training cannot be done in float64, diverges there, draws random numbers, or is too large.

    Example:
        >>> from torch import nn
        >>> from lrdiff_export.training.job import RateGroup
        >>> from lrdiff_export.training.arithmetic import ARITHMETICS
        >>> job = TrainingJob(
        ...     name="line", module=nn.Linear(2, 1), batches=[(torch.ones(4, 2),)] * 3, optimizer="adam",
        ...     loss=lambda module, x: (module(x) - 1).square().mean(),
        ...     groups=(RateGroup(names=("weight", "bias"), options={"lr": 0.1}),),
        ... )
        >>> TrainingReference(job, ARITHMETICS["float32"]).allowed.shape
        (4, 4)
    """

    def __init__(self, job: TrainingJob, arithmetic: Arithmetic) -> None:
        self.job, self.arithmetic = job, arithmetic
        placed = self._placed64()
        self.names = (*placed.names, LOSS)
        sizes = [param.numel() for param in placed.params]
        if (size := 8 * (job.steps + 1) * (sum(sizes) + 1)) > MOST_BYTES:
            raise InputError(
                f"{job.steps} steps of {job.parameters} weights in float64 take {size / 2**30:.1f} GiB",
                help="compare fewer steps, or a smaller model of the same kind",
            )
        self._starts = np.cumsum([0, *sizes])
        self.values = self._exact()
        magnitudes = np.maximum.accumulate(self._largest(np.abs(self.values)))
        info = torch.finfo(arithmetic.dtype)
        self.unit = np.maximum(arithmetic.eps * magnitudes, info.tiny * info.eps)  # no less than the least denormal
        self.conditioning = np.zeros_like(self.unit)
        self.plain = np.zeros_like(self.unit)
        self.judged = job.steps
        for draw in range(DRAWS):
            np.maximum(self.conditioning, self._moved(draw), out=self.conditioning)
            np.maximum(self.plain, self._plain(draw), out=self.plain)
        floor = np.full(len(self.names), FLOOR)
        floor[-1] = LOSS_FLOOR
        beyond = MARGIN * np.maximum(self.plain, self.conditioning)
        self.allowed = np.maximum.accumulate(np.maximum(floor * info.eps / arithmetic.eps, beyond))
        self.allowed[self.judged + 1 :] = np.inf

    def part(self, name: str) -> slice:
        """Where a tensor's numbers are in ``values``."""
        at = self.names.index(name)
        return slice(int(self._starts[at]), int(self._starts[at + 1]) if name != LOSS else None)

    def errors(self, step: int, values: np.ndarray) -> np.ndarray:
        """Distance of every tensor after a step, in units ``[tensors]``; what is not finite is infinitely far."""
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(values - self.values[step])
        largest: np.ndarray = self._largest(np.where(np.isfinite(distance), distance, np.inf)[None])[0]
        largest /= self.unit[step]
        return largest

    @property
    def sharpness(self) -> np.ndarray:
        """The budget as a share of the way that the weights went, ``[steps, tensors]`` without the probe and the loss.

        At 1 and more a tensor could have stood still unnoticed: its gradient is rounding error alone (a bias in front
        of a batch norm, the bias of attention's keys), or the arithmetic is too coarse for such steps.
        """
        trained = len(self.names) - 2
        way = np.maximum.accumulate(self._largest(np.abs(self.values - self.values[0])))[1:, :trained]
        allowed = (self.allowed * self.unit)[1:, :trained]
        # A tensor that has not moved yet cannot be judged by its way.
        return np.where(way > 0, allowed / np.where(way > 0, way, 1.0), 0.0)

    def _placed64(self) -> Placed:
        return self.job.place("cpu", torch.float64, through=self.arithmetic.dtype)

    def _largest(self, table: np.ndarray) -> np.ndarray:
        """``[rows, numbers]`` to ``[rows, tensors]``."""
        return np.maximum.reduceat(table, self._starts, axis=1)

    def _exact(self) -> np.ndarray:
        found = []
        for _ in range(2):
            placed = self._placed64()
            found.append(np.stack([one.values for one in snapshots(placed, _float64_step(placed))]))
        if not np.array_equal(found[0], found[1], equal_nan=True):
            raise InputError(
                f"{self.job.name} gives different weights when trained twice in float64: it draws random numbers",
                help="draw them beforehand, or switch dropout and noise off",
            )
        wrong = ~np.isfinite(found[0]).all(axis=1)
        if wrong.any():
            raise InputError(
                f"{self.job.name} diverges in float64 at step {int(wrong.argmax())}: there is nothing to compare with",
                help="lower the rates, or compare fewer steps",
            )
        return found[0]

    def _moved(self, draw: int) -> np.ndarray:
        """Distances of a float64 trajectory in which every stored number is off by half a digit."""
        generator = torch.Generator().manual_seed(draw)
        placed = self._placed64()
        step = _float64_step(placed, Jitter(self.arithmetic, generator))
        return self._distances(placed, step)

    def _plain(self, draw: int) -> np.ndarray:
        """Distances of torch's default on the CPU in this arithmetic; all draws but the first begin a digit aside."""
        arithmetic = self.arithmetic
        if "cpu" not in arithmetic.devices:
            return np.zeros_like(self.unit)
        placed = self.job.place("cpu", arithmetic.dtype)
        if draw:
            generator = torch.Generator().manual_seed(draw)
            with torch.no_grad():
                for param in placed.params[:-1]:
                    aside = torch.where(random_signs(param, generator) > 0, torch.inf, -torch.inf).to(param.dtype)
                    param.copy_(torch.nextafter(param, aside))
        return self._distances(placed, TrainingImplementation().start(placed, arithmetic).step)

    def _distances(self, placed: Placed, step: Any) -> np.ndarray:
        errors = np.stack([self.errors(number, one.values) for number, one in enumerate(snapshots(placed, step))])
        if not np.isfinite(errors).all():
            self.judged = min(self.judged, int((~np.isfinite(errors)).any(axis=1).argmax()) - 1)
        return np.where(np.isfinite(errors), errors, 0.0)


def _float64_step(placed: Placed, jitter: Jitter | None = None) -> Any:
    """A step in float64 by torch's plain loop, every cast to float32 inside the module widened."""
    optimizer = plain_optimizer(placed)
    if jitter is not None:
        jitter.stored(placed)
    own = [param.detach().clone() for param in placed.params]
    number = 0

    def step(*batch: Tensor) -> Tensor:
        nonlocal number
        number += 1
        rows = batch if jitter is None else jitter.rows(batch)
        coarse = jitter is not None and jitter.coarse
        if coarse:  # products round what they take, and what is stored stays as it is
            assert jitter is not None
            with torch.no_grad():
                for param, kept in zip(placed.params, own, strict=True):
                    kept.copy_(param)
                    param.copy_(jitter.multiplied(param))
        optimizer.zero_grad()
        try:
            with float64_throughout():
                loss = placed.loss(*rows)
                loss.backward()
        except InputError:
            raise
        except Exception as problem:
            raise InputError(
                f"{placed.job.name} cannot be trained in float64: {first_line(problem)}",
                help="make constants and casts in forward() and in the loss follow the dtype of the input",
            ) from problem
        if coarse:
            with torch.no_grad():
                for param, kept in zip(placed.params, own, strict=True):
                    param.copy_(kept)
        placed.set_rates(optimizer, number)
        if jitter is not None:
            jitter.gradients(placed)
            jitter.bias_correction(optimizer, number)
        optimizer.step()
        if jitter is not None:
            jitter.stored(placed)
        return loss.detach()

    return step
