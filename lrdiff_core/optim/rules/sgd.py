"""SGD with momentum, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.base import OnePass
from lrdiff_core.optim.forms import Tensors, Update

__all__ = ["SGD", "SGDUpdate"]


class SGDSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    momentum: Any
    dampening: Any
    nesterov: Any
    maximize: Any
    foreach: Any
    differentiable: Any
    fused: Any


class SGDUpdate(Update):
    """The rule of SGD in the forms that ``forms.py`` lists."""

    setting: type[Any] = SGDSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "momentum", "dampening")
    buffers: tuple[str, str, str] = ("momentum_buffer", "", "")

    @override
    def structure(self, columns: SGDSetting) -> tuple[Any, ...]:
        buffered = tuple(momentum != 0 for momentum in columns.momentum)
        return buffered, columns.nesterov, columns.maximize, columns.foreach, columns.differentiable, columns.fused

    @override
    def numbers(self, columns: SGDSetting) -> tuple[Sequence[Any], ...]:
        eps = (0.0,) * len(columns.lr)
        return columns.lr, columns.weight_decay, columns.momentum, columns.dampening, eps

    @override
    def flags(self, setting: SGDSetting) -> int:
        return kernel.NESTEROV * bool(setting.nesterov) | kernel.MAXIMIZE * bool(setting.maximize)

    @override
    def fused(self, tensors: Tensors, grads: list[Tensor], setting: SGDSetting) -> None:
        torch._fused_sgd_(
            tensors.params,
            grads,
            tensors.state["momentum_buffer"] if setting.momentum else [],
            weight_decay=setting.weight_decay,
            momentum=setting.momentum,
            lr=setting.lr,
            dampening=setting.dampening,
            nesterov=setting.nesterov,
            maximize=setting.maximize,
            is_first_step=tensors.fresh[0],
        )

    @override
    def foreach(self, tensors: Tensors, grads: list[Tensor], settings: Sequence[SGDSetting]) -> None:
        rule = settings[0]  # in what is no number, and in whether there is momentum, they agree
        if rule.maximize:
            grads = list(torch._foreach_neg(grads))
        if any(s.weight_decay for s in settings):
            decays = torch._foreach_mul(tensors.params, [s.weight_decay for s in settings])
            grads = list(torch._foreach_add(grads, decays))
        if rule.momentum:
            buffers = tensors.state["momentum_buffer"]
            momenta = [s.momentum for s in settings]
            if tensors.fresh[0]:
                torch._foreach_copy_(buffers, grads)
            else:
                torch._foreach_mul_(buffers, momenta)
                torch._foreach_add_(buffers, torch._foreach_mul(grads, [1 - s.dampening for s in settings]))
            grads = list(torch._foreach_add(grads, torch._foreach_mul(buffers, momenta))) if rule.nesterov else buffers
        torch._foreach_add_(tensors.params, torch._foreach_mul(grads, [-s.lr for s in settings]))


class SGD(OnePass, torch.optim.SGD):
    r"""SGD: same arguments, options, state and results as :class:`torch.optim.SGD`, one pass for all rates.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        b_t &= \mu b_{t-1} + (1 - \tau) g_t, \qquad b_1 = g_1 \\
        \theta_t &= \theta_{t-1} - \gamma\, b_t \qquad \text{(Nesterov: } - \gamma (g_t + \mu b_t) \text{)}

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        momentum: :math:`\mu`.
        dampening: :math:`\tau`.
        weight_decay: :math:`\lambda`, added to the gradient.
        nesterov: looks one step ahead; needs momentum and no dampening.
        maximize: ascends.
        foreach, fused: if given, PyTorch's own implementation of that name steps the group.
        differentiable: stepped by PyTorch's own implementation.

    State, for each parameter with momentum: ``momentum_buffer`` (shape and dtype of the parameter).

    Raises:
        ValueError: an option out of its interval (torch's own checks).

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import SGD
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = SGD([{"params": [body], "lr": 0.1}, {"params": [head], "lr": 1.0}], momentum=0.9)
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> body, head
        (tensor([-0.1000, -0.1000, -0.1000], requires_grad=True), tensor([-1.], requires_grad=True))

    Paper: Sutskever et al., On the importance of initialization and momentum in deep learning,
    https://proceedings.mlr.press/v28/sutskever13.html
    """

    _update = SGDUpdate()
    _symbol = "lrdiff_sgd"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.SGD
    # In bfloat16 and float16 torch's fused CPU kernel (2.13) leaves wrong numbers in momentum_buffer.
    _fused_dtypes = frozenset({torch.float32, torch.float64})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for values in self.state.values():  # torch reads a buffer that is None as one that is absent
            if isinstance(values, dict) and values.get("momentum_buffer", self) is None:
                del values["momentum_buffer"]

    def _begin(self, param: Tensor, group: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
        if group["momentum"] == 0 or self.state.get(param, {}).get("momentum_buffer") is not None:
            return {}, True
        return {"momentum_buffer": torch.zeros_like(param, memory_format=torch.preserve_format)}, False
