"""A run: cases, each in fresh processes, each giving one record."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.instructions import check_valgrind, count_instructions
from lrdiff_bench.measure.engine.process import Effort, MeasuringProcess, can_fork
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.record_builder import RecordBuilder, describe_timer
from lrdiff_bench.measure.engine.registry import CASES, RESERVED
from lrdiff_bench.measure.engine.timer import Timer
from lrdiff_bench.system.machine import describe_conditions, pinned
from lrdiff_core.errors import ConfigError, LrdiffError, UnavailableError
from lrdiff_core.text import nearest

__all__ = ["CaseRun", "choose_cases", "measure_cases", "measure_here"]

LEAST_SAMPLES = 3  # taken even where the time is up


@dataclass
class CaseRun:
    """A case on its way to a record: what the live table shows."""

    case: Case
    reason: str | None = None  # why it was not measured
    failed: bool = False  # the reason is a fault, not something that is not here
    record: Record | None = None
    note: str | None = None  # beside the record


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
    building = {row.case.label: RecordBuilder(row.case) for row in rows}
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
                        order = _measure(building[row.case.label], server, effort, process, order)
                    else:
                        with MeasuringProcess(affinity=affinity) as alone:
                            order = _measure(building[row.case.label], alone, effort, process, order)
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
                    row.record = building[row.case.label].record(instructions=counted)
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
        end = describe_timer(timer) | {"conditions": asdict(conditions)}
    building = RecordBuilder(case)
    for i, sample in enumerate(timer.samples):
        building.add(sample, process=0, block=i, order=i)
    building.finish(0, end)
    return building.record()


def _measure(building: RecordBuilder, process: MeasuringProcess, effort: Effort, index: int, order: int) -> int:
    """Measure a case in one process; ``order`` counts the blocks of the whole run."""
    process.start(building.case, effort)
    if building.case.metric == "time":
        began = time.perf_counter()
        for block in range(effort.samples):
            if block >= LEAST_SAMPLES and time.perf_counter() - began > effort.most_seconds:
                break
            building.add(process.block(), process=index, block=block, order=order)
            order += 1
    building.finish(index, process.end())
    return order


def _pair(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise ConfigError(f"--param {text} is not key=value", help="write for example --param rates=2")
    return key, values.split(",")
