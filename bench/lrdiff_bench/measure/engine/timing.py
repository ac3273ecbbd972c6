"""The project's one timer.

A :class:`Case` says what is timed; :func:`time_case` times one, :func:`compare_cases` two of them in one run, in
alternating order. Both pin the thread count, switch the garbage collector off, warm up until the times settle, make
blocks long enough that reading the clock costs under 0.1 % of one, restore the case's state before every block, wait
for the device at both ends, keep every sample and say how noisy the machine was. The engine itself is
:mod:`lrdiff_bench.measure.engine.blocks`; records and comparisons over processes build on it too.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from lrdiff_bench.measure.engine.blocks import Blocks, Clock, relative_iqr
from lrdiff_bench.measure.engine.case import Case, Parity, Workload
from lrdiff_bench.stats.intervals import Interval, bootstrap_interval
from lrdiff_bench.stats.verdict import BAND, Verdict, speed_verdict
from lrdiff_bench.system.machine import load_average, pinned, usable_cpus
from lrdiff_core.errors import ConfigError

__all__ = [
    "Case",
    "Comparison",
    "Noise",
    "Parity",
    "Timing",
    "Workload",
    "compare_cases",
    "time_case",
]

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

    @property
    def median(self) -> float:
        """Seconds a step."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, seconds a step."""
        lower, upper = np.quantile(self.samples, (0.25, 0.75))
        return float(lower), float(upper)


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
        >>> case = Case(name="sum", version="1", factory=lambda: Workload(step=lambda: sum(range(1000))))
        >>> timing = time_case(case, samples=3, target_block_seconds=0.001)
        >>> len(timing.samples), timing.threads, timing.clock_share < 0.001
        (3, 1, True)
    """
    threads = case.threads if threads is None else threads
    _at_least(1, samples=samples, threads=threads)
    _positive(target_block_seconds=target_block_seconds)
    load = load_average()
    with pinned(threads) as counted:
        blocks = Blocks(case, clock, target_block_seconds)
        blocks.warm_up()
        began = clock()
        while len(blocks.samples) < samples and (len(blocks.samples) < LEAST_SAMPLES or clock() - began < most_seconds):
            blocks.sample()
    return _timing(blocks, load, counted)


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
    load = load_average()
    with pinned(threads) as counted:
        first, second = Blocks(a, clock, target_block_seconds), Blocks(b, clock, target_block_seconds)
        first.warm_up()
        second.warm_up()
        ratios = []
        for _ in range(rounds):
            a1, b1, b2, a2 = (side.sample().seconds for side in (first, second, second, first))
            ratios.append((b1 + b2) / (a1 + a2))
    ratio = bootstrap_interval(ratios)
    return Comparison(
        a=_timing(first, load, counted),
        b=_timing(second, load, counted),
        ratios=tuple(ratios),
        ratio=ratio,
        band=band,
        verdict=speed_verdict(ratio, band),
    )


def _timing(blocks: Blocks, load: float | None, threads: int) -> Timing:
    return Timing(
        case=blocks.case.label,
        parameters=dict(blocks.case.parameters),
        version=blocks.case.version,
        samples=blocks.seconds,
        number=blocks.number,
        first_step=blocks.first_step,
        warmup=tuple(blocks.warmup),
        settled=blocks.settled,
        clock_share=blocks.clock_share,
        recompilations=blocks.recompilations,
        threads=threads,
        noise=Noise(relative_iqr=relative_iqr(blocks.seconds), load_average=load, cpus=usable_cpus()),
    )


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} is {value!r}", help=f"write a whole number from {least} up")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 < value < math.inf:
            raise ConfigError(f"{name} is {value!r}", help="write a positive finite number")
