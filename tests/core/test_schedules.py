"""Schedules: the equations, torch's own where they coincide, ratios, tensor rates, resume."""

import io
import json
import math
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.optim import lr_scheduler

from lrdiff_core.errors import RateError
from lrdiff_core.schedules import Schedule, Shape, as_shape
from lrdiff_core.schedules.shape import KINDS


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

    def steps(span):
        return math.ceil(span * total) if isinstance(span, float) else span

    delay, warmup = steps(shape.delay), steps(shape.warmup)
    start = delay + warmup + steps(shape.hold) if shape.decay is None else total - steps(shape.decay)
    if t < delay:
        return 0.0
    if t < delay + warmup:
        x = (t - delay) / warmup
        ramp = {"linear": x, "cosine": 0.5 - 0.5 * math.cos(math.pi * x), "1-sqrt": 1 - (1 - x) ** 0.5}
        return shape.warmup_start + (1 - shape.warmup_start) * ramp[shape.warmup_kind]
    n = max(0, t - start)
    p = min(1.0, n / (total - start)) if total > start else float(t >= total)
    length = p * (shape.cycles or 1)
    curves = {
        "linear": 1 - p,
        "cosine": 0.5 + 0.5 * math.cos(math.pi * p),
        "polynomial": (1 - p) ** (shape.power or 1),
        "1-sqrt": 1 - p**0.5,
        "function": (1 - p) ** 3,
        "cosine_restarts": 0.0 if t >= total else 0.5 + 0.5 * math.cos(math.pi * (length - math.floor(length))),
    }
    if shape.kind in curves:
        return shape.floor + (1 - shape.floor) * curves[shape.kind]
    if shape.kind == "exponential":
        return math.exp(n * math.log(shape.gamma)) if shape.gamma else math.exp(p * math.log(shape.floor))
    if shape.kind == "inverse_sqrt":
        return (1 + n / (shape.timescale or warmup or 10_000)) ** -0.5
    if shape.kind == "step":
        passed = sum(t >= steps(m) for m in shape.milestones) if shape.milestones else n // steps(shape.period)
        return (0.1 if shape.gamma is None else shape.gamma) ** passed
    return 1.0


def cubed(p):
    return (1 - p) ** 3


OWN = {  # what each kind may be given, beside what all take
    "constant": {},
    "linear": {"floor": st.floats(0, 0.9)},
    "cosine": {"floor": st.floats(0, 0.9)},
    "polynomial": {"floor": st.floats(0, 0.9), "power": st.floats(0.5, 4)},
    "1-sqrt": {"floor": st.floats(0, 0.9)},
    "exponential": st.one_of(
        st.fixed_dictionaries({"floor": st.floats(1e-6, 0.9)}), st.fixed_dictionaries({"gamma": st.floats(0.5, 1)})
    ),
    "inverse_sqrt": {"timescale": st.none() | st.integers(1, 50)},
    "step": st.one_of(
        st.fixed_dictionaries(
            {
                "milestones": st.lists(st.integers(1, 40) | st.floats(0.01, 0.99), min_size=1).map(tuple),
                "gamma": st.none() | st.floats(0.1, 1),
            }
        ),
        st.fixed_dictionaries({"period": st.integers(1, 9) | st.floats(0.1, 0.9)}),
    ),
    "cosine_restarts": {"floor": st.floats(0, 0.9), "cycles": st.none() | st.integers(1, 5)},
    "function": {"floor": st.floats(0, 0.9), "function": st.just(cubed)},
}
ENDS = {"linear", "cosine", "polynomial", "1-sqrt", "function", "cosine_restarts"}  # at the floor
SPAN = st.integers(0, 10) | st.floats(0.01, 0.2)


@st.composite
def shapes(draw):
    kind = draw(st.sampled_from(sorted(OWN)))
    own = OWN[kind] if isinstance(OWN[kind], st.SearchStrategy) else st.fixed_dictionaries(OWN[kind])
    given = draw(own)
    if kind in ("linear", "cosine", "polynomial", "1-sqrt", "function") and draw(st.booleans()):
        given["decay"] = draw(st.integers(1, 10) | st.floats(0.01, 0.2))
    elif kind != "constant" and "milestones" not in given:
        given["hold"] = draw(SPAN)
    return Shape(
        kind=kind,
        delay=draw(SPAN),
        warmup=draw(SPAN),
        warmup_start=draw(st.floats(0, 1)),
        warmup_kind=draw(st.sampled_from(["linear", "cosine", "1-sqrt"])),
        **given,
    )


