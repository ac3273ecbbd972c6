"""How far a measured result was from float64: so that fast but wrong cannot pass.

The error is in float32 eps at the scale of the result, ``E = max|y - y64| / (eps max|y64|)``, and may be
``B = max(8, 4 E0)`` where ``E0`` is the error of PyTorch's plain float32, by :mod:`lrdiff_export.verify.tolerance`.
A rate that was recorded but not applied, a skipped step or float16 in the middle is thousands of these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrdiff_bench.measure.engine.case import Parity
from lrdiff_export.verify.tolerance import allowed_error

__all__ = ["error_in_eps", "optimizer_parity", "output_parity", "plain_copy"]

STEPS = 3  # enough that moments, bias correction and rates all show
ELEMENTS = 4096  # of each tensor; the rules are elementwise, so a slice of a tensor is stepped as the whole is
Module = TypeVar("Module", bound=nn.Module)
_EPS = torch.finfo(torch.float32).eps


def error_in_eps(results: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Largest error over all tensors, in float32 eps at the scale of each.

    Args:
        results: in float32, on any device.
        exact: in float64, on the CPU, of the same shapes.

    Returns:
        NaN where a result is NaN; infinity where the shapes differ.

    Example:
        >>> error_in_eps([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.0], dtype=torch.float64)])
        0.0
    """
    worst = 0.0
    for result, truth in zip(results, exact, strict=True):
        if result.shape != truth.shape:
            return float("inf")
        if truth.numel() == 0:
            continue
        off = (result.detach().to("cpu", torch.float64) - truth).abs().max() / _EPS
        scale = max(float(truth.abs().max()), torch.finfo(torch.float32).tiny)
        error = float(off) / scale
        if error != error:
            return error
        worst = max(worst, error)
    return worst


def optimizer_parity(optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> Callable[[], Parity]:
    """Parity of an elementwise optimizer: three steps of it against PyTorch's plain loop in float64.

    Only the first 4096 elements of each tensor are stepped twice, so that a model of a hundred million parameters
    costs nothing. The state at the time of the call is where both begin.

    Args:
        optimizer: a subclass of one of PyTorch's SGD, Adam or AdamW, with gradients in place and state made.
        step: what steps it, compiled or not.
    """

    def measure() -> Parity:
        exact, plain = _twin(optimizer, torch.float64), _twin(optimizer, torch.float32)
        for _ in range(STEPS):
            step()
            exact.step()
            plain.step()
        truth = [p.detach() for group in exact.param_groups for p in group["params"]]
        ours = [_slice(p) for group in optimizer.param_groups for p in group["params"]]
        theirs = [p.detach() for group in plain.param_groups for p in group["params"]]
        return Parity(error_in_eps(ours, truth), allowed_error(error_in_eps(theirs, truth)))

    return measure


def output_parity(
    compute: Callable[[torch.dtype | None], Sequence[Tensor]], reset: Callable[[], object] = lambda: None
) -> Callable[[], Parity]:
    """Parity of anything that can also be computed plainly in float64 and float32.

    Args:
        compute: called with None for the measured result, with a dtype for the same by plain PyTorch in it, on the CPU.
        reset: puts back what computing changes.
    """

    def measure() -> Parity:
        exact, plain = compute(torch.float64), compute(torch.float32)
        measured = compute(None)
        reset()
        return Parity(error_in_eps(measured, exact), allowed_error(error_in_eps(plain, exact)))

    return measure


def plain_copy(
    module: Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype
) -> tuple[Module, torch.optim.Optimizer]:
    """A copy of a module on the CPU in ``dtype``, with PyTorch's plain optimizer in the same state."""
    twin = copy.deepcopy(module).to("cpu", dtype)
    twins = dict(zip(map(id, module.parameters()), twin.parameters(), strict=True))
    return twin, _plain(optimizer, lambda p: twins[id(p)], lambda value: value.detach().to("cpu", dtype))


def _twin(optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> torch.optim.Optimizer:
    """PyTorch's plain optimizer over slices of the parameters, in the same state."""

    def sliced(value: Tensor) -> Tensor:
        return _slice(value).to(dtype)

    def parameter(p: Tensor) -> nn.Parameter:
        made = nn.Parameter(sliced(p))
        assert p.grad is not None
        made.grad = sliced(p.grad)
        return made

    return _plain(optimizer, parameter, sliced)


def _plain(
    optimizer: torch.optim.Optimizer, parameter: Callable[[Tensor], Any], value: Callable[[Tensor], Tensor]
) -> torch.optim.Optimizer:
    kind = next(kind for kind in (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD) if isinstance(optimizer, kind))
    pairs = [(p, parameter(p)) for group in optimizer.param_groups for p in group["params"]]
    twins = {id(p): twin for p, twin in pairs}
    groups = [
        {**group, "params": [twins[id(p)] for p in group["params"]], "foreach": False, "fused": False}
        for group in optimizer.param_groups
    ]
    made: torch.optim.Optimizer = kind(groups)
    for p, twin in pairs:
        for key, one in optimizer.state[p].items():
            if torch.is_tensor(one):
                # Step counts have no dimension, and stay in float32.
                one = one.detach().to("cpu", copy=True) if one.dim() == 0 else value(one).clone()
            made.state[twin][key] = one
    return made


def _slice(value: Tensor) -> Tensor:
    return value.detach().reshape(-1)[:ELEMENTS].to("cpu", copy=True)
