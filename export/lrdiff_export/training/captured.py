"""Implementations on CUDA streams and graphs: ordered by events, or captured once and replayed."""

from __future__ import annotations

import torch
from torch import Tensor

from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_export.model.capture import capture
from lrdiff_export.training.arithmetic import Arithmetic
from lrdiff_export.training.implementations import Running, TrainingImplementation, register_implementation
from lrdiff_export.training.job import Batch, Placed

__all__ = ["OursGraph", "OursOnStream", "TorchGraph"]


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
