"""AdamW, stepped in one pass whatever the number of rates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from lrdiff_core.optim.rules.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam, torch.optim.AdamW):
    r"""AdamW: arguments, options, state and results of :class:`torch.optim.AdamW`, one pass for all rates.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma \lambda)\, \theta_{t-1}
            - \gamma\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`, shrinks the parameter by the rate times this.
        amsgrad: divides by the largest :math:`v` seen so far.
        foreach, fused: if given, PyTorch's own implementation of that name steps the group.
        maximize: ascends.
        capturable: keeps the step on the device, so that a CUDA graph can hold it.
        differentiable: stepped by PyTorch's own implementation.
        state_format: what the moments are kept in, see :class:`~lrdiff_core.optim.Adam`.

    State, for each parameter: as :class:`~lrdiff_core.optim.Adam`.

    Raises:
        ValueError: an option out of its interval (torch's own checks).
        OptimizerError: a ``state_format`` that is unknown, or that these parameters or options cannot have.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import AdamW
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = AdamW([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.0100], requires_grad=True)

    Paper: Loshchilov and Hutter, Decoupled Weight Decay Regularization, https://arxiv.org/abs/1711.05101
    """

    _torch_class = torch.optim.AdamW

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_format: str | None = None,
    ) -> None:
        self._state_format = state_format
        torch.optim.AdamW.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, foreach=foreach,
            capturable=capturable, differentiable=differentiable, fused=fused,
        )  # fmt: skip
