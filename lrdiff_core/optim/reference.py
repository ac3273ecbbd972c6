"""Plain twins of the optimizers, in float64: the rules as the papers print them, one parameter at a time.

The tests step them beside the fast ones. They share no code with them, and nothing here is meant to be fast.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["sgd", "adam", "rmsprop", "nadam", "radam", "adafactor", "adagrad", "lamb", "lion", "schedule_free", "muon"]

State = dict[str, Any]


def sgd(
    param: Tensor, grad: Tensor, state: State, *, lr: float, momentum: float = 0.0, dampening: float = 0.0,
    weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step; ``state`` begins empty and is updated.

    Example:
        >>> sgd(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5)
        tensor(0., dtype=torch.float64)
    """
    param = param.double()
    grad = (-1 if maximize else 1) * grad.double() + weight_decay * param
    if momentum:
        first = "momentum_buffer" not in state
        state["momentum_buffer"] = grad if first else momentum * state["momentum_buffer"] + (1 - dampening) * grad
        grad = grad + momentum * state["momentum_buffer"] if nesterov else state["momentum_buffer"]
    return param - lr * grad


def adam(
    param: Tensor, grad: Tensor, state: State, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of Adam, or of AdamW if the decay is decoupled; ``state`` begins empty.

    Example:
        >>> adam(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5, eps=0.0)
        tensor(0.5000, dtype=torch.float64)
    """
    param, grad = param.double(), (-1 if maximize else 1) * grad.double()
    if decoupled_weight_decay:
        param = param * (1 - lr * weight_decay)
    else:
        grad = grad + weight_decay * param
    zero = torch.zeros_like(param)
    t = state["step"] = state.get("step", 0) + 1
    m = state["exp_avg"] = betas[0] * state.get("exp_avg", zero) + (1 - betas[0]) * grad
    v = state["exp_avg_sq"] = betas[1] * state.get("exp_avg_sq", zero) + (1 - betas[1]) * grad**2
    if amsgrad:
        v = state["max_exp_avg_sq"] = torch.maximum(state.get("max_exp_avg_sq", zero), v)
    stepped: Tensor = param - lr * (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return stepped


def rmsprop(
    param: Tensor, grad: Tensor, state: State, *, lr: float, alpha: float = 0.99, eps: float = 1e-8,
    weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of RMSprop; ``state`` begins empty and is updated.

    Example:
        >>> rmsprop(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.1, alpha=0.0, eps=0.0)
        tensor(0.9000, dtype=torch.float64)
    """
    param = param.double()
    grad = (-1 if maximize else 1) * grad.double() + weight_decay * param
    zero = torch.zeros_like(param)
    variance = state["square_avg"] = alpha * state.get("square_avg", zero) + (1 - alpha) * grad**2
    if centered:
        state["grad_avg"] = alpha * state.get("grad_avg", zero) + (1 - alpha) * grad
        variance = variance - state["grad_avg"] ** 2
    move = grad / (variance.sqrt() + eps)
    if momentum:
        move = state["momentum_buffer"] = momentum * state.get("momentum_buffer", zero) + move
    stepped: Tensor = param - lr * move
    return stepped


def nadam(
    param: Tensor, grad: Tensor, state: State, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0.0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of NAdam; ``state`` begins empty and is updated.

    Example:
        >>> nadam(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5, betas=(0.0, 0.999), eps=0.0)
        tensor(0.5000, dtype=torch.float64)
    """
    param, grad = _decayed(param, grad, lr, weight_decay, decoupled_weight_decay, maximize)
    t, m, v = _moments(grad, state, betas)
    mu, after = (betas[0] * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
    product = state["mu_product"] = state.get("mu_product", 1.0) * mu
    mixed = after * m / (1 - product * after) + (1 - mu) * grad / (1 - product)
    stepped: Tensor = param - lr * mixed / ((v / (1 - betas[1] ** t)).sqrt() + eps)
    return stepped


def radam(
    param: Tensor, grad: Tensor, state: State, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0.0, decoupled_weight_decay: bool = False, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of RAdam; ``state`` begins empty and is updated.

    Example:
        >>> radam(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5)  # the first steps are not rectified
        tensor(0., dtype=torch.float64)
    """
    param, grad = _decayed(param, grad, lr, weight_decay, decoupled_weight_decay, maximize)
    t, m, v = _moments(grad, state, betas)
    longest = 2 / (1 - betas[1]) - 1
    length = longest - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    move = m / (1 - betas[0] ** t)
    if length > 5:
        chance = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        move = move * math.sqrt(chance) * math.sqrt(1 - betas[1] ** t) / (v.sqrt() + eps)
    stepped: Tensor = param - lr * move
    return stepped


def adafactor(
    param: Tensor, grad: Tensor, state: State, *, lr: float, beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of Adafactor; ``state`` begins empty and is updated.

    Example:
        >>> adafactor(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5)
        tensor(0.5000, dtype=torch.float64)
    """
    least = torch.finfo(grad.dtype).eps if eps[0] is None else eps[0]
    before = param.double()
    param, grad = _decayed(param, grad, lr, weight_decay, True, maximize)
    t = state["step"] = state.get("step", 0) + 1
    new, zero, square = t**beta2_decay, torch.zeros(()), grad**2
    if grad.dim() < 2:
        variance = state["variance"] = (1 - new) * state.get("variance", zero) + new * square
    else:
        rows = state["row_var"] = (1 - new) * state.get("row_var", zero) + new * square.mean(-1, keepdim=True)
        columns = state["col_var"] = (1 - new) * state.get("col_var", zero) + new * square.mean(-2, keepdim=True)
        variance = rows * columns / rows.mean(-2, keepdim=True).clamp(min=least)
    move = grad / variance.clamp(min=least**2).sqrt()
    own, way = (float(one.square().mean().sqrt()) for one in (before, move))
    stepped: Tensor = param - max(eps[1], own) * min(lr, t**-0.5) / max(1.0, way / d) * move
    return stepped


def adagrad(
    param: Tensor, grad: Tensor, state: State, *, lr: float, lr_decay: float = 0.0, weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0, eps: float = 1e-10, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of Adagrad; ``state`` begins empty and is updated.

    Example:
        >>> adagrad(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5, eps=0.0)
        tensor(0.5000, dtype=torch.float64)
    """
    param, grad = _decayed(param, grad, lr, weight_decay, False, maximize)
    t = state["step"] = state.get("step", 0) + 1
    total = state["sum"] = state.get("sum", torch.full_like(param, initial_accumulator_value)) + grad**2
    stepped: Tensor = param - lr / (1 + (t - 1) * lr_decay) * grad / (total.sqrt() + eps)
    return stepped


def lamb(
    param: Tensor, grad: Tensor, state: State, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6, weight_decay: float = 0.01, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of LAMB; ``state`` begins empty and is updated.

    Example:
        >>> lamb(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5)
        tensor(0.5000, dtype=torch.float64)
    """
    param, grad = _decayed(param, grad, lr, 0.0, True, maximize)
    t, m, v = _moments(grad, state, betas)
    move = (m / (1 - betas[0] ** t)) / ((v / (1 - betas[1] ** t)).sqrt() + eps) + weight_decay * param
    own, way = float(param.norm()), float(move.norm())
    return param - lr * (own / way if own and way else 1.0) * move


def lion(
    param: Tensor, grad: Tensor, state: State, *, lr: float, betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0, maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter after one step of Lion; ``state`` begins empty and is updated.

    Example:
        >>> lion(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.25)
        tensor(0.7500, dtype=torch.float64)
    """
    param, grad = _decayed(param, grad, lr, weight_decay, True, maximize)
    mean = state.get("exp_avg", torch.zeros_like(param))
    state["exp_avg"] = betas[1] * mean + (1 - betas[1]) * grad
    return param - lr * torch.sign(betas[0] * mean + (1 - betas[0]) * grad)


def schedule_free(
    param: Tensor, grad: Tensor, state: State, *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, weight_decay: float = 0.0, warmup_steps: int = 0, r: float = 0.0, weight_lr_power: float = 2.0,
    maximize: bool = False,
) -> Tensor:  # fmt: skip
    """The parameter (y) after one step of schedule-free AdamW; ``state`` begins empty and is updated, with x in it.

    Example:
        >>> schedule_free(torch.tensor(1.0), torch.tensor(2.0), {}, lr=0.5)
        tensor(0.5000, dtype=torch.float64)
    """
    y, grad = _decayed(param, grad, lr, 0.0, True, maximize)
    t = state["step"] = state.get("step", 0) + 1
    rate = lr * min(1.0, t / max(1, warmup_steps))
    top = state["lr_max"] = max(rate, state.get("lr_max", 0.0))
    weight = t**r * top**weight_lr_power
    total = state["weight_sum"] = state.get("weight_sum", 0.0) + weight
    v = state["exp_avg_sq"] = betas[1] * state.get("exp_avg_sq", torch.zeros_like(y)) + (1 - betas[1]) * grad**2
    move = grad / ((v / (1 - betas[1] ** t)).sqrt() + eps) + weight_decay * y
    z = state["z"] = state.get("z", y) - rate * move
    share = weight / total
    x = state["x"] = (1 - share) * state.get("x", y) + share * z
    mixed: Tensor = (1 - betas[0]) * z + betas[0] * x
    return mixed


def _decayed(
    param: Tensor, grad: Tensor, lr: float, weight_decay: float, decoupled: bool, maximize: bool
) -> tuple[Tensor, Tensor]:
    """Parameter and gradient in float64, with the decay in one of them."""
    param, grad = param.double(), (-1 if maximize else 1) * grad.double()
    return (param * (1 - lr * weight_decay), grad) if decoupled else (param, grad + weight_decay * param)


def _moments(grad: Tensor, state: State, betas: tuple[float, float]) -> tuple[int, Tensor, Tensor]:
    """Adam's count of steps and moments."""
    zero = torch.zeros_like(grad)
    state["step"] = state.get("step", 0) + 1
    state["exp_avg"] = betas[0] * state.get("exp_avg", zero) + (1 - betas[0]) * grad
    state["exp_avg_sq"] = betas[1] * state.get("exp_avg_sq", zero) + (1 - betas[1]) * grad**2
    return state["step"], state["exp_avg"], state["exp_avg_sq"]


def muon(
    param: Tensor, grad: Tensor, state: State, *, lr: float, momentum: float = 0.95, weight_decay: float = 0.1,
    nesterov: bool = True, ns_steps: int = 5, adjust_lr_fn: str | None = None, eps: float = 1e-7,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
) -> Tensor:  # fmt: skip
    """The matrix after one step of Muon; ``state`` begins empty and is updated.

    Example:
        >>> muon(torch.eye(2), torch.eye(2), {}, lr=0.0)
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    param, grad = param.double(), grad.double()
    buffer = momentum * state.get("momentum_buffer", torch.zeros_like(grad)) + (1 - momentum) * grad
    state["momentum_buffer"] = buffer
    x = (1 - momentum) * grad + momentum * buffer if nesterov else buffer
    x = x / max(float(x.norm()), eps)
    a, b, c = ns_coefficients
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x if wide else x.T
    rows, columns = param.shape
    factor = math.sqrt(max(1, rows / columns))
    if adjust_lr_fn == "match_rms_adamw":
        factor = 0.2 * math.sqrt(max(rows, columns))
    stepped: Tensor = param * (1 - lr * weight_decay) - lr * factor * x
    return stepped
