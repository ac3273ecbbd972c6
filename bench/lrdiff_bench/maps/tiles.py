"""Tiles of a map: which cells each holds, and the training of one, as a worker does it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lrdiff_bench.maps.grid import Grid
from lrdiff_bench.maps.source import Source
from lrdiff_bench.maps.workload import DTYPES, MapWorkload
from lrdiff_bench.system.factory import user_code
from lrdiff_core import __version__
from lrdiff_core.errors import CheckFailed, MemoryWarning
from lrdiff_core.population import Population, PopulationOptions, train_population

__all__ = ["COLUMNS", "Job", "Tile", "cut", "run_job", "train_cells"]

COLUMNS: dict[str, str] = {
    "loss": "float32",
    "score": "float32",
    "best_step": "int32",  # -1: never finite
    "steps_to_target": "int32",  # -1: never reached
    "diverged": "bool",
}
"""What is kept of every cell and seed."""

REFERENCE, MARKED, SINGLE, CELLS = "reference", "marked", "single", "cells"
TILE_OPERATIONS = 2e10  # of a tile: about a second of one core in the population kernel
LEAST_MEMBERS, MOST_MEMBERS = 256, 16_384  # of a tile on a CPU
GPU_MEMBERS = 65_536
MOST_TILES = 4096  # of a map: each is a file for a while
SEEDS_BYTES = 256 * 2**20  # rows of the seeds that are trained in one call

# Training sets torch's number of threads and seeds its global generator: one tile at a time in a process. The
# population kernel uses the other threads of a worker.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Cells that are trained in one task.

    Args:
        number: from 0; also its file's name.
        kind: ``"reference"`` (rates of 0, and the workload's own: what all others are compared with), ``"marked"``
            (the workload's own rates), ``"single"`` (single rates) or ``"cells"`` (a block of the plane).
        rows: [begin, end) along y; of the list of single rates for ``"single"``.
        columns: [begin, end) along x.
    """

    number: int
    kind: str
    rows: tuple[int, int] = (0, 0)
    columns: tuple[int, int] = (0, 0)

    def shape(self) -> tuple[int, ...]:
        """Cells: [rows, columns], or [rates]."""
        if self.kind in (REFERENCE, MARKED):
            return (2,) if self.kind == REFERENCE else (1,)
        height = self.rows[1] - self.rows[0]
        return (height,) if self.kind == SINGLE else (height, self.columns[1] - self.columns[0])

    def rates(self, grid: Grid, marked: tuple[float, float] | None) -> np.ndarray:
        """Rates of its cells, [cells, 2]."""
        if self.kind == REFERENCE:
            return np.array([(0.0, 0.0), marked or (0.0, 0.0)])
        if self.kind == MARKED:
            return np.array([marked])
        if self.kind == SINGLE:
            return np.repeat(grid.single[slice(*self.rows)][:, None], 2, axis=1)
        rows, columns = np.arange(*self.rows), np.arange(*self.columns)
        return grid.rates((rows[:, None] * grid.x.size + columns[None, :]).flatten())


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to train a tile.

    Args:
        source: the workload, as :meth:`Source.words` writes it.
        fingerprint: of the workload where the map is driven; a worker with another one refuses.
        rates: [cells, 2].
        columns: column of each parameter.
        seeds: all of the map.
        initial: [seeds] loss before training; empty for the reference itself.
        target: [seeds] loss that steps are counted to; likewise.
    """

    source: str
    fingerprint: str
    rates: np.ndarray
    columns: Mapping[str, int]
    seeds: tuple[int, ...]
    initial: np.ndarray
    target: np.ndarray


def cut(
    grid: Grid, *, seeds: int, operations: float, marked: bool = False, edge: int | None = None, gpu: bool = False
) -> list[Tile]:
    """Cut a map into tiles: the reference, the workload's own rates, single rates, then blocks of the plane.

    Args:
        grid: the plane.
        seeds: how many.
        operations: floating-point operations of one member's training.
        marked: whether the workload has rates of its own.
        edge: cells along the edge of a block; None: blocks of about a second.
        gpu: blocks for a GPU.

    Example:
        >>> from lrdiff_bench.maps.grid import parse_axis
        >>> grid = Grid(x=parse_axis("a:0.1:1", 5), y=parse_axis("b:0.1:1", 4))
        >>> [(tile.kind, tile.shape()) for tile in cut(grid, seeds=1, operations=1, edge=4)]
        [('reference', (2,)), ('single', (5,)), ('cells', (4, 4)), ('cells', (4, 1))]
    """
    if edge is None:
        members = GPU_MEMBERS if gpu else min(MOST_MEMBERS, max(LEAST_MEMBERS, TILE_OPERATIONS / operations))
        edge = 1
        while (2 * edge) ** 2 * seeds <= members or grid.x.size * grid.y.size > MOST_TILES * edge**2:
            edge *= 2
    tiles = [Tile(number=0, kind=REFERENCE)]
    if marked:
        tiles.append(Tile(number=1, kind=MARKED))
    single = len(grid.single)
    for begin in range(0, single, edge * edge):
        tiles.append(Tile(number=len(tiles), kind=SINGLE, rows=(begin, min(begin + edge * edge, single))))
    height, width = grid.shape
    for y in range(0, height, edge):
        for x in range(0, width, edge):
            rows, columns = (y, min(y + edge, height)), (x, min(x + edge, width))
            tiles.append(Tile(number=len(tiles), kind=CELLS, rows=rows, columns=columns))
    return tiles


def run_job(job: Job, threads: int | None = None) -> dict[str, Any]:
    """Train a tile; what a worker runs.

    Args:
        job: the tile.
        threads: of the population kernel; None takes those of the Dask worker that this runs in, or one.

    Returns:
        The columns, [cells, seeds] each, and where they come from: ``path``, ``lrdiff``, ``torch``; in ``notes`` lines
        about memory that ran out.

    Raises:
        CheckFailed: the workload here is not the one of the map.
        LrdiffError: it cannot be trained.
    """
    source = Source.read(job.source)
    with _ONE_AT_A_TIME, user_code(source.folder or None):
        workload = source.workload()
        here = _fingerprint(job.source, job.seeds)
        if here != job.fingerprint:
            raise CheckFailed(
                f"a worker's workload {workload.name} is not the one of this map: "
                f"weights, rows or settings differ ({here} for {job.fingerprint})",
                help="give workers the same code and data, and start them again after a change",
            )
        with _memory_notes() as notes:
            found, path = train_cells(workload, job, threads=threads or _own_threads())
    return {**found, "path": path, "lrdiff": __version__, "torch": torch.__version__, "notes": notes}


@contextmanager
def _memory_notes() -> Iterator[list[str]]:
    """What is said of memory, to be told where the map is driven and not where a worker writes its log."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", MemoryWarning)
        yield notes
    for one in said:
        if issubclass(one.category, MemoryWarning):
            notes.append(str(one.message).partition("\n")[0])
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def train_cells(workload: MapWorkload, job: Job, *, threads: int = 1) -> tuple[dict[str, np.ndarray], str]:
    """Train every cell on every seed; returns columns [cells, seeds] and the population's path."""
    cells, seeds = len(job.rates), list(job.seeds)
    found = {name: np.zeros((cells, len(seeds)), kind) for name, kind in COLUMNS.items()}
    path = ""
    for begin, end in seed_parts(workload, seeds):
        population = _train(workload, job, seeds[begin:end], threads)
        path = population.path
        shape = (end - begin, cells)  # members lie seed by seed
        curve, after = _curve(workload, population)
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            final = curve[:, -1].astype(np.float32).reshape(shape).T
        lowest = curve.argmin(axis=1)
        ever = np.isfinite(curve).any(axis=1)
        found["loss"][:, begin:end] = final
        found["best_step"][:, begin:end] = np.where(ever, after[lowest], -1).reshape(shape).T
        scores = population.held_score if population.held_score is not None else population.train_score
        if scores.shape[1]:
            found["score"][:, begin:end] = scores[:, -1].numpy().reshape(shape).T
        else:
            found["score"][:, begin:end] = np.nan
        lost = population.diverged.numpy().reshape(shape).T
        if len(job.target):
            below = curve <= np.repeat(job.target[begin:end], cells)[:, None]
            first = np.where(below.any(axis=1), after[below.argmax(axis=1)], -1)
            found["steps_to_target"][:, begin:end] = first.reshape(shape).T
            lost = lost | ~(final < job.initial[begin:end])
        found["diverged"][:, begin:end] = lost
    return found, path


