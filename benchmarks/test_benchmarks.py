"""The pytest-benchmark front: one test over the registry, measured by the project's own engine.

pytest-benchmark would time a whole block and show that as the result. Instead ``measure_here`` measures, and
pytest-benchmark is handed a clock that replays the samples: its table, ``--benchmark-json`` and
``--benchmark-compare`` then show seconds a step, the same numbers as asv and the command line. The whole record is
in ``extra_info``.

    .venv/bin/pytest benchmarks/test_benchmarks.py
    LRDIFF_BENCH_QUICK=1 .venv/bin/pytest benchmarks/test_benchmarks.py
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import pytest

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.engine.suite import measure_here

QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))
TIMED = [case for family in CASES.values() if family.metric == "time" for case in family.cases(quick=QUICK)]

_readings: deque[float] = deque()


def replay() -> float:
    """Clock that reads what :func:`test_case` put there: begin and end of every sample in turn."""
    return _readings.popleft()


@pytest.mark.benchmark(timer=replay)
@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.label)
def test_case(case: Case, benchmark: Any) -> None:
    reason = CASES[case.name].unavailable(**case.parameters)
    if reason is not None:
        pytest.skip(reason)
    if benchmark.disabled:  # --benchmark-disable: only see that it runs
        benchmark.pedantic(case.factory().step)
        return
    record = measure_here(case, Effort.quick() if QUICK else Effort.whole())
    benchmark.extra_info["record"] = record.model_dump(mode="json")
    for sample in record.samples:
        _readings.extend((0.0, sample.seconds))
    benchmark.pedantic(lambda: None, rounds=len(record.samples))
    assert not _readings, "pytest-benchmark read its clock another number of times than begin and end of each round"
    assert benchmark.stats.stats.median == pytest.approx(record.median)
    assert record.parity is None or record.parity.held, f"too far from float64: {record.parity}"
