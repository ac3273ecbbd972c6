"""The range test: the sweep, what it suggests, and that it leaves no trace."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.lr_find import RateCurve, lr_find, lr_find_each
from lrdiff_core.rates import Rule, param_groups


class Net(nn.Module):
    """Everything that a sweep could leave traces in: batch statistics, dropout, two layers."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.layer2 = nn.Linear(8, 1)

    def forward(self, x):
        return self.layer2(self.drop(torch.relu(self.norm(self.layer1(x)))))


def setup(kind=torch.optim.AdamW, tensor_lr=False, warm=0, **options):
    torch.manual_seed(0)
    model = Net()
    plan = param_groups(model, lr=0.01, rules=[Rule("layer2", lr=0.001)])
    optimizer = kind(plan.groups(tensor_lr=tensor_lr), **options)
    x = torch.randn(32, 6)
    target = x.sum(1, keepdim=True)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        return loss

    for _ in range(warm):
        closure()
        optimizer.step()
    return model, optimizer, closure


def snapshot(model, optimizer):
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return copy.deepcopy([model.state_dict(), optimizer.state_dict(), grads, torch.get_rng_state()])


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("find", [lr_find, lr_find_each])
@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.AdamW, {"amsgrad": True}), (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adagrad, {})],
)
def test_everything_is_put_back(find, warm, tensor_lr, kind, options):
    model, optimizer, closure = setup(kind, tensor_lr, warm, **options)
    identities = [id(group["lr"]) for group in optimizer.param_groups if tensor_lr]
    tensors = {id(v) for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)}
    before = snapshot(model, optimizer)
    find(model, optimizer, closure, low=1e-5, high=100.0, steps=30)
    assert same(before, snapshot(model, optimizer))
    assert identities == [id(group["lr"]) for group in optimizer.param_groups if tensor_lr]
    assert tensors == {id(v) for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)}


def test_training_goes_on_as_if_nothing_had_been():
    results = []
    for test_first in (False, True):
        model, optimizer, closure = setup(warm=2)
        if test_first:
            lr_find(model, optimizer, closure)
        for _ in range(3):
            closure()
            optimizer.step()
        results.append(model.state_dict())
    assert same(*results)


def test_it_is_put_back_after_a_crash_too():
    model, optimizer, closure = setup()
    before = snapshot(model, optimizer)
    calls = iter(range(5))

    def breaking():
        next(calls)
        return closure()

    with pytest.raises(StopIteration):
        lr_find(model, optimizer, breaking)
    assert same(before, snapshot(model, optimizer))


def test_all_rates_grow_together_with_their_ratios():
    model, optimizer, closure = setup()
    seen = []

    def watching():
        seen.append([group["lr"] for group in optimizer.param_groups])
        return closure()

    curve = lr_find(model, optimizer, watching, low=1e-4, high=1e-1, steps=31)
    assert [rates[0] / rates[1] for rates in seen] == pytest.approx([10.0] * 31)
    assert curve.rates == pytest.approx([1e-4 * 10 ** (i / 10) for i in range(31)])
    assert [rates[0] for rates in seen] == pytest.approx(list(curve.rates))
    assert (curve.group, curve.base_rates, curve.diverged) == (None, (0.01, 0.001), False)


def test_each_group_grows_by_itself_and_the_others_stand_still():
    model, optimizer, closure = setup(torch.optim.SGD)
    seen = []

    def watching():
        seen.append(([group["lr"] for group in optimizer.param_groups], model.layer1.weight[0, 0].item()))
        return closure()

    curves = lr_find_each(model, optimizer, watching, low=1e-4, high=1e-1, steps=20)
    assert [curve.group for curve in curves] == [0, 1]
    assert {rates[1] for rates, _ in seen[:20]} == {0.0}
    assert {rates[0] for rates, _ in seen[20:]} == {0.0}
    assert len({weight for _, weight in seen[:20]}) == 20
    assert len({weight for _, weight in seen[20:]}) == 1


def test_frozen_groups_are_left_out():
    model, optimizer, closure = setup()
    model.layer2.requires_grad_(False)
    assert [curve.group for curve in lr_find_each(model, optimizer, closure, steps=10)] == [0]
    model.requires_grad_(False)
    with pytest.raises(RateError, match="every group of the optimizer is frozen"):
        lr_find_each(model, optimizer, closure)


def test_the_running_loss_is_the_corrected_mean():
    model, optimizer, closure = setup()
    curve = lr_find(model, optimizer, closure, high=1e-2, steps=25)
    for i in range(25):
        weights = np.array([0.98 ** (i - j) for j in range(i + 1)])
        assert curve.smooth[i] == pytest.approx((weights * curve.losses[: i + 1]).sum() / weights.sum())


