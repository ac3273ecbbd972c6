"""A tile of a population: some members, sorted by seed, with all they need; and what comes back of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError
from lrdiff_core.population.members import Hyperparameters, ModelFactory, build_inside, row_order
from lrdiff_core.population.rows import PopulationData
from lrdiff_core.population.settings import Settings

__all__ = ["Seeded", "Tile", "TileResult"]


class Seeded:
    """What follows from a seed: the initial parameters and buffers, and the order of the rows.

    Members come sorted by seed, so each is made once and dropped when the next seeds come.
    """

    def __init__(self, model_factory: ModelFactory, first: tuple[int, nn.Module], settings: Settings) -> None:
        self._factory = model_factory
        self._settings = settings
        self._epochs = -(-settings.total_steps // settings.steps_an_epoch)
        self._states: dict[int, dict[str, Tensor]] = {first[0]: _state(first[1])}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self._states[first[0]].items()}
        self._orders: dict[int, Tensor] = {}

    @property
    def order_bytes(self) -> int:
        """Memory that the order of one seed takes."""
        return 4 * self._epochs * self._settings.rows

    def keep(self, seeds: list[int]) -> None:
        """Make what ``seeds`` need and forget all others."""
        rows = self._settings.rows
        with torch.random.fork_rng(devices=[]):
            self._states = {
                s: self._states.get(s) or self._alike(s, _state(build_inside(self._factory, s))) for s in seeds
            }
        self._orders = {s: self._orders[s] if s in self._orders else row_order(s, rows, self._epochs) for s in seeds}

    def _alike(self, seed: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != self._shapes:
            name = next(name for name in {**shapes, **self._shapes} if shapes.get(name) != self._shapes.get(name))
            raise ConfigError(
                f'"{name}" of seed {seed} has the shape {shapes.get(name)}, that of another seed '
                f"{self._shapes.get(name)}",
                help="let the seed decide the numbers in a model and not its sizes",
            )
        return state

    def state(self, seed: int) -> dict[str, Tensor]:
        """Initial parameters and buffers by name."""
        return self._states[seed]

    def order(self, seed: int) -> Tensor:
        """[epochs * rows] int32."""
        return self._orders[seed]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Members that are trained in one go.

    Args:
        seeds: the different seeds of the tile, rising.
        seed_of: [members] position in ``seeds``.
        columns: [members, groups + 1] each.
        data: rows of each seed, on the device.
        seeded: initial weights and orders, ready for ``seeds``.
    """

    seeds: list[int]
    seed_of: Tensor
    columns: Hyperparameters
    data: dict[int, PopulationData]
    seeded: Seeded
    settings: Settings

    def __len__(self) -> int:
        return len(self.seed_of)

    def stacked(self, name: str) -> Tensor:
        """Initial values of one parameter or buffer, [members, ...], real numbers in the settings' dtype."""
        first = torch.stack([self.seeded.state(seed)[name] for seed in self.seeds])
        return (first.to(self.settings.dtype) if first.is_floating_point() else first)[self.seed_of]


@dataclass(frozen=True, kw_only=True)
class TileResult:
    """As in :class:`Population`, for the members of a tile, on the CPU; the score of a regression is still the loss."""

    train_loss: Tensor
    train_score: Tensor
    held_loss: Tensor
    held_score: Tensor
    second_loss: Tensor
    second_score: Tensor
    step_loss: Tensor | None
    diverged_after: Tensor
    weights: dict[str, Tensor] | None


def _state(model: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}
