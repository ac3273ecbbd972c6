"""What is remembered of each optimizer of a script: plain numbers and words, which outlive it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Checked", "Layout", "Record"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an optimizer stepped, without the tensors: enough to build one like it.

    Args:
        kind: ``SGD``, ``Adam`` or ``AdamW`` of torch.optim.
        groups: options and shapes (with dtype) of what had gradients in each group that was replaced.
    """

    kind: str
    groups: tuple[tuple[Mapping[str, Any], tuple[tuple[tuple[int, ...], Any], ...]], ...]

    @property
    def size(self) -> int:
        """Bytes of the parameters."""
        total = 0
        for _, shapes in self.groups:
            for shape, dtype in shapes:
                count = dtype.itemsize
                for length in shape:
                    count *= length
                total += count
        return total


@dataclass(kw_only=True)
class Checked:
    """Steps that were also taken by torch's own, on copies.

    Args:
        steps: compared.
        numbers: compared, of parameters and state.
        other: numbers of other bits, all of them.
        units: the largest difference, in units in the last place of the larger of the number before and after.
        outside: numbers of other bits where every bit should agree, or that differ by more than roundings.
        where: the first of those, in words.
        anywhere: torch's kernel rounds otherwise than ours in any number, not at the ends of tensors alone.
    """

    steps: int = 0
    anywhere: bool = False
    numbers: int = 0
    other: int = 0
    units: float = 0.0
    outside: int = 0
    where: str | None = None


@dataclass(kw_only=True)
class Record:
    """One optimizer of the script.

    Args:
        name: of its class.
        reason: why it is left to torch altogether; None where a twin steps it.
        steps: that were seen.
        seconds: of those steps that were timed.
        first: when the first step ended, by the clock; steps are timed after it.
        last: when the last one ended.
        tensors: how many of its tensors each form stepped last.
        left: how many of its tensors are left to torch, by reason.
        layout: what was stepped last.
        checked: with ``--check``.
    """

    name: str
    reason: str | None = None
    steps: int = 0
    seconds: float = 0.0
    first: float | None = None
    last: float | None = None
    tensors: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    layout: Layout | None = None
    checked: Checked | None = None

    @property
    def replaced(self) -> bool:
        """Whether at least one tensor is stepped by ours."""
        return bool(self.tensors)
