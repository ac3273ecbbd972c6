"""One lane against float64: where its trajectory or a single step leaves the budget first, and what that looks like."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_export.training.arithmetic import ARITHMETICS
from lrdiff_export.training.diagnose import RIGHT, explain, group_text, judge_gradients
from lrdiff_export.training.implementations import IMPLEMENTATIONS, Lane
from lrdiff_export.training.job import PROBE, TrainingJob
from lrdiff_export.training.reference import LOSS, Snapshot, TrainingReference
from lrdiff_export.training.report import Budgets, Departure, LaneResult, SameBits
from lrdiff_export.training.steps import GRADIENT, OneStep
from lrdiff_export.verify.backend_result import AGREES, DIFFERS

__all__ = ["Bits", "budgets_of", "compare_bits", "judge_lane", "with_bits", "with_steps"]

Bits = list[tuple[bytes, ...]]  # a digest of each tensor, after each step

FLUSHING = ("cuda", "mps")  # some of their kernels are built to flush denormals: it is told, and not judged


def judge_lane(
    job: TrainingJob, lane: Lane, reference: TrainingReference, base: LaneResult, taken: list[Snapshot]
) -> LaneResult:
    """Compare a lane's snapshots with the budget of every tensor at every step, and say where it first leaves it."""
    errors = np.stack([reference.errors(step, one.values) for step, one in enumerate(taken)])
    bounded = np.isfinite(reference.allowed)
    shares = np.where(bounded, errors / np.where(bounded, reference.allowed, 1.0), 0.0)
    names = list(reference.names)
    remarks: list[str] = []
    if base.device in FLUSHING and (shares[:, names.index(PROBE)] > 1).any():
        remarks.append("denormals are flushed to zero")
        shares[:, names.index(PROBE)] = 0.0
    weights = [i for i, name in enumerate(names) if name not in (PROBE, LOSS)]
    told = [*weights, names.index(LOSS)]  # the probe says yes or no, and is no measure
    step, at = (int(i) for i in np.unravel_index(np.argmax(shares[:, told]), shares[:, told].shape))
    at = told[at]
    departure = None
    left = (shares[:, told] > 1).any(axis=1)
    probed = shares[:, names.index(PROBE)] > 1
    if left.any() and probed.any():
        remarks.append(f"the {PROBE} left its budget at step {int(probed.argmax())}")
    if left.any() or probed.any():
        # A trained tensor that left says most, then the loss; the probe where nothing else did.
        first = int(left.argmax()) if left.any() else int(probed.argmax())
        among = [i for i in (told if left.any() else [names.index(PROBE)]) if shares[first][i] > 1]
        among = [i for i in among if i in weights] or among
        worst = max(among, key=lambda i: shares[first][i])
        departure = _departure(job, lane, reference, taken, first, names[worst], float(errors[first][worst]))
        step, at = first, worst
    return replace(
        base,
        status=AGREES if departure is None else DIFFERS,
        reason=None if departure is None else _reason(job, departure),
        parameter=names[at],
        step=step,
        error=float(errors[step][at]),
        allowed=float(reference.allowed[step][at]),
        typical=float(np.median(errors[:, weights].max(axis=0))),
        typical_allowed=float(np.median(reference.allowed[-1, weights])),
        departure=departure,
        distances=tuple(map(float, errors[1:, weights].max(axis=1))),
        shares=tuple(map(float, shares[1:, told].max(axis=1))),
        losses=tuple(float(one.values[-1]) for one in taken[1:]),
        remarks=tuple(remarks),
    )


def with_steps(job: TrainingJob, result: LaneResult, found: OneStep) -> LaneResult:
    """Add what single steps show: a fault from its first step on, also where trajectories say little."""
    result = replace(result, one_step=found)
    wrong = found.wrong
    if wrong is None or (result.departure is not None and result.departure.step < wrong.step):
        return result
    if result.departure is not None and result.departure.step == wrong.step:
        if wrong.rule is None:
            return result
        departure = replace(result.departure, meaning=wrong.meaning)  # the step alone says more of it
        return replace(result, departure=departure, reason=_reason(job, departure))
    at = job.group_of(wrong.parameter)
    departure = Departure(
        step=wrong.step,
        parameter=wrong.parameter,
        group=at,
        rate=None if at is None else job.groups[at].lr,
        error=wrong.error,
        allowed=wrong.allowed,
        meaning=wrong.meaning,
        one_step=True,
    )
    where = wrong.what.replace(wrong.parameter, group_text(job, wrong.parameter))
    unit = "its size" if wrong.what == GRADIENT.format(wrong.parameter) else "one step's way"
    size = f"{wrong.error:.3g} of {unit}, allowed {wrong.allowed:.3g}"
    return replace(
        result, status=DIFFERS, departure=departure, reason=f"step {wrong.step}, {where}: {size}; {wrong.meaning}"
    )


