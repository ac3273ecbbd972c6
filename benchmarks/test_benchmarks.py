"""The pytest-benchmark front: a test for each registered case, with plain parameters, measured by the project's engine.

pytest-benchmark would time a whole block and show that as the result. Instead ``measure_here`` measures, and
pytest-benchmark is handed a clock that replays the samples: its table, ``--benchmark-json`` and
``--benchmark-compare`` then show seconds a step, the same numbers as asv and the command line. The whole record is
in ``extra_info``. The step itself is taken once a sample, so that ``--benchmark-cprofile`` profiles it. Under
pytest-codspeed (``--codspeed``) its own instrument measures the plain step.

    .venv/bin/pytest benchmarks -k "optimizer_step and rates=1" --benchmark-group-by=param:implementation
    LRDIFF_BENCH_QUICK=1 .venv/bin/pytest benchmarks
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.registry import CASES, CaseFamily
from lrdiff_bench.measure.engine.suite import measure_here
from lrdiff_bench.system.machine import pinned

QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))

_readings: deque[float] = deque()


def replay() -> float:
    """Clock that reads what :func:`measure` put there: begin and end of every sample in turn."""
    return _readings.popleft()


# pytest-codspeed measures by itself, and refuses a marker that names a clock.
CLOCK: dict[str, Any] = {} if "--codspeed" in sys.argv else {"timer": replay}


def measure(case: Case, benchmark: Any, rounds: int | None) -> None:
    reason = CASES[case.name].unavailable(**case.parameters)
    if reason is not None:
        pytest.skip(reason)
    if getattr(benchmark, "disabled", True):  # --benchmark-disable, or the fixture of pytest-codspeed
        with pinned(case.threads):
            workload = case.factory()
            workload.step()
            workload.reset()
            benchmark.pedantic(workload.step) if CLOCK else benchmark(workload.step)
        return
    effort = Effort.quick() if QUICK else Effort.whole()
    if rounds is not None:
        effort = dataclasses.replace(effort, samples=rounds, most_seconds=float("inf"))
    record = measure_here(case, effort)
    benchmark.extra_info["record"] = record.model_dump(mode="json")
    for sample in record.samples:
        _readings.extend((0.0, sample.seconds))
    with pinned(case.threads):
        benchmark.pedantic(case.factory().step, rounds=len(record.samples))
    assert not _readings, "pytest-benchmark read its clock another number of times than begin and end of each round"
    assert benchmark.stats.stats.median == pytest.approx(record.median)
    assert record.parity is None or record.parity.held, f"too far from float64: {record.parity}"


def test_of(family: CaseFamily) -> Callable[..., None]:
    """A test over the cases of a family; its arguments are the family's parameters."""
    cases = family.cases(quick=QUICK)
    names = list(family.parameters)

    def test(benchmark: Any, request: pytest.FixtureRequest, **parameters: Any) -> None:
        least = request.config.getoption("benchmark_min_rounds", 5)
        measure(family.case(**parameters), benchmark, least if least != 5 else None)

    arguments = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("benchmark", "request", *names)]
    test.__signature__ = inspect.Signature(arguments)  # type: ignore[attr-defined]
    test.__doc__, test.__name__ = family.summary, f"test_{family.name}"
    marked = pytest.mark.benchmark(group=family.name, **CLOCK)(test)
    ids = [",".join(f"{key}={value}" for key, value in case.parameters.items()) for case in cases]
    values = [tuple(case.parameters.values()) for case in cases]
    return pytest.mark.parametrize(names, values, ids=ids)(marked) if names else marked


test_of.__test__ = False  # type: ignore[attr-defined]

# test_main_step, test_optimizer_step, ...: one for each name that `lrdiff bench ls --cases` shows.
globals().update({f"test_{name}": test_of(family) for name, family in CASES.items() if family.metric == "time"})
