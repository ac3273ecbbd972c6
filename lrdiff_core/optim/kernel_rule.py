"""What the rules have in common that the compiled kernel alone applies: float32 on the CPU, one form.

Everything else is stepped by PyTorch's own class, or, where PyTorch has none, by a plain loop in the rule's own file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lrdiff_core.optim.base import OnePass
from lrdiff_core.optim.forms import Setting, Tensors, Update

__all__ = ["KernelRule", "KernelUpdate", "PlainLoop"]


class KernelUpdate(Update):
    """A rule that torch has no fused kernel for."""

    @override
    def fused(self, tensors: Tensors, grads: list[Tensor], setting: Setting) -> None:
        raise NotImplementedError("torch has no fused kernel of this rule")

    @override
    def foreach(self, tensors: Tensors, grads: list[Tensor], settings: Sequence[Setting]) -> None:
        raise NotImplementedError("where the kernel has no place, the rule's own class steps")


class KernelRule(OnePass):
    """An optimizer that says which state it keeps, and how that begins; by default one of such a rule."""

    _kernel_alone = True
    _cuda = False
    _fused_dtypes = frozenset({torch.float32})
    _one: ClassVar[Set[str]] = frozenset()  # counters that begin at one

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The states of a parameter's shape, in torch's order."""
        raise NotImplementedError

    def _first(self, param: Tensor, name: str) -> Tensor:
        """What a buffer begins with."""
        return torch.zeros_like(param, memory_format=torch.preserve_format)

    def _needed_state(self, group: Mapping[str, Any]) -> Set[str]:
        return {*self._update.counters, *self._buffers(group)}

    def _begin(self, param: Tensor, group: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
        if self.state.get(param):
            return {}, True
        counters = {
            name: torch.full((), float(name in self._one), dtype=torch.float32, device="cpu")
            for name in self._update.counters
        }
        return counters | {name: self._first(param, name).detach() for name in self._buffers(group)}, True

    def _drop_half_begun(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state.get(param)
                if state and not self._needed_state(group) <= state.keys() and not state.get("step"):
                    state.clear()


class PlainLoop(Optimizer):
    """A rule that torch has no class of, parameter by parameter, for what the kernel does not take."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step, and returns what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._check(group)
            for param in group["params"]:
                if param.grad is not None:
                    self._step_one(param, param.grad, group)
        return loss

    def _check(self, group: Mapping[str, Any]) -> None:
        """Refuses a group that is not to be stepped now."""

    def _step_one(self, param: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        """Updates one parameter and its state; a rule calls this first.

        In the rule's own frame: asked in the loop, torch.compile (2.13) takes one gradient for another of other shape.
        """
        if grad.is_sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
