"""Several processes that train one model: each takes its share of the rows of every step, gradients are averaged.

All of them have all rows, the same first weights and the same order of rows, so a step is that of one process but for
the order in which numbers are added. The first process looks at the model, decides, writes and speaks; the others are
told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from lrdiff_core.devices import device_status
from lrdiff_core.errors import CheckFailed, ConfigError, UnavailableError
from lrdiff_core.processes.launch import Launch, launched
from lrdiff_core.text import check_choice

__all__ = ["ALONE", "PARALLEL", "Processes", "Share", "joined", "lost"]

PARALLEL = ("ddp", "fsdp2")

PATIENCE = timedelta(days=7)  # for what the first process does alone, such as comparing rates; torchrun ends the rest
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_OF_CONNECTIONS = ("gloo", "connection closed by peer", "connection reset by peer", "nccl")


class Share(NamedTuple):
    """The rows of a step that one process takes: from ``begin`` to ``end``; ``weight`` makes averages those of all."""

    begin: int
    end: int
    weight: float

    def weighted(self, loss: Tensor) -> Tensor:
        """The mean over these rows, scaled so that the mean over processes is the mean over all rows."""
        return loss if self.weight == 1.0 else loss * self.weight


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together; alone by default.

    Args:
        rank: its number, from 0.
        count: how many there are.
        device: the name of the device of each, as settings have it.
        launch: how they were started.
        control: the group in which the first tells the others; None where there is one process.
        parallel: ``"ddp"``: each has the whole model, or ``"fsdp2"``: see :class:`~.divided.Divided`.

    Example:
        >>> Processes(rank=1, count=2).share(5), ALONE.share(5)
        (Share(begin=3, end=5, weight=0.8), Share(begin=0, end=5, weight=1.0))
    """

    rank: int = 0
    count: int = 1
    device: str = "auto"
    launch: Launch | None = None
    control: Any = None
    parallel: str = "ddp"

    @property
    def is_first(self) -> bool:
        """Whether this is the one that looks, decides, writes and speaks."""
        return self.rank == 0

    @property
    def divide(self) -> bool:
        """Whether what is trained is divided over the processes."""
        return self.count > 1 and self.parallel == "fsdp2"

    @property
    def backend(self) -> str:
        """What carries gradients: ``"gloo"`` or ``"nccl"``."""
        return "nccl" if self.device.startswith("cuda") else "gloo"

    def placed(self, config: Any) -> Any:
        """The settings (a RunConfig) with the device of these processes, where they leave it open."""
        alone = self.count == 1 or config.device != "auto"
        return config if alone else config.model_copy(update={"device": self.device})

    def share(self, rows: int) -> Share:
        """This process's rows of a step of so many; one of them with weight 0 where there are fewer than processes."""
        size, more = divmod(rows, self.count)
        begin = self.rank * size + min(self.rank, more)
        end = begin + size + (self.rank < more)
        if begin == end:
            return Share(0, 1, 0.0)
        return Share(begin, end, (end - begin) * self.count / rows)

    def told(self, say: Callable[[], Any]) -> Any:
        """What the first process says, in all of them; it is called there alone, and gives plain JSON types."""
        if self.count == 1:
            return say()
        text = json.dumps(say()).encode() if self.is_first else b""
        size = torch.tensor([len(text)])
        with lost():
            dist.broadcast(size, 0, group=self.control)
            content = torch.frombuffer(bytearray(text or bytes(int(size))), dtype=torch.uint8)
            dist.broadcast(content, 0, group=self.control)
        return json.loads(content.numpy().tobytes())

    def data_parallel(self, module: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> nn.Module:
        """The module, its gradients averaged over processes in every backward pass; itself where it is alone.

        Weights and buffers of the first process become those of all. Two backward passes are made before the first
        step and leave nothing behind: one to see which parameters the loss depends on, one because torch orders
        gradients anew after it. Without it, a training that goes on would add numbers in another order than one that
        was not interrupted.

        Args:
            module: on its device.
            loss_of: a scalar of the module, as a step takes it.
        """
        if self.count == 1:
            return module
        kept = {name: value.detach().clone() for name, value in module.named_buffers()}
        devices = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
        with torch.random.fork_rng(list(devices), device_type="cuda"), lost():
            loss_of(module).backward()
            learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
            unused = any(parameter.grad is None for parameter in learning)
            module.zero_grad()
            wrapped = nn.parallel.DistributedDataParallel(module, find_unused_parameters=unused)
            loss_of(wrapped).backward()
            module.zero_grad()
        with torch.no_grad():
            for name, value in module.named_buffers():
                value.copy_(kept[name])
        return wrapped

    def check_same(self, module: nn.Module) -> None:
        """Check that the weights are the same in all processes, bit for bit.

        Raises:
            CheckFailed: they are not.
        """
        if self.count == 1:
            return
        total = 0
        for parameter in module.parameters():
            value = parameter.detach()
            total += int(value.contiguous().view(_WHOLE[value.element_size()]).sum(dtype=torch.int64))
        mine = torch.tensor([total % 2**62])
        every = [torch.zeros_like(mine) for _ in range(self.count)]
        with lost():
            dist.all_gather(every, mine, group=self.control)
        if other := next((rank for rank, one in enumerate(every) if not torch.equal(one, every[0])), None):
            raise CheckFailed(
                f"process {other} of {self.count} has other weights than the first",
                help="let the model and its data be the same in every process: draw from torch's seeded generators",
            )

    def leave(self) -> None:
        """The training is over: what follows is the first process's alone."""
        if self.count > 1 and dist.is_initialized():
            with lost():
                dist.barrier(group=self.control)
            dist.destroy_process_group()


ALONE = Processes()


@contextmanager
def joined(device: str = "auto", parallel: str = "ddp") -> Iterator[Processes]:
    """Join the processes that torchrun started with this one; :data:`ALONE` where it is the only one.

    Args:
        device: as settings have it; with ``"cuda"`` each process of a machine takes the GPU of its number.
        parallel: one of :data:`PARALLEL`.

    Raises:
        ConfigError: a device that several processes cannot share, or one process and ``"fsdp2"``.
        UnavailableError: there are fewer GPUs than processes, or the processes do not find each other.
    """
    check_choice("parallel", parallel, PARALLEL)
    launch = launched()
    if launch is None:
        if parallel != "ddp":
            raise ConfigError(
                f"parallel is {parallel}, and this is one process",
                help="start several: torchrun --nproc_per_node N -m lrdiff_bench train ...",
            )
        yield ALONE
        return
    name = _device_of(device, launch)
    try:
        # A store of each start's own: torchrun's is that of the start before, with the addresses of dead processes.
        store, rank, count = next(rendezvous("env://"))
        own = dist.PrefixStore(f"lrdiff/{launch.restarts}", store)  # type: ignore[attr-defined]  # documented there
        backend = "cpu:gloo,cuda:nccl" if name == "cuda" else "gloo"
        dist.init_process_group(backend, store=own, rank=rank, world_size=count)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as problem:
        raise UnavailableError(
            f"the {launch.count} processes did not find each other: {_first_line(problem)}",
            help="start them by torchrun --nproc_per_node N -m lrdiff_bench train ...",
        ) from problem
    try:
        yield Processes(
            rank=launch.rank, count=launch.count, device=name, launch=launch, control=control, parallel=parallel
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _device_of(wanted: str, launch: Launch) -> str:
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"device is {wanted}, and {launch.count} processes train together",
            help="write cpu, or cuda: each process then takes the GPU of its number",
        )
    reason = device_status("cuda").reason
    if wanted == "cpu" or (wanted == "auto" and reason is not None):
        return "cpu"
    if reason is not None:
        raise UnavailableError(f"device cuda is not available: {reason}", help="use --device cpu")
    if launch.local_count > (here := torch.cuda.device_count()):
        raise UnavailableError(
            f"{launch.local_count} processes on this machine, and {here} GPU{'' if here == 1 else 's'}",
            help=f"start {here} (torchrun --nproc_per_node {here}), or use --device cpu",
        )
    torch.cuda.set_device(launch.local_rank)
    return "cuda"


@contextmanager
def lost() -> Iterator[None]:
    """Tell in two lines that another process is gone.

    Raises:
        UnavailableError: in place of what torch raises then.
    """
    try:
        yield
    except RuntimeError as problem:
        text = str(problem).lower()
        if not isinstance(problem, dist.DistError) and not any(sign in text for sign in _OF_CONNECTIONS):
            raise
        raise UnavailableError(
            f"another process of this training is gone: {_first_line(problem)}",
            help="torchrun --max-restarts N starts all again, from the last epoch that was kept",
        ) from problem


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0].rpartition("] ")[2][:160]
