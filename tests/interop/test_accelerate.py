"""Accelerate's own loop: prepare, gradient accumulation, clipping, save and load."""

import pytest
import torch
from interop_setup import (
    OPTIMIZERS,
    STEPS,
    assert_close,
    is_rate,
    make_model,
    make_plan,
    make_schedule,
    moved,
    planned,
    rows,
    weights,
)

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e .[interop]")

from accelerate import Accelerator

pytestmark = pytest.mark.interop

ACCUMULATED = 2


class Job:
    """A training loop as Accelerate's documentation writes it; every step accumulates two batches."""

    def __init__(self, optimizer="ours", schedule="Schedule"):
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
        self.model = make_model()
        self.plan = make_plan(self.model)
        made = OPTIMIZERS[optimizer](self.plan.groups())
        data = torch.utils.data.TensorDataset(*rows(4 * ACCUMULATED * STEPS))
        self.prepared = self.accelerator.prepare(
            self.model,
            made,
            torch.utils.data.DataLoader(data, batch_size=4),
            make_schedule(schedule, self.plan, made),
        )
        self.optimizer = made
        self.rates = []

    def train(self, first, last):
        model, optimizer, loader, schedule = self.prepared
        for number, (x, y) in enumerate(loader):
            if not first * ACCUMULATED <= number < last * ACCUMULATED:
                continue
            with self.accelerator.accumulate(model):
                loss = (model(x) - y).square().mean()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.rates.append([group["lr"] for group in self.optimizer.param_groups])
                    self.accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return self


@pytest.mark.parametrize("schedule", ["Schedule", "LambdaLR"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rates_applied_are_the_plans(optimizer, schedule):
    before = weights(make_model())
    job = Job(optimizer, schedule).train(0, STEPS)
    assert len(job.rates) == STEPS
    for step, rates in enumerate(job.rates):
        assert all(map(is_rate, rates, planned(job.plan, step))), step
    assert moved(before, weights(job.model)) == set(before) - {"0.bias"}


def test_the_same_weights_as_with_torchs_optimizer():
    ours, theirs = Job().train(0, STEPS), Job("torch", "LambdaLR").train(0, STEPS)
    assert_close(weights(ours.model), weights(theirs.model))


@pytest.mark.parametrize("then", OPTIMIZERS)
def test_a_run_goes_on_from_a_saved_state(tmp_path, then):
    whole = Job().train(0, STEPS)
    Job().train(0, 5).accelerator.save_state(str(tmp_path))
    second = Job(then)
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.zero_()
    second.accelerator.load_state(str(tmp_path))
    second.train(5, STEPS)
    assert second.rates == whole.rates[5:]
    if then == "ours":
        assert not moved(weights(whole.model), weights(second.model))
    else:
        assert_close(weights(second.model), weights(whole.model))
