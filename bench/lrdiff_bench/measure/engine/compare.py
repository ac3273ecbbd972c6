"""Two cases in one process, timed in turn and judged: what a table of ratios is made of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.timer import WARMUP_SECONDS, Clock, Timer, relative_iqr
from lrdiff_bench.measure.engine.timing import Timing, at_least, positive, timing_of
from lrdiff_bench.stats.intervals import Interval, bootstrap_interval
from lrdiff_bench.stats.verdict import BAND, Verdict, speed_verdict
from lrdiff_bench.system.machine import load_average, pinned

__all__ = ["TimingComparison", "compare_cases"]


@dataclass(frozen=True, kw_only=True)
class TimingComparison:
    """Two cases timed in one run, ``b`` judged against ``a``.

    Args:
        a, b: the timing of each: samples, median, quartiles.
        ratios: time of ``b`` over time of ``a``, one a round; a round is the four blocks a, b, b, a.
        ratio: their median with a 95 % bootstrap interval over rounds; of several builds, that of the builds' medians.
        band: ratios between ``1 / (1 + band)`` and ``1 + band`` are of no consequence.
        verdict: ``b`` is faster, slower, equivalent, or the interval is too wide to say (unresolved).
    """

    a: Timing
    b: Timing
    ratios: tuple[float, ...]
    ratio: Interval
    band: float
    verdict: Verdict


def compare_cases(
    a: Case,
    b: Case,
    *,
    rounds: int = 20,
    builds: int = 1,
    target_block_seconds: float = 0.01,
    threads: int = 1,
    band: float = BAND,
    clock: Clock = time.perf_counter,
) -> TimingComparison:
    """Time two cases in one run, block by block in the order a, b, b, a, and judge ``b`` against ``a``.

    In that order a drift of the machine that is linear over a round cancels. The interval is over rounds, which are
    paired and independent, not over blocks.

    Which case is built first favours one of them for as long as both live: of two identical cases, the second was up to
    15 % faster. Several builds make that a part of the interval.

    Args:
        a, b: what to compare; both are built and warmed up before the first round.
        rounds: of four blocks each, in each build.
        builds: how often both are built anew, in turn ``a`` first and ``b`` first. Of rounds, or of builds where
            there are several, six at least: below that no interval around a median reaches 95 %.
        target_block_seconds: least length of a block; longer where the clock needs it.
        threads: torch's intra-op threads; put back afterwards.
        band: relative difference that is of no consequence; 0.02 is 2 %.
        clock: host clock in seconds; another one only in tests.

    Raises:
        ConfigError: an argument is out of range, or a step takes no measurable time.

    Example:
        >>> from lrdiff_bench.measure.engine.case import Workload
        >>> case = Case(name="sum", version="1", factory=lambda: Workload(step=lambda: sum(range(1000))))
        >>> comparison = compare_cases(case, case, rounds=6, target_block_seconds=0.0005)
        >>> len(comparison.ratios), len(comparison.a.samples)
        (6, 12)
    """
    at_least(1, threads=threads, builds=builds)
    at_least(6 if builds == 1 else 1, rounds=rounds)
    if builds > 1:
        at_least(6, builds=builds)
    positive(target_block_seconds=target_block_seconds, band=band)
    load = load_average()
    timings: list[tuple[Timing, Timing]] = []
    ratios = np.empty((builds, rounds))
    warmup = WARMUP_SECONDS if builds == 1 else WARMUP_SECONDS / 4  # all but the first find torch and its threads warm
    with pinned(threads) as counted:
        for build in range(builds):
            order = (a, b) if build % 2 == 0 else (b, a)
            made = [Timer(case, clock, target_block_seconds, warmup_seconds=warmup) for case in order]
            for side in made:
                side.warm_up()
            first, second = made if build % 2 == 0 else reversed(made)
            for i in range(rounds):
                a1, b1, b2, a2 = (side.sample().seconds for side in (first, second, second, first))
                ratios[build, i] = (b1 + b2) / (a1 + a2)
            timings.append((timing_of(first, load, counted), timing_of(second, load, counted)))
            del made, first, second, side
    ratio = bootstrap_interval(ratios.ravel() if builds == 1 else np.median(ratios, axis=1))
    one, other = (_together(of) for of in zip(*timings, strict=True))
    return TimingComparison(
        a=one,
        b=other,
        ratios=tuple(ratios.ravel().tolist()),
        ratio=ratio,
        band=band,
        verdict=speed_verdict(ratio, band),
    )


def _together(timings: Sequence[Timing]) -> Timing:
    """The samples of all builds as those of the last."""
    samples = tuple(sample for one in timings for sample in one.samples)
    last = timings[-1]
    return replace(last, samples=samples, noise=replace(last.noise, relative_iqr=relative_iqr(samples)))
