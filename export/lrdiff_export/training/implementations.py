"""Where a training can run: implementations of the optimizer, devices, arithmetics; a lane is one of each.

To add an implementation, write a class with the members of :class:`Implementation` and decorate it with
:func:`register_implementation`; every training parity check then covers it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from lrdiff_core import optim
from lrdiff_core.devices import compiler_status, device_status
from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_core.optim import kernel
from lrdiff_core.schedules import Schedule, Shape
from lrdiff_export.model.capture import capture
from lrdiff_export.runtimes.cuda import float32_products
from lrdiff_export.training.job import Batch, Placed

__all__ = [
    "ARITHMETICS",
    "IMPLEMENTATIONS",
    "Arithmetic",
    "Implementation",
    "Lane",
    "Running",
    "TrainingImplementation",
    "compute_in",
    "find_lanes",
    "register_implementation",
    "triton_switched_on",
]


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What weights are kept in, and what products are computed in.

    Attributes:
        name: as asked for.
        dtype: of weights and rows.
        product_eps: distance from 1 to the next number, of what goes into matrix products.
        devices: where there is such an arithmetic.
    """

    name: str
    dtype: torch.dtype
    product_eps: float
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")

    @property
    def eps(self) -> float:
        """The unit that errors are counted in: the coarser one of weights and products."""
        return max(float(torch.finfo(self.dtype).eps), self.product_eps)


ARITHMETICS: dict[str, Arithmetic] = {
    one.name: one
    for one in (
        Arithmetic(name="float32", dtype=torch.float32, product_eps=2.0**-23),
        Arithmetic(name="float64", dtype=torch.float64, product_eps=2.0**-52, devices=("cpu", "cuda")),
        Arithmetic(name="bfloat16", dtype=torch.bfloat16, product_eps=2.0**-7),
        Arithmetic(name="autocast", dtype=torch.float32, product_eps=2.0**-7),  # to bfloat16, weights in float32
        Arithmetic(name="tfloat32", dtype=torch.float32, product_eps=2.0**-10, devices=("cuda",)),
    )
}


@contextmanager
def compute_in(arithmetic: Arithmetic, device: str) -> Iterator[None]:
    """Compute so, and no other way: TF32 is on where it is asked for and off everywhere else; put back afterwards."""
    products = "tf32" if arithmetic.name == "tfloat32" else "ieee"
    cast = arithmetic.name == "autocast"  # made only where it is wanted: a GPU without bfloat16 refuses to make one
    with (
        float32_products(products),
        torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False) if cast else nullcontext(),
    ):
        yield


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
        devices, arithmetics: where none is named.

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
        for part in getattr(optimizer, "parts", [optimizer]):
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


