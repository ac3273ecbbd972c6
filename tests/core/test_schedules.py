"""Schedules: the equations, torch's own where they coincide, ratios, tensor rates, resume."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from lrdiff_core.errors import RateError
from lrdiff_core.schedules import Schedule, Shape, as_shape


def optimizer(*rates, tensor=False, kind=torch.optim.SGD):
    return kind(
        [
            {"params": [torch.nn.Parameter(torch.ones(2))], "lr": torch.tensor(r, dtype=torch.float64) if tensor else r}
            for r in rates
        ]
    )


def follow(opt, scheduler, steps):
    """The rates of every group at each step, the first before any."""
    seen = [[float(group["lr"]) for group in opt.param_groups]]
    for _ in range(steps):
        opt.step()
        scheduler.step()
        seen.append([float(group["lr"]) for group in opt.param_groups])
    return seen


# -- the equations -----------------------------------------------------------------------------------------------------


def by_hand(shape, t, total):
    """The docstring's equation, written down once more."""
    start = shape.delay + shape.warmup + shape.hold
    if t < shape.delay:
        return 0.0
    if t < shape.delay + shape.warmup:
        x = (t - shape.delay) / shape.warmup
        ramp = x if shape.warmup_kind == "linear" else 0.5 - 0.5 * math.cos(math.pi * x)
        return shape.warmup_start + (1 - shape.warmup_start) * ramp
    p = 0.0 if t < start else min(1.0, (t - start) / (total - start)) if total > start else 0.0
    return {
        "constant": 1.0,
        "linear": shape.floor + (1 - shape.floor) * (1 - p),
        "cosine": shape.floor + (1 - shape.floor) * (0.5 + 0.5 * math.cos(math.pi * p)),
        "exponential": math.exp(p * math.log(shape.floor)) if shape.floor else math.nan,
    }[shape.kind]


@st.composite
def shapes(draw):
    kind = draw(st.sampled_from(["constant", "linear", "cosine", "exponential"]))
    floor = {"constant": st.just(0.0), "exponential": st.floats(1e-6, 0.9)}.get(kind, st.floats(0, 0.9))
    small = st.integers(0, 10)
    return Shape(
        kind=kind,
        floor=draw(floor),
        delay=draw(small),
        warmup=draw(small),
        hold=0 if kind == "constant" else draw(small),
        warmup_start=draw(st.floats(0, 1)),
        warmup_kind=draw(st.sampled_from(["linear", "cosine"])),
    )


@settings(deadline=None)
@given(shapes(), st.integers(1, 40))
def test_factors_are_the_equation(shape, more):
    total = shape.start + more
    shape.check(total)
    for t in range(total + 3):
        factor = shape.factor(t, total)
        assert factor == pytest.approx(by_hand(shape, t, total), rel=1e-9, abs=1e-12)
        assert 0 <= factor <= 1
    assert shape.factor(shape.start, total) == 1.0
    if shape.kind != "constant":
        assert shape.factor(total, total) == pytest.approx(shape.floor)
        assert shape.factor(total + 100, total) == pytest.approx(shape.floor)
    assert Shape(**shape.to_dict()) == shape


# -- torch's own -------------------------------------------------------------------------------------------------------

T = 12
COINCIDE = {
    "CosineAnnealingLR": (Shape(kind="cosine"), T, lambda o: lr_scheduler.CosineAnnealingLR(o, T)),
    "LinearLR up": (
        Shape(kind="constant", warmup=5, warmup_start=1 / 3),
        T,
        lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 3, total_iters=5),
    ),
    "LinearLR down": (
        Shape(kind="linear", floor=0.25),
        T,
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=T),
    ),
    "ExponentialLR": (Shape(kind="exponential", floor=0.9**T), T, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "PolynomialLR": (Shape(kind="linear"), T, lambda o: lr_scheduler.PolynomialLR(o, total_iters=T, power=1.0)),
    "OneCycleLR": (
        Shape.one_cycle(warmup=3 - 1),
        T - 1,
        lambda o: lr_scheduler.OneCycleLR(
            o, [g["lr"] for g in o.param_groups], total_steps=T, pct_start=3 / T, cycle_momentum=False
        ),
    ),
}


