"""The update rules of SGD, Adam, AdamW and RMSprop over a stack of members, each with its own hyperparameters."""

from __future__ import annotations

import torch
from torch import Tensor

from lrdiff_core.population.members import Hyperparameters

__all__ = ["UpdateRule"]


class UpdateRule:
    r"""One optimizer for every member of a tile, on the tile's device.

    With :math:`\gamma, \lambda, \mu, \alpha, \beta_1, \beta_2, \epsilon` of the member and the parameter's group, the
    updates are those of :class:`lrdiff_core.optim.SGD`, :class:`~lrdiff_core.optim.Adam`,
    :class:`~lrdiff_core.optim.AdamW` and :class:`~lrdiff_core.optim.RMSprop`. Scalars of a step are computed in float64
    on the CPU.

    Args:
        optimizer: a name in :data:`lrdiff_core.optimizers.STACKED`.
        columns: [members, groups + 1] each.
        group_of: column of each parameter.
        factor: [steps] what the schedule multiplies rates by.
        nesterov: SGD only.
        like: a parameter, for device and dtype.
    """

    def __init__(
        self,
        optimizer: str,
        columns: Hyperparameters,
        group_of: dict[str, int],
        factor: Tensor,
        *,
        nesterov: bool,
        like: Tensor,
    ) -> None:
        self.optimizer = optimizer
        self.columns = columns
        self.group_of = group_of
        self.factor = factor
        self.nesterov = nesterov
        self._like = like
        # Running powers, as in the kernel: beta ** t
        self._power1, self._power2 = torch.ones_like(columns.rate), torch.ones_like(columns.rate)
        self._fixed = {name: self._place(values) for name, values in vars(columns).items()}
        self._fixed |= {
            "rest1": self._place(1 - columns.beta1),
            "rest2": self._place(1 - columns.beta2),
        }

    def start(self, parameters: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Moments of every parameter, zero."""
        moments = ("first",) if self.optimizer == "sgd" else ("first", "second")
        return {moment: {name: torch.zeros_like(value) for name, value in parameters.items()} for moment in moments}

    def scalars(self, step: int) -> dict[str, Tensor]:
        """What the update needs at ``step`` (from 0, each once, rising), [members, groups + 1] on the device."""
        c = self.columns
        rate = c.rate * self.factor[step]
        if self.optimizer in ("sgd", "rmsprop"):
            return {**self._fixed, "rate": self._place(rate)}
        self._power1 *= c.beta1
        self._power2 *= c.beta2
        decay = 1 - rate * c.weight_decay if self.optimizer == "adamw" else c.weight_decay
        return {
            **self._fixed,
            "rate": self._place(rate / (1 - self._power1)),
            "root": self._place((1 - self._power2).rsqrt()),
            "weight_decay": self._place(decay),
        }

    def update(
        self,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        moments: dict[str, dict[str, Tensor]],
        scalars: dict[str, Tensor],
        alive: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """New parameters [members, ...] and moments; members outside ``alive`` [members] keep their parameters."""
        new: dict[str, Tensor] = {}
        new_moments: dict[str, dict[str, Tensor]] = {moment: {} for moment in moments}
        for name, value in parameters.items():
            group, grad = self.group_of[name], gradients[name]
            shape = (-1,) + (1,) * (value.ndim - 1)
            s = {key: column[:, group].reshape(shape) for key, column in scalars.items()}
            first = moments["first"][name]
            if self.optimizer == "sgd":
                grad = torch.addcmul(grad, value, s["weight_decay"])
                first = torch.addcmul(grad, first, s["beta1"])
                direction = torch.addcmul(grad, first, s["beta1"]) if self.nesterov else first
                moved = value - s["rate"] * direction
            elif self.optimizer == "rmsprop":
                grad = torch.addcmul(grad, value, s["weight_decay"])
                second = moments["second"][name] * s["beta2"] + grad * grad * s["rest2"]
                new_moments["second"][name] = second
                first = torch.addcmul(grad / (second.sqrt() + s["eps"]), first, s["beta1"])
                moved = value - s["rate"] * first
            else:
                if self.optimizer == "adam":
                    grad = torch.addcmul(grad, value, s["weight_decay"])
                else:
                    value = value * s["weight_decay"]
                first = first * s["beta1"] + grad * s["rest1"]
                second = moments["second"][name] * s["beta2"] + grad * grad * s["rest2"]
                new_moments["second"][name] = second
                moved = value - s["rate"] * first / (second.sqrt() * s["root"] + s["eps"])
            new_moments["first"][name] = first
            new[name] = torch.where(alive.reshape(shape), moved, parameters[name])
        return new, new_moments

    def _place(self, values: Tensor) -> Tensor:
        return values.to(self._like.dtype).to(self._like.device)
