"""Processors that are not equally fast at the same time: processes that only compute share one, and blocks are short.

What is planted was seen on a rented machine: a processor loses a third of its speed for a twentieth of a second at a
time, and one of two is slower for as long as a group of processes lasts.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_bench_hierarchical import Planted, case

from lrdiff_bench.measure.asked import AskedProcess
from lrdiff_bench.measure.engine.pairs.ab import Pairing, Side, compare_sides
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.measure.foreign.job import foreign_effort
from lrdiff_bench.system.machine import usable_cpus, usable_processors

PERIOD, SLOWER, ON, ALL_THE_TIME = 0.1, 1.4, 0.5, 1.35


class Machine:
    """Two processors and the time. Each slows down for half of every period, and by lot for a whole group."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator, self.now = generator, 0.0
        self.phases = generator.uniform(0, PERIOD, 2)
        self.lasting = np.ones(2)

    def next_group(self) -> None:
        self.lasting = np.where(self.generator.random(2) < 0.2, ALL_THE_TIME, 1.0)

    def slowness(self, processor: int) -> float:
        disturbed = (self.now + self.phases[processor]) % PERIOD < ON * PERIOD
        return float(self.lasting[processor] * (SLOWER if disturbed else 1.0))


class Placed(Planted):
    """A process on one of the processors: where the system has put it, or where it is told to stay."""

    kept: list[tuple[int, ...]]

    def __init__(self, seconds: float, machine: Machine, *, busy: bool, obeys: bool = True) -> None:
        super().__init__(seconds, machine.generator, [1.0])
        self.machine, self.busy, self.obeys = machine, busy, obeys
        self.processor = int(machine.generator.integers(2))
        self.kept = []

    def start(self, case: Any, effort: Effort) -> None:
        self.length = effort.block_seconds

    def block(self) -> Sample:
        slowness = self.machine.slowness(self.processor)
        self.machine.now += self.length * slowness
        seconds = self.seconds * slowness * math.exp(self.generator.normal(0, 0.02))
        return Sample(seconds, processor=seconds, busy=self.busy)

    def keep_to(self, processors: Sequence[int]) -> None:
        self.kept.append(tuple(processors))
        if self.obeys:
            self.processor = processors[0]


def compare(slow_down: float, seed: int, *, effort: Effort, busy: bool = True, obeys: bool = True,
            launched: list[Placed] | None = None) -> Pairing:  # fmt: skip
    machine = Machine(np.random.default_rng(seed))
    a, b = Side(label="a", case=case()), Side(label="b", case=case())
    count = 0

    def launch(side: Side) -> Placed:
        nonlocal count
        if count % 3 == 0:
            machine.next_group()
        count += 1
        made = Placed(slow_down if side is b else 1.0, machine, busy=busy, obeys=obeys)
        if launched is not None:
            launched.append(made)
        return made

    return compare_sides(a, b, effort, seed=seed, affinity=(0, 1), launch=launch)


def words(slow_down: float, effort: Effort, **options: Any) -> Counter[str]:
    return Counter(str(compare(slow_down, seed, effort=effort, **options).outcome.verdict) for seed in range(12))


@pytest.mark.slow
def test_beside_strangers_who_share_the_cores_a_change_is_found_and_nothing_else() -> None:
    effort = replace(foreign_effort(6), most_seconds=1e9)
    assert words(1.2, effort)["slower"] == 12
    same = words(1.0, effort)
    assert same["slower"] + same["faster"] == 0, same
    assert same["equivalent"] >= 4, same
    # What it is due to: without either, the same twelve comparisons say nothing.
    apart = words(1.2, effort, obeys=False)
    assert apart["slower"] <= 6, apart
    long = words(1.2, replace(effort, samples=10, block_seconds=0.03))
    assert long["slower"] <= 9, long


def test_those_of_a_group_share_one_processor_and_groups_take_different_ones() -> None:
    launched: list[Placed] = []
    compare(1.0, 0, effort=replace(foreign_effort(12), samples=5), launched=launched)
    groups = [[one.kept for one in launched[i : i + 3]] for i in range(0, len(launched), 3)]
    assert all(group == [[group[0][0], (0, 1)]] * 3 for group in groups), groups  # and at the end all are given back
    assert {group[0][0] for group in groups} == {(0,), (1,)}


def test_what_waits_or_has_threads_is_left_where_the_system_puts_it() -> None:
    launched: list[Placed] = []
    compare(1.0, 0, effort=replace(foreign_effort(2), samples=5), busy=False, launched=launched)
    assert [one.kept for one in launched] == [[]] * 6


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process to a processor")
def test_a_process_that_is_told_to_stays_there() -> None:
    last = usable_processors()[-1]
    process = AskedProcess([sys.executable, "-c", "input()"], variables=dict(os.environ))
    try:
        process.keep_to([last])
        assert os.sched_getaffinity(process._process.pid) == {last}
        process._process.kill()
        process._process.wait()
        process.keep_to([last])  # it has ended: nothing is left to keep
    finally:
        process.close()


def test_only_a_system_that_can_pin_is_asked_to(monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_processors() == ()
    assert usable_cpus() == (os.cpu_count() or 1)
