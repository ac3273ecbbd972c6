"""Cross-validation beside a run: the same settings trained on each fold's rows, tested on the rows it left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lrdiff_bench.run.compare.baselines import test_results
from lrdiff_core.data import describe_split, fold_table
from lrdiff_core.loop import train
from lrdiff_core.setup import Setup, set_up

__all__ = ["cross_validate"]


def cross_validate(setup: Setup, *, on_fold: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Train once a fold and return the section ``folds`` of the summary.

    Strata, groups and time are respected as by the run's own split. The run's model is not among these: it is trained
    on the rows of its one split.

    Args:
        setup: of the run; ``setup.config.cv`` says how many folds.
        on_fold: called with how many folds are done, and how many there are.

    Returns:
        ``metrics``: names; ``folds``: each fold's split and what the model has on its test rows; ``models``: mean and
        standard deviation over the folds of this model and of the baselines, None where a fold has no value.

    Raises:
        DataError: too few rows, groups or times for so many folds.
    """
    config, table = setup.config, setup.rows.table
    number = config.cv or 0
    splits = fold_table(table, folds=number, validation=config.validation, seed=config.seed)
    metrics: list[str] = []
    folds: list[dict[str, Any]] = []
    values: dict[str, list[dict[str, Any]]] = {}
    for done, split in enumerate(splits, start=1):
        found = test_results(train(set_up(table, config, split=split)))
        metrics = list(found["metrics"])
        for model in found["models"]:
            values.setdefault(model["name"], []).append(model)
        own = found["models"][0]
        folds.append({"split": describe_split(table, split), **{name: own[name] for name in metrics}})
        if on_fold is not None:
            on_fold(done, number)
    return {
        "metrics": metrics,
        "folds": folds,
        "models": [
            {"name": name, **{metric: _spread([row[metric] for row in rows]) for metric in metrics}}
            for name, rows in values.items()
        ],
    }


def _spread(values: list[float | None]) -> dict[str, float] | None:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    return {"mean": float(np.mean(numbers)), "sd": float(np.std(numbers, ddof=1))}
