"""Training parity: the same weights, batches and rates in every lane here, judged against float64 step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrdiff_core.errors import CheckFailed, LrdiffError, UnavailableError
from lrdiff_export.model.float64 import SMALL_MODULE
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.training.diagnose import RIGHT, explain, group_text, judge_gradients, rates_text
from lrdiff_export.training.implementations import ARITHMETICS, IMPLEMENTATIONS, Lane, Running, why_not
from lrdiff_export.training.job import PROBE, Placed, TrainingJob
from lrdiff_export.training.reference import LOSS, Snapshot, TrainingReference, snapshots
from lrdiff_export.training.steps import GRADIENT, OneStep, StepWatch
from lrdiff_export.verify.backend_result import AGREES, DIFFERS, REFUSED, UNAVAILABLE

__all__ = ["Departure", "LaneResult", "SameBits", "TrainingReport", "check_training_parity"]

# What torch only warns of: an operator under PYTORCH_ENABLE_MPS_FALLBACK, autocast to what the device does not know.
FALLS_BACK = "fall back to run on the CPU"
NO_AUTOCAST = "Disabling autocast"
FLUSHING = ("cuda", "mps")  # some of their kernels are built to flush denormals: it is told, and not judged
Bits = list[tuple[bytes, ...]]


@dataclass(frozen=True, kw_only=True)
class Departure:
    """The first step that left the budget.

    Attributes:
        step: from 1; 0 means before the first update.
        parameter: the tensor furthest beyond its budget there, or ``loss``.
        group: its group, from 0; None for the loss and the probe.
        rate: of that group.
        error, allowed: in eps units; of a single step as shares of its way.
        meaning: what its step looks like, in one line.
        one_step: whether it was seen in a single step from the lane's own state, not in the trajectory.
    """

    step: int
    parameter: str
    group: int | None
    rate: float | None
    error: float
    allowed: float
    meaning: str
    one_step: bool = False


@dataclass(frozen=True, kw_only=True)
class SameBits:
    """Whether two trainings gave the same weights and losses, bit for bit.

    Attributes:
        other: implementation it is compared with; None for a second run of itself.
        expected: whether it has to be so: the same arithmetic in the same order.
        equal: whether it is.
        step, parameter: where bits differ first.
    """

    other: str | None
    expected: bool
    equal: bool
    step: int | None = None
    parameter: str | None = None


@dataclass(frozen=True, kw_only=True)
class LaneResult:
    """One row of the matrix.

    Attributes:
        implementation, device, arithmetic: what was promised.
        status: ``agrees``, ``differs``, ``refused`` or ``unavailable``.
        reason: why it does not agree, in one line; None when it does.
        parameter: the tensor that came closest to its budget, or furthest beyond it; the loss counts as one.
        step: where that was.
        error, allowed: there, in eps units.
        typical, typical_allowed: medians over trained tensors of the largest error, and of the budget at the end:
            what rounding alone moves does not show in them.
        departure: the first step that left the budget.
        one_step: each update judged from the state that the lane was in before it; None where it did not run.
        repeats: whether a second run gives the same bits.
        bits: the same against other implementations on the same device.
        distances: largest error of any tensor by step, in eps units ``[steps]``.
        shares: largest share of its budget that any tensor used, by step ``[steps]``.
        losses: by step ``[steps]``.
        remarks: what else a reader should know.
    """

    implementation: str
    device: str
    arithmetic: str
    status: str
    reason: str | None = None
    parameter: str | None = None
    step: int | None = None
    error: float | None = None
    allowed: float | None = None
    typical: float | None = None
    typical_allowed: float | None = None
    departure: Departure | None = None
    one_step: OneStep | None = None
    repeats: SameBits | None = None
    bits: tuple[SameBits, ...] = ()
    distances: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What one arithmetic may be wrong by.

    Attributes:
        arithmetic: its name.
        allowed: the largest budget of any weight tensor, by step, in eps units ``[steps]``.
        plain: the same of plain arithmetic's error.
        conditioning: the same of moved float64 trajectories.
        sharpness: the budget after the last step as a share of the way that the weights went, of the median tensor.
        blunt_from: the first step from which on that share is 1 or more: the budget says little there.
        judged: the last step that is judged: after it plain arithmetic itself is not finite as float64 is.
        blind: tensors of which the budget says little at the end, because what moves them is rounding.
    """

    arithmetic: str
    allowed: tuple[float, ...]
    plain: tuple[float, ...]
    conditioning: tuple[float, ...]
    sharpness: float
    blunt_from: int | None
    judged: int
    blind: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The matrix.

    Attributes:
        job, optimizer, rates: what was trained, and how.
        steps, parameters: how much of it.
        reference: what everything is compared with.
        flags: torch's switches that arithmetic depends on.
        budgets: one an arithmetic.
        results: one a lane, in the order asked for.
        remarks: of the job.
    """

    job: str
    optimizer: str
    rates: str
    steps: int
    parameters: int
    reference: str
    flags: dict[str, Any]
    budgets: tuple[Budgets, ...]
    results: tuple[LaneResult, ...]
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether at least one lane agrees and none differs or refused; unavailable ones do not count."""
        statuses = {result.status for result in self.results}
        return AGREES in statuses and not statuses & {DIFFERS, REFUSED}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"format": "lrdiff.training_parity", "version": 1, "passed": self.passed, **json_ready(self)}


