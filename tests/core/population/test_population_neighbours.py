"""Nobody notices anybody: order, tiles, threads and diverging neighbours change no bit.

On the general path, order and tiles may: MKL rounds a product differently at another address. There the same is asked
of float64, to rounding.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from population_models import chain, rows_for, train_members
from test_population_solo import PATHS
from torch import Tensor, nn

from lrdiff_core.population import Population
from lrdiff_core.population.native import kernel_status

needs_kernel = pytest.mark.skipif(kernel_status().reason is not None, reason=str(kernel_status().reason))
MEMBERS = 41  # no multiple of any register
WILD = 1e200  # overflows in float64 as well
GENERATOR = torch.Generator().manual_seed(0)
RATES = 10 ** (-3 + 2 * torch.rand(MEMBERS, 3, generator=GENERATOR, dtype=torch.float64))
DECAY = torch.rand(MEMBERS, generator=GENERATOR, dtype=torch.float64) * 0.1
SEEDS = torch.randint(0, 4, (MEMBERS,), generator=GENERATOR)


def trained(path: str, pick: Tensor | None = None, **options: Any) -> Population:
    pick = torch.arange(MEMBERS) if pick is None else pick
    dtype = torch.float32 if path == "kernel" else torch.float64
    given = {
        "dtype": dtype,
        "optimizer": "adam",
        "epochs": 2,
        "batch_size": 12,
        "keep_weights": True,
        "step_losses": True,
    }
    return train_members(
        rates=options.pop("rates", RATES)[pick],
        seeds=SEEDS[pick].tolist(),
        weight_decay=DECAY[pick],
        path=path,
        **given | options,
    )


def parts(population: Population) -> dict[str, Tensor]:
    """Everything that belongs to members."""
    found = {f.name: getattr(population, f.name) for f in fields(population)}
    kept = {name: value for name, value in found.items() if isinstance(value, Tensor) and name != "evaluated_after"}
    return kept | (population.weights or {})


def assert_same(path: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    if path == "kernel":
        assert_same_bits(found, wanted)
        return
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-11)


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, Tensor]]:
    return {}


def whole(path: str, reference: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    if path not in reference:
        reference[path] = parts(trained(path))
    return reference[path]


@pytest.mark.parametrize("path", PATHS)
def test_permuting_members_permutes_results(path: str, reference: dict[str, dict[str, Tensor]]) -> None:
    order = torch.randperm(MEMBERS, generator=torch.Generator().manual_seed(1))
    wanted = {name: value[order] for name, value in whole(path, reference).items()}
    assert_same(path, parts(trained(path, order)), wanted)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tile", [1, 7, 32])
def test_the_size_of_tiles_changes_nothing(path: str, tile: int, reference: dict[str, dict[str, Tensor]]) -> None:
    assert_same(path, parts(trained(path, tile=tile)), whole(path, reference))


@needs_kernel
def test_threads_change_no_bit_of_the_kernel(reference: dict[str, dict[str, Tensor]]) -> None:
    for threads in (1, 3):
        assert_same_bits(parts(trained("kernel", threads=threads)), whole("kernel", reference))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_diverging_neighbour_changes_no_bit(path: str, optimizer: str) -> None:
    wild = RATES.clone()
    wild[::5] = WILD
    bad = torch.zeros(MEMBERS, dtype=torch.bool)
    bad[::5] = True
    calm, mixed = (trained(path, optimizer=optimizer, rates=rates, epochs=4) for rates in (RATES, wild))
    assert mixed.diverged.tolist() == bad.tolist()
    assert not calm.diverged.any()
    keep = {name: value[~bad] for name, value in parts(calm).items()}
    assert_same_bits({name: value[~bad] for name, value in parts(mixed).items()}, keep)
    assert mixed.step_loss is not None
    for i in torch.nonzero(bad).flatten().tolist():
        at = int(mixed.diverged_after[i])
        assert torch.isfinite(mixed.step_loss[i, :at]).all()
        assert torch.isnan(mixed.step_loss[i, at:]).all()
        assert torch.isnan(mixed.train_loss[i, -1])
        assert torch.isnan(mixed.train_score[i, -1])


@pytest.mark.parametrize("path", PATHS)
def test_a_diverged_member_keeps_the_weights_from_before(path: str) -> None:
    found = trained(path, torch.tensor([0]), rates=torch.full((1, 3), WILD, dtype=torch.float64), optimizer="sgd")
    at = int(found.diverged_after[0])
    before = trained(
        path,
        torch.tensor([0]),
        rates=torch.full((1, 3), WILD, dtype=torch.float64),
        optimizer="sgd",
        epochs=None,
        steps=at,
    )
    assert found.weights is not None
    assert before.weights is not None
    for name, value in before.weights.items():
        assert torch.equal(value, found.weights[name])


@needs_kernel
def test_members_that_share_rows_and_members_that_do_not_agree_to_the_bit() -> None:
    """The kernel reads one number for all lanes where a block has one seed, and gathers where it has several."""
    twins = torch.zeros(32, dtype=torch.int64)  # two full blocks of one seed, at least
    rates = RATES[twins]
    factory, data = chain(nn.ReLU), rows_for("multiclass", 3)
    factory = chain(nn.ReLU, 3)
    common: dict[str, Any] = {"epochs": 2, "batch_size": 12, "path": "kernel", "keep_weights": True}
    shared = parts(train_members(model=factory, data=data, rates=rates, seeds=1, **common))
    mixed = parts(train_members(model=factory, data=data, rates=rates, seeds=[1, 2] * 16, **common))
    assert_same_bits(
        {name: value[::2] for name, value in mixed.items() if name != "seeds"},
        {name: value[::2] for name, value in shared.items() if name != "seeds"},
    )


@needs_kernel
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, MEMBERS - 1), min_size=1, max_size=40))
def test_any_choice_of_members_gives_their_own_results(picked: list[int]) -> None:
    index = torch.tensor(picked)
    found = parts(trained("kernel", index))
    assert_same_bits(found, {name: value[index] for name, value in whole("kernel", _CACHE).items()})


_CACHE: dict[str, dict[str, Tensor]] = {}
