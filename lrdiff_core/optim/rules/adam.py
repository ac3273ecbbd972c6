"""Adam, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.base import OnePass
from lrdiff_core.optim.formats.state import begin, told
from lrdiff_core.optim.forms import Tensors, Update

__all__ = ["Adam", "AdamUpdate"]


class AdamSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    betas: Any
    eps: Any
    amsgrad: Any
    maximize: Any
    decoupled_weight_decay: Any
    foreach: Any
    capturable: Any
    differentiable: Any
    fused: Any


class AdamUpdate(Update):
    """The rule of Adam and AdamW in the forms that ``forms.py`` lists."""

    setting: type[Any] = AdamSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "betas", "eps")
    buffers: tuple[str, str, str] = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    @override
    def structure(self, columns: AdamSetting) -> tuple[Any, ...]:
        rule = columns.amsgrad, columns.maximize, columns.decoupled_weight_decay
        return (*rule, columns.foreach, columns.capturable, columns.differentiable, columns.fused)

    @override
    def numbers(self, columns: AdamSetting) -> tuple[Sequence[Any], ...]:
        beta1, beta2 = zip(*columns.betas, strict=True)
        return columns.lr, columns.weight_decay, beta1, beta2, columns.eps

    @override
    def flags(self, setting: AdamSetting) -> int:
        decoupled = kernel.DECOUPLED * bool(setting.decoupled_weight_decay)
        return decoupled | kernel.AMSGRAD * bool(setting.amsgrad) | kernel.MAXIMIZE * bool(setting.maximize)

    @override
    def fused(self, tensors: Tensors, grads: list[Tensor], setting: AdamSetting) -> None:
        state = tensors.state
        beta1, beta2 = setting.betas
        torch._foreach_add_(state["step"], 1.0)
        rule = torch._fused_adamw_ if setting.decoupled_weight_decay else torch._fused_adam_
        rule(
            tensors.params,
            grads,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["max_exp_avg_sq"] if setting.amsgrad else [],
            state["step"],
            lr=setting.lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=setting.weight_decay,
            eps=setting.eps,
            amsgrad=setting.amsgrad,
            maximize=setting.maximize,
        )

    @override
    def foreach(self, tensors: Tensors, grads: list[Tensor], settings: Sequence[AdamSetting]) -> None:
        params, state = tensors.params, tensors.state
        rule = settings[0]  # in what is no number they agree
        torch._foreach_add_(state["step"], 1.0)
        steps = torch.stack(state["step"]).tolist()
        beta1, beta2 = zip(*[s.betas for s in settings], strict=True)
        if rule.maximize:
            grads = list(torch._foreach_neg(grads))
        if rule.decoupled_weight_decay:  # without decay the rate may be infinite
            torch._foreach_mul_(params, [1 - s.lr * s.weight_decay if s.weight_decay else 1.0 for s in settings])
        else:
            grads = _decayed(grads, params, [s.weight_decay for s in settings])
        torch._foreach_lerp_(state["exp_avg"], grads, [1 - b for b in beta1])
        torch._foreach_mul_(state["exp_avg_sq"], list(beta2))
        torch._foreach_addcmul_(state["exp_avg_sq"], grads, grads, [1 - b for b in beta2])
        if rule.amsgrad:
            torch._foreach_maximum_(state["max_exp_avg_sq"], state["exp_avg_sq"])
        roots = torch._foreach_sqrt(state["max_exp_avg_sq" if rule.amsgrad else "exp_avg_sq"])
        torch._foreach_div_(roots, [(1 - b**t) ** 0.5 for b, t in zip(beta2, steps, strict=True)])
        torch._foreach_add_(roots, [s.eps for s in settings])
        sizes = [-s.lr / (1 - b**t) for s, b, t in zip(settings, beta1, steps, strict=True)]
        torch._foreach_addcdiv_(params, state["exp_avg"], roots, sizes)


def _decayed(grads: list[Tensor], params: list[Tensor], decays: list[float]) -> list[Tensor]:
    """``grad + decay * param``; the product is fused into the sum only where one number serves a whole list."""
    grads = list(grads)
    for decay in set(decays) - {0}:
        chosen = [i for i, other in enumerate(decays) if other == decay]
        sums = torch._foreach_add([grads[i] for i in chosen], [params[i] for i in chosen], alpha=decay)
        for i, total in zip(chosen, sums, strict=True):
            grads[i] = total
    return grads


class Adam(OnePass, torch.optim.Adam):
    r"""Adam: arguments, options, state and results of :class:`torch.optim.Adam`, one pass for all rates.

    .. math::
        g_t &= \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma\, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1, \beta_2` in [0, 1).
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`, added to the gradient.
        amsgrad: divides by the largest :math:`v` seen so far.
        foreach, fused: if given, PyTorch's own implementation of that name steps the group.
        maximize: ascends.
        capturable: keeps the step on the device, so that a CUDA graph can hold it.
        differentiable: stepped by PyTorch's own implementation.
        decoupled_weight_decay: decays as AdamW does.
        state_format: what the moments are kept in: ``None``, as torch does, in the parameter's dtype; ``"float32"``;
            ``"bfloat16"``; ``"8-bit"``, codes with an exponent for each 256 numbers. A group may say its own. On the
            CPU, of float32 and bfloat16 parameters; not with ``amsgrad`` and the options that name an implementation.
            In fewer bits than float32, what is kept is rounded up or down by chance, and so are bfloat16 parameters;
            with ``"float32"`` these have the other half of a float32 in the state, and no update is lost.

    State, for each parameter: ``step`` (float32, no dimensions), ``exp_avg``, ``exp_avg_sq`` and, with ``amsgrad``,
    ``max_exp_avg_sq`` (shape and dtype of the parameter). With ``state_format`` the moments are of that dtype, beside
    ``param_low`` (int16), or in 8 bits ``exp_avg_codes``, ``exp_avg_exponents``, ``exp_avg_sq_codes`` and
    ``exp_avg_sq_exponents`` (uint8). Loading converts from any of these.

    Raises:
        ValueError: an option out of its interval (torch's own checks).
        OptimizerError: a ``state_format`` that is unknown, or that these parameters or options cannot have.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import Adam
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = Adam([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> head
        tensor([-0.0100], requires_grad=True)

    Paper: Kingma and Ba, Adam: A Method for Stochastic Optimization, https://arxiv.org/abs/1412.6980;
    amsgrad: Reddi et al., On the Convergence of Adam and Beyond, https://openreview.net/forum?id=ryQu7f-RZ
    """

    _update = AdamUpdate()
    _symbol = "lrdiff_adam"
    _torch_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    _fused_dtypes = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
    _has_formats = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        state_format: str | None = None,
    ) -> None:
        self._state_format = state_format
        torch.optim.Adam.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
            capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip

    def _needed_state(self, group: Mapping[str, Any]) -> Set[str]:
        return {"step", "exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if group.get("amsgrad") else set())

    def _begin(self, param: Tensor, group: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
        if self.state.get(param):
            return {}, True
        if "state_format" in group:
            return begin(param, group["state_format"]), True
        step = torch.zeros((), dtype=torch.float32, device=param.device if group["capturable"] else "cpu")
        names = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []))
        moments = {name: torch.zeros_like(param, memory_format=torch.preserve_format) for name in names}
        return {"step": step, **moments}, True

    def _drop_half_begun(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state.get(param)
                if state and not self._needed_state(group) <= told(state) and not state.get("step"):
                    state.clear()
