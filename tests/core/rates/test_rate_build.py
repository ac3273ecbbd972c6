"""param_groups and layer_rates: precedence, completeness, every fault with its text."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import HeadMultiplier, LayerDecay, RateWarning, Rule, layer_rates, param_groups


class Seed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Linear(10, 5)
        self.layer2 = nn.Linear(5, 1)


def rates(plan):
    return {entry.name: entry.lr for entry in plan}


# -- precedence --------------------------------------------------------------------------------------------------------


def test_of_each_setting_the_first_rule_that_has_it_wins():
    first, second = Rule("layer1.bias", lr_mult=0.5), Rule("layer1", lr=9.0, weight_decay=0.3)
    plan = param_groups(Seed(), lr=0.1, weight_decay=0.2, rules=[first, second])
    bias, weight = plan["layer1.bias"], plan["layer1.weight"]
    assert (bias.rule, bias.lr, bias.weight_decay) == ("layer1.bias + layer1", 0.05, 0.3)  # one rate, from the first
    assert (weight.rule, weight.lr, weight.weight_decay) == ("layer1", 9.0, 0.3)
    assert plan["layer2.bias"].rule is None
    assert plan.explain("layer1.bias") == (
        'layer1.bias: 0.05 = 0.1 (lr) x 0.5 (rule "layer1.bias"); weight decay 0.3 (rule "layer1")'
    )


COMPOSED = [  # rules, and what layer1.bias then has: rate, decay, frozen, schedule, options
    ([Rule("*.bias", weight_decay=0.0), Rule("layer1", lr=1e-3)], (1e-3, 0.0, False, None, ())),
    ([Rule("layer1", lr=1e-3), Rule("*.bias", weight_decay=0.0)], (1e-3, 0.0, False, None, ())),
    ([Rule("*.bias", freeze=True), Rule("layer1", lr_mult=2)], (0.2, 0.5, True, None, ())),
    ([Rule("*.bias", schedule="linear"), Rule("*", lr=7)], (7.0, 0.5, False, "linear", ())),
    ([Rule("*.bias", lr_mult=3), Rule("layer1", lr=9, weight_decay=0.1)], (0.1 * 3, 0.1, False, None, ())),
    ([Rule("*.bias", lr=3), Rule("layer1", lr_mult=9, freeze=True)], (3.0, 0.5, True, None, ())),
    (
        [Rule("*.bias", options={"eps": 1e-6}), Rule("layer1", options={"eps": 1e-3, "betas": (0.8, 0.9)})],
        (0.1, 0.5, False, None, (("betas", (0.8, 0.9)), ("eps", 1e-6))),
    ),
    (
        [Rule("*.bias", weight_decay=0.2), Rule("layer1.bias", lr=1), Rule("layer1", freeze=True)],
        (1.0, 0.2, True, None, ()),
    ),
    ([Rule(nn.Linear, weight_decay=0.3), Rule(re.compile(".*bias"), lr=4)], (4.0, 0.3, False, None, ())),
    ([Rule("layer1.bias", freeze=False), Rule("*", freeze=True, lr_mult=2)], (0.2, 0.5, False, None, ())),
]


@pytest.mark.parametrize(("rules", "expected"), COMPOSED)
def test_rules_that_set_different_things_compose(rules, expected):
    entry = param_groups(Seed(), lr=0.1, weight_decay=0.5, rules=rules)["layer1.bias"]
    shape = entry.schedule.kind if entry.schedule else None
    assert (entry.lr, entry.weight_decay, entry.frozen, shape, entry.options) == expected
    assert entry.rule == " + ".join(rule.label for rule in rules)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [Rule("layer1", lr=1), Rule("layer1.bias", lr_mult=2, weight_decay=0)],
            'rule "layer1.bias" sets lr_mult in vain: "layer1" before it already claims layer1.bias',
        ),
        (
            [Rule("*", weight_decay=0.1), Rule("layer2", lr=1, weight_decay=0)],
            'rule "layer2" sets weight_decay in vain: "*" before it already claims layer2.weight, layer2.bias',
        ),
        (
            [Rule("*", options={"eps": 1e-6}), Rule("layer2", lr=1, options={"eps": 1e-3})],
            'rule "layer2" sets option eps in vain: "*" before it already claims layer2.weight, layer2.bias',
        ),
    ],
)
def test_a_setting_that_comes_to_nothing_is_as_dead_as_a_rule(rules, message):
    assert fault(rules=rules).partition("\n")[0] == message


def test_the_rate_is_base_times_multiplier_times_each_scale():
    plan = param_groups(
        Seed(), lr=0.1, rules=[Rule("layer1", lr_mult=0.5)], scale=[LayerDecay(0.25), HeadMultiplier(10)]
    )
    assert rates(plan) == {
        "layer1.weight": 0.1 * 0.5 * 0.25,
        "layer1.bias": 0.1 * 0.5 * 0.25,
        "layer2.weight": 0.1 * 10,
        "layer2.bias": 0.1 * 10,
    }
    assert plan.explain("layer1.weight") == (
        'layer1.weight: 0.0125 = 0.1 (lr) x 0.5 (rule "layer1") x 0.25 (LayerDecay(0.25))'
    )


def test_an_explicit_rate_stops_composition():
    plan = param_groups(Seed(), lr=0.1, rules=[Rule("layer2", lr=0.3)], scale=[LayerDecay(0.25)])
    assert plan["layer2.weight"].lr == 0.3
    assert plan["layer1.weight"].lr == 0.1 * 0.25  # depths are those of the whole model
    assert plan.explain("layer2.weight") == 'layer2.weight: 0.3 = 0.3 (rule "layer2")'


def test_weight_decay_of_a_rule_beats_no_weight_decay_beats_the_plans():
    plan = param_groups(
        Seed(), weight_decay=0.2, rules=[Rule("layer1.bias", weight_decay=0.7)], no_weight_decay=["1d", "layer2"]
    )
    assert [entry.weight_decay for entry in plan] == [0.2, 0.7, 0.0, 0.0]


def test_one_dimensional_means_biases_and_norms():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 1))
    plan = param_groups(model, weight_decay=0.1, no_weight_decay=["1d"])
    assert [entry.name for entry in plan if entry.weight_decay] == ["0.weight", "3.weight"]


def test_frozen_is_the_rules_word_or_as_found():
    model = Seed()
    model.layer1.requires_grad_(False)
    assert param_groups(model).frozen == ("layer1.weight", "layer1.bias")
    plan = param_groups(model, rules=[Rule("layer1.bias", freeze=False), Rule("layer2", freeze=True)])
    assert plan.frozen == ("layer1.weight", "layer2.weight", "layer2.bias")


def test_planning_has_no_side_effects():
    model = Seed()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    param_groups(model, rules=[Rule("layer1", freeze=True)], scale=[LayerDecay(0.5)])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


# -- faults ------------------------------------------------------------------------------------------------------------


def fault(**arguments):
    with pytest.raises(RateError) as caught:
        param_groups(arguments.pop("model", None) or Seed(), **arguments)
    return str(caught.value)


def test_a_dead_rule():
    assert fault(rules=[Rule("head.*", lr=0.1)]) == (
        'rule "head.*" matches no parameter\nhelp: parameters of this model start with: layer1, layer2'
    )
    assert fault(rules=[Rule("layer3", lr=0.1)]) == (
        'rule "layer3" matches no parameter\n'
        "help: did you mean layer2? parameters of this model start with: layer2, layer1"
    )
    assert fault(rules=[Rule(nn.LayerNorm, lr=0.1)]) == (
        'rule "LayerNorm" matches no parameter\nhelp: parameters of this model start with: layer1, layer2'
    )


def test_a_rule_that_is_always_shadowed():
    assert fault(rules=[Rule("layer1", lr=0.1), Rule("*.weight", lr=0.2), Rule("layer1.*", lr=0.3)]) == (
        'rule "layer1.*" has no effect: "layer1" before it already claims layer1.weight, layer1.bias\n'
        "help: put it first, or remove it"
    )
    assert fault(rules=[Rule("layer1", lr=0.1), Rule("layer2", lr=0.2), Rule("*.bias", lr=0.3)]).startswith(
        'rule "*.bias" has no effect: "layer1", "layer2" before it already claims layer1.bias, layer2.bias\n'
    )


def test_parameters_left_without_a_rate():
    assert fault(lr=None, rules=[Rule("layer1", lr=0.1), Rule("layer2.bias", freeze=True)]) == (
        "2 parameters have no rate: layer2.weight, layer2.bias\n"
        "help: add a rule with an lr for them, or give a base rate: param_groups(model, lr=...)"
    )
    assert len(param_groups(Seed(), lr=None, rules=[Rule("*", lr=0.1)])) == 4


def tied():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    return model


def test_a_tied_weight_claimed_by_two_rules_and_the_way_out():
    rules = [Rule("embed", lr=0.1), Rule("head", lr=0.2)]
    assert fault(model=tied(), rules=rules) == (
        '"embed.weight" and "head.weight" are one tied parameter, claimed by the rules "embed" and "head"\n'
        'help: put one rule for all its names before them: Rule(["embed.weight", "head.weight"], ...)'
    )
    way_out = [Rule(["embed.weight", "head.weight"], lr=0.3), Rule("head", lr=0.2)]
    assert rates(param_groups(tied(), rules=way_out)) == {"embed.weight": 0.3, "head.bias": 0.2}


def test_a_tied_weight_claimed_once_or_by_equal_rules_is_fine():
    assert param_groups(tied(), lr=0.1, rules=[Rule("head", lr=0.2)])["embed.weight"].lr == 0.2
    plan = param_groups(tied(), rules=[Rule("embed", lr=0.1), Rule("head", lr=0.1)])
    assert plan["embed.weight"].tied == ("head.weight",)
    assert len(plan.groups()) == 1


def test_rates_that_come_out_as_nothing_or_infinite():
    assert fault(lr=1e-300, scale=[LayerDecay(1e-300)]) == (
        'the rate of "layer1.weight" comes out as 0.0: 1e-300 (lr) x 1e-300 (LayerDecay(1e-300))\n'
        "help: use factors closer to 1"
    )
    assert 'the rate of "layer2.weight" comes out as inf' in fault(lr=1e300, scale=[HeadMultiplier(1e300)])


def test_arguments_of_the_wrong_kind():
    assert fault(lr=0).startswith("lr is 0.0\n")
    assert fault(weight_decay=-1).startswith("weight_decay is -1.0\n")
    assert fault(rules="layer1") == "rules is 'layer1'\nhelp: write a list of Rule"
    assert fault(rules=["layer1"]) == "rules holds 'layer1'\nhelp: write a list of Rule"
    assert fault(scale=[0.9]) == "scale holds 0.9\nhelp: write a list of Scale"
    assert fault(no_weight_decay="1d") == 'no_weight_decay is "1d"\nhelp: write a list: no_weight_decay=["1d"]'
    assert fault(no_weight_decay=["norm"]).startswith('no_weight_decay "norm" matches no parameter\n')
    assert (
        len(param_groups(Seed(), rules=Rule("layer1", lr_mult=1), scale=LayerDecay(0.5))) == 4
    )  # one is a list of one


class Broken:
    label = "Broken"

    def __init__(self, factors):
        self.given = factors

    def factors(self, infos):
        return self.given


def test_a_scale_of_ones_own_is_checked_too():
    assert param_groups(Seed(), lr=0.1, scale=[Broken({"layer1.bias": 2.0})])["layer1.bias"].lr == 0.2
    assert fault(scale=[Broken({"layer1.bias": 0.0})]).startswith('factor of Broken for "layer1.bias" is 0.0\n')
    assert fault(scale=[Broken({"x": 1.0})]).startswith('Broken names "x", which the model does not have\n')


def test_not_strict_lets_dead_and_shadowed_rules_pass_with_a_warning():
    rules = [Rule("layer1", lr=0.1), Rule("layer1.bias", lr=0.2), Rule("head", lr=0.3)]
    with pytest.warns(RateWarning) as caught:
        plan = param_groups(Seed(), rules=rules, no_weight_decay=["norm"], strict=False)
    assert [str(w.message).partition("\n")[0] for w in caught] == [
        'rule "layer1.bias" has no effect: "layer1" before it already claims layer1.bias',
        'rule "head" matches no parameter',
        'no_weight_decay "norm" matches no parameter',
    ]
    assert all(w.filename == __file__ for w in caught)
    assert plan["layer1.bias"].lr == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RateError):
            param_groups(Seed(), lr=None, rules=[Rule("layer1", lr=1)], strict=False)  # incomplete stays a fault


# -- one rate a layer --------------------------------------------------------------------------------------------------


def test_rates_by_layer_name():
    plan = layer_rates(Seed(), {"layer2": 0.001, "layer1": 0.01}, weight_decay=0.5)
    assert [(g["param_names"], g["lr"], g["weight_decay"]) for g in plan.groups()] == [
        (["layer1.weight", "layer1.bias"], 0.01, 0.5),
        (["layer2.weight", "layer2.bias"], 0.001, 0.5),
    ]


def test_the_longer_layer_name_wins_in_any_order():
    model = nn.ModuleDict({"enc": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "head": nn.Linear(2, 1)})
    table = {"enc": 0.1, "head": 0.2, "enc.1": 0.3}
    for order in (table, dict(reversed(table.items()))):
        assert [group["lr"] for group in layer_rates(model, order).groups()] == [0.1, 0.3, 0.2]
    with pytest.raises(RateError, match=r'rule "enc" has no effect: "enc\.0", "enc\.1" before it'):
        layer_rates(model, {"enc": 0.1, "enc.0": 0.1, "enc.1": 0.1, "head": 0.2})


def test_a_parameter_of_the_root_is_a_layer_of_its_own():
    model = Seed()
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(RateError, match="the rate table leaves the layer scale without a rate"):
        layer_rates(model, {"layer1": 0.1, "layer2": 0.1})
    assert layer_rates(model, {"layer1": 0.1, "layer2": 0.1, "scale": 0.2})["scale"].lr == 0.2


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            {"layer1": 0.1, "layer3": 0.1},
            'the model has no layer "layer3"\nhelp: did you mean layer2? layers of this model: layer2, layer1',
        ),
        (
            {"layer1": 0.1},
            "the rate table leaves the layer layer2 without a rate\nhelp: add a rate: layer2 = 0.001",
        ),
        ({}, "the rate table leaves the layers layer1, layer2 without a rate\nhelp: add a rate: layer1 = 0.001"),
        (
            {"layer1": 0.1, "layer2": -0.5},
            'learning rate of layer "layer2" is -0.5\n'
            "help: write a number in (0, inf), such as 0.001; to stop learning, freeze instead",
        ),
        (
            {"layer1": True, "layer2": 0.5},
            'learning rate of layer "layer1" is True, a bool\nhelp: write a plain number in (0, inf), such as 0.001',
        ),
        ([0.1], 'the rate table is [0.1]\nhelp: write rates by layer name, such as {"layer1": 0.01}'),
    ],
)
def test_rate_tables_with_a_fault(table, text):
    with pytest.raises(RateError) as caught:
        layer_rates(Seed(), table)
    assert str(caught.value) == text


def test_a_layer_left_over_is_named_by_its_largest_module():
    model = nn.ModuleDict({"enc": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "head": nn.Linear(2, 1)})
    with pytest.raises(RateError, match="leaves the layer enc without"):
        layer_rates(model, {"head": 0.1})
    with pytest.raises(RateError, match=r"leaves the layer enc\.0 without"):
        layer_rates(model, {"head": 0.1, "enc.1": 0.1})
