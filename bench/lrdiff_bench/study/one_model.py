"""One model trained by itself, exactly as a population trains a member: for models that torch.func does not take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lrdiff_core.devices import choose_device, repeatable
from lrdiff_core.errors import ConfigError
from lrdiff_core.model import TabularNet
from lrdiff_core.population.members import row_order
from lrdiff_core.population.rows import loss_function, score
from lrdiff_core.rates import Rule, param_groups
from lrdiff_core.setup import make_optimizer, set_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.optimizers import OptimizerName
    from lrdiff_core.population import PopulationData

__all__ = ["LoneTraining", "TrainingCourse", "group_columns", "network_of", "train_alone"]


@dataclass(frozen=True, kw_only=True)
class LoneTraining:
    """How one model is trained.

    Args:
        optimizer, momentum, weight_decay, batch_size: as for ``lrdiff run``.
        device: as for ``lrdiff run``.
        steps: how many.
        evaluated_after: numbers of steps at which losses and metric are taken, the last one ``steps``.
        metric: ``"loss"``, or else the score.
    """

    optimizer: OptimizerName
    momentum: float
    weight_decay: float
    batch_size: int
    device: str
    steps: int
    evaluated_after: tuple[int, ...]
    metric: str


@dataclass(frozen=True, kw_only=True)
class TrainingCourse:
    """What a training gave.

    Args:
        metric: [evaluations] on held-out rows; NaN from where it diverged.
        losses: [evaluations] on the rows it learnt from.
        seconds: of its steps, evaluation left out.
        steps: that it made.
    """

    metric: np.ndarray
    losses: np.ndarray
    seconds: float
    steps: int


def train_alone(
    model: nn.Module,
    rows: PopulationData,
    rates: np.ndarray,
    seed: int,
    columns: Mapping[str, int],
    how: LoneTraining,
    stop: Callable[[float, float], bool] | None = None,
) -> TrainingCourse:
    """Train ``model`` in place until its last step, or until its loss is no number.

    Args:
        model: with its first weights.
        rows: to learn from, and held out.
        rates: [groups] learning rates.
        seed: of the order of rows.
        columns: group of every parameter, of :func:`group_columns`.
        how: everything else.
        stop: is given steps and metric of each evaluation, and says whether to end early.
    """
    where = choose_device(how.device)
    model, data = model.to(where), rows.to(where, torch.float32)
    network = network_of(model)
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in model.named_parameters() if columns.get(n) == i], "lr": float(rate),
         "weight_decay": how.weight_decay}
        for i, rate in enumerate(rates)
    ]  # fmt: skip
    optimizer = make_optimizer(how.optimizer, groups, momentum=how.momentum)
    loss_of, after = loss_function(data), how.evaluated_after
    metric, losses = (np.full(len(after), np.nan) for _ in range(2))
    spent, done, at = 0.0, 0, 0
    with repeatable(where, threads=torch.get_num_threads()):
        for step, batch in enumerate(_batches(seed, data.rows, how)):
            begin = time.perf_counter()
            batch = batch.to(where)
            optimizer.zero_grad()
            loss = loss_of(network(data.inputs[batch]), data.targets[batch])
            loss.backward()
            if not math.isfinite(float(loss.detach())):
                break
            optimizer.step()
            spent, done = spent + time.perf_counter() - begin, step + 1
            if done == after[at]:
                set_mode(optimizer, "eval")
                losses[at], metric[at] = _evaluate(model, network, data, how.metric)
                set_mode(optimizer, "train")
                at += 1
                if stop is not None and stop(done, float(metric[at - 1])):
                    break
    return TrainingCourse(metric=metric, losses=losses, seconds=spent, steps=done)


def _batches(seed: int, rows: int, how: LoneTraining) -> list[Tensor]:
    """Row numbers of each step; an epoch's last batch takes what is left."""
    steps_an_epoch = -(-rows // how.batch_size)
    epochs = row_order(seed, rows, -(-how.steps // steps_an_epoch)).long().split(rows)
    return [batch for epoch in epochs for batch in epoch.split(how.batch_size)][: how.steps]


def _evaluate(
    model: nn.Module, network: Callable[[Tensor], Tensor], data: PopulationData, metric: str
) -> tuple[float, float]:
    """Training loss, and metric on held-out rows; NaN both where either loss is not finite."""
    assert data.held_inputs is not None
    assert data.held_targets is not None
    loss_of = loss_function(data)
    model.eval()
    with torch.no_grad():
        train = float(loss_of(network(data.inputs), data.targets))
        outputs = network(data.held_inputs)
        held = float(loss_of(outputs, data.held_targets))
        found = held if metric == "loss" else float(score(data, outputs, data.held_targets))
    model.train()
    return (train, found) if math.isfinite(train) and math.isfinite(held) else (math.nan, math.nan)


def network_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What maps standardized rows to outputs: the project's own network brings its standardizing as well."""
    return model.network if isinstance(model, TabularNet) else model


def group_columns(model: nn.Module, patterns: Mapping[str, Sequence[str]], groups: Sequence[str]) -> dict[str, int]:
    """Column of every trained parameter by its name.

    Args:
        model: any module.
        patterns: of each group, as in :class:`lrdiff_core.rates.Rule`; empty: each module with parameters is a group.
        groups: names in the order of the columns.

    Raises:
        RateError: a pattern that matches nothing.
        ConfigError: a parameter in no group, or groups that are no layers.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> group_columns(net, {"body": ["0"], "head": ["1.*"]}, ["body", "head"])
        {'0.weight': 0, '0.bias': 0, '1.weight': 1, '1.bias': 1}
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not patterns:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        if tuple(layers) != tuple(groups) and len(layers) != len(groups):
            raise ConfigError(
                f"the model has {len(layers)} layers, and there are {len(groups)} groups",
                help=f"say which parameters each group has; layers: {', '.join(layers)}",
            )
        return {name: layers.index(name.rpartition(".")[0]) for name in names}
    # A plan finds dead, shadowed and misspelt patterns; the multiplier says which rule took a parameter.
    rules = [
        Rule([Rule.parse(f"{one} lr_mult=1").match for one in patterns[group]], lr_mult=float(i + 2))
        for i, group in enumerate(groups)
    ]
    found = {}
    for entry in param_groups(model, lr=1.0, rules=rules):
        if entry.name in names:
            if entry.lr == 1.0:
                raise ConfigError(
                    f'parameter "{entry.name}" is in no group',
                    help=f"add a pattern for it; groups: {', '.join(groups)}",
                )
            found[entry.name] = int(entry.lr) - 2
    return found
