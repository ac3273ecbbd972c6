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

__all__ = ["divided_alike", "is_sharded", "local_parts"]

_MODULE = "torch.distributed.tensor"
_local: Callable[[Any], Tensor] = operator.attrgetter("_local_tensor")


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
    return [part if type(part) is Tensor else _waited_for(part) for part in parts]


def _waited_for(part: Any) -> Any:
    """What an AsyncCollectiveTensor holds once its collective is done."""
    return part.trigger_wait() if hasattr(part, "trigger_wait") else part


def divided_alike(param: Any, other: Any) -> bool:
    """Whether a tensor is sharded as the parameter is, number for number, so that local parts belong together."""
    if not is_sharded(other):
        return False
    a, b = param._spec, other._spec
    if a is not b and (a.placements != b.placements or a.mesh != b.mesh or param.shape != other.shape):
        return False
    return not any(placement.is_partial() for placement in a.placements)
