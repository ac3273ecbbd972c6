"""The plan of a map: workload, plane, seeds, tiles; and what a folder must agree with before it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lrdiff_bench.maps.grid import Grid, group_columns, marked_pair, parse_axis, parse_zoom
from lrdiff_bench.maps.source import Source, find_source
from lrdiff_bench.maps.tiles import Job, Tile, cut
from lrdiff_bench.maps.workload import MapWorkload
from lrdiff_bench.system.factory import their_fault, user_code
from lrdiff_bench.system.machine import describe_code
from lrdiff_core import __version__
from lrdiff_core.errors import ConfigError, LrdiffError, RateError
from lrdiff_core.population.members import build

__all__ = ["MapPlan", "MapRequest", "make_plan"]

MANY_SEEDS, FEW_SEEDS = 200, 20  # with fewer, a map shows what its seeds cannot tell
A_MINUTE = 2.5e12  # operations in about a minute of two cores
MOST_SEEDS = 10_000
NEAR_ENOUGH = 1.05  # of the loss that the marked rates end with: as good as there, for all that matters


@dataclass(frozen=True, kw_only=True)
class MapRequest:
    """What the command line asks for; None takes what the workload says.

    Args:
        workload: a preset's name, a TOML file or ``package.module:factory``; None is the preset ``seed``.
        data, target: a table in place of the workload's own rows, and its column to predict.
        x, y: axes, ``GROUP:LOW:HIGH``.
        size: cells along each axis.
        seeds: how many.
        epochs, steps: the length; at most one.
        zoom: ``X:Y:FACTOR``.
        target_loss: the loss that steps are counted to.
        device, dtype: of the training.
        tile: cells along the edge of a tile.
    """

    workload: str | None = None
    data: str | None = None
    target: str | None = None
    x: str | None = None
    y: str | None = None
    size: int | None = None
    seeds: int | None = None
    epochs: int | None = None
    steps: int | None = None
    zoom: str | None = None
    target_loss: float | None = None
    device: str | None = None
    dtype: str | None = None
    tile: int | None = None


@dataclass(frozen=True, kw_only=True)
class MapPlan:
    """A map before it is computed.

    Args:
        source: of the workload.
        workload: itself.
        grid: the plane.
        seeds: all of them.
        columns: column of each parameter.
        marked: the workload's own pair of rates, if the axes can tell them.
        target_loss: given by the user, or None.
        tiles: in the order in which they are computed.
        fingerprint: of the workload.
        steps, rows, parameters: of one training.
    """

    source: Source
    workload: MapWorkload
    grid: Grid
    seeds: tuple[int, ...]
    columns: Mapping[str, int]
    marked: tuple[float, float] | None
    target_loss: float | None
    tiles: tuple[Tile, ...]
    fingerprint: str
    steps: int
    rows: int
    parameters: int

    @property
    def members(self) -> int:
        """Trainings of the whole map."""
        return int(np.prod(self.grid.shape)) * len(self.seeds)

    @property
    def operations(self) -> float:
        """Floating-point operations of the whole map, in round numbers."""
        return self.members * _operations(self.parameters, self.rows, self.workload, self.steps)

    def job(self, tile: Tile, reference: Mapping[str, np.ndarray] | None) -> Job:
        """What a worker needs for a tile; all but the reference itself need the reference's columns."""
        nothing = np.empty(0)
        initial, target = (nothing, nothing) if reference is None else self.reference_losses(reference)
        return Job(
            source=self.source.words(),
            fingerprint=self.fingerprint,
            rates=tile.rates(self.grid, self.marked),
            columns=self.columns,
            seeds=self.seeds,
            initial=initial,
            target=target,
        )

    def reference_losses(self, reference: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Loss before training and target of each seed, [seeds] each, from the reference tile."""
        initial, own = reference["loss"].astype(np.float64)
        if self.target_loss is not None:
            return initial, np.full(len(self.seeds), self.target_loss)
        return initial, own * NEAR_ENOUGH if self.marked is not None else initial / 2

    @property
    def target_words(self) -> str:
        """What ``steps_to_target`` counts to."""
        if self.target_loss is not None:
            return f"a loss of {self.target_loss:g}"
        if self.marked is not None:
            return f"{NEAR_ENOUGH:g} times the loss that the workload's own rates end with on the same seed"
        return "half the loss before training on the same seed"

    def settings(self) -> dict[str, Any]:
        """What two runs must agree in to be one map, JSON-ready."""
        return {
            "workload": self.workload.describe(),
            "fingerprint": self.fingerprint,
            "x": str(self.grid.x),
            "y": str(self.grid.y),
            "size": list(self.grid.shape),
            "seeds": [self.seeds[0], self.seeds[-1]],
            "target_loss": self.target_loss,
            "tiles": [dataclasses.asdict(self.tiles[-1])["rows"], len(self.tiles)],
            "lrdiff": __version__,
            "torch": torch.__version__,
            "commit": describe_code().commit,
        }


def make_plan(request: MapRequest) -> MapPlan:
    """Check a request and plan the map.

    Raises:
        InputError: something in it cannot be, or does not fit the model.

    Example:
        >>> plan = make_plan(MapRequest(workload="trainability", size=32))
        >>> plan.grid.shape, len(plan.seeds), plan.steps, plan.members
        ((32, 32), 1, 200, 1024)
    """
    overrides = {name: getattr(request, name) for name in ("epochs", "steps", "device", "dtype")}
    source = find_source(request.workload, overrides, {"data": request.data, "target": request.target})
    workload = source.workload()
    size = workload.size if request.size is None else request.size
    axes = {}
    for name in ("x", "y"):
        text = getattr(request, name) or getattr(workload, name)
        if text is None:
            raise RateError(
                f"workload {workload.name} has no {name} axis",
                help=f"write --{name} GROUP:LOW:HIGH, such as head:1e-4:1",
            )
        axes[name] = parse_axis(text, size)
    grid = Grid(**axes)
    if request.zoom is not None:
        grid = grid.zoomed(*parse_zoom(request.zoom))
    if request.tile is not None and request.tile < 1:
        raise ConfigError(f"tile is {request.tile}", help="write cells along the edge of a tile, from 1 up")
    if request.target_loss is not None and not request.target_loss > 0:
        raise ConfigError(f"target loss is {request.target_loss:g}", help="write a positive number")
    try:
        with user_code(source.folder or None):
            model, rows = build(workload.model, workload.first_seed), workload.rows(workload.first_seed)
            batch = min(workload.batch_size or rows.rows, rows.rows)
            steps = workload.steps if workload.steps is not None else (workload.epochs or 0) * -(-rows.rows // batch)
            parameters = sum(p.numel() for p in model.parameters())
            operations = _operations(parameters, rows.rows, workload, steps)
            count = _seeds(request, workload, operations * grid.x.size * grid.y.size)
            seeds = tuple(workload.first_seed + i for i in range(count))
            fingerprint = workload.fingerprint(list(seeds))
    except LrdiffError:
        raise
    except Exception as problem:  # whatever the user's own code raises
        raise their_fault(f"workload {workload.name}", problem) from problem
    columns = group_columns(model, grid)
    marked = marked_pair(workload.rates, columns)
    tiles = cut(
        grid,
        seeds=count,
        marked=marked is not None,
        operations=operations,
        edge=request.tile,
        gpu=workload.device not in ("cpu", "auto"),
    )
    return MapPlan(
        source=source,
        workload=workload,
        grid=grid,
        seeds=seeds,
        columns=columns,
        marked=marked,
        target_loss=request.target_loss,
        tiles=tuple(tiles),
        fingerprint=fingerprint,
        steps=steps,
        rows=rows.rows,
        parameters=parameters,
    )


def _seeds(request: MapRequest, workload: MapWorkload, operations: float) -> int:
    """How many seeds: as asked for, else as the workload says, else as many as a minute allows."""
    count = workload.seeds if request.seeds is None else request.seeds
    if count is None:
        return MANY_SEEDS if MANY_SEEDS * operations <= A_MINUTE else FEW_SEEDS
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(f"seeds is {count}", help=f"write a whole number from 1 to {MOST_SEEDS}")
    return count


def _operations(parameters: int, rows: int, workload: MapWorkload, steps: int) -> float:
    """Of one training: two operations a parameter and row, three passes (forward, weights, back)."""
    batch = min(workload.batch_size or rows, rows)
    return 6.0 * parameters * batch * steps
