"""What the auditor's tests train: a small model with three rates, and loops as people write them."""

import torch
from torch import nn

from lrdiff_core.audit import audit
from lrdiff_core.rates import LayerDecay, param_groups

STEPS = 8
EVERY = 2  # so that eight steps are looked at as hundreds would be


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 2))
    with torch.no_grad():
        for parameter in model.parameters():  # biases that are not 0, so that their decay shows
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


def make_plan(model, lr=1e-2, weight_decay=0.1, **how):
    """Layer-wise decay by a half: rates of 1/4, 1/2 and 1 times lr; no decay of biases."""
    how.setdefault("scale", [LayerDecay(0.5)])
    how.setdefault("no_weight_decay", ["1d"])
    return param_groups(model, lr=lr, weight_decay=weight_decay, **how)


def batches(steps=STEPS, rows=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(rows, 6, generator=generator)
        yield x.to(dtype), torch.stack([x.sum(1), x.prod(1)], 1).to(dtype)


def loss_of(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def backward(model, batch):
    for parameter in model.parameters():
        parameter.grad = None
    loss = loss_of(model, batch)
    loss.backward()
    return loss


def fit(model, optimizer, scheduler=None, *, steps=STEPS, after=None, dtype=torch.float32):
    """The loop of any tutorial."""
    for batch in batches(steps, dtype=dtype):
        backward(model, batch)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if after is not None:
            after()


def audited(model, optimizer=None, plan=None, *, train=None, scheduler=None, schedule=None, **how):
    """Train under audit; ``train`` in place of the plain loop."""
    with audit(model, optimizer, plan, schedule=schedule, every=EVERY) as report:
        if train is None:
            fit(model, optimizer, scheduler, **how)
        else:
            train()
    return report.report
