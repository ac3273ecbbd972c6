"""The speed table of populations, small."""

from __future__ import annotations

import pytest
import torch

from lrdiff_bench import population_speed
from lrdiff_bench.population_speed import SpeedCase, line, measure, ours, plain_loop


def small(optimizer: str) -> SpeedCase:
    return SpeedCase(optimizer=optimizer, members=32, rows=60, batch_size=20, epochs=1, threads=1)


def test_the_table_has_a_row_for_every_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population_speed, "MATMUL_SIZE", 64)
    monkeypatch.setattr(population_speed, "jax_status", lambda: "not installed: pip install jax")
    rows = list(measure(small("adam")))
    assert [row.name for row in rows] == [
        "lrdiff",
        "lrdiff, own seeds",
        "lrdiff, general path",
        "JAX jit(vmap(scan))",
        "plain PyTorch loop",
    ]
    assert rows[3].seconds is None
    assert "not installed: pip install jax" in line(rows[3])
    assert rows[4].ratio is not None
    assert rows[4].ratio[0] > 1  # 32 trainings one after the other
    assert all(text.count("|") == 7 for text in map(line, rows))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_plain_loop_trains_the_same_network_as_the_population(optimizer: str) -> None:
    case = small(optimizer)
    one = {name: value.shape for name, value in plain_loop(case)().named_parameters()}
    all_of_them = ours(case)().weights
    assert all_of_them is not None
    assert {name: value.shape[1:] for name, value in all_of_them.items()} == one


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_jax_trains_to_the_same_weights(optimizer: str) -> None:
    pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    case = SpeedCase(optimizer=optimizer, members=8, rows=60, batch_size=20, epochs=2, threads=1)
    weights = ours(case)().weights
    assert weights is not None
    for values, wanted in zip(population_speed.jax_training(case)(), weights.values(), strict=True):  # type: ignore[call-overload]
        assert torch.allclose(torch.tensor(values.tolist()), wanted, rtol=1e-4, atol=1e-5)
