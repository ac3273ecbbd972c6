"""A step taken twice: by ours, and on copies by torch's fused kernel, whose bits ours are.

Every bit is the same but for one thing. Where a tensor's last numbers fill no vector register, torch's kernel computes
them one by one, with roundings that its vectors do not have; ours computes every number alike. So the last numbers of
a tensor, fewer than a register holds, may differ by a few roundings, and no other number may differ at all. On ARM
torch's Adam and AdamW round otherwise in any number (:func:`rounds_alike`): there each may differ by a few roundings.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from lrdiff_bench.boost.record import Checked
from lrdiff_bench.boost.twins import Twin

__all__ = ["ROUNDINGS", "VECTOR", "Beside", "rounds_alike"]

VECTOR = 64  # bytes of the widest vector register that torch computes in
# A number at a tensor's end is rounded so many times more or less than one in a vector, and its moments before it.
ROUNDINGS = 8


def rounds_alike(kind: type[torch.optim.Optimizer]) -> bool:
    """Whether torch's fused kernel has our bits, but for the ends of tensors.

    A second moment is the sum of two products, of which one goes into a fused multiply-add: in torch built for x86-64
    that of the gradients, as in ours on every processor, in torch built for ARM that of the moment before.

    Args:
        kind: torch's class.

    Example:
        >>> rounds_alike(torch.optim.SGD)
        True
    """
    return not (issubclass(kind, torch.optim.Adam) and platform.machine() in ("aarch64", "arm64"))


class Beside:
    """Copies of what a twin is about to step.

    Args:
        twin: before its step.
    """

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        groups = [twin.param_groups[i] for i in twin._covered()]
        self._groups = [group for group in groups if all(type(param) in _PLAIN for param in _trained(group))]
        self._copies = [{**group, "params": list(map(_copy, _trained(group)))} for group in self._groups]
        self._state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for group, copies in zip(self._groups, self._copies, strict=True):
            for param, copy in zip(_trained(group), copies["params"], strict=True):
                if twin.state.get(param):
                    self._state[copy] = {name: _copy(value) for name, value in twin.state[param].items()}
        self._before = [[param.detach().clone() for param in group["params"]] for group in self._copies]

    def compare(self, checked: Checked, step: int) -> None:
        """Take torch's step on the copies, and add to ``checked`` how far the twin's, taken since, is from it.

        Args:
            checked: what earlier steps have shown.
            step: its number, for the words.
        """
        twin = self._twin
        if "found_inf" in vars(twin) or not self._copies:  # torch's own code stepped, or there was nothing to step
            return
        other = object.__new__(twin._torch_class)
        fused = [{**group, "fused": True} for group in self._copies]
        other.__dict__ = {**vars(twin), "param_groups": fused, "state": self._state}
        twin.theirs[twin._torch_class](other)
        checked.steps += 1
        checked.anywhere = not rounds_alike(twin._torch_class)
        for group, copies, before in zip(self._groups, self._copies, self._before, strict=True):
            for param, copy, old in zip(_trained(group), copies["params"], before, strict=True):
                mine = {"parameter": param, **twin.state.get(param, {})}
                theirs = {"parameter": copy, **self._state.get(copy, {})}
                for name, value in theirs.items():
                    _compare(checked, f"step {step}: {name}", mine.get(name), value, old, copy.grad)


_PLAIN = (Tensor, torch.nn.Parameter)


def _trained(group: dict[str, Any]) -> list[Tensor]:
    return [param for param in group["params"] if param.grad is not None]


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    copy = value.detach().clone()  # in memory as it was
    if isinstance(value, torch.nn.Parameter):
        copy = torch.nn.Parameter(copy)
    if value.grad is not None:
        copy.grad = value.grad.detach().clone()
    return copy


def _compare(checked: Checked, what: str, mine: Any, theirs: Any, before: Tensor, grad: Tensor | None) -> None:
    if not isinstance(mine, Tensor) or mine.dtype != theirs.dtype or mine.shape != theirs.shape:
        checked.outside += 1
        checked.where = checked.where or f"{what} is of another kind"
        return
    a, b = _in_memory(mine), _in_memory(theirs)
    checked.numbers += a.numel()
    differ = (_bits(a) != _bits(b)).nonzero().flatten()
    if not len(differ):
        return
    checked.other += len(differ)
    scale = torch.maximum(a.abs(), b.abs())
    if before.shape == theirs.shape and grad is not None:
        # What was added up: the number before, the gradient, and for a second moment its square.
        old, slope = _in_memory(before).abs(), _in_memory(torch.empty_like(before).copy_(grad)).abs()
        parts = (slope * slope,) if what.endswith("_sq") else (old, slope)
        for part in parts:
            scale = torch.maximum(scale, part)
    eps = torch.finfo(a.dtype).eps
    units = ((a.double() - b.double()).abs() / (eps * scale.double()))[differ]
    checked.units = max(checked.units, float(units.max()))
    tail = 0 if checked.anywhere else a.numel() - a.numel() % (VECTOR // a.element_size())
    wrong = int(((differ < tail) | ~(units <= ROUNDINGS)).sum())
    if wrong:
        checked.outside += wrong
        far = f"by up to {float(units.max()):.3g} units in the last place"
        checked.where = checked.where or f"{what}, {wrong} of {a.numel()} numbers, {far}"


def _in_memory(tensor: Tensor) -> Tensor:
    """The numbers in the order of memory, [numbers]."""
    tensor = tensor.detach()
    return tensor.as_strided((tensor.numel(),), (1,)) if tensor.numel() else tensor.reshape(-1)


def _bits(numbers: Tensor) -> Tensor:
    return numbers.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[numbers.element_size()])
