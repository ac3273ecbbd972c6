"""The project's one timer.

A :class:`Case` says what is timed; :func:`time_case` times one, :func:`compare_cases` two of them in one run, in
alternating order. Both pin the thread count, switch the garbage collector off, warm up until the times settle, make
blocks long enough that reading the clock costs under 0.1 % of one, restore the case's state before every block, wait
for the device at both ends, keep every sample and say how noisy the machine was.

A sample is the time of one block divided by its number of steps. The loop around the step (about 20 ns a step of
CPython's own) is part of it, as it is of every training loop.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal, NamedTuple

import numpy as np

from lrdiff_bench.statistics import Interval, bootstrap_interval
from lrdiff_core.errors import ConfigError

__all__ = [
    "Case",
    "Comparison",
    "Noise",
    "Timing",
    "Verdict",
    "Workload",
    "compare_cases",
    "judge",
    "pinned",
    "time_case",
]

Clock = Callable[[], float]
Verdict = Literal["faster", "slower", "equivalent", "unresolved"]

# Reading the clock may cost this share of a block, no more.
CLOCK_SHARE = 0.001
# Ratios this close to 1 are of no consequence. Identical code differs by 0.3 % within one job (google/benchmark's
# figure), and by more on a machine shared with others.
BAND = 0.02
# Warm-up: two windows of blocks must agree within SETTLED or within their own spread; it ends anyway at the limits.
WINDOW = 5
SETTLED = 0.02
WARMUP_BLOCKS = 100
WARMUP_SECONDS = 2.0
# An empty step takes 30 ns; whoever needs more steps a block than this has a clock that stands still.
MOST_STEPS = 10_000_000


def _nothing() -> None:
    pass


class Workload(NamedTuple):
    """What a case is made of once it is built: three functions without arguments.

    ``step`` is what is timed. ``reset`` restores the state that steps change and is not timed: without it an
    optimizer that is stepped on fixed gradients drifts into denormal numbers. ``sync`` waits for the device.
    """

    step: Callable[[], object]
    reset: Callable[[], object] = _nothing
    sync: Callable[[], object] = _nothing


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to time.

    Args:
        name: of the case, the same over all parameters.
        parameters: what this one was built with; recorded, and part of the label.
        version: changes when numbers taken before can no longer be compared with those taken after.
        factory: builds the workload; called once a measurement, with the threads already pinned.

    Example:
        >>> Case(name="step", parameters={"rates": 2}, version="1", factory=lambda: Workload(lambda: None)).label
        'step[rates=2]'
    """

    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    version: str
    factory: Callable[[], Workload]

    @property
    def label(self) -> str:
        """Name and parameters in one word."""
        inside = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}[{inside}]" if inside else self.name


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
        threads: torch's intra-op threads while measuring.
        noise: of the machine.
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
    threads: int
    noise: Noise

    @property
    def median(self) -> float:
        """Seconds a step."""
        return _median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, seconds a step."""
        return _quartiles(self.samples)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two cases timed in one run, ``b`` judged against ``a``.

    Args:
        a, b: the timing of each: samples, median, quartiles.
        ratios: time of ``b`` over time of ``a``, one a round; a round is the four blocks a, b, b, a.
        ratio: their median with a 95 % bootstrap interval over rounds.
        band: ratios between ``1 / (1 + band)`` and ``1 + band`` are of no consequence.
        verdict: ``b`` is faster, slower, equivalent, or the interval is too wide to say (unresolved).
    """

    a: Timing
    b: Timing
    ratios: tuple[float, ...]
    ratio: Interval
    band: float
    verdict: Verdict


