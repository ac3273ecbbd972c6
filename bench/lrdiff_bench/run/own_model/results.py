"""A model of one's own judged on its test rows, beside baselines, where targets and outputs are of a common kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lrdiff_bench.run.compare.baselines import judged, test_results
from lrdiff_bench.run.own_model.setup import OwnSetup
from lrdiff_bench.run.own_model.tasks import first_output
from lrdiff_bench.run.own_model.training import OwnTrained
from lrdiff_bench.system.batches import stacked
from lrdiff_bench.system.user_code import user_code
from lrdiff_core.loop import Trained

__all__ = ["own_results"]

MOST_ROWS = 20_000  # that the baselines are fitted on and all are judged on
MOST_FEATURES = 2000  # that a linear model is fitted on


def own_results(trained: OwnTrained) -> dict[str, Any] | None:
    """As :func:`~lrdiff_bench.run.compare.baselines.test_results`; None where the model does not give one answer a row.

    On a table the baselines get the rows that the model gets. Else a linear model is among them where the model has one
    input of real numbers, standardized by the training rows.
    """
    setup = trained.setup
    if setup.table is not None:
        return test_results(cast(Trained, SimpleNamespace(setup=setup.table, net=setup.shipped)))
    if setup.task.kind == "own" or any(part.rows is None for part in setup.parts.values()):
        return None
    known, wanted = (stacked(setup.parts[name], MOST_ROWS) for name in ("train", "test"))
    answers = []
    with user_code(), torch.no_grad():
        size = setup.batch_size
        for begin in range(0, wanted.rows, size):
            first = first_output(wanted.rows_from(begin, begin + size).answer(setup.module))
            if first is None:
                return None
            answers.append(first)
    answer, targets = torch.cat(answers).double(), (known.targets, wanted.targets)
    if any(not isinstance(one, Tensor) for one in targets):
        return None
    kind, flat = setup.task.kind, (answer if answer.ndim == 2 else answer[:, None])
    one_each = all(one.numel() == len(one) for one in targets)
    if not one_each or flat.ndim != 2 or (kind != "multiclass" and flat.shape[1] != 1):
        return None
    if kind == "multiclass":
        flat = flat.softmax(dim=1)
    elif kind == "binary":
        flat = flat.sigmoid()
    known_numbers, wanted_numbers = (one.flatten().numpy() for one in targets)
    if kind != "regression":
        known_numbers, wanted_numbers = known_numbers.astype(np.int64), wanted_numbers.astype(np.int64)
        if min(known_numbers.min(), wanted_numbers.min()) < 0:  # rows that do not count
            return None
    classes = [str(number) for number in range(setup.task.classes)]
    return judged(kind, classes, _inputs(setup, known, wanted), known_numbers, wanted_numbers, flat.numpy())


def _inputs(setup: OwnSetup, known: Any, wanted: Any) -> dict[str, np.ndarray] | None:
    """Flat standardized rows; None where there is more than one input, or no real numbers, or too many."""
    if len(known.tensors()) != 1:
        return None
    train, test = (one.tensors()[0].flatten(1).double().numpy() for one in (known, wanted))
    plain = known.tensors()[0].is_floating_point() and train.shape[1] <= MOST_FEATURES
    if not plain or train.shape[1] != test.shape[1] or not (np.isfinite(train).all() and np.isfinite(test).all()):
        return None
    mean, std = train.mean(axis=0), train.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    return {"train": (train - mean) / std, "test": (test - mean) / std}
