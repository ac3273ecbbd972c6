"""What people read: folded tables, the nearest deep names, expressions that do not hang, scales without effect."""

import re
import time

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError, RateWarning
from lrdiff_core.rates import HeadMultiplier, LayerDecay, Rule, Slices, WidthScale, layer_rates, param_groups


class Layer(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(width, width), "key": nn.Linear(width, width)})
        self.output = nn.Linear(width, width)


def bert(layers=12):
    encoder = nn.ModuleDict({"layer": nn.ModuleList([Layer() for _ in range(layers)])})
    inside = nn.ModuleDict({"embeddings": nn.Embedding(9, 4), "encoder": encoder, "pooler": nn.Linear(4, 4)})
    return nn.ModuleDict({"bert": inside, "classifier": nn.Linear(4, 2)})


# -- tables ------------------------------------------------------------------------------------------------------------


def test_equal_blocks_are_folded():
    plan = param_groups(bert(), lr=1.0, scale=[LayerDecay(0.5)], rules=[Rule("bert.encoder.layer.0", freeze=True)])
    lines = plan.table(width=120).splitlines()
    assert len(lines) == 1 + 1 + 6 + 6 + 2 + 2 + 2  # heading, embedding, two kinds of blocks, pooler, head, last lines
    row = next(line for line in lines if "{1..11}.attention.query.weight" in line)
    assert row.split() == [
        "bert.encoder.layer.{1..11}.attention.query.weight",
        "4x4",
        "-",
        "0.0004883..0.5",
        "0",
        "-",
        "-",
    ]
    assert lines[-1] == (
        "77 parameters in 14 groups, 6 frozen; equal blocks folded, plan.table(full=True) shows every row"
    )
    assert len(plan.table(full=True).splitlines()) == len(plan) + 3


@pytest.mark.parametrize(
    ("layers", "rules", "shown"),
    [
        (12, [], ["{0..11}"]),
        (12, [Rule("bert.encoder.layer.[0-5].*", freeze=True)], ["{0..5}", "{6..11}"]),
        (12, [Rule("bert.encoder.layer.4.*", weight_decay=0.5)], ["{0..3}", "4", "{5..11}"]),
        (12, [Rule("bert.encoder.layer.1.*", lr=0.5)], ["0", "1", "{2..11}"]),
        (12, [Rule("*.output.*", options={"eps": 1e-3})], ["{0..11}"]),
        (5, [], ["{0..4}"]),
        (4, [], [str(i) for i in range(4)]),  # 28 parameters fit a screen
    ],
)
def test_blocks_are_folded_where_they_agree_in_all_but_the_rate(layers, rules, shown):
    text = str(param_groups(bert(layers), rules=rules))
    found = re.findall(r"bert\.encoder\.layer\.([^.]+(?:\.\.\d+})?)\.attention\.query\.weight", text)
    assert found == shown


def test_every_parameter_is_counted_in_a_folded_table():
    model = nn.ModuleDict(
        {
            "blocks": nn.ModuleList(
                [nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2) for _ in range(6)])}) for _ in range(5)]
            )
        }
    )
    text = str(param_groups(model, lr=1.0))
    assert text.splitlines()[1].startswith("blocks.{0..4}.experts.{0..5}.weight")
    assert text.splitlines()[-1].startswith("60 parameters in 1 group")


def test_control_characters_of_names_do_not_reach_the_terminal():
    model = nn.ModuleDict({"\x1b[31mz": nn.Linear(1, 1), "a\nb": nn.Linear(1, 1)})
    assert str(param_groups(model)).replace("\n", "").isprintable()


