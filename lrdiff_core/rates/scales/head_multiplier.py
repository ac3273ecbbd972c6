"""A head that learns faster than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from lrdiff_core.rates.layers.head import find_head
from lrdiff_core.rates.matching import Match
from lrdiff_core.rates.names import ParamInfo
from lrdiff_core.rates.scales.scale import BuiltInScale, Scaled
from lrdiff_core.rates.values import check_rate

__all__ = ["HeadMultiplier"]


@dataclass(frozen=True)
class HeadMultiplier(BuiltInScale):
    """The head learns ``multiplier`` times as fast as the rest: the usual start of fine-tuning.

    ::

        factor = multiplier in the head, 1 elsewhere

    Source: Girshick et al. 2014, arXiv:1311.2524, who fine-tune at a tenth of the initial rate; Chen et al. 2017,
    arXiv:1606.00915, give the new last layer ten times the rate.

    Args:
        multiplier: a positive number, often 10.
        head: a match as in a rule; None takes the last registered child module that holds parameters, and asks where
            that is a norm, or holds blocks itself. A plan prints what was taken.

    Raises:
        RateError: the multiplier is not a positive finite number; no head can be determined (when the plan is made).

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
    @override
    def label(self) -> str:
        return f"HeadMultiplier({self.multiplier:g})"

    @property
    @override
    def neutral(self) -> bool:
        return self.multiplier == 1

    @override
    def scaled(self, infos: Sequence[ParamInfo]) -> Scaled:
        head = find_head(infos, self.head)
        return Scaled(dict.fromkeys(head.names, float(self.multiplier)), f"head is {head.text}")
