"""What a scale is: a factor for each parameter, which the base rate is multiplied by.

The effective rate of a parameter is ``base rate * multiplier of its rule * factor of each scale``; a rule's explicit
``lr`` stops all of it. A scale of your own needs ``label`` and ``factors`` (the protocol below) and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from lrdiff_core.rates.names import ParamInfo

__all__ = ["BuiltInScale", "Scale", "Scaled"]


class Scaled(NamedTuple):
    """Factors by parameter name, and what was taken for layers or head, in words."""

    factors: dict[str, float]
    found: str = ""


@runtime_checkable
class Scale(Protocol):
    """What a scale has to offer; a protocol, so that a user's own needs nothing of ours.

    Two more are used where they are there: ``neutral``, true where the scale's own setting says that nothing changes
    (without it, a scale that changes no rate is a fault), and ``scaled(infos)``, the factors with a line on what was
    taken for layers or head, which plans print.
    """

    @property
    def label(self) -> str:
        """How plans and messages call the scale."""
        ...

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        """A positive factor by parameter name; a name left out counts as 1."""
        ...


class BuiltInScale(ABC):
    """What the scales of this package share; each also says what it took for layers or head."""

    @property
    @abstractmethod
    def label(self) -> str:
        """How plans and messages call the scale."""

    @property
    @abstractmethod
    def neutral(self) -> bool:
        """Whether the scale's own setting says that no rate changes; else that is an error."""

    @abstractmethod
    def scaled(self, infos: Sequence[ParamInfo]) -> Scaled:
        """Factors by parameter name, and what was taken for layers or head."""

    def factors(self, infos: Sequence[ParamInfo]) -> dict[str, float]:
        """A positive factor by parameter name; a name left out counts as 1."""
        return self.scaled(infos).factors
