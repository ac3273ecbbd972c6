"""Groups under everything that moves optimizers: torch's schedulers, and the calls that trainers make."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lrdiff_core.rates import LayerDecay, Rule, param_groups
from lrdiff_core.schedules import Schedule, Shape

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    "LambdaLR, one a group": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 1 / (t + 1)] * len(o.param_groups)),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [g["lr"] for g in o.param_groups], total_steps=10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "Schedule": lambda o: Schedule(o, total_steps=10),
}


def setup(freeze=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    rules = [Rule("0", freeze=True)] if freeze else []
    return model, param_groups(model, lr=0.1, scale=[LayerDecay(0.1)], rules=rules).apply_freeze()


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_keep_the_ratios(name):
    model, plan = setup(freeze=True)
    optimizer = torch.optim.AdamW(plan.groups())
    scheduler = SCHEDULERS[name](optimizer)
    for i in range(6):
        step(model, optimizer)
        scheduler.step()
        if i == 2:
            plan.unfreeze(optimizer, "*")
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[0] / rates[2] == pytest.approx(0.01)
        assert rates[1] / rates[2] == pytest.approx(0.1)
    assert len(optimizer.state) == 6


def test_state_survives_a_resume_under_a_torch_scheduler():
    def start():
        model, plan = setup()
        optimizer = torch.optim.AdamW(plan.groups())
        return model, optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 10)

    model, optimizer, scheduler = start()
    for _ in range(3):
        step(model, optimizer)
        scheduler.step()
    saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, scheduler)])
    again = start()
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    step(model, optimizer)
    step(again[0], again[1])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again[0].parameters(), strict=True))


def test_groups_of_a_plan_join_an_optimizer_only_with_names():
    _, plan = setup()
    optimizer = torch.optim.SGD(plan.groups()[:2])
    optimizer.add_param_group(plan.groups()[2])
    assert [g["param_names"] for g in optimizer.param_groups] == [
        [f"{i}.{kind}" for kind in ("weight", "bias")] for i in range(3)
    ]


def test_a_rules_own_schedule_reaches_its_group():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    plan = param_groups(model, lr=0.1, rules=[Rule("0", lr=0.01, schedule=Shape(kind="linear", delay=2))])
    optimizer = torch.optim.SGD(plan.groups())
    schedule = plan.schedule(optimizer, total_steps=10, shape=Shape(kind="constant", warmup=2))
    seen = [schedule.get_last_lr()]
    for _ in range(10):
        optimizer.step()
        schedule.step()
        seen.append(schedule.get_last_lr())
    assert seen[0] == [0.0, 0.0]
    assert seen[1] == [0.0, 0.05]
    assert seen[2] == [0.01, 0.1]
    assert seen[6] == [0.005, 0.1]
    assert seen[10] == [0.0, 0.1]


def test_what_trainers_ask_of_a_scheduler():
    """Lightning checks the class; the Hugging Face Trainer and Accelerate call these methods and fields."""
    model, plan = setup()
    optimizer = torch.optim.AdamW(plan.groups())
    schedule = Schedule(optimizer, total_steps=4)
    assert isinstance(schedule, lr_scheduler.LRScheduler)
    assert schedule.optimizer is optimizer
    for _ in range(6):  # Accelerate's wrapper stops at total_steps by this comparison
        step(model, optimizer)
        if schedule._step_count <= schedule.total_steps:
            schedule.step()
    assert schedule.last_epoch == 4
    assert schedule.get_last_lr() == [0.0] * 3


def test_the_same_rates_through_lambda_lr():
    _, plan = setup()
    ours, theirs = (torch.optim.SGD(plan.groups()) for _ in range(2))
    schedule = Schedule(ours, total_steps=8, shape=Shape(kind="cosine", warmup=3, floor=0.1))
    scheduler = lr_scheduler.LambdaLR(theirs, schedule.lambdas())
    for _ in range(9):
        assert schedule.get_last_lr() == scheduler.get_last_lr()
        for each in (ours, theirs, schedule, scheduler):
            each.step()
