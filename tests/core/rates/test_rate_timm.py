"""Layer-wise decay by block and by stage against the rule that timm documents, on models built as timm builds them.

timm numbers layers by regular expressions (``group_matcher`` of each model, ``param_groups_layer_decay`` in
``timm.optim``, https://huggingface.co/docs/timm/reference/optimizers): a tuple of the numbers in a name, in order; the
stem first, what no expression matches last, and an entry that ends in 99999 goes to the layer before it.
"""

import re
from itertools import groupby

import pytest
import torch
from torch import nn

from lrdiff_core.rates import LayerDecay, layer_depths, list_parameters, param_groups

MERGE = 99999.0


def timm_layers(names, matcher):
    """Layer by parameter name, worked out anew from the description."""
    keys = {}
    for name in names:
        keys[name] = (float("inf"),)
        for order, (_, rules) in enumerate(matcher.items()):
            for pattern, suffix in [(rules, ())] if isinstance(rules, str) else [(p, s or ()) for p, s in rules]:
                found = re.match(pattern, name)
                if found:
                    keys[name] = (float(order), *map(float, filter(None, found.groups())), *map(float, suffix))
                    break
            if keys[name] != (float("inf"),):
                break
    layers, number = {}, -1
    for key, _ in groupby(sorted(set(keys.values()))):
        number += number < 0 or key[-1] != MERGE
        layers[key] = number
    return {name: layers[key] for name, key in keys.items()}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_dw = nn.Conv2d(2, 2, 1)
        self.norm = nn.LayerNorm(2)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(2, 2), "fc2": nn.Linear(2, 2)})


class Bottleneck(nn.Module):
    def __init__(self, downsample=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.conv2, self.bn2 = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
        if downsample:
            self.downsample = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))


class Stage(nn.Module):
    def __init__(self, depth, downsample):
        super().__init__()
        self.downsample = nn.Sequential(nn.LayerNorm(2), nn.Conv2d(2, 2, 1)) if downsample else nn.Identity()
        self.blocks = nn.Sequential(*[Block() for _ in range(depth)])


def parts(**children):
    return nn.ModuleDict(children)


def convnext(depths=(2, 2, 6, 2)):
    head = parts(norm=nn.LayerNorm(2), fc=nn.Linear(2, 3))
    stages = nn.Sequential(*[Stage(depth, i > 0) for i, depth in enumerate(depths)])
    return parts(stem=nn.Sequential(nn.Conv2d(1, 2, 4), nn.LayerNorm(2)), stages=stages, head=head)


def swin(depths=(2, 2, 6, 2)):
    embed = parts(proj=nn.Conv2d(1, 2, 4), norm=nn.LayerNorm(2))
    layers = nn.Sequential(*[Stage(depth, i > 0) for i, depth in enumerate(depths)])
    return parts(patch_embed=embed, layers=layers, norm=nn.LayerNorm(2), head=parts(fc=nn.Linear(2, 3)))


def efficientnet(depths=(1, 2, 2, 3, 1)):
    blocks = nn.Sequential(*[nn.Sequential(*[Bottleneck() for _ in range(depth)]) for depth in depths])
    tail = {"conv_head": nn.Conv2d(2, 2, 1), "bn2": nn.BatchNorm2d(2), "classifier": nn.Linear(2, 3)}
    return parts(conv_stem=nn.Conv2d(1, 2, 3), bn1=nn.BatchNorm2d(2), blocks=blocks, **tail)


def resnet(depths=(3, 4, 6, 3)):
    layers = {
        f"layer{i}": nn.Sequential(*[Bottleneck(downsample=not j) for j in range(depth)])
        for i, depth in enumerate(depths, 1)
    }
    return parts(conv1=nn.Conv2d(1, 2, 7), bn1=nn.BatchNorm2d(2), **layers, fc=nn.Linear(2, 3))


def nested_resnet(depths=(1, 2, 3)):
    stages = nn.ModuleList([nn.Sequential(*[Bottleneck(not j) for j in range(depth)]) for depth in depths])
    return parts(stem=nn.Conv2d(1, 2, 7), stages=stages, fc=nn.Linear(2, 3))


def regnet(depths=(1, 3, 2)):
    body = {f"s{i}": parts(**{f"b{j}": Bottleneck() for j in range(1, d + 1)}) for i, d in enumerate(depths, 1)}
    return parts(stem=parts(conv=nn.Conv2d(1, 2, 3)), **body, head=parts(fc=nn.Linear(2, 3)))


