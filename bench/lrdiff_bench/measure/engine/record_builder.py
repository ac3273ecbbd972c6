"""How a record comes about: what a timer saw as plain types, collected over processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.record import ParityResult, ProcessResult, Record, SampleRow, plain, worst_parity
from lrdiff_bench.measure.engine.timer import Sample, Timer
from lrdiff_bench.system.machine import Code, Conditions, Machine, describe_code, describe_machine
from lrdiff_bench.system.memory import peak_or_none

__all__ = ["RecordBuilder", "describe_timer"]


class RecordBuilder:
    """A record on its way: samples as they come, then what each process says at its end.

    Args:
        case: that is measured.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.samples: list[SampleRow] = []
        self._processes: list[ProcessResult] = []
        self._parities: list[ParityResult | None] = []
        self._last: Mapping[str, Any] = {}

    def add(self, sample: Sample, *, process: int, block: int, order: int) -> None:
        """Keep a block: of which process, the how manyth of it, the how manyth of the run."""
        self.samples.append(SampleRow(process=process, block=block, order=order, **sample._asdict()))

    def finish(self, process: int, end: Mapping[str, Any]) -> None:
        """Keep what a process says at its end, of :func:`describe_timer`, with its ``conditions``."""
        self._processes.append(ProcessResult(process=process, **end["process"]))
        self._parities.append(None if end["parity"] is None else ParityResult(**end["parity"]))
        self._last = end

    def record(self, *, instructions: float | None = None) -> Record:
        """Put the record together and give it its id and time."""
        case, end = self.case, self._last
        return Record(
            id=uuid4().hex,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            case=case.label,
            name=case.name,
            parameters={key: plain(value) for key, value in case.parameters.items()},
            version=case.version,
            metric=case.metric,
            samples=tuple(self.samples),
            processes=tuple(self._processes),
            parity=worst_parity(self._parities),
            instructions=instructions,
            facts=end["facts"],
            code=Code(**end["code"]),
            machine=Machine(**end["machine"]),
            conditions=Conditions(**end["conditions"]),
        )


def describe_timer(timer: Timer) -> dict[str, Any]:
    """Everything about a measured case that is neither a sample nor the state of the machine."""
    timed = timer.case.metric == "time"
    process = {
        "number": timer.number,
        "first_call": timer.first_step if timed else 0.0,
        "first_graphs": timer.first_graphs,
        "recompilations": timer.recompilations if timed else 0,
        "warmup": timer.warmup,
        "settled": timer.settled or not timed,
        "clock_share": timer.clock_share if timer.samples else 0.0,
        # Before parity, which computes in float64.
        "host_before": timer.host_before,
        "host_peak": peak_or_none(),
        "device_peak": timer.device.peak(),
    }
    return {
        "process": process,
        "parity": _parity(timer),
        "facts": {key: plain(value) for key, value in timer.workload.facts.items()},
        "code": asdict(describe_code()),
        "machine": asdict(describe_machine(timer.workload.device)),
    }


def _parity(timer: Timer) -> dict[str, Any] | None:
    if timer.workload.parity is None:
        return None
    timer.workload.reset()
    parity = timer.workload.parity()
    error = parity.error if math.isfinite(parity.error) else None
    return {"error": error, "budget": parity.budget, "held": parity.held}
