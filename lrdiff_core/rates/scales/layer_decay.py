"""Layer-wise learning rate decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from lrdiff_core.rates.layers.depth import Layers, check_by, find_layers
from lrdiff_core.rates.names import ParamInfo
from lrdiff_core.rates.scales.scale import BuiltInScale, Scaled
from lrdiff_core.rates.values import check_rate

__all__ = ["LayerDecay"]


@dataclass(frozen=True)
class LayerDecay(BuiltInScale):
    """Layer-wise learning rate decay: each layer learns slower than the one above it by a fixed factor.

    ::

        factor = decay ** (max depth - depth)

    The deepest layer (the head, where there is one) has factor 1. Depths: :func:`lrdiff_core.rates.layer_depths`.

    Sources: Howard and Ruder 2018, arXiv:1801.06146 (decay 1/2.6); Clark et al. 2020, arXiv:2003.10555;
    Bao et al. 2021, arXiv:2106.08254, whose code numbers embeddings 0, blocks 1 to n, everything else n + 1.

    Args:
        decay: the factor from a layer to the one below it, usually 0.65 to 0.95.
        layers: None: found in the module tree; a text: the module that holds the blocks; or the layers from input to
            output, each a match.
        by: ``"block"`` or ``"stage"``: what is a layer where blocks stand in stages, numbered as timm does.

    Raises:
        RateError: ``decay`` is not a positive finite number; the layers cannot be determined (when the plan is made).

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
    by: str | None = None

    def __post_init__(self) -> None:
        check_rate(self.decay, "decay of LayerDecay")
        check_by(self.by)

    @property
    @override
    def label(self) -> str:
        return f"LayerDecay({self.decay:g})"

    @property
    @override
    def neutral(self) -> bool:
        return self.decay == 1

    @override
    def scaled(self, infos: Sequence[ParamInfo]) -> Scaled:
        layers = find_layers(infos, self.layers, self.by)
        top = max(layers.depths.values())
        return Scaled({name: self.decay ** (top - depth) for name, depth in layers.depths.items()}, layers.text)
