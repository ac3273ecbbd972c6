"""Samples of a tensor: a few hundred of its entries, and a sum over the bits of all of them.

A rate is one number, so some of the entries that it moved tell it: at most ``LOOK`` are copied, the same ones of
weight, gradient and moments, spread over rows and columns. Whether anything moved is decided by :func:`fingerprint`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["LOOK", "Entries", "Look", "Looks", "digits", "fingerprint", "look_at", "on_this_rank"]

Entries: TypeAlias = NDArray[np.float64]  # [entries]

LOOK = 512  # entries of a tensor: its rate is then known to four digits, and a look takes some microseconds
_BITS = 2**20  # entries that a fingerprint sums over; of larger tensors it takes every second, third, ...
_SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq"})
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One parameter at one moment of a step, in float64 on the CPU.

    Args:
        weight: ``[entries]``.
        gradient: ``[entries]``; None where there is none.
        moments: ``[entries]`` of each tensor of the parameter's shape in the optimizer's state, by name.
        steps: the ``step`` in the state; None where it counts none.
    """

    weight: Entries
    gradient: Entries | None = None
    moments: Mapping[str, Entries] = field(default_factory=dict)
    steps: int | None = None


def look_at(
    parameter: Tensor,
    state: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
    gradient: bool = True,
    squares: bool = True,
) -> Look:
    """Copy the looked-at entries of a parameter, its gradient and its moments.

    Args:
        parameter: any layout, device and sharding: of a sharded one, this process's part.
        state: of the optimizer, for this parameter.
        whole: take every entry, as rules that mix them need.
        gradient: False leaves it out.
        squares: False leaves out Adam's second moments.

    Example:
        >>> weight = torch.nn.Parameter(torch.arange(3.0))
        >>> look_at(weight, {"exp_avg": torch.ones(3), "step": torch.tensor(4.0)})
        Look(weight=array([0., 1., 2.]), gradient=None, moments={'exp_avg': array([1., 1., 1.])}, steps=4)
    """
    with Looks() as looks:
        look = looks.add(parameter, state, whole=whole, gradient=gradient, squares=squares)
    return look()


class Looks:
    """Looks at many parameters, copied together when the block ends: a look at one costs as much as at a hundred.

    Example:
        >>> with Looks() as looks:
        ...     one, other = looks.add(torch.ones(2)), looks.add(torch.zeros(1))
        >>> one().weight, other().weight
        (array([1., 1.]), array([0.]))
    """

    def __init__(self) -> None:
        self._views: dict[torch.device, list[Tensor]] = {}
        self._copies: dict[torch.device, Entries] = {}
        self._ends: dict[torch.device, int] = {}

    def __enter__(self) -> Looks:
        return self

    def __exit__(self, *problem: object) -> None:
        for device, views in self._views.items():
            # cat copies always, so that nothing moves under our eyes
            self._copies[device] = np.asarray(torch.cat(views).to("cpu", torch.float64).numpy())
        self._views.clear()

    def add(
        self,
        parameter: Tensor,
        state: Mapping[str, Any] | None = None,
        *,
        whole: bool = False,
        gradient: bool = True,
        squares: bool = True,
    ) -> Callable[[], Look]:
        """A look that can be had once the block has ended; arguments as of :func:`look_at`."""
        shape = parameter.shape
        grad = parameter.grad if gradient else None
        weight = self._take(parameter, whole)
        slope = None if grad is None else self._take(grad, whole)
        moments, steps = {}, None
        for name, value in (state or {}).items():
            if name == "step":
                steps = int(value)
            elif _is_moment(value, shape) and (squares or name not in _SQUARES):
                moments[name] = self._take(value, whole)

        def look() -> Look:
            return Look(
                weight=weight(),
                gradient=None if slope is None else slope(),
                moments={name: taken() for name, taken in moments.items()},
                steps=steps,
            )

        return look

    def _take(self, tensor: Tensor, whole: bool) -> Callable[[], Entries]:
        tensor = on_this_rank(tensor.detach())
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        if tensor.element_size() == 1:
            tensor = tensor.float()  # such numbers are not joined with others
        flat, count = tensor.reshape(-1), tensor.numel()
        if not whole and count > LOOK:
            flat = flat[:: _stride(count, LOOK)]
            count = flat.numel()
        device = flat.device
        self._views.setdefault(device, []).append(flat)
        start = self._ends.get(device, 0)
        self._ends[device] = start + count
        return lambda: self._copies[device][start : start + count]


def _is_moment(value: object, shape: torch.Size) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.shape == shape and (value.is_floating_point() or value.is_complex())


@lru_cache(maxsize=4096)
def _stride(count: int, most: int) -> int:
    """The least stride that leaves at most ``most`` entries and walks through all columns and rows."""
    stride = -(-count // most)
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def on_this_rank(tensor: Tensor) -> Tensor:
    """A sharded tensor's part on this process; any other tensor as it is."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def fingerprint(tensor: Tensor) -> int | None:
    """A sum over the bits, which any change of a number changes; None where a tensor holds no numbers here.

    Example:
        >>> weight = torch.ones(3)
        >>> before = fingerprint(weight)
        >>> weight[1] += 1e-7
        >>> fingerprint(weight) == before
        False
    """
    tensor = on_this_rank(tensor.detach())
    if tensor.is_meta or tensor.layout is not torch.strided:
        return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.reshape(-1)
    if len(flat) > _BITS:
        flat = flat[:: _stride(len(flat), _BITS)]
    return int(flat.contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64))


def digits(dtype: torch.dtype) -> float:
    """The distance from 1 to the next number of a dtype; of a complex one, of its real part.

    Example:
        >>> digits(torch.bfloat16)
        0.0078125
    """
    return float(torch.finfo(dtype).eps)
