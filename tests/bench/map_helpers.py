"""Small maps for the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray

from lrdiff_bench.maps import MapRequest, compute_map, make_plan, pool
from lrdiff_bench.maps.plan import MapPlan
from lrdiff_bench.maps.tiles import Job, run_job
from lrdiff_core import __version__

# The network of the seed preset, so that the population kernel is compiled once for all tests.
OWN = """
import os
import time
from pathlib import Path

import torch
from torch import nn

from lrdiff_bench.maps import MapWorkload
from lrdiff_core.population import PopulationData

HERE = Path(__file__).parent
calls = 0


def model(seed):
    global calls
    calls += 1
    with open(HERE / "calls.log", "a") as file:
        file.write(f"{os.getpid()} {calls}\\n")
    while calls > STOP_AFTER and not (HERE / "go").exists():
        time.sleep(0.02)
    return nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))


def rows(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(60, 10, generator=generator)
    targets = (inputs.sum(dim=1, keepdim=True) > 0).float()
    return PopulationData(
        inputs=inputs[:40], targets=targets[:40], held_inputs=inputs[40:], held_targets=targets[40:], task="binary"
    )


def workload():
    return MapWorkload(
        name="own", model=model, data=rows, optimizer="adam", batch_size=10, epochs=2,
        rates={"0": 0.01, "2": 0.001}, x="0:1e-3:1", y="2:1e-3:1", size=8, seeds=2,
    )
"""


def write_own(folder: Path, module: str, *, stop_after: int = 10**9) -> str:
    """Write a workload of one's own; its trainings stop after so many models until a file ``go`` is there."""
    (folder / f"{module}.py").write_text(f"STOP_AFTER = {stop_after}\n{OWN}")
    return f"{module}:workload"


def small(**changes: Any) -> MapRequest:
    """A map of the seed preset that takes a moment."""
    return MapRequest(**{"size": 4, "seeds": 3, "epochs": 1, "tile": 2} | changes)


def computed(folder: Path, request: MapRequest | None = None) -> tuple[MapPlan, xarray.Dataset]:
    """A map, computed in this process, and what it holds."""
    plan = make_plan(request or small())
    compute_map(plan, folder, workers=0)
    return plan, xarray.open_zarr(folder / "map.zarr").load()


def planted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, loss: Callable[[np.ndarray, np.ndarray], np.ndarray], **changes: Any
) -> xarray.Dataset:
    """A map whose losses are ``loss(rates [cells, 2], seeds [seeds])``, [cells, seeds], in place of trainings."""

    def trained(job: Job, threads: int | None = None) -> dict[str, Any]:
        del threads
        if len(job.target):
            values = loss(np.asarray(job.rates), np.array(job.seeds))
        else:
            values = np.ones((2, len(job.seeds)))
        with np.errstate(over="ignore"):
            found: dict[str, Any] = {"loss": values.astype(np.float32)}
        found["score"] = (1 - values).astype(np.float32)
        found["best_step"] = np.full(values.shape, 28, dtype=np.int32)
        found["steps_to_target"] = np.where(values < 0.5, 28, -1).astype(np.int32)
        found["diverged"] = ~(values < 1)
        return found | {"path": "planted", "lrdiff": __version__, "torch": torch.__version__}

    monkeypatch.setattr(pool, "run_job", trained)
    plan = make_plan(
        small(**{"size": 33, "seeds": 20, "tile": 16, "x": "layer1:1e-4:1", "y": "layer2:1e-4:1"} | changes)
    )
    compute_map(plan, folder, workers=0)
    return xarray.open_zarr(folder / "map.zarr").load()


def dies_of_many(job: Job, threads: int | None = None) -> dict[str, Any]:
    """As :func:`run_job`, in a process that a system without memory ends where it is given more than two cells."""
    if len(job.rates) > 2:
        os._exit(137)
    return run_job(job, threads)


def same(one: xarray.Dataset, other: xarray.Dataset) -> bool:
    """Whether two maps hold the same numbers, bit for bit."""
    return set(one) == set(other) and all(np.array_equal(one[n], other[n], equal_nan=n != "diverged") for n in one)
