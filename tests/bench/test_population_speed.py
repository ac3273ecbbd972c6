"""The speed table of populations, small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrdiff_bench.cli import main
from lrdiff_bench.measure.cases import population_speed, population_table
from lrdiff_bench.measure.cases.population_speed import SpeedCase, measure, ours, plain_loop
from lrdiff_bench.report.record import PageFiles


def small(optimizer: str) -> SpeedCase:
    return SpeedCase(optimizer=optimizer, members=32, rows=60, batch_size=20, epochs=1, threads=1, matmul_size=64)


@pytest.mark.slow
def test_the_table_has_a_row_for_every_peer() -> None:
    rows = list(measure(small("adam")))
    rows = [row for row in rows if row.name != "JAX, own seeds"]  # where JAX is
    assert [row.name for row in rows] == [
        "lrdiff",
        "lrdiff, own seeds",
        "lrdiff, own seeds, alone",
        "lrdiff, general path",
        "JAX jit(vmap(scan))",
        "plain PyTorch loop",
    ]
    reason = population_speed.jax_status()
    assert (rows[4].seconds is None, rows[4].note) == (reason is not None, reason or "")
    assert rows[5].ratio is not None
    assert rows[5].ratio[0] > 1  # 32 trainings one after the other


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_plain_loop_trains_the_same_network_as_the_population(optimizer: str) -> None:
    case = small(optimizer)
    one = {name: value.shape for name, value in plain_loop(case)().named_parameters()}
    all_of_them = ours(case)().weights
    assert all_of_them is not None
    assert {name: value.shape[1:] for name, value in all_of_them.items()} == one


@pytest.mark.parametrize("own_seeds", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_jax_trains_to_the_same_weights(optimizer: str, own_seeds: bool) -> None:
    pytest.importorskip("jax", reason="JAX is not installed: pip install jax")
    case = SpeedCase(optimizer=optimizer, members=8, rows=60, batch_size=20, epochs=2, threads=1)
    weights = ours(case, seeds=range(8) if own_seeds else 0)().weights
    assert weights is not None
    found = population_speed.jax_training(case, own_seeds=own_seeds)()
    for values, wanted in zip(found, weights.values(), strict=True):  # type: ignore[call-overload]
        assert torch.allclose(torch.tensor(values.tolist()), wanted, rtol=1e-4, atol=1e-5)


def test_the_training_alone_ends_as_the_whole_call() -> None:
    case = small("adam")
    whole, alone = ours(case, seeds=range(case.members))().weights, population_speed.ours_alone(case)().weights  # type: ignore[attr-defined]
    assert whole is not None
    for name, values in whole.items():
        assert torch.equal(alone[name], values)


@pytest.mark.slow
def test_the_table_is_written_with_its_goals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "population.md"
    _, text = population_table.run_population_table(quick=True, files=PageFiles(out=file), sizes=small("sgd"))
    assert file.read_text() == text
    assert "no figures to quote" in text
    if population_speed.jax_status() is not None:
        assert "- sgd against JAX jit(vmap(scan)): goal at least 4 times as fast: not measured" in text
    assert "- adam against plain PyTorch loop: goal at least 250 times as fast: " in text
    assert capsys.readouterr().err.count("| adam |") == 3
    assert main(["bench", "population", "--out", str(tmp_path / "nowhere" / "a.md")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_goals_are_judged_by_the_whole_interval() -> None:
    def verdict(low: float, high: float) -> str | None:
        row = population_speed.SpeedRow(
            optimizer="adam", name="JAX jit(vmap(scan))", seconds=1.0, ratio=(3.0, low, high)
        )
        return population_table.verdict_of(row)

    assert [verdict(3.0, 9.0), verdict(2.0, 3.5), verdict(1.0, 2.9)] == ["met", "unresolved", "missed"]


@pytest.mark.slow
def test_many_members_are_trained_in_a_process_that_tells_its_memory() -> None:
    found = population_table.train_in_a_process(64, 1)
    assert found["members"] == 64
    assert 0.05 < found["peak_gib"] < population_table.MILLION_GIB
    assert found["met"]
