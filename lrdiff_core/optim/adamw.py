"""AdamW, stepped in one pass whatever the number of rates."""

from __future__ import annotations

import torch

from lrdiff_core.optim.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam, torch.optim.AdamW):
    r"""AdamW: same arguments, options, state and results as :class:`torch.optim.AdamW`, one pass for all rates.

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

    State, for each parameter: as :class:`~lrdiff_core.optim.Adam`.

    Raises:
        ValueError: an option out of its interval (torch's own checks).

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
