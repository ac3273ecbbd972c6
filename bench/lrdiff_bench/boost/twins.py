"""Our optimizers, stepping the very groups and state of one of torch's, which stays what it is.

A twin is an optimizer of ours that shares the ``__dict__`` of torch's: whatever the script does to its own optimizer
(groups added, rates moved, state loaded) is done to the twin, and whatever the twin steps is the script's. So class,
``isinstance``, pickles, checkpoints, hooks and schedulers are torch's own, and only the step is another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from lrdiff_core.optim import SGD, Adagrad, Adam
from lrdiff_core.optim.base import OnePass
from lrdiff_core.optim.memory.layout import is_dense, is_lazy_view

__all__ = ["KINDS", "Twin", "kind_of", "reason_against", "reason_left", "twin_of"]

Step = Callable[..., Any]

HALVES = (torch.bfloat16, torch.float16)


class Twin(OnePass):
    """What the twins have in common: which groups they take, and what torch's own step is."""

    theirs: ClassVar[dict[type[Optimizer], Step]] = {}  # by kind, while they are replaced

    def take_step(self) -> None:
        """One step, without hooks: those of the optimizer have run, or are about to."""
        if self._quick is not None:
            stepped = self._quick.step(self)
            if stepped:
                return
            if stepped is False:
                self._quick = None
        self._bare_step()

    @property
    def laid_out(self) -> tuple[object, object]:
        """What was prepared, and the check that it still fits: other objects where a step made them anew."""
        return self._prepared, self._quick

    @override
    def _torch_step(self, closure: Callable[[], Any] | None = None) -> Any:
        kind = self._torch_class
        return self.theirs.get(kind, kind.step)(self, closure)

    @override
    def _covers(self, group: dict[str, Any]) -> bool:
        trained = [param for param in group["params"] if param.grad is not None]
        if not all(param.is_cpu for param in trained):
            return False
        fused = group["fused"]
        if not fused and any(param.dtype in HALVES for param in trained):
            return False
        # Ours has the bits of torch's fused kernel, so it may stand in for it where a script asks for that.
        return super()._covers({**group, "fused": None} if fused else group)

    @override
    def _covered(self) -> list[int]:
        for values in self.state.values():  # torch reads a buffer that is None as one that is absent
            if isinstance(values, dict) and values.get("momentum_buffer", self) is None:
                del values["momentum_buffer"]
        return super()._covered()


# What is prepared belongs to the twin, and to no dictionary that a script can see.
_OWN = ("_prepared", "_quick", "_clip", "_clipped")


class AdamTwin(Twin, Adam):
    """Of torch's Adam and AdamW, which differ by an option of the group."""

    __slots__ = _OWN
    _torch_class: ClassVar[type[Optimizer]] = torch.optim.Adam


class SGDTwin(Twin, SGD):
    """Of torch's SGD."""

    __slots__ = _OWN
    _torch_class: ClassVar[type[Optimizer]] = torch.optim.SGD


class AdagradTwin(Twin, Adagrad):
    """Of torch's Adagrad."""

    __slots__ = _OWN
    _torch_class: ClassVar[type[Optimizer]] = torch.optim.Adagrad


KINDS: dict[type[Optimizer], type[Twin]] = {
    torch.optim.Adam: AdamTwin,
    torch.optim.SGD: SGDTwin,
    torch.optim.Adagrad: AdagradTwin,
}


def kind_of(optimizer: Optimizer) -> type[Optimizer] | None:
    """Torch's class that the optimizer is one of; None for every other rule.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> kind_of(torch.optim.AdamW([weight])).__name__, kind_of(torch.optim.Rprop([weight]))
        ('Adam', None)
    """
    return next((kind for kind in KINDS if isinstance(optimizer, kind)), None)


def twin_of(optimizer: Optimizer) -> Twin:
    """A twin of one of torch's optimizers, to be given its ``__dict__``; ask :func:`reason_against` first."""
    kind = kind_of(optimizer)
    assert kind is not None, "asked before"
    twin = KINDS[kind].__new__(KINDS[kind])
    for name in _OWN:
        setattr(twin, name, None)
    return twin


def reason_against(optimizer: Optimizer) -> str | None:
    """Why no twin can step this optimizer, whatever its groups; None where one can."""
    if isinstance(optimizer, OnePass):
        return "lrdiff's own already"
    kind = kind_of(optimizer)
    if kind is None:
        return "none of SGD, Adam, AdamW and Adagrad"
    prepares = getattr(type(optimizer)._init_group, "__module__", None)  # type: ignore[attr-defined]
    if prepares != kind.__module__ or "_init_group" in vars(optimizer):
        return "its class prepares the step in a way of its own"
    if not vars(optimizer).keys() >= {"param_groups", "state", "defaults"}:
        return "its class keeps groups or state in a way of its own"
    return None


def reason_left(twin: Twin, group: dict[str, Any]) -> str:
    """Why a group that the twin did not take is left to torch, in words for the report."""
    if group["foreach"] is not None:
        return f"foreach={group['foreach']} is asked for"
    if group["fused"] is False:
        return "fused=False is asked for"
    for name in ("differentiable", "capturable"):
        if group.get(name):
            return f"{name}=True is asked for"
    held = [value for value in (*group.values(), *group.get("betas", ())) if isinstance(value, Tensor)]
    if any(number.requires_grad or not number.is_cpu for number in held):
        return "an option is a tensor that only torch's step follows"
    trained = [param for param in group["params"] if param.grad is not None]
    for test, words in _TESTS:
        if any(test(param) for param in trained):
            return words
    if any(param.dtype in HALVES for param in trained):
        if isinstance(twin, SGDTwin):
            return "half precision: torch's fused SGD is wrong there"
        if isinstance(twin, AdagradTwin):
            return "half precision, which our Adagrad does not step"
        if not group["fused"]:
            return "half precision, where torch's loop and fused kernel round apart (fused=True says which)"
    if twin._covers(group):
        return "some of its parameters share memory"
    return "its state was made or laid out in another way"


_TESTS: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (lambda param: not param.is_cpu, "not on the CPU"),
    (lambda param: type(param) not in (Tensor, torch.nn.Parameter), "parameters of a tensor class of their own"),
    (lambda param: param.grad is not None and param.grad.layout is not torch.strided, "sparse gradients"),
    (lambda param: param.is_complex(), "complex numbers"),
    (lambda param: type(param.grad) is not Tensor, "gradients of a tensor class of their own"),
    (lambda param: param.grad is not None and param.grad.dtype is not param.dtype, "gradients of another dtype"),
    (lambda param: param.is_inference() or is_lazy_view(param), "parameters that are views of a special kind"),
    (lambda param: not is_dense(param), "parameters that leave gaps in their memory"),
)