def make_optimizer(placed: Placed, *, ours: bool, **flags: Any) -> Any:
    """Build the job's optimizer, from this project or from torch.

    Args:
        placed: over whose parameters.
        ours: from :mod:`lrdiff_core.optim`; otherwise torch's own.
        flags: ``foreach``, ``fused``, ``capturable``.
    """
    name, groups = placed.job.optimizer, placed.groups()
    if name == "muon":
        return optim.MuonAdamW(groups) if ours else MuonPair(groups)
    home: Any = optim if ours else torch.optim
    kind = getattr(home, {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[name])
    if name == "sgd":
        flags.pop("capturable", None)  # it has no counter, so it always is
    return kind(groups, **flags)


class MuonPair:
    """torch's Muon for groups with ``use_muon`` and its AdamW for the rest, as one."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        def without(group: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in group.items() if key != "use_muon"}

        parts = [
            (torch.optim.Muon, [without(group) for group in groups if group.get("use_muon")]),
            (torch.optim.AdamW, [without(group) for group in groups if not group.get("use_muon")]),
        ]
        self.parts = [kind(chosen) for kind, chosen in parts if chosen]

    @property
    def state(self) -> dict[Tensor, Any]:
        """Of both."""
        return {param: value for part in self.parts for param, value in part.state.items()}

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()


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


@contextmanager
def triton_switched_on() -> Iterator[None]:
    """Ask our optimizers for the Triton kernel; what was set is set again."""
    before = os.environ.get("LRDIFF_TRITON")
    os.environ["LRDIFF_TRITON"] = "1"
    try:
        yield
    finally:
        del os.environ["LRDIFF_TRITON"]
        if before is not None:
            os.environ["LRDIFF_TRITON"] = before


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


class _Compiled(TrainingImplementation):
    """What goes through ``torch.compile``.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    mode: str | None = None

    def optimizer(self, placed: Placed) -> Any:
        """With rates as tensors where they move: a new number would compile the step anew."""
        made = super().optimizer(placed)
        if placed.job.schedule is not None:
            for part in getattr(made, "parts", [made]):
                for group in part.param_groups:
                    group["lr"] = torch.tensor(group["lr"])
        return made

    def unavailable(self, optimizer: str, device: str, arithmetic: Arithmetic) -> str | None:
        """Return why inductor cannot build here."""
        return super().unavailable(optimizer, device, arithmetic) or (
            compiler_status().reason if device == "cpu" else None
        )


@register_implementation("torch-compiled")
class CompiledStep(_Compiled):
    """torch's optimizer, its step compiled."""

    def update(self, optimizer: Any) -> Callable[[], object]:
        logging.getLogger("torch._dynamo.variables.ctx_manager").addFilter(_not_of_the_profiler)
        return torch.compile(optimizer.step, mode=self.mode)


def _not_of_the_profiler(record: logging.LogRecord) -> bool:
    """Every step of a torch optimizer is marked for the profiler, and that this is left out is no news."""
    return "Profiler record function" not in record.getMessage()


@register_implementation("ours-compiled")
class OursCompiledStep(CompiledStep):
    """Our optimizer, its step compiled."""

    ours = True


@register_implementation("model-compiled")
class CompiledModel(_Compiled):
    """Forward and backward compiled, our optimizer."""

    ours = True

    def loss(self, placed: Placed) -> Callable[..., Tensor]:
        return torch.compile(placed.loss, mode=self.mode)


@register_implementation("model-reduce-overhead")
class ReduceOverhead(CompiledModel):
    """As ``model-compiled``, replayed from CUDA graphs."""

    devices = ("cuda",)
    mode = "reduce-overhead"

    def loss(self, placed: Placed) -> Callable[..., Tensor]:
        compiled = super().loss(placed)

        def begun(*batch: Tensor) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return compiled(*batch)

        return begun


@register_implementation("model-max-autotune")
class MaxAutotune(CompiledModel):
    """As ``model-compiled``, with kernels chosen by timing them."""

    devices = ("cuda",)
    mode = "max-autotune-no-cudagraphs"


class _OnStream(TrainingImplementation):
    """Every step on a stream of its own, ordered after and before the default one."""

    devices = ("cuda",)

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        running = super().start(placed, arithmetic)
        side = torch.cuda.Stream()

        def step(*batch: Tensor) -> Tensor:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                loss = running.step(*batch)
            torch.cuda.current_stream().wait_stream(side)
            return loss

        return Running(step=step, optimizer=running.optimizer)


@register_implementation("ours-stream")
class OursOnStream(_OnStream):
    """Our optimizer on a side stream."""

    ours = True


class _Graph(TrainingImplementation):
    """The whole step captured once and replayed.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """

    devices = ("cuda",)

    def unavailable(self, optimizer: str, device: str, arithmetic: Arithmetic) -> str | None:
        """Return why nothing can be captured."""
        if optimizer == "muon":
            return "Muon cannot be captured"
        return super().unavailable(optimizer, device, arithmetic)

    def start(self, placed: Placed, arithmetic: Arithmetic) -> Running:
        job = placed.job
        if job.schedule is not None:
            raise UnavailableError(f"{self.name} replays the rates that it captured", help="leave the schedule out")
        if len({tuple(one.shape for one in batch) for batch in job.batches}) > 1:
            raise ConfigError(
                "batches differ in shape, and a graph has one", help="choose a batch that divides the rows"
            )
        running = super().start(placed, arithmetic)
        rows: Batch = tuple(one.clone() for one in placed.batch(0))
        kept = [*placed.params, *placed.module.buffers()]
        before = [one.detach().clone() for one in kept]
        # Gradients are let go, so that those of the capture lie in the graph's own memory.
        graph, loss = capture(lambda: running.step(*rows), warmed=running.optimizer.zero_grad)
        with torch.no_grad():  # warming up and capturing are not training
            for one, value in zip(kept, before, strict=True):
                one.copy_(value)
            for state in running.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()

        def step(*batch: Tensor) -> Tensor:
            for mine, one in zip(rows, batch, strict=True):
                mine.copy_(one)
            graph.replay()
            return loss.clone()

        return Running(step=step, optimizer=running.optimizer)


@register_implementation("torch-graph")
class TorchGraph(_Graph):
    """torch fused and capturable, in a CUDA graph."""

    flags = {"fused": True, "capturable": True}  # noqa: RUF012


@register_implementation("ours-graph")
class OursGraph(_Graph):
    """Ours, capturable, in a CUDA graph."""

    ours = True
    flags = {"capturable": True}  # noqa: RUF012


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
