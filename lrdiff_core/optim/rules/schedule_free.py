"""Schedule-free AdamW, stepped in one pass whatever the number of rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import kernel
from lrdiff_core.optim.kernel_rule import KernelRule, KernelUpdate, PlainLoop

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeLoop", "ScheduleFreeUpdate"]

# In checkpoints of the authors' class.
_OF_THE_GROUP = ("k", "weight_sum", "lr_max", "scheduled_lr", "inner_momentum", "foreach")


class ScheduleFreeSetting(NamedTuple):
    """What of a group's options is watched; or, option by option, what all groups have."""

    lr: Any
    weight_decay: Any
    betas: Any
    eps: Any
    warmup_steps: Any
    r: Any
    weight_lr_power: Any
    maximize: Any
    train_mode: Any


class ScheduleFreeUpdate(KernelUpdate):
    """The rule of schedule-free AdamW."""

    setting: type[Any] = ScheduleFreeSetting
    required: tuple[str, ...] = ("lr", "weight_decay", "betas", "eps", "warmup_steps", "r", "weight_lr_power")
    buffers: tuple[str, str, str] = ("z", "exp_avg_sq", "")
    counters: tuple[str, ...] = ("step", "lr_max", "averaged")

    @override
    def structure(self, columns: ScheduleFreeSetting) -> tuple[Any, ...]:
        return columns.maximize, columns.train_mode

    @override
    def numbers(self, columns: ScheduleFreeSetting) -> tuple[Sequence[Any], ...]:
        beta1, beta2 = zip(*columns.betas, strict=True)
        average = columns.warmup_steps, columns.r, columns.weight_lr_power
        return (columns.lr, columns.weight_decay, beta1, beta2, columns.eps, *average)

    @override
    def flags(self, setting: ScheduleFreeSetting) -> int:
        return kernel.MAXIMIZE * bool(setting.maximize)


