"""Whole training steps, and populations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.optimizer_error import output_parity
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS
from lrdiff_bench.measure.cases.state import optimizer_facts, rate_groups, restore_tensors, state_tensors
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family
from lrdiff_core.devices import compiler_status, device_status

__all__ = ["population_training", "training_step"]

POPULATION_ROWS, POPULATION_BATCH = 256, 64


def _unavailable_step(*, model: str, mode: str, implementation: str, rates: int | str, device: str) -> str | None:
    status = device_status(device)
    if not status.available:
        return status.reason
    return compiler_status().reason if mode == "compiled" and device == "cpu" else None


@case_family(
    version="2",
    parameters={
        "model": ("encoder", *(name for name in MODELS if name != "encoder")),
        "mode": ("eager", "compiled"),
        "implementation": ("ours", "fused", "foreach", "default"),
        "rates": ("layers", 1, 2, "each"),
        "device": ("cpu", "cuda", "mps"),
    },
    views={
        "eager": {"implementation": ("ours", "fused"), "rates": (1, "each")},
        "models": {"model": tuple(MODELS), "implementation": ("ours", "fused")},
        "compiled": {"mode": ("compiled",), "rates": ("each",)},
        "devices": {"device": ("cuda", "mps"), "mode": ("eager", "compiled"), "rates": (1, "each")},
    },
    quick={"rates": ("each",)},
    unavailable=_unavailable_step,
)
def training_step(model: str, mode: str, implementation: str, rates: int | str, device: str) -> Workload:
    """Forward, backward and AdamW step of a small model."""
    made = MODELS[model]().to(device)
    make = IMPLEMENTATIONS[implementation].make
    assert make is not None
    optimizer = make("adamw", rate_groups(made.trainable(), rates))
    call: Any = torch.compile(made.net) if mode == "compiled" else made.net

    def train() -> None:
        made.backward(call)
        optimizer.step()

    # Eagerly: compiling belongs to the first call that is timed.
    made.backward()
    optimizer.step()
    optimizer.zero_grad()
    reset = restore_tensors([*made.net.parameters(), *made.net.buffers(), *state_tensors(optimizer)])

    def results(dtype: torch.dtype | None) -> list[Tensor]:
        net: Any = call if dtype is None else copy.deepcopy(made.net).to("cpu", dtype)
        value = made.backward(net, dtype)
        # Not the weights: Adam's first steps are as long for a gradient of pure rounding error as for any other.
        return [value, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    facts = {**optimizer_facts(optimizer), "compiled": mode == "compiled"}
    return Workload(step=train, reset=reset, device=device, facts=facts, parity=output_parity(results, reset))


@case_family(
    version="1",
    parameters={"members": (256, 16, 4096), "optimizer": ("adam", "sgd")},
    views={"": {"members": (16, 256, 4096)}},
    quick={"members": (256,)},
)
def population_training(members: int, optimizer: str) -> Workload:
    """Training of many 10-5-1 networks side by side, each with its own two rates: 256 rows, 10 epochs of 4 steps."""
    from lrdiff_bench.measure.cases.population_speed import network
    from lrdiff_core.population import PopulationData, PopulationOptions, train_population

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POPULATION_ROWS, 10, generator=generator)
    data = PopulationData(inputs=x, targets=(x.sum(1, keepdim=True) > 0).to(torch.float32), task="binary")
    rates = 10.0 ** (-4 + 3 * torch.rand(members, 2, generator=generator, dtype=torch.float64))

    def train(dtype: torch.dtype = torch.float32, path: str = "auto", count: int = members) -> dict[str, Tensor]:
        result = train_population(
            network,
            data,
            rates[:count],
            0,
            PopulationOptions(
                optimizer=optimizer,
                epochs=10,
                batch_size=POPULATION_BATCH,
                evaluate="never",
                keep_weights=True,
                threads=1,
                dtype=dtype,
                path=path,
            ),
        )
        assert result.weights is not None
        return result.weights

    def weights(dtype: torch.dtype | None) -> list[Tensor]:
        # Sixteen members suffice: the members of a population do not touch each other.
        if dtype is None:
            return [one[:16] for one in train().values()]
        return list(train(dtype, "general", 16).values())

    return Workload(step=train, facts={"members": members, "rates": 2 * members}, parity=output_parity(weights))
