"""The timer: its logic against a clock we drive, and its verdicts against the real one."""

from __future__ import annotations

import dataclasses
import gc
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.compare import compare_cases
from lrdiff_bench.measure.engine.timing import time_case
from lrdiff_bench.system.machine import pinned
from lrdiff_core.errors import ConfigError


class Machine:
    """A clock and a workload that advances it: reading costs ``tick`` seconds, a step what ``cost`` says."""

    def __init__(self, cost, tick: float = 0.0) -> None:
        self.now, self.tick, self.cost = 0.0, tick, cost
        self.steps, self.calls = 0, []

    def clock(self) -> float:
        self.now += self.tick
        return self.now

    def step(self) -> None:
        self.steps += 1
        self.calls.append("step")
        self.now += self.cost(self.steps)

    def case(self, name: str = "fake") -> Case:
        workload = Workload(self.step, lambda: self.calls.append("reset"), lambda: self.calls.append("sync"))
        return Case(name=name, parameters={"p": 1}, version="7", factory=lambda: workload)


def test_block_is_as_long_as_asked() -> None:
    machine = Machine(lambda step: 1e-5)
    timing = time_case(machine.case(), samples=4, target_block_seconds=0.01, clock=machine.clock)
    assert 1000 <= timing.number <= 1500
    assert timing.samples == pytest.approx([1e-5] * 4)
    assert (timing.case, timing.parameters, timing.version) == ("fake[p=1]", {"p": 1}, "7")
    assert timing.settled
    assert timing.first_step == pytest.approx(1e-5)
    assert timing.noise.relative_iqr == pytest.approx(0, abs=1e-6)


def test_block_grows_until_the_clock_costs_a_thousandth() -> None:
    machine = Machine(lambda step: 1e-5, tick=1e-4)
    timing = time_case(machine.case(), samples=2, target_block_seconds=0.001, clock=machine.clock)
    assert timing.number * 1e-5 >= 1e-4 * 999
    assert timing.clock_share <= 0.001
    assert timing.median == pytest.approx(1e-5, rel=0.002)


def test_warm_up_goes_on_until_steps_stop_getting_faster() -> None:
    machine = Machine(lambda step: 1e-3 + 1e-2 * 0.9**step)
    timing = time_case(machine.case(), samples=3, target_block_seconds=0.01, clock=machine.clock)
    assert timing.settled
    assert len(timing.warmup) > 10
    assert timing.first_step == pytest.approx(1e-3 + 1e-2 * 0.9)
    assert timing.number * timing.median >= 0.01  # calibrated again once warm


def test_warm_up_that_never_settles_ends_and_says_so() -> None:
    machine = Machine(lambda step: 1e-3 * 1.02**step)
    timing = time_case(machine.case(), samples=1, target_block_seconds=0.001, clock=machine.clock)
    assert not timing.settled


def test_reset_and_sync_around_every_block() -> None:
    machine = Machine(lambda step: 0.02)
    time_case(machine.case(), samples=3, target_block_seconds=0.01, clock=machine.clock)
    blocks = len(machine.calls) // 4
    assert machine.calls == ["reset", "sync", "step", "sync"] * blocks
    assert machine.steps == blocks


def test_what_comes_before_a_step_is_not_timed_and_a_preempted_step_does_not_show() -> None:
    machine = Machine(lambda step: 0.5 if step % 7 == 0 else 1e-3, tick=1e-6)  # every seventh is preempted

    def before() -> None:
        machine.calls.append("before")
        machine.now += 0.01

    workload = Workload(machine.step, lambda: machine.calls.append("reset"), before=before)
    case = Case(name="cold", version="1", factory=lambda: workload)
    timing = time_case(case, samples=5, target_block_seconds=0.02, clock=machine.clock)
    assert timing.samples == pytest.approx([1e-3] * 5, rel=1e-6)  # without the clock's own microsecond
    assert machine.calls.count("before") == machine.calls.count("step") > 5 * timing.number
    assert machine.calls[:3] == ["reset", "before", "step"]
    # Ten times the step's time goes by outside: a block is long enough all the same.
    slow = Workload(machine.step, before=lambda: setattr(machine, "now", machine.now + 10.0))
    case = Case(name="colder", version="1", factory=lambda: slow)
    assert time_case(case, samples=1, target_block_seconds=0.02, clock=machine.clock).number == 1


def test_comparison_alternates_and_keeps_every_sample() -> None:
    machine, order = Machine(lambda step: 0.0), []

    def case(name: str, cost: float) -> Case:
        def step() -> None:
            order.append(name)
            # a machine that gets slower all the time: alternating must cancel it
            machine.now += cost * (1 + 0.01 * len(order))

        return Case(name=name, version="1", factory=lambda: Workload(step))

    comparison = compare_cases(case("a", 1.0), case("b", 1.1), rounds=6, target_block_seconds=0.5, clock=machine.clock)
    assert "".join(order[-24:]) == "abba" * 6
    assert len(comparison.a.samples) == len(comparison.b.samples) == 12
    assert len(comparison.ratios) == 6
    assert comparison.ratio.estimate == pytest.approx(1.1, rel=1e-6)
    assert comparison.verdict == "slower"
    dataclasses.asdict(comparison)  # plain enough for JSON


