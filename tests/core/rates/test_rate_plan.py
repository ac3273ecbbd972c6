"""The plan: groups, freezing, text, storing, comparing."""

import copy
import io
import json
import re

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import LayerDecay, RatePlan, Rule, layer_rates, param_groups
from lrdiff_core.schedules import Shape


def net():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"body": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4)), "head": nn.Linear(4, 2)}
    )


def train(model, optimizer, steps=3):
    x = torch.linspace(-1, 1, 15).reshape(5, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = model["body"](x)
        model["head"](torch.relu(hidden)).square().mean().backward()
        optimizer.step()


def layout(optimizer):
    """Groups and state order, by identity."""
    return [[id(p) for p in g["params"]] for g in optimizer.param_groups], [id(p) for p in optimizer.state]


# -- groups ------------------------------------------------------------------------------------------------------------


def test_equal_settings_are_merged_in_model_order():
    plan = param_groups(net(), lr=0.1, weight_decay=0.01, rules=[Rule("head", lr=0.2)], no_weight_decay=["1d"])
    assert [(g["param_names"], g["lr"], g["weight_decay"]) for g in plan.groups()] == [
        (["body.0.weight", "body.2.weight"], 0.1, 0.01),
        (["body.0.bias", "body.1.weight", "body.1.bias", "body.2.bias"], 0.1, 0.0),
        (["head.weight"], 0.2, 0.01),
        (["head.bias"], 0.2, 0.0),
    ]
    assert repr(plan) == "RatePlan(8 parameters, 4 groups)"


def test_groups_hold_the_models_own_parameters_and_are_new_each_time():
    model = net()
    plan = param_groups(model)
    first, second = plan.groups(), plan.groups()
    assert first[0]["params"][0] is model["body"][0].weight
    assert first[0] is not second[0]
    assert first[0]["params"] is not second[0]["params"]
    first[0]["lr"] = 9
    assert plan.groups()[0]["lr"] == 1e-3


def test_options_and_schedules_make_groups_of_their_own():
    rules = [Rule("head.bias", schedule="linear"), Rule("head", options={"betas": [0.8, 0.9]})]
    groups = param_groups(net(), rules=rules).groups(torch.optim.AdamW)
    usual = {"params", "param_names", "name", "lr", "weight_decay"}
    assert [set(g) - usual for g in groups] == [set(), {"betas"}, {"betas"}]
    optimizer = torch.optim.AdamW(groups)
    assert [g["betas"] for g in optimizer.param_groups] == [(0.9, 0.999), (0.8, 0.9), (0.8, 0.9)]


def test_true_and_one_are_different_options():
    rules = [Rule("body", options={"amsgrad": True}), Rule("head", options={"amsgrad": 1})]
    assert len(param_groups(net(), rules=rules).groups()) == 2


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_training_by_groups_is_training_each_parameter_at_its_rate(kind):
    plan = param_groups(grouped := net(), lr=0.05, weight_decay=0.1, scale=[LayerDecay(0.5)], no_weight_decay=["1d"])
    train(grouped, kind(plan.groups(kind)))
    single = net()
    entries = {entry.name: entry for entry in plan}
    train(
        single,
        kind(
            [
                {"params": [p], "lr": entries[n].lr, "weight_decay": entries[n].weight_decay}
                for n, p in single.named_parameters()
            ]
        ),
    )
    for one, other in zip(grouped.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_each_group_has_its_own_tensor_rate():
    plan = param_groups(net(), lr=0.1, rules=[Rule("head", options={"eps": 1e-9})])
    groups = plan.groups(tensor_lr=True)
    rates = [group["lr"] for group in groups]
    assert [rate.dtype for rate in rates] == [torch.float32] * 2
    assert rates[0].data_ptr() != rates[1].data_ptr()
    rates[0].fill_(5)
    assert rates[1].item() == pytest.approx(0.1)
    assert plan.groups(tensor_lr=torch.float64)[0]["lr"].item() == 0.1
    train(net(), torch.optim.AdamW(groups, capturable=False, foreach=False), steps=0)


def test_a_tensor_rate_lies_where_its_parameters_lie():
    meta = net().to("meta")
    assert {group["lr"].device.type for group in param_groups(meta).groups(tensor_lr=True)} == {"meta"}
    meta["body"].to_empty(device="cpu")
    assert [group["lr"].device.type for group in param_groups(meta).groups(tensor_lr=True)] == ["cpu"]


def test_an_optimizer_class_is_asked():
    plan = param_groups(net(), rules=[Rule("head", options={"momentum": 0.9})])
    with pytest.raises(RateError) as caught:
        plan.groups(torch.optim.AdamW)
    assert caught.value.message == 'AdamW has no option "momentum", set for head.weight, head.bias'
    assert plan.groups(torch.optim.SGD)[1]["momentum"] == 0.9
    plan = param_groups(net(), rules=[Rule("head", options={"betas": (0.9, 2.0)})])
    with pytest.raises(RateError, match=r"AdamW refuses the settings of head\.weight, head\.bias: .*beta"):
        plan.groups(torch.optim.AdamW)


def test_an_optimizer_is_given_as_a_class():
    with pytest.raises(RateError, match="the optimizer is 'adamw'\nhelp: pass the class, such as torch.optim.AdamW"):
        param_groups(net()).groups("adamw")


def test_an_optimizer_without_weight_decay_gets_none():
    assert "weight_decay" not in param_groups(net()).groups(torch.optim.Rprop)[0]
    with pytest.raises(RateError, match='Rprop has no option "weight_decay", set for body'):
        param_groups(net(), weight_decay=0.1).groups(torch.optim.Rprop)


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_a_freezing_plan_hands_out_no_groups_before_it_froze():
    model = net()
    plan = param_groups(model, rules=[Rule("body", freeze=True)])
    with pytest.raises(RateError) as caught:
        plan.groups()
    assert str(caught.value) == (
        "the plan freezes parameters that the model does not yet: body.0.weight, body.0.bias, body.1.weight, "
        "body.1.bias, body.2.weight, body.2.bias\nhelp: call plan.apply_freeze() first: it sets requires_grad"
    )
    assert len(plan.apply_freeze().groups()) == 1
    assert [p.requires_grad for p in model.parameters()] == [False] * 6 + [True] * 2
    model = net().requires_grad_(False)
    with pytest.raises(RateError, match=r"the plan trains parameters that the model does not yet: head\.weight"):
        param_groups(model, rules=[Rule("head", freeze=False)]).groups()


def test_groups_are_the_same_whatever_is_frozen():
    rules = [Rule("body.0", lr=0.5, freeze=True), Rule("body", lr=0.5), Rule("head", lr=0.1)]
    frozen = param_groups(net(), rules=rules).apply_freeze().groups()
    free = param_groups(net(), rules=[Rule("body", lr=0.5), Rule("head", lr=0.1)]).groups()
    assert [g["param_names"] for g in frozen] == [g["param_names"] for g in free]


def test_unfreezing_changes_neither_groups_nor_state_order():
    model = net()
    plan = param_groups(model, rules=[Rule("body", freeze=True)]).apply_freeze()
    optimizer = torch.optim.AdamW(plan.groups())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    train(model, optimizer)
    scheduler.step()
    groups, state = layout(optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    assert plan.unfreeze(optimizer, "body.2") == ["body.2.weight", "body.2.bias"]
    assert plan.frozen == ("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias")
    assert layout(optimizer) == (groups, state)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    train(model, optimizer)
    scheduler.step()  # a group added at unfreeze would break torch's schedulers here
    assert layout(optimizer)[0] == groups
    assert len(optimizer.state) == 4
    assert plan.unfreeze(optimizer, "body.2") == []  # already free
    assert plan.freeze(optimizer, nn.LayerNorm) == []
    assert plan.freeze(optimizer, "head.bias") == ["head.bias"]


def test_freezing_stops_the_update_at_once():
    model = net()
    plan = param_groups(model, weight_decay=0.1)
    optimizer = torch.optim.SGD(plan.groups(), momentum=0.9)
    train(model, optimizer)
    held = model["head"].weight.detach().clone()  # its gradient of the last step is still there
    plan.freeze(optimizer, "head.weight")
    assert model["head"].weight.grad is None
    optimizer.step()
    assert torch.equal(model["head"].weight, held)


def test_a_resume_freezes_nothing_anew():
    def start():
        model = net()
        plan = param_groups(model, rules=[Rule("body", freeze=True)]).apply_freeze()
        return model, plan, torch.optim.AdamW(plan.groups())

    model, plan, optimizer = start()
    plan.unfreeze(optimizer, "body")
    train(model, optimizer)
    file = io.BytesIO()
    torch.save({"plan": plan.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, plan_again, optimizer_again = start()
    again.load_state_dict(saved["model"])
    optimizer_again.load_state_dict(saved["optimizer"])
    plan_again.load_state_dict(saved["plan"])
    assert plan_again.frozen == ()
    plan_again.groups()  # still handed out, though less is frozen than planned
    train(model, optimizer)
    train(again, optimizer_again)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_unfreezing_faults():
    model = net()
    plan = param_groups(model)
    optimizer = torch.optim.SGD([model["head"].weight], lr=1)
    with pytest.raises(RateError) as caught:
        plan.unfreeze(optimizer, "haed")
    assert str(caught.value) == (
        '"haed" matches no parameter\nhelp: did you mean head? parameters of this model start with: head, body'
    )
    with pytest.raises(RateError) as caught:
        plan.unfreeze(optimizer, "head")
    assert str(caught.value) == (
        "the optimizer does not hold: head.bias\nhelp: give the optimizer plan.groups(), unfiltered"
    )
    with pytest.raises(RateError, match="this state was not written by a RatePlan"):
        plan.load_state_dict({"step": 1})
    with pytest.raises(RateError, match='the plan has no parameter "x"'):
        plan.load_state_dict({"frozen": ["x"]})


def test_integer_parameters_stay_frozen():
    model = nn.Linear(2, 2)
    model.packed = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    plan = param_groups(model)
    assert plan.frozen == ("packed",)
    optimizer = torch.optim.AdamW(plan.groups())
    with pytest.raises(RateError, match="integer parameters cannot learn: packed"):
        plan.unfreeze(optimizer, "packed")


# -- text --------------------------------------------------------------------------------------------------------------


def test_one_row_a_parameter():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    model.scale = nn.Parameter(torch.tensor(1.0))
    plan = param_groups(model, lr=0.01, weight_decay=0.1, rules=[Rule(re.compile(".*bias"), lr=2e-5, freeze=True)])
    assert str(plan) == (
        "parameter     shape   rule       rate  decay  frozen  tied with\n"
        "scale         scalar  -          0.01    0.1  -       -\n"
        "embed.weight  5x3     -          0.01    0.1  -       head.weight\n"
        "head.bias     5       /.*bias/  2e-05    0.1  yes     -\n"
        "3 parameters in 2 groups, 1 frozen"
    )


def test_long_names_are_cut_in_the_middle():
    model = nn.Sequential(nn.Linear(2, 2))
    for i in range(12):
        model = nn.ModuleDict({f"a_long_name_of_module_{i}": model})
    plan = param_groups(model, rules=[Rule("*weight", lr=1.0), Rule(lambda n, p, m: "bias" in n, lr=2.0)])
    lines = str(plan).splitlines()
    assert max(map(len, lines)) <= 100
    assert ".." in lines[1]
    assert lines[1].split()[0].endswith("weight")
    assert len(lines) == 4


def test_text_shows_what_is_frozen_now():
    plan = param_groups(net(), rules=[Rule("body", freeze=True)]).apply_freeze()
    plan.unfreeze(torch.optim.SGD(plan.groups()), "body")
    assert "yes" not in str(plan)
    assert plan["body.0.weight"].frozen  # the plan itself is as it was made


# -- storing and comparing ---------------------------------------------------------------------------------------------


def rich_plan(model):
    rules = [
        Rule("head", lr=0.1, schedule=Shape(kind="linear", floor=0.1), options={"betas": (0.8, 0.9), "amsgrad": True}),
        Rule("body.0", lr_mult=0.3, freeze=True),
    ]
    return param_groups(model, lr=1 / 3, weight_decay=0.1, rules=rules, scale=[LayerDecay(0.7)], no_weight_decay=["1d"])


def test_a_plan_goes_through_json_and_back():
    model = net()
    plan = rich_plan(model)
    again = RatePlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again == plan
    assert str(again) == str(plan)
    assert not plan.diff(again)
    with pytest.raises(RateError) as caught:
        again.groups()
    assert str(caught.value) == "the plan was read from a file and has no model\nhelp: call plan.bind(model)"
    bound = RatePlan.from_dict(plan.to_dict(), model)
    for one, other in zip(bound.apply_freeze().groups(), plan.groups(), strict=True):
        assert one.keys() == other.keys()
        assert all(a is b for a, b in zip(one.pop("params"), other.pop("params"), strict=True))
        assert one == other


@pytest.mark.parametrize("data", [{}, [], {"format": 2, "parameters": []}, None])
def test_foreign_plans_are_refused(data):
    with pytest.raises(RateError, match="this is not a rate plan in a known format"):
        RatePlan.from_dict(data)


def test_damaged_plans_are_refused():
    data = param_groups(net()).to_dict()
    del data["parameters"][1]["shape"]
    with pytest.raises(RateError, match="the stored rate plan is damaged: 'shape'"):
        RatePlan.from_dict(data)


def test_binding_to_another_model_is_refused():
    with pytest.raises(RateError) as caught:
        param_groups(net()).bind(nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 3)}))
    assert str(caught.value) == (
        "the plan was made for another model; names or shapes differ: body.0.weight, body.0.bias, body.1.weight, "
        "body.1.bias, body.2.weight, body.2.bias and 4 more\n"
        "help: make a new plan for this model with param_groups(...)"
    )


def test_diff_names_what_changed():
    old = param_groups(net(), lr=0.1)
    other = net()
    other["tail"] = nn.Linear(2, 1, bias=False)
    new = param_groups(other, lr=0.1, rules=[Rule("head.bias", lr=0.2, weight_decay=0.5), Rule("body.1", freeze=True)])
    difference = old.diff(new)
    assert difference
    assert str(difference) == (
        "+ tail.weight\n"
        "~ body.1.weight: frozen False -> True\n"
        "~ body.1.bias: frozen False -> True\n"
        "~ head.bias: lr 0.1 -> 0.2, weight_decay 0.0 -> 0.5"
    )
    assert json.loads(json.dumps(difference.to_dict()))["changed"]["head.bias"]["lr"] == {"old": 0.1, "new": 0.2}
    assert str(new.diff(old)).startswith("- tail.weight\n")
    assert str(old.diff(param_groups(net(), lr=0.1, rules=[Rule("*", lr_mult=1.0)]))) == "no difference"


def test_looking_up_entries():
    plan = param_groups(net())
    assert len(plan) == len(list(plan)) == 8
    with pytest.raises(RateError) as caught:
        plan["head.wait"]
    assert caught.value.message == 'the plan has no parameter "head.wait"'
    assert caught.value.help.startswith("did you mean head.weight? it has: ")
    assert plan != param_groups(net(), lr=0.5)
    assert plan != "plan"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "fast"}, "lr of \"head.bias\" is 'fast', a str"),
        ({"weight_decay": -1.0}, 'weight_decay of "head.bias" is -1.0'),
        ({"options": None}, "the stored rate plan is damaged"),
        ({"name": "head.weight"}, "it names a parameter twice"),
    ],
)
def test_damaged_rows_are_refused(change, message):
    data = param_groups(net()).to_dict()
    assert data["parameters"][-1]["name"] == "head.bias"
    data["parameters"][-1] |= change
    with pytest.raises(RateError, match=message):
        RatePlan.from_dict(data)


@pytest.mark.parametrize("state", [None, {"frozen": 3}, {"frozen": "body"}, {}])
def test_states_of_something_else_are_refused(state):
    with pytest.raises(RateError, match="not written by a RatePlan"):
        param_groups(net()).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: param_groups(net(), scale=[LayerDecay]), "scale holds <class"),
        (lambda: param_groups(net(), scale=LayerDecay), "scale is <class"),
        (lambda: param_groups(net(), no_weight_decay=None), "no_weight_decay is None"),
        (lambda: layer_rates(net(), {0: 0.1}), "the rate table has the layer 0"),
        (lambda: Rule.parse("head lr=1 lr=2"), "sets lr twice"),
    ],
)
def test_slips_are_named(make, message):
    with pytest.raises(RateError, match=message):
        make()
