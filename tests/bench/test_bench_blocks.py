"""The engine's device clocks and compile counts: against a device that is not there, and torch.compile that is."""

from __future__ import annotations

import warnings

import pytest

from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.device import device_clock
from lrdiff_bench.measure.engine.timer import Timer
from lrdiff_core.devices import compiler_status, device_status
from lrdiff_core.errors import UnavailableError


class FakeDevice:
    """A device that works behind the host: handing over takes ``launch`` seconds a step, the work ``work``."""

    name, behind = "fake", True

    def __init__(self, launch: float, work: float) -> None:
        self.launch, self.work = launch, work
        self.now = 0.0  # the host's clock
        self.free = 0.0  # when the device will be done
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += self.launch
        self.free = max(self.free, self.now) + self.work

    def wait(self) -> None:
        self.log.append("wait")
        self.now = max(self.now, self.free)

    def mark(self) -> float:
        self.log.append("mark")
        return max(self.now, self.free)

    def between(self, start: float, end: float) -> float:
        return end - start

    def reset_peak(self) -> None:
        self.log.append("reset_peak")

    def peak(self) -> int:
        return 7


@pytest.mark.parametrize(("launch", "work", "bound"), [(1e-5, 1e-4, False), (1e-4, 1e-5, True)])
def test_host_and_device_are_timed_both_so_that_launch_bound_shows(launch: float, work: float, bound: bool) -> None:
    device = FakeDevice(launch, work)
    case = Case(name="x", version="1", factory=lambda: Workload(device.step))
    timer = Timer(case, device.clock, 0.01, device=device)
    timer.warm_up()
    device.log.clear()
    sample = timer.sample()
    # what reset left must be done, both marks lie in the queue, and the end is waited for before the clock is read
    assert device.log == ["wait", "mark", "mark", "wait"]
    slower = max(launch, work)
    assert sample.seconds == pytest.approx(slower, rel=0.02)
    assert sample.launch == pytest.approx(launch, rel=0.01)
    assert sample.device == pytest.approx(slower, rel=0.02)
    assert (sample.launch / sample.seconds > 0.9) == bound


def test_on_the_cpu_the_host_is_the_whole() -> None:
    timer = Timer(Case(name="x", version="1", factory=lambda: Workload(lambda: sum(range(100)))), target_seconds=1e-3)
    timer.warm_up()
    sample = timer.sample()
    assert sample.launch is None
    assert sample.device is None
    assert timer.recompilations == 0


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_refused_with_the_reason(name: str) -> None:
    if device_status(name).available:
        clock = device_clock(name)
        clock.wait()
        start, end = clock.mark(), clock.mark()
        clock.wait()
        assert (clock.between(start, end) is None) == (name == "mps")
        return
    with pytest.raises(UnavailableError, match=f"no {name} here: .*\nhelp: measure on another device"):
        device_clock(name)


@pytest.mark.slow
@pytest.mark.skipif(not compiler_status().available, reason="no C++ compiler")
def test_compiling_is_told_apart_and_recompiling_is_counted() -> None:
    import torch

    torch.compiler.reset()
    sizes = iter(range(3, 1000))
    compiled = torch.compile(lambda x: (x * 2).sin(), dynamic=False)
    same, size = torch.ones(5), [5]

    def changing() -> None:
        compiled(torch.ones(size[0]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own
        steady = Timer(
            Case(name="x", version="1", factory=lambda: Workload(lambda: compiled(same))), target_seconds=1e-3
        )
        steady.warm_up()
        steady.sample()
        assert steady.first_graphs == 1
        assert steady.recompilations == 0
        assert steady.first_step > 20 * steady.samples[0].seconds
        case = Case(name="y", version="1", factory=lambda: Workload(changing, lambda: size.__setitem__(0, next(sizes))))
        varying = Timer(case, target_seconds=1e-6, warmup_seconds=1e-9)
        varying.warm_up()
        assert varying.recompilations >= 1
    torch.compiler.reset()