def test_divergence_ends_the_sweep():
    model, optimizer, closure = setup(torch.optim.SGD)
    curve = lr_find(model, optimizer, closure, low=1e-4, high=1e6, steps=100)
    assert curve.diverged
    assert len(curve.rates) < 100
    assert len(curve.rates) == len(curve.losses) == len(curve.smooth)
    assert np.isfinite(curve.smooth).all()
    assert curve.smooth[-1] > 4 * curve.smooth[:-1].min() or curve.smooth[:-1].max() <= 4 * curve.smooth.min()


def test_the_sweep_ends_at_four_times_the_best_running_loss():
    model, optimizer, _ = setup()
    losses = iter([1.0] * 10 + [1000.0] * 90)
    curve = lr_find(model, optimizer, lambda: next(losses))
    assert curve.diverged
    assert len(curve.rates) == 11
    weight = 0.02 / (1 - 0.98**11)  # of the newest loss in the corrected mean
    assert curve.smooth[-1] == pytest.approx(1 + weight * 999)


def test_the_suggestion_trains_a_quadratic():
    """On loss = a w**2 / 2, gradient descent converges below 2 / a and diverges above; suggestions lie below."""
    a = 50.0
    w = nn.Parameter(torch.ones(1))
    model = nn.ParameterList([w])
    optimizer = torch.optim.SGD([w], lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = a / 2 * w.square().sum()
        loss.backward()
        return loss

    curve = lr_find(model, optimizer, closure, low=1e-6, high=10.0, steps=200)
    assert curve.diverged
    for how in ("steepest", "minimum"):
        assert 1e-5 < curve.suggest(how) < 2 / a
    assert curve.suggested_rates() == [curve.suggest()]


def curve_of(smooth, group=None, bases=(1.0, 0.1)):
    rates = np.logspace(-3, 0, len(smooth))
    return RateCurve(rates, np.array(smooth), np.array(smooth), group, bases, False)


def test_suggestions_by_hand():
    smooth = [1.0] * 10 + [0.9, 0.5, 0.4, 0.35, 0.36, 0.5, 1.0, 2.0, 3.0, 4.0]
    curve = curve_of(smooth)
    assert curve.suggest("steepest") == curve.rates[10]
    assert curve.suggest() == curve.suggest("minimum") == pytest.approx(curve.rates[13] / 10)
    assert curve.suggested_rates("steepest") == pytest.approx([curve.rates[10], curve.rates[10] / 10])
    assert curve_of(smooth, group=1).suggested_rates() == [1.0, curve.rates[13] / 10]
    assert curve_of([9.0, 1.0, *[2.0] * 16, 1.9, 1.8]).suggest("steepest") > 0.1  # not the first tenth
    assert json.loads(json.dumps(curve.to_dict(), allow_nan=False))["smooth"] == smooth


STEPS = "help: write a whole number of at least 10"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"low": 0}, "the range test goes from 0 to 10.0\nhelp: write 0 < low < high, both finite"),
        ({"low": 2, "high": 1}, "the range test goes from 2 to 1\nhelp: write 0 < low < high, both finite"),
        ({"high": math.inf}, "the range test goes from 1e-07 to inf\nhelp: write 0 < low < high, both finite"),
        ({"high": "1"}, "the range test goes from 1e-07 to '1'\nhelp: write 0 < low < high, both finite"),
        ({"steps": 9}, f"the range test has 9 steps\n{STEPS}"),
        ({"steps": 10.0}, f"the range test has 10.0 steps\n{STEPS}"),
    ],
)
@pytest.mark.parametrize("find", [lr_find, lr_find_each])
def test_bad_ranges(find, arguments, text):
    with pytest.raises(RateError) as caught:
        find(*setup(), **arguments)
    assert str(caught.value) == text


def test_a_loss_that_is_nan_from_the_start():
    model, optimizer, _ = setup()
    with pytest.raises(RateError, match="the loss is nan before any update\nhelp: check the model, the data and the"):
        lr_find(model, optimizer, lambda: math.nan)


def test_a_loss_that_never_falls():
    model, optimizer, _ = setup()
    curve = lr_find(model, optimizer, lambda: 1.0)
    with pytest.raises(RateError, match="the loss never fell in the range test"):
        curve.suggest()
    with pytest.raises(RateError, match='suggestion "valley" is unknown\nhelp: write one of: steepest, minimum'):
        curve.suggest("valley")


def test_rates_of_zero_have_no_ratios():
    model, optimizer, closure = setup()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    with pytest.raises(RateError, match="no group of the optimizer has a rate above 0"):
        lr_find(model, optimizer, closure)


def test_groups_that_share_a_tensor_cannot_be_swept_apart():
    model = Net()
    groups = [{"params": list(model.layer1.parameters())}, {"params": list(model.layer2.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(0.1))
    with pytest.raises(RateError, match="groups 0 and 1 share one tensor as their rate"):
        lr_find_each(model, optimizer, lambda: 1.0)
