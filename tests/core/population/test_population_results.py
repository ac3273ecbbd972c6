"""What comes back: evaluations, scores, frozen parameters, rows by seed, and which path was taken."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from population_models import (
    RATES,
    chain,
    distance,
    member,
    rows_for,
    step_alone,
    tabular,
    tabular_factory,
    train_members,
)
from test_population_solo import PATHS
from torch import nn

from lrdiff_core.errors import UnavailableError
from lrdiff_core.loop import train
from lrdiff_core.population import Gain, Population, PopulationData, native
from lrdiff_core.population.network import linear_layers
from lrdiff_core.population.settings import Settings
from lrdiff_core.population.tiles import numbers_a_row, rows_at_once
from lrdiff_core.rates import Rule, param_groups


@pytest.mark.parametrize("path", PATHS)
def test_losses_and_scores_of_every_epoch_are_those_of_the_loop(path: str) -> None:
    for table in ("seed", "wine"):
        setup = tabular(table)
        rates = [[0.01, 0.001]]
        found = train_members(
            model=tabular_factory(setup),
            data=PopulationData.of(setup.rows),
            rates=rates,
            seeds=setup.seed,
            epochs=3,
            batch_size=setup.batch_size,
            path=path,
        )
        alone = train(replace(setup, config=setup.config.model_copy(update={"epochs": 3})))
        for split, losses, scores in (
            ("train", found.train_loss, found.train_score),
            ("validation", found.held_loss, found.held_score),
        ):
            rows = [row for row in alone.observations if row.split == split]
            assert losses is not None
            assert scores is not None
            assert losses[0].tolist() == pytest.approx([row.loss for row in rows], rel=1e-4)
            assert scores[0].tolist() == pytest.approx([row.score for row in rows], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_the_score_of_a_regression_is_r2(path: str) -> None:
    data = rows_for("regression")
    found = train_members(data=data, epochs=2, batch_size=9, path=path, dtype=torch.float64)
    assert found.held_loss is not None
    assert found.held_score is not None
    assert data.held_targets is not None
    spread = (data.held_targets - data.held_targets.mean()).square().mean()
    torch.testing.assert_close(found.held_score, 1 - found.held_loss / spread, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_second_rows_are_judged_as_if_they_were_held_out_alone(path: str, task: str) -> None:
    outputs = 3 if task == "multiclass" else 1
    first, other = (rows_for(task, outputs=outputs, seed=seed) for seed in (0, 1))
    assert other.held_inputs is not None
    assert other.held_targets is not None
    fewer = {"second_inputs": other.held_inputs[:-2], "second_targets": other.held_targets[:-2]}
    alone = {"held_inputs": fewer["second_inputs"], "held_targets": fewer["second_targets"]}
    settings = {"model": chain(nn.Tanh, outputs), "epochs": 3, "batch_size": 9, "path": path}
    both = train_members(data=replace(first, **fewer), **settings)
    held, second = (train_members(data=data, **settings) for data in (first, replace(first, **alone)))
    assert held.second_loss is held.second_score is None
    for name in ("train_loss", "held_loss", "held_score"):
        assert torch.equal(getattr(both, name), getattr(held, name))
    for found, wanted in ((both.second_loss, second.held_loss), (both.second_score, second.held_score)):
        assert found is not None
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(found, both.held_loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("evaluate", "wanted"), [("epoch", [6, 12, 14]), ("end", [14]), ("never", []), (5, [5, 10, 14])]
)
def test_evaluations_come_when_asked_for(path: str, evaluate: str | int, wanted: list[int]) -> None:
    found = train_members(steps=14, batch_size=9, evaluate=evaluate, path=path)
    assert found.evaluated_after.tolist() == wanted
    assert found.train_loss.shape == found.train_score.shape == (2, len(wanted))
    assert found.steps == 14


@pytest.mark.parametrize("path", PATHS)
def test_evaluating_changes_no_weight(path: str) -> None:
    one, other = (train_members(epochs=2, batch_size=9, evaluate=e, path=path, keep_weights=True) for e in ("never", 1))
    assert distance(member(one.weights, 1), {k: v.double() for k, v in member(other.weights, 1).items()}) == 0


@pytest.mark.parametrize("path", PATHS)
def test_what_needs_no_gradient_stays(path: str) -> None:
    def factory(seed: int) -> nn.Module:
        model = chain(nn.Tanh)(seed)
        model[0].requires_grad_(False)
        return model  # type: ignore[no-any-return]

    found = train_members(
        model=factory,
        rates=[[0.1, 0.1]],
        optimizer="adamw",
        weight_decay=0.1,
        epochs=1,
        batch_size=9,
        path=path,
        keep_weights=True,
        evaluate="end",
    )
    from lrdiff_core.population.members import build

    first = build(factory, 0)
    assert found.weights is not None
    assert torch.equal(found.weights["0.weight"][0], first[0].weight)  # type: ignore[index]
    assert not torch.equal(found.weights["5.weight"][0], first[5].weight)  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_rows_by_seed(path: str) -> None:
    data = {seed: rows_for("binary", seed=seed) for seed in (1, 2)}
    found = train_members(
        data=data,
        rates=[RATES[0]] * 3,
        seeds=[2, 1, 2],
        optimizer="sgd",
        steps=12,
        batch_size=9,
        path=path,
        keep_weights=True,
        dtype=torch.float64,
    )
    for i, seed in enumerate((2, 1, 2)):
        exact, _ = step_alone(
            chain(nn.Tanh), data[seed], RATES[0], seed, torch.float64, kind=torch.optim.SGD, steps=12, batch_size=9
        )
        assert distance(member(found.weights, i), exact) < 1e-12


def test_columns_of_rates_may_follow_a_plan_or_names() -> None:
    model = chain(nn.Tanh)(0)
    plan = param_groups(model, lr=0.1, rules=[Rule("5.bias", lr=0.01)])
    by_plan, by_name = (
        train_members(rates=[[0.1, 0.01]], epochs=1, batch_size=9, keep_weights=True, groups=groups)
        for groups in (plan, {"0.weight": 0, "0.bias": 0, "3.weight": 0, "5.weight": 0, "5.bias": 1})
    )
    assert by_plan.groups == by_name.groups == (("0.weight", "0.bias", "3.weight", "5.weight"), ("5.bias",))
    assert torch.equal(by_plan.train_loss, by_name.train_loss)


def test_one_column_serves_all_layers() -> None:
    one, three = (train_members(rates=rates, epochs=1, batch_size=9) for rates in ([[0.1]], [[0.1, 0.1, 0.1]]))
    assert torch.equal(one.train_loss, three.train_loss)


def test_a_loss_of_ones_own() -> None:
    data = rows_for("regression")
    own = PopulationData(inputs=data.inputs, targets=data.targets, task="regression", loss=nn.functional.smooth_l1_loss)
    found = train_members(data=own, epochs=1, batch_size=9)
    assert found.path == "general"
    assert torch.isfinite(found.train_loss).all()
    assert torch.isnan(found.train_score).all()


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (nn.Sequential(nn.Linear(2, 2), Gain(2.0), nn.GELU(), nn.Linear(2, 1)), True),
        (nn.Sequential(nn.Linear(2, 2), nn.GELU(approximate="tanh"), nn.Linear(2, 1)), False),
        (nn.Sequential(nn.ReLU(), nn.Linear(2, 1)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.ReLU(), nn.Linear(2, 1)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Gain(2.0), nn.Linear(2, 1)), False),
        (nn.Sequential(*[nn.Linear(2, 2)] * 2), False),
        (nn.Linear(2, 1), False),
    ],
)
def test_which_models_are_chains(model: nn.Module, taken: bool) -> None:
    assert (linear_layers(model) is not None) is taken


def test_a_bias_shared_by_two_layers_takes_the_general_path() -> None:
    def factory(seed: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 7), nn.Linear(7, 1))
        model[2].bias = model[0].bias
        return model

    assert train_members(model=factory, rates=[[0.1]], steps=2, batch_size=9).path == "general"


@pytest.mark.parametrize("own_rows", [False, True])
def test_memory_of_an_evaluation_is_bounded(own_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of images, and all that is computed from them, for many members at once would take gigabytes."""

    def factory(seed: int) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 7)), nn.Conv1d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(25, 1))

    rows = {seed: rows_for("binary", seed=seed if own_rows else 0) for seed in (0, 1)}
    data = rows if own_rows else rows[0]
    assert numbers_a_row(factory(0), rows[0]) == 7 + 7 + 25 + 25 + 25 + 1
    taken: list[int] = []

    def train() -> Population:
        return train_members(
            model=factory,
            data=data,
            rates=[[0.01, 0.02]] * 2,
            seeds=[0, 1],
            epochs=2,
            batch_size=9,
            dtype=torch.float64,
            tile=2,
        )

    whole = train()

    def spied(members: int, a_row: int, settings: Settings) -> int:
        taken.append(rows_at_once(members, a_row, settings))
        return taken[-1]

    monkeypatch.setattr("lrdiff_core.population.tiles.TILE_BYTES", 2 * 2 * 8 * 90 * 7)
    monkeypatch.setattr("lrdiff_core.population.general_path.rows_at_once", spied)
    pieces = train()
    assert taken == [7]
    for name in ("train_loss", "train_score", "held_loss", "held_score"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), rtol=1e-12, atol=0)


