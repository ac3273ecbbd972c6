"""Each member ends where it would have ended alone.

The budget comes from float64: how far the solo run in float32 is from the solo run in float64 says how much rounding
this very training amplifies. A population takes its sums in another order, so it may be as far off, times MARGIN (two
roundings of one size differ in luck), plus FLOOR for trainings in which rounding happened to cancel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from population_models import (
    EPS,
    chain,
    distance,
    fit_alone,
    member,
    rows_for,
    step_alone,
    tabular,
    tabular_factory,
    train_members,
)
from torch import nn

from lrdiff_core.optimizers import STACKED
from lrdiff_core.population import Population, PopulationData
from lrdiff_core.population.native import kernel_status

MARGIN = 4
FLOOR = 32 * EPS
EXACT = 1e-12  # of float64 trainings of up to 84 steps

PATHS = [
    pytest.param(
        "kernel", marks=pytest.mark.skipif(kernel_status().reason is not None, reason=str(kernel_status().reason))
    ),
    "general",
]
KINDS = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop
}  # fmt: skip
RATES = {"sgd": [[0.5, 0.05], [0.1, 0.1], [0.02, 0.3]], "adam": [[0.01, 0.001], [0.001, 0.01], [0.02, 0.02]]}
RATES["adamw"] = RATES["rmsprop"] = RATES["adam"]
SEEDS = [0, 0, 3]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("sgd", {}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.01}),
        ("adam", {}),
        ("adam", {"weight_decay": 0.01}),
        ("adamw", {"weight_decay": 0.1}),
        ("rmsprop", {"momentum": 0.5, "weight_decay": 0.01}),
    ],
)
@pytest.mark.parametrize("table", ["seed", pytest.param("wine", marks=pytest.mark.long)])
def test_a_member_ends_where_the_loop_takes_it_alone(
    path: str, optimizer: str, options: dict[str, Any], table: str
) -> None:
    setup = tabular(table)
    data, factory = PopulationData.of(setup.rows), tabular_factory(setup)
    epochs = 3

    def together(dtype: torch.dtype) -> Population:
        return train_members(
            model=factory,
            data=data,
            rates=RATES[optimizer],
            seeds=SEEDS,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=setup.batch_size,
            dtype=dtype,
            path=path,
            keep_weights=True,
            **options,
        )

    single, double = together(torch.float32), together(torch.float64)
    assert single.path == double.path == path
    for i, (rates, seed) in enumerate(zip(RATES[optimizer], SEEDS, strict=True)):
        alone, exact = (
            fit_alone(setup, rates, seed, dtype, optimizer=optimizer, epochs=epochs, **options)
            for dtype in (torch.float32, torch.float64)
        )
        assert distance(member(double.weights, i), exact) < EXACT
        assert distance(member(single.weights, i), exact) < MARGIN * distance(alone, exact) + FLOOR


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("activation", "task", "outputs"),
    [
        (nn.ReLU, "multiclass", 3),
        pytest.param(nn.Tanh, "regression", 1, marks=pytest.mark.long),  # each compiles two kernels
        (nn.Sigmoid, "binary", 2),
        pytest.param(nn.SiLU, "multiclass", 3, marks=pytest.mark.long),
        pytest.param(nn.GELU, "regression", 2, marks=pytest.mark.long),
    ],
)
def test_every_activation_and_task_agrees_with_a_plain_loop(
    path: str, activation: type[nn.Module], task: str, outputs: int
) -> None:
    factory, data = chain(activation, outputs), rows_for(task, outputs)
    rates, seeds = [[0.1, 0.03, 0.05], [0.01, 0.1, 0.02]], [1, 2]
    common = {"steps": 13, "batch_size": 9, "schedule": "cosine"}
    single, double = (
        train_members(
            model=factory,
            data=data,
            rates=rates,
            seeds=seeds,
            optimizer="sgd",
            momentum=0.5,
            nesterov=True,
            dtype=dtype,
            path=path,
            keep_weights=True,
            step_losses=True,
            **common,
        )
        for dtype in (torch.float32, torch.float64)
    )
    for i, seed in enumerate(seeds):
        (alone, _), (exact, losses) = (
            step_alone(
                factory, data, rates[i], seed, dtype, kind=torch.optim.SGD, momentum=0.5, nesterov=True, **common
            )
            for dtype in (torch.float32, torch.float64)
        )
        assert distance(member(double.weights, i), exact) < EXACT
        assert distance(member(single.weights, i), exact) < MARGIN * distance(alone, exact) + FLOOR
        assert double.step_loss is not None
        torch.testing.assert_close(double.step_loss[i], torch.tensor(losses, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimizer", STACKED)
def test_hyperparameters_of_one_member_land_on_that_member(path: str, optimizer: str) -> None:
    factory, data = chain(nn.Tanh), rows_for("regression")
    rates = [[0.02, 0.01, 0.03]] * 3
    decay, mu, b1, b2, eps = [0.0, 0.1, 0.3], [0.1, 0.5, 0.9], [0.5, 0.8, 0.9], [0.9, 0.99, 0.95], [1e-8, 1e-3, 0.1]
    own: dict[str, Any] = {
        "sgd": {"momentum": mu}, "rmsprop": {"momentum": mu, "alpha": b2, "eps": eps}
    }.get(optimizer, {"betas": (b1, b2), "eps": eps})  # fmt: skip
    found = train_members(
        model=factory,
        data=data,
        rates=rates,
        seeds=5,
        steps=11,
        batch_size=10,
        optimizer=optimizer,
        weight_decay=decay,
        dtype=torch.float64,
        path=path,
        keep_weights=True,
        **own,
    )
    for i in range(3):
        options = {key: tuple(one[i] for one in v) if key == "betas" else v[i] for key, v in own.items()}
        exact, _ = step_alone(
            factory,
            data,
            rates[i],
            5,
            torch.float64,
            kind=KINDS[optimizer],
            steps=11,
            batch_size=10,
            weight_decay=decay[i],
            **options,
        )
        assert distance(member(found.weights, i), exact) < EXACT


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimizer", STACKED)
def test_weight_decay_of_one_group_lands_on_that_group(path: str, optimizer: str) -> None:
    factory, data, common = chain(nn.Tanh), rows_for("regression"), {"steps": 11, "batch_size": 10}
    rates, decays = [[0.02, 0.01, 0.03], [0.01, 0.02, 0.01]], [[0.3, 0.0, 0.1], [0.0, 0.2, 0.4]]
    found = train_members(
        model=factory, data=data, rates=rates, seeds=5, optimizer=optimizer, weight_decay=decays, path=path,
        dtype=torch.float64, keep_weights=True, **common,
    )  # fmt: skip
    for i in range(2):
        exact, _ = step_alone(
            factory, data, rates[i], 5, torch.float64, kind=KINDS[optimizer], decays=decays[i], **common
        )
        assert distance(member(found.weights, i), exact) < EXACT


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_a_convolution_trains_as_it_does_alone(norm: type[nn.Module]) -> None:
    def factory(seed: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), norm(15), nn.Linear(15, 3))

    plain = rows_for("multiclass", 3)
    data = PopulationData(inputs=plain.inputs[:, None], targets=plain.targets, task="multiclass")
    rates = [[0.01, 0.02, 0.03], [0.03, 0.02, 0.01]]
    found = train_members(
        model=factory,
        data=data,
        rates=rates,
        seeds=[1, 2],
        steps=12,
        batch_size=10,
        dtype=torch.float64,
        keep_weights=True,
    )
    assert found.path == "general"
    for i, seed in enumerate((1, 2)):
        exact, _ = step_alone(
            factory, data, rates[i], seed, torch.float64, kind=torch.optim.Adam, steps=12, batch_size=10
        )
        assert distance(member(found.weights, i), exact) < EXACT


def test_batch_norm_is_evaluated_by_running_statistics_of_its_own_member() -> None:
    def factory(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    data, models = rows_for("multiclass", 3), {}

    def remembered(seed: int) -> nn.Module:
        models[seed] = factory(seed)
        return models[seed]

    rates = [[0.01, 0.02, 0.03], [0.03, 0.02, 0.01]]
    found = train_members(
        model=factory, data=data, rates=rates, seeds=[1, 2], steps=12, batch_size=10, dtype=torch.float64
    )
    for i, seed in enumerate((1, 2)):
        step_alone(remembered, data, rates[i], seed, torch.float64, kind=torch.optim.Adam, steps=12, batch_size=10)
        alone = models[seed].eval()
        for inputs, targets, losses in (
            (data.inputs, data.targets, found.train_loss),
            (data.held_inputs, data.held_targets, found.held_loss),
        ):
            assert inputs is not None
            assert losses is not None
            loss = nn.functional.cross_entropy(alone(inputs.double()), targets).item()
            assert losses[i, -1].item() == pytest.approx(loss, rel=1e-9)
