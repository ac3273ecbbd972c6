"""Schedule beside other schedulers on one optimizer: wherever it stands, the rates are those of ``LambdaLR``."""

import copy

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from lrdiff_core.errors import RateError
from lrdiff_core.schedules import Schedule, Shape

RATES = (0.1, 0.003)
LATER = 0.02
STEPS = 12
MILESTONE = 5
WARM = Shape(warmup=3, floor=0.1)
DOWN = Shape(kind="linear")


def ours(optimizer, shape):
    return Schedule(optimizer, total_steps=10, shape=shape)


def twin(optimizer, shape):
    return lr_scheduler.LambdaLR(optimizer, lambda t: shape.factor(t, 10))


def one_cycle(optimizer, _):
    rates = [group["initial_lr"] if "initial_lr" in group else group["lr"] for group in optimizer.param_groups]
    return lr_scheduler.OneCycleLR(optimizer, [float(r) for r in rates], total_steps=20, cycle_momentum=False)


OTHERS = {
    "LambdaLR": lambda o, _: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    "MultiplicativeLR": lambda o, _: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o, _: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o, _: lr_scheduler.MultiStepLR(o, [3, 5]),
    "ConstantLR": lambda o, _: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o, _: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "ExponentialLR": lambda o, _: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o, _: lr_scheduler.PolynomialLR(o, 10),
    "CosineAnnealingLR": lambda o, _: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SWALR": lambda o, _: SWALR(o, swa_lr=0.05, anneal_epochs=4),
    "OneCycleLR": one_cycle,
}
CHAINABLE = [name for name in OTHERS if name not in ("OneCycleLR", "CosineAnnealingWarmRestarts")]


def sequential(first, second):
    def make(optimizer, kind):
        return lr_scheduler.SequentialLR(optimizer, [first(optimizer, kind), second(optimizer, kind)], [MILESTONE])

    return make


def chained(first, second):
    return lambda optimizer, kind: lr_scheduler.ChainedScheduler([first(optimizer, kind), second(optimizer, kind)])


def beside(first, second):
    """Two schedulers that nobody joins: both are stepped, as in a notebook whose cell was run again."""

    class Both:
        def __init__(self, optimizer, kind):
            self.parts = [first(optimizer, kind), second(optimizer, kind)]

        def step(self):
            for part in self.parts:
                part.step()

        def state_dict(self):
            return [part.state_dict() for part in self.parts]

        def load_state_dict(self, states):
            for part, state in zip(self.parts, states, strict=True):
                part.load_state_dict(state)

    return Both


def warm(optimizer, kind):
    return kind(optimizer, WARM)


def down(optimizer, kind):
    return kind(optimizer, DOWN)


def left_behind(first, second):
    """A scheduler that was moved a few steps and dropped, then another on the same optimizer."""

    def make(optimizer, kind):
        dropped = first(optimizer, kind)
        for _ in range(4):
            optimizer.step()
            dropped.step()
        return second(optimizer, kind)

    return make


COMPANY = {"alone": warm, "twice": left_behind(warm, warm), "two shapes": left_behind(warm, down)}
for name, other in OTHERS.items():
    COMPANY |= {
        f"Schedule, then {name}": sequential(warm, other),
        f"{name}, then Schedule": sequential(other, warm),
        f"{name} left for Schedule": left_behind(other, warm),
        f"Schedule left for {name}": left_behind(warm, other),
    }
    if name in CHAINABLE:
        COMPANY |= {f"Schedule x {name}": chained(warm, other), f"{name} x Schedule": chained(other, warm)}
COMPANY |= {
    "Schedule, then Schedule": sequential(warm, down),
    "Schedule x Schedule": chained(warm, down),
    "Schedule beside Schedule": beside(warm, down),
    "Schedule beside ExponentialLR": beside(warm, OTHERS["ExponentialLR"]),
    "stages x StepLR": chained(sequential(OTHERS["LinearLR"], warm), OTHERS["StepLR"]),
}