# -- the nearest names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "nearest"),
    [
        ("bert.encoder.layer.3.atention", "bert.encoder.layer.3.attention"),
        ("bert.encoder.layr.3", "bert.encoder.layer.3"),
        ("bert.encoder.layer.3.attention.qery.weight", "bert.encoder.layer.3.attention.query.weight"),
        ("bert.encoder.layer.*.atention.*", "bert.encoder.layer.*.attention.*"),
        ("*.atention.*", "*.attention.*"),
        ("*.qury.weight", "*.query.weight"),
        ("brt.encoder.*", "bert.encoder.*"),
        ("encoder.layer.3", "bert.encoder.layer.3"),
        ("attention.query", "bert.encoder.layer.0.attention.query"),
        ("pooler", "bert.pooler"),
        ("clasifier", "classifier"),
    ],
)
@pytest.mark.parametrize("where", ["rule", "no_weight_decay", "head", "layers", "unfreeze"])
def test_a_misspelt_deep_name_is_answered_with_the_nearest(match, nearest, where):
    model = bert()

    def use():
        if where == "rule":
            param_groups(model, rules=[Rule(match, lr=1.0)])
        elif where == "no_weight_decay":
            param_groups(model, no_weight_decay=[match])
        elif where == "head":
            param_groups(model, scale=[HeadMultiplier(10, head=match)])
        elif where == "layers":
            param_groups(model, scale=[LayerDecay(0.5, layers=[match, "*"])])
        else:
            plan = param_groups(model)
            plan.unfreeze(torch.optim.SGD(plan.groups()), match)

    with pytest.raises(RateError) as caught:
        use()
    assert caught.value.help.startswith(f"did you mean {nearest}?")


# -- expressions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(.*)*x",
        "(a|aa)+$",
        "(a|b|ab)*c!",
        "([a-z]+)*\\d",
        "(\\w+\\.?)+!",
        "(?=(a+)+$)b",
        "(a?){60}a{60}!",
    ],
)
def test_an_expression_gives_up_instead_of_hanging(pattern):
    model = nn.ModuleDict({"a" * length: nn.Linear(1, 1) for length in range(20, 80, 4)})
    begin = time.thread_time()
    with pytest.raises(RateError, match="takes too long to match|matches no parameter"):
        param_groups(model, rules=[Rule(pattern, kind="regex", lr=1.0)])
    assert time.thread_time() - begin < 10


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        (r"(?!.*bias).*\.query\..*", True),
        (re.compile(r"BERT\..*QUERY.*", re.IGNORECASE), True),
        (re.compile(r"bert \. .* query .*  # spaced", re.VERBOSE), True),
        (r"(?P<a>be)rt.*(?<=query)\.weight", True),
        (r"bert", False),
    ],
)
def test_expressions_mean_what_they_mean_to_python(pattern, taken):
    model = bert(2)
    names = [name for name, _ in model.named_parameters()]
    expected = [name for name in names if re.compile(pattern).fullmatch(name)]
    assert bool(expected) == taken
    if not taken:
        return
    plan = param_groups(model, rules=[Rule(re.compile(pattern), lr=7.0)])
    assert [entry.name for entry in plan if entry.lr == 7.0] == expected


# -- scales without effect ---------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """As Keras 3 hands its weights to torch: one list, no modules."""

    def __init__(self):
        super().__init__()
        self.params = nn.ParameterList([nn.Parameter(torch.ones(2, 2)) for _ in range(4)])


class Ones:
    label = "Ones"

    def __init__(self, factors):
        self.given = factors

    def factors(self, infos):
        return self.given


DEAD = [
    (Flat(), LayerDecay(0.8), "LayerDecay(0.8) has no effect: every factor is 1"),
    (Flat(), Slices(0.01), "Slices(0.01, 1) has no effect: every factor is 1"),
    (nn.Linear(2, 2), LayerDecay(0.8), "LayerDecay(0.8) has no effect: every factor is 1"),
    (bert(), LayerDecay(0.8, layers=["*"]), "LayerDecay(0.8) has no effect: every factor is 1"),
    (bert(), Ones({}), "Ones has no effect: every factor is 1"),
    (bert(), Ones({"classifier.bias": 1.0}), "Ones has no effect: every factor is 1"),
]


