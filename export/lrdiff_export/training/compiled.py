"""Implementations that go through ``torch.compile``: the optimizer's step, or the model's two passes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.devices import compiler_status
from lrdiff_export.training.arithmetic import Arithmetic
from lrdiff_export.training.implementations import TrainingImplementation, register_implementation
from lrdiff_export.training.job import Placed
from lrdiff_export.training.optimizers import parts_of

__all__ = ["CompiledModel", "CompiledStep"]


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
