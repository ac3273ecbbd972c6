"""Implementations that do not run as they come: through ``torch.compile``, on a CUDA stream, as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.devices import compiler_status
from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_export.model.capture import capture
from lrdiff_export.training.arithmetic import Arithmetic
from lrdiff_export.training.implementations import Running, TrainingImplementation, register_implementation
from lrdiff_export.training.job import Batch, Placed
from lrdiff_export.training.optimizers import parts_of

__all__ = ["CompiledModel", "CompiledStep", "OursGraph", "OursOnStream", "TorchGraph"]


class _Compiled(TrainingImplementation):
    """What goes through ``torch.compile``.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    mode: str | None = None

    def optimizer(self, placed: Placed) -> Any:
        """With rates as tensors where they move: a new number would compile the step anew."""
        made = super().optimizer(placed)
        if placed.job.schedule is not None:
            for part in parts_of(made):
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

    @override
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

    @override
    def loss(self, placed: Placed) -> Callable[..., Tensor]:
        return torch.compile(placed.loss, mode=self.mode)


@register_implementation("model-reduce-overhead")
class ReduceOverhead(CompiledModel):
    """As ``model-compiled``, replayed from CUDA graphs."""

    devices = ("cuda",)
    mode = "reduce-overhead"

    @override
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
        if optimizer not in ("sgd", "adam", "adamw"):
            return "SGD, Adam and AdamW are captured, no other rule"
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
