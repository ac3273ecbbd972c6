"""The part of a sharded tensor (``torch.distributed.tensor.DTensor``: FSDP2, tensor parallelism) that is here.

A rule that takes each number by itself can step the local parts alone, if parameter, gradient and state are divided in
the same way and none is a sum that is still to be made.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.nn import Parameter

__all__ = ["Divisions", "divided_alike", "divided_as", "is_sharded", "local_parts", "shard_slots", "whole"]

_MODULE = "torch.distributed.tensor"
_local: Callable[[Any], Tensor] = operator.attrgetter("_local_tensor")
_AS_THEY_ARE = {Tensor, Parameter, type(None)}


def is_sharded(tensor: object) -> bool:
    """Whether it is a DTensor. Asking imports nothing: where there is one, its module is loaded."""
    module = sys.modules.get(_MODULE)
    return module is not None and type(tensor) is module.DTensor


def local_parts(tensors: Iterable[Any]) -> list[Any]:
    """The local part of each sharded tensor, waited for where it is on its way; others, and None, as they are."""
    module = sys.modules.get(_MODULE)
    if module is None:
        return list(tensors)
    kind = module.DTensor
    parts = [_local(tensor) if type(tensor) is kind else tensor for tensor in tensors]
    return parts if set(map(type, parts)) <= _AS_THEY_ARE else list(map(_waited_for, parts))


def shard_slots() -> tuple[type[Any], Any, Any]:
    """The class of sharded tensors, and the descriptors of its local part and of how it is divided."""
    kind = sys.modules[_MODULE].DTensor
    return kind, vars(kind)["_local_tensor"], vars(kind)["_spec"]


def _waited_for(part: Any) -> Any:
    """What an AsyncCollectiveTensor holds once its collective is done."""
    return part.trigger_wait() if hasattr(part, "trigger_wait") else part


def divided_alike(param: Any, other: Any) -> bool:
    """Whether a tensor is sharded as the parameter is, number for number, so that local parts belong together."""
    if not is_sharded(other):
        return False
    a, b = param._spec, other._spec
    if a is not b and (a.placements != b.placements or a.mesh != b.mesh or a.shape != b.shape):
        return False
    return not any(placement.is_partial() for placement in a.placements)


def whole(tensor: Any) -> Tensor:
    """All of a sharded tensor, which all processes that have parts of it ask for; others as they are."""
    all_of_it: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return all_of_it


def divided_as(param: Any, tensor: Tensor) -> Tensor:
    """The part of a whole tensor, which is the same in all processes, that belongs to a parameter's part."""
    if not is_sharded(param):
        return tensor
    # Without a source nothing is sent: each process cuts out its own.
    divide: Callable[..., Tensor] = sys.modules[_MODULE].distribute_tensor
    return divide(tensor, param.device_mesh, param.placements, src_data_rank=None)


class Divisions:
    """How gradients were divided last, so that the same divisions are judged once."""

    def __init__(self, params: list[Any]) -> None:
        self._params = params
        self._judged: list[object] = []

    def local_grads(self, grads: list[Any]) -> list[Any]:
        """The local parts of gradients that are divided as their parameters are; None for the others."""
        specs = [getattr(grad, "_spec", None) for grad in grads]
        if len(specs) != len(self._judged) or not all(map(operator.is_, specs, self._judged)):
            fits = [
                divided_alike(param, grad) if is_sharded(param) else not is_sharded(grad)
                for param, grad in zip(self._params, grads, strict=True)
            ]
            if not all(fits):
                return local_parts(grad if fit else None for grad, fit in zip(grads, fits, strict=True))
            self._judged = specs
        return local_parts(grads)
