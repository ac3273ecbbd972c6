"""Which other rule a wrong step follows: a decay, an eps or a correction that is misplaced.

From the state that a lane was in before a step, the plain twins of :mod:`lrdiff_core.optim.reference` make the step
that another rule would make. One is named where it leaves less than a fraction of the difference to float64's step.

Sources: Kingma and Ba, https://arxiv.org/abs/1412.6980 (where eps stands, bias correction); Loshchilov and Hutter,
https://arxiv.org/abs/1711.05101 (decay in the gradient or apart from it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdiff_core.optim import reference
from lrdiff_export.training.job import TrainingJob
from lrdiff_export.training.optimizers import bias_correction

__all__ = ["other_rule"]

LEFT = 0.3  # of the difference may be left: the lane's own rounding is up to a quarter of what is found at all
LONG_AGO = 10**9  # steps after which no correction is left

Change = tuple[str, dict[str, Any], dict[str, Any]]  # in words; arguments; state


def other_rule(
    job: TrainingJob,
    name: str,
    step: int,
    *,
    weight: Tensor,
    moments: Mapping[str, Tensor],
    gradient: Tensor,
    found: np.ndarray,
    key: str = "",
) -> str | None:
    """Say which rule a step follows in place of its own; None where none of them explains it.

    Args:
        job: what is trained.
        name: of the tensor.
        step: from 1.
        weight: before the step, in the lane's dtype.
        moments: the same, by name.
        gradient: of the step.
        found: what the lane made of the weight, or of the moment ``key`` ``[numbers]``.
        key: of the moment; empty for the weight.
    """  # fmt: skip
    at = job.group_of(name)
    if at is None or job.groups[at].options.get("use_muon") or job.optimizer not in ("sgd", "adam", "adamw", "muon"):
        return None
    own = dict(job.groups[at].options) | {"lr": job.groups[at].lr * job.factor(step)}
    twin, changes = (reference.sgd, _sgd) if job.optimizer == "sgd" else (reference.adam, _adam)
    if twin is reference.adam:
        own["decoupled_weight_decay"] = job.optimizer != "adam"
    known = twin.__kwdefaults__ or {}
    arguments = {key: value for key, value in own.items() if key in known or key == "lr"}
    state: dict[str, Any] = {key: value.double() for key, value in moments.items()}
    if twin is reference.adam:
        state["step"] = step - 1

    def made(more: Mapping[str, Any], other: Mapping[str, Any]) -> np.ndarray:
        after = {**state, **other}
        value = twin(weight.double(), gradient.double(), after, **{**arguments, **more})
        return np.asarray((after[key] if key else value).reshape(-1).numpy())

    off = float(np.abs(found - made({}, {})).sum())
    left = {words: float(np.abs(found - made(more, other)).sum()) for words, more, other in changes(arguments, state)}
    best = min(left, key=lambda words: left[words], default="")
    return best if left and left[best] < LEFT * off else None


def _adam(own: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[Change]:
    lr, decay, eps = own["lr"], own.get("weight_decay", 0.0), own.get("eps", 1e-8)
    betas, step = own.get("betas", (0.9, 0.999)), state["step"] + 1
    apart = bool(own["decoupled_weight_decay"])
    first, root = bias_correction(betas, step)
    if decay:
        where = "in its gradient, and not apart from it" if apart else "apart from its gradient, and not in it"
        yield f"with its weight decay {where}", {"decoupled_weight_decay": not apart}, {}
        yield "without its weight decay", {"weight_decay": 0.0}, {}
        yield "with its weight decay applied twice", {"weight_decay": 2 * decay}, {}
        if apart and lr:
            yield "with its weight decay not multiplied by the rate", {"weight_decay": decay / lr}, {}
    yield "without bias correction", {}, {"step": LONG_AGO}
    yield (
        "without bias correction of the first moment",
        {"lr": lr * first, "weight_decay": decay / first if apart else decay},
        {},
    )
    yield (
        "without bias correction of the second moment",
        {"lr": lr / root, "eps": eps / root, "weight_decay": decay * root if apart else decay},
        {},
    )
    yield "with a count of steps that is one too high", {}, {"step": step}
    if step > 1:
        yield "with a count of steps that is one too low", {}, {"step": step - 2}
    yield "with eps added before the bias correction", {"eps": eps / root}, {}
    yield "with eps inside the root", {"eps": _Inside(eps)}, {}
    yield "without eps", {"eps": 0.0}, {}
    yield "with its betas swapped", {"betas": (betas[1], betas[0])}, {}
    yield "with its gradient's sign turned", {"maximize": not own.get("maximize", False)}, {}


def _sgd(own: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[Change]:
    lr, decay, momentum = own["lr"], own.get("weight_decay", 0.0), own.get("momentum", 0.0)
    if decay:
        yield "without its weight decay", {"weight_decay": 0.0}, {}
        yield "with its weight decay applied twice", {"weight_decay": 2 * decay}, {}
        yield "with its weight decay not multiplied by the rate", {"weight_decay": decay / lr if lr else decay}, {}
    if momentum:
        nesterov = bool(own.get("nesterov", False))
        yield "without its momentum", {"momentum": 0.0, "nesterov": False}, {}
        yield f"{'without' if nesterov else 'with'} Nesterov's momentum", {"nesterov": not nesterov}, {}
        yield "with its gradient damped by its momentum", {"dampening": momentum}, {}
    yield "with its gradient's sign turned", {"maximize": not own.get("maximize", False)}, {}


class _Inside:
    """Added to the root of a moment, gives the root of the moment and eps."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def __radd__(self, root: Tensor) -> Tensor:
        return torch.sqrt(root.square() + self._eps)
