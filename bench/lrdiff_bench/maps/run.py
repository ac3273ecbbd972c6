"""Computing a map: going on from the tiles that are whole, then one store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lrdiff_bench.maps.plan import MapPlan
from lrdiff_bench.maps.pool import LIBRARIES, open_pool, run_tiles, unavailable_reason
from lrdiff_bench.maps.store import MapFolder, hold_folder
from lrdiff_bench.maps.tiles import Tile
from lrdiff_core import __version__
from lrdiff_core.errors import CheckFailed, UnavailableError

__all__ = ["Progress", "compute_map"]

Progress = Callable[[int, int, int], None]
"""Called with tiles done, tiles in all, and those of them that were there before."""


def compute_map(
    plan: MapPlan,
    folder: Path,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    on_tile: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> float | None:
    """Compute what is missing of a map and write its store; a complete map is left as it is.

    Args:
        plan: of the map.
        folder: of the map.
        scheduler: address of a Dask cluster; None starts processes here.
        workers: processes to start; None takes one a processor, 0 trains in this process.
        on_tile: told of the progress.
        tell: gets a line about a worker that gives no sign of life, and about memory that ran out.

    Returns:
        Seconds that training took here, the start of processes not counted; None where nothing was trained.

    Raises:
        InputError: the folder holds something else.
        UnavailableError: Dask, xarray or Zarr is not installed, or the cluster is not there.
    """
    if (reason := unavailable_reason()) is not None:
        raise UnavailableError(
            f"maps need libraries that are missing: {reason}", help=f"pip install {' '.join(LIBRARIES)}"
        )
    with hold_folder(folder, plan) as held:
        if held.complete:
            return None
        whole = held.whole()
        fresh = not whole
        seconds = _train(plan, held, whole, scheduler, workers, on_tile, tell)
        held.assemble(seconds if fresh else None)
    return seconds


def _train(
    plan: MapPlan,
    held: MapFolder,
    whole: set[int],
    scheduler: str | None,
    workers: int | None,
    on_tile: Progress | None,
    tell: Callable[[str], None] | None,
) -> float | None:
    left = [tile for tile in plan.tiles if tile.number not in whole]
    before = len(plan.tiles) - len(left)
    if not left:
        return None

    told: set[str] = set()

    def keep(tile: Tile, found: dict[str, Any]) -> None:
        _same_versions(found)
        for note in found.get("notes", ()):
            if tell is not None and note not in told:
                told.add(note)
                tell(f"note: {note}; the results are the same")
        held.write(tile, found)
        whole.add(tile.number)
        if on_tile is not None:
            on_tile(len(whole), len(plan.tiles), before)

    if on_tile is not None:
        on_tile(before, len(plan.tiles), before)
    with open_pool(scheduler, workers, len(left)) as pool:
        started = time.perf_counter()
        first, rest = plan.tiles[0], [tile for tile in left if tile.number != 0]
        if first in left:  # all others need its losses
            run_tiles(pool, {first: plan.job(first, None)}, keep, tell=tell)
        reference = held.kept(first)
        run_tiles(pool, {tile: plan.job(tile, reference) for tile in rest}, keep, tell=tell)
        return time.perf_counter() - started


def _same_versions(found: dict[str, Any]) -> None:
    for name, here in (("lrdiff", __version__), ("torch", torch.__version__)):
        if found[name] != here:
            raise CheckFailed(
                f"a worker has {name} {found[name]}, and the map {here}", help="give all workers the same versions"
            )