def _departure(
    job: TrainingJob,
    lane: Lane,
    reference: TrainingReference,
    taken: list[Snapshot],
    step: int,
    name: str,
    error: float,
) -> Departure:
    part, index = reference.part(name), list(reference.names).index(name)
    before = max(step - 1, 0)
    eps = reference.arithmetic.eps
    gradients = None
    if name != PROBE and step and np.isfinite(taken[before].values).all():
        gradients = _gradients(job, lane, step, taken[before].values[:-1], eps)
    if name == LOSS:
        wrong = gradients if gradients != RIGHT else None
        meaning = wrong or "the weights before it were within their budget: the forward pass differs"
    else:
        meaning = explain(
            job, name, step,
            moved=taken[step].values[part] - taken[before].values[part],
            exact=reference.values[step][part] - reference.values[before][part],
            weights=taken[step].values[part],
            everything=taken[step].values[: reference.part(PROBE).start],
            eps=eps,
            gradients=gradients,
        )  # fmt: skip
    at = job.group_of(name)
    return Departure(
        step=step,
        parameter=name,
        group=at,
        rate=None if at is None else job.groups[at].lr,
        error=error,
        allowed=float(reference.allowed[step][index]),
        meaning=meaning,
    )


def _gradients(job: TrainingJob, lane: Lane, step: int, before: np.ndarray, eps: float) -> str | None:
    """What the gradients of one step look like, from the same lane run again up to it; None where it has none."""
    arithmetic = ARITHMETICS[lane.arithmetic]
    placed = job.first(step).place(lane.device, arithmetic.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = IMPLEMENTATIONS[lane.implementation].start(placed, arithmetic)
        for number in range(step):
            running.step(*placed.batch(number))
    taken = [param.grad for param in placed.params[:-1]]
    there = [one for one in taken if one is not None]
    return judge_gradients(job, step, taken=there, before=before, eps=eps) if len(there) == len(taken) else None


def _reason(job: TrainingJob, departure: Departure) -> str:
    where = group_text(job, departure.parameter)
    size = f"{departure.error:.3g} eps, allowed {departure.allowed:.3g}"
    return f"step {departure.step}, {where}: {size}; {departure.meaning}"


def budgets_of(name: str, reference: TrainingReference) -> Budgets:
    """Sum up what an arithmetic may be off by, over all tensors, step by step."""
    weights = [i for i, one in enumerate(reference.names) if one not in (PROBE, LOSS)]

    def largest(table: np.ndarray) -> tuple[float, ...]:
        return tuple(map(float, table[1:, weights].max(axis=1)))

    by_tensor = reference.sharpness
    sharpness = np.median(by_tensor, axis=1)
    blunt = np.flatnonzero(sharpness < 1)  # the last sharp step, if any
    last = int(blunt[-1]) + 1 if blunt.size else 0
    return Budgets(
        arithmetic=name,
        allowed=largest(reference.allowed),
        plain=largest(reference.plain),
        conditioning=largest(reference.conditioning),
        sharpness=float(sharpness[-1]),
        blunt_from=None if last == len(sharpness) else last + 1,
        judged=reference.judged,
        blind=tuple(name for name, share in zip(reference.names, by_tensor[-1], strict=False) if share >= 1),
    )


def _expected(job: TrainingJob, lane: Lane) -> bool:
    """Whether our optimizer has to give torch's fused bits: where it runs torch's fused kernels."""
    if lane.device != "cpu" or not OPTIMIZERS[job.optimizer].fused:
        return False
    if lane.arithmetic == "bfloat16" and job.optimizer in ("sgd", "adagrad"):
        return False  # torch's fused SGD is wrong there, and ours uses neither
    in_float32 = ARITHMETICS[lane.arithmetic].dtype is torch.float32  # there ours has a kernel of its own
    return lane.implementation == "ours-no-kernel" or (lane.implementation == "ours" and not in_float32)


def with_bits(job: TrainingJob, lane: Lane, result: LaneResult, bits: Mapping[Lane, Bits]) -> LaneResult:
    """Compare with torch's implementations in the same arithmetic on the same device, where both ran."""
    if lane not in bits or lane.implementation.startswith("torch"):
        return result
    names = (*_names(job), PROBE, LOSS)
    others = [replace(lane, implementation=name) for name in ("torch-fused", "torch-foreach", "torch")]
    told = tuple(
        compare_bits(
            names, bits[lane], bits[other], other=other.implementation,
            expected=other.implementation == "torch-fused" and _expected(job, lane),
        )
        for other in others if other in bits
    )  # fmt: skip
    broken = next((one for one in told if one.expected and not one.equal), None)
    if broken is not None and result.status == AGREES:
        why = f"bits differ from those of {broken.other} from step {broken.step}, {broken.parameter}: "
        result = replace(result, status=DIFFERS, reason=why + "the same kernels have to give the same bits")
    return replace(result, bits=told)


def _names(job: TrainingJob) -> list[str]:
    return [name for name, weight in job.module.named_parameters() if weight.requires_grad]


def compare_bits(names: Sequence[str], mine: Bits, theirs: Bits, *, other: str | None, expected: bool) -> SameBits:
    """Compare two trainings bit by bit; where they differ, name the first step and parameter."""
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        for name, x, y in zip(names, a, b, strict=True):
            if x != y:
                return SameBits(other=other, expected=expected, equal=False, step=step, parameter=name)
    return SameBits(other=other, expected=expected, equal=True)
