"""Rules: what they match, what they refuse."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import Rule, param_groups
from lrdiff_core.schedules import Shape


@pytest.fixture
def model():
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(4, 3),
            "blocks": nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), nn.Linear(3, 3)),
            "head": nn.Linear(3, 2),
        }
    )


def taken(model, *match, **kind):
    plan = param_groups(model, rules=[Rule(*match, lr=7.0, **kind)])
    return [entry.name for entry in plan if entry.lr == 7.0]


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("head.bias", ["head.bias"]),
        ("head", ["head.weight", "head.bias"]),
        ("blocks.1", ["blocks.1.weight", "blocks.1.bias"]),
        ("head.*", ["head.weight", "head.bias"]),
        ("*.bias", ["blocks.0.0.bias", "blocks.0.1.bias", "blocks.1.bias", "head.bias"]),
        ("blocks.?.weight", ["blocks.1.weight"]),
        ("blocks.[0].*.bias", ["blocks.0.0.bias", "blocks.0.1.bias"]),
        (re.compile(r"(embed|head)\.weight"), ["embed.weight", "head.weight"]),
        (nn.LayerNorm, ["blocks.0.1.weight", "blocks.0.1.bias"]),
        (nn.Embedding, ["embed.weight"]),
        (lambda name, parameter, module: parameter.shape == (4, 3), ["embed.weight"]),
        (lambda name, parameter, module: isinstance(module, nn.LayerNorm), ["blocks.0.1.weight", "blocks.0.1.bias"]),
        (["embed", nn.LayerNorm], ["embed.weight", "blocks.0.1.weight", "blocks.0.1.bias"]),
    ],
)
def test_every_kind_of_match(model, match, names):
    assert taken(model, match) == names


def test_a_name_does_not_take_longer_names():
    model = nn.ModuleDict({"layer1": nn.Linear(1, 1), "layer10": nn.Linear(1, 1)})
    assert taken(model, "layer1") == ["layer1.weight", "layer1.bias"]


def test_a_module_class_takes_what_lies_below_it(model):
    assert taken(model, nn.Sequential) == [name for name, _ in model.named_parameters() if name.startswith("blocks")]


def test_an_explicit_kind_overrules_the_look_of_a_text(model):
    assert taken(model, r"head\..*", kind="regex") == ["head.weight", "head.bias"]
    assert taken(model, "head.bias", kind="glob") == ["head.bias"]
    odd = nn.ModuleDict({"a*": nn.Linear(1, 1), "ab": nn.Linear(1, 1)})
    assert taken(odd, "a*", kind="name") == ["a*.weight", "a*.bias"]
    with pytest.raises(RateError, match='rule "/head/" matches no parameter'):
        taken(model, "head", kind="glob")  # a glob without wildcards is one whole name


def test_a_regular_expression_matches_the_whole_name(model):
    with pytest.raises(RateError) as caught:
        taken(model, re.compile("head"))
    assert str(caught.value) == (
        'rule "/head/" matches no parameter\n'
        "help: a regular expression must match the whole name; parameters of this model start with: embed, blocks, head"
    )


INTERVAL = "help: write a number in (0, inf), such as 0.001; to stop learning, freeze instead"
PLAIN = "help: write a plain number in (0, inf), such as 0.001"


@pytest.mark.parametrize("name", ["lr", "lr_mult"])
@pytest.mark.parametrize(
    ("value", "shown", "help"),
    [
        (-1.0, "-1.0", INTERVAL),
        (0, "0.0", INTERVAL),
        (float("nan"), "nan", INTERVAL),
        (float("inf"), "inf", INTERVAL),
        (10**400, "inf", INTERVAL),
        (True, "True, a bool", PLAIN),
        ("0.1", "'0.1', a str", PLAIN),
        (1j, "1j, a complex", PLAIN),
        (torch.tensor(0.1), "a tensor (rates as tensors: plan.groups(tensor_lr=True))", PLAIN),
    ],
)
def test_rates_outside_the_interval(name, value, shown, help):
    with pytest.raises(RateError) as caught:
        Rule("head", **{name: value})
    assert str(caught.value) == f'{name} of rule "head" is {shown}\n{help}'


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.25), np.float64(2), np.int64(3)])
def test_numbers_of_all_kinds_become_floats(value):
    rate = Rule("head", lr=value).lr
    assert type(rate) is float
    assert rate == float(value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Rule("a", weight_decay=-1),
            'weight_decay of rule "a" is -1.0\nhelp: write a number in [0, inf), such as 0.01',
        ),
        (
            lambda: Rule("a", weight_decay="x"),
            "weight_decay of rule \"a\" is 'x', a str\nhelp: write a plain number in [0, inf), such as 0.01",
        ),
        (
            lambda: Rule("a", lr=1, lr_mult=2),
            'rule "a" sets both lr and lr_mult\nhelp: an explicit lr stops all multipliers: keep one of the two',
        ),
        (lambda: Rule("a", freeze=1), 'freeze of rule "a" is 1\nhelp: write True or False'),
        (
            lambda: Rule("a"),
            'rule "a" sets nothing\nhelp: give lr, lr_mult, weight_decay, freeze, schedule or options',
        ),
        (
            lambda: Rule("a", schedule="cosin"),
            'schedule "cosin" is unknown\nhelp: write one of: cosine, constant, cosine_restarts, function, linear, '
            "polynomial, exponential, wsd, inverse_sqrt, step, 1-sqrt",
        ),
        (
            lambda: Rule("a", options={"lr": 1}),
            'rule "a" sets "lr" among its options\nhelp: leave it out: write Rule(..., lr=...)',
        ),
        (
            lambda: Rule("a", options={"params": 1}),
            'rule "a" sets "params" among its options\nhelp: leave it out: the plan sets it',
        ),
        (
            lambda: Rule("", lr=1),
            "a rule's match is ''\nhelp: write a name, a glob, re.compile(...), a module class, a "
            "function, or a list of these",
        ),
        (
            lambda: Rule(int, lr=1),
            "a rule's match is <class 'int'>\nhelp: write a name, a glob, re.compile(...), a "
            "module class, a function, or a list of these",
        ),
        (
            lambda: Rule("(", kind="regex", lr=1),
            '"(" is not a valid regular expression: missing ), unterminated subpattern at position 0\n'
            "help: correct the pattern, or write a glob",
        ),
        (lambda: Rule("a", kind="re", lr=1), 'a rule\'s kind is "re"\nhelp: write one of: auto, name, glob, regex'),
        (
            lambda: Rule("a", options={"betas": object}),
            'option "betas" of rule "a" is <class \'object\'>, a type\n'
            "help: write a number, a text, true, false, or a list of numbers",
        ),
        (
            lambda: Rule("a", options=3),
            'options of rule "a" are 3\nhelp: write a mapping, such as {"betas": (0.9, 0.99)}',
        ),
    ],
)
def test_rules_that_cannot_be(make, text):
    with pytest.raises(RateError) as caught:
        make()
    assert str(caught.value) == text


def test_parse_reads_what_the_command_line_takes():
    rule = Rule.parse("head.* lr=0.01 weight_decay=0 schedule=linear")
    assert (rule.match, rule.lr, rule.weight_decay, rule.schedule) == ("head.*", 0.01, 0.0, Shape(kind="linear"))
    assert Rule.parse("/.*bias/ lr_mult=2 freeze").settings == {"lr_mult": 2.0, "freeze": True}
    assert Rule.parse("/.*bias/ lr_mult=2").match == re.compile(".*bias")


USAGE = 'help: write it as "head.* lr=0.01", "embed lr_mult=0.1 weight_decay=0" or "/regex/ freeze"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'rule "" has no match'),
        ("head.*", 'rule "head.*" has no setting'),
        ("head rate=1", 'rule "head rate=1" has the unknown part "rate=1"'),
        ("head lr", 'rule "head lr" has the unknown part "lr"'),
    ],
)
def test_parse_says_what_it_does_not_understand(text, message):
    with pytest.raises(RateError) as caught:
        Rule.parse(text)
    assert str(caught.value) == f"{message}\n{USAGE}"
    with pytest.raises(RateError, match='lr of rule "head" is "x"'):
        Rule.parse("head lr=x")