@pytest.mark.parametrize("name", COINCIDE)
def test_the_same_rates_as_torch(name):
    shape, total, theirs = COINCIDE[name]
    one, other = optimizer(0.5, 0.002), optimizer(0.5, 0.002)
    ours = follow(one, Schedule(one, total_steps=total, shape=shape), T - 1)
    expected = follow(other, theirs(other), T - 1)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected), rtol=1e-6, atol=1e-12)


def test_warmup_and_linear_decay_are_hugging_faces():
    opt = optimizer(1.0)
    seen = follow(opt, Schedule(opt, total_steps=10, shape=Shape(kind="linear", warmup=4)), 10)
    expected = [t / 4 if t < 4 else (10 - t) / 6 for t in range(11)]  # get_linear_schedule_with_warmup
    assert [rates[0] for rates in seen] == pytest.approx(expected)


# -- ratios, tensors, groups -------------------------------------------------------------------------------------------


def test_the_floor_keeps_ratios_where_eta_min_does_not():
    ours, theirs = optimizer(0.1, 0.001), optimizer(0.1, 0.001)
    last = follow(ours, Schedule(ours, total_steps=10, shape=Shape(floor=0.01)), 10)[-1]
    pulled = follow(theirs, lr_scheduler.CosineAnnealingLR(theirs, 10, eta_min=0.001), 10)[-1]
    assert last == pytest.approx([0.001, 0.00001])
    assert pulled == pytest.approx([0.001, 0.001])  # a hundredfold ratio, gone


def test_tensor_rates_are_filled_in_place():
    opt = optimizer(0.1, 0.001, tensor=True, kind=torch.optim.AdamW)
    rates = [group["lr"] for group in opt.param_groups]
    schedule = Schedule(opt, total_steps=4, shape="linear")
    for expected in (1.0, 0.75, 0.5, 0.25, 0.0):
        assert all(group["lr"] is rate for group, rate in zip(opt.param_groups, rates, strict=True))
        assert [rate.item() for rate in rates] == pytest.approx([0.1 * expected, 0.001 * expected])
        opt.step()
        schedule.step()


def test_a_shared_tensor_is_refused_where_groups_move_apart():
    shared = torch.tensor(0.1)
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)]
    opt = torch.optim.AdamW(groups, lr=shared)
    Schedule(opt, total_steps=4)
    with pytest.raises(RateError) as caught:
        Schedule(opt, total_steps=4, shape=["linear", "cosine"])
    assert str(caught.value) == (
        "groups 0 and 1 share one tensor as their rate, but are to move apart\n"
        "help: give each group its own tensor: plan.groups(tensor_lr=True) does"
    )


def test_each_group_by_a_shape_of_its_own():
    opt = optimizer(1.0, 1.0)
    schedule = Schedule(opt, total_steps=4, shape=["constant", Shape(kind="linear", delay=2)])
    assert follow(opt, schedule, 4) == [[1, 0], [1, 0], [1, 1], [1, 0.5], [1, 0]]


def test_groups_added_at_unfreeze_join_in():
    opt = optimizer(1.0)
    schedule = Schedule(opt, total_steps=4, shape="linear")
    opt.step()
    schedule.step()
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1})
    assert follow(opt, schedule, 2) == [[0.75, 0.1], [0.5, pytest.approx(0.05)], [0.25, pytest.approx(0.025)]]
    assert schedule.base_lrs == [1.0, 0.1]
    late = Schedule(optimizer(1.0), total_steps=4, shape="linear", later="constant")
    late.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1})
    assert follow(late.optimizer, late, 4)[-1] == [0.0, 0.1]