def test_a_hook_sends_a_chain_to_the_general_path() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model[0].register_forward_hook(lambda *_: None)
    assert linear_layers(model) is None


def test_without_a_compiler_the_general_path_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRDIFF_KERNEL", "0")
    assert train_members(epochs=1, batch_size=9).path == "general"
    for insisting in ({"path": "kernel"}, {"path": "kernel", "compile": True}):
        with pytest.raises(UnavailableError, match="LRDIFF_KERNEL=0 is set"):
            train_members(epochs=1, batch_size=9, **insisting)  # type: ignore[arg-type]


def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert train_members(model=chain(nn.ReLU), epochs=1, batch_size=9).path == "general"
    with pytest.raises(UnavailableError, match="cannot build the kernel"):
        train_members(model=chain(nn.ReLU), epochs=1, batch_size=9, compile=True)


@pytest.mark.slow
@pytest.mark.skipif(native.kernel_status().reason is not None, reason=str(native.kernel_status().reason))
def test_the_compiler_may_come_with_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = native.kernel_status().detail
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{command} -g0")
    assert native.kernel_status().reason is None
    found = train_members(steps=2, batch_size=9, path="kernel")
    assert found.path == "kernel"
    assert len(list((tmp_path / "lrdiff").iterdir())) == 1