@settings(deadline=None)
@given(shapes(), st.integers(50, 90))
def test_factors_are_the_equation(shape, total):
    shape.check(total)
    for t in range(total + 3):
        factor = shape.factor(t, total)
        assert factor == pytest.approx(by_hand(shape, t, total), rel=1e-6, abs=1e-9)
        assert 0 <= factor <= 1
    if not shape.milestones:
        assert shape.factor(shape.start(total), total) == 1.0
    if shape.kind in ENDS:
        assert shape.factor(total, total) == shape.factor(total + 100, total) == pytest.approx(shape.floor)


@given(shapes())
def test_a_shape_is_stored_as_json_and_printed_as_it_is_written(shape):
    stored = Shape(**json.loads(json.dumps(shape.to_dict())))
    if shape.kind == "function":
        assert stored.function == f"{__name__}.cubed"
        with pytest.raises(RateError, match="stored by its name only"):
            stored.factor(999, 1000)
    else:
        assert stored == shape == eval(repr(shape))


def test_the_registry_of_kinds_is_tested():
    assert set(OWN) == set(KINDS)


# -- torch's own, bit for bit in their closed forms --------------------------------------------------------------------

T = 12
COINCIDE = {
    "StepLR": (Shape(kind="step", period=5, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 5, 0.3)),
    "MultiStepLR": (
        Shape(kind="step", milestones=(2, 7, 7), gamma=0.5),
        lambda o: lr_scheduler.MultiStepLR(o, [2, 7, 7], 0.5),
    ),
    "ExponentialLR": (Shape(kind="exponential", gamma=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "PolynomialLR": (
        Shape(kind="polynomial", power=2.5),
        lambda o: lr_scheduler.PolynomialLR(o, total_iters=T, power=2.5),
    ),
    "CosineAnnealingWarmRestarts": (
        Shape(kind="cosine_restarts", period=3),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    ),
    "CosineAnnealingWarmRestarts, longer each time": (
        Shape(kind="cosine_restarts", period=2, period_mult=2),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, T_mult=2),
    ),
    "LambdaLR": (Shape(kind="function", function=cubed), lambda o: lr_scheduler.LambdaLR(o, lambda t: cubed(t / T))),
    # Theirs goes from step to step and rounds each time.
    "CosineAnnealingLR": (Shape(kind="cosine"), lambda o: lr_scheduler.CosineAnnealingLR(o, T)),
    "LinearLR up": (
        Shape(kind="constant", warmup=5, warmup_start=1 / 3),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 3, total_iters=5),
    ),
    "LinearLR down": (
        Shape(kind="linear", floor=0.25),
        lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=T),
    ),
    "OneCycleLR": (
        Shape.one_cycle(warmup=3 - 1),
        lambda o: lr_scheduler.OneCycleLR(
            o, [g["lr"] for g in o.param_groups], total_steps=T, pct_start=3 / T, cycle_momentum=False
        ),
    ),
}
ROUNDED = ("CosineAnnealingLR", "LinearLR up", "LinearLR down", "OneCycleLR")


