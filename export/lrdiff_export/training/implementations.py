"""Ways to make updates: a registry, the base class, those that run as they come; and lanes, a row of the matrix each.

To add one, write a class with the members of :class:`Implementation` and decorate it with
:func:`register_implementation`; every training parity check then covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lrdiff_core.devices import device_status
from lrdiff_core.errors import ConfigError
from lrdiff_core.optim import kernel
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.schedules import Schedule, Shape
from lrdiff_export.training.arithmetic import ARITHMETICS, Arithmetic, compute_in
from lrdiff_export.training.job import Placed
from lrdiff_export.training.optimizers import make_optimizer, of_torch, parts_of, triton_switched_on

__all__ = [
    "IMPLEMENTATIONS",
    "Implementation",
    "Lane",
    "Running",
    "TrainingImplementation",
    "find_lanes",
    "register_implementation",
    "why_not",
]


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
    """PyTorch's own optimizer as it comes; subclasses say which one, and what else they do to the training.

    Of a rule that torch has none of (LAMB, schedule-free AdamW), the plain loop in our rule's file stands in its place.
    """

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
        if self.flags.get("fused") and not OPTIMIZERS[optimizer].fused:
            return f"torch has no fused {OPTIMIZERS[optimizer].kind}"
        if self.flags and not of_torch(optimizer):
            return f"torch has no {OPTIMIZERS[optimizer].kind}"
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
        if optimizer not in ("adam", "adamw") or arithmetic.dtype is not torch.float32:
            return "the Triton kernel is for Adam and AdamW in float32"
        return None if find_spec("triton") is not None else "triton is not installed"

    def context(self) -> AbstractContextManager[Any]:
        return triton_switched_on()


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One row of the matrix: who makes the updates, where, in which arithmetic."""

    implementation: str
    device: str = "cpu"
    arithmetic: str = "float32"

    def __str__(self) -> str:
        return f"{self.implementation} on {self.device} in {self.arithmetic}"


def find_lanes(
    wanted: Sequence[str] | None = None,
    *,
    devices: Sequence[str] = ("cpu", "cuda", "mps"),
    arithmetics: Sequence[str] = ("float32",),
) -> list[Lane]:
    """Return the lanes that names select: implementations, devices and arithmetics in any order, each kind optional.

    Args:
        wanted: such as ``["ours", "cuda", "bfloat16"]``; None for every implementation.
        devices: where none is named.
        arithmetics: where none is named.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> [str(lane) for lane in find_lanes(["ours", "cpu", "float64"])]
        ['ours on cpu in float64']
    """
    names = list(wanted or [])
    for name in names:
        if name not in IMPLEMENTATIONS and name not in ARITHMETICS and name not in ("cpu", "cuda", "mps"):
            raise ConfigError(
                f'"{name}" is not an implementation, device or arithmetic',
                help=f"write some of: {', '.join([*IMPLEMENTATIONS, 'cpu', 'cuda', 'mps', *ARITHMETICS])}",
            )
    chosen_devices = [name for name in names if name in ("cpu", "cuda", "mps")] or list(devices)
    chosen_arithmetics = [name for name in names if name in ARITHMETICS] or list(arithmetics)
    named = [name for name in names if name in IMPLEMENTATIONS]
    return [
        Lane(implementation=name, device=device, arithmetic=arithmetic)
        for device in chosen_devices
        for arithmetic in chosen_arithmetics
        for name in named or IMPLEMENTATIONS
        # What can never be there is a row only where it was asked for by name.
        if name in named or (device in IMPLEMENTATIONS[name].devices and device in ARITHMETICS[arithmetic].devices)
    ]


def why_not(lane: Lane, optimizer: str) -> str | None:
    """Return why a lane cannot run here, in one line, or None.

    Example:
        >>> why_not(Lane(implementation="ours-graph"), "adam")
        'ours-graph needs cuda'
    """
    arithmetic = ARITHMETICS[lane.arithmetic]
    if lane.device not in arithmetic.devices:
        return f"there is no {lane.arithmetic} on {lane.device}"
    if (reason := device_status(lane.device).reason) is not None:
        return reason
    return IMPLEMENTATIONS[lane.implementation].unavailable(optimizer, lane.device, arithmetic)