def test_compile_false_compiles_nothing() -> None:
    found = train_members(epochs=1, batch_size=9, compile=False)
    assert found.path == "general"


@pytest.mark.slow
@pytest.mark.skipif(native.compiler_status().reason is not None, reason="torch.compile needs a C++ compiler")
def test_the_general_path_under_torch_compile() -> None:
    plain, compiled = (
        train_members(epochs=2, batch_size=9, path="general", compile=compile, dtype=torch.float64)
        for compile in (False, True)
    )  # fmt: skip
    torch.testing.assert_close(compiled.train_loss, plain.train_loss, rtol=1e-11, atol=1e-11)


def test_tiles_are_reported() -> None:
    seen: list[tuple[int, int]] = []
    train_members(
        rates=RATES * 5, epochs=1, batch_size=9, tile=4, on_tile=lambda done, total: seen.append((done, total))
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]


MEMORY = """
import resource, torch
from torch import nn
from lrdiff_core.population import PopulationData, PopulationOptions, train_population
data = PopulationData(inputs=torch.randn(64, 10), targets=torch.ones(64, 1), task="binary")
def model(seed): return nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
options = PopulationOptions(steps=2, batch_size=32, keep_weights=True)
train_population(model, data, torch.full((64, 2), 0.1), 0, options)
before = peak()
found = train_population(model, data, torch.full((200_000, 2), 0.1), 0, options)
print(found.path, peak() - before)
"""


@pytest.mark.slow
def test_two_hundred_thousand_members_take_little_memory() -> None:
    """Results are 61 + 4 numbers, rates and their columns 15 doubles a member; the rest is one tile."""
    shown = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()
    if shown[0] == "kernel":
        assert float(shown[1]) < 0.6  # GiB; a million members then stay under 3