@pytest.mark.parametrize("name", COINCIDE)
def test_the_same_rates_as_torch(name):
    shape, theirs = COINCIDE[name]
    total = T - 1 if name == "OneCycleLR" else T
    one, other = optimizer(0.5, 0.002), optimizer(0.5, 0.002)
    ours = follow(one, Schedule(one, total_steps=total, shape=shape), T - 1)
    if name in ROUNDED:
        expected = follow(other, theirs(other), T - 1)
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(expected), rtol=1e-6, atol=1e-12)
    else:
        scheduler = theirs(other)
        closed = getattr(scheduler, "_get_closed_form_lr", scheduler.get_lr)
        for t, rates in enumerate(ours):
            if name.startswith("CosineAnnealingWarm"):
                scheduler.step(t)
            scheduler.last_epoch = t
            with warnings.catch_warnings(action="ignore"):  # "please use get_last_lr()"
                assert rates == closed(), t


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


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "cosin"}, ['schedule "cosin" is unknown', "write one of: cosine,"]),
        ({"kind": 3}, ['schedule "3" is unknown']),
        ({"warmup_kind": "exp"}, ['warm-up "exp" is unknown', "linear, cosine, 1-sqrt"]),
        *(({"floor": bad}, [f"schedule floor is {bad!r}", "in [0, 1)"]) for bad in (1.0, -0.1, math.nan, "0.1", True)),
        *(
            ({name: bad}, [f"schedule {name} is {bad!r}", "a whole number of steps, or a fraction"])
            for name in ("delay", "warmup", "hold", "decay")
            for bad in (-1, 1.5, 1.0, math.nan, True, "5")
        ),
        ({"kind": "step", "period": 0}, ["schedule period is 0"]),
        ({"warmup_start": 2}, ["schedule warmup_start is 2", "in [0, 1]"]),
        ({"kind": "polynomial", "power": 0}, ["schedule power is 0", "above 0"]),
        ({"kind": "step", "gamma": 1.5, "period": 1}, ["schedule gamma is 1.5", "in (0, 1]"]),
        ({"kind": "step", "milestones": (0,)}, ["schedule milestones are (0,)", "tuple of steps"]),
        ({"kind": "step", "milestones": 3}, ["schedule milestones are 3"]),
        ({"kind": "cosine_restarts", "cycles": 0}, ["schedule cycles is 0", "1 or more"]),
        ({"kind": "inverse_sqrt", "timescale": 0.5}, ["schedule timescale is 0.5"]),
        ({"kind": "function", "function": 3}, ["schedule function is 3", "p, which goes from 0 to 1"]),
        ({"kind": "exponential"}, ['"exponential" is not complete', "floor=0.01", "gamma"]),
        ({"kind": "step"}, ['"step" is not complete', "milestones", "period"]),
        ({"kind": "function"}, ['"function" is not complete', "function="]),
        ({"kind": "exponential", "floor": 0.1, "gamma": 0.9}, ["both floor and gamma"]),
        ({"kind": "step", "milestones": (3,), "period": 2}, ["both milestones and period"]),
        ({"kind": "cosine_restarts", "cycles": 2, "period": 2}, ["both cycles and period"]),
        ({"hold": 2, "decay": 2}, ["both hold and decay"]),
        ({"kind": "constant", "floor": 0.1}, ["a constant schedule has no floor", "linear"]),
        ({"kind": "constant", "hold": 2}, ["a constant schedule has no hold"]),
        ({"kind": "step", "milestones": (3,), "hold": 2}, ["a step schedule has no hold"]),
        ({"kind": "inverse_sqrt", "floor": 0.1}, ["an inverse_sqrt schedule has no floor"]),
        ({"power": 2}, ["a cosine schedule has no power", "polynomial"]),
        ({"gamma": 0.5}, ["a cosine schedule has no gamma", "exponential, step"]),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be(given, words):
    with pytest.raises(RateError) as caught:
        Shape(**given)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Shape.one_cycle(2, div_factor=1), ["one_cycle divides by 1 and 10000.0", "div_factor above 1"]),
        (lambda: as_shape(3), ["schedule is 3", "Shape(...), a function, or one of: constant,"]),
        (lambda: Schedule(optimizer(1.0), total_steps=0), ["total_steps is 0", "1 or more"]),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5, shape=Shape(delay=1, warmup=2, hold=2)),
            ["delay, warm-up and hold take 5 steps of 5", "at most 4"],
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5, shape=Shape(warmup=0.5, decay=0.6)),
            ["delay, warm-up and decay take 6 steps of 5", "at most 5"],
        ),
        (
            lambda: Schedule(optimizer(1.0, 2.0), total_steps=5, shape=["linear"]),
            ["the optimizer has 2 groups, the schedule got 1 shapes", "one shape for all groups"],
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5).load_state_dict({"last_epoch": 1}),
            ["this state was not written by a Schedule", "base_lrs"],
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5).load_state_dict(
                Schedule(optimizer(1.0, 2.0), total_steps=5).state_dict()
            ),
            ["the schedule's state counts 2 groups, the optimizer has 1", 'schedule.step(state["last_epoch"])'],
        ),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5).load_state_dict(
                Schedule(optimizer(1.0), total_steps=5, shape=cubed).state_dict()
            ),
            [f'the state names the function "{__name__}.cubed"', "the same function"],
        ),
        (lambda: Schedule(optimizer(1.0), total_steps=5, last_epoch=2), ["group 0", "no initial_lr", "last_epoch out"]),
        (
            lambda: Schedule(optimizer(1.0), total_steps=5, shape=lambda p: 1 - 3 * p).step(2),
            ["the function of a schedule gives", "at p = 0.4", "0 or more"],
        ),
        (lambda: Schedule(optimizer(1.0), total_steps=5, shape=lambda p: None), ["gives None at p = 0"]),
    ],
)
def test_faults(make, words):
    with pytest.raises(RateError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
