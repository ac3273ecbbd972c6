"""RMSprop, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate

__all__ = ["RMSprop", "RMSpropUpdate"]


class RMSpropSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    momentum: Any
    alpha: Any
    eps: Any
    centered: Any
    maximize: Any
    foreach: Any
    capturable: Any
    differentiable: Any


class RMSpropUpdate(KernelUpdate):
    """The rule of RMSprop, which the compiled kernel alone applies: torch has no fused one."""

    setting: type[Any] = RMSpropSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "momentum", "alpha", "eps")
    buffers: tuple[str, str, str] = ("momentum_buffer", "square_avg", "grad_avg")

    @override
    def structure(self, columns: RMSpropSetting) -> tuple[Any, ...]:
        buffered = tuple(momentum > 0 for momentum in columns.momentum)
        rule = buffered, columns.centered, columns.maximize
        return (*rule, columns.foreach, columns.capturable, columns.differentiable)

    @override
    def numbers(self, columns: RMSpropSetting) -> tuple[Sequence[Any], ...]:
        return columns.lr, columns.weight_decay, columns.momentum, columns.alpha, columns.eps

    @override
    def flags(self, setting: RMSpropSetting) -> int:
        return kernel.CENTERED * bool(setting.centered) | kernel.MAXIMIZE * bool(setting.maximize)


class RMSprop(KernelRule, torch.optim.RMSprop):
    r"""RMSprop: same arguments, options, state and results as :class:`torch.optim.RMSprop`, one pass for all rates.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda \theta_{t-1}, \qquad v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2 \\
        b_t &= \mu b_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon}, \qquad \theta_t = \theta_{t-1} - \gamma\, b_t

    The pass is the compiled kernel's: float32 parameters on the CPU. Others are stepped by PyTorch's own class.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        alpha: :math:`\alpha`.
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`, added to the gradient.
        momentum: :math:`\mu`.
        centered: subtracts the square of the mean gradient from :math:`v`.
        capturable, foreach, differentiable: as in torch, whose own step then runs.
        maximize: ascends.

    State, for each parameter: ``step`` (float32, no dimensions), ``square_avg``, with momentum ``momentum_buffer``, and
    ``grad_avg`` if centered (shape and dtype of the parameter).

    Raises:
        ValueError: an option out of its interval (torch's own checks).

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import RMSprop
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = RMSprop([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.1000], requires_grad=True)

    Source: Tieleman and Hinton, Lecture 6.5, https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf;
    centered: Graves, Generating Sequences With Recurrent Neural Networks, https://arxiv.org/abs/1308.0850
    """

    _update = RMSpropUpdate()
    _symbol = "lrdiff_rmsprop"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.RMSprop

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        momentum, centered = group.get("momentum", 0) > 0, group.get("centered", False)
        return ("square_avg", *["momentum_buffer"] * momentum, *["grad_avg"] * bool(centered))
