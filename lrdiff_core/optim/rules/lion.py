"""Lion, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import kernel
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate, PlainLoop

__all__ = ["Lion", "LionLoop", "LionUpdate"]


class LionSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    betas: Any
    maximize: Any


class LionUpdate(KernelUpdate):
    """The rule of Lion."""

    setting: type[Any] = LionSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "betas")
    buffers: tuple[str, str, str] = ("exp_avg", "", "")
    counters: tuple[str, ...] = ()

    @override
    def structure(self, columns: LionSetting) -> tuple[Any, ...]:
        return (columns.maximize,)

    @override
    def numbers(self, columns: LionSetting) -> tuple[Sequence[Any], ...]:
        beta1, beta2 = zip(*columns.betas, strict=True)
        return columns.lr, columns.weight_decay, beta1, beta2

    @override
    def flags(self, setting: LionSetting) -> int:
        return kernel.DECOUPLED | kernel.MAXIMIZE * bool(setting.maximize)


class LionLoop(PlainLoop):
    """Lion parameter by parameter, for what the kernel does not take: other dtypes and devices, torch.compile."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        if not weight_decay >= 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", False)

    @override
    def _step_one(self, param: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        super()._step_one(param, grad, group)
        beta1, beta2 = group["betas"]
        grad = -grad if group["maximize"] else grad
        if not self.state[param]:
            self.state[param]["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        mean = self.state[param]["exp_avg"]
        param.mul_(1 - group["lr"] * group["weight_decay"])
        mixed = mean * beta1 + grad * (1 - beta1)
        param.sub_(mixed.sign_() * group["lr"])
        mean.mul_(beta2).add_(grad, alpha=1 - beta2)


class Lion(KernelRule, LionLoop):
    r"""Lion: the sign of a mix of momentum and gradient, one pass for all rates.

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) \nabla f(\theta_{t-1})) \\
        \theta_t &= (1 - \gamma \lambda)\, \theta_{t-1} - \gamma\, u_t, \qquad
            m_t = \beta_2 m_{t-1} + (1 - \beta_2) \nabla f(\theta_{t-1})

    Every number moves by the rate itself, so rates are three to ten times smaller than those of AdamW, and decays as
    much larger. The pass is the compiled kernel's, with the bits of the authors' code for PyTorch: float32 parameters
    on the CPU. Others are stepped by a plain loop.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        weight_decay: :math:`\lambda`, shrinks the parameter by the rate times this.
        maximize: ascends.

    State, for each parameter: ``exp_avg`` (shape and dtype of the parameter), as the authors' code has it.

    Raises:
        ValueError: an option out of its interval.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import Lion
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = Lion([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.0100], requires_grad=True)

    Paper: Chen et al., Symbolic Discovery of Optimization Algorithms, https://arxiv.org/abs/2302.06675
    """

    _update = LionUpdate()
    _symbol = "lrdiff_lion"
    _torch_class: ClassVar[type[Optimizer]] = LionLoop

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    @override
    def _accept(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        if any(set(held) - {"exp_avg"} for held in state_dict["state"].values()):  # Adam's has an exp_avg, too
            raise OptimizerError(
                "the state was saved by another kind of optimizer: Lion keeps exp_avg alone",
                help="load it into the class that saved it",
            )
        return super()._accept(state_dict)
