"""Handwritten digits for the workloads: rows, and networks pretrained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.population import PopulationData

__all__ = ["PIXELS", "load_digits", "multiclass", "permutation", "pretrain", "relu_network"]

PIXELS = 64


@cache
def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [1797, 64] from -1 to 1 and digits [1797]."""
    from lrdiff_core.data import load_table

    table = load_table("digits")
    pixels, labels = table.features / np.float32(8) - np.float32(1), table.target
    pixels.flags.writeable = labels.flags.writeable = False
    return pixels, labels


def permutation(seed: int, purpose: str, count: int) -> np.ndarray:
    """A permutation of ``count`` things, [count]; another stream for every purpose."""
    from lrdiff_core.seeds import derive_seed

    return np.random.default_rng(derive_seed(seed, purpose)).permutation(count)


def multiclass(
    pixels: np.ndarray, labels: np.ndarray, train: np.ndarray, held: np.ndarray | None = None
) -> PopulationData:
    """Rows ``train`` to learn from and rows ``held`` to judge on."""
    import torch

    from lrdiff_core.population import PopulationData

    def part(rows: np.ndarray | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if rows is None:
            return None, None
        return torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows].astype(np.int64))

    inputs, targets = part(train)
    held_inputs, held_targets = part(held)
    assert inputs is not None
    assert targets is not None
    return PopulationData(
        inputs=inputs, targets=targets, held_inputs=held_inputs, held_targets=held_targets, task="multiclass"
    )


def relu_network(*sizes: int, bias: bool = True) -> nn.Sequential:
    """Linear layers with ReLU between them, weights as torch draws them."""
    from torch import nn

    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


PRETRAINING_RATE = 0.003  # Adam
PRETRAINING_EPOCHS = 20


def pretrain(
    known: dict[int, dict[str, Tensor]],
    seeds: Sequence[int],
    rows: Callable[[int], PopulationData],
    sizes: Sequence[int],
    *,
    epochs: int = PRETRAINING_EPOCHS,
) -> None:
    """Train the networks of those seeds that are not ``known`` yet, side by side, and remember their weights.

    Args:
        known: weights by name, by seed; filled in place.
        seeds: that are wanted.
        rows: to learn from, of a seed.
        sizes: of the layers.
        epochs: of Adam, 50 rows a step.
    """
    from lrdiff_core.population import PopulationOptions, train_population

    missing = sorted(set(seeds) - set(known))
    if not missing:
        return

    population = train_population(
        lambda seed: relu_network(*sizes),
        {seed: rows(seed) for seed in missing},
        [[PRETRAINING_RATE]] * len(missing),
        missing,
        PopulationOptions(batch_size=50, epochs=epochs, evaluate="never", keep_weights=True),
    )
    assert population.weights is not None
    for member, seed in enumerate(missing):
        known[seed] = {name: values[member].clone() for name, values in population.weights.items()}
