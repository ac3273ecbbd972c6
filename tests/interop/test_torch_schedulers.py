"""Our optimizer under torch's own schedulers: the same rates as torch's optimizer, the same weights within rounding."""

import copy

import pytest
from interop_setup import OPTIMIZERS, STEPS, assert_close, make_model, make_plan, rows, weights
from torch.optim import lr_scheduler

from lrdiff_core.schedules import Schedule

pytestmark = pytest.mark.interop

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, [g["lr"] / 10 for g in o.param_groups], [g["lr"] for g in o.param_groups], 3, cycle_momentum=False
    ),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [g["lr"] for g in o.param_groups], total_steps=STEPS + 1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
    "Schedule": lambda o: Schedule(o, total_steps=STEPS),
}


class Job:
    def __init__(self, optimizer, scheduler):
        self.model = make_model()
        self.plan = make_plan(self.model)
        self.optimizer = OPTIMIZERS[optimizer](self.plan.groups())
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)
        self.rates = []

    def train(self, first, last):
        x, y = rows()
        for i in range(first, last):
            part = slice(8 * i, 8 * (i + 1))
            self.rates.append([group["lr"] for group in self.optimizer.param_groups])
            self.optimizer.zero_grad()
            loss = (self.model(x[part]) - y[part]).square().mean()
            loss.backward()
            self.optimizer.step()
            if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(float(i % 3))
            else:
                self.scheduler.step()
        return self

    def parts(self):
        return self.model, self.optimizer, self.scheduler


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_same_as_torchs_optimizer(name):
    ours, theirs = Job("ours", name).train(0, STEPS), Job("torch", name).train(0, STEPS)
    assert ours.rates == theirs.rates
    assert len({tuple(rates) for rates in ours.rates}) > 1
    assert_close(weights(ours.model), weights(theirs.model))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resume_is_bit_for_bit(name):
    whole, first, second = Job("ours", name).train(0, STEPS), Job("ours", name).train(0, 5), Job("ours", name)
    for part, state in zip(second.parts(), copy.deepcopy([p.state_dict() for p in first.parts()]), strict=True):
        part.load_state_dict(state)
    second.train(5, STEPS)
    assert second.rates == whole.rates[5:]
    for name, weight in weights(whole.model).items():
        assert weight.equal(weights(second.model)[name]), name
