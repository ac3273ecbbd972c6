"""How far each parameter stands from the input, read from the module tree.

Frozen parameters count like all others: freezing the first blocks must not move the depth of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo, modules_by_name, some
from lrdiff_core.rates.rules import Match, describe, matches
from lrdiff_core.text import nearest

__all__ = ["Layers", "head_of", "layer_depths"]

Layers: TypeAlias = "str | Sequence[Match] | None"


def layer_depths(infos: Sequence[ParamInfo], layers: Layers = None) -> dict[str, int]:
    """The depth of every parameter: 0 for what comes before the blocks, then 1 to n for them, n + 1 for what follows.

    Args:
        infos: the parameters, in model order.
        layers: None: the blocks are found (below). A text: the name of the module whose children are the blocks. A
            list: the layers themselves from input to output, each a match as in a rule, numbered from 0.

    How the blocks are found: a block list is a ``ModuleList`` or ``Sequential`` in which one class stands at least
    twice, and which lies in no other such list. The longest is taken, together with its siblings of the same blocks
    (the four stages of a ResNet). Without any, the children of the root are the blocks. What stands before the first
    block in registration order is the stem, what stands after the last is the head.

    Raises:
        RateError: two lists could be meant; a layer matches nothing or the same as another; a parameter is left over.

    Example:
        >>> from lrdiff_core.rates.names import list_parameters
        >>> blocks = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(3)])
        >>> model = nn.ModuleDict({"embed": nn.Embedding(5, 2), "blocks": blocks, "head": nn.Linear(2, 1, bias=False)})
        >>> layer_depths(list_parameters(model))
        {'embed.weight': 0, 'blocks.0.weight': 1, 'blocks.1.weight': 2, 'blocks.2.weight': 3, 'head.weight': 4}
    """
    if layers is None:
        return _from_blocks(infos, _find_blocks(infos))
    if isinstance(layers, str):
        blocks = _children(infos, layers)
        if len(blocks) < 2:
            names = [name for name in modules_by_name(infos) if len(_children(infos, name)) > 1 and name]
            raise RateError(f'"{layers}" is no module with several blocks', help=nearest(layers, names, "block lists"))
        return _from_blocks(infos, blocks)
    return _from_list(infos, list(layers))


def head_of(infos: Sequence[ParamInfo]) -> str:
    """The name of the last registered child module that holds parameters, below wrappers with a single child."""
    name = _trunk(infos)
    children = _children(infos, name)
    if not children:
        raise RateError("the model has no child modules to find a head among", help="name it: head=...")
    return children[-1]


def _from_list(infos: Sequence[ParamInfo], layers: list[Match]) -> dict[str, int]:
    depths: dict[str, int] = {}
    hit: set[int] = set()
    for info in infos:
        found = [depth for depth, layer in enumerate(layers) if matches(layer, info, info.occurrences[0])]
        hit.update(found)
        if len(found) > 1:
            both = " and ".join(f'"{describe(layers[depth])}"' for depth in found[:2])
            raise RateError(f'"{info.name}" is in two layers: {both}', help="let every parameter be in one layer")
        if found:
            depths[info.name] = found[0]
    for depth, layer in enumerate(layers):
        if depth not in hit:
            names = [name for name in modules_by_name(infos) if name]
            raise RateError(
                f'layer "{describe(layer)}" matches no parameter', help=nearest(describe(layer), names, "modules")
            )
    left = [info.name for info in infos if info.name not in depths]
    if left:
        raise RateError(
            f"{len(left)} parameters are in no layer: {some(left)}", help="add them to a layer, from input to output"
        )
    return depths


def _from_blocks(infos: Sequence[ParamInfo], blocks: list[str]) -> dict[str, int]:
    depths: dict[str, int] = {}
    last_seen = 0
    inside = {}
    for info in infos:
        block = next((i for i, name in enumerate(blocks, 1) if info.name.startswith(f"{name}.")), None)
        if block is not None:
            inside[info.name] = block
    remaining = len(inside)
    for info in infos:
        if info.name in inside:
            last_seen = inside[info.name]
            remaining -= 1
            depths[info.name] = last_seen
        else:  # before the blocks 0, between two of them the one before, after them n + 1
            depths[info.name] = last_seen if remaining else len(blocks) + 1
    return depths


def _find_blocks(infos: Sequence[ParamInfo]) -> list[str]:
    modules = modules_by_name(infos)
    lists: dict[str, list[str]] = {}
    for name, module in modules.items():
        children = _children(infos, name)
        kinds = [type(modules[child]) for child in children]
        is_list = isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) > len(set(kinds))
        if is_list and not any(_is_below(name, outer) for outer in lists):
            lists[name] = children
    if not lists:
        return _children(infos, _trunk(infos))
    longest = max(lists, key=lambda name: len(lists[name]))  # the first of equals
    kinds_of = {name: {type(modules[child]) for child in children} for name, children in lists.items()}
    parent = longest.rpartition(".")[0]
    same = [n for n in lists if n.rpartition(".")[0] == parent and n and kinds_of[n] & kinds_of[longest]] or [longest]
    deep = any(len(_children(infos, child)) for child in lists[longest])
    for name, children in lists.items():
        rival = len(children) >= 3 and 2 * len(children) >= len(lists[longest])
        if name not in same and rival and (not deep or any(_children(infos, child) for child in children)):
            raise RateError(
                f'the layers could be those of "{longest}" ({len(lists[longest])}) or of "{name}" ({len(children)})',
                help=f'say which: layers="{longest}", or list all layers from input to output',
            )
    return [block for name in same for block in lists[name]]


def _children(infos: Sequence[ParamInfo], name: str) -> list[str]:
    """Names of the child modules of a module that hold parameters, in order."""
    prefix = f"{name}." if name else ""
    found: dict[str, None] = {}
    for info in infos:
        if info.name.startswith(prefix):
            child, dot, _ = info.name[len(prefix) :].partition(".")
            if dot:
                found[prefix + child] = None
    return list(found)


def _trunk(infos: Sequence[ParamInfo]) -> str:
    """The root, or the first module below it that has more than one child."""
    name = ""
    while len(children := _children(infos, name)) == 1 and _children(infos, children[0]):
        name = children[0]
    return name


def _is_below(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.") or outer == ""
