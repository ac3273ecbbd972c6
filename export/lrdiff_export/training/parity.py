"""Training parity: the same weights, batches and rates in every lane here, judged against float64 step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrdiff_core.errors import CheckFailed, LrdiffError, UnavailableError
from lrdiff_export.model.float64 import fitting_threads
from lrdiff_export.records import first_line
from lrdiff_export.training.arithmetic import ARITHMETICS
from lrdiff_export.training.diagnose import rates_text
from lrdiff_export.training.implementations import IMPLEMENTATIONS, Lane, Running, why_not
from lrdiff_export.training.job import Placed, TrainingJob
from lrdiff_export.training.judge import Bits, budgets_of, compare_bits, judge_lane, with_bits, with_steps
from lrdiff_export.training.reference import Snapshot, TrainingReference, snapshots
from lrdiff_export.training.report import LaneResult, TrainingReport
from lrdiff_export.training.steps import StepWatch
from lrdiff_export.verify.backend_result import REFUSED, UNAVAILABLE

__all__ = ["check_training_parity"]

# What torch only warns of: an operator under PYTORCH_ENABLE_MPS_FALLBACK, autocast to what the device does not know.
FALLS_BACK = "fall back to run on the CPU"
NO_AUTOCAST = "Disabling autocast"


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
    with fitting_threads(job.module):
        flags = _flags()
        for lane in lanes:
            result = _run(job, lane, references, bits, repeat=repeat)
            results.append(result)
            if on_lane is not None:
                on_lane(lane, result)
    results = [with_bits(job, lane, result, bits) for lane, result in zip(lanes, results, strict=True)]
    return TrainingReport(
        job=job.name,
        optimizer=job.optimizer,
        rates=rates_text(job),
        steps=job.steps,
        parameters=job.parameters,
        reference="torch's plain loop in float64 on the CPU",
        flags=flags,
        budgets=tuple(budgets_of(name, reference) for name, reference in references.items()),
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
    judged = with_steps(job, judge_lane(job, lane, reference, base, taken), watch.result())
    if again is not None:
        judged = replace(judged, repeats=compare_bits(reference.names, bits[lane], again, other=None, expected=False))
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


def _flags() -> dict[str, Any]:
    """The switches that decide which arithmetic runs; products in lanes are set to what each lane says."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }
