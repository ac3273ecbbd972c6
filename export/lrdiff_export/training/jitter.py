"""Moving numbers by half a digit: how rounding is imitated in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrdiff_export.training.arithmetic import Arithmetic
from lrdiff_export.training.job import Batch, Placed
from lrdiff_export.training.optimizers import bias_correction, parts_of

__all__ = ["Jitter", "random_signs"]

MUON_EPS = float(torch.finfo(torch.bfloat16).eps)  # the Newton-Schulz iteration is computed in bfloat16 everywhere


class Jitter:
    """Moves float64 numbers by half a digit of an arithmetic, up or down.

    Args:
        arithmetic: whose digits.
        generator: draws the directions.
    """

    def __init__(self, arithmetic: Arithmetic, generator: torch.Generator) -> None:
        info = torch.finfo(arithmetic.dtype)
        self._stored, self._least = float(info.eps), info.tiny * info.eps
        self._product, self._generator = arithmetic.eps, generator
        self.coarse = self._product > self._stored  # products keep less of a number than is stored

    def moved(self, value: Tensor, eps: float) -> Tensor:
        """Move every number by half a digit of ``eps``, up or down at random."""
        size = (value.abs() * eps / 2).clamp(min=self._least / 2)
        return value + size * random_signs(value, self._generator)

    def kept(self, value: Tensor) -> Tensor:
        """As if rounded to the dtype it is kept in."""
        return self.moved(value, self._stored)

    def gradient(self, value: Tensor, *, muon: bool) -> Tensor:
        """As if rounded to the dtype it is kept in, or to bfloat16, as Muon does by definition."""
        return self.moved(value, MUON_EPS if muon else self._stored)

    def multiplied(self, value: Tensor) -> Tensor:
        """As if rounded on its way into a product."""
        return self.moved(value, self._product)

    def rows(self, batch: Batch) -> Batch:
        """Round what is floating in a batch as a product rounds what it takes."""
        return tuple(self.moved(one, self._product) if one.is_floating_point() else one for one in batch)

    @torch.no_grad()
    def stored(self, placed: Placed) -> None:
        """As if every weight had been rounded to the dtype it is kept in."""
        for param in placed.params:
            param.copy_(self.kept(param))

    def bias_correction(self, optimizer: Any, step: int) -> None:
        r"""As if the powers of Adam's betas had been rounded to float32, as captured and compiled steps do.

        Half a digit of the beta is taken to the power of :math:`t`, and the power is rounded once more, so that it is
        off by :math:`\delta = (t + 1)\, \varepsilon / 2` of itself, and the step by
        :math:`\delta\, (\beta_1^t / (1 - \beta_1^t) + \beta_2^t / 2 (1 - \beta_2^t))`.
        """
        digit = min(self._stored, float(torch.finfo(torch.float32).eps))
        off = digit * (step + 1) / 2
        sign = float(random_signs(torch.ones(()), self._generator))
        for part in parts_of(optimizer):
            for group in part.param_groups:
                if "betas" not in group:
                    continue
                first, root = bias_correction(group["betas"], step)
                group["lr"] *= 1 + sign * off * ((1 / first - 1) + (1 / root**2 - 1) / 2)

    @torch.no_grad()
    def gradients(self, placed: Placed) -> None:
        """As if the gradients of Muon's matrices had been rounded to bfloat16, as Muon does by definition."""
        if placed.job.optimizer != "muon":
            return
        muon = {name for group in placed.job.groups if group.options.get("use_muon") for name in group.names}
        for name, param in zip(placed.names, placed.params, strict=True):
            if name in muon and param.grad is not None:
                param.grad.copy_(self.moved(param.grad, MUON_EPS))


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Plus or minus one for each number."""
    return (2 * torch.randint(0, 2, like.shape, generator=generator) - 1).to(like.dtype)
