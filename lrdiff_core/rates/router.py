"""Hidden matrices to Muon, everything else to AdamW, each at its own rate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from lrdiff_core.errors import RateError
from lrdiff_core.rates.layers.head import find_head
from lrdiff_core.rates.matching import Match, as_match, describe, help_for_dead, matches_any
from lrdiff_core.rates.names import ParamInfo, some
from lrdiff_core.rates.options import check_options
from lrdiff_core.rates.values import check_decay, check_rate
from lrdiff_core.text import count

__all__ = ["MuonRouter", "Route"]

_LAYERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
_WEIGHT = re.compile(r"weight|weight_orig|(in|q|k|v)_proj_weight|weight_(ih|hh|hr)(_l\d+(_reverse)?)?")


class Route(NamedTuple):
    """What a router says of one parameter, where no rule does."""

    is_muon: bool
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MuonRouter:
    """Hidden matrices to Muon; embeddings, head, input layer, norms, biases and all else to AdamW.

    ::

        param_groups(model, lr=3e-4, router=MuonRouter(lr=0.02))

    Its groups say ``use_muon``, as :class:`lrdiff_core.optim.MuonAdamW` reads it. Convolutions are flattened to
    [out, in * size], weights of several experts in one tensor are stacks of matrices (``matrices="stack"``), and
    ``heads`` splits a projection into one matrix a head. For torch's own Muon, which takes matrices alone, write
    ``only_2d=True`` and make two optimizers of ``plan.split("use_muon")``.

    What is a hidden matrix: the weight of a linear layer, convolution, attention or recurrent layer (or a matrix called
    ``weight`` of a module of your own) that is neither embedding nor head, nor the first layer of a model without
    embeddings; and a raw tensor of three dimensions inside a list of blocks. What no layer holds as its weight (Mamba's
    ``A_log``, tables of positions) goes to AdamW, and the plan says so. A rule with ``options={"use_muon": ...}``
    decides otherwise.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
    https://kellerjordan.github.io/posts/muon/.

    Args:
        lr: rate of the matrices; rules and scales multiply it as they do the plan's.
        weight_decay: of the matrices; None: the plan's.
        head: a match as in a rule; None: the last child module, as for ``HeadMultiplier``; []: there is none.
        heads: number of heads by match, for weights [heads * size, in] that are to be one matrix a head.
        only_2d: leaves convolutions and stacks to AdamW.
        options: more options of the matrices' groups, such as ``{"momentum": 0.9}``.

    Raises:
        RateError: a rate, decay or number of heads that cannot be; when the plan is made: a head that cannot be told,
            a match that takes no matrix.

    Example:
        >>> from lrdiff_core.rates import param_groups
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> plan = param_groups(model, lr=3e-4, router=MuonRouter(lr=0.02))
        >>> [(group["param_names"], group["lr"], group["use_muon"]) for group in plan.groups()]
        [(['0.weight', '1.bias', '2.weight', '2.bias'], 0.0003, False), (['1.weight'], 0.02, True)]
    """

    lr: float
    weight_decay: float | None = None
    head: Match | None = None
    heads: Mapping[str, int] = field(default_factory=dict)
    only_2d: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", check_rate(self.lr, "lr of MuonRouter"))
        if self.weight_decay is not None:
            object.__setattr__(self, "weight_decay", check_decay(self.weight_decay, "weight_decay of MuonRouter"))
        object.__setattr__(self, "options", dict(check_options(self.options, "MuonRouter")))
        for match, number in self.heads.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise RateError(f'heads of "{match}" are {number!r}', help="write a whole number, 1 or more")

    def routes(self, infos: Sequence[ParamInfo]) -> dict[str, Route]:
        """Where each parameter goes, by name."""
        kinds = {info.name: _kind(info) for info in infos}
        has_none = isinstance(self.head, Sequence) and not self.head
        apart = {*(() if has_none else find_head(infos, self.head).names), *_input_layer(infos)}
        hidden = {name: kind for name, kind in kinds.items() if kind in ("matrix", "flatten", "stack")}
        heads = self._heads(infos, hidden)
        found = {}
        for info in infos:
            kind = hidden.get(info.name)
            if kind is None or info.name in apart or (self.only_2d and kind != "matrix"):
                found[info.name] = Route(False, {"use_muon": False})
                continue
            shape = {} if kind == "matrix" else {"matrices": kind}
            split = {"heads": heads[info.name]} if info.name in heads else {}
            found[info.name] = Route(True, {"use_muon": True, **shape, **split, **self.options})
        return found

    def found(self, infos: Sequence[ParamInfo]) -> str:
        """What goes to which optimizer, for the last lines of a plan."""
        routes = self.routes(infos)
        taken = [route.options.get("matrices", "matrix") for route in routes.values() if route.is_muon]
        kinds = {
            "matrix": ("matrix", "matrices"),
            "flatten": ("convolution", "convolutions"),
            "stack": ("stack", "stacks"),
        }
        parts = [count(taken.count(kind), *words) for kind, words in kinds.items() if kind in taken]
        raw = [info.name for info in infos if _kind(info) == "raw"]
        rest = f", also {some(raw, 3)} (no layer's weight)" if raw else ""
        return f"Muon takes {' and '.join(parts) or 'nothing'}, AdamW the rest{rest}"

    def _heads(self, infos: Sequence[ParamInfo], hidden: Mapping[str, str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for text, number in self.heads.items():
            match = as_match(text)
            taken = [info for info in infos if info.name in hidden and matches_any(match, info)]
            if not taken:
                raise RateError(f'heads of "{describe(match)}" match no matrix', help=help_for_dead(match, infos))
            for info in taken:
                if info.shape[-2 if hidden[info.name] == "stack" else 0] % number:
                    raise RateError(
                        f'"{info.name}" is {list(info.shape)} and cannot be split into {number} heads',
                        help="give a number that divides its rows",
                    )
                found.setdefault(info.name, number)
        return found


def _kind(info: ParamInfo) -> str:
    """``matrix``, ``flatten``, ``stack``: hidden; ``vector``, ``embedding``, ``raw``: none."""
    owner, own_name = info.occurrences[0].owner, info.name.rpartition(".")[2]
    sizes = [size for size in info.shape if size > 1]
    if len(info.shape) < 2 or len(sizes) < 2:
        return "vector"
    if any(isinstance(place.owner, nn.Embedding | nn.EmbeddingBag) for place in info.occurrences):
        return "embedding"
    if is_parametrized(owner) and ".original" in info.name:
        return "raw"  # what a parametrization makes of it is the matrix
    is_layer = isinstance(owner, _LAYERS) or own_name == "weight"
    if is_layer and _WEIGHT.fullmatch(own_name):
        if isinstance(owner, nn.Bilinear):
            return "stack"
        return "matrix" if len(info.shape) == 2 else "flatten"
    in_block = any(isinstance(step.module, nn.ModuleList | nn.Sequential) for step in info.occurrences[0].path)
    if len(info.shape) == 3 and len(sizes) == 3 and in_block:
        return "stack"
    return "raw"


def _input_layer(infos: Sequence[ParamInfo]) -> list[str]:
    """The weights of the layer that reads the rows, where no embedding does."""
    kinds = [_kind(info) for info in infos]
    if "embedding" in kinds:
        return []
    first = next((info for info, kind in zip(infos, kinds, strict=True) if kind in ("matrix", "flatten")), None)
    owner = None if first is None else first.occurrences[0].owner
    return [info.name for info in infos if info.occurrences[0].owner is owner]
