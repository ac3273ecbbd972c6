"""NAdam, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate

__all__ = ["NAdam", "NAdamUpdate"]


class NAdamSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    betas: Any
    eps: Any
    momentum_decay: Any
    maximize: Any
    decoupled_weight_decay: Any
    foreach: Any
    capturable: Any
    differentiable: Any


class NAdamUpdate(KernelUpdate):
    """The rule of NAdam."""

    setting: type[Any] = NAdamSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "betas", "eps", "momentum_decay")
    buffers: tuple[str, str, str] = ("exp_avg", "exp_avg_sq", "")
    counters: tuple[str, ...] = ("step", "mu_product")

    @override
    def structure(self, columns: NAdamSetting) -> tuple[Any, ...]:
        rule = columns.maximize, columns.decoupled_weight_decay
        return (*rule, columns.foreach, columns.capturable, columns.differentiable)

    @override
    def numbers(self, columns: NAdamSetting) -> tuple[Sequence[Any], ...]:
        beta1, beta2 = zip(*columns.betas, strict=True)
        return columns.lr, columns.weight_decay, beta1, beta2, columns.eps, columns.momentum_decay

    @override
    def flags(self, setting: NAdamSetting) -> int:
        return kernel.DECOUPLED * bool(setting.decoupled_weight_decay) | kernel.MAXIMIZE * bool(setting.maximize)


class NAdam(KernelRule, torch.optim.NAdam):
    r"""NAdam: same arguments, options, state and results as :class:`torch.optim.NAdam`, one pass for all rates.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda \theta_{t-1}, \qquad
            \mu_t = \beta_1 \left(1 - \tfrac{1}{2}\, 0.96^{t \psi}\right) \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} \left(
            \frac{\mu_{t+1}\, m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
            + \frac{(1 - \mu_t)\, g_t}{1 - \prod_{i=1}^t \mu_i} \right)

    The pass is the compiled kernel's: float32 parameters on the CPU. Others are stepped by PyTorch's own class.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`, added to the gradient.
        momentum_decay: :math:`\psi`.
        decoupled_weight_decay: decays as AdamW does.
        foreach, capturable, differentiable: as in torch, whose own step then runs.
        maximize: ascends.

    State, for each parameter: ``step`` and ``mu_product`` (float32, no dimensions), ``exp_avg`` and ``exp_avg_sq``
    (shape and dtype of the parameter).

    Raises:
        ValueError: an option out of its interval (torch's own checks).

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import NAdam
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = NAdam([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.0106], requires_grad=True)

    Paper: Dozat, Incorporating Nesterov Momentum into Adam, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
    """

    _update = NAdamUpdate()
    _symbol = "lrdiff_nadam"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.NAdam
    _one = frozenset({"mu_product"})

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")
