"""FSDP2: weights, gradients and optimizer state divided over processes, and the whole that everything else knows."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError
from lrdiff_core.processes.group import Processes, lost

__all__ = ["Divided"]

_NO_SETTINGS = ("params", "param_names")


class Steps(Protocol):
    """What moves the rates: a schedule of ours or of torch's."""

    def step(self) -> None:
        """Go one step on."""


class Divided:
    """A copy of a module, divided over the processes by torch's ``fully_shard``, with an optimizer over its parts.

    Each process keeps its part of every weight's rows, gradient and state; the weights are put together while a step
    needs them. Evaluation, checkpoints and export know nothing of that: after :meth:`gather`, the module that was
    copied has the weights and buffers, in every process, and its optimizer the state, in the first one's main memory.
    So a training that was kept goes on with any number of processes, divided or not.

    Args:
        module: on its device; that of the first process becomes that of all.
        optimizer: over its parameters, with the state of a training that goes on.
        schedule: moves the rates of ``optimizer``, or None.
        processes: all of which call this.
        forward: the module's method that a step calls.

    Attributes:
        module: the copy.
        optimizer: of the same class and settings as the given one.
        schedule: moves the rates of both optimizers, or None.

    Raises:
        ConfigError: ``fully_shard`` does not take such a module.

    Example:
        >>> from lrdiff_core.processes.group import ALONE
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> divided = Divided(layer, torch.optim.SGD(layer.parameters(), lr=0.5), None, ALONE)
        >>> before = layer.weight.detach().clone()
        >>> divided.module(torch.ones(1, 2)).sum().backward()
        >>> divided.optimizer.step()
        >>> divided.gather()
        >>> layer.weight.detach() - before
        tensor([[-0.5000, -0.5000]])
        >>> dist.destroy_process_group()

    Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Steps | None,
        processes: Processes,
        *,
        forward: str = "forward",
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self._whole, self._whole_optimizer, self._processes = module, optimizer, processes
        with lost():
            _take_from_first([*module.parameters(), *module.buffers()])
            kind = next((param.device.type for param in module.parameters()), "cpu")
            try:
                self.module: Any = copy.deepcopy(module).train()
                fully_shard(self.module, mesh=init_device_mesh(kind, (processes.count,)))
            except (NotImplementedError, TypeError, ValueError, AssertionError) as problem:
                raise ConfigError(
                    f"fsdp2 cannot divide this model: {str(problem).partition(chr(10))[0]}",
                    help="train with ddp, the default",
                ) from problem
        if forward != "forward":
            register_fsdp_forward_method(self.module, forward)
        parts = dict(self.module.named_parameters())
        self._part_of = {id(param): parts[name] for name, param in module.named_parameters()}
        self._whole_of = {id(parts[name]): param for name, param in module.named_parameters()}
        kind_of_optimizer: Any = type(optimizer)  # whose settings all stand in the groups
        self.optimizer: torch.optim.Optimizer = kind_of_optimizer(
            [
                {**group, "params": [self._part_of[id(param)] for param in group["params"]]}
                for group in optimizer.param_groups
            ]
        )
        for param, entries in optimizer.state.items():
            part = self._part_of[id(param)]
            self.optimizer.state[part] = {name: _divided(value, part) for name, value in entries.items()}
        optimizer.state.clear()
        self.schedule = None if schedule is None else _Followed(schedule, optimizer, self.optimizer)

    @torch.no_grad()
    def gather(self) -> None:
        """Put weights, buffers and state into the module and the optimizer that this one was made of."""
        with lost():
            for name, part in self.module.named_parameters():
                self._whole.get_parameter(name).copy_(part.full_tensor())
            _take_from_first(self.module.buffers())
            for name, buffer in self.module.named_buffers():
                self._whole.get_buffer(name).copy_(buffer)
            state = self._whole_optimizer.state
            state.clear()
            for part, entries in self.optimizer.state.items():
                # All take part, tensor by tensor; the first keeps it.
                whole = {name: _whole(value) for name, value in entries.items()}
                if self._processes.is_first:
                    state[self._whole_of[id(part)]] = whole
        for group, own in zip(self._whole_optimizer.param_groups, self.optimizer.param_groups, strict=True):
            group.update({name: value for name, value in own.items() if name not in _NO_SETTINGS})


class _Followed:
    """A schedule of one optimizer, whose rates another one with the same groups takes."""

    def __init__(self, schedule: Steps, led: torch.optim.Optimizer, following: torch.optim.Optimizer) -> None:
        self._schedule, self._led, self._following = schedule, led, following

    def step(self) -> None:
        """Go one step on."""
        self._schedule.step()
        for group, own in zip(self._led.param_groups, self._following.param_groups, strict=True):
            own["lr"] = group["lr"]


def _take_from_first(tensors: Iterable[Tensor]) -> None:
    """Fill tensors with what the first process has, of whatever type they are."""
    for tensor in tensors:
        content = tensor.detach().contiguous().reshape(-1)
        dist.broadcast(content.view(torch.uint8), 0)
        tensor.data.copy_(content.view(tensor.shape))


def _divided(value: Any, part: Any) -> Any:
    """An entry of the state of a whole parameter, for the part that is here."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor):
        return value
    if value.shape != part.shape:
        return value.clone()
    # Without a source: every process has the whole already, from one file.
    return distribute_tensor(value.to(part.device), part.device_mesh, part.placements, src_data_rank=None)


def _whole(value: Any) -> Any:
    """An entry of the state of a part, of the whole parameter; in main memory."""
    if hasattr(value, "full_tensor"):
        value = value.full_tensor()
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value
