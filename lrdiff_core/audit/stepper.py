"""An optimizer under watch, one step of it under way, and what can be read off it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdiff_core.audit.asked import Declared
from lrdiff_core.audit.snapshot import Look, look_at, on_this_rank
from lrdiff_core.audit.update_rules import Change

__all__ = [
    "Before",
    "Frame",
    "Stepper",
    "is_on_device",
    "is_readable",
    "loss_scale",
    "unwrapped",
    "was_skipped",
    "with_gradient_after",
]


@dataclass(eq=False)
class Stepper:
    """One optimizer that stepped.

    Attributes:
        number: in order of appearance.
        optimizer: itself.
        steps: how many it made.
        declared: its groups' rates; anew whenever the groups change.
        loaded: after how many steps a state was loaded.
        ids: of the parameters it holds.
    """

    number: int
    optimizer: Any
    steps: int = 0
    declared: list[Declared] = field(default_factory=list)
    loaded: list[int] = field(default_factory=list)
    ids: frozenset[int] = frozenset()
    sizes: tuple[int, ...] = ()
    turn: int = 0  # which whole matrices are next

    @property
    def label(self) -> str:
        """The name of its class."""
        return type(self.optimizer).__name__


@dataclass(eq=False)
class Frame:
    """A step under way."""

    stepper: Stepper
    caller: FrameType | None
    due: bool
    closure: bool  # gradients are made inside of the step
    looks: dict[str, Before] = field(default_factory=dict)
    after: dict[str, Callable[[], Look]] = field(default_factory=dict)
    again: int = 0  # how often the same optimizer entered again: a subclass that calls super().step()


@dataclass(frozen=True, slots=True)
class Before:
    """One parameter as it was before a sampled step, and what the step promised."""

    parameter: Tensor
    group: int
    options: Mapping[str, Any]
    look: Callable[[], Look]
    whole: bool
    expected: str | None


def unwrapped(optimizer: Any) -> Any:
    """The optimizer inside of wrappers such as Accelerate's and Lightning's.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        >>> unwrapped(optimizer) is optimizer
        True
    """
    for _ in range(8):
        inner = next((vars(optimizer)[key] for key in ("optimizer", "_optimizer") if key in vars(optimizer)), None)
        if not isinstance(inner, torch.optim.Optimizer):
            return optimizer
        optimizer = inner
    return optimizer


def with_gradient_after(change: Change, held: Before, scale: float) -> Change:
    """The same change with the gradient as the step left it: some optimizers clip it in place."""
    now = look_at(held.parameter, whole=held.whole).gradient
    if now is None or (change.gradients and np.array_equal(now / scale, change.gradients[0])):
        return change
    sign = -1 if held.options.get("maximize") else 1
    return replace(change, gradients=[*change.gradients, sign * now / scale])


def is_readable(parameter: Tensor) -> bool:
    """Whether there are floating or complex numbers of the parameter on this rank."""
    floating = parameter.is_floating_point() or parameter.is_complex()
    return floating and not parameter.is_meta and on_this_rank(parameter).numel() > 0


def is_on_device(rate: object) -> bool:
    """Whether reading a rate would wait for a device."""
    return isinstance(rate, Tensor) and not rate.is_cpu


def was_skipped(optimizer: Any) -> bool:
    """Whether a fused step found gradients that are not finite and left the weights alone."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.any())


def loss_scale(optimizer: Any) -> float:
    """What a fused step divides its gradients by."""
    scale = getattr(optimizer, "grad_scale", None)
    return float(scale) if isinstance(scale, Tensor) else 1.0
