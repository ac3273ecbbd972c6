"""Clipping by norm, over all of an optimizer's groups or each group by itself.

PyTorch's own functions do it. Where one of our optimizers holds plain float32 gradients on the CPU and the C compiler
is here, ``kernel.c`` does: one call for the norms of all groups, and one that scales those groups which are too long.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import kernel
from lrdiff_core.optim.base import OnePass
from lrdiff_core.optim.forms import GRAIN, PIECE
from lrdiff_core.optim.memory.layout import data_ptr, is_dense, is_lazy_view, kind_check
from lrdiff_core.text import listed, nearest, unlike

__all__ = ["TOTAL", "CompiledClip", "check_finite", "clip_grad_norms_", "limits_of", "names_of_groups"]

TOTAL = "all"  # what one norm over all groups is called


@torch.no_grad()
def clip_grad_norms_(
    optimizer: Any,
    max_norm: float | Mapping[str, float],
    *,
    by: str = "group",
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> dict[str, Tensor]:
    r"""Scales gradients in place so that no group's norm exceeds its limit.

    .. math::
        g \leftarrow g \cdot \min\left(1, \frac{\text{max\_norm}}{\lVert g \rVert + 10^{-6}}\right)

    As :func:`torch.nn.utils.clip_grad_norm_` for the parameters of each group. Without gradients a norm is 0.

    Args:
        optimizer: any; its groups are called by their ``name``, as plans give it, or else ``group_0``, ``group_1``, ...
        max_norm: one limit for each group, or the limits by name; groups that are not named are measured, not scaled.
        by: "group", or "all" for one norm over all groups.
        norm_type: order of the norm; ``inf`` for the largest number.
        error_if_nonfinite: refuses a norm that is infinite or NaN before anything is scaled.
        foreach: if given, PyTorch's own functions run, with this option.

    Returns:
        The norms before clipping by group (or under "all"), each a tensor of one number.

    Raises:
        OptimizerError: a limit below 0, a name that no group has, or a norm that is not finite.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import SGD, clip_grad_norms_
        >>> body, head = torch.ones(4, requires_grad=True), torch.ones(1, requires_grad=True)
        >>> groups = [{"name": "body", "params": [body]}, {"name": "head", "params": [head]}]
        >>> optimizer = SGD(groups, lr=0.1)
        >>> (3 * body.sum() + head.sum()).backward()
        >>> clip_grad_norms_(optimizer, {"body": 2.0})
        {'body': tensor(6.), 'head': tensor(1.)}
        >>> body.grad, head.grad
        (tensor([1.0000, 1.0000, 1.0000, 1.0000]), tensor([1.]))

    Paper: Pascanu et al., On the difficulty of training recurrent neural networks, https://arxiv.org/abs/1211.5063
    """
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        raise OptimizerError(
            f"clip_grad_norms_ takes an optimizer, not {type(optimizer).__name__}",
            help="give the optimizer that holds the groups, such as AdamW(plan.groups())",
        )
    parts = [[param for param in group["params"] if param.grad is not None] for group in groups]
    if by == "group":
        names = names_of_groups(groups)
    elif by == "all":
        names, parts = [TOTAL], [[param for part in parts for param in part]]
    else:
        raise OptimizerError(f"by is {by!r}", help='write "group" or "all"')
    limits = limits_of(max_norm, names, by)
    grads = [[param.grad for param in part] for part in parts]
    flat = [grad for part in grads for grad in part]
    norm_type = float(norm_type)
    compiled = _compiled(optimizer, flat, grads) if foreach is None and norm_type in (2.0, math.inf) else None
    norms: Sequence[Tensor]
    if compiled is not None:
        stacked = compiled.norms(flat, largest=norm_type == math.inf)
        norms = stacked.unbind()
    else:
        if norm_type < 0 or norm_type == math.inf:  # torch refuses to look for an extreme among no numbers
            grads = [[grad for grad in part if grad.numel()] for part in grads]
        norms = [get_total_norm(part, norm_type, foreach=foreach) for part in grads]
    if error_if_nonfinite:
        check_finite(names, norms)
    if compiled is not None:
        compiled.scale(flat, _factors(stacked, limits))
    else:
        for part, norm, limit in zip(parts, norms, limits, strict=True):
            if limit is not None:
                clip_grads_with_norm_(part, limit, norm, foreach)
    return dict(zip(names, norms, strict=True))


def names_of_groups(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the groups are called, each unlike the others."""
    names: dict[str, None] = {}
    for number, group in enumerate(groups):
        names[unlike(str(group.get("name", f"group_{number}")), names)] = None
    return list(names)


def limits_of(max_norm: float | Mapping[str, float], names: Sequence[str], by: str) -> list[float | None]:
    """The limit of each name; None where there is none."""
    if not isinstance(max_norm, Mapping):
        return [_limit("max_norm", max_norm)] * len(names)
    if by == "all":
        raise OptimizerError('limits by name do not go with by="all"', help="give one number as max_norm")
    known = set(names)
    for name in max_norm:
        if name not in known:
            raise OptimizerError(
                f"no group is called {name!r}", help=nearest(str(name), names, "groups of this optimizer")
            )
    return [_limit(f"max_norm of {name!r}", max_norm[name]) if name in max_norm else None for name in names]


