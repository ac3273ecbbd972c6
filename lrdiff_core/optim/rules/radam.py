"""RAdam, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate

__all__ = ["RAdam", "RAdamUpdate"]


class RAdamSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    betas: Any
    eps: Any
    maximize: Any
    decoupled_weight_decay: Any
    foreach: Any
    capturable: Any
    differentiable: Any


class RAdamUpdate(KernelUpdate):
    """The rule of RAdam."""

    setting: type[Any] = RAdamSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "betas", "eps")
    buffers: tuple[str, str, str] = ("exp_avg", "exp_avg_sq", "")

    @override
    def structure(self, columns: RAdamSetting) -> tuple[Any, ...]:
        rule = columns.maximize, columns.decoupled_weight_decay
        return (*rule, columns.foreach, columns.capturable, columns.differentiable)

    @override
    def numbers(self, columns: RAdamSetting) -> tuple[Sequence[Any], ...]:
        beta1, beta2 = zip(*columns.betas, strict=True)
        return columns.lr, columns.weight_decay, beta1, beta2, columns.eps

    @override
    def flags(self, setting: RAdamSetting) -> int:
        return kernel.DECOUPLED * bool(setting.decoupled_weight_decay) | kernel.MAXIMIZE * bool(setting.maximize)


class RAdam(KernelRule, torch.optim.RAdam):
    r"""RAdam: same arguments, options, state and results as :class:`torch.optim.RAdam`, one pass for all rates.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        \theta_t &= \theta_{t-1} - \gamma\, \frac{m_t}{1 - \beta_1^t} \cdot \begin{cases}
            \sqrt{\dfrac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\rho_t}}
            \dfrac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon} & \rho_t > 5 \\ 1 & \text{else} \end{cases}

    The pass is the compiled kernel's: float32 parameters on the CPU. Others are stepped by PyTorch's own class.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        eps: :math:`\epsilon`, added to the root.
        weight_decay: :math:`\lambda`, added to the gradient.
        decoupled_weight_decay: decays as AdamW does.
        foreach, capturable, differentiable: as in torch, whose own step then runs.
        maximize: ascends.

    State, for each parameter: ``step`` (float32, no dimensions), ``exp_avg`` and ``exp_avg_sq`` (shape and dtype of the
    parameter).

    Raises:
        ValueError: an option out of its interval (torch's own checks).

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import RAdam
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = RAdam([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.0100], requires_grad=True)

    Paper: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, https://arxiv.org/abs/1908.03265
    """

    _update = RAdamUpdate()
    _symbol = "lrdiff_radam"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.RAdam

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")