class ScheduleFreeLoop(PlainLoop):
    """Schedule-free AdamW parameter by parameter, for what the kernel does not take."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        for name, value in (("learning rate", lr), ("epsilon value", eps), ("weight_decay value", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        if not 0.0 < betas[0] < 1.0:  # y is a mix of x and z, from which x is found again
            raise ValueError(f"Invalid beta parameter at index 0: {betas[0]}")
        if not 0.0 <= betas[1] < 1.0:
            raise ValueError(f"Invalid beta parameter at index 1: {betas[1]}")
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "warmup_steps": warmup_steps, "r": r,
            "weight_lr_power": weight_lr_power, "maximize": maximize, "train_mode": False,
        }  # fmt: skip
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch does; it is in the mode of the others."""
        if self.param_groups:
            param_group.setdefault("train_mode", self.param_groups[0]["train_mode"])
        super().add_param_group(param_group)

    def train(self) -> None:
        """Parameters become y, where gradients are taken. To be called before training, as ``model.train()``."""
        self._switch(True, lambda beta1: 1 - beta1)

    def eval(self) -> None:
        """Parameters become x, the average, which is what was learnt. To be called before evaluating or saving."""
        self._switch(False, lambda beta1: 1 - 1 / beta1)

    @torch.no_grad()
    def _switch(self, train: bool, weight: Callable[[float], float]) -> None:
        for group in self.param_groups:
            if group["train_mode"] is not train:
                for param in group["params"]:
                    if "z" in self.state.get(param, {}):
                        param.lerp_(self.state[param]["z"], weight(float(group["betas"][0])))
                group["train_mode"] = train

    @override
    def _check(self, group: Mapping[str, Any]) -> None:
        check_mode(group)

    @override
    def _step_one(self, param: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        super()._step_one(param, grad, group)
        if not self.state[param]:
            counters = {name: torch.zeros((), dtype=torch.float32) for name in ScheduleFreeUpdate.counters}
            square = torch.zeros_like(param, memory_format=torch.preserve_format)
            self.state[param] = {**counters, "z": param.detach().clone(), "exp_avg_sq": square}
        state, (beta1, beta2), eps, decay = self.state[param], group["betas"], group["eps"], group["weight_decay"]
        rate, share = _advance(state, group)
        grad = -grad if group["maximize"] else grad
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        move = grad / ((square / (1 - beta2 ** float(state["step"]))).sqrt() + eps) + decay * param
        param.lerp_(state["z"], share).add_(move, alpha=rate * (beta1 * (1 - share) - 1))
        state["z"].sub_(move, alpha=rate)


def _advance(state: Mapping[str, Tensor], group: Mapping[str, Any]) -> tuple[float, float]:
    """Count a step; the rate of this one, and the share in the average of what it adds."""
    step, before = float(state["step"].add_(1)), float(state["lr_max"])
    rate = float(group["lr"]) * min(1.0, step / (group["warmup_steps"] or 1))
    top = float(state["lr_max"].clamp_(min=rate))
    # The sum of all weights so far, in units of this step's: exact while rates stay.
    grown = ((step - 1) / step) ** group["r"] * ((before / top) ** group["weight_lr_power"] if top != before else 1.0)
    state["averaged"].mul_(grown).add_(1)
    return rate, 1 / float(state["averaged"])


def check_mode(group: Mapping[str, Any]) -> None:
    """Raises an OptimizerError for parameters that are the average."""
    if not group["train_mode"]:
        raise OptimizerError(
            "ScheduleFreeAdamW steps parameters that are set to be evaluated",
            help="call optimizer.train() before training, and optimizer.eval() before evaluating or saving",
        )


class ScheduleFreeAdamW(KernelRule, ScheduleFreeLoop):
    r"""Schedule-free AdamW: an average in place of a schedule, one pass for all rates.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad
            d_t = \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda y_t, \qquad g_t = \nabla f(y_t) \\
        z_{t+1} &= z_t - \gamma_t d_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad
            c_t = \frac{t^r \gamma_{\max}^p}{\sum_{i \le t} i^r \gamma_{\max, i}^p} \\
        y_{t+1} &= (1 - \beta_1) z_{t+1} + \beta_1 x_{t+1}

    While training, parameters are :math:`y`; :meth:`eval` makes them the average :math:`x`, :meth:`train` :math:`y`
    again. The pass is the compiled kernel's: float32 parameters on the CPU. Others are stepped by a plain loop.
    Gradients stay as they are.

    Args:
        params: tensors, ``(name, tensor)`` pairs, or dictionaries of parameter groups.
        lr: rate :math:`\gamma`, a number or a one-element tensor.
        betas: :math:`\beta_1` in (0, 1), :math:`\beta_2` in [0, 1).
        eps: :math:`\epsilon`, added to the denominator.
        weight_decay: :math:`\lambda`, taken at :math:`y`.
        warmup_steps: over which :math:`\gamma_t` rises to the rate, evenly.
        r, weight_lr_power: the powers :math:`r` and :math:`p` in the average's weights.
        maximize: ascends.

    State, for each parameter: ``step``, ``lr_max`` (the highest rate so far) and ``averaged`` (:math:`1 / c_t`), each
    float32 without dimensions; ``z`` and ``exp_avg_sq`` (shape and dtype of the parameter). Counters belong to the
    parameter, so that one which is unfrozen later begins its own average. Checkpoints of the authors' class are read.

    Raises:
        ValueError: an option out of its interval.
        OptimizerError: (at a step) :meth:`train` was not called.

    Example:
        >>> import torch
        >>> from lrdiff_core.optim import ScheduleFreeAdamW
        >>> body, head = torch.zeros(3, requires_grad=True), torch.zeros(1, requires_grad=True)
        >>> optimizer = ScheduleFreeAdamW([{"params": [body], "lr": 1e-4}, {"params": [head], "lr": 1e-2}])
        >>> optimizer.train()
        >>> (body.sum() + head.sum()).backward()
        >>> optimizer.step()
        >>> optimizer.eval()
        >>> head
        tensor([-0.0100], requires_grad=True)

    Paper: Defazio et al., The Road Less Scheduled, https://arxiv.org/abs/2405.15682
    """

    _update = ScheduleFreeUpdate()
    _symbol = "lrdiff_schedule_free"
    _torch_class: ClassVar[type[Optimizer]] = ScheduleFreeLoop

    def _buffers(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("z", "exp_avg_sq")

    @override
    def _first(self, param: Tensor, name: str) -> Tensor:
        return param.detach().clone() if name == "z" else super()._first(param, name)

    @override
    def _covers(self, group: dict[str, Any]) -> bool:
        check_mode(group)
        return super()._covers(group)

    @override
    def _accept(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        saved = state_dict["param_groups"]
        if all("weight_sum" in group for group in saved):
            state_dict = {**state_dict, **_of_the_authors(saved, state_dict["state"])}
        return super()._accept(state_dict)


def _of_the_authors(groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any]) -> dict[str, Any]:
    """A checkpoint of ``schedulefree.AdamWScheduleFree``, which counts by group, as one of ours."""
    counted = dict(state)
    for group in groups:
        if group.get("inner_momentum"):
            raise OptimizerError(
                "the checkpoint was trained with inner_momentum", help="go on in schedulefree's own class"
            )
        steps, top = group["k"], group["lr_max"]
        last = steps ** group["r"] * top ** group["weight_lr_power"] if steps else 0.0
        numbers = {"step": steps, "lr_max": max(top, 0.0), "averaged": group["weight_sum"] / last if last else 0.0}
        counters = {name: torch.tensor(float(number), dtype=torch.float32) for name, number in numbers.items()}
        for position in group["params"]:
            if position in state:
                own = {name: counter.clone() for name, counter in counters.items()}
                counted[position] = {**own, **state[position]}
    kept = [{key: value for key, value in group.items() if key not in _OF_THE_GROUP} for group in groups]
    return {"state": counted, "param_groups": kept}
