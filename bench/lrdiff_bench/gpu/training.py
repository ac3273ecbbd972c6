"""Training parity on an accelerator: every implementation of the optimizers, over the kinds of models in use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lrdiff_bench.gpu.record import NO_TIME, GpuRow, Reporter, Request
from lrdiff_export.training import (
    ARITHMETICS,
    IMPLEMENTATIONS,
    TRAINING_ZOO,
    Lane,
    LaneResult,
    TrainingJob,
    check_training_parity,
    zoo_job,
)

__all__ = ["run", "tasks"]

STEPS, LARGE_STEPS, QUICK_STEPS = 15, 4, 3
PLAIN = ("torch", "torch-foreach", "torch-fused", "ours")
SLOW = ("compiled", "overhead", "autotune")


def run(request: Request, report: Reporter) -> None:
    """Train each job in each lane of the device; what compiles comes last.

    Args:
        request: device and size.
        report: takes a row for each lane.
    """
    for job, lanes in tasks(request):

        def done(lane: Lane, result: LaneResult, job: TrainingJob = job) -> None:
            report(_row(job, lane, result))

        if not request.in_time():
            for lane in lanes:
                report(GpuRow(what=_what(job, lane), result="unavailable", note=NO_TIME))
            continue
        slow = any(word in lane.implementation for word in SLOW for lane in lanes)
        check_training_parity(job, lanes, repeat=not (slow or request.quick), on_lane=done)


def tasks(request: Request) -> Iterator[tuple[TrainingJob, list[Lane]]]:
    """Yield the jobs with their lanes, in order."""
    device = request.device
    there = [name for name, one in IMPLEMENTATIONS.items() if device in one.devices]
    quickly = [name for name in there if not any(word in name for word in SLOW)]
    others = [name for name, one in ARITHMETICS.items() if device in one.devices and name != "float32"]

    def lanes(names: Any, arithmetics: Any = ("float32",)) -> list[Lane]:
        return [Lane(implementation=n, device=device, arithmetic=a) for a in arithmetics for n in names if n in there]

    if request.quick:
        yield zoo_job("main", optimizer="adamw", steps=QUICK_STEPS), lanes(quickly) + lanes(("ours",), others)
        yield zoo_job("3-D linear", optimizer="sgd", steps=QUICK_STEPS), lanes(PLAIN)
        return
    for name in TRAINING_ZOO:
        more = lanes(PLAIN, others) if name in ("main", "transformer block") else []
        yield (
            zoo_job(name, optimizer="adamw", steps=LARGE_STEPS if name == "large batch" else STEPS),
            lanes(quickly) + more,
        )
    for optimizer in ("sgd", "adam", "muon"):
        yield zoo_job("main", optimizer=optimizer, steps=STEPS), lanes(quickly if optimizer != "muon" else PLAIN)
    # One lane a task: each compiles for ten seconds and more, and before each there is a look at the clock.
    for lane in lanes([one for one in there if one not in quickly]):
        yield zoo_job("main", optimizer="adamw", steps=STEPS), [lane]


def _what(job: TrainingJob, lane: Lane) -> str:
    return f"{job.name}, {job.optimizer}, {lane.implementation}, {lane.arithmetic}"


def _row(job: TrainingJob, lane: Lane, result: LaneResult) -> GpuRow:
    state = {"agrees": "passed", "unavailable": "unavailable"}.get(result.status, "failed")
    value = "" if result.allowed is None else f"{result.error:.3g} eps of {result.allowed:.3g}"
    notes = [result.reason or "", *result.remarks]
    if result.repeats is not None and not result.repeats.equal:
        notes.append(f"not the same bits twice, from step {result.repeats.step} on ({result.repeats.parameter})")
    return GpuRow(
        what=_what(job, lane),
        result=state,  # type: ignore[arg-type]
        value=value,
        note="; ".join(note for note in notes if note),
        numbers={
            "status": result.status,
            "error": result.error,
            "allowed": result.allowed,
            "repeats": None if result.repeats is None else result.repeats.equal,
            "largest_share": max(result.shares, default=None),
            "step": None if result.departure is None else result.departure.step,
            "parameter": None if result.departure is None else result.departure.parameter,
        },
    )
