"""What the interoperability tests train: a small model with three rates, a frozen part, and two optimizers."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lrdiff_core.optim import AdamW
from lrdiff_core.rates import LayerDecay, Rule, param_groups
from lrdiff_core.schedules import Schedule, Shape

STEPS = 12
SHAPE = Shape(kind="cosine", warmup=3, floor=0.1)
OPTIMIZERS = {"ours": AdamW, "torch": torch.optim.AdamW}
BASE_RATE = 0.01
GROUPS = 6  # three layers, with and without decay


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def make_plan(model):
    """Layer-wise decay, no decay of biases, the first layer's bias frozen: six groups."""
    plan = param_groups(
        model,
        lr=BASE_RATE,
        weight_decay=0.1,
        rules=[Rule("0.bias", freeze=True)],
        scale=[LayerDecay(0.1)],
        no_weight_decay=["1d"],
    )
    return plan.apply_freeze()


def make_schedule(kind, plan, optimizer):
    """Our schedule, or torch's own with our factors."""
    schedule = Schedule(optimizer, total_steps=STEPS, shape=SHAPE)
    if kind == "Schedule":
        return schedule
    for group, base in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = base  # LambdaLR reads its base rates anew
    return LambdaLR(optimizer, schedule.lambdas())


def rows(count=96):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    return x, (x.sum(1, keepdim=True) / 2).tanh()


def planned(plan, step):
    """The rate of every group at a step, by the plan and the shape alone."""
    return [group["lr"] * SHAPE.factor(step, STEPS) for group in plan.groups()]


def assert_close(ours, theirs, steps=STEPS, rate=BASE_RATE):
    """Equal within float32 arithmetic.

    Every step rounds about ten times (each half an ulp of the moment, the denominator or the weight) and moves a
    weight by at most the rate; rounding also changes later gradients, for which a factor of eight is left.
    """
    eps = torch.finfo(torch.float32).eps
    for name in ours:
        a, b = ours[name].double(), theirs[name].double()
        allowed = 8 * 10 * steps * eps * (b.abs().max() + rate)
        assert (a - b).abs().max() <= allowed, f"{name}: {(a - b).abs().max():.3g} of {allowed:.3g}"


def moved(before, after):
    """Names of the tensors that training changed."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def is_rate(value, wanted):
    return math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-15)
