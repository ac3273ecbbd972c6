"""A run: cases, each in fresh processes, each giving one record."""

from __future__ import annotations

import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.child import describe
from lrdiff_bench.measure.engine.instructions import check_valgrind, count_instructions
from lrdiff_bench.measure.engine.process import Effort, MeasuringProcess, can_fork
from lrdiff_bench.measure.engine.record import (
    ParityResult,
    ProcessResult,
    Record,
    SampleRow,
    join_records,
    make_record,
    parse_record,
    worst_parity,
)
from lrdiff_bench.measure.engine.registry import CASES, RESERVED
from lrdiff_bench.measure.engine.timer import Timer
from lrdiff_bench.system.machine import Code, Conditions, Machine, describe_conditions, pinned
from lrdiff_core.errors import CheckFailed, ConfigError, LrdiffError, UnavailableError
from lrdiff_core.text import nearest

__all__ = ["CaseRun", "choose_cases", "measure_cases", "measure_here", "measure_in_copies"]

LEAST_SAMPLES = 3  # taken even where the time is up


@dataclass
class CaseRun:
    """A case on its way to a record: what the live table shows."""

    case: Case
    reason: str | None = None  # why it was not measured
    failed: bool = False  # the reason is a fault, not something that is not here
    record: Record | None = None
    note: str | None = None  # beside the record
    _samples: list[SampleRow] = field(default_factory=list)
    _processes: list[ProcessResult] = field(default_factory=list)
    _parities: list[ParityResult | None] = field(default_factory=list)

    def _finish(self, index: int, end: dict[str, Any]) -> None:
        """Keep what a process tells at its end."""
        self._processes.append(ProcessResult(process=index, **end["process"]))
        self._parities.append(None if end["parity"] is None else ParityResult(**end["parity"]))


def choose_cases(
    names: Sequence[str], parameters: Sequence[str] = (), *, device: str | None = None, quick: bool = False
) -> list[Case]:
    """The cases that a command line asks for.

    A parameter that is given a value has that value; ``k=a,b`` gives it two. With parameters, the others have their
    defaults; without any, what a whole (or quick) run measures is chosen. ``device`` is the parameter of that name,
    and leaves out families that have none.

    Args:
        names: of families; none means all.
        parameters: ``key=value`` each.
        device: "cpu", "cuda" or "mps".
        quick: the quick selection.

    Raises:
        ConfigError: an unknown case, parameter or value.

    Example:
        >>> [case.label for case in choose_cases(["main_step"], ["rates=2"])]
        ['main_step[rates=2]']
    """
    for name in names:
        if name not in CASES:
            raise ConfigError(
                f"there is no case {name!r}", help=nearest(name, [*CASES, *RESERVED], "cases and commands", most=40)
            )
    pairs = [_pair(text) for text in parameters]
    found: dict[str, Case] = {}  # by label: what is named twice is measured once
    for family in [CASES[name] for name in names] or list(CASES.values()):
        if any(key not in family.parameters for key, _ in pairs) and not names:
            continue  # `--param rates=2` alone: the families that have rates
        if device not in (None, "cpu") and "device" not in family.parameters:
            continue
        chosen = {key: tuple(family.parse(key, one) for one in texts) for key, texts in pairs}
        if device is not None and "device" in family.parameters:
            chosen["device"] = (family.parse("device", device),)
        views = [{}] if pairs else [family.quick] if quick else list(family.views.values())
        found |= {case.label: case for view in views for case in family.view({**view, **chosen})}
    if not found:
        raise ConfigError("no case has these parameters", help="see `lrdiff bench ls --cases`")
    return list(found.values())