def test_where_a_build_comes_to_lie_is_no_difference() -> None:
    machine, lot, built = Machine(lambda step: 0.0), random.Random(0), []

    def case(name: str) -> Case:
        def factory() -> Workload:
            built.append(name)
            cost = lot.choice([1.0, 1.2])  # as long as this build lives
            return Workload(lambda: setattr(machine, "now", machine.now + cost))

        return Case(name=name, version="1", factory=factory)

    options = {"target_block_seconds": 0.5, "clock": machine.clock}
    assert {str(compare_cases(case("a"), case("a"), rounds=6, **options).verdict) for _ in range(8)} > {"equivalent"}
    built.clear()
    a, b = case("a"), case("b")
    many = [compare_cases(a, b, rounds=2, builds=10, **options) for _ in range(4)]
    assert built == [*"abba"] * 20
    assert all(one.ratio.low <= 1 <= one.ratio.high for one in many)
    assert all(len(one.ratios) == 20 and len(one.b.samples) == 40 for one in many)


def busy(seconds: float) -> Case:
    def step() -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return Case(name="busy", version="1", factory=lambda: Workload(step))


# Two real measurements, on this process's own time: what else the machine does must not fail a test.
def test_planted_slow_down_is_found() -> None:
    comparison = compare_cases(
        busy(200e-6), busy(220e-6), rounds=15, target_block_seconds=0.002, clock=time.process_time
    )
    assert comparison.verdict == "slower"
    assert comparison.ratio.estimate == pytest.approx(1.1, abs=0.03)


def count_verdicts(slow_down: float, comparisons: int, rounds: int) -> Counter:
    return Counter(
        compare_cases(
            busy(60e-6), busy(60e-6 * slow_down), rounds=rounds, target_block_seconds=0.0006, clock=time.process_time
        ).verdict
        for _ in range(comparisons)
    )


@pytest.mark.slow
def test_real_comparisons_of_the_same_and_of_a_planted_slow_down() -> None:
    """Busy loops on this process's own time.

    Counted by 200 and 100 of them, with five others at work on two processors: 0 of 200 called different, and 99 of
    100 found, the last one unresolved. Here are fewer, because they take half a second each; planted samples are
    counted in full in test_bench_hierarchical.py. That 2 of 12, or 3 of 8, go wrong by chance has odds of one in 400
    and one in 150 at the 5 % that are allowed, and of less than one in 10 000 at the rates counted.
    """
    same = count_verdicts(1.0, 12, rounds=8)
    assert same["faster"] + same["slower"] <= 1, same
    slower = count_verdicts(1.05, 8, rounds=24)
    assert slower["slower"] >= 6, slower
    assert slower["faster"] == 0


@pytest.mark.parametrize("collecting", [True, False])
def test_threads_and_collector_are_put_back_even_after_an_error(collecting: bool) -> None:
    import torch

    seen = {}

    def step() -> None:
        seen.update(threads=torch.get_num_threads(), gc=gc.isenabled())
        raise RuntimeError("step failed")

    was_collecting, was_threads = gc.isenabled(), torch.get_num_threads()
    gc.enable() if collecting else gc.disable()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="step failed"):
            time_case(Case(name="fails", version="1", factory=lambda: Workload(step)), threads=1)
        assert seen == {"threads": 1, "gc": False}
        assert gc.isenabled() == collecting
        assert torch.get_num_threads() == 2
    finally:
        gc.enable() if was_collecting else gc.disable()
        torch.set_num_threads(was_threads)


def test_measuring_ends_when_the_time_is_up_restoring_included() -> None:
    machine = Machine(lambda step: 0.02)
    workload = Workload(machine.step, lambda: setattr(machine, "now", machine.now + 0.98))
    case = Case(name="slow", version="1", factory=lambda: workload)
    assert len(time_case(case, samples=50, most_seconds=8.0, clock=machine.clock).samples) == 8
    assert len(time_case(case, samples=50, most_seconds=0.1, clock=machine.clock).samples) == 5  # the least there is


def test_thread_count_is_recorded() -> None:
    machine = Machine(lambda step: 0.02)
    assert time_case(machine.case(), samples=1, threads=2, clock=machine.clock).threads == 2
    wants = dataclasses.replace(machine.case(), threads=2)
    assert time_case(wants, samples=1, clock=machine.clock).threads == 2
    with pinned(3) as count:
        assert count == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"target_block_seconds": 0.0}, "target_block_seconds is 0.0"),
    ],
)
def test_wrong_options(options: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        time_case(busy(1e-6), **options)


def test_too_few_rounds() -> None:
    with pytest.raises(ConfigError, match=r"rounds is 5\nhelp: write a whole number from 6 up"):
        compare_cases(busy(1e-6), busy(1e-6), rounds=5)
    with pytest.raises(ConfigError, match=r"builds is 5\nhelp: write a whole number from 6 up"):
        compare_cases(busy(1e-6), busy(1e-6), rounds=6, builds=5)


def test_clock_that_stands_still(monkeypatch) -> None:
    monkeypatch.setattr("lrdiff_bench.measure.engine.timer.MOST_STEPS", 1000)
    with pytest.raises(ConfigError, match="1000 steps take 0 s"):
        time_case(Case(name="x", version="1", factory=lambda: Workload(lambda: None)), clock=lambda: 0.0)


def test_importing_the_timer_does_not_import_torch() -> None:
    code = "import sys, lrdiff_bench.measure.engine.compare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
