"""skorch's LRScheduler with our schedule: it hands over ``last_epoch``, in epochs, and goes on with it."""

from __future__ import annotations

import pytest
import torch
from interop_setup import is_rate
from torch import nn

pytest.importorskip("skorch", reason="skorch is not installed: pip install -e .[interop]")

from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler

from lrdiff_core import AdamW, LayerDecay, Schedule, Shape, param_groups

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::DeprecationWarning:skorch")]

EPOCHS, BATCHES = 4, 3
SHAPE = Shape(kind="linear", floor=0.1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.head = nn.Linear(8, 1)

    def forward(self, rows):
        return self.head(self.body(rows))


class Planned(NeuralNetRegressor):
    def initialize_optimizer(self, *args, **kwargs):
        self.plan = param_groups(self.module_, lr=self.lr, scale=[LayerDecay(0.1, layers=["body", "head"])])
        self.optimizer_ = AdamW(self.plan.groups())
        self.seen = []
        return self

    def train_step(self, batch, **more):
        self.seen.append([group["lr"] for group in self.optimizer_.param_groups])
        return super().train_step(batch, **more)


def planned(every, **options):
    torch.manual_seed(0)
    total = EPOCHS * (BATCHES if every == "batch" else 1)
    schedule = LRScheduler(policy=Schedule, total_steps=total, shape=SHAPE, step_every=every, **options)
    return Planned(
        Net, lr=0.01, max_epochs=EPOCHS, batch_size=8, train_split=None, verbose=0, callbacks=[("schedule", schedule)]
    )


def rows():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8 * BATCHES, 4, generator=generator)
    return inputs, inputs.sum(1, keepdim=True)


def wanted(net, every):
    total = EPOCHS * (BATCHES if every == "batch" else 1)
    moves = [t if every == "batch" else t // BATCHES for t in range(EPOCHS * BATCHES)]
    return [[group["lr"] * SHAPE.factor(move, total) for group in net.plan.groups()] for move in moves]


def assert_rates(net, every):
    assert len(net.seen) == EPOCHS * BATCHES
    for seen, right in zip(net.seen, wanted(net, every), strict=True):
        assert all(map(is_rate, seen, right))


@pytest.mark.parametrize("every", ["epoch", "batch"])
def test_the_rates_of_every_step_are_the_plans(every):
    net = planned(every).fit(*rows())
    assert_rates(net, every)
    assert net.history[:, "event_lr"][-1] if every == "epoch" else net.history[-1, "batches", -1, "event_lr"]


def test_training_goes_on_in_epochs_where_it_was():
    whole, halves = planned("epoch").fit(*rows()), planned("epoch")
    for _ in range(2):
        halves.partial_fit(*rows(), epochs=EPOCHS // 2)
    assert_rates(halves, "epoch")
    for mine, other in zip(halves.module_.parameters(), whole.module_.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_training_goes_on_in_batches_with_the_number_of_steps_done():
    """skorch hands over the number of epochs whatever is counted: the last step has to be named."""
    net = planned("batch", last_epoch=-1)
    net.partial_fit(*rows(), epochs=2)
    net.set_params(callbacks__schedule__last_epoch=2 * BATCHES - 1)
    net.partial_fit(*rows(), epochs=2)
    assert_rates(net, "batch")