def measure_cases(
    cases: Sequence[Case],
    effort: Effort,
    *,
    instructions: bool = False,
    affinity: Sequence[int] = (),
    watch: Callable[[CaseRun], None] = lambda row: None,
) -> Iterator[CaseRun]:
    """Measure every case and yield its row when it is complete.

    Each process measures one case. With several processes a case, all cases are measured once before the next
    process begins, in another random order each time: what the machine does for a while hits different cases.

    Args:
        cases: in the order they are shown.
        effort: processes, samples, times.
        instructions: count them, too (a minute or two a case).
        affinity: processors to keep to.
        watch: called with a row when its measuring begins.

    Raises:
        UnavailableError: instructions are asked for and there is no valgrind. A case that is not available has a row
            with the reason.
    """
    if instructions:
        check_valgrind()
    rows = [CaseRun(case) for case in cases]
    for row in rows:
        row.reason = CASES[row.case.name].unavailable(**row.case.parameters)
        if row.reason is not None:
            yield row
    order = 0
    generator = random.Random(0)
    with ExitStack() as stack:
        server: MeasuringProcess | None = None
        for process in range(effort.processes):
            waiting = [row for row in rows if row.reason is None]
            if process:
                generator.shuffle(waiting)
            for row in waiting:
                watch(row)
                try:
                    # A copy has all the memory of what it was copied from: peaks are measured in new processes.
                    if row.case.metric == "time" and can_fork(str(row.case.parameters.get("device", "cpu"))):
                        server = server or stack.enter_context(MeasuringProcess(fork=True, affinity=affinity))
                        order, end = _measure(row, server, effort, process, order)
                    else:
                        with MeasuringProcess(affinity=affinity) as alone:
                            order, end = _measure(row, alone, effort, process, order)
                except LrdiffError as problem:
                    row.reason = f"{problem.message} ({problem.help})"
                    row.failed = not isinstance(problem, UnavailableError)
                    server = None  # it ended with its copy
                    yield row
                    continue
                if process == effort.processes - 1:
                    counted = None
                    if instructions:
                        try:
                            counted = count_instructions(row.case)
                        except UnavailableError as problem:  # what was measured is kept all the same
                            row.note = f"{problem.message} ({problem.help})"
                    row.record = _record(row, end, counted)
                    yield row


def measure_here(case: Case, effort: Effort) -> Record:
    """Measure a timed case in this process; its peak of memory is that of everything this process has done.

    Raises:
        UnavailableError: the case's device is not here.
    """
    with pinned(case.threads) as threads:
        conditions = describe_conditions(str(case.parameters.get("device", "cpu")), threads)
        timer = Timer(case, target_seconds=effort.block_seconds, warmup_seconds=effort.warmup_seconds)
        timer.warm_up()
        began = time.perf_counter()
        while len(timer.samples) < effort.samples and (
            len(timer.samples) < LEAST_SAMPLES or time.perf_counter() - began < effort.most_seconds
        ):
            timer.sample()
        row = CaseRun(case)
        end = describe(timer) | {"conditions": asdict(conditions)}
    row._samples += [SampleRow(process=0, block=i, order=i, **one._asdict()) for i, one in enumerate(timer.samples)]
    row._finish(0, end)
    return _record(row, end, None)


def measure_in_copies(case: Case, effort: Effort) -> Record:
    """Measure a timed case in forked copies of this process, one after the other.

    There are as many as the effort has processes and time for. Where forking will not do (see :func:`can_fork`), it is
    measured in this process, once.

    Raises:
        CheckFailed: a copy ended before it had measured; its traceback is on stderr.
    """
    if not can_fork(str(case.parameters.get("device", "cpu"))):
        return measure_here(case, effort)
    began = time.perf_counter()
    parts = [_measure_in_copy(case, effort)]
    while len(parts) < effort.processes and time.perf_counter() - began < effort.case_seconds:
        parts.append(_measure_in_copy(case, effort))
    return join_records(parts)


def _measure_in_copy(case: Case, effort: Effort) -> Record:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w", encoding="utf-8") as answer:
                answer.write(measure_here(case, effort).model_dump_json())
            status = 0
        except Exception:  # noqa: BLE001  # whatever it is, its traceback is the answer
            traceback.print_exc()
        finally:  # whatever happens, this copy must not go on as if it were the original
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise CheckFailed(
            f"the process that measured {case.label} ended with status {os.waitstatus_to_exitcode(status)}",
            help="its output is above; out of memory ends a process with status -9",
        )
    return parse_record(text, where=case.label)


def _measure(
    row: CaseRun, process: MeasuringProcess, effort: Effort, index: int, order: int
) -> tuple[int, dict[str, Any]]:
    process.start(row.case, effort)
    if row.case.metric == "time":
        began = time.perf_counter()
        for block in range(effort.samples):
            if block >= LEAST_SAMPLES and time.perf_counter() - began > effort.most_seconds:
                break
            row._samples.append(SampleRow(process=index, block=block, order=order, **process.block()._asdict()))
            order += 1
    end = process.end()
    row._finish(index, end)
    return order, end


def _record(row: CaseRun, end: dict[str, Any], instructions: float | None) -> Record:
    return make_record(
        row.case,
        samples=row._samples,
        processes=row._processes,
        parity=worst_parity(row._parities),
        instructions=instructions,
        facts=end["facts"],
        code=Code(**end["code"]),
        machine=Machine(**end["machine"]),
        conditions=Conditions(**end["conditions"]),
    )


def _pair(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise ConfigError(f"--param {text} is not key=value", help="write for example --param rates=2")
    return key, values.split(",")
