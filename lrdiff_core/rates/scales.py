"""Scales: factors that compose with the base rate, one class a scheme.

The effective rate of a parameter is ``base rate * multiplier of its rule * factor of each scale``; a rule's explicit
``lr`` stops all of it. A scale of your own needs ``label`` and ``factors`` (the protocol below) and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lrdiff_core.errors import RateError
from lrdiff_core.rates.depth import Layers, head_of, layer_depths
from lrdiff_core.rates.names import ParamInfo, modules_by_name
from lrdiff_core.rates.rules import Match, describe, matches
from lrdiff_core.rates.values import check_rate
from lrdiff_core.text import nearest

__all__ = ["HeadMultiplier", "LayerDecay", "LoRAPlus", "Scale", "Slices"]


@runtime_checkable
class Scale(Protocol):
    """What a scale has to offer; a protocol, so that a user's own needs nothing of ours."""

    @property
    def label(self) -> str:
        """How plans and messages call the scale."""
        ...

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        """A positive factor by parameter name; a name left out counts as 1."""
        ...


@dataclass(frozen=True)
class LayerDecay:
    """Layer-wise learning rate decay: each layer learns slower than the one above it by a fixed factor. ::

        factor = decay ** (max depth - depth)

    The deepest layer (the head, where there is one) has factor 1. Depths: :func:`lrdiff_core.rates.layer_depths`.

    Sources: Howard and Ruder 2018, arXiv:1801.06146 (decay 1/2.6); Clark et al. 2020, arXiv:2003.10555;
    Bao et al. 2021, arXiv:2106.08254, whose code numbers embeddings 0, blocks 1 to n, everything else n + 1.

    Args:
        decay: the factor from a layer to the one below it, usually 0.65 to 0.95.
        layers: None: found in the module tree; a text: the module that holds the blocks; or the layers from input to
            output, each a match.

    Raises:
        RateError: ``decay`` is not a positive finite number; the layers cannot be told (when the plan is made).

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import param_groups
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        >>> plan = param_groups(model, lr=1.0, scale=[LayerDecay(0.5)])
        >>> [group["lr"] for group in plan.groups()]
        [0.25, 0.5, 1.0]
    """

    decay: float
    layers: Layers = None

    def __post_init__(self) -> None:
        check_rate(self.decay, "decay of LayerDecay")

    @property
    def label(self) -> str:
        return f"LayerDecay({self.decay:g})"

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        depths = layer_depths(infos, self.layers)
        top = max(depths.values())
        return {name: self.decay ** (top - depth) for name, depth in depths.items()}


@dataclass(frozen=True)
class Slices:
    """Rates in geometric progression over the layers, fastai's ``slice(low, high)`` as fractions of the base rate. ::

        factor = low * (high / low) ** (i / (n - 1)),   layer i of n, from input to output

    fastai's ``slice(1e-5, 1e-3)`` is ``lr=1e-3`` with ``Slices(1e-2)``; its ``slice(1e-3)`` (a tenth for all but the
    last) is ``lr=1e-4`` with ``HeadMultiplier(10)``. A single layer gets ``high``.

    Source: Howard and Gugger 2020, "fastai: A Layered API for Deep Learning", arXiv:2002.04688.

    Args:
        low: the factor of the first layer.
        high: the factor of the last layer.
        layers: as for :class:`LayerDecay`; fastai's groups are coarser than blocks, so usually two or three matches.

    Raises:
        RateError: a factor is not a positive finite number; the layers cannot be told (when the plan is made).

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import param_groups
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
        >>> plan = param_groups(model, lr=1e-2, scale=[Slices(1e-2)])
        >>> [f"{group['lr']:.0e}" for group in plan.groups()]
        ['1e-04', '1e-03', '1e-02']
    """

    low: float
    high: float = 1.0
    layers: Layers = None

    def __post_init__(self) -> None:
        check_rate(self.low, "low of Slices")
        check_rate(self.high, "high of Slices")

    @property
    def label(self) -> str:
        return f"Slices({self.low:g}, {self.high:g})"

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        depths = layer_depths(infos, self.layers)
        index = {depth: i for i, depth in enumerate(sorted(set(depths.values())))}  # without a stem, 1 is the first
        last = len(index) - 1
        if last == 0:
            return dict.fromkeys(depths, self.high)
        step = self.high / self.low
        return {
            name: self.high if index[depth] == last else self.low * step ** (index[depth] / last)
            for name, depth in depths.items()
        }


@dataclass(frozen=True)
class HeadMultiplier:
    """The head learns ``multiplier`` times as fast as the rest: the usual start of fine-tuning. ::

        factor = multiplier in the head, 1 elsewhere

    Source: Girshick et al. 2014, arXiv:1311.2524, who fine-tune at a tenth of the initial rate; Chen et al. 2017,
    arXiv:1606.00915, give the new last layer ten times the rate.

    Args:
        multiplier: a positive number, often 10.
        head: a match as in a rule; None takes the last registered child module that holds parameters.

    Raises:
        RateError: the multiplier is not a positive finite number; no head is found (when the plan is made).

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import param_groups
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        >>> plan = param_groups(model, lr=0.5, scale=[HeadMultiplier(10)])
        >>> [group["lr"] for group in plan.groups()]
        [0.5, 5.0]
    """

    multiplier: float
    head: Match | None = None

    def __post_init__(self) -> None:
        check_rate(self.multiplier, "multiplier of HeadMultiplier")

    @property
    def label(self) -> str:
        return f"HeadMultiplier({self.multiplier:g})"

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        head = head_of(infos) if self.head is None else self.head
        found = {info.name: float(self.multiplier) for info in infos if matches(head, info, info.occurrences[0])}
        if not found:
            names = [name for name in modules_by_name(infos) if name]
            raise RateError(
                f'head "{describe(head)}" matches no parameter', help=nearest(describe(head), names, "modules")
            )
        return found


@dataclass(frozen=True)
class LoRAPlus:
    """LoRA+: the B matrices of low-rank adapters learn ``ratio`` times as fast as the A matrices. ::

        factor = ratio for lora_B matrices, 1 for everything else

    Biases, heads and norms are untouched. (PEFT's helper gives the B rate to every 1-D parameter.) LoRA matrices of
    embeddings (``lora_embedding_B``) are untouched too: the authors' code gives embeddings a rate of their own, which
    is a rule here.

    Source: Hayou, Ghosh and Yu 2024, "LoRA+", arXiv:2402.12354, lr_B = ratio * lr_A, ratio about 16.

    Args:
        ratio: a positive number, 16 in the paper.
        component: the part of the name that marks B, ``lora_B`` as PEFT names it.

    Raises:
        RateError: the ratio is not a positive finite number; the model has no B matrices (when the plan is made).

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import param_groups
        >>> adapter = nn.ModuleDict({"lora_A": nn.Linear(8, 2, bias=False), "lora_B": nn.Linear(2, 8, bias=False)})
        >>> [group["lr"] for group in param_groups(adapter, lr=0.5, scale=[LoRAPlus(16)]).groups()]
        [0.5, 8.0]
    """

    ratio: float = 16.0
    component: str = "lora_B"

    def __post_init__(self) -> None:
        check_rate(self.ratio, "ratio of LoRAPlus")

    @property
    def label(self) -> str:
        return f"LoRAPlus({self.ratio:g})"

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        found = {
            info.name: float(self.ratio)
            for info in infos
            if self.component in info.name.split(".") and info.parameter.ndim >= 2
        }
        if not found:
            raise RateError(
                f"LoRAPlus finds no {self.component} matrix in this model",
                help="add the adapters first, or name the part that marks them: component=...",
            )
        return found
