"""Gradual unfreezing: who trains when, groups and state as they were, a resume in the middle."""

import copy

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.optim import AdamW
from lrdiff_core.rates import LayerDecay, Rule, param_groups
from lrdiff_core.schedules import Schedule
from lrdiff_core.unfreezing import GradualUnfreezing, head_down


def setup(kind=AdamW, rules=()):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    plan = param_groups(model, lr=0.1, scale=[LayerDecay(0.5)], rules=rules).apply_freeze()
    return model, plan, kind(plan.groups())


def train(model, optimizer, *followers, steps=1):
    """Step; say which layers moved at each step."""
    moved = []
    for _ in range(steps):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        for each in followers:
            each.step()
        named = zip(model.named_parameters(), before, strict=True)
        moved.append("".join(sorted({name[0] for (name, p), old in named if not torch.equal(p, old)})))
    return moved


@pytest.mark.parametrize("kind", [AdamW, torch.optim.AdamW], ids=["ours", "torch's"])
def test_layers_join_from_the_head_down(kind):
    model, plan, optimizer = setup(kind)
    layout = [list(map(id, group["params"])) for group in optimizer.param_groups]
    unfreezing = GradualUnfreezing(plan, optimizer, every=2, stages=head_down(model))
    schedule = Schedule(optimizer, total_steps=7)
    assert train(model, optimizer, unfreezing, schedule, steps=6) == ["4", "4", "24", "24", "024", "024"]
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == layout
    assert [int(optimizer.state[model[i].weight]["step"]) for i in (0, 2, 4)] == [2, 4, 6]
    assert unfreezing.stage == 2
    assert plan.frozen == ()


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_resume_goes_on_bit_for_bit(at):
    def start():
        model, plan, optimizer = setup()
        return model, optimizer, GradualUnfreezing(plan, optimizer, every=2, stages=head_down(model))

    model, optimizer, unfreezing = start()
    train(model, optimizer, unfreezing, steps=at)
    saved = copy.deepcopy([part.state_dict() for part in (model, optimizer, unfreezing)])
    rest = train(model, optimizer, unfreezing, steps=6 - at)
    again = start()
    for part, state in zip(again, saved, strict=True):
        part.load_state_dict(state)
    assert train(*again, steps=6 - at) == rest
    assert all(map(torch.equal, again[0].parameters(), model.parameters()))


def test_what_the_plan_freezes_stays_and_what_no_stage_names_trains():
    _, plan, optimizer = setup(rules=[Rule("0.bias", freeze=True)])
    unfreezing = GradualUnfreezing(plan, optimizer, every=1, stages=[["4.bias"], "0", ["0.weight", "4"]])
    assert unfreezing.stages == (("4.bias",), ("0.weight",), ("4.weight",))
    assert plan.frozen == ("0.weight", "0.bias", "4.weight")
    assert [unfreezing.step() for _ in range(3)] == [["0.weight"], ["4.weight"], []]
    assert plan.frozen == ("0.bias",)


def test_it_can_be_made_again_and_go_back():
    """As a notebook cell that is run twice, and a resume from an earlier checkpoint in the same process."""
    model, plan, optimizer = setup()
    first = GradualUnfreezing(plan, optimizer, every=1, stages=head_down(model))
    first.step(1)
    second = GradualUnfreezing(plan, optimizer, every=1, stages=head_down(model))
    assert second.stages == first.stages
    assert plan.frozen == ("0.weight", "0.bias", "2.weight", "2.bias")
    second.step(5)
    second.step(1)
    assert plan.frozen == ("0.weight", "0.bias")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"every": 0}, "every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"stages": []}, r"stages are \[\]"),
        ({"stages": "4"}, "stages are '4'"),
        ({"stages": ["head"]}, '"head" matches no parameter'),
    ],
)
def test_refusals(given, words):
    _, plan, optimizer = setup()
    with pytest.raises(RateError, match=words):
        GradualUnfreezing(plan, optimizer, **{"every": 1, "stages": ["4"], **given})
    _, plan, optimizer = setup()
    with pytest.raises(RateError, match="not written by a GradualUnfreezing"):
        GradualUnfreezing(plan, optimizer, every=1, stages=["4"]).load_state_dict({"step": 1})
