"""The project's one timer: one case being measured in this process.

A block is as many steps in a row as it takes for the clock's own cost to vanish; a sample is the time of a block
divided by its number of steps. The loop around the step (about 20 ns a step of CPython's own) is part of it, as it is
of every training loop. Before every block the case's state is put back, and the device is waited for at both ends;
warm-up goes on until the times settle. :func:`~lrdiff_bench.measure.engine.timing.time_case` times one case,
:func:`~lrdiff_bench.measure.engine.compare.compare_cases` two of them in turn; records and comparisons over processes
are made of the same blocks.

A workload with ``before`` is timed step by step, because what comes before each step is not to be timed: so the step
of an optimizer is measured as a training loop finds it, after a forward and a backward pass. Its sample is the median
step of the block, and the clock's own cost is subtracted.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.device import DeviceClock, device_clock
from lrdiff_bench.measure.engine.usage import Usage
from lrdiff_bench.system.memory import peak_or_none
from lrdiff_core.errors import ConfigError

__all__ = ["CLOCK_SHARE", "Clock", "Sample", "Timer", "relative_iqr"]

Clock = Callable[[], float]

# Reading the clock may cost this share of a block, no more.
CLOCK_SHARE = 0.001
# Warm-up: two windows of blocks must agree within SETTLED or within their own spread; it ends anyway at the limits.
WINDOW = 5
SETTLED = 0.02
WARMUP_BLOCKS = 100
WARMUP_SECONDS = 2.0
# An empty step takes 30 ns; whoever needs more steps a block than this has a clock that stands still.
MOST_STEPS = 10_000_000
# What comes before a step may take a thousand times as long as the step: such a block is long enough after so long.
BLOCK_SECONDS = 0.2


class Sample(NamedTuple):
    """One block, in seconds a step.

    Args:
        seconds: by the host's clock, from an idle device to an idle device.
        launch: what the host took to hand the steps over; None on the CPU, where that is the whole.
        device: by the device's own clock; None where it has none.
        processor: of this process on all processors, which a busy neighbour cannot lengthen by taking them away.
        busy: whether the block was nothing but one thread's own computing: it never waited for anything, no other
            thread and no other process worked for it, and no device. Only then is the processor's time the whole
            time. None where the system does not tell.
    """

    seconds: float
    launch: float | None = None
    device: float | None = None
    processor: float | None = None
    busy: bool | None = None


class Timer:
    """One case being measured: its workload, the length of its blocks, what was seen so far.

    Args:
        case: built here, with the threads already pinned.
        clock: of the host, in seconds.
        target_seconds: least length of a block; longer where the clock needs it.
        warmup_seconds: warm-up ends at the latest after so long.
        device: another clock for the workload's device, in tests.

    Raises:
        UnavailableError: the workload's device is not here.
    """

    def __init__(
        self,
        case: Case,
        clock: Clock = time.perf_counter,
        target_seconds: float = 0.01,
        *,
        warmup_seconds: float = WARMUP_SECONDS,
        device: DeviceClock | None = None,
    ) -> None:
        self.case = case
        self.clock = clock
        self.host_before = peak_or_none()
        self.workload = case.factory()
        self.device = device or device_clock(self.workload.device)
        self.device.reset_peak()
        self.clock_cost = _clock_cost(clock)
        self.needed = max(target_seconds, self.clock_cost / CLOCK_SHARE)
        self.warmup_seconds = warmup_seconds
        self.number = 1
        self.first_step = math.nan
        self.first_graphs = 0  # torch.compile's, in the first call
        self.warmup: list[float] = []
        self.settled = False
        self.samples: list[Sample] = []
        self._graphs_before = _compiled_graphs()
        self._whole = 0.0

    def warm_up(self) -> None:
        """Take the first step, find the length of a block, and go on until the times have settled."""
        self.first_step = self._block().seconds
        self.first_graphs = _compiled_graphs() - self._graphs_before
        self._calibrate()
        spent = self._whole
        while len(self.warmup) < WARMUP_BLOCKS and spent < self.warmup_seconds:
            self.warmup.append(self._block().seconds / self.number)
            spent += self._whole
            if _has_settled(self.warmup):
                self.settled = True
                break
        if self.warmup[-1] * self.number < self.needed:
            self._calibrate()  # steps are shorter now that they are warm

    def sample(self) -> Sample:
        """Measure one block; return and keep its times a step."""
        block = self._block()
        launch, device, processor = (
            None if one is None else one / self.number for one in (block.launch, block.device, block.processor)
        )
        self.samples.append(Sample(block.seconds / self.number, launch, device, processor, block.busy))
        return self.samples[-1]

    @property
    def seconds(self) -> tuple[float, ...]:
        """Seconds a step of every sample."""
        return tuple(sample.seconds for sample in self.samples)

    @property
    def recompilations(self) -> int:
        """Graphs that torch.compile built after the first call: each one means steps that were not steady."""
        return _compiled_graphs() - self._graphs_before - self.first_graphs

    @property
    def clock_share(self) -> float:
        """Cost of reading the clock as a share of the shortest block, or step where each is timed."""
        return self.clock_cost / (min(self.seconds) * (1 if self.workload.before else self.number))

    def _block(self) -> Sample:
        """Take a block of steps and return its times; ``_whole`` is then what it took with all that is not timed."""
        workload, device, clock = self.workload, self.device, self.clock
        step, sync = workload.step, workload.sync
        workload.reset()
        sync()  # what reset left on the device must not be timed
        device.wait()
        begin = device.mark()
        if workload.before is not None:
            return self._one_by_one(workload.before)
        usage = Usage()
        processor = time.process_time()
        start = clock()
        for _ in repeat(None, self.number):
            step()
        launched = clock() if device.behind else start
        end = device.mark()
        sync()
        device.wait()
        self._whole = clock() - start
        processor = time.process_time() - processor
        if not device.behind:
            return Sample(self._whole, processor=processor, busy=usage.busy())
        return Sample(self._whole, launched - start, device.between(begin, end), processor, busy=False)

    def _one_by_one(self, before: Callable[[], object]) -> Sample:
        step, sync, device, clock = self.workload.step, self.workload.sync, self.device, self.clock
        begin, steps, processors = clock(), [], []
        usage = Usage()
        for _ in repeat(None, self.number):
            before()
            sync()
            device.wait()
            processor = time.process_time()
            start = clock()
            step()
            sync()
            device.wait()
            steps.append(clock() - start)
            processors.append(time.process_time() - processor)
        self._whole = clock() - begin
        busy = False if device.behind else usage.busy()  # what comes before a step counts, too
        # The median: a neighbour that takes the processor away in one step shows in no other.
        of_step, of_processor = (max(float(np.median(one)) - self.clock_cost, 0.0) for one in (steps, processors))
        return Sample(of_step * self.number, processor=of_processor * self.number, busy=busy)

    def _calibrate(self) -> None:
        """Find the number of steps that makes a block long enough."""
        while (elapsed := self._block().seconds) < self.needed and self._whole < max(self.needed, BLOCK_SECONDS):
            if self.number >= MOST_STEPS:
                raise ConfigError(
                    f"{self.case.label}: {self.number} steps take {elapsed:.2g} s",
                    help="check that the step does something and that the clock runs",
                )
            # Overshoot by a fifth, so that the next block is rarely short again; never more than tenfold.
            growth = min(10.0, 1.2 * self.needed / elapsed) if elapsed > 0 else 10.0
            if self.workload.before is not None:
                growth = min(growth, max(1.0, 1.2 * BLOCK_SECONDS / self._whole))
            self.number = min(MOST_STEPS, max(self.number + 1, math.ceil(self.number * growth)))
        self.warmup.append(elapsed / self.number)


def relative_iqr(values: Sequence[float]) -> float:
    """Distance between the quartiles as a share of the median.

    Example:
        >>> relative_iqr([1.0, 2.0, 3.0, 4.0, 5.0])
        0.6666666666666666
    """
    lower, middle, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return float((upper - lower) / middle)


def _has_settled(times: Sequence[float]) -> bool:
    """Whether the last two windows agree: within SETTLED, or within what the machine's noise lets one see."""
    if len(times) < 2 * WINDOW:
        return False
    before, after = times[-2 * WINDOW : -WINDOW], times[-WINDOW:]
    tolerance = max(SETTLED, relative_iqr(before), relative_iqr(after))
    return abs(float(np.median(after)) / float(np.median(before)) - 1.0) <= tolerance


def _clock_cost(clock: Clock) -> float:
    """Seconds that the two readings around a block add to it."""
    pairs = []
    for _ in range(101):
        start = clock()
        pairs.append(clock() - start)
    return float(np.median(pairs))


def _compiled_graphs() -> int:
    """Graphs that torch.compile has built in this process; loads nothing that is not loaded."""
    utils = sys.modules.get("torch._dynamo.utils")
    return 0 if utils is None else int(utils.counters["stats"]["unique_graphs"])
