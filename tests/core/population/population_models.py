"""Models, rows and solo runs that the population tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_core import build_model, load_table, make_config, set_up
from lrdiff_core.loop import fit
from lrdiff_core.population import Gain, Population, PopulationData, PopulationOptions, train_population
from lrdiff_core.population.members import build
from lrdiff_core.population.rows import loss_function
from lrdiff_core.rates import layer_rates
from lrdiff_core.schedules import Schedule
from lrdiff_core.seeds import make_generator
from lrdiff_core.setup import Setup, make_optimizer

EPS = torch.finfo(torch.float32).eps


def tabular(name: str = "seed", hidden: list[int] | None = None) -> Setup:
    return set_up(load_table(name), make_config({"hidden": hidden} if hidden else {}))


def tabular_factory(setup: Setup) -> Any:
    return lambda seed: build_model(setup.net.spec, seed=seed)


RATES = [[0.05, 0.05, 0.05], [0.1, 0.01, 0.02]]


def train_members(
    model: Any = None,
    data: Any = None,
    rates: Any = RATES,
    seeds: Any = 0,
    *,
    groups: Any = None,
    on_tile: Any = None,
    **options: Any,
) -> Population:
    """A population, by default two members of a chain of three layers."""
    model, data = model or chain(nn.Tanh), data or rows_for("binary")
    return train_population(model, data, rates, seeds, PopulationOptions(**options), groups=groups, on_tile=on_tile)


def fit_alone(
    setup: Setup, rates: list[float], seed: int, dtype: torch.dtype, *, optimizer: str, epochs: int, **options: Any
) -> dict[str, Tensor]:
    """Final weights of the project's own loop."""
    net = build_model(setup.net.spec, seed=seed).to(dtype)
    rows = replace(
        setup.rows,
        inputs={k: v.to(dtype) for k, v in setup.rows.inputs.items()},
        targets={k: v.to(dtype) if v.is_floating_point() else v for k, v in setup.rows.targets.items()},
    )
    plan = layer_rates(
        net, dict(zip(net.layer_names, rates, strict=True)), weight_decay=options.get("weight_decay", 0.0)
    )
    stepper = make_optimizer(optimizer, plan.groups(), momentum=options.get("momentum", 0.0))  # type: ignore[arg-type]
    fit(net, rows, stepper, epochs=epochs, batch_size=setup.batch_size, seed=seed)
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def step_alone(
    factory: Any,
    data: PopulationData,
    rates: list[float],
    seed: int,
    dtype: torch.dtype,
    *,
    kind: Any,
    steps: int,
    batch_size: int,
    schedule: Any = None,
    decays: Any = None,
    **options: Any,
) -> tuple[dict[str, Tensor], list[float]]:
    """Final weights and step losses of a plain loop with torch's own optimizer, for models the project's loop has no
    part in; order and initial weights as the project's loop takes them."""
    model = build(factory, seed).to(dtype)
    data = data.to(torch.device("cpu"), dtype)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters()))
    groups = [
        {"params": [p for n, p in model.named_parameters() if n.rpartition(".")[0] == layer], "lr": rate}
        for layer, rate in zip(layers, rates, strict=True)
    ]
    for group, decay in zip(groups, decays or (), strict=False):
        group["weight_decay"] = decay
    optimizer = kind(groups, **options)
    mover = None if schedule is None else Schedule(optimizer, total_steps=steps, shape=schedule)
    order = make_generator(seed, "order")
    losses: list[float] = []
    while True:
        for batch in torch.randperm(data.rows, generator=order).split(batch_size):
            if len(losses) == steps:
                return {name: parameter.detach() for name, parameter in model.named_parameters()}, losses
            optimizer.zero_grad()
            loss = loss_function(data)(model(data.inputs[batch]), data.targets[batch])
            loss.backward()
            optimizer.step()
            if mover is not None:
                mover.step()
            losses.append(loss.item())


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Largest difference of any parameter, as a share of the largest parameter."""
    size = max(float(value.abs().max()) for value in exact.values())
    return max(float((found[name].double() - value).abs().max()) for name, value in exact.items()) / size


def member(weights: dict[str, Tensor] | None, i: int) -> dict[str, Tensor]:
    assert weights is not None
    return {name: value[i] for name, value in weights.items()}


def chain(activation: type[nn.Module], outputs: int = 1) -> Any:
    """A factory of three layers: one scaled, one without bias, sizes that fill no register block."""
    return lambda seed: nn.Sequential(
        nn.Linear(7, 6), Gain(0.5), activation(), nn.Linear(6, 11, bias=False), activation(), nn.Linear(11, outputs)
    )


def rows_for(task: str, outputs: int = 1, rows: int = 53, seed: int = 0) -> PopulationData:
    generator = torch.Generator().manual_seed(seed)
    inputs, held = torch.randn(rows, 7, generator=generator), torch.randn(31, 7, generator=generator)
    truth = torch.randn(7, outputs, generator=generator)

    def targets(x: Tensor) -> Tensor:
        if task == "multiclass":
            return (x @ truth).argmax(dim=1)
        return (x @ truth > 0).float() if task == "binary" else x @ truth

    return PopulationData(
        inputs=inputs,
        targets=targets(inputs),
        held_inputs=held,
        held_targets=targets(held),
        task=task,  # type: ignore[arg-type]
    )
