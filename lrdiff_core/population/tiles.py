"""Cutting a population into tiles that fit the memory, members of one seed side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrdiff_core.model import TabularNet
from lrdiff_core.population.members import Hyperparameters
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.settings import Settings
from lrdiff_core.population.work import Seeded, Tile

__all__ = ["cut", "make_tile", "numbers_a_row", "rows_at_once"]

TILE_BYTES = 256 * 2**20  # what a tile may take beside the results
KERNEL_TILE = 16_384  # members; more win nothing
GENERAL_TILE = 1024  # members; the fastest of 64 to 4096 for the 10-5-1 network on a CPU
GENERAL_TILE_GPU = 65_536
_ROWS_AT_ONCE = 1024  # rows of an evaluation
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
        a_member += itemsize * _INTERMEDIATE * min(settings.batch_size, settings.rows) * numbers_a_row(model, data)
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


def numbers_a_row(model: nn.Module, data: PopulationData) -> int:
    """Numbers that a row and all that is computed from it take: counted as one row goes through the model."""
    total = data.inputs[0].numel()

    def count(module: nn.Module, args: object, outputs: object) -> None:
        nonlocal total
        total += outputs.numel() if isinstance(outputs, Tensor) else 0

    training = {module: module.training for module in model.modules()}
    handles = [module.register_forward_hook(count) for module in training if not any(module.children())]
    row = data.inputs[:1].cpu()
    kind = next(model.parameters()).dtype
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            call = model.network if type(model) is TabularNet else model
            call(row.to(kind) if row.is_floating_point() else row)
    finally:
        for handle in handles:
            handle.remove()
        for module, was in training.items():
            module.training = was
    return total


def rows_at_once(members: int, a_row: int, settings: Settings) -> int:
    """Rows of an evaluation that are looked at together."""
    return max(1, min(_ROWS_AT_ONCE, TILE_BYTES // (2 * members * settings.dtype.itemsize * a_row)))


def make_tile(
    seeds: list[int],
    own: Hyperparameters,
    rows: dict[int, PopulationData],
    placed: dict[int, PopulationData],
    seeded: Seeded,
    settings: Settings,
) -> Tile:
    """Bring together what the members of a tile need; members of one seed share its rows and first weights."""
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
