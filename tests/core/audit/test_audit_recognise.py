"""Rules, rates and decays are read off torch's own steps, whatever the hyperparameters, and the errors stated hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lrdiff_core.audit.recognise import Applied, Change, expected_rule, recognise
from lrdiff_core.audit.snapshot import LOOK, Look, Looks, digits, fingerprint, look_at
from lrdiff_core.optim import Adagrad, NAdam, RAdam, RMSprop


def step_of(optimizer, parameter, steps):
    """The last of several steps on random gradients, as the watch sees it."""
    group = optimizer.param_groups[0]
    for number in range(steps):
        parameter.grad = torch.randn_like(parameter)
        before = look_at(parameter, optimizer.state.get(parameter), whole=parameter.ndim == 2)
        optimizer.step()
        after = look_at(parameter, optimizer.state.get(parameter), whole=parameter.ndim == 2)
        assert number < steps
    return Change(
        before=before, after=after, gradients=[before.gradient], digits=digits(parameter.dtype),
        options={key: value for key, value in group.items() if key != "params"}, shape=tuple(parameter.shape),
        hint=expected_rule(optimizer, group),
    )  # fmt: skip


CLASSES = {
    "SGD": (torch.optim.SGD, {}),
    "SGD momentum": (torch.optim.SGD, {"momentum": 0.8}),
    "SGD Nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"betas": (0.8, 0.99)}),
    "AdamW": (torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-6}),
    "Muon": (torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"}),
}
GRID = [(1e-1, 0.5), (1e-2, 0.1), (1e-3, 0.01), (1e-4, 0.0)]


@pytest.mark.parametrize("hinted", [True, False])
@pytest.mark.parametrize("rule", CLASSES)
def test_rate_and_decay_are_read_within_the_errors_stated(rule, hinted):
    cls, options = CLASSES[rule]
    for number, (lr, decay) in enumerate(GRID):
        torch.manual_seed(number)
        parameter = torch.nn.Parameter(torch.randn((9, 24) if rule == "Muon" else (9 * 24,)) + 0.1)
        change = step_of(cls([parameter], lr=lr, weight_decay=decay, **options), parameter, steps=4)
        if not hinted:
            change = Change(**{name: getattr(change, name) for name in Change.__slots__} | {"hint": None})
        told = recognise(change)
        assert told.rule in ({"Adam", "AdamW"} if decay == 0 and "Adam" in rule else {rule})
        assert told.at(lr)
        assert abs(told.rate - lr) <= max(2 * told.rate_error, (1e-2 if rule == "Muon" else 1e-5) * lr)
        assert told.decay is not None
        assert abs(told.decay - decay) <= max(2 * told.decay_error, 1e-4 * decay)
        assert told.decay_error * lr < 1e-5  # the errors say something


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_errors_grow_as_digits_get_fewer(dtype):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(400, dtype=torch.float64).to(dtype))
    told = recognise(step_of(torch.optim.AdamW([parameter], lr=0.01), parameter, steps=2))
    assert told.rule == "AdamW"
    assert abs(told.rate - 0.01) <= max(told.rate_error, 1e-6)
    assert told.rate_error < {torch.float64: 1e-12, torch.float32: 1e-7, torch.bfloat16: 2e-3}[dtype]


def test_options_that_are_kept_elsewhere_are_found_in_the_moments():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(300))
    change = step_of(torch.optim.AdamW([parameter], lr=0.01, betas=(0.85, 0.97)), parameter, steps=3)
    bare = Change(before=change.before, after=change.after, gradients=change.gradients)
    told = recognise(bare)
    assert told.rule == "AdamW"
    assert told.rate == pytest.approx(0.01, rel=1e-4)


ADAMS = [{}, {"decoupled_weight_decay": True}]
PROMISED = [
    *((kind, options) for kind in (torch.optim.NAdam, torch.optim.RAdam, NAdam, RAdam) for options in ADAMS),
    *((kind, options) for kind in (torch.optim.Adagrad, Adagrad) for options in ({}, {"lr_decay": 0.1})),
    *(
        (kind, options)
        for kind in (torch.optim.RMSprop, RMSprop)
        for options in ({}, {"momentum": 0.8}, {"centered": True})
    ),
]


@pytest.mark.parametrize("steps", [1, 4, 9])  # RAdam's rectification begins at the sixth
@pytest.mark.parametrize(("cls", "options"), PROMISED)
def test_rates_of_rules_that_the_class_promises_are_read(cls, options, steps):
    for number, (lr, decay) in enumerate(GRID):
        torch.manual_seed(number)
        parameter = torch.nn.Parameter(torch.randn(9 * 24) + 0.1)
        told = recognise(step_of(cls([parameter], lr=lr, weight_decay=decay, **options), parameter, steps=steps))
        assert told.rule == cls.__name__
        assert abs(told.rate - lr) <= max(2 * told.rate_error, 1e-5 * lr)
        assert told.decay is not None or (decay and cls.__name__ in ("Adagrad", "RMSprop"))
        assert told.decay is None or abs(told.decay - decay) <= max(2 * told.decay_error, 1e-4 * decay)


def test_a_rate_recorded_and_not_applied_is_read_from_a_promised_rule():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(300))
    optimizer = torch.optim.NAdam([parameter], lr=0.01)
    change = step_of(optimizer, parameter, steps=3)
    told = recognise(replace(change, options={**change.options, "lr": 0.02}))
    assert told.rule == "NAdam"
    assert told.rate == pytest.approx(0.01, rel=1e-4)


class SelfMadeNAdam(torch.optim.Optimizer):
    """Of a library that means something else by the name."""


SelfMadeNAdam.__name__ = "NAdam"


def test_a_name_alone_promises_nothing_of_these():
    optimizer = SelfMadeNAdam([torch.zeros(1)], {"lr": 0.1})
    assert expected_rule(optimizer, optimizer.param_groups[0]) is None


@pytest.mark.parametrize("cls", [torch.optim.Adadelta, torch.optim.Adamax, torch.optim.Adafactor])
def test_other_rules_are_unknown_not_guessed(cls):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(300))
    told = recognise(step_of(cls([parameter], lr=0.01), parameter, steps=5))
    assert told.rule == "unknown"
    assert told.rate is None
    assert told.size > 0


def test_a_step_that_rounding_swallows_is_told_from_one_that_was_not_made():
    ones = np.ones(8)
    still = Look(weight=ones, gradient=ones)
    told = recognise(Change(before=still, after=still, gradients=[ones], hint="SGD"))
    assert told == Applied(rule="-", rate=0.0, rate_error=2.0**-24, size=0.0)


def test_many_looks_are_those_of_each_alone():
    torch.manual_seed(0)
    tensors = [torch.randn(3), torch.randn(70, 30).t(), torch.randn(5000, dtype=torch.bfloat16), torch.tensor(2.0),
               torch.randn(6, dtype=torch.complex64), torch.randn(40, dtype=torch.float64)]  # fmt: skip
    with Looks() as looks:
        together = [looks.add(tensor) for tensor in tensors]
    for tensor, look in zip(tensors, together, strict=True):
        assert np.array_equal(look().weight, look_at(tensor).weight)
        assert 0 < look().weight.size <= max(LOOK, 2 * tensor.numel() * tensor.is_complex())


def test_what_is_looked_at_walks_through_all_columns_and_rows():
    for shape in [(64, 64), (1000, 30), (7, 4096), (512, 512)]:
        numbers = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
        seen = look_at(numbers).weight.astype(int)
        assert len(seen) <= LOOK
        assert len(set(seen % shape[1])) >= min(shape[1], LOOK) / 2
        assert len(set(seen // shape[1])) >= min(shape[0], LOOK) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
def test_a_fingerprint_changes_with_any_number(dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    before = fingerprint(tensor)
    changed = tensor.clone()
    changed[1, 2] = 1
    assert fingerprint(tensor.clone()) == before != fingerprint(changed)
