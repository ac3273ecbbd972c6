"""The training loop: mini-batches in a seeded order, metrics of every split after every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lrdiff_core.devices import repeatable
from lrdiff_core.model import TabularNet
from lrdiff_core.seeds import make_generator
from lrdiff_core.setup import Prepared, Setup, make_optimizer

if TYPE_CHECKING:  # names of types alone: the loop trains where pydantic is not installed
    pass

__all__ = ["Observation", "Trained", "evaluate", "fit", "loss_function", "score_name", "train", "train_epoch"]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One row of the metrics: one split after one epoch.

    ``score`` is the accuracy (classification) or the coefficient of determination (regression). ``loss`` is the
    mean cross-entropy in nats (classification) or the squared error in units of the target's training variance.
    Both are taken with the weights as they stand at the end of the epoch. A loss that is not finite is kept.
    """

    epoch: int
    split: str
    loss: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What :func:`train` returns."""

    net: TabularNet  # on the CPU
    setup: Setup
    observations: tuple[Observation, ...]

    def last(self, split: str) -> Observation:
        """Return the observation of ``split`` after the last epoch."""
        return next(row for row in reversed(self.observations) if row.split == split)


def score_name(task: str) -> str:
    """Return what :attr:`Observation.score` is called for ``task``."""
    return "R2" if task == "regression" else "accuracy"


def loss_function(task: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of ``task`` on logits [batch, outputs] and targets."""
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "binary": nn.functional.binary_cross_entropy_with_logits,
        "multiclass": nn.functional.cross_entropy,
        "regression": nn.functional.mse_loss,
    }
    return losses[task]


def fit(
    net: TabularNet,
    rows: Prepared,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    compile: bool = False,
    on_epoch: Callable[[int, Sequence[Observation]], None] | None = None,
) -> list[Observation]:
    """Train ``net`` in place and return the metrics of train and validation for every epoch.

    Args:
        net: on the device of ``rows``.
        rows: from :func:`prepare`.
        optimizer: over the parameters of ``net``.
        epochs: passes over the training rows.
        batch_size: rows a step; the last step of an epoch takes what is left.
        seed: fixes the order of the rows, the same on every device.
        compile: run the network through ``torch.compile``.
        on_epoch: called after each epoch with its number and observations.
    """
    loss_of = loss_function(rows.table.task)
    # dynamic: the last, smaller batch must not compile the network a second time
    network = torch.compile(net.network, dynamic=True) if compile else net.network
    inputs, targets = rows.inputs["train"], rows.targets["train"]
    order = make_generator(seed, "order")
    observations: list[Observation] = []
    for epoch in range(1, epochs + 1):
        permutation = torch.randperm(len(inputs), generator=order).to(inputs.device)
        train_epoch(network, optimizer, loss_of, inputs, targets, permutation.split(batch_size))
        news = [evaluate(net, rows, part, epoch=epoch) for part in ("train", "validation")]
        observations += news
        if on_epoch is not None:
            on_epoch(epoch, news)
    return observations


def train_epoch(
    network: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    batches: Sequence[Tensor],
) -> None:
    """Take one step for each batch of row numbers.

    Args:
        network: rows [batch, features] to logits [batch, outputs].
        optimizer: over its parameters.
        loss_of: logits and targets to a scalar.
        inputs: all rows [rows, features].
        targets: of all rows.
        batches: row numbers of each step.
    """
    for batch in batches:
        optimizer.zero_grad()
        loss_of(network(inputs[batch]), targets[batch]).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(net: TabularNet, rows: Prepared, part: str, *, epoch: int = 0) -> Observation:
    """Return loss and score of one split with the weights as they are."""
    logits, target = net.network(rows.inputs[part]), rows.targets[part]
    loss = loss_function(rows.table.task)(logits, target).item()
    if rows.table.task == "regression":
        spread = (target - target.mean()).square().mean().item()
        error = (logits - target).square().mean().item()
        score = 1.0 - error / spread if spread > 0 else math.nan
    elif rows.table.task == "binary":
        score = ((logits > 0) == (target > 0.5)).float().mean().item()
    else:
        score = (logits.argmax(dim=1) == target).float().mean().item()
    return Observation(epoch=epoch, split=part, loss=loss, score=score)


def train(setup: Setup, *, on_epoch: Callable[[int, Sequence[Observation]], None] | None = None) -> Trained:
    """Train the main model.

    The seed fixes the split, the initial weights and the order of the rows. The same seed, machine and number of
    threads give the same weights bit for bit.

    Args:
        setup: from :func:`set_up`; its model is trained in place.
        on_epoch: called after each epoch with its number and its observations.

    Example:
        >>> from lrdiff_core import load_table, make_config, set_up
        >>> config = make_config({"epochs": 2})
        >>> trained = train(set_up(load_table("seed"), config))
        >>> [row.split for row in trained.observations]
        ['train', 'validation', 'train', 'validation', 'test']
    """
    config = setup.config
    optimizer = make_optimizer(config.optimizer, setup.plan.groups(), momentum=config.momentum)
    with repeatable(setup.device, threads=config.threads):
        observations = fit(
            setup.net,
            setup.rows,
            optimizer,
            epochs=config.epochs,
            batch_size=setup.batch_size,
            seed=setup.seed,
            compile=config.compile,
            on_epoch=on_epoch,
        )
        observations.append(evaluate(setup.net, setup.rows, "test", epoch=config.epochs))
    return Trained(net=setup.net.cpu(), setup=setup, observations=tuple(observations))