def vit(depth=12):
    model = parts(patch_embed=parts(proj=nn.Conv2d(1, 2, 4)), blocks=nn.Sequential(*[Block() for _ in range(depth)]))
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
    model["norm"] = nn.LayerNorm(2)
    model["head"] = nn.Linear(2, 3)
    return model


MODELS = {  # the model, timm's group_matcher, and its coarse one (where it has stages)
    "convnext": (
        convnext,
        {
            "stem": r"^stem",
            "blocks": [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm_pre", (99999,)),
            ],
        },
        {"stem": r"^stem", "blocks": r"^stages\.(\d+)"},
    ),
    "swin": (
        swin,
        {
            "stem": r"^absolute_pos_embed|patch_embed",
            "blocks": [
                (r"^layers\.(\d+).downsample", (0,)),
                (r"^layers\.(\d+)\.\w+\.(\d+)", None),
                (r"^norm", (99999,)),
            ],
        },
        None,  # its coarse matcher leaves the norm to the head, the fine one gives it to the last block
    ),
    "efficientnet": (
        efficientnet,
        {"stem": r"^conv_stem|bn1", "blocks": [(r"^blocks\.(\d+)\.(\d+)", None), (r"conv_head|bn2", (99999,))]},
        {"stem": r"^conv_stem|bn1", "blocks": [(r"^blocks\.(\d+)", None), (r"conv_head|bn2", (99999,))]},
    ),
    "resnet": (
        resnet,
        {"stem": r"^conv1|bn1|maxpool", "blocks": r"^layer(\d+)\.(\d+)"},
        {"stem": r"^conv1|bn1|maxpool", "blocks": r"^layer(\d+)"},
    ),
    "stages of a nested resnet": (
        nested_resnet,
        {"stem": r"^stem", "blocks": r"^stages\.(\d+)\.(\d+)"},
        {"stem": r"^stem", "blocks": r"^stages\.(\d+)"},
    ),
    "regnet": (
        regnet,
        {"stem": r"^stem", "blocks": r"^s(\d+)\.b(\d+)"},
        {"stem": r"^stem", "blocks": r"^s(\d+)"},
    ),
    "vit": (
        vit,
        {"stem": r"^cls_token|pos_embed|patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]},
        {"stem": r"^cls_token|pos_embed|patch_embed", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]},
    ),
}


@pytest.mark.parametrize("by", ["block", "stage"])
@pytest.mark.parametrize("name", MODELS)
def test_layers_are_numbered_as_timm_numbers_them(name, by):
    make, fine, coarse = MODELS[name]
    matcher = fine if by == "block" else coarse
    if matcher is None:
        pytest.skip("timm's coarse matcher of this model contradicts its fine one")
    model = make()
    expected = timm_layers([name for name, _ in model.named_parameters()], matcher)
    assert layer_depths(list_parameters(model), by=by) == expected


def test_the_stem_of_a_convnext_learns_as_slowly_as_in_timm():
    plan = param_groups(convnext(), lr=1.0, scale=[LayerDecay(0.7, by="block")])
    assert plan["stem.0.weight"].lr == pytest.approx(0.7**13)  # 0.0097; it was 0.168 where stages counted as layers
    assert plan["stages.3.downsample.1.weight"].lr == plan["stages.3.blocks.0.norm.weight"].lr == pytest.approx(0.7**2)
    assert plan.notes == ("LayerDecay(0.7): 12 blocks in 4 stages of stages",)
    by_stage = param_groups(convnext(), lr=1.0, scale=[LayerDecay(0.7, by="stage")])
    assert by_stage["stem.0.weight"].lr == pytest.approx(0.7**5)


@pytest.mark.parametrize(
    "name", ["convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_b0", "resnet18", "regnety_002"]
)
def test_timms_own_models(name):
    timm = pytest.importorskip("timm", reason="timm (with torchvision) is not installed", exc_type=ImportError)
    from timm.models._manipulate import group_parameters

    with torch.device("meta"):
        model = timm.create_model(name)
    assert layer_depths(list_parameters(model), by="block") == group_parameters(
        model, model.group_matcher(coarse=False), reverse=True
    )
