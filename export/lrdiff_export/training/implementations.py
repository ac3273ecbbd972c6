"""Ways to make updates: a registry, the base class, and those that run as they come.

To add one, write a class with the members of :class:`Implementation` and decorate it with
:func:`register_implementation`; every training parity check then covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lrdiff_core.errors import ConfigError
from lrdiff_core.optim import kernel
from lrdiff_core.schedules import Schedule, Shape
from lrdiff_export.training.arithmetic import Arithmetic, compute_in
from lrdiff_export.training.job import Placed
from lrdiff_export.training.optimizers import make_optimizer, parts_of, triton_switched_on

__all__ = ["IMPLEMENTATIONS", "Implementation", "Running", "TrainingImplementation", "register_implementation"]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A training under way.

    Attributes:
        step: takes a batch, makes one update, returns the loss from before it.
        optimizer: whose state is looked at, to see where it lies.
    """

    step: Callable[..., Tensor]
    optimizer: Any


class Implementation(Protocol):
    """A way to make updates; a protocol, so that one can be brought without importing a base class."""

    name: str
    devices: tuple[str, ...]

    def unavailable(self, optimizer: str, device: str, arithmetic: Arithmetic) -> str | None:
        """Return why it cannot be used so, in one line, or None."""

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        """Begin to train ``placed``, in place."""


IMPLEMENTATIONS: dict[str, Implementation] = {}

_Kind = TypeVar("_Kind", bound=type)


def register_implementation(name: str) -> Callable[[_Kind], _Kind]:
    """Return a decorator that puts an implementation class under ``name`` into the registry.

    Raises:
        ConfigError: the name is taken.
    """
    if name in IMPLEMENTATIONS:
        raise ConfigError(f'there is an implementation "{name}" already', help="choose another name")

    def decorate(kind: _Kind) -> _Kind:
        made = kind()
        made.name = name
        IMPLEMENTATIONS[name] = made
        return kind

    return decorate


class TrainingImplementation:
    """PyTorch's own optimizer as it comes; subclasses say which one, and what else they do to the training."""

    name = "torch"
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")
    ours = False
    flags: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def unavailable(self, optimizer: str, device: str, arithmetic: Arithmetic) -> str | None:
        """Return why it cannot be used so; the device itself is looked at by whoever asks."""
        if device not in self.devices:
            return f"{self.name} needs {' or '.join(self.devices)}"
        if optimizer == "muon" and self.flags:
            return "torch has one implementation of Muon"
        return None

    def context(self) -> AbstractContextManager[Any]:
        """Wraps every step."""
        return nullcontext()

    def optimizer(self, placed: Placed) -> Any:
        """The optimizer over the groups of ``placed``."""
        return make_optimizer(placed, ours=self.ours, **self.flags)

    def loss(self, placed: Placed) -> Callable[..., Tensor]:
        """What the backward pass starts from."""
        return placed.loss

    def update(self, optimizer: Any) -> Callable[[], object]:
        """What makes the update once there are gradients."""
        step: Callable[[], object] = optimizer.step
        return step

    def schedule(self, placed: Placed, optimizer: Any) -> Callable[[], object]:
        """What moves the rates after each update: this project's scheduler, or torch's with the same factors."""
        job = placed.job
        if job.schedule is None:
            return lambda: None
        steps = job.schedule_steps or job.steps
        made: list[Any] = []
        for part in parts_of(optimizer):
            probes = [placed.is_probe(group) for group in part.param_groups]
            if self.ours:
                shapes = [Shape(kind="constant") if probe else job.schedule for probe in probes]
                made.append(Schedule(part, total_steps=steps, shape=shapes))
            else:
                factors = [(lambda t: 1.0) if probe else (lambda t: job.factor(t + 1)) for probe in probes]
                made.append(torch.optim.lr_scheduler.LambdaLR(part, factors))

        def move() -> None:
            for one in made:
                one.step()

        return move

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        """Begin to train: each step is forward, backward, update, and the rates of the next one."""
        optimizer = self.optimizer(placed)
        move_rates = self.schedule(placed, optimizer)
        loss_of, update = self.loss(placed), self.update(optimizer)

        def step(*batch: Tensor) -> Tensor:
            with self.context():
                optimizer.zero_grad()
                with compute_in(arithmetic, placed.device):
                    loss = loss_of(*batch)
                    loss.backward()
                update()
                move_rates()
            return loss.detach()

        return Running(step=step, optimizer=optimizer)


@register_implementation("torch")
class TorchDefault(TrainingImplementation):
    """What torch chooses: a loop on the CPU, foreach on a GPU."""


@register_implementation("torch-foreach")
class TorchForeach(TrainingImplementation):
    """torch with ``foreach=True``."""

    flags = {"foreach": True}  # noqa: RUF012


@register_implementation("torch-fused")
class TorchFused(TrainingImplementation):
    """torch with ``fused=True``."""

    flags = {"fused": True}  # noqa: RUF012


@register_implementation("ours")
class Ours(TrainingImplementation):
    """One pass over all rates."""

    ours = True


@register_implementation("ours-no-kernel")
class OursNoKernel(TrainingImplementation):
    """One pass without the compiled kernel of the CPU."""

    devices = ("cpu",)
    ours = True

    def context(self) -> AbstractContextManager[Any]:
        return kernel.switched_off()


@register_implementation("ours-triton")
class OursTriton(TrainingImplementation):
    """One Triton kernel over all rates."""

    devices = ("cuda",)
    ours = True

    def unavailable(self, optimizer: str, device: str, arithmetic: Arithmetic) -> str | None:
        """Return why there is no such kernel here."""
        if (reason := super().unavailable(optimizer, device, arithmetic)) is not None:
            return reason
        if optimizer == "sgd" or arithmetic.dtype is not torch.float32:
            return "the Triton kernel is for Adam and AdamW in float32"
        return None if find_spec("triton") is not None else "triton is not installed"

    def context(self) -> AbstractContextManager[Any]:
        return triton_switched_on()