def check_training_parity(
    job: TrainingJob,
    lanes: Sequence[Lane],
    *,
    repeat: bool = True,
    on_lane: Callable[[Lane, LaneResult], None] | None = None,
) -> TrainingReport:
    """Train the same job in every lane and compare each step with float64 on the CPU.

    Args:
        job: what is trained; left as it is.
        lanes: from :func:`~lrdiff_export.training.implementations.find_lanes`.
        repeat: run each lane a second time, to see whether it gives the same bits.
        on_lane: called after each lane.

    Raises:
        InputError: the job cannot be trained in float64, or draws random numbers.

    Example:
        >>> from torch import nn
        >>> from lrdiff_export.training.job import RateGroup
        >>> job = TrainingJob(
        ...     name="line", module=nn.Linear(2, 1), batches=[(torch.ones(4, 2),)] * 3, optimizer="adam",
        ...     loss=lambda module, x: (module(x) - 1).square().mean(),
        ...     groups=(RateGroup(names=("weight", "bias"), options={"lr": 0.1}),),
        ... )
        >>> report = check_training_parity(job, [Lane(implementation="torch"), Lane(implementation="ours")])
        >>> [result.status for result in report.results]
        ['agrees', 'agrees']
    """
    references: dict[str, TrainingReference] = {}
    bits: dict[Lane, Bits] = {}
    results: list[LaneResult] = []
    with _fitting_threads(job):
        flags = _flags()
        for lane in lanes:
            result = _run(job, lane, references, bits, repeat=repeat)
            results.append(result)
            if on_lane is not None:
                on_lane(lane, result)
    results = [_with_bits(job, lane, result, bits) for lane, result in zip(lanes, results, strict=True)]
    return TrainingReport(
        job=job.name,
        optimizer=job.optimizer,
        rates=rates_text(job),
        steps=job.steps,
        parameters=job.parameters,
        reference="torch's plain loop in float64 on the CPU",
        flags=flags,
        budgets=tuple(_budgets(name, reference) for name, reference in references.items()),
        results=tuple(results),
        remarks=job.remarks,
    )


def _run(
    job: TrainingJob, lane: Lane, references: dict[str, TrainingReference], bits: dict[Lane, Bits], *, repeat: bool
) -> LaneResult:
    base = LaneResult(
        implementation=lane.implementation, device=lane.device, arithmetic=lane.arithmetic, status=UNAVAILABLE
    )
    if (reason := why_not(lane, job.optimizer)) is not None:
        return replace(base, reason=reason)
    if lane.arithmetic not in references:
        references[lane.arithmetic] = TrainingReference(job, ARITHMETICS[lane.arithmetic])
    reference = references[lane.arithmetic]
    try:
        watch = StepWatch(job, ARITHMETICS[lane.arithmetic])
        taken = list(_train(job, lane, watch))
        again = [one.bits for one in _train(job, lane)] if repeat else None
    except UnavailableError as problem:
        return replace(base, reason=problem.message)
    except LrdiffError as problem:
        return replace(base, status=REFUSED, reason=problem.message)
    except Exception as problem:  # noqa: BLE001 - whatever an implementation raises is its answer, and one row
        return replace(base, status=REFUSED, reason=f"{type(problem).__name__}: {first_line(problem)}")
    finally:
        torch.compiler.reset()
    bits[lane] = [one.bits for one in taken]
    judged = _with_steps(job, _judge(job, lane, reference, base, taken), watch.result())
    if again is not None:
        judged = replace(judged, repeats=_compare(reference.names, bits[lane], again, other=None, expected=False))
    return judged


