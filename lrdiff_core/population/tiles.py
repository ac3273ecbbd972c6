"""Cutting a population into tiles that fit the memory, members of one seed side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrdiff_core.population.members import Columns
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.settings import Settings
from lrdiff_core.population.work import Seeded, Tile

__all__ = ["cut", "make_tile"]

TILE_BYTES = 256 * 2**20  # what a tile may take beside the results
KERNEL_TILE = 16_384  # members; more win nothing
GENERAL_TILE = 1024  # members; the fastest of 64 to 4096 for the 10-5-1 network on a CPU
GENERAL_TILE_GPU = 65_536
_INTERMEDIATE = 8  # tensors of the size of a batch, or of a parameter, that a step holds at once: an estimate


def cut(
    seeds: list[int],
    settings: Settings,
    model: nn.Module,
    seeded: Seeded,
    device: torch.device,
    data: PopulationData,
    *,
    kernel: bool,
) -> list[Tensor]:
    """Members of each tile, sorted by seed, so that members who share rows stand side by side."""
    itemsize = settings.dtype.itemsize
    parameters = sum(parameter.numel() for parameter in model.parameters())
    largest = KERNEL_TILE if kernel else GENERAL_TILE if device.type == "cpu" else GENERAL_TILE_GPU
    a_member = itemsize * parameters * (2 if kernel else _INTERMEDIATE)
    if settings.step_losses:
        a_member += itemsize * settings.total_steps
    if not kernel:
        a_row = data.inputs[0].numel() + sum(p.shape[0] for p in model.parameters() if p.ndim > 1)
        a_member += itemsize * _INTERMEDIATE * min(settings.batch_size, settings.rows) * a_row
    size = settings.tile or max(1, min(largest, TILE_BYTES // a_member))
    most_seeds = max(1, TILE_BYTES // (seeded.order_bytes + itemsize * parameters))
    order = torch.tensor(seeds).argsort(stable=True)
    tiles, start, inside = [], 0, 0
    sorted_seeds = [seeds[i] for i in order.tolist()]
    for i, seed in enumerate(sorted_seeds):
        inside += i == start or seed != sorted_seeds[i - 1]
        if i - start == size or inside > most_seeds:
            tiles.append(order[start:i])
            start, inside = i, 1
    return [*tiles, order[start:]]


def make_tile(
    seeds: list[int],
    own: Columns,
    rows: dict[int, PopulationData],
    placed: dict[int, PopulationData],
    seeded: Seeded,
    settings: Settings,
) -> Tile:
    different = list(dict.fromkeys(seeds))
    seeded.keep(different)
    at = {seed: i for i, seed in enumerate(different)}
    return Tile(
        seeds=different,
        seed_of=torch.tensor([at[seed] for seed in seeds]),
        columns=own,
        data={seed: placed[id(rows[seed])] for seed in different},
        seeded=seeded,
        settings=settings,
    )
