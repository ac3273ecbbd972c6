"""Adagrad, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.forms import Tensors, Update
from lrdiff_core.optim.kernel_rule import KernelRule

__all__ = ["Adagrad", "AdagradUpdate"]


class AdagradSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    lr_decay: Any
    eps: Any
    maximize: Any
    foreach: Any
    differentiable: Any
    fused: Any


class AdagradUpdate(Update):
    """The rule of Adagrad in the forms that it has on a CPU."""

    setting: type[Any] = AdagradSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "lr_decay", "eps")
    buffers: tuple[str, str, str] = ("sum", "", "")

    @override
    def structure(self, columns: AdagradSetting) -> tuple[Any, ...]:
        return columns.maximize, columns.foreach, columns.differentiable, columns.fused

    @override
    def numbers(self, columns: AdagradSetting) -> tuple[Sequence[Any], ...]:
        return columns.lr, columns.weight_decay, columns.lr_decay, (0.0,) * len(columns.lr), columns.eps

    @override
    def flags(self, setting: AdagradSetting) -> int:
        return kernel.MAXIMIZE * bool(setting.maximize)

    @override
    def fused(self, tensors: Tensors, grads: list[Tensor], setting: AdagradSetting) -> None:
        torch._foreach_add_(tensors.state["step"], 1.0)
        torch._fused_adagrad_(
            tensors.params,
            grads,
            tensors.state["sum"],
            tensors.state["step"],
            lr=setting.lr,
            lr_decay=setting.lr_decay,
            weight_decay=setting.weight_decay,
            eps=setting.eps,
            maximize=setting.maximize,
        )

    @override
    def foreach(self, tensors: Tensors, grads: list[Tensor], settings: Sequence[AdagradSetting]) -> None:
        raise NotImplementedError("off the CPU torch's own class steps")


class Adagrad(KernelRule, torch.optim.Adagrad):
    r"""Adagrad: same arguments, options, state and results as :class:`torch.optim.Adagrad`, one pass for all rates.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda \theta_{t-1}, \qquad s_t = s_{t-1} + g_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 + (t - 1) \eta}\, \frac{g_t}{\sqrt{s_t} + \epsilon}

    The pass is for float32 and float64 parameters on the CPU. Others, and sparse gradients, are stepped by PyTorch's
    own class.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        lr_decay: :math:`\eta`.
        weight_decay: :math:`\lambda`, added to the gradient.
        initial_accumulator_value: :math:`s_0`.
        eps: :math:`\epsilon`, added to the root.
        foreach, fused: if given, PyTorch's own implementation of that name steps the group.
        maximize: ascends.
        differentiable: stepped by PyTorch's own implementation.

    State, for each parameter, from the start: ``step`` (float32, no dimensions) and ``sum`` (shape and dtype of the
    parameter).

    Raises:
        ValueError: an option out of its interval (torch's own checks).

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import Adagrad
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = Adagrad([{"params": [body], "lr": 1e-3}, {"params": [head], "lr": 1e-1}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.1000], requires_grad=True)

    Paper: Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization,
    https://jmlr.org/papers/v12/duchi11a.html
    """

    _update = AdagradUpdate()
    _symbol = "lrdiff_adagrad"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adagrad
    _fused_dtypes = frozenset({torch.float32, torch.float64})
    _kernel_alone = False  # torch has a fused kernel on the CPU

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    @override
    def _first(self, param: Tensor, name: str) -> Tensor:
        first = self.defaults["initial_accumulator_value"]  # as torch, for a parameter that was added later
        return torch.full_like(param, first, memory_format=torch.preserve_format)