def time_case(
    case: Case,
    *,
    samples: int = 30,
    target_block_seconds: float = 0.01,
    threads: int = 1,
    clock: Clock = time.perf_counter,
) -> Timing:
    """Time one case.

    Args:
        case: what to time.
        samples: how many blocks are measured.
        target_block_seconds: least length of a block; longer where the clock needs it.
        threads: torch's intra-op threads; put back afterwards.
        clock: host clock in seconds; another one only in tests.

    Raises:
        ConfigError: an argument is out of range, or the step takes no measurable time.

    Example:
        >>> case = Case(name="sum", version="1", factory=lambda: Workload(step=lambda: sum(range(1000))))
        >>> timing = time_case(case, samples=3, target_block_seconds=0.001)
        >>> len(timing.samples), timing.threads, timing.clock_share < 0.001
        (3, 1, True)
    """
    _at_least(1, samples=samples, threads=threads)
    _positive(target_block_seconds=target_block_seconds)
    load = _load_average()
    with pinned(threads) as counted:
        blocks = _Blocks(case, clock, target_block_seconds)
        blocks.warm_up()
        for _ in range(samples):
            blocks.sample()
    return blocks.timing(load, counted)


def compare_cases(
    a: Case,
    b: Case,
    *,
    rounds: int = 20,
    target_block_seconds: float = 0.01,
    threads: int = 1,
    band: float = BAND,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time two cases in one run, block by block in the order a, b, b, a, and judge ``b`` against ``a``.

    In that order a drift of the machine that is linear over a round cancels. The interval is over rounds, which are
    paired and independent, not over blocks.

    Args:
        a, b: what to compare; both are built and warmed up before the first round.
        rounds: of four blocks each; six at least, below that no interval around a median reaches 95 %.
        target_block_seconds: least length of a block; longer where the clock needs it.
        threads: torch's intra-op threads; put back afterwards.
        band: relative difference that is of no consequence; 0.02 is 2 %.
        clock: host clock in seconds; another one only in tests.

    Raises:
        ConfigError: an argument is out of range, or a step takes no measurable time.

    Example:
        >>> case = Case(name="sum", version="1", factory=lambda: Workload(step=lambda: sum(range(1000))))
        >>> comparison = compare_cases(case, case, rounds=6, target_block_seconds=0.0005)
        >>> len(comparison.ratios), len(comparison.a.samples)
        (6, 12)
    """
    _at_least(6, rounds=rounds)
    _at_least(1, threads=threads)
    _positive(target_block_seconds=target_block_seconds, band=band)
    load = _load_average()
    with pinned(threads) as counted:
        first, second = _Blocks(a, clock, target_block_seconds), _Blocks(b, clock, target_block_seconds)
        first.warm_up()
        second.warm_up()
        ratios = []
        for _ in range(rounds):
            a1, b1, b2, a2 = first.sample(), second.sample(), second.sample(), first.sample()
            ratios.append((b1 + b2) / (a1 + a2))
    ratio = bootstrap_interval(ratios)
    return Comparison(
        a=first.timing(load, counted),
        b=second.timing(load, counted),
        ratios=tuple(ratios),
        ratio=ratio,
        band=band,
        verdict=judge(ratio, band),
    )


def judge(ratio: Interval, band: float = BAND) -> Verdict:
    """Verdict on a ratio of times: a word only where the whole interval lies on one side of the band, or inside it.

    Example:
        >>> judge(Interval(1.05, 1.03, 1.08, 0.95)), judge(Interval(1.05, 0.99, 1.11, 0.95))
        ('slower', 'unresolved')
    """
    # 1 / (1 + band), not 1 - band: exchanging a and b must mirror the verdict.
    fast, slow = 1.0 / (1.0 + band), 1.0 + band
    if ratio.high < fast:
        return "faster"
    if ratio.low > slow:
        return "slower"
    if fast <= ratio.low and ratio.high <= slow:
        return "equivalent"
    return "unresolved"


@contextmanager
def pinned(threads: int) -> Iterator[int]:
    """Measuring conditions: torch at ``threads`` intra-op threads, garbage collector off; both put back afterwards.

    Yields the thread count that torch then reports.

    Example:
        >>> import gc
        >>> with pinned(1) as count:
        ...     print(count, gc.isenabled())
        1 False
    """
    import torch

    before, collecting = torch.get_num_threads(), gc.isenabled()
    gc.collect()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        yield torch.get_num_threads()
    finally:
        if collecting:
            gc.enable()
        torch.set_num_threads(before)


class _Blocks:
    """One case being measured: its workload, the length of its blocks, what was seen so far."""

    def __init__(self, case: Case, clock: Clock, target_seconds: float) -> None:
        self.case = case
        self.clock = clock
        self.workload = case.factory()
        self.clock_cost = _clock_cost(clock)
        self.needed = max(target_seconds, self.clock_cost / CLOCK_SHARE)
        self.number = 1
        self.first_step = math.nan
        self.warmup: list[float] = []
        self.settled = False
        self.samples: list[float] = []

    def warm_up(self) -> None:
        self.first_step = self._block()
        self._calibrate()
        spent = 0.0
        while len(self.warmup) < WARMUP_BLOCKS and spent < WARMUP_SECONDS:
            elapsed = self._block()
            spent += elapsed
            self.warmup.append(elapsed / self.number)
            if _has_settled(self.warmup):
                self.settled = True
                break
        self._calibrate()  # steps are shorter now that they are warm

    def sample(self) -> float:
        """Measure one block; return and keep its seconds a step."""
        self.samples.append(self._block() / self.number)
        return self.samples[-1]

    def timing(self, load: float | None, threads: int) -> Timing:
        return Timing(
            case=self.case.label,
            parameters=dict(self.case.parameters),
            version=self.case.version,
            samples=tuple(self.samples),
            number=self.number,
            first_step=self.first_step,
            warmup=tuple(self.warmup),
            settled=self.settled,
            clock_share=self.clock_cost / (min(self.samples) * self.number),
            threads=threads,
            noise=Noise(relative_iqr=_relative_iqr(self.samples), load_average=load, cpus=_cpus()),
        )

    def _block(self) -> float:
        step, reset, sync = self.workload
        clock = self.clock
        reset()
        sync()  # what reset left on the device must not be timed
        start = clock()
        for _ in repeat(None, self.number):
            step()
        sync()
        return clock() - start

    def _calibrate(self) -> None:
        while (elapsed := self._block()) < self.needed:
            if self.number >= MOST_STEPS:
                raise ConfigError(
                    f"{self.case.label}: {self.number} steps take {elapsed:.2g} s",
                    help="check that the step does something and that the clock runs",
                )
            # Overshoot by a fifth, so that the next block is rarely short again; never more than tenfold.
            growth = min(10.0, 1.2 * self.needed / elapsed) if elapsed > 0 else 10.0
            self.number = min(MOST_STEPS, max(self.number + 1, math.ceil(self.number * growth)))


def _has_settled(times: Sequence[float]) -> bool:
    """Whether the last two windows agree: within SETTLED, or within what the machine's noise lets one see."""
    if len(times) < 2 * WINDOW:
        return False
    before, after = times[-2 * WINDOW : -WINDOW], times[-WINDOW:]
    tolerance = max(SETTLED, _relative_iqr(before), _relative_iqr(after))
    return abs(_median(after) / _median(before) - 1.0) <= tolerance


def _clock_cost(clock: Clock) -> float:
    """Seconds that the two readings around a block add to it."""
    pairs = []
    for _ in range(101):
        start = clock()
        pairs.append(clock() - start)
    return _median(pairs)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    lower, upper = np.quantile(values, (0.25, 0.75))
    return float(lower), float(upper)


def _relative_iqr(values: Sequence[float]) -> float:
    lower, upper = _quartiles(values)
    return (upper - lower) / _median(values)


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} is {value!r}", help=f"write a whole number from {least} up")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise ConfigError(f"{name} is {value!r}", help="write a positive finite number")
