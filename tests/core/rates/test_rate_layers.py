"""Finding layers in other people's models: parametrized, hooked, lazy, nested, two stacks, one block, many experts."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from lrdiff_core.errors import RateError
from lrdiff_core.rates import HeadMultiplier, LayerDecay, layer_depths, list_parameters, param_groups
from lrdiff_core.rates.layers.depth import find_layers
from lrdiff_core.rates.layers.head import find_head


class Block(nn.Module):
    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.fc1 = nn.Linear(2, 2)
        self.fc2 = nn.Linear(2, 2)
        self.norm = norm(2)


class Decoder(Block):
    pass


def encoder(count=3):
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 2),
            "blocks": nn.ModuleList([Block() for _ in range(count)]),
            "norm": nn.LayerNorm(2),
            "head": nn.Linear(2, 1),
        }
    )


def depth_by_module(model, **how):
    return {name.rpartition(".")[0]: depth for name, depth in layer_depths(list_parameters(model), **how).items()}


# -- whatever stands in place of a weight ------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A parametrization with parameters and a child of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.Linear(1, 1)

    def forward(self, weight):
        return weight * self.scale


def lazily(linear):
    lazy = nn.LazyLinear(2)
    lazy(torch.ones(1, 2))
    return lazy


INSTEAD = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "a parametrization with parameters": lambda m: parametrize.register_parametrization(m, "weight", Scaled()),
    "two parametrizations": lambda m: [
        parametrize.register_parametrization(m, "weight", part) for part in (nn.Identity(), Scaled())
    ],
    "on the bias": lambda m: parametrize.register_parametrization(m, "bias", nn.Identity()),
    "weight_norm as a hook": lambda m: weight_norm(m),
    "spectral_norm as a hook": lambda m: spectral_norm(m),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 1),
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "lazy": lazily,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("where", ["in a block", "in every block", "in the head"])
@pytest.mark.parametrize("kind", INSTEAD)
def test_layer_decay_over_whatever_stands_in_place_of_a_weight(kind, where):
    model = encoder()
    parts = {"in a block": [model["blocks"][1]], "in every block": list(model["blocks"]), "in the head": []}[where]
    for block in parts:
        block.fc1 = (
            INSTEAD[kind](block.fc1) if kind in ("compiled", "lazy") else (INSTEAD[kind](block.fc1), block.fc1)[1]
        )
    if where == "in the head":
        model["head"] = (
            INSTEAD[kind](model["head"]) if kind == "compiled" else (INSTEAD[kind](model["head"]), model["head"])[1]
        )
    plan = param_groups(model, lr=1.0, scale=[LayerDecay(0.5)])
    for entry in plan:
        top = entry.name.split(".")[0]
        depth = {"embed": 0, "norm": 4, "head": 4}.get(top, 0) if top != "blocks" else int(entry.name.split(".")[1]) + 1
        assert entry.lr == 0.5 ** (4 - depth), entry.name


def test_a_chain_of_parametrized_layers_is_a_chain():
    """Each parametrized module has a class of its own, made when it was registered."""
    model = nn.Sequential(*[parametrizations.weight_norm(nn.Linear(2, 2)) for _ in range(3)])
    found = layer_depths(list_parameters(model))
    assert {name.split(".")[0]: depth for name, depth in found.items()} == {"0": 1, "1": 2, "2": 3}


# -- two stacks are asked about ----------------------------------------------------------------------------------------


def two(first, second, *, kind=Decoder, names=("encoder", "decoder"), inside="layers", head=True):
    model = nn.ModuleDict()
    for name, count, block in zip(names, (first, second), (Block, kind), strict=True):
        model[name] = nn.ModuleDict({inside: nn.ModuleList([block() for _ in range(count)])})
    if head:
        model["head"] = nn.Linear(2, 1)
    return model


def beside(**stacks):
    return nn.ModuleDict({name: nn.Sequential(*[Block() for _ in range(count)]) for name, count in stacks.items()})


ASKED = {
    "nn.Transformer": (lambda: nn.Transformer(8, 2, 2, 2, 16, batch_first=True), "encoder.layers", "decoder.layers"),
    "one block each": (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), "encoder.layers", "decoder.layers"),
    "six and one": (lambda: two(6, 1), "encoder.layers", "decoder.layers"),
    "one and six": (lambda: two(1, 6), "encoder.layers", "decoder.layers"),
    "12 and 5": (lambda: two(12, 5), "encoder.layers", "decoder.layers"),
    "5 and 12": (lambda: two(5, 12), "encoder.layers", "decoder.layers"),
    "of one class, as in T5": (lambda: two(4, 4, kind=Block, inside="block"), "encoder.block", "decoder.block"),
    "two towers": (lambda: two(3, 2, kind=Block, names=("text", "vision")), "text.layers", "vision.layers"),
    "side by side": (lambda: beside(encoder=3, decoder=3), "encoder", "decoder"),
    "of a U-Net": (lambda: beside(down1=2, down2=2, up1=2, up2=2), "down1, down2", "up1, up2"),
    "in a wrapper": (lambda: nn.ModuleDict({"model": two(2, 2, head=False)}), "encoder.layers", "decoder.layers"),
}


@pytest.mark.parametrize("name", ASKED)
def test_two_stacks_are_asked_about(name):
    make, *lists = ASKED[name]
    with pytest.raises(RateError) as caught:
        param_groups(make(), scale=[LayerDecay(0.8)])
    assert caught.value.message.startswith("the layers could be those of ")
    assert all(f'{one}"' in caught.value.message for one in lists)
    assert caught.value.help.startswith('say which: layers="')
    said = caught.value.help.partition('"')[2].partition('"')[0]
    assert param_groups(make(), scale=[LayerDecay(0.8, layers=said)])  # what the help says to write works


NOT_ASKED = {
    "a head of several layers": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)),
    "several heads": nn.ModuleDict({"heads": nn.ModuleList([Block() for _ in range(4)])}),
    "a head with one block": nn.ModuleDict({"last": Block(), "out": nn.Linear(2, 1)}),
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_what_follows_the_blocks_is_no_second_stack(name):
    model = encoder()
    model["head"] = copy.deepcopy(NOT_ASKED[name])
    found = depth_by_module(model)
    assert {depth for module, depth in found.items() if module.startswith("head")} == {4}


def test_convolutions_before_the_blocks_are_their_stem():
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 1)
            self.more = nn.Conv1d(2, 2, 1)

    def model(convolutions):
        return nn.ModuleDict({"extractor": nn.ModuleList([Conv() for _ in range(convolutions)]), **dict(encoder())})

    found = depth_by_module(model(2))
    assert {depth for module, depth in found.items() if module.startswith("extractor")} == {0}
    assert (found["blocks.0.fc1"], found["head"]) == (1, 4)
    with pytest.raises(RateError, match="the layers could be those of"):
        depth_by_module(model(7))  # or the blocks are a head on them


# -- one block, stages, numbered children ------------------------------------------------------------------------------


def test_a_list_of_one_block_is_a_stack():
    assert depth_by_module(encoder(1)) == {
        **{"embed": 0, "blocks.0.fc1": 1, "blocks.0.fc2": 1, "blocks.0.norm": 1, "norm": 2, "head": 2}
    }


@pytest.mark.parametrize("names", [("0", "1", "2"), ("b1", "b2", "b3"), ("layer0", "layer1", "layer2")])
def test_numbered_children_are_blocks_whatever_holds_them(names):
    blocks = nn.ModuleDict({name: Block() for name in names})
    model = nn.ModuleDict({"embed": nn.Embedding(5, 2), "body": blocks, "head": nn.Linear(2, 1)})
    found = depth_by_module(model)
    assert [found[f"body.{name}.fc1"] for name in names] == [1, 2, 3]
    assert (found["embed"], found["head"]) == (0, 4)


def test_stages_may_hold_one_block_each():
    model = nn.ModuleDict({"conv1": nn.Conv2d(1, 2, 1), "bn1": nn.BatchNorm2d(2)})
    for i in range(1, 5):
        model[f"layer{i}"] = nn.Sequential(Block())
    model["fc"] = nn.Linear(2, 1)
    found = depth_by_module(model)
    assert (found["conv1"], found["bn1"], found["layer1.0.fc1"], found["layer4.0.fc1"], found["fc"]) == (0, 0, 1, 4, 5)


def test_lists_with_an_entry_for_each_stage_count_with_it():
    """Patch embeddings, stages and norms side by side, as in Twins and the Pyramid Vision Transformer."""
    model = nn.ModuleDict(
        {
            "patch_embeds": nn.ModuleList([nn.Conv2d(1, 2, 1) for _ in range(3)]),
            "blocks": nn.ModuleList([nn.ModuleList([Block() for _ in range(count)]) for count in (2, 1, 3)]),
            "head": nn.Linear(2, 1),
        }
    )
    found = depth_by_module(model)
    assert [found[f"patch_embeds.{i}"] for i in range(3)] == [0, 3, 4]
    assert [found[f"blocks.{s}.{b}.fc1"] for s, b in ((0, 0), (0, 1), (1, 0), (2, 2))] == [1, 2, 3, 6]
    found = depth_by_module(model, by="stage")
    assert [found[f"patch_embeds.{i}"] for i in range(3)] == [0, 2, 3]
    assert (found["blocks.2.2.fc1"], found["head"]) == (3, 4)


@pytest.mark.parametrize("by", ["layer", 3, ""])
def test_layers_are_counted_by_blocks_or_stages(by):
    with pytest.raises(RateError, match='layers are counted by .*\nhelp: write by="block" or by="stage"'):
        LayerDecay(0.5, by=by)
    with pytest.raises(RateError, match="layers are listed, and by is"):
        param_groups(encoder(), scale=[LayerDecay(0.5, layers=["embed", "*"], by="block")])


def test_a_plan_says_what_it_took_for_layers_and_head():
    plan = param_groups(encoder(), scale=[LayerDecay(0.5), HeadMultiplier(10)])
    assert plan.notes == ("LayerDecay(0.5): 3 blocks of blocks", "HeadMultiplier(10): head is head")
    assert str(plan).splitlines()[-3:-1] == list(plan.notes)


# -- the head ----------------------------------------------------------------------------------------------------------


def tied():
    model = nn.ModuleDict({"body": encoder(), "lm_head": nn.Linear(2, 5, bias=False)})
    del model["body"]["head"]
    model["lm_head"].weight = model["body"]["embed"].weight
    return model


@pytest.mark.parametrize("head", [None, "lm_head", "lm_head.weight", "lm_*", nn.Linear, "body.embed", ["lm_head"]])
def test_every_name_of_a_tied_weight_counts(head):
    model = tied()
    if head is nn.Linear:
        head = lambda name, parameter, module: module is model["lm_head"]  # noqa: E731
    plan = param_groups(model, lr=1.0, scale=[HeadMultiplier(10, head=head)])
    assert {entry.name for entry in plan if entry.lr == 10} == {"body.embed.weight"}
    if head is None:
        assert plan.notes == ("HeadMultiplier(10): head is lm_head (body.embed.weight is tied with it)",)


def test_layers_listed_by_another_name_of_a_tied_weight():
    layers = ["body.blocks", ["lm_head", "body.norm"]]
    found = layer_depths(list_parameters(tied()), layers)
    assert found["body.embed.weight"] == 1
    both = layer_depths(list_parameters(tied()), ["body.embed", *layers])  # the first name decides
    assert both["body.embed.weight"] == 0


def flat(kind):
    """All parameters in one container, as Keras 3 holds them."""
    tensors = {str(i): nn.Parameter(torch.ones(3, 3)) for i in range(4)}
    return nn.ModuleDict({"all": kind(tensors if kind is nn.ParameterDict else tensors.values())})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: nn.Transformer(8, 2, 2, 2, 16, batch_first=True),
            'the last part, "decoder", holds the blocks "decoder.layers" itself',
        ),
        (
            lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
            'the last part, "decoder", holds the blocks "decoder.layers" itself',
        ),
        (lambda: two(3, 2, head=False), 'the last part, "decoder", holds the blocks "decoder.layers" itself'),
        (lambda: beside(layer1=2, layer2=2), 'the last part, "layer2", holds the blocks "layer2" itself'),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), 'the last part, "1", is a norm or a bias'),
        (lambda: nn.Sequential(nn.Linear(2, 2)), 'the last part, "0", holds every parameter'),
        (lambda: flat(nn.ParameterList), 'the last part, "all", holds every parameter'),
        (lambda: flat(nn.ParameterDict), 'the last part, "all", holds every parameter'),
    ],
)
def test_a_head_that_cannot_be_told_is_asked_for(model, message):
    with pytest.raises(RateError) as caught:
        param_groups(model(), scale=[HeadMultiplier(10)])
    assert caught.value.message == f"the head cannot be determined: {message}"
    assert caught.value.help.startswith("name it: head=")


def test_several_heads_are_a_head():
    model = encoder()
    model["heads"] = nn.ModuleList([Block() for _ in range(2)])
    assert find_head(list_parameters(model)).text == "heads"


# -- size --------------------------------------------------------------------------------------------------------------


class Experts(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.attention = nn.Linear(2, 2)
        self.mlp = nn.ModuleDict(
            {"gate": nn.Linear(2, count), "experts": nn.ModuleList([Block() for _ in range(count)])}
        )


def mixture(experts, blocks=4):
    return nn.ModuleDict({"blocks": nn.ModuleList([Experts(experts) for _ in range(blocks)]), "head": nn.Linear(2, 1)})


def test_experts_are_no_layers():
    assert set(layer_depths(list_parameters(mixture(8))).values()) == {1, 2, 3, 4, 5}


def test_the_work_grows_linearly_with_the_number_of_parameters():
    """Counted in lines of Python, which no busy machine changes; it was quadratic, 24 s for 9411 parameters."""
    import sys

    def lines(experts):
        infos, count = list_parameters(mixture(experts)), 0

        def trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            find_layers(infos)
        finally:
            sys.settrace(before)
        return count

    small, large = lines(8), lines(32)
    assert large / small < 4.5
