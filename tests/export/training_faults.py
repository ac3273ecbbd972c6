"""Implementations with a fault each, for the tests of training parity: what a broken optimizer or device would do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrdiff_export.training_job import Placed
from lrdiff_export.training_lanes import Arithmetic, Running, TrainingImplementation


class IgnoresARate(TrainingImplementation):
    """The last group of the job is trained at the first group's rate."""

    def optimizer(self, placed: Placed) -> Any:
        made = super().optimizer(placed)
        made.param_groups[-2]["lr"] = made.param_groups[0]["lr"]  # the very last is the probe's
        return made


class _AfterStep(TrainingImplementation):
    """Does something to the weights after every step."""

    def spoil(self, param: Tensor, number: int) -> None:
        raise NotImplementedError

    def update(self, optimizer: Any) -> Callable[[], object]:
        number = 0

        def step() -> None:
            nonlocal number
            number += 1
            optimizer.step()
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for param in group["params"]:
                        self.spoil(param, number)

        return step


class DropsToBfloat16(_AfterStep):
    """Weights go through bfloat16."""

    def spoil(self, param: Tensor, number: int) -> None:
        param.copy_(param.bfloat16())


class ComputesInBfloat16(TrainingImplementation):
    """Products of the forward and backward pass in bfloat16; what is stored keeps its dtype."""

    def loss(self, placed: Placed) -> Callable[..., Tensor]:
        def under(*batch: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
                return placed.loss(*batch)

        return under


class FlushesDenormals(_AfterStep):
    """Numbers below the smallest normal one become zero."""

    def spoil(self, param: Tensor, number: int) -> None:
        param.copy_(torch.where(param.abs() < torch.finfo(param.dtype).tiny, 0.0, param))


class ForgetsBiasCorrection(TrainingImplementation):
    """Adam as RMSprop with momentum: moments are used as they are."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        @torch.no_grad()
        def step() -> None:
            for group in optimizer.param_groups:
                beta1, beta2 = group["betas"]
                for param in group["params"]:
                    state = optimizer.state[param]
                    if not state:
                        state |= {"m": torch.zeros_like(param), "v": torch.zeros_like(param)}
                    state["m"].lerp_(param.grad, 1 - beta1)
                    state["v"].mul_(beta2).addcmul_(param.grad, param.grad, value=1 - beta2)
                    param.addcdiv_(state["m"], state["v"].sqrt().add_(group["eps"]), value=-group["lr"])

        return step


class StandsStill(_AfterStep):
    """From the third step on nothing moves."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        number = 0

        def step() -> None:
            nonlocal number
            number += 1
            if number < 3:
                optimizer.step()

        return step


class LosesANumber(_AfterStep):
    """One NaN in the second step."""

    def spoil(self, param: Tensor, number: int) -> None:
        if number == 2 and param.dim() == 2:
            param[0, 0] = float("nan")


class RunsElsewhere(TrainingImplementation):
    """Moves what it was given to another device, and trains there without a word."""

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        placed.params = [torch.nn.Parameter(param.detach().to("meta")) for param in placed.params]
        optimizer = torch.optim.SGD(placed.params, lr=0.1)
        return Running(step=lambda *batch: torch.zeros(()), optimizer=optimizer)


class MomentsElsewhere(TrainingImplementation):
    """Keeps its moments on another device."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        def step() -> None:
            optimizer.step()
            for state in optimizer.state.values():
                for name, value in state.items():
                    if value.dim():
                        state[name] = value.to("meta")

        return step


class FallsBack(TrainingImplementation):
    """What torch says where an operator of MPS runs on the CPU."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        def step() -> None:
            warnings.warn(
                "The operator 'aten::_fused_adam_' is not currently supported on the MPS backend and will fall back to"
                " run on the CPU. This may have performance implications.",
                stacklevel=1,
            )
            optimizer.step()

        return step


class KeepsFloat64Weights(TrainingImplementation):
    """Weights are swapped for wider ones."""

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        for param in placed.params:
            param.data = param.data.double()
        placed.module.double()
        placed._slope = placed._slope.double()
        running = super().start(placed, arithmetic)
        return Running(
            step=lambda *batch: running.step(*(one.double() for one in batch)), optimizer=running.optimizer
        )  # fmt: skip


class DrawsNumbers(_AfterStep):
    """Within the budget, and never the same twice."""

    def spoil(self, param: Tensor, number: int) -> None:
        param.mul_(1 + torch.finfo(param.dtype).eps * torch.randint(0, 2, param.shape))


class Raises(TrainingImplementation):
    """Says why it does not run."""

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        raise RuntimeError("no kernel image is available\nfor execution on the device")
