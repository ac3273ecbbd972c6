"""The optimizer step: which implementation, how many rates, on which model's shapes."""

from __future__ import annotations

from typing import Any

import torch

from lrdiff_bench.measure.cases.optimizer_error import optimizer_parity
from lrdiff_bench.measure.cases.state import (
    model_shapes,
    optimizer_facts,
    rate_groups,
    restore_tensors,
    state_tensors,
    tensors,
)
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family
from lrdiff_core.devices import compiler_status, device_status

__all__ = ["build_optimizer", "memory_copy", "optimizer_step"]

MODELS = ("resnet50", "vit_b16", "bert_base", "gpt2_small", "lora_bert", "gaussians")
# torch's "default" chooses by itself: the loop on the CPU, foreach on CUDA.
IMPLEMENTATIONS = ("ours", "fused", "foreach", "default", "compiled")
COUNTS: tuple[int | str, ...] = (1, 2, 8, 32, 128, 1000, "each")
MOMENTUM = 0.9
COPIED = 2**26  # numbers a tensor, 256 MiB: far beyond any cache


def build_optimizer(optimizer: str, implementation: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of that name: ``ours`` from lrdiff_core, all others torch's own.

    Args:
        optimizer: "adamw", "adam" or "sgd" (with momentum 0.9).
        implementation: one of :data:`IMPLEMENTATIONS`.
        groups: with their rates.
    """
    from lrdiff_core import optim

    name = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}[optimizer]
    options: dict[str, Any] = {"momentum": MOMENTUM} if optimizer == "sgd" else {}
    if implementation in ("fused", "foreach"):
        options[implementation] = True
    home: Any = optim if implementation == "ours" else torch.optim
    made: torch.optim.Optimizer = getattr(home, name)(groups, **options)
    return made


def _unavailable(
    *, shapes: str, optimizer: str, implementation: str, rates: int | str, device: str, threads: int
) -> str | None:
    status = device_status(device)
    if not status.available:
        return status.reason
    count = len(model_shapes(shapes))
    if rates != "each" and int(rates) > count:
        return f"{shapes} has {count} tensors"
    if implementation == "compiled" and device == "cpu":
        return compiler_status().reason
    return None


@case_family(
    version="1",
    parameters={
        "shapes": ("lora_bert", "thousand", *(name for name in MODELS if name != "lora_bert")),
        "optimizer": ("adamw", "adam", "sgd"),
        "implementation": IMPLEMENTATIONS,
        "rates": COUNTS,
        "device": ("cpu", "cuda", "mps"),
        "threads": (1, 2, 4, 8, 16),
    },
    views={
        "rates": {"shapes": ("thousand",), "implementation": ("ours", "fused", "foreach", "default"), "rates": COUNTS},
        "models": {"shapes": MODELS, "implementation": ("ours", "fused"), "rates": (1, "each")},
        "optimizers": {"optimizer": ("adamw", "adam", "sgd"), "implementation": ("ours", "fused"), "rates": (1, 32)},
        "compiled": {"implementation": ("compiled",), "rates": (1, 8)},
        "threads": {"shapes": ("resnet50",), "implementation": ("ours", "fused"), "rates": (32,), "threads": (1, 2)},
        "devices": {"device": ("cuda", "mps"), "implementation": ("ours", "fused", "foreach"), "rates": (1, 32)},
    },
    quick={"implementation": ("ours", "fused"), "rates": (1, 32)},
    unavailable=_unavailable,
)
def optimizer_step(
    shapes: str, optimizer: str, implementation: str, rates: int | str, device: str, threads: int
) -> Workload:
    """Optimizer step over the parameters of a model, on fixed gradients."""
    parameters = list(tensors(model_shapes(shapes), device=device).values())
    made = build_optimizer(optimizer, implementation, rate_groups(parameters, rates))
    step = torch.compile(made.step) if implementation == "compiled" else made.step
    made.step()  # makes the state, before it is remembered
    return Workload(
        step=step,
        reset=restore_tensors([*parameters, *state_tensors(made)]),  # nothing changes the gradients
        device=device,
        facts={**optimizer_facts(made), "compiled": implementation == "compiled"},
        parity=optimizer_parity(made, step),
    )


@case_family(version="1", parameters={"threads": (1, 2, 4, 8, 16)}, views={"": {"threads": (1, 2)}}, parity=False)
def memory_copy(threads: int) -> Workload:
    """Addition of 256 MiB to 256 MiB in place: what memory gives when nothing else is in the way."""
    # In place, as a step is: a copy to elsewhere reads the target's lines before it writes them, unseen.
    target, source = torch.zeros(COPIED), torch.ones(COPIED)
    return Workload(step=lambda: target.add_(source), reset=target.zero_, facts={"bytes": 3 * 4 * COPIED})
