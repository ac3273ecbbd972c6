"""Finding the stack of blocks in a module tree, and asking where two could be meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lrdiff_core.errors import RateError
from lrdiff_core.rates.layers.tree import ModuleTree

__all__ = ["Stage", "block_lists", "companions", "find_stack", "holds_stack", "stages_of"]

_PERIOD = 4  # blocks of several kinds may take turns
# Modules in lists of these names work side by side, not one after the other.
_PARALLEL = frozenset({"experts", "branches", "heads", "paths", "towers", "adapters"})


@dataclass(frozen=True)
class Stage:
    """Blocks that follow each other, and the module that holds them (and maybe a downsampling layer)."""

    name: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class _Stack:
    """One list of blocks, or several that continue each other."""

    lists: tuple[str, ...]
    stages: tuple[Stage, ...]
    is_deep: bool  # of blocks, not of single layers

    @property
    def size(self) -> int:
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def text(self) -> str:
        return ", ".join(self.lists)

    @property
    def own_name(self) -> str:
        """What the list is called inside its parent."""
        return self.lists[0].rpartition(".")[2]


def find_stack(tree: ModuleTree) -> tuple[list[Stage], str]:
    """The stages of the model's stack of blocks, and the lists that hold them; without lists, the root's children.

    Raises:
        RateError: two stacks could be meant.
    """
    stacks = _stacks(tree, tree.trunk)
    in_line = [stack for stack in stacks if stack.own_name not in _PARALLEL]
    several = [stack for stack in in_line or stacks if stack.size > 1]
    single = [stack for stack in stacks if stack.size == 1]
    main, rivals = None, []
    if several:
        main = max(several, key=lambda stack: (stack.is_deep, stack.size))  # the first of equals
        rivals = [stack for stack in several if stack is not main and _is_rival(tree, stack, main, stacks)]
        rivals += [stack for stack in single if stack.own_name == main.own_name]
    elif single:
        main = single[0]
        rivals = [stack for stack in single[1:] if stack.own_name == main.own_name]
        if not rivals and (len(single) > 1 or f"{main.text}.".startswith(f"{tree.children[tree.trunk][-1]}.")):
            main = None  # a list of one in the head says nothing about the rest
    if main is None:
        return [Stage(tree.trunk, tuple(tree.children[tree.trunk]))], tree.trunk
    if rivals:
        either = [f'"{stack.text}" ({stack.size})' for stack in stacks if stack is main or stack in rivals]
        raise RateError(
            f"the layers could be those of {' or of '.join(either)}",
            help=f'say which: layers="{main.lists[0]}", or list all layers from input to output',
        )
    return list(main.stages), main.text


def holds_stack(tree: ModuleTree, name: str) -> str | None:
    """The block list in a module whose blocks hold modules themselves, if there is one."""
    stacks = (stack for stack in _stacks(tree, name) if stack.own_name not in _PARALLEL)
    return next((stack.text for stack in stacks if stack.is_deep), None)


def block_lists(tree: ModuleTree) -> list[str]:
    """Modules with several children, for messages."""
    return [name for name, children in tree.children.items() if len(children) > 1 and name]


def companions(tree: ModuleTree, stages: Sequence[Stage]) -> list[list[str]]:
    """Lists beside a list of stages with one entry for each of them: patch embeddings, norms."""
    parent = stages[0].name.rpartition(".")[0]
    beside = [name for name in tree.children[parent.rpartition(".")[0]] if name != parent] if parent else []
    kinds = nn.ModuleList | nn.ModuleDict
    return [
        tree.children[name]
        for name in beside
        if isinstance(tree.modules[name], kinds) and len(tree.children[name]) == len(stages) > 1
    ]


def stages_of(tree: ModuleTree, name: str) -> list[Stage]:
    """The children of a block list: one stage of blocks, or stages themselves where they hold block lists."""
    children = tree.children[name]
    inner = {child: _inner_list(tree, child) for child in children}
    kinds = {tree.kinds[child] for child in children if inner[child] is not None}
    # A stage with a single block looks like a block; that others of its class are stages tells it.
    tails = {found.removeprefix(child) for child, found in inner.items() if found is not None}
    stages = []
    for child in children:
        found = inner[child]
        if found is None and tree.kinds[child] in kinds:
            found = next((child + tail for tail in sorted(tails) if tree.children.get(child + tail)), None)
        blocks = (child,) if found is None else tuple(one for stage in stages_of(tree, found) for one in stage.blocks)
        stages.append(Stage(child, blocks))
    return stages if kinds else [Stage(name, tuple(children))]


def _stacks(tree: ModuleTree, below: str) -> list[_Stack]:
    """Lists of blocks that lie in no other such list, in order of registration, siblings of one family joined."""
    joined: dict[tuple[str, str, bool], list[str]] = {}
    for name in _outermost(tree, below):
        parent, _, own = name.rpartition(".")
        deep = any(map(tree.is_block, tree.children[name]))
        joined.setdefault((parent, _family(own), deep), []).append(name)
    stacks = []
    for lists in joined.values():
        stages = tuple(stage for name in lists for stage in stages_of(tree, name))
        deep = any(tree.is_block(block) for stage in stages for block in stage.blocks)
        stacks.append(_Stack(tuple(lists), stages, deep))
    return stacks


def _outermost(tree: ModuleTree, name: str) -> Iterator[str]:
    if _is_block_list(tree, name):
        yield name
        return
    for child in tree.children[name]:
        yield from _outermost(tree, child)


def _is_block_list(tree: ModuleTree, name: str) -> bool:
    children, module = tree.children[name], tree.modules[name]
    if len(children) == 1:  # layer1 to layer4 may hold a block each
        one_of = re.search(r"\d$", name) and re.search(r"\d$", children[0])
        return bool(isinstance(module, nn.ModuleList) or one_of) and tree.is_block(children[0])
    kinds = [tree.kinds[child] for child in children]
    return len(set(kinds)) < len(kinds) and _is_list(tree, name)


def _is_list(tree: ModuleTree, name: str) -> bool:
    """A list by its class, or by what its children are called: blocks with one name and a number."""
    children, module = tree.children[name], tree.modules[name]
    if isinstance(module, nn.ModuleList | nn.Sequential):
        return True
    own = [child[len(name) :].removeprefix(".") for child in children]
    numbered = len({re.sub(r"\d+", "", one) for one in own}) == 1 and all(re.search(r"\d", one) for one in own)
    return numbered and all(tree.is_block(child) for child in children)


def _family(own_name: str) -> str:
    """``layer1`` and ``layer2`` continue each other, so do ``a`` and ``b``; an encoder and a decoder do not."""
    family = re.sub(r"\d+", "0", own_name)
    return re.sub(r"(^|_)[a-z]$", r"\1a", family)


def _inner_list(tree: ModuleTree, name: str) -> str | None:
    """The block list that makes a module a stage: itself, or the larger of at most two parts that hold matrices."""
    if _is_chain(tree, name):
        return name
    weighty = sorted(filter(tree.matrices.get, tree.children[name]), key=lambda child: -tree.matrices[child])
    return weighty[0] if weighty and len(weighty) <= 2 and _is_chain(tree, weighty[0]) else None


def _is_chain(tree: ModuleTree, name: str) -> bool:
    """Whether blocks, two of them alike, follow each other in a list."""
    children = tree.children[name]
    is_list = isinstance(tree.modules[name], nn.ModuleList | nn.Sequential | nn.ModuleDict)
    if not is_list or name.rpartition(".")[2] in _PARALLEL or not all(tree.children[child] for child in children):
        return False
    pairs = ((one, other) for i, one in enumerate(children) for other in children[i + 1 : i + _PERIOD])
    return any(tree.is_block(one) and _alike(tree, one, other) for one, other in pairs)


def _alike(tree: ModuleTree, one: str, other: str) -> bool:
    """Whether two modules agree in class, and so do the children that both have."""
    if tree.kinds[one] is not tree.kinds[other]:
        return False
    here = {child[len(one) :]: child for child in tree.children[one]}
    there = {child[len(other) :]: child for child in tree.children[other]}
    return all(_alike(tree, here[tail], there[tail]) for tail in here.keys() & there.keys())


def _is_rival(tree: ModuleTree, stack: _Stack, main: _Stack, stacks: Sequence[_Stack]) -> bool:
    """Whether the layers could be those of another stack than the main one."""
    if not main.is_deep:
        return not stack.is_deep and stack.size >= 3 and 2 * stack.size >= main.size
    if not stack.is_deep:
        return False  # a head of linear layers
    # Convolutions before the blocks are a stem, unless each belongs to a stage of its own.
    is_before = stacks.index(stack) < stacks.index(main)
    return not (is_before and stack.size != len(main.stages) and _is_convolutional(tree, stack))


def _is_convolutional(tree: ModuleTree, stack: _Stack) -> bool:
    def leaves(name: str) -> Iterator[nn.Module]:
        if not tree.children[name]:
            yield tree.modules[name]
        for child in tree.children[name]:
            yield from leaves(child)

    found = [leaf for stage in stack.stages for block in stage.blocks for leaf in leaves(block)]
    return any(isinstance(leaf, _ConvNd) for leaf in found) and not any(isinstance(leaf, nn.Linear) for leaf in found)
