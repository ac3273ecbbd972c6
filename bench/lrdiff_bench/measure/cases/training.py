"""Whole training steps, and populations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_bench.measure.cases.optimizer_error import output_parity, plain_copy
from lrdiff_bench.measure.cases.optimizer_step import build_optimizer
from lrdiff_bench.measure.cases.state import optimizer_facts, rate_groups, restorer
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family
from lrdiff_core.devices import compiler_status, device_status

__all__ = ["population_training", "training_step"]

WIDTH, HEADS, INNER, LAYERS = 64, 4, 256, 4
ROWS, LENGTH = 16, 32
POPULATION_ROWS, POPULATION_BATCH = 256, 64


def _unavailable_step(*, mode: str, implementation: str, rates: int | str, device: str) -> str | None:
    status = device_status(device)
    if not status.available:
        return status.reason
    return compiler_status().reason if mode == "compiled" and device == "cpu" else None


@case_family(
    version="1",
    parameters={
        "mode": ("eager", "compiled"),
        "implementation": ("ours", "fused", "foreach", "default"),
        "rates": (1, 2, 8, "each"),
        "device": ("cpu", "cuda", "mps"),
    },
    views={
        "eager": {"implementation": ("ours", "fused"), "rates": (1, "each")},
        "compiled": {"mode": ("compiled",), "rates": ("each",)},
        "devices": {"device": ("cuda", "mps"), "mode": ("eager", "compiled"), "rates": (1, "each")},
    },
    quick={"rates": ("each",)},
    unavailable=_unavailable_step,
)
def training_step(mode: str, implementation: str, rates: int | str, device: str) -> Workload:
    """Forward, backward and AdamW step of a 4-layer transformer of width 64, 16 sequences of 32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, dropout=0.0, batch_first=True)
        net = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).to(device)
        inputs, targets = torch.randn(2, ROWS, LENGTH, WIDTH).to(device)
    optimizer = build_optimizer("adamw", implementation, rate_groups(list(net.parameters()), rates))
    call: Any = torch.compile(net) if mode == "compiled" else net

    def loss(network: Any, stepper: torch.optim.Optimizer, dtype: torch.dtype | None = None) -> Tensor:
        stepper.zero_grad()
        x, y = (inputs, targets) if dtype is None else (inputs.to("cpu", dtype), targets.to("cpu", dtype))
        value: Tensor = nn.functional.mse_loss(network(x), y)
        value.backward()
        return value

    def train() -> None:
        loss(call, optimizer)
        optimizer.step()

    # Eagerly: compiling belongs to the first call that is timed.
    loss(net, optimizer)
    optimizer.step()
    optimizer.zero_grad()
    reset = restorer(net, optimizer)

    def results(dtype: torch.dtype | None) -> list[Tensor]:
        network, stepper = (call, optimizer) if dtype is None else plain_copy(net, optimizer, dtype)
        value = loss(network, stepper, dtype)
        # Not the weights: Adam's first steps are as long for a gradient of pure rounding error as for any other.
        return [value.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]

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
    from lrdiff_core.population import PopulationData, train_population

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(POPULATION_ROWS, 10, generator=generator)
    data = PopulationData(inputs=x, targets=(x.sum(1, keepdim=True) > 0).to(torch.float32), task="binary")
    rates = 10.0 ** (-4 + 3 * torch.rand(members, 2, generator=generator, dtype=torch.float64))

    def train(dtype: torch.dtype = torch.float32, path: str = "auto", count: int = members) -> dict[str, Tensor]:
        result = train_population(
            network, data, rates[:count], 0, optimizer=optimizer, epochs=10, batch_size=POPULATION_BATCH,
            evaluate="never", keep_weights=True, threads=1, dtype=dtype, path=path,
        )  # fmt: skip
        assert result.weights is not None
        return result.weights

    def weights(dtype: torch.dtype | None) -> list[Tensor]:
        # Sixteen members suffice: the members of a population do not touch each other.
        if dtype is None:
            return [one[:16] for one in train().values()]
        return list(train(dtype, "general", 16).values())

    return Workload(step=train, facts={"members": members, "rates": 2 * members}, parity=output_parity(weights))
