"""Blocks of a benchmark that is somebody else's: many calls in a row, timed by the wall clock and the processor's.

The twin of :mod:`lrdiff_bench.measure.engine.timer` for environments that have neither torch nor NumPy nor lrdiff.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Any

from lrdiff_bench.measure.engine.usage import Usage

__all__ = ["Blocks", "Work", "planted"]

MOST_CALLS = 10_000_000
WINDOW, SETTLED = 3, 0.05
EXAMINED = 10  # blocks whose waiting is looked at
BUSY_SHARE = 0.9  # of them that must not have waited
LONGEST_SETUP = 0.002  # a block that needs a setup before every call is long enough after so many seconds


@dataclass
class Work:
    """What a benchmark is.

    Args:
        call: what is timed.
        before: called untimed before every ``number`` calls.
        number: calls between two of those; None leaves it to the blocks.
        collect: whether the garbage collector runs meanwhile, as pytest-benchmark leaves it and asv does not.
    """

    call: Callable[[], object]
    before: Callable[[], object] | None = None
    number: int | None = None
    collect: bool = False


class Blocks:
    """One benchmark being measured.

    Args:
        work: the benchmark.
        block_seconds: least length of a block.
        warmup_seconds: warm-up ends at the latest after so long.

    Example:
        >>> blocks = Blocks(Work(lambda: sum(range(1000))), block_seconds=0.001, warmup_seconds=0.01)
        >>> blocks.warm_up()
        >>> sample = blocks.block()
        >>> 0 < sample["seconds"] < 0.01, blocks.number > 1
        (True, True)
    """

    def __init__(self, work: Work, *, block_seconds: float, warmup_seconds: float) -> None:
        self.work = work
        self.number = work.number or 1
        self.repeats = 1
        self.first_call = math.nan
        self.warmup: list[float] = []
        self.settled = False
        self.busy: bool | None = None
        self.cost, self.processor_cost = _clock_cost()
        self.needed = max(block_seconds, 1000 * self.cost)
        self.warmup_seconds = warmup_seconds

    def warm_up(self) -> None:
        """Take the first call, find the length of a block, look whether it waits, go on until times settle."""
        began = time.perf_counter()
        number, self.number = self.number, self.work.number or 1
        self.first_call = self._run()[0] / self.number
        self.number = number
        self._calibrate()
        busy: list[bool | None] = []
        while len(busy) < 2 * WINDOW or (time.perf_counter() - began < self.warmup_seconds and not self.settled):
            seconds, _, one = self._run(examine=True)
            busy.append(one)
            self.warmup.append(seconds / (self.number * self.repeats))
            self.settled = _settled(self.warmup)
            if time.perf_counter() - began > 10 * self.warmup_seconds and len(busy) >= 1:
                break  # one block takes longer than the whole warm-up is to take
        if None not in busy:
            self.busy = sum(map(bool, busy)) >= BUSY_SHARE * len(busy)
        if self.warmup[-1] * self.number * self.repeats < self.needed / 2:
            self._calibrate()

    def block(self) -> dict[str, Any]:
        """Measure one block: seconds a call by either clock, and whether this work never waits."""
        seconds, processor, _ = self._run()
        calls = self.number * self.repeats
        return {"seconds": seconds / calls, "processor": processor / calls, "busy": self.busy}

    def _run(self, *, examine: bool = False) -> tuple[float, float, bool | None]:
        call, before, number = self.work.call, self.work.before, self.number
        walls: list[float] = []
        processors: list[float] = []
        usage = Usage() if examine else None
        collecting = gc.isenabled()
        if not self.work.collect:
            gc.disable()
        try:
            for _ in repeat(None, self.repeats):
                if before is not None:
                    before()
                if usage is not None:
                    usage.resume()
                cpu = time.process_time()
                start = time.perf_counter()
                for _ in repeat(None, number):
                    call()
                walls.append(time.perf_counter() - start)
                processors.append(time.process_time() - cpu)
                if usage is not None:
                    usage.pause()
        finally:
            if collecting:
                gc.enable()
        # The median, as asv takes it: after a setup one call in some meets a cold cache, or a neighbour.
        # What reading the clocks takes is the same on both sides, and would hide what differs.
        wall = self.repeats * max(median(walls) - self.cost, 1e-9)
        processor = self.repeats * max(median(processors) - self.processor_cost, 1e-9)
        return wall, processor, None if usage is None else usage.busy()

    def _calibrate(self) -> None:
        """Find how many calls, or how many times setup and calls, make a block long enough."""
        while True:
            began = time.perf_counter()
            elapsed, *_ = self._run()
            whole = time.perf_counter() - began
            if elapsed >= self.needed or (self.work.number is not None and whole >= LONGEST_SETUP):
                return
            growth = min(10.0, 1.2 * self.needed / elapsed)
            if self.work.number is None:
                self.number = min(MOST_CALLS, max(self.number + 1, math.ceil(self.number * growth)))
                if self.number == MOST_CALLS:
                    return
            else:
                growth = min(growth, max(1.0, 1.2 * LONGEST_SETUP / whole))
                self.repeats = max(self.repeats + 1, math.ceil(self.repeats * growth))


def planted(call: Callable[[], object], turns: int) -> Callable[[], object]:
    """The call with so many turns of an empty loop after it: a slow-down whose size is known."""

    def slower() -> object:
        result = call()
        for _ in repeat(None, turns):
            pass
        return result

    return slower


def _settled(times: list[float]) -> bool:
    if len(times) < 2 * WINDOW:
        return False
    before, after = median(times[-2 * WINDOW : -WINDOW]), median(times[-WINDOW:])
    return abs(after / before - 1.0) <= SETTLED


def _clock_cost() -> tuple[float, float]:
    """Seconds that the readings around the calls add by either clock."""
    walls, processors = [], []
    for _ in range(101):
        cpu = time.process_time()
        start = time.perf_counter()
        walls.append(time.perf_counter() - start)
        processors.append(time.process_time() - cpu)
    return median(walls), median(processors)
