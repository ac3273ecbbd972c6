"""The record: everything that is known about one measured case, as one JSON document.

A record is immutable, carries its schema's version, and keeps every sample whole with its process, block and place in
the order of the run. Who changes a field raises :data:`SCHEMA`; files of another schema are refused, not guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lrdiff_bench.measure.engine.case import Metric
from lrdiff_bench.system.machine import Code, Conditions, Machine
from lrdiff_core.errors import DataError

__all__ = [
    "SCHEMA",
    "ParityResult",
    "Part",
    "ProcessResult",
    "Record",
    "SampleRow",
    "join_records",
    "plain",
    "parse_record",
    "worst_parity",
]

SCHEMA: Literal[3] = 3


class Part(BaseModel):
    """A part of a record: immutable, and an unknown or missing field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SampleRow(Part):
    """One block: of which process, which block in it, which place in the order of all blocks of the run."""

    process: int
    block: int
    order: int
    seconds: float = Field(gt=0)
    launch: float | None = None
    device: float | None = None
    processor: float | None = None
    busy: bool | None = None  # one thread's own computing and nothing else


class ProcessResult(Part):
    """What one process did beside its samples; seconds and bytes."""

    process: int
    number: int  # steps a block
    first_call: float  # compiling is in here
    first_graphs: int
    recompilations: int
    warmup: tuple[float, ...]
    settled: bool
    clock_share: float
    host_before: int | None  # peak resident bytes before the case was built
    host_peak: int | None
    device_peak: int | None


class ParityResult(Part):
    """How far the result was from float64, in float32 eps at the scale of the result; None for NaN and infinity."""

    error: float | None
    budget: float
    held: bool


class Record(Part):
    """One case, measured in one or several processes of one run on one machine."""

    format: Literal["lrdiff.bench.record"] = "lrdiff.bench.record"
    schema_version: Literal[2, 3] = SCHEMA  # 2 is 3 without `busy`
    id: str
    created: str  # ISO 8601, UTC
    case: str  # label
    name: str
    parameters: dict[str, str | int | float | bool | None]
    version: str
    metric: Metric
    samples: tuple[SampleRow, ...]
    processes: tuple[ProcessResult, ...] = Field(min_length=1)
    parity: ParityResult | None
    instructions: float | None  # of one step, counted by callgrind
    facts: dict[str, str | int | float | bool | None]
    code: Code
    machine: Machine
    conditions: Conditions

    @property
    def median(self) -> float:
        """Seconds a step, over all samples."""
        return float(np.median([sample.seconds for sample in self.samples]))

    @property
    def processor_median(self) -> float | None:
        """Seconds a step by the processor's clock; None where a sample has none."""
        times = [sample.processor for sample in self.samples if sample.processor is not None]
        return float(np.median(times)) if times and len(times) == len(self.samples) else None

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, seconds a step."""
        low, high = np.quantile([sample.seconds for sample in self.samples], (0.25, 0.75))
        return float(low), float(high)

    @property
    def peak(self) -> int | None:
        """Largest peak of resident bytes over the processes; of the device where it tells one."""
        peaks = [p.device_peak if p.device_peak is not None else p.host_peak for p in self.processes]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def launch_share(self) -> float | None:
        """Time of handing work over, as a share of the whole; near 1 the step is launch-bound. None on the CPU."""
        shares = [sample.launch / sample.seconds for sample in self.samples if sample.launch is not None]
        return float(np.median(shares)) if shares else None

    def by_process(self) -> list[list[float]]:
        """Seconds a step, [processes][blocks]."""
        return [
            [sample.seconds for sample in self.samples if sample.process == process.process]
            for process in self.processes
        ]


def worst_parity(results: Sequence[ParityResult | None]) -> ParityResult | None:
    """The one that all processes of a case are judged by; None where the case has no parity.

    Example:
        >>> right, wrong = (ParityResult(error=e, budget=8.0, held=e <= 8) for e in (1.0, 9.0))
        >>> worst_parity([right, wrong, right]).error
        9.0
    """
    checked = [result for result in results if result is not None]
    return max(checked, key=lambda one: (not one.held, math.inf if one.error is None else one.error), default=None)


def join_records(parts: Sequence[Record]) -> Record:
    """One record of a case from records of one process each, measured one after the other."""
    samples: list[SampleRow] = []
    for index, part in enumerate(parts):
        begin = len(samples)
        samples += [row.model_copy(update={"process": index, "order": begin + row.order}) for row in part.samples]
    processes = [part.processes[0].model_copy(update={"process": index}) for index, part in enumerate(parts)]
    parity = worst_parity([part.parity for part in parts])
    return parts[-1].model_copy(update={"samples": tuple(samples), "processes": tuple(processes), "parity": parity})


def parse_record(line: str | bytes, *, where: str) -> Record:
    """Read a record.

    Args:
        line: JSON.
        where: file and line, for the error.

    Raises:
        DataError: no JSON, of another schema, or with fields unknown or missing.
    """
    try:
        return Record.model_validate_json(line)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{where} holds no record of schema {SCHEMA}: {at + ': ' if at else ''}{first['msg']}",
            help="use the lrdiff that wrote it, or remove the file and measure again with `lrdiff bench`",
        ) from problem


def plain(value: object) -> str | int | float | bool | None:
    """A parameter or fact as JSON knows it; whatever else it is, its text.

    Example:
        >>> plain(2), plain((1, 2))
        (2, '(1, 2)')
    """
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