@pytest.mark.parametrize(("model", "scale", "message"), DEAD)
def test_a_scale_without_effect_is_a_fault(model, scale, message):
    with pytest.raises(RateError) as caught:
        param_groups(model, scale=[scale])
    assert caught.value.message == message
    with pytest.warns(RateWarning, match=re.escape(message)):
        param_groups(model, scale=[scale], strict=False)


def test_a_scale_that_rules_stop_everywhere_is_a_fault():
    rules = [Rule("classifier", lr=1.0)]
    with pytest.raises(RateError, match=r"HeadMultiplier\(10\) has no effect: rules set the lr of all that it changes"):
        param_groups(bert(), rules=rules, scale=[HeadMultiplier(10)])


@pytest.mark.parametrize(
    "scale", [LayerDecay(1), Slices(1, 1), HeadMultiplier(1), WidthScale(bert()), WidthScale(bert(), optimizer="sgd")]
)
def test_a_neutral_setting_is_none(scale):
    """A sweep goes through it."""
    assert {entry.lr for entry in param_groups(bert(), lr=0.5, scale=[scale])} == {0.5}


# -- weights stored [in, out] ------------------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """As in transformers: a linear layer with its weight transposed."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.zeros(nx, nf))


class Own(nn.Module):
    def __init__(self, rows, columns):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(rows, columns))


def width_factor(wide, base, **how):
    (entry,) = param_groups(wide, lr=1.0, scale=[WidthScale(base, **how)])
    return entry.lr


@pytest.mark.parametrize(
    ("make", "how", "adam", "sgd"),
    [  # fan-in grows 2 times, fan-out 3 times
        (lambda i, o: nn.Linear(i, o, bias=False), {}, 1 / 2, 3 / 2),
        (lambda i, o: Conv1D(o, i), {}, 1 / 2, 3 / 2),
        (lambda i, o: nn.ConvTranspose1d(i, o, 3, bias=False), {}, 1 / 2, 3 / 2),
        (lambda i, o: Own(i, o), {"fan_in_first": ["kernel"]}, 1 / 2, 3 / 2),
        (lambda i, o: Own(i, o), {"fan_in_first": "kern*"}, 1 / 2, 3 / 2),
        (lambda i, o: Own(o, i), {"roles": {"kernel": "hidden"}}, 1 / 2, 3 / 2),
        (lambda i, o: Conv1D(12, i), {}, 1 / 2, 1 / 2),  # an output weight
        (lambda i, o: Conv1D(o, 8), {}, 1.0, 3.0),  # an input weight
        (lambda i, o: Own(i, 12), {"fan_in_first": ["kernel"]}, 1 / 2, 1 / 2),
        (lambda i, o: Own(8, o), {"fan_in_first": ["kernel"]}, 1.0, 3.0),
    ],
)
def test_weights_stored_in_by_out(make, how, adam, sgd):
    wide, base = make(8, 12), make(4, 4)
    if adam == 1.0:  # the rows alone differ
        wide, base = make(8, 12), make(8, 4)
    assert width_factor(wide, base, **how) == adam
    assert width_factor(wide, base, optimizer="sgd", **how) == sgd


@pytest.mark.parametrize(("wide", "base"), [((8, 12), (4, 4)), ((8, 4), (4, 4)), ((4, 12), (4, 4))])
def test_a_weight_of_ones_own_is_asked_about(wide, base):
    with pytest.raises(RateError, match=r'"kernel" of Own grows in .*\[in, out\] or \[out, in\] cannot be determined'):
        width_factor(Own(*wide), Own(*base))
    assert width_factor(Own(8, 8), Own(4, 4)) == 0.5  # either way the same


def test_a_table_of_rates_names_the_nearest_deep_layer():
    with pytest.raises(RateError, match=r"did you mean bert\.encoder\.layer\.1\?"):
        layer_rates(bert(2), {"bert.encoder.layr.1": 0.1})
