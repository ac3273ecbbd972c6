"""LAMB, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate, PlainLoop
from lrdiff_core.optim.memory.shards import is_sharded

__all__ = ["LAMB", "LambLoop", "LambUpdate"]


class LambSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    betas: Any
    eps: Any
    maximize: Any


class LambUpdate(KernelUpdate):
    """The rule of LAMB."""

    setting: type[Any] = LambSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "betas", "eps")
    buffers: tuple[str, str, str] = ("exp_avg", "exp_avg_sq", "")
    whole_pieces = True

    @override
    def structure(self, columns: LambSetting) -> tuple[Any, ...]:
        return (columns.maximize,)

    @override
    def numbers(self, columns: LambSetting) -> tuple[Sequence[Any], ...]:
        beta1, beta2 = zip(*columns.betas, strict=True)
        return columns.lr, columns.weight_decay, beta1, beta2, columns.eps

    @override
    def flags(self, setting: LambSetting) -> int:
        return kernel.MAXIMIZE * bool(setting.maximize)


class LambLoop(PlainLoop):
    """LAMB parameter by parameter, for what the kernel does not take: other dtypes, devices, shards, torch.compile."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        for name, value in (("learning rate", lr), ("epsilon value", eps), ("weight_decay value", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults)

    @override
    def _step_one(self, param: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        super()._step_one(param, grad, group)
        if not self.state[param]:
            mean, square = (torch.zeros_like(param, memory_format=torch.preserve_format) for _ in range(2))
            step = torch.zeros((), dtype=torch.float32)
            self.state[param] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        state, (beta1, beta2) = self.state[param], group["betas"]
        grad = -grad if group["maximize"] else grad
        count = float(state["step"].add_(1))
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        move = (mean / (1 - beta1**count)) / ((square / (1 - beta2**count)).sqrt_() + group["eps"])
        move = move + group["weight_decay"] * param
        own, way = torch.linalg.vector_norm(param), torch.linalg.vector_norm(move)
        ratio = torch.where((own > 0) & (way > 0), own / way, torch.ones_like(own))
        param.sub_(move * (group["lr"] * ratio))


class LAMB(KernelRule, LambLoop):
    r"""LAMB: Adam's direction, as long as the rate times the parameter's own norm; one pass for all rates.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda \theta_{t-1} \\
        \theta_t &= \theta_{t-1} - \gamma\, \frac{\lVert \theta_{t-1} \rVert}{\lVert u_t \rVert}\, u_t

    with the moments of :class:`~lrdiff_core.optim.Adam`, and 1 in place of the ratio where a norm is 0. The pass is the
    compiled kernel's: float32 parameters on the CPU. Others, and sharded ones, whose norm is a sum over processes, are
    stepped by a plain loop.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`, a part of the direction.
        maximize: ascends.

    State, for each parameter: ``step`` (float32, no dimensions), ``exp_avg`` and ``exp_avg_sq`` (shape and dtype of the
    parameter).

    Raises:
        ValueError: an option out of its interval.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import LAMB
        >>> body, head = torch.ones(3, requires_grad=True), torch.full((4,), 2.0, requires_grad=True)
        >>> optimizer = LAMB([{"params": [body], "lr": 1e-3}, {"params": [head], "lr": 1e-1}], weight_decay=0.0)
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([1.8000, 1.8000, 1.8000, 1.8000], requires_grad=True)

    Paper: You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes,
    https://arxiv.org/abs/1904.00962
    """

    _update = LambUpdate()
    _symbol = "lrdiff_lamb"
    _torch_class: ClassVar[type[Optimizer]] = LambLoop

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    @override
    def _covers_param(self, param: Tensor, capturable: bool, needed: Set[str]) -> bool:
        return not is_sharded(param) and super()._covers_param(param, capturable, needed)
