"""How far each parameter stands from the input: blocks numbered one after the other, what is before and after them.

Frozen parameters count like all others: freezing the first blocks must not move the depth of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.layers.stacks import Stage, block_lists, companions, find_stack, stages_of
from lrdiff_core.rates.layers.tree import ModuleTree
from lrdiff_core.rates.matching import Match, describe, help_for_name, matches_any
from lrdiff_core.rates.names import ParamInfo, some
from lrdiff_core.text import nearest

__all__ = ["Layering", "Layers", "check_by", "find_layers", "layer_depths"]

Layers: TypeAlias = "str | Sequence[Match] | None"

_BY = (None, "block", "stage")


class Layering(NamedTuple):
    """Depths by parameter name, and what was taken for layers, in words."""

    depths: dict[str, int]
    text: str


def layer_depths(infos: Sequence[ParamInfo], layers: Layers = None, by: str | None = None) -> dict[str, int]:
    """The depth of every parameter: 0 for what comes before the blocks, then 1 to n for them, n + 1 for what follows.

    Args:
        infos: the parameters, in model order.
        layers: None: the blocks are found (below). A text: the name of the module whose children are the blocks. A
            list: the layers themselves from input to output, each a match as in a rule, numbered from 0.
        by: what is numbered where blocks stand in stages (ConvNeXt, Swin, EfficientNet, ResNet). None: the blocks,
            and all that follows the last one is n + 1, as in BEiT's code. ``"block"``: the blocks, as timm's
            ``group_matcher`` numbers them: norms and convolutions between the last block and the head count with that
            block. ``"stage"``: likewise, one number a stage.

    How the blocks are found: a block list is a ``ModuleList`` or ``Sequential`` in which one class stands at least
    twice, or a module whose children are blocks with one name and a number; it lies in no other such list. The
    longest list of modules with modules inside is taken, together with its numbered siblings (``layer1`` to
    ``layer4`` of a ResNet); where its children hold block lists themselves, those are the blocks and the children
    are stages. Without any list, the children of the root are the blocks. What stands before the first block in
    registration order is the stem, what stands after the last is the head.

    Sources: Bao et al. 2021, arXiv:2106.08254 (BEiT); Wightman 2019, PyTorch Image Models,
    https://github.com/huggingface/pytorch-image-models.

    Raises:
        RateError: two lists could be meant; a layer matches nothing or the same as another; a parameter is left over.

    Example:
        >>> from lrdiff_core.rates.names import list_parameters
        >>> blocks = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(3)])
        >>> model = nn.ModuleDict({"embed": nn.Embedding(5, 2), "blocks": blocks, "head": nn.Linear(2, 1, bias=False)})
        >>> layer_depths(list_parameters(model))
        {'embed.weight': 0, 'blocks.0.weight': 1, 'blocks.1.weight': 2, 'blocks.2.weight': 3, 'head.weight': 4}
    """
    return find_layers(infos, layers, by).depths


def find_layers(infos: Sequence[ParamInfo], layers: Layers = None, by: str | None = None) -> Layering:
    """As :func:`layer_depths`, with words about what was taken for layers."""
    check_by(by)
    if layers is not None and not isinstance(layers, str):
        if by is not None:
            raise RateError(
                f'layers are listed, and by is "{by}"', help="leave by out: a list of layers says what is numbered"
            )
        return Layering(_from_list(infos, list(layers)), f"{len(layers)} layers as listed")
    tree = ModuleTree.of(infos)
    if layers is None:
        stages, of = find_stack(tree)
    elif not tree.children.get(layers):
        lists = block_lists(tree)
        raise RateError(f'"{layers}" is not a module with blocks', help=nearest(layers, lists, "block lists"))
    else:
        stages = [Stage(layers, tuple(tree.children[layers]))] if by is None else stages_of(tree, layers)
        of = layers
    if by == "stage" and len(stages) > 1:
        blocks, inside = [stage.name for stage in stages], []
        text = f"{len(blocks)} stages"
    else:
        blocks, inside = [block for stage in stages for block in stage.blocks], stages if len(stages) > 1 else []
        text = f"{len(blocks)} block{'' if len(blocks) == 1 else 's'}"
        text += f" in {len(stages)} stages" if len(stages) > 1 else ""
    number = {name: i for i, name in enumerate(blocks, 1)}
    first_of = {stage.name: number[stage.blocks[0]] for stage in inside}
    for names in companions(tree, stages):  # an entry for each stage counts with it; the first one may be the stem
        for name, stage in list(zip(names, stages, strict=True))[1:]:
            number[name] = first_of[stage.name] if inside else number[stage.name]
    depths = _numbered(infos, number, first_of, last=len(blocks))
    if by is not None and blocks:
        after = [info for info in infos if depths[info.name] > len(blocks)]
        depths |= dict.fromkeys(_before_the_head(after, blocks[-1]), len(blocks))
    return Layering(depths, f"{text} of {of}" if of else text)


def check_by(by: str | None) -> None:
    """Refuse what is neither blocks nor stages."""
    if by not in _BY:
        raise RateError(f"layers are counted by {by!r}", help='write by="block" or by="stage", or leave it out')


def _from_list(infos: Sequence[ParamInfo], layers: list[Match]) -> dict[str, int]:
    depths: dict[str, int] = {}
    hit: set[int] = set()
    for info in infos:
        # Every name of a tied weight counts; where they lie in two layers, the first name says which.
        for places in (info.occurrences[:1], info.occurrences):
            found = [depth for depth, layer in enumerate(layers) if matches_any(layer, info, places)]
            hit.update(found)
            if found and info.name not in depths:
                depths[info.name] = found[0]
            if len(found) > 1 and len(places) == 1:
                both = " and ".join(f'"{describe(layers[depth])}"' for depth in found[:2])
                raise RateError(f'"{info.name}" is in two layers: {both}', help="let every parameter be in one layer")
    for depth, layer in enumerate(layers):
        if depth not in hit:
            raise RateError(
                f'layer "{describe(layer)}" matches no parameter', help=help_for_name(describe(layer), infos)
            )
    left = [info.name for info in infos if info.name not in depths]
    if left:
        raise RateError(
            f"{len(left)} parameters are in no layer: {some(left)}", help="add them to a layer, from input to output"
        )
    return depths


def _numbered(
    infos: Sequence[ParamInfo], number: Mapping[str, int], first_of: Mapping[str, int], *, last: int
) -> dict[str, int]:
    """Before the blocks 0; between two of them the one before, or in a stage that begins its first; after them n + 1.

    Args:
        infos: the parameters.
        number: of each block, by name.
        first_of: for a module that holds blocks and more, the number of its first block.
        last: the number of the last block.
    """
    blocks = {info.name: _innermost(info, number) for info in infos}
    stages = {info.name: _innermost(info, first_of) for info in infos}
    remaining = sum(blocks[info.name] is not None or stages[info.name] is not None for info in infos)
    depths: dict[str, int] = {}
    last_seen = 0
    for info in infos:
        block, stage = blocks[info.name], stages[info.name]
        if block is not None or stage is not None:
            remaining -= 1
            last_seen = block if block is not None else max(last_seen, stage or 0)
            depths[info.name] = last_seen
        else:
            depths[info.name] = last_seen if remaining else last + 1
    return depths


def _innermost(info: ParamInfo, number: Mapping[str, int]) -> int | None:
    found = [number[step.name] for step in info.occurrences[0].path if step.name in number]
    return found[-1] if found else None


def _before_the_head(after: Sequence[ParamInfo], last_block: str) -> list[str]:
    """Names of what follows the blocks and precedes the head: the first part with a linear layer, or the last part."""
    parts: dict[str, list[ParamInfo]] = {}
    for info in after:
        above = [step.name for step in info.occurrences[0].path]
        part = next((name for name in above if name and not f"{last_block}.".startswith(f"{name}.")), info.name)
        parts.setdefault(part, []).append(info)
    names = list(parts)
    head = next((i for i, name in enumerate(names) if _is_head(name, parts[name])), None)
    if head is None:  # no head but, perhaps, a convolution
        weighty = [i for i, name in enumerate(names) if any(len(info.shape) > 1 for info in parts[name])]
        head = weighty[-1] if weighty else len(names)
    return [info.name for name in names[:head] for info in parts[name]]


def _is_head(name: str, infos: Sequence[ParamInfo]) -> bool:
    """A part with a linear layer, or the norm of one (timm's ``fc_norm``)."""
    linear = any(isinstance(info.occurrences[0].owner, nn.Linear) for info in infos)
    return linear or name.rpartition(".")[2].startswith(("fc", "head", "pre_logits", "classifier"))
