"""One case timed by itself: every sample, and under what conditions it was taken."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.timer import Clock, Timer, relative_iqr
from lrdiff_bench.system.machine import load_average, pinned, usable_cpus
from lrdiff_core.errors import ConfigError

__all__ = ["Noise", "Timing", "at_least", "positive", "time_case", "timing_of"]

LEAST_SAMPLES = 5  # taken even where the time is up


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far the machine can be trusted.

    Args:
        relative_iqr: distance between the quartiles of the samples, as a share of their median.
        load_average: runnable processes over the last minute, read before measuring; None where the system has none.
        cpus: processors this process may use.
    """

    relative_iqr: float
    load_average: float | None
    cpus: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Every sample of one case, and under what conditions it was taken.

    Args:
        case: label of the case.
        parameters: of the case.
        version: of the case.
        samples: seconds a step, one a block, in the order taken.
        number: steps a block.
        first_step: seconds that the very first step took (lazy initialisation, compilation).
        warmup: seconds a step of every warm-up block, in the order taken.
        settled: whether warm-up ended because the times had settled, not because it ran out.
        clock_share: cost of reading the clock as a share of the shortest block.
        recompilations: graphs that torch.compile built after the first step.
        threads: torch's intra-op threads while measuring.
        noise: of the machine.
        facts: of the workload.
    """

    case: str
    parameters: dict[str, object]
    version: str
    samples: tuple[float, ...]
    number: int
    first_step: float
    warmup: tuple[float, ...]
    settled: bool
    clock_share: float
    recompilations: int
    threads: int
    noise: Noise
    facts: dict[str, object]

    @property
    def median(self) -> float:
        """Seconds a step."""
        return float(np.median(self.samples))

    @property
    def bytes_a_second(self) -> float:
        """Bytes that a step moves, as the workload's facts say, over the median."""
        return float(str(self.facts["bytes"])) / self.median

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, seconds a step."""
        lower, upper = np.quantile(self.samples, (0.25, 0.75))
        return float(lower), float(upper)


def time_case(
    case: Case,
    *,
    samples: int = 30,
    target_block_seconds: float = 0.01,
    threads: int | None = None,
    most_seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> Timing:
    """Time one case.

    Args:
        case: what to time.
        samples: how many blocks are measured.
        target_block_seconds: least length of a block; longer where the clock needs it.
        threads: torch's intra-op threads, put back afterwards; left out, what the case wants.
        most_seconds: no block is begun after so long, restoring state included, once there are five.
        clock: host clock in seconds; another one only in tests.

    Raises:
        ConfigError: an argument is out of range, or the step takes no measurable time.

    Example:
        >>> from lrdiff_bench.measure.engine.case import Workload
        >>> case = Case(name="sum", version="1", factory=lambda: Workload(step=lambda: sum(range(1000))))
        >>> timing = time_case(case, samples=3, target_block_seconds=0.001)
        >>> len(timing.samples), timing.threads, timing.clock_share < 0.001
        (3, 1, True)
    """
    threads = case.threads if threads is None else threads
    at_least(1, samples=samples, threads=threads)
    positive(target_block_seconds=target_block_seconds)
    load = load_average()
    with pinned(threads) as counted:
        timer = Timer(case, clock, target_block_seconds)
        timer.warm_up()
        began = clock()
        while len(timer.samples) < samples and (len(timer.samples) < LEAST_SAMPLES or clock() - began < most_seconds):
            timer.sample()
    return timing_of(timer, load, counted)


def timing_of(timer: Timer, load: float | None, threads: int) -> Timing:
    """What a timer has seen so far.

    Args:
        timer: with samples.
        load: of the machine before it began.
        threads: of torch.
    """
    return Timing(
        case=timer.case.label,
        parameters=dict(timer.case.parameters),
        version=timer.case.version,
        samples=timer.seconds,
        number=timer.number,
        first_step=timer.first_step,
        warmup=tuple(timer.warmup),
        settled=timer.settled,
        clock_share=timer.clock_share,
        recompilations=timer.recompilations,
        threads=threads,
        noise=Noise(relative_iqr=relative_iqr(timer.seconds), load_average=load, cpus=usable_cpus()),
        facts=dict(timer.workload.facts),
    )


def at_least(least: int, **values: int) -> None:
    """Refuse what is no whole number from ``least`` up, by its name."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} is {value!r}", help=f"write a whole number from {least} up")


def positive(**values: float) -> None:
    """Refuse what is no positive finite number, by its name."""
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise ConfigError(f"{name} is {value!r}", help="write a positive finite number")
