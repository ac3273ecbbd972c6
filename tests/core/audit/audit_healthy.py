"""Healthy trainings, as people write them: the auditor has to stay silent.

Loops and models stand beside this file; those through other people's trainers stand in ``tests/interop/test_audit.py``.
"""

from dataclasses import dataclass

import torch
from audit_setup import STEPS, audited, backward, batches, make_model, make_plan
from torch.optim import lr_scheduler

from lrdiff_core import optim
from lrdiff_core.rates import Rule
from lrdiff_core.schedules import Schedule, Shape


@dataclass(frozen=True)
class Healthy:
    train: object
    rule: str | None  # that has to be recognised; None: not known, or several


HEALTHY = {}


def healthy(name, rule):
    def add(function):
        HEALTHY[name] = Healthy(function, rule)
        return function

    return add


def plain(optimizer, rule, *, weight_decay=0.1, **options):
    def train():
        model = make_model()
        plan = make_plan(model, weight_decay=weight_decay)
        return audited(model, optimizer(plan.groups(), **options), plan)

    HEALTHY[f"{optimizer.__module__.split('.')[0]} {optimizer.__name__} {options or ''}".strip()] = Healthy(train, rule)


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                moment = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(moment.lerp(parameter.grad, 1 - beta1).sign_(), alpha=-group["lr"])
                moment.lerp_(parameter.grad, 1 - beta2)


# Every optimizer of torch, of ours, and one of the tests' own.
plain(torch.optim.SGD, "SGD")
plain(torch.optim.SGD, "SGD momentum", momentum=0.9)
plain(torch.optim.SGD, "SGD momentum", momentum=0.9, dampening=0.5)
plain(torch.optim.SGD, "SGD Nesterov", momentum=0.9, nesterov=True)
plain(torch.optim.SGD, "SGD", maximize=True)
plain(torch.optim.Adam, "Adam")
plain(torch.optim.Adam, "AdamW", decoupled_weight_decay=True)
plain(torch.optim.AdamW, "AdamW", foreach=True)
plain(torch.optim.AdamW, "AdamW", fused=True)
plain(torch.optim.AdamW, "AdamW", amsgrad=True)
plain(torch.optim.AdamW, "AdamW", maximize=True)
plain(torch.optim.NAdam, "NAdam")
plain(torch.optim.RAdam, "RAdam")
plain(torch.optim.RMSprop, "RMSprop", momentum=0.9)
plain(torch.optim.Adagrad, "Adagrad")
plain(torch.optim.NAdam, "NAdam", decoupled_weight_decay=True, maximize=True)
plain(torch.optim.RMSprop, "RMSprop", centered=True, maximize=True)
plain(torch.optim.Adadelta, None)
plain(torch.optim.Adamax, None)
plain(torch.optim.ASGD, None)
plain(torch.optim.Adafactor, None)
plain(torch.optim.Rprop, None, weight_decay=0.0)
plain(optim.SGD, "SGD Nesterov", momentum=0.9, nesterov=True)
plain(optim.Adam, "Adam")
plain(optim.AdamW, "AdamW")
plain(Lion, "Lion")


def scheduled(name, make, *, rule="AdamW", **how):
    def train():
        model = make_model()
        plan = make_plan(model)
        optimizer = torch.optim.AdamW(plan.groups())
        return audited(model, optimizer, plan, scheduler=make(optimizer), **how)

    HEALTHY[f"schedule {name}"] = Healthy(train, rule)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


scheduled("ours", lambda o: Schedule(o, total_steps=STEPS, shape=Shape(warmup=3, floor=0.1)))
scheduled("LambdaLR from 0", lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 4)))
scheduled("OneCycleLR", lambda o: lr_scheduler.OneCycleLR(o, rates(o), total_steps=STEPS))
scheduled("CyclicLR", lambda o: lr_scheduler.CyclicLR(
    o, [rate / 10 for rate in rates(o)], rates(o), step_size_up=4, cycle_momentum=False
))  # fmt: skip
scheduled("CosineAnnealingLR", lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS))
scheduled("CosineAnnealingWarmRestarts", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3))
scheduled("MultiStepLR", lambda o: lr_scheduler.MultiStepLR(o, [2, 5]))
scheduled("SequentialLR", lambda o: lr_scheduler.SequentialLR(
    o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
))  # fmt: skip
scheduled("PolynomialLR", lambda o: lr_scheduler.PolynomialLR(o, STEPS))


@healthy("schedule handed over", "AdamW")
def schedule_handed_over():
    model = make_model()
    plan = make_plan(model, rules=[Rule("4", schedule=Shape(kind="constant"))])
    optimizer = optim.AdamW(plan.groups())
    schedule = plan.schedule(optimizer, total_steps=STEPS, shape=Shape(warmup=2))
    return audited(model, optimizer, plan, scheduler=schedule, schedule=schedule)


@healthy("ReduceLROnPlateau", "AdamW")
def plateau():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return audited(model, optimizer, plan, after=lambda: scheduler.step(1.0))


@healthy("a schedule by hand that starts at a hundredth", "AdamW")
def by_hand():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW(plan.groups())
    bases = rates(optimizer)

    def train():
        for step, batch in enumerate(batches()):
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["lr"] = base * 0.01 * (step + 1)
            backward(model, batch)
            optimizer.step()

    return audited(model, optimizer, plan, train=train)


class TimmScheduler:
    """As timm's: the groups' base rate, times a factor, times the group's lr_scale."""

    def __init__(self, optimizer):
        self.optimizer, self.bases = optimizer, []
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            self.bases.append(group["initial_lr"])
        self.number = -1
        self.step()

    def step(self):
        self.number += 1
        for group, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            rate = base * (1 - self.number / (2 * STEPS))
            group["lr"] = rate * group["lr_scale"]


@healthy("timm's lr_scale with a scheduler that knows it", "AdamW")
def timm():
    model = make_model()
    plan = make_plan(model)
    optimizer = torch.optim.AdamW([{**group, "lr": 1e-2, "lr_scale": group["lr"] / 1e-2} for group in plan.groups()])
    return audited(model, optimizer, plan, scheduler=TimmScheduler(optimizer))


@healthy("timm's lr_scale without a plan", "AdamW")
def timm_without_a_plan():
    model = make_model()
    groups = [{"params": [p], "lr_scale": 0.5**i} for i, p in enumerate(model.parameters())]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = TimmScheduler(optimizer)
    return audited(model, optimizer, scheduler=scheduler)