def _train(workload: MapWorkload, job: Job, seeds: Sequence[int], threads: int) -> Population:
    data = {seed: workload.rows(seed) for seed in seeds}
    rows = data[seeds[0]].rows
    last = workload.last_losses is not None
    return train_population(
        workload.model,
        data,
        np.tile(job.rates, (len(seeds), 1)),
        [seed for seed in seeds for _ in range(len(job.rates))],
        PopulationOptions(
            optimizer=workload.optimizer,
            batch_size=min(workload.batch_size or rows, rows),
            epochs=workload.epochs,
            steps=workload.steps,
            momentum=workload.momentum,
            weight_decay=workload.weight_decay,
            schedule=workload.schedule,
            evaluate="never" if last else "epoch",
            step_losses=last,
            device=workload.device,
            dtype=DTYPES[workload.dtype],
            threads=threads,
        ),
        groups=job.columns,
    )


def _curve(workload: MapWorkload, population: Population) -> tuple[np.ndarray, np.ndarray]:
    """Losses of every member, [members, times], infinite where they are not finite, and after how many steps.

    The last of them is the loss that the member is judged by.
    """
    if workload.last_losses is not None:
        assert population.step_loss is not None
        steps = population.step_loss.to(torch.float64).numpy()
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            relative = steps / steps[:, :1]
            last = relative[:, -workload.last_losses :].mean(axis=1, keepdims=True)
        # The loss of step t is taken before its update; the mean of the last stands at the end.
        curve, after = np.concatenate([relative, last], axis=1), np.arange(steps.shape[1] + 1)
        curve = np.where(np.isfinite(curve), curve, np.inf)
        return curve, after
    held = population.held_loss if population.held_loss is not None else population.train_loss
    curve = held.to(torch.float64).numpy()
    return np.where(np.isfinite(curve), curve, np.inf), population.evaluated_after.numpy()


def seed_parts(workload: MapWorkload, seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Seeds of one call: as many as their rows fit the memory."""
    rows = workload.rows(seeds[0])
    tensors = (rows.inputs, rows.targets, rows.held_inputs, rows.held_targets)
    a_seed = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    count = len(seeds) if not callable(workload.data) else max(1, SEEDS_BYTES // max(1, a_seed))
    return [(begin, min(begin + count, len(seeds))) for begin in range(0, len(seeds), count)]


_fingerprints: dict[tuple[str, tuple[int, ...]], str] = {}


def _fingerprint(source: str, seeds: tuple[int, ...]) -> str:
    """Of the workload as it is in this process; taken once, since modules are imported once."""
    if (source, seeds) not in _fingerprints:
        _fingerprints.clear()
        _fingerprints[source, seeds] = Source.read(source).workload().fingerprint(list(seeds))
    return _fingerprints[source, seeds]


def _own_threads() -> int:
    try:
        from distributed import get_worker

        return int(get_worker().state.nthreads)
    except (ImportError, ValueError):  # no Dask here, or not in one of its workers
        return 1
