"""Which parameters are the head: the last registered part of a model, unless that is plainly none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrdiff_core.errors import RateError
from lrdiff_core.rates.layers.stacks import holds_stack
from lrdiff_core.rates.layers.tree import ModuleTree
from lrdiff_core.rates.matching import Match, describe, matches_any, matching
from lrdiff_core.rates.names import ParamInfo, some

__all__ = ["Head", "find_head"]


@dataclass(frozen=True)
class Head:
    """Names of the head's parameters, and what was taken for it, in words."""

    names: tuple[str, ...]
    text: str


def find_head(infos: Sequence[ParamInfo], match: Match | None = None) -> Head:
    """What a match takes, every name of a tied weight counting; without one, the last child of the module tree.

    Raises:
        RateError: the match takes nothing; the last child holds every parameter, a stack of blocks (a decoder, say) or
            no matrix.

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import list_parameters
        >>> model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "lm_head": nn.Linear(4, 9, bias=False)})
        >>> model["lm_head"].weight = model["embed"].weight
        >>> find_head(list_parameters(model))
        Head(names=('embed.weight',), text='lm_head (embed.weight is tied with it)')
    """
    chosen = _last_child(infos) if match is None else match
    taken = matching(chosen, infos, "head")
    elsewhere = [info.name for info in taken if not matches_any(chosen, info, info.occurrences[:1])]
    tied = f" ({some(elsewhere)} is tied with it)" if elsewhere else ""
    return Head(tuple(info.name for info in taken), f"{describe(chosen)}{tied}")


def _last_child(infos: Sequence[ParamInfo]) -> str:
    tree = ModuleTree.of(infos)
    children = tree.children[tree.trunk]
    if not children:
        raise RateError("the model has no child modules to find a head among", help="name it: head=...")
    last = children[-1]
    if blocks := holds_stack(tree, last):
        raise RateError(
            f'the head cannot be determined: the last part, "{last}", holds the blocks "{blocks}" itself',
            help=f'name it: head="{last}" for all of that, or a part of it',
        )
    inside = [info for info in infos if matches_any(last, info)]
    if all(matches_any(last, info, [place]) for info in infos for place in info.occurrences):
        raise RateError(
            f'the head cannot be determined: the last part, "{last}", holds every parameter',
            help="name it: head=...",
        )
    if all(len(info.shape) < 2 for info in inside) and any(len(info.shape) > 1 for info in infos):
        raise RateError(
            f'the head cannot be determined: the last part, "{last}", is a norm or a bias',
            help=f"name it: head=...; the parts are: {some(children, 12)}",
        )
    return last
