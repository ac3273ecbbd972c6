"""Depth from the module tree: stem 0, blocks 1 to n, head n + 1; what cannot be told is asked for."""

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import layer_depths, list_parameters
from lrdiff_core.rates.layers.head import find_head


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2))
        self.norm = nn.LayerNorm(2)


class OtherBlock(Block):
    pass


class Vit(nn.Module):
    """A parameter of the root, a stem, blocks, a norm, a head: the shape of ViT, BEiT and BERT."""

    def __init__(self, blocks=12, head=None):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.patch_embed = nn.Conv2d(1, 2, 1)
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])
        self.norm = nn.LayerNorm(2)
        self.head = head or nn.Linear(2, 3)


def depths(model, layers=None, by=None):
    """Depth by parameter name, cut to the first two components and without repetition."""
    found = layer_depths(list_parameters(model), layers, by)
    return {".".join(name.split(".")[:2]): depth for name, depth in found.items()}


def beit(name, blocks):
    """The numbering of BEiT's get_num_layer_for_vit, written anew from its description in arXiv:2106.08254."""
    if name in ("cls_token", "mask_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return blocks + 1


@pytest.mark.parametrize("blocks", [2, 3, 12])
def test_a_transformer_is_numbered_as_in_beit(blocks):
    model = Vit(blocks)
    assert layer_depths(list_parameters(model)) == {name: beit(name, blocks) for name, _ in model.named_parameters()}


def test_freezing_moves_no_depth():
    free, frozen = Vit(4), Vit(4)
    frozen.blocks[:3].requires_grad_(False)
    frozen.patch_embed.requires_grad_(False)
    assert layer_depths(list_parameters(frozen)) == layer_depths(list_parameters(free))


def test_stages_with_the_same_blocks_are_joined_as_in_a_resnet():
    model = nn.ModuleDict({"conv1": nn.Conv2d(1, 2, 1)})
    for i, count in enumerate((2, 2, 4), 1):
        model[f"layer{i}"] = nn.Sequential(*[Block() for _ in range(count)])
    model["fc"] = nn.Linear(2, 1)
    found = depths(model)
    assert [found[name] for name in ("conv1.weight", "layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer3.3")] == [
        *(0, 1, 2, 3, 5, 8)
    ]
    assert found["fc.weight"] == 9


def test_a_head_of_linear_layers_is_no_block_list():
    deep_head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    found = depths(Vit(4, deep_head))
    assert found["blocks.3"] == 4
    assert {found[f"head.{i}"] for i in range(4)} == {5}


def test_lists_inside_a_block_list_do_not_count():
    model = nn.ModuleDict({"blocks": nn.ModuleList([Vit(5) for _ in range(3)])})
    assert set(depths(model).values()) == {1, 2, 3}


def test_mixed_blocks_are_blocks_too():
    model = nn.ModuleDict({"blocks": nn.ModuleList([Block(), OtherBlock(), Block()]), "head": nn.Linear(2, 1)})
    assert depths(model)["blocks.2"] == 3


def test_a_chain_without_a_list_is_numbered_by_its_children():
    model = nn.ModuleDict({"layer1": nn.Linear(2, 2), "layer2": nn.Linear(2, 2), "layer3": nn.Linear(2, 2)})
    assert depths(model) == {f"layer{i}.{kind}": i for i in (1, 2, 3) for kind in ("weight", "bias")}
    inside = nn.ModuleDict({"net": model})
    assert set(depths(inside).values()) == {1, 2, 3}


def test_a_backbone_with_a_head_in_a_sequential_is_looked_into():
    model = nn.Sequential(Vit(3), nn.Linear(3, 1))
    found = layer_depths(list_parameters(model))
    assert (found["0.patch_embed.weight"], found["0.blocks.2.norm.bias"], found["1.weight"]) == (0, 3, 4)


def test_what_stands_between_two_stages_belongs_to_the_one_before():
    model = nn.ModuleDict({"a": nn.Sequential(Block(), Block()), "mid": nn.Linear(2, 2)})
    model["b"] = nn.Sequential(Block(), Block())
    assert depths(model)["mid.weight"] == 2


def two_stacks():
    return nn.ModuleDict(
        {
            "encoder": nn.ModuleDict({"layers": nn.ModuleList([Block() for _ in range(6)])}),
            "decoder": nn.ModuleDict({"layers": nn.ModuleList([OtherBlock() for _ in range(6)])}),
        }
    )


def test_two_stacks_are_asked_about():
    with pytest.raises(RateError) as caught:
        depths(two_stacks())
    assert str(caught.value) == (
        'the layers could be those of "encoder.layers" (6) or of "decoder.layers" (6)\n'
        'help: say which: layers="encoder.layers", or list all layers from input to output'
    )
    found = layer_depths(list_parameters(two_stacks()), "decoder.layers")
    assert (found["encoder.layers.5.norm.bias"], found["decoder.layers.5.norm.bias"]) == (0, 6)


def test_layers_can_be_listed():
    model = Vit(2)
    layers = [["cls_token", "patch_embed"], "blocks.0", "blocks.1", ["norm", "head"]]
    assert layer_depths(list_parameters(model), layers) == {n: beit(n, 2) for n, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            ["blocks", "head"],
            "5 parameters are in no layer: cls_token, patch_embed.weight, patch_embed.bias, norm.weight, norm.bias\n"
            "help: add them to a layer, from input to output",
        ),
        (["*", "head"], '"head.weight" is in two layers: "*" and "head"\nhelp: let every parameter be in one layer'),
        ("nowhere", '"nowhere" is not a module with blocks\nhelp: block lists: blocks'),
    ],
)
def test_layers_with_a_fault(layers, text):
    with pytest.raises(RateError) as caught:
        layer_depths(list_parameters(Vit(2)), layers)
    message, help = text.split("\nhelp: ")
    assert caught.value.message == message
    assert caught.value.help.startswith(help)


def test_a_layer_that_matches_nothing():
    with pytest.raises(RateError, match='layer "haed" matches no parameter\nhelp: did you mean head\\?'):
        layer_depths(list_parameters(Vit(2)), ["haed", "*"])


def head(model):
    return find_head(list_parameters(model)).text


def test_the_head_is_the_last_child():
    assert head(Vit(2)) == "head"
    assert head(nn.Sequential(Vit(2), nn.ReLU(), nn.Linear(3, 1))) == "2"
    assert head(nn.ModuleDict({"net": Vit(2)})) == "net.head"
    with pytest.raises(RateError, match="no child modules to find a head among"):
        head(nn.Linear(2, 1))
