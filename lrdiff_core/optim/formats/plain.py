"""Adam's step on numbers kept in fewer bytes, in plain operations: the bits of ``states.h``, for where no compiler is.

It is the twin that the tests hold the kernel against, and what steps without it, in several times the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.optim.formats.codes import draw, flat, fma, join, round_to_bfloat16, split
from lrdiff_core.optim.formats.state import LOW, read, write
from lrdiff_core.optim.forms import Columns, Form, Setting, Tensors, Update, _numbers

__all__ = ["PlainForm", "adam", "step"]


def adam(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor, *, t: int, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, lean: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The parameter and its moments after one step, in float32 with the roundings of ``kernel.c``.

    All tensors are float32 [numel], ``t`` is the step that is taken, from 1 up, and the options are those of
    :class:`~lrdiff_core.optim.Adam`. ``lean``: with a division less, and so other roundings.
    """
    weight, beta2, rest2 = _number(1 - betas[0]), _number(betas[1]), _number(1 - betas[1])
    size, root = _number(-(lr / (1 - betas[0] ** t))), _number(math.sqrt(1 - betas[1] ** t))
    if decoupled or not weight_decay:
        param = param * _number(1 - lr * weight_decay if weight_decay else 1.0)
    else:
        grad = fma(param, _number(weight_decay), grad)
    change = grad - m
    m = fma(weight, change, m) if abs(weight) < 0.5 else fma(weight - 1, change, grad)
    v = fma(rest2 * grad, grad, v * beta2)
    spread = v.double().sqrt().float()  # torch's own of float32 does not round all roots correctly
    move = size * root * m / (spread + _number(eps) * root) if lean else size * m / (spread / root + _number(eps))
    return param + move, m, v


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


@torch.no_grad()
def step(param: Tensor, grad: Tensor, state: dict[str, Tensor], setting: Any) -> None:
    """One step in place of a CPU parameter without gaps in memory, float32 or bfloat16, as its gradient.

    The state is in one of the formats, ``setting`` has the options of the group as attributes.
    """
    state["step"] += 1
    t = int(state["step"])
    numbers, low = flat(param), flat(state[LOW]) if LOW in state else None
    grads = -flat(grad).float() if setting.maximize else flat(grad).float()
    before = numbers.float() if low is None else join(numbers, low)
    chance = draw(grads, t)
    after, m, v = adam(
        before, grads, read(state, "exp_avg"), read(state, "exp_avg_sq"), t=t, lr=setting.lr, betas=setting.betas,
        eps=setting.eps, weight_decay=setting.weight_decay, decoupled=setting.decoupled_weight_decay,
        lean=not ("exp_avg" in state and state["exp_avg"].dtype is torch.float32),
    )  # fmt: skip
    write(state, "exp_avg", m, chance >> 16)
    write(state, "exp_avg_sq", v, chance & 0xFFFF)
    if low is not None:
        half, rest = split(after)
        numbers.copy_(half)
        low.copy_(rest)
    else:
        numbers.copy_(after if param.dtype is torch.float32 else round_to_bfloat16(after, chance >> 8 & 0xFFFF))


class PlainForm(Form):
    """One parameter after the other, by :func:`step`."""

    def __init__(self, tensors: Tensors, update: Update, settings: Sequence[Setting]) -> None:
        self._update, self._tensors = update, tensors
        self._settings = _numbers(update, settings)

    @override
    def tune(self, settings: Sequence[Setting], columns: Columns) -> bool:
        self._settings = _numbers(self._update, settings)
        return True

    @override
    def run(self, grads: list[Tensor]) -> None:
        tensors = self._tensors
        for i, (param, grad, group) in enumerate(zip(tensors.params, grads, tensors.group, strict=True)):
            state = {name: values[i] for name, values in tensors.state.items() if values[i] is not None}
            step(param, grad, state, self._settings[group])
