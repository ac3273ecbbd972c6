"""Rates in geometric progression over the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from lrdiff_core.rates.layers.depth import Layers, check_by, find_layers
from lrdiff_core.rates.names import ParamInfo
from lrdiff_core.rates.scales.scale import BuiltInScale, Scaled
from lrdiff_core.rates.values import check_rate

__all__ = ["Slices"]


@dataclass(frozen=True)
class Slices(BuiltInScale):
    """Rates in geometric progression over the layers, fastai's ``slice(low, high)`` as fractions of the base rate.

    ::

        factor = low * (high / low) ** (i / (n - 1)),   layer i of n, from input to output

    fastai's ``slice(1e-5, 1e-3)`` is ``lr=1e-3`` with ``Slices(1e-2)``; its ``slice(1e-3)`` (a tenth for all but the
    last) is ``lr=1e-4`` with ``HeadMultiplier(10)``. A single layer gets ``high``.

    Source: Howard and Gugger 2020, "fastai: A Layered API for Deep Learning", arXiv:2002.04688.

    Args:
        low: the factor of the first layer.
        high: the factor of the last layer.
        layers, by: as for :class:`LayerDecay`; fastai's groups are coarser than blocks, so usually two or three
            matches.

    Raises:
        RateError: a factor is not a positive finite number; the layers cannot be determined (when the plan is made).

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
    by: str | None = None

    def __post_init__(self) -> None:
        check_by(self.by)
        check_rate(self.low, "low of Slices")
        check_rate(self.high, "high of Slices")

    @property
    @override
    def label(self) -> str:
        return f"Slices({self.low:g}, {self.high:g})"

    @property
    @override
    def neutral(self) -> bool:
        return self.low == self.high == 1

    @override
    def scaled(self, infos: Sequence[ParamInfo]) -> Scaled:
        depths, text = find_layers(infos, self.layers, self.by)
        index = {depth: i for i, depth in enumerate(sorted(set(depths.values())))}  # without a stem, 1 is the first
        last = len(index) - 1
        if last == 0:
            return Scaled(dict.fromkeys(depths, self.high), text)
        step = self.high / self.low
        factors = {
            name: self.high if index[depth] == last else self.low * step ** (index[depth] / last)
            for name, depth in depths.items()
        }
        return Scaled(factors, text)
