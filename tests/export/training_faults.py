"""Implementations with a fault each, for the tests of training parity: what a broken optimizer or device would do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrdiff_export.training import Arithmetic, Placed, Running, TrainingImplementation


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


class _Warns(TrainingImplementation):
    """Warns of something at every step."""

    text: str

    def update(self, optimizer: Any) -> Callable[[], object]:
        def step() -> None:
            warnings.warn(self.text, stacklevel=1)
            optimizer.step()

        return step


class FallsBack(_Warns):
    """What torch says where an operator of MPS runs on the CPU."""

    text = (
        "The operator 'aten::_fused_adam_' is not currently supported on the MPS backend and will fall back to"
        " run on the CPU. This may have performance implications."
    )


class NoAutocast(_Warns):
    """What torch says of autocast on MPS before macOS 14."""

    text = (
        "In MPS autocast, but the target dtype torch.bfloat16 is not supported on macOS versions below 14. "
        "Disabling autocast."
    )


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


class _OwnAdamW(TrainingImplementation):
    """AdamW written out, with torch's names for its state; subclasses get one thing wrong."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        number = 0

        @torch.no_grad()
        def step() -> None:
            nonlocal number
            number += 1
            for group in optimizer.param_groups:
                for param in group["params"]:
                    state = optimizer.state[param]
                    if not state:
                        state |= {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
                    self.one(param, group, state, number)

        return step

    def one(self, param: Tensor, group: dict[str, Any], state: dict[str, Tensor], number: int) -> None:
        """The right step, in float64 between what is stored."""
        (beta1, beta2), decay, grad = self.betas(group), group.get("weight_decay", 0.0), param.grad.double()
        if self.coupled:
            grad = grad + decay * param.double()
        m = beta1 * state["exp_avg"].double() + (1 - beta1) * grad
        v = beta2 * state["exp_avg_sq"].double() + (1 - beta2) * grad.square()
        state["exp_avg"].copy_(m)
        state["exp_avg_sq"].copy_(v)
        first, second = self.corrections(beta1, beta2, number)
        kept = param.double() * (1.0 if self.coupled else 1 - group["lr"] * decay)
        param.copy_(kept - group["lr"] * (m / first) / self.root(v / second, group["eps"]))

    coupled = False

    def betas(self, group: dict[str, Any]) -> tuple[float, float]:
        return group["betas"]

    def corrections(self, beta1: float, beta2: float, number: int) -> tuple[float, float]:
        return 1 - beta1**number, 1 - beta2**number

    def root(self, v: Tensor, eps: float) -> Tensor:
        return v.sqrt() + eps


class RightAdamW(_OwnAdamW):
    """Nothing is wrong with it."""


class EpsInsideTheRoot(_OwnAdamW):
    """sqrt(v + eps) in place of sqrt(v) + eps."""

    def root(self, v: Tensor, eps: float) -> Tensor:
        return (v + eps).sqrt()


class CorrectsOnlyTheFirstStep(_OwnAdamW):
    """Bias correction is missing from the second step on."""

    def corrections(self, beta1: float, beta2: float, number: int) -> tuple[float, float]:
        return super().corrections(beta1, beta2, number) if number == 1 else (1.0, 1.0)


class CouplesWeightDecay(_OwnAdamW):
    """Adam's weight decay in place of AdamW's."""

    coupled = True


class AddsEpsBeforeTheCorrection(_OwnAdamW):
    """The eps of the paper's faster form, with the number that belongs to the other."""

    def corrections(self, beta1: float, beta2: float, number: int) -> tuple[float, float]:
        first, self.second = super().corrections(beta1, beta2, number)
        return first, self.second

    def root(self, v: Tensor, eps: float) -> Tensor:
        return v.sqrt() + eps / self.second**0.5


class CorrectsTheFirstMomentAlone(_OwnAdamW):
    """The second moment is used as it is."""

    def corrections(self, beta1: float, beta2: float, number: int) -> tuple[float, float]:
        return super().corrections(beta1, beta2, number)[0], 1.0


class CountsFromZero(_OwnAdamW):
    """Every correction is that of the step before."""

    def corrections(self, beta1: float, beta2: float, number: int) -> tuple[float, float]:
        return super().corrections(beta1, beta2, max(number - 1, 1))


class SwapsBetas(_OwnAdamW):
    """Each beta in the other's place."""

    def betas(self, group: dict[str, Any]) -> tuple[float, float]:
        return group["betas"][::-1]


class ForgetsMomentum(TrainingImplementation):
    """Every fourth step, as at an epoch's end, the momentum begins anew."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        number = 0

        def step() -> None:
            nonlocal number
            number += 1
            optimizer.step()
            if number % 4 == 0:
                for state in optimizer.state.values():
                    state["momentum_buffer"].zero_()

        return step


class ScalesItsGradients(TrainingImplementation):
    """Gradients are a quarter too large, as of a mean over too few rows; the loss is right."""

    def loss(self, placed: Placed) -> Callable[..., Tensor]:
        def loss(*batch: Tensor) -> Tensor:
            value = placed.loss(*batch)
            return value + 0.25 * (value - value.detach())

        return loss


class HidesItsGradients(TrainingImplementation):
    """Nothing can be said of its single steps."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        def step() -> None:
            optimizer.step()
            optimizer.zero_grad()

        return step


class LagsBehind(TrainingImplementation):
    """Its scheduler steps before the optimizer's first step is over: every rate is that of the step before."""

    def schedule(self, placed: Placed, optimizer: Any) -> Callable[[], object]:
        move, called = super().schedule(placed, optimizer), 0

        def late() -> None:
            nonlocal called
            called += 1
            if called > 1:
                move()

        return late


class WarmsOnlyTheFirstGroup(TrainingImplementation):
    """All groups but the first are trained at their full rates."""

    def schedule(self, placed: Placed, optimizer: Any) -> Callable[[], object]:
        full = [group["lr"] for group in optimizer.param_groups]
        move = super().schedule(placed, optimizer)

        def only_first() -> None:
            move()
            for group, rate in list(zip(optimizer.param_groups, full, strict=True))[1:]:
                group["lr"] = rate

        for group, rate in list(zip(optimizer.param_groups, full, strict=True))[1:]:
            group["lr"] = rate
        return only_first


class DecaysTwice(TrainingImplementation):
    """A decay of its own before the optimizer's."""

    times = 1.0

    def update(self, optimizer: Any) -> Callable[[], object]:
        def step() -> None:
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for param in group["params"]:
                        param.mul_(1 - self.times * group["lr"] * group["weight_decay"])
            optimizer.step()

        return step


class TakesItsDecayBack(DecaysTwice):
    """As if there were none."""

    times = -1.0
