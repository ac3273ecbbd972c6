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
from lrdiff_core.optim.rules.lamb import LambLoop
from lrdiff_export.verify.tolerance import allowed_error

__all__ = ["error_in_eps", "optimizer_parity", "output_parity", "plain_copy"]

STEPS = 3  # enough that moments, bias correction and rates all show
ELEMENTS = 4096  # of each tensor; most rules are elementwise, so that a slice of it is stepped as the whole is
Module = TypeVar("Module", bound=nn.Module)
_OF_WHOLE_TENSORS = (torch.optim.Adafactor, LambLoop)
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
    """Parity of an optimizer: three steps of it against PyTorch's plain loop in float64, or ours where it has none.

    Only the first 4096 elements of each tensor are stepped twice, so that a model of a hundred million parameters
    costs nothing; all of them where a rule has norms of tensors. The state at the time of the call is where both begin.

    Args:
        optimizer: one of ours or of PyTorch's, with gradients in place and state made.
        step: what steps it, compiled or not.
    """
    cut = _whole if issubclass(_plain_kind(optimizer), _OF_WHOLE_TENSORS) else _slice

    def measure() -> Parity:
        exact, plain = _twin(optimizer, torch.float64, cut), _twin(optimizer, torch.float32, cut)
        for _ in range(STEPS):
            step()
            exact.step()
            plain.step()
        truth = [p.detach() for group in exact.param_groups for p in group["params"]]
        ours = [cut(p) for group in optimizer.param_groups for p in group["params"]]
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


def _twin(
    optimizer: torch.optim.Optimizer, dtype: torch.dtype, cut: Callable[[Tensor], Tensor]
) -> torch.optim.Optimizer:
    """The plain optimizer over slices of the parameters, in the same state."""

    def sliced(value: Tensor) -> Tensor:
        return cut(value).to(dtype)

    def parameter(p: Tensor) -> nn.Parameter:
        made = nn.Parameter(sliced(p))
        assert p.grad is not None
        made.grad = sliced(p.grad)
        return made

    return _plain(optimizer, parameter, sliced)


def _plain(
    optimizer: torch.optim.Optimizer, parameter: Callable[[Tensor], Any], value: Callable[[Tensor], Tensor]
) -> torch.optim.Optimizer:
    kind: Any = _plain_kind(optimizer)
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


def _plain_kind(optimizer: torch.optim.Optimizer) -> type[torch.optim.Optimizer]:
    """What steps in plain operations: PyTorch's class, or the loop in our rule's own file."""
    kinds = [kind for kind in type(optimizer).__mro__ if kind.__module__.startswith("torch.optim.")]
    theirs = [kind for kind in kinds if kind is not torch.optim.Optimizer]
    kind: type[torch.optim.Optimizer] = getattr(optimizer, "_torch_class", [*theirs, type(optimizer)][0])
    return kind


def _whole(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _slice(value: Tensor) -> Tensor:
    return value.detach().reshape(-1)[:ELEMENTS].to("cpu", copy=True)
