"""The main job, a 10-5-1 network on a table: one optimizer step, one epoch, and the memory of ten."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lrdiff_bench.measure.cases.optimizer_error import output_parity, plain_copy
from lrdiff_bench.measure.cases.state import optimizer_facts, restorer, step_workload
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from lrdiff_core.setup import Setup

__all__ = ["main_epoch", "main_job", "main_memory", "main_step"]

EPOCHS_OF_MEMORY = 10


@case_family(version="2", parameters={"rates": (1, 2)}, quick={"rates": (1, 2)})
def main_step(rates: int) -> Workload:
    """Optimizer step of the main model (10-5-1) on fixed gradients."""
    setup, optimizer = main_job(rates)
    _run_epoch(setup, optimizer, steps=1)  # makes the gradients and the optimizer's state
    return step_workload(optimizer)


@case_family(version="2", parameters={"rates": (1, 2)}, quick={"rates": (1, 2)})
def main_epoch(rates: int) -> Workload:
    """One training epoch of the main job: 700 training rows of 10 features in batches of 25."""
    setup, optimizer = main_job(rates)

    def train() -> None:
        _run_epoch(setup, optimizer)
        optimizer.zero_grad()  # the gradients of an epoch belong to it: none are left to restore

    train()  # makes the optimizer's state
    reset = restorer(setup.net, optimizer)

    def trained(dtype: torch.dtype | None) -> list[torch.Tensor]:
        net, stepper = (setup.net, optimizer) if dtype is None else plain_copy(setup.net, optimizer, dtype)
        _run_epoch(setup, stepper, network=net.network, dtype=dtype)
        return [weight.detach().clone() for weight in net.parameters()]

    return Workload(step=train, reset=reset, facts=optimizer_facts(optimizer), parity=output_parity(trained, reset))


@case_family(version="2", parameters={"rates": (1, 2)}, quick={"rates": (2,)}, metric="memory")
def main_memory(rates: int) -> Workload:
    """Ten training epochs of the main job, for the peak of the memory of the whole process."""
    setup, optimizer = main_job(rates)

    def epochs() -> None:
        for _ in range(EPOCHS_OF_MEMORY):
            _run_epoch(setup, optimizer)

    epochs()
    return Workload(step=epochs, reset=restorer(setup.net, optimizer), facts=optimizer_facts(optimizer))


def main_job(rates: int) -> tuple[Setup, Optimizer]:
    """Everything of the preset ``seed`` before its first step, with its two rates or the first of them alone."""
    from lrdiff_core import PRESETS, load_table, make_config, set_up
    from lrdiff_core.setup import make_optimizer

    config = make_config({**PRESETS["seed"], "device": "cpu"})
    table = dict(config.rates or {})
    if rates == 1:
        table = dict.fromkeys(table, max(table.values()))
    setup = set_up(load_table("seed"), config, rates=table)
    return setup, make_optimizer(config.optimizer, setup.plan.groups())


def _run_epoch(
    setup: Setup,
    optimizer: Optimizer,
    steps: int | None = None,
    *,
    network: Callable[[torch.Tensor], torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Train one epoch, or its first steps, over the rows in the order they have."""
    import torch

    from lrdiff_core.loop import loss_function, train_epoch

    inputs, targets = (part["train"].to(dtype) for part in (setup.rows.inputs, setup.rows.targets))
    batches = torch.arange(len(inputs)).split(setup.batch_size)[:steps]
    train_epoch(network or setup.net.network, optimizer, loss_function("binary"), inputs, targets, batches)