def make_optimizer(tensor):
    return torch.optim.SGD(
        [
            {"params": [torch.nn.Parameter(torch.ones(2))], "lr": torch.tensor(rate) if tensor else rate}
            for rate in RATES
        ]
    )


def follow(optimizer, scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step.*:UserWarning")
@pytest.mark.parametrize("tensor", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("name", COMPANY)
def test_the_rates_are_those_of_lambda_lr(name, tensor):
    mine, theirs = make_optimizer(tensor), make_optimizer(tensor)
    rates = follow(mine, COMPANY[name](mine, ours), STEPS)
    assert rates == follow(theirs, COMPANY[name](theirs, twin), STEPS)
    assert len({tuple(row) for row in rates}) > 1
    assert all(min(row) >= 0 for row in rates)
    assert [float(group["initial_lr"]) for group in mine.param_groups] == [
        float(group["initial_lr"]) for group in theirs.param_groups
    ]


@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step.*:UserWarning")
@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
@pytest.mark.parametrize("at", [2, MILESTONE, 8])
@pytest.mark.parametrize("name", COMPANY)
def test_a_resume_in_the_middle_goes_on_with_the_same_rates(name, at, order):
    def start():
        optimizer = make_optimizer(tensor=at == 8)
        return optimizer, COMPANY[name](optimizer, ours)

    optimizer, scheduler = start()
    follow(optimizer, scheduler, at)
    saved = copy.deepcopy([optimizer.state_dict(), scheduler.state_dict()])
    rest = follow(optimizer, scheduler, STEPS - at)
    again = start()
    for part, state in [*zip(again, saved, strict=True)][:: 1 if order == "optimizer first" else -1]:
        part.load_state_dict(state)
    assert follow(*again, STEPS - at) == rest


@pytest.mark.parametrize("name", ["alone", "twice", "two shapes", "Schedule, then Schedule", "Schedule x Schedule"])
def test_groups_that_are_added_later_join_in_company_too(name):
    """At their own rate times the factor; torch's own schedulers refuse them."""
    optimizer = make_optimizer(tensor=False)
    scheduler = COMPANY[name](optimizer, ours)
    follow(optimizer, scheduler, 3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": LATER})
    for row in follow(optimizer, scheduler, 8)[1:]:
        assert row[2] / LATER == pytest.approx(row[0] / RATES[0])


def test_a_group_added_between_a_step_and_a_save_is_in_the_state():
    def start():
        optimizer = make_optimizer(tensor=False)
        return optimizer, ours(optimizer, DOWN)

    def add(optimizer):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": LATER})

    optimizer, schedule = start()
    follow(optimizer, schedule, 3)
    add(optimizer)
    saved = copy.deepcopy([optimizer.state_dict(), schedule.state_dict()])
    rest = follow(optimizer, schedule, 3)
    again = start()
    add(again[0])
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    assert follow(*again, 3) == rest


def test_going_on_at_a_step_is_torchs():
    """As skorch and transformers build a scheduler for a resumed optimizer."""
    mine, theirs = make_optimizer(tensor=False), make_optimizer(tensor=False)
    for optimizer, kind in ((mine, ours), (theirs, twin)):
        follow(optimizer, kind(optimizer, WARM), 4)
    after = Schedule(mine, total_steps=10, shape=WARM, last_epoch=3)
    other = lr_scheduler.LambdaLR(theirs, lambda t: WARM.factor(t, 10), last_epoch=3)
    assert after.last_epoch == other.last_epoch == 4
    assert follow(mine, after, 5) == follow(theirs, other, 5)
    with pytest.raises(RateError, match="no initial_lr"):
        Schedule(make_optimizer(tensor=False), total_steps=10, last_epoch=3)


def test_another_plans_rates_go_on_at_the_step_of_a_state():
    old = make_optimizer(tensor=False)
    schedule = ours(old, DOWN)
    follow(old, schedule, 4)
    new = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    goes_on = ours(new, DOWN)
    goes_on.step(schedule.state_dict()["last_epoch"])
    assert new.param_groups[0]["lr"] == pytest.approx(0.6)
