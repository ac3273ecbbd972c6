"""Clipping, the step and letting the gradients go in one pass, for loops that do the three in a row."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrdiff_core.optim import kernel
from lrdiff_core.optim.base import OnePass
from lrdiff_core.optim.clipping.clip import (
    TOTAL,
    CompiledClip,
    check_finite,
    clip_grad_norms_,
    limits_of,
    names_of_groups,
)
from lrdiff_core.optim.forms import KernelForm
from lrdiff_core.optim.guard import Guard

__all__ = ["clipped_step"]


def clipped_step(
    optimizer: Any,
    max_norm: float | Mapping[str, float],
    *,
    by: str = "group",
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> dict[str, Tensor]:
    """Clips, steps and lets the gradients go: ``clip_grad_norms_``, ``step`` and ``zero_grad`` in one call.

    Parameters and state are, bit for bit, what the three calls make of them. Where one call of ``kernel.c`` steps all
    parameters, it clips as well: a gradient is read for its norm and once more for the step, its scaled numbers are
    written nowhere, and it is dropped. The first steps of an optimizer, and every other case, are the three calls.

    Args:
        optimizer: any; its groups are called by their ``name``, or else ``group_0``, ``group_1``, ...
        max_norm: one limit for each group, or the limits by name; groups that are not named are measured, not scaled.
        by: "group", or "all" for one norm over all groups.
        norm_type: order of the norm; ``inf`` for the largest number.
        error_if_nonfinite: refuses a norm that is infinite or NaN before anything is scaled or stepped.

    Returns:
        The norms before clipping by group (or under "all"), each a tensor of one number.

    Raises:
        OptimizerError: a limit below 0, a name that no group has, or a norm that is not finite; nothing is stepped, and
            the gradients stay.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import SGD, clipped_step
        >>> weight = torch.ones(4, requires_grad=True)
        >>> optimizer = SGD([weight], lr=0.5)
        >>> (3 * weight.sum()).backward()
        >>> clipped_step(optimizer, 2.0, by="all")
        {'all': tensor(6.)}
        >>> weight, weight.grad
        (tensor([0.5000, 0.5000, 0.5000, 0.5000], requires_grad=True), None)
    """
    done = _in_one_pass(optimizer, max_norm, by, float(norm_type), error_if_nonfinite)
    if done is not None:
        return done
    norms = clip_grad_norms_(optimizer, max_norm, by=by, norm_type=norm_type, error_if_nonfinite=error_if_nonfinite)
    optimizer.step()
    optimizer.zero_grad()
    return norms


class _Clipping(ctypes.Structure):
    """What ``lrdiff_clipped`` works on; the fields are explained in ``kernel.c``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("measured", "stepped", "limit", "told", "factor")),
        *((name, ctypes.c_int64) for name in ("parts", "settings", "largest", "finite")),
        ("step", ctypes.c_void_p),
    ]


class OnePassClip:
    """The job of one guard, kept while it holds.

    Args:
        guard: checks and calls.
        form: whose table is stepped.
        params: of that table.
        by: "group", or "all" for one norm.
        counts: how many of them each group has, in order.
    """

    def __init__(self, guard: Guard, form: KernelForm, params: list[Tensor], by: str, counts: list[int]) -> None:
        library = kernel.load()
        assert library is not None, "there is a kernel form"
        self.guard, self.by = guard, by
        settings, parts = len(counts), counts if by == "group" else [sum(counts)]
        self._measured = CompiledClip(params, parts)  # of the gradients' sizes
        self._limit = (ctypes.c_double * len(parts))()
        self._told = (ctypes.c_float * len(parts))()
        self._factor = (ctypes.c_float * settings)()
        self._run = ctypes.cast(library.lrdiff_clipped, ctypes.c_void_p).value or 0
        places = form.places
        self._job = _Clipping(
            measured=self._measured.address, stepped=places.table, limit=ctypes.addressof(self._limit),
            told=ctypes.addressof(self._told), factor=ctypes.addressof(self._factor), parts=len(parts),
            settings=settings, step=places.run,
        )  # fmt: skip

    def __call__(
        self, optimizer: Optimizer, limits: Sequence[float | None], *, largest: bool, finite: bool
    ) -> tuple[list[Tensor], bool] | None:
        """The norms, and whether the step was taken; None, and nothing done, if one has to look closer."""
        self._limit[:] = [math.nan if limit is None else limit for limit in limits]
        self._job.largest, self._job.finite = largest, finite
        self._measured.count_threads()
        refused = self.guard.clipped_step(optimizer, self._run, ctypes.addressof(self._job), self._measured.grads)
        if refused is None:
            return None
        norms = torch.tensor(list(self._told), dtype=torch.float32, device="cpu").unbind()
        return list(norms), not refused


def _in_one_pass(
    optimizer: Any, max_norm: float | Mapping[str, float], by: str, norm_type: float, finite: bool
) -> dict[str, Tensor] | None:
    if not isinstance(optimizer, OnePass) or optimizer._quick is None or norm_type not in (2.0, math.inf):
        return None
    kind = type(optimizer)
    scheduled = optimizer.__dict__.get("step")  # what a scheduler has put there only takes note that it was called
    if kind.step is not OnePass.step or kind.zero_grad is not Optimizer.zero_grad or by not in ("group", "all"):
        return None
    if (scheduled is not None and not hasattr(scheduled, "_wrapped_by_lr_sched")) or torch.compiler.is_compiling():
        return None
    groups = optimizer.param_groups
    names = [TOTAL] if by == "all" else names_of_groups(groups)
    limits = limits_of(max_norm, names, by)
    job = _job_of(optimizer, by)
    done = job(optimizer, limits, largest=norm_type == math.inf, finite=finite) if job is not None else None
    if done is None:
        return None
    norms, stepped = done
    if not stepped:
        check_finite(names, norms)
    if scheduled is not None:
        optimizer._opt_called = True  # type: ignore[attr-defined]
    return dict(zip(names, norms, strict=True))


def _job_of(optimizer: OnePass, by: str) -> OnePassClip | None:
    guard, prepared, kept = optimizer._quick, optimizer._prepared, optimizer._clipped
    if isinstance(kept, OnePassClip) and kept.guard is guard and kept.by == by:
        return kept
    if guard is None or prepared is None or prepared.left or len(prepared.forms) != 1:
        return None
    form = prepared.forms[0][1]
    # The norm of a sharded gradient is a sum over processes: torch's functions make it.
    if not isinstance(form, KernelForm) or not prepared.params or prepared.sharded is not None:
        return None
    if prepared.params[0].dtype is not torch.float32:  # of bfloat16 gradients, too
        return None
    counts = [0] * len(optimizer.param_groups)
    for group in prepared.tensors.group:
        counts[group] += 1
    optimizer._clipped = OnePassClip(guard, form, prepared.params, by, counts)
    return optimizer._clipped
