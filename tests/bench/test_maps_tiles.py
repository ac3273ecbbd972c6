"""Tiles: every cell once, and each trained as it would be alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from map_helpers import small, write_own

from lrdiff_bench.maps import make_plan, tiles
from lrdiff_bench.maps.grid import Grid, parse_axis
from lrdiff_bench.maps.plan import MapPlan
from lrdiff_bench.maps.pool import _Parts
from lrdiff_bench.maps.tiles import COLUMNS, Job, Tile, cut, run_job, train_cells
from lrdiff_core import load_table, make_config, set_up, train
from lrdiff_core.config import PRESETS
from lrdiff_core.errors import CheckFailed
from lrdiff_core.population import kernel_path


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(2, 30), height=st.integers(2, 30), edge=st.none() | st.integers(1, 12), seeds=st.integers(1, 50),
    ratio=st.booleans(), operations=st.floats(1, 1e12),
)  # fmt: skip
def test_tiles_hold_every_cell_once(
    width: int, height: int, edge: int | None, seeds: int, ratio: bool, operations: float
) -> None:
    plane = Grid(x=parse_axis("a:0.1:1", width), y=parse_axis("b/a:5:9" if ratio else "b:0.1:1", height))
    parts = cut(plane, seeds=seeds, operations=operations, edge=edge, marked=True)
    assert [tile.number for tile in parts] == list(range(len(parts)))
    assert [tile.kind for tile in parts[:2]] == ["reference", "marked"]
    rates = np.concatenate([tile.rates(plane, (1, 2)) for tile in parts if tile.kind == "cells"])
    assert len(rates) == width * height
    assert len(np.unique(rates, axis=0)) == width * height
    single = [tile.rates(plane, None)[:, 0] for tile in parts if tile.kind == "single"]
    assert np.array_equal(np.concatenate(single) if single else np.empty(0), plane.single)
    for tile in parts:
        assert int(np.prod(tile.shape())) == len(tile.rates(plane, (1, 2)))


def test_a_large_map_has_no_more_tiles_than_files_are_good_for() -> None:
    plane = Grid(x=parse_axis("a:0.1:1", 4096), y=parse_axis("b:0.1:1", 4096))
    assert len(cut(plane, seeds=1, operations=1e12)) <= 4200


def reference_of(plan: MapPlan) -> dict[str, np.ndarray]:
    return run_job(plan.job(plan.tiles[0], None))


def block_of(plan: MapPlan) -> Tile:
    return next(tile for tile in plan.tiles if tile.kind == "cells")


def test_a_cell_ends_where_a_run_with_its_rates_ends() -> None:
    plan = make_plan(small(epochs=2))
    found, path = train_cells(plan.workload, plan.job(block_of(plan), reference_of(plan)))
    rates = block_of(plan).rates(plan.grid, None)
    for cell, seed in ((0, 0), (3, 2)):
        config = make_config(PRESETS["seed"] | {"epochs": 2})
        pair = dict(zip(("layer1", "layer2"), map(float, rates[cell]), strict=True))
        alone = train(set_up(load_table("seed", seed=seed), config, rates=pair, seed=seed)).last("validation")
        assert found["loss"][cell, seed] == pytest.approx(alone.loss, rel=2e-5)
        assert found["score"][cell, seed] == pytest.approx(alone.score)
    assert path in ("kernel", "general")


def test_reference_and_target_come_from_the_workloads_own_rates() -> None:
    plan = make_plan(small())
    initial, target = plan.reference_losses(reference_of(plan))
    assert plan.marked == (0.01, 0.001)
    config = make_config(PRESETS["seed"] | {"epochs": 1})
    own = train(set_up(load_table("seed", seed=1), config, seed=1)).last("validation").loss
    assert target[1] == pytest.approx(1.05 * own, rel=2e-5)
    assert 0.5 < initial[1] < 1.2
    given = make_plan(small(target_loss=0.4))
    assert given.reference_losses(reference_of(given))[1].tolist() == [0.4] * 3
    assert "0.4" in given.target_words


def test_steps_and_divergence_are_those_of_the_loss_curve() -> None:
    plan = make_plan(small(epochs=3, x="layer1:1e-3:1e4", y="layer2:1e-3:1e4", size=4, tile=4))
    job = plan.job(block_of(plan), reference_of(plan))
    found, _ = train_cells(plan.workload, job)
    # The same curve, epoch by epoch, from trainings of another length: rows come in the same order.
    curves = np.stack([
        train_cells(replace(plan.workload, epochs=n), job)[0]["loss"] for n in (1, 2, 3)
    ])  # fmt: skip
    finite = np.where(np.isfinite(curves), curves, np.inf)
    an_epoch = plan.steps // 3
    assert np.array_equal(found["best_step"], (finite.argmin(axis=0) + 1) * an_epoch)
    below = finite <= job.target
    first = np.where(below.any(axis=0), (below.argmax(axis=0) + 1) * an_epoch, -1)
    assert np.array_equal(found["steps_to_target"], first)
    assert (found["steps_to_target"] == -1).any()
    assert (found["steps_to_target"] > 0).any()
    assert np.array_equal(found["diverged"], ~(finite[-1] < job.initial))
    assert found["diverged"].any()
    assert not found["diverged"].all()


def test_the_diagonal_is_the_single_rate() -> None:
    plan = make_plan(small(tile=4))
    reference = reference_of(plan)
    single = next(tile for tile in plan.tiles if tile.kind == "single")
    along, path = train_cells(plan.workload, plan.job(single, reference))
    plane, _ = train_cells(plan.workload, plan.job(block_of(plan), reference))
    diagonal = plane["loss"].reshape(4, 4, 3)[range(4), range(4)]
    if path == "kernel":
        assert np.array_equal(along["loss"], diagonal)
    else:
        assert np.allclose(along["loss"], diagonal, rtol=1e-4)


def test_seeds_that_do_not_fit_the_memory_come_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(small())
    job = plan.job(block_of(plan), reference_of(plan))
    whole, path = train_cells(plan.workload, job)
    monkeypatch.setattr(tiles, "SEEDS_BYTES", 1)
    assert tiles.seed_parts(plan.workload, [0, 1, 2]) == [(0, 1), (1, 2), (2, 3)]
    parts, _ = train_cells(plan.workload, job)
    for name in whole:
        same = np.array_equal if path == "kernel" else np.allclose
        assert same(whole[name], parts[name])


@pytest.mark.slow
def test_trainability_is_measured_as_the_paper_does() -> None:
    """Three cells beside a plain loop in float64: mean of the last 20 losses over the first, below 1."""
    plan = make_plan(small(workload="trainability", seeds=1, epochs=None, steps=40, size=3, tile=3, dtype="float64"))
    found, _ = train_cells(plan.workload, plan.job(block_of(plan), reference_of(plan)))
    rates = block_of(plan).rates(plan.grid, None)
    from lrdiff_core.population.members import build

    model, rows = build(plan.workload.model, 0).double(), plan.workload.rows(0)
    inputs, targets = rows.inputs.double(), rows.targets.double()
    for cell in (0, 1, 4):
        net = copy.deepcopy(model)
        groups = [{"params": net.hidden.parameters(), "lr": rates[cell][0]}, {"params": net.output.parameters(), "lr": rates[cell][1]}]  # noqa: E501 # fmt: skip
        optimizer = torch.optim.SGD(groups)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = (net(inputs) - targets).square().mean()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
        wanted = float(np.mean(losses[-20:])) / losses[0]
        assert math.isfinite(wanted)
        assert found["loss"][cell, 0] == pytest.approx(wanted, rel=1e-5)
        assert bool(found["diverged"][cell, 0]) == (wanted >= 1)
    assert found["diverged"][-1, 0]
    assert not found["diverged"][0, 0]


def test_a_worker_with_another_workload_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(small(workload=write_own(tmp_path, "own_other"), epochs=None))
    job = plan.job(plan.tiles[0], None)
    assert run_job(job)["loss"].shape == (2, 3)
    with pytest.raises(CheckFailed, match="a worker's workload own is not the one of this map"):
        run_job(replace(job, fingerprint="0" * 16))


def test_a_fingerprint_knows_rows_weights_and_settings() -> None:
    workload = make_plan(small(workload="trainability", epochs=None)).workload
    seeds = [0, 1]
    first = workload.fingerprint(seeds)
    assert first == workload.fingerprint(seeds)
    others = [
        replace(workload, momentum=0.5).fingerprint(seeds),
        replace(workload, data=lambda seed: workload.rows(seed + 1)).fingerprint(seeds),
        replace(workload, model=lambda seed: torch.nn.Sequential(*list(workload.model(seed))[:-1])).fingerprint(seeds),
        workload.fingerprint([0, 2]),
    ]
    assert len({first, *others}) == 5


def many_cells(numbers: dict[int, int]) -> dict[Tile, Job]:
    """Jobs of so many cells by the number of their tile; rates tell which cell is which."""
    empty = np.zeros(0)
    return {
        Tile(number=number, kind="cells"): Job(
            source="", fingerprint="", rates=np.stack([np.full(cells, number), np.arange(cells)], 1), columns={},
            seeds=(0,), initial=empty, target=empty,
        )
        for number, cells in numbers.items()
    }  # fmt: skip


def test_a_tile_of_which_workers_die_is_halved_and_later_ones_are_cut_as_small() -> None:
    jobs, said = many_cells({1: 7, 2: 1, 3: 5}), []
    waiting: list[tuple[Any, Job]] = []
    parts = _Parts(jobs, lambda part, job: waiting.append((part, job)), said.append)
    one, two, three = jobs
    parts.send(one)
    parts.send(two)
    whole: dict[int, dict[str, Any]] = {}
    died: list[int] = []
    blamed = False
    while waiting:
        part, job = waiting.pop()
        if len(job.rates) > 2 or (part.tile == 2 and not blamed):  # the small one waited for the same worker
            blamed = blamed or part.tile == 2
            died.append(len(job.rates))
            assert parts.halve(part)
            continue
        found: dict[str, Any] = {name: job.rates[:, 1:].astype(kind) for name, kind in COLUMNS.items()}
        done = parts.add(part, found | {"path": "planted", "notes": ["a note"] if part.begin == 0 else []})
        if done is not None:
            whole[done[0].number] = done[1]
            if done[0] == one:
                parts.send(three)
    assert died == [1, 7, 3, 3]  # two of three cells had been sent before the first of them failed
    assert said == [
        "workers died of 7 cells at once, perhaps for want of memory; going on with 3 at once",
        "workers died of 3 cells at once, perhaps for want of memory; going on with 1 at once",
    ]
    for number, cells in ((1, 7), (2, 1), (3, 5)):
        assert whole[number]["loss"][:, 0].tolist() == list(range(cells))
        assert whole[number]["notes"] == ["a note"]
    parts.send(two)
    assert not parts.halve(waiting.pop()[0])  # one cell, and nothing larger is open


def test_what_is_said_of_memory_goes_with_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    real, limit = kernel_path.train_tile, 3

    def limited(tile: Any, *arguments: Any, **more: Any) -> Any:
        if len(tile) > limit:
            raise MemoryError
        return real(tile, *arguments, **more)

    plan = make_plan(small())
    job = plan.job(plan.tiles[0], None)
    whole = run_job(job)
    if whole["path"] != "kernel":
        pytest.skip("no kernel here, and the general path differs in the last bits")
    assert whole["notes"] == []
    monkeypatch.setattr(kernel_path, "train_tile", limited)
    found = run_job(job)
    assert found["notes"] == ["there is not enough memory for 6 members at once: 3 are done at once"]
    assert all(np.array_equal(found[name], whole[name], equal_nan=name != "diverged") for name in COLUMNS)
