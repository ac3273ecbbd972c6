"""What went wrong where a training left its budget, read off the first step that did: which rate, which arithmetic.

First the gradients: those of the lane are compared with float64's at the same weights, and with what coarser
arithmetics make of them. An arithmetic is named where the errors have its pattern, or its size. Where gradients are
right, the update is not: a step in the same direction and of another length names a rate or a missing bias
correction; weights that hold fewer digits than their dtype name the dtype that they went through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lrdiff_export.model.float64 import float64_throughout
from lrdiff_export.training.jitter import Jitter
from lrdiff_export.training.job import PROBE, TrainingJob
from lrdiff_export.training.optimizers import bias_correction

__all__ = ["NOISE", "RIGHT", "explain", "gradients_at", "judge_gradients", "step_factor"]

RIGHT = "right"
PARALLEL = 0.05  # what may be left of a step, relative to it, once its length is taken out
SAME = 0.03  # two factors this close are one
SAME_PATTERN = 0.5  # of the error that an arithmetic makes: half of it is not shared by chance
SAME_SIZE = 3.0  # a factor either way; neighbouring formats are a factor of 8 apart
PLAIN_MARGIN = 8.0  # gradients this much worse than plain float32's are still right
NOISE = 1e-3  # tensors with gradients smaller than this, relative to the largest, are judged at that scale
DIGITS = {"bfloat16": 16, "TF32 or float16": 13}  # bits of a float32 that such a number leaves empty
_EPS = {"bfloat16": 2.0**-7, "TF32 or float16": 2.0**-10}


def explain(
    job: TrainingJob,
    name: str,
    step: int,
    *,
    moved: np.ndarray,
    exact: np.ndarray,
    weights: np.ndarray,
    everything: np.ndarray,
    eps: float,
    gradients: str | None,
    rule: str | None = None,
) -> str:
    """Say in one line what a tensor's first wrong step looks like.

    Args:
        job: what is trained.
        name: of the tensor.
        step: from 1.
        moved: what the step added to it ``[numbers]``.
        exact: what float64's step added.
        weights: after the step.
        everything: all trained tensors after the step: one number alone tells no digits.
        eps: of the arithmetic that was promised.
        gradients: from :func:`judge_gradients`.
        rule: from :func:`lrdiff_export.training.rules.other_rule`.
    """  # fmt: skip
    if not np.isfinite(weights).all():
        return "not finite where float64 is"
    if name == PROBE:
        tiny = float(torch.finfo(torch.float32).tiny)
        zeros = (weights == 0) & (np.abs(weights - moved + exact) < tiny)
        if zeros.any():
            return "denormal numbers are flushed to zero"
        return "denormal numbers come out wrong" if moved.any() else "denormal numbers stand still"
    if (held := _holds(weights) or _holds(everything)) is not None and _EPS[held] > eps:
        return f"its weights hold no more digits than {held} has"
    if gradients not in (None, RIGHT):
        return gradients or ""
    if not moved.any() and exact.any():
        return "it did not move"
    factor, rest = step_factor(moved, exact)
    right = "its gradient is right, " if gradients == RIGHT else ""
    if factor is not None and rest < PARALLEL and abs(factor - 1) > max(SAME, rest):
        why = _why(job, name, step, factor)
        if why or rule is None:
            return f"{right}its step is {factor:.3g} times that of float64{why}"
    if rule is not None:
        return f"{right}its step is that of float64 {rule}"
    if factor is not None and rest < abs(factor - 1) / 2:
        return f"{right}its step is {factor:.7g} times that of float64"
    return f"{right}its step is not that of float64"


def step_factor(moved: np.ndarray, exact: np.ndarray) -> tuple[float | None, float]:
    """Return the factor between two steps, and what is left relative to it; None where one of them is nothing.

    Example:
        >>> step_factor(np.array([2.0, 4.0]), np.array([1.0, 2.0]))
        (2.0, 0.0)
    """
    square = float(exact @ exact)
    if not square or not np.isfinite(moved).all():
        return None, math.inf
    factor = float(moved @ exact) / square
    if not factor:
        return None, math.inf
    return factor, float(np.linalg.norm(moved - factor * exact) / np.linalg.norm(factor * exact))


def judge_gradients(
    job: TrainingJob, step: int, *, taken: Sequence[Tensor], before: np.ndarray, eps: float
) -> str | None:
    """Say whether a lane's gradients are those of float64, and if not, which arithmetic they look like.

    Args:
        job: what is trained.
        step: from 1.
        taken: the lane's gradients in the step, in the order of the job's tensors, without the probe's.
        before: the lane's weights before the step, all in one ``[numbers]``.
        eps: of the arithmetic that was promised.

    Returns:
        ``right``, or what is wrong in one line; None where nothing can be told.
    """
    mine = [gradient.detach().to("cpu", torch.float64) for gradient in taken]
    if not all(bool(torch.isfinite(one).all()) for one in mine):
        return "its gradient is not finite where that of float64 is"
    exact = gradients_at(job, step, before, "float64")
    if exact is None:
        return None
    most = max(float(one.abs().max()) for one in exact if one.numel())
    scales = [max(float(one.abs().max()), NOISE * most) or 1.0 for one in exact]

    def error(gradients: Sequence[Tensor]) -> np.ndarray:
        parts = zip(gradients, exact, scales, strict=True)
        return torch.cat([((a - b) / scale).reshape(-1) for a, b, scale in parts]).numpy()

    own = error(mine)
    plain = gradients_at(job, step, before, "float32")
    allowed = max(eps, 0.0 if plain is None else _norm(error(plain)))
    if _norm(own) <= PLAIN_MARGIN * allowed:
        return RIGHT
    made = {name: error(one) for name in _WAYS if (one := gradients_at(job, step, before, name)) is not None}
    near = {name: _norm(own - other) / _norm(other) for name, other in made.items() if _norm(other)}
    if near and min(near.values()) < SAME_PATTERN:
        return f"its gradient was computed in {_WAYS[min(near, key=lambda name: near[name])]}"
    sizes = {name: abs(math.log(_norm(own) / _norm(other))) for name, other in made.items() if _norm(other)}
    if sizes and min(sizes.values()) < math.log(SAME_SIZE):
        return f"the error of its gradient has the size that {_WAYS[min(sizes, key=lambda name: sizes[name])]} makes"
    flat = [torch.cat([one.reshape(-1) for one in several]).numpy() for several in (mine, exact)]
    factor, rest = step_factor(*flat)
    if factor is not None and rest < PARALLEL and abs(factor - 1) > max(SAME, rest):
        return f"its gradient is {factor:.3g} times that of float64"
    return f"its gradient is wrong by {_norm(own):.2g} of its size"


# What gradients are simulated in, and how it is called: TF32 and float16 keep equally many digits.
_WAYS = {"autocast bfloat16": "bfloat16", "bfloat16": "bfloat16", "tf32": "TF32 or float16"}


def gradients_at(
    job: TrainingJob, step: int, before: np.ndarray, way: str, *, jitter: Jitter | None = None
) -> list[Tensor] | None:
    """Return gradients at given weights, on the CPU, in float64 numbers; None where the module does not run so.

    Args:
        job: what is trained.
        step: whose batch, from 1.
        before: the weights, all in one ``[numbers]``; the probe's may be left out.
        way: ``float64``, ``float32``, ``bfloat16``, ``autocast bfloat16`` or ``tf32``.
        jitter: moves weights and rows as if they were rounded on their way into products.
    """
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(way, torch.float32)
    placed = job.place("cpu", dtype)
    batch = placed.batch(step - 1)
    if way == "tf32":
        batch = tuple(_tf32(one) if one.dtype is torch.float32 else one for one in batch)
    if jitter is not None:
        batch = jitter.rows(batch)
    start = 0
    with torch.no_grad():
        for param in placed.params[:-1]:  # the probe adds nothing to other gradients
            value = torch.from_numpy(before[start : start + param.numel()]).reshape(param.shape)
            start += param.numel()
            value = value if jitter is None else jitter.multiplied(value)
            param.copy_(_tf32(value.float()) if way == "tf32" else value)
    try:
        if way == "float64":
            with float64_throughout():
                placed.loss(*batch).backward()
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way.startswith("autocast"), cache_enabled=False):
                placed.loss(*batch).backward()
    except Exception:  # noqa: BLE001 - a module that does not run so was not computed so
        return None
    found = [torch.zeros_like(param) if param.grad is None else param.grad for param in placed.params[:-1]]
    return [one.double() for one in found]


def _tf32(value: Tensor) -> Tensor:
    """Rounded to ten bits after the point, to nearest, ties to even."""
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def _norm(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2))) if error.size else 0.0


def _why(job: TrainingJob, name: str, step: int, factor: float) -> str:
    at = job.group_of(name)
    if at is None:
        return ""
    own = job.groups[at]
    if job.optimizer in ("adam", "adamw", "muon") and not own.options.get("use_muon"):
        first, root = bias_correction(own.options.get("betas", (0.9, 0.999)), step)
        if math.isclose(factor, first / root, rel_tol=SAME):
            return ", as without bias correction"
    now, last = job.factor(step), job.factor(max(step - 1, 1))
    if now and now != 1 and math.isclose(factor, 1 / now, rel_tol=SAME):
        return ", as without the schedule"
    if now and step > 1 and math.isclose(factor, last / now, rel_tol=SAME):
        return ", as at the rate of the step before"
    for number, other in enumerate(job.groups):
        if number != at and own.lr and math.isclose(factor, other.lr / own.lr, rel_tol=SAME):
            return f", as at the rate {other.lr:g} of group {number} in place of its own {own.lr:g}"
    return ""


def _holds(weights: np.ndarray) -> str | None:
    """The coarsest format that holds all of these numbers exactly; None for float32 and finer ones."""
    values = weights[weights != 0]
    single = torch.from_numpy(values).float()
    if values.size < 2 or not torch.equal(single.double(), torch.from_numpy(values)):  # one may be a round number
        return None
    bits = single.view(torch.int32)
    return next((name for name, empty in DIGITS.items() if not bool((bits & ((1 << empty) - 1)).any())), None)


def group_text(job: TrainingJob, name: str) -> str:
    """The tensor with its group and rate, as reports write it."""
    at = job.group_of(name)
    return name if at is None else f"{name} (group {at}, rate {job.groups[at].lr:g})"


def rates_text(job: TrainingJob) -> str:
    """The distinct rates in order."""
    return ", ".join(f"{rate:g}" for rate in dict.fromkeys(group.lr for group in job.groups))