def _limit(what: str, value: float) -> float:
    try:
        limit = float(value)
    except (TypeError, ValueError):
        limit = math.nan
    if not limit >= 0:
        raise OptimizerError(f"{what} is {value!r}", help="write a number from 0 up, or inf to measure only")
    return limit


def check_finite(names: Sequence[str], norms: Sequence[Tensor]) -> None:
    """Raises an OptimizerError that names the norms which are infinite or NaN."""
    found = [name for name, norm in zip(names, norms, strict=True) if torch.logical_or(norm.isnan(), norm.isinf())]
    if found:
        raise OptimizerError(
            f"the norm of the gradients is not finite: {listed(found)}",
            help="leave this step out, lower the rate, or set error_if_nonfinite=False",
        )


def _factors(norms: Tensor, limits: Sequence[float | None]) -> list[float]:
    """What each group is multiplied by, in torch's own operations, of float32."""
    numbers = torch.tensor([math.inf if limit is None else limit for limit in limits], dtype=norms.dtype, device="cpu")
    factors: list[float] = ((norms + 1e-6).reciprocal() * numbers).clamp(max=1.0).tolist()
    return [1.0 if limit is None else factor for factor, limit in zip(factors, limits, strict=True)]


class CompiledClip:
    """Tables for the two functions of ``kernel.c``, kept while gradients of the same layout come in.

    Args:
        grads: plain float32 tensors on the CPU, without gaps.
        parts: how many of them belong to each norm, in order.
    """

    def __init__(self, grads: list[Tensor], parts: list[int]) -> None:
        library = kernel.load()
        assert library is not None, "asked before"
        count, sizes = len(grads), [grad.numel() for grad in grads]
        offsets = [0, *accumulate(-(-size // PIECE) * PIECE for size in sizes)]
        self.parts, self.fits = parts, kind_check(grads)
        self._library, self._sizes = library, sizes
        self._most_threads = max(1, sum(sizes) // GRAIN)
        self._grad = (ctypes.c_void_p * count)()
        self._norm = (ctypes.c_double * len(parts))()
        self._factor: ctypes.Array[Any] = (ctypes.c_float * len(parts))()
        self._of = [number for number, size in enumerate(parts) for _ in range(size)]
        self._arrays: dict[str, ctypes.Array[Any]] = {
            "grad": self._grad,
            "offset": (ctypes.c_int64 * (count + 1))(*offsets),
            "size": (ctypes.c_int64 * count)(*sizes),
            "setting": (ctypes.c_int32 * count)(*self._of),
            "partial": (ctypes.c_double * (offsets[-1] // PIECE))(),
            "norm": self._norm,
            "factor": self._factor,
        }
        addresses = {name: ctypes.addressof(array) for name, array in self._arrays.items()}
        self._table = kernel.Table(count=count, threads=1, piece=PIECE, **addresses)
        self.address, self.grads = ctypes.addressof(self._table), ctypes.addressof(self._grad)

    def count_threads(self) -> None:
        """Takes over how many threads torch has now."""
        if self._most_threads > 1:
            self._table.threads = min(self._most_threads, torch.get_num_threads())

    def norms(self, grads: list[Tensor], *, largest: bool) -> Tensor:
        """The norm of each part, [parts], in float32."""
        self._grad[:] = list(map(data_ptr, grads))
        self.count_threads()
        ctypes.memset(self._norm, 0, ctypes.sizeof(self._norm))
        self._library.lrdiff_norm(self.address, largest)
        found = self._norm[:] if largest else map(math.sqrt, self._norm)
        return torch.tensor(list(found), dtype=torch.float32, device="cpu")

    def scale(self, grads: list[Tensor], factors: list[float]) -> None:
        """Multiplies each part by its factor; the gradients are those that were measured last."""
        scaled = [grad for grad, part in zip(grads, self._of, strict=True) if factors[part] != 1.0]
        if not scaled:
            return
        if self._table.threads > 1 and self._overlap():
            self._table.threads = 1  # numbers that two gradients share are scaled twice, as torch does
        self._factor[:] = factors
        self._library.lrdiff_scale(self.address)
        torch.autograd.graph.increment_version(scaled)

    def _overlap(self) -> bool:
        spans = sorted((start, start + 4 * size) for start, size in zip(self._grad, self._sizes, strict=True) if size)
        return any(after[0] < before[1] for before, after in pairwise(spans))


def _compiled(optimizer: object, flat: list[Tensor], grads: list[list[Tensor]]) -> CompiledClip | None:
    """What runs in ``kernel.c``; None where PyTorch's own functions do."""
    if not isinstance(optimizer, OnePass) or not flat or kernel.load() is None:
        return None
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return None
    parts, prepared = list(map(len, grads)), optimizer._clip
    if isinstance(prepared, CompiledClip) and prepared.parts == parts and prepared.fits(*flat):
        return prepared
    if not all(map(_covers, flat)):
        return None
    optimizer._clip = CompiledClip(flat, parts)
    return optimizer._clip


def _covers(grad: Tensor) -> bool:
    if type(grad) is not Tensor or grad.layout is not torch.strided or not grad.is_cpu:
        return False
    return grad.dtype is torch.float32 and not grad.is_inference() and not is_lazy_view(grad) and is_dense(grad)