@pytest.mark.parametrize("schedule_first", [True, False])
@pytest.mark.parametrize("tensor", [True, False])
def test_a_resume_goes_on_exactly(schedule_first, tensor):
    def start():
        opt = optimizer(0.3, 0.007, tensor=tensor, kind=torch.optim.AdamW)
        return opt, Schedule(opt, total_steps=9, shape=[Shape(warmup=2, floor=0.1), Shape(kind="linear")])

    opt, schedule = start()
    follow(opt, schedule, 4)
    file = io.BytesIO()
    torch.save([opt.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    rest = follow(opt, schedule, 5)
    again, other = start()
    for part, state in [(again, saved[0]), (other, saved[1])][:: 1 if schedule_first else -1]:
        part.load_state_dict(state)
    assert follow(again, other, 5) == rest
    assert other.last_epoch == 9


def test_a_resume_does_not_care_for_other_arguments():
    opt = optimizer(0.3)
    schedule = Schedule(opt, total_steps=9)
    follow(opt, schedule, 3)
    other = Schedule(optimizer(0.9), total_steps=2, shape="constant")
    other.load_state_dict(schedule.state_dict())
    assert other.get_last_lr() == schedule.get_last_lr()
    assert (other.total_steps, other.shapes) == (9, [Shape()])


def test_step_can_go_to_a_step():
    opt = optimizer(1.0)
    schedule = Schedule(opt, total_steps=4, shape="linear")
    schedule.step(3)
    assert opt.param_groups[0]["lr"] == 0.25


# -- faults ------------------------------------------------------------------------------------------------------------

FRACTION = "help: write a fraction of each rate in [0, 1), such as 0.1"
STEPS = "help: write a whole number of steps, 0 or more"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Shape(kind="cosin"),
            'schedule "cosin" is unknown\nhelp: write one of: constant, linear, cosine, exponential',
        ),
        (lambda: Shape(floor=1.0), f"schedule floor is 1.0\n{FRACTION}"),
        (lambda: Shape(floor=-0.1), f"schedule floor is -0.1\n{FRACTION}"),
        (lambda: Shape(floor=math.nan), f"schedule floor is nan\n{FRACTION}"),
        (lambda: Shape(delay=-1), f"schedule delay is -1\n{STEPS}"),
        (lambda: Shape(warmup=0.5), f"schedule warmup is 0.5\n{STEPS}"),
        (lambda: Shape(hold=True), f"schedule hold is True\n{STEPS}"),
        (
            lambda: Shape(warmup_start=2),
            "schedule warmup_start is 2\nhelp: write a fraction of each rate in [0, 1]",
        ),
        (lambda: Shape(warmup_kind="exp"), 'warm-up "exp" is unknown\nhelp: write one of: linear, cosine'),
        (
            lambda: Shape(kind="exponential"),
            "an exponential schedule has no floor\nhelp: give the last fraction, in (0, 1), such as floor=0.01",
        ),
        (
            lambda: Shape(kind="constant", floor=0.1),
            'a constant schedule has no floor and no hold\nhelp: leave them out, or write kind="linear"',
        ),
        (
            lambda: Shape.one_cycle(2, div_factor=1),
            "one_cycle divides by 1 and 10000.0\nhelp: write div_factor above 1 and final_div_factor of at least 1",
        ),
        (lambda: as_shape(3), "schedule is 3\nhelp: write Shape(...) or one of: constant, linear, cosine, exponential"),
        (
            lambda: Schedule(optimizer(1.0), total_steps=0),
            "total_steps is 0\nhelp: write the number of optimizer steps, 1 or more",
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5, shape=Shape(delay=1, warmup=2, hold=2)),
            "delay, warm-up and hold take 5 steps of 5\nhelp: let them add up to at most 4, or train longer",
        ),
        (
            lambda: Schedule(optimizer(1.0, 2.0), total_steps=5, shape=["linear"]),
            "the optimizer has 2 groups, the schedule got 1 shapes\n"
            "help: give one shape for all groups, or a list with one for each",
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5).load_state_dict({"last_epoch": 1}),
            "this state was not written by a Schedule\n"
            "help: it should hold: base_lrs, last_epoch, later, shapes, step_count, total_steps",
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5).load_state_dict(
                Schedule(optimizer(1.0, 2.0), total_steps=5).state_dict()
            ),
            "the schedule's state counts 2 groups, the optimizer has 1\n"
            "help: build the optimizer with the plan the run was started with",
        ),
    ],
)
def test_faults(make, text):
    with pytest.raises(RateError) as caught:
        make()
    assert str(caught.value) == text
