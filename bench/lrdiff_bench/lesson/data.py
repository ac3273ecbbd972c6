"""What the lesson's page holds: rows, first weights and orders of a few seeds, what Python's runs found, the studies.

The rows come from NumPy's generator and the order from PyTorch's. Both are embedded rather than written again in
JavaScript: the page then trains on exactly the numbers that Python trains on, and 75 KB a seed are cheap.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE
from lrdiff_core import __version__, load_table, make_config, set_up
from lrdiff_core.config import PRESETS
from lrdiff_core.errors import ConfigError
from lrdiff_core.population import PopulationOptions, population_task, train_population
from lrdiff_core.population.members import row_order

__all__ = ["AXIS", "LessonOptions", "lesson_data", "problem", "studies"]

AXIS = (1e-4, 10.0, 64)  # of both layers, as `lrdiff map` has it: lowest, highest, cells
FIRST_TUNING_SEED = 1000  # seeds that choose rates; no reader sees them
TUNING_SEEDS = 10
MOST_SEEDS = 100  # of a page: 75 KB each
COARSE = 2  # pairs are chosen among every second rate of each axis
# Loss and accuracy by epoch as the page told them that the example comes from; it does not say how they came about.
TOLD = (
    (0.85, 0.55), (0.65, 0.68), (0.50, 0.75), (0.40, 0.80), (0.35, 0.83),
    (0.30, 0.85), (0.28, 0.86), (0.27, 0.87), (0.26, 0.87), (0.25, 0.88),
)  # fmt: skip
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class LessonOptions:
    """What a lesson is made with.

    Args:
        seeds: how many seeds the page holds, from 0; its verdicts take them all.

    Raises:
        ConfigError: a number of seeds that a page cannot hold.
    """

    seeds: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ConfigError(f"seeds is {self.seeds}", help=f"write a whole number from 1 to {MOST_SEEDS}")


def lesson_data(options: LessonOptions) -> dict[str, Any]:
    """Everything that the page's scripts read, JSON-ready; arrays are base64, little-endian.

    Takes some seconds: every single rate and a coarse map are trained on seeds that the page does not show, and the
    map of seed 0.
    """
    config = make_config({**PRESETS["seed"], "device": "cpu"})
    task = population_task(config)
    rates = np.geomspace(*AXIS)
    tuning = list(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + TUNING_SEEDS))
    single = _mean_loss(task, np.repeat(rates[:, None], 2, axis=1), tuning, task.epochs)
    coarse = np.stack(np.meshgrid(rates[::COARSE], rates[::COARSE]), axis=-1).reshape(-1, 2)
    pairs = _mean_loss(task, coarse, tuning, task.epochs)
    plane = np.stack(np.meshgrid(rates, rates), axis=-1).reshape(-1, 2)  # x is layer 1, y layer 2, as in a map
    shown = range(options.seeds)
    assert config.rates is not None
    return {
        "lrdiff": __version__,
        "torch": torch.__version__,
        "epochs": task.epochs,
        "batchSize": task.batch_size,
        "optimizer": config.optimizer,
        "example": [config.rates["layer1"], config.rates["layer2"]],
        "told": TOLD,
        "axis": list(AXIS),
        "smallestDifference": SMALLEST_DIFFERENCE,
        "tuned": {
            "seeds": [tuning[0], tuning[-1]],
            "single": float(rates[single.argmin()]),
            "amongSingle": len(single),
            "pair": coarse[pairs.argmin()].tolist(),
            "amongPairs": len(pairs),
        },
        "problems": [problem(seed) | {"python": run} for seed, run in zip(shown, _runs(task, shown), strict=True)],
        "map": {"seed": 0, "losses": _packed(_losses(task, plane, [0], task.epochs), "<f4")},
        "studies": studies(),
    }


def problem(seed: int) -> dict[str, Any]:
    """One seed of the example as the page's ``train`` takes it."""
    config = make_config({**PRESETS["seed"], "device": "cpu"})
    table = load_table("seed", seed=seed)
    setup = set_up(table, config, seed=seed)
    split = config.split(table, seed=seed)
    part = np.empty(len(table.target), np.uint8)
    for number, name in enumerate(PARTS):
        part[getattr(split, name)] = number
    order = row_order(seed, len(split.train), config.most_epochs(len(split.train)))
    return {
        "seed": seed,
        "rows": _packed(table.features, "<f4"),
        "labels": _packed(table.target, "u1"),
        "part": _packed(part, "u1"),
        "mean": _packed(setup.net.standardize.mean, "<f4"),
        "inverseStd": _packed(setup.net.standardize.inverse_std, "<f4"),
        "firstWeights": _packed(_flat([p.detach() for p in setup.net.parameters()]), "<f4"),
        "order": _packed(order, "<u2"),
    }


def studies() -> dict[str, Any]:
    """The studies that are stored with the package: ``docs/results/convergence.md`` as data."""
    text = files("lrdiff_bench.lesson").joinpath("assets", "studies.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _runs(task: Any, seeds: range) -> list[dict[str, Any]]:
    """The example's own rates on every seed: losses after each epoch, and the final weights."""
    rates = [[task.rates[name] for name in task.layers]] * len(seeds)
    data = {seed: task.rows(seed) for seed in seeds}
    epochs = task.epochs
    found = train_population(
        task.model, data, rates, list(seeds), PopulationOptions(epochs=epochs, keep_weights=True, **task.options)
    )
    assert found.held_loss is not None
    assert found.weights is not None
    names = [name for name, _ in task.model(0).named_parameters()]
    return [
        {
            "train": found.train_loss[i].tolist(),
            "validation": found.held_loss[i].tolist(),
            "weights": _packed(_flat([found.weights[name][i] for name in names]), "<f4"),
        }
        for i in range(len(seeds))
    ]


def _losses(task: Any, rates: np.ndarray, seeds: list[int], epochs: int) -> np.ndarray:
    """Validation losses at the end, [pairs, seeds]; infinite where a training diverged."""
    members = np.repeat(rates, len(seeds), axis=0)
    data = {seed: task.rows(seed) for seed in seeds}
    found = train_population(
        task.model, data, members, seeds * len(rates), PopulationOptions(epochs=epochs, evaluate="end", **task.options)
    )
    assert found.held_loss is not None
    losses = found.held_loss[:, -1].numpy().reshape(len(rates), len(seeds))
    return np.where(np.isfinite(losses), losses, np.inf)


def _mean_loss(task: Any, rates: np.ndarray, seeds: list[int], epochs: int) -> np.ndarray:
    return _losses(task, rates, seeds, epochs).mean(axis=1)


def _flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors])


def _packed(values: Any, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(np.asarray(values), dtype=kind).tobytes()).decode()