def _train(job: TrainingJob, lane: Lane, watch: StepWatch | None = None) -> Iterator[Snapshot]:
    """Train in a lane; refuse where it turns out to have run elsewhere or in another dtype than it says."""
    arithmetic = ARITHMETICS[lane.arithmetic]
    placed = job.place(lane.device, arithmetic.dtype)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        running = IMPLEMENTATIONS[lane.implementation].start(placed, arithmetic)
        _check_place(placed, running, lane)
        yield from snapshots(placed, _Checked(placed, running, lane, watch))
    for warning in told:
        if FALLS_BACK in str(warning.message):
            raise CheckFailed(
                f"asked for {lane.device}, ran in part on cpu: {first_line(str(warning.message))}",
                help="unset PYTORCH_ENABLE_MPS_FALLBACK",
            )
        if NO_AUTOCAST in str(warning.message):
            raise CheckFailed(
                f"asked for {lane.arithmetic}, ran in float32: {first_line(str(warning.message))}",
                help="take an arithmetic that the device has",
            )


class _Checked:
    """A step that refuses to go on, after the first and after the last, where something lies elsewhere."""

    def __init__(self, placed: Placed, running: Running, lane: Lane, watch: StepWatch | None) -> None:
        self._placed, self._running, self._lane, self._watch, self._number = placed, running, lane, watch, 0
        if watch is not None:
            watch.begin(placed, running.optimizer)

    def __call__(self, *batch: Tensor) -> Tensor:
        loss = self._running.step(*batch)
        self._number += 1
        if self._number in (1, self._placed.job.steps):
            _check_place(self._placed, self._running, self._lane)
        if self._watch is not None:
            self._watch.after(self._placed, self._running.optimizer, self._number)
        return loss


def _check_place(placed: Placed, running: Running, lane: Lane) -> None:
    """Weights, gradients and the optimizer's moments have to be where the lane says, in the dtype that it says."""
    held: list[tuple[str, Tensor]] = []
    for name, param in zip(placed.names, placed.params, strict=True):
        held.append((name, param))
        if param.grad is not None:
            held.append((f"the gradient of {name}", param.grad))
        for key, value in running.optimizer.state.get(param, {}).items():
            if isinstance(value, Tensor) and value.dim() > 0:
                held.append((f"{key} of {name}", value))
    for name, tensor in held:
        if tensor.device.type != lane.device:
            raise CheckFailed(
                f"asked for {lane.device}, ran on {tensor.device.type}: {name} is there",
                help="an implementation must not move what it is given",
            )
        if tensor.dtype is not placed.dtype:
            raise CheckFailed(
                f"asked for {lane.arithmetic}, {name} is {str(tensor.dtype).removeprefix('torch.')}",
                help="an implementation must keep the dtype it is given",
            )


def _judge(
    job: TrainingJob, lane: Lane, reference: TrainingReference, base: LaneResult, taken: list[Snapshot]
) -> LaneResult:
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


def _with_steps(job: TrainingJob, result: LaneResult, found: OneStep) -> LaneResult:
    """Add what single steps show: a fault from its first step on, also where trajectories say little."""
    result = replace(result, one_step=found)
    wrong = found.wrong
    if wrong is None or (result.departure is not None and result.departure.step <= wrong.step):
        return result
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


def _expected(job: TrainingJob, lane: Lane) -> bool:
    """Whether our optimizer has to give torch's fused bits: where it runs torch's fused kernels."""
    if lane.device != "cpu" or job.optimizer == "muon":
        return False
    if lane.arithmetic == "bfloat16" and job.optimizer == "sgd":
        return False  # torch's fused SGD is wrong there, and ours does not use it
    in_float32 = ARITHMETICS[lane.arithmetic].dtype is torch.float32  # there ours has a kernel of its own
    return lane.implementation == "ours-no-kernel" or (lane.implementation == "ours" and not in_float32)


def _with_bits(job: TrainingJob, lane: Lane, result: LaneResult, bits: dict[Lane, Bits]) -> LaneResult:
    """Compare with torch's implementations in the same arithmetic on the same device, where both ran."""
    if lane not in bits or lane.implementation.startswith("torch"):
        return result
    names = (*_names(job), PROBE, LOSS)
    others = [replace(lane, implementation=name) for name in ("torch-fused", "torch-foreach", "torch")]
    told = tuple(
        _compare(
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


def _compare(names: Sequence[str], mine: Bits, theirs: Bits, *, other: str | None, expected: bool) -> SameBits:
    for step, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        for name, x, y in zip(names, a, b, strict=True):
            if x != y:
                return SameBits(other=other, expected=expected, equal=False, step=step, parameter=name)
    return SameBits(other=other, expected=expected, equal=True)


def _budgets(name: str, reference: TrainingReference) -> Budgets:
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


def _flags() -> dict[str, Any]:
    """The switches that decide which arithmetic runs; products in lanes are set to what each lane says."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


@contextmanager
def _fitting_threads(job: TrainingJob) -> Iterator[None]:
    """One thread for a small module: on a busy machine each parallel region can wait a scheduler's slice."""
    before = torch.get_num_threads()
    if job.parameters <= SMALL_MODULE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
