"""One step of torch's plain loop from any state: what weights and moments have to be after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdiff_export.training.jitter import Jitter
from lrdiff_export.training.job import Placed, TrainingJob
from lrdiff_export.training.optimizers import parts_of, plain_optimizer

__all__ = ["State", "Twin", "state_of"]

MOMENTS = (  # as torch's optimizers call them
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum"),
    *("row_var", "col_var", "variance", "z"),
)


@dataclass(frozen=True, kw_only=True)
class State:
    """Weights, and moments by name, on the CPU."""

    weights: list[Tensor]
    moments: list[dict[str, Tensor]]

    def part(self, index: int, key: str) -> np.ndarray:
        """A tensor's weights, or a moment of it, in float64 ``[numbers]``; moments begin at zero, ``[1]``."""
        found = self.moments[index].get(key, torch.zeros(1)) if key else self.weights[index]
        return np.asarray(found.double().reshape(-1).numpy())

    def rounded(self, dtype: torch.dtype) -> State:
        """The same in another dtype."""
        return State(
            weights=[one.to(dtype) for one in self.weights],
            moments=[{key: one.to(dtype) for key, one in each.items()} for each in self.moments],
        )


class Twin:
    """torch's plain loop on the CPU, put into a given state before each step."""

    def __init__(self, job: TrainingJob, dtype: torch.dtype, jitter: Jitter | None = None) -> None:
        self.placed, self._jitter = job.place("cpu", dtype), jitter
        self._optimizer = plain_optimizer(self.placed)
        self._muon = {name for group in job.groups if group.options.get("use_muon") for name in group.names}
        self._owners: dict[Tensor, Any] = {
            param: part
            for part in parts_of(self._optimizer)
            for group in part.param_groups
            for param in group["params"]
        }
        self._counters = self._counted()

    def step(self, before: State, grads: Sequence[Tensor], number: int) -> State:
        """Make one step from ``before``."""
        params, jitter = self.placed.params[:-1], self._jitter
        for i, param in enumerate(params):
            with torch.no_grad():
                param.copy_(before.weights[i])
            grad = grads[i].to(param.dtype, copy=True)
            state = {key: value.to(param.dtype, copy=True) for key, value in before.moments[i].items()}
            if jitter is not None:
                grad = jitter.gradient(grad, muon=self.placed.names[i] in self._muon)
                state = {key: jitter.kept(value) for key, value in state.items()}
            param.grad = grad
            counters = self._counters[i]
            if number == 1 and not counters and state.keys() != {"momentum_buffer"}:
                state = {}  # zeros, where a lane has warmed up; the loop begins them itself, and its counts
            elif state:  # what they have to be, whatever the lane counts
                state |= {key: count.clone() for key, count in counters.items()}
            self._owners[param].state[param] = state
        self.placed.set_rates(self._optimizer, number)
        if jitter is not None:
            jitter.bias_correction(self._optimizer, number)
        self._optimizer.step()
        self._counters = self._counted()
        return State(
            weights=[param.detach().clone() for param in params],
            moments=[_moments(self._owners[param].state.get(param, {})) for param in params],
        )

    def _counted(self) -> list[dict[str, Tensor]]:
        """Of each tensor what the loop keeps beside moments, as it is now."""
        found = [self._owners[param].state.get(param, {}) for param in self.placed.params[:-1]]
        return [{key: value for key, value in state.items() if key not in MOMENTS} for state in found]


def state_of(placed: Placed, optimizer: Any) -> State:
    """The weights of a lane and its optimizer's moments, as they are now."""
    params, state = placed.params[:-1], optimizer.state
    return State(
        weights=[param.detach().cpu().clone() for param in params],
        moments=[_moments(state.get(param, {})) for param in params],
    )


def _moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: state[name].detach().cpu().clone() for name in MOMENTS if isinstance(state.get(name), Tensor)}
