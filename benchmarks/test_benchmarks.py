"""The pytest-benchmark front: one test over the registry, measured by the project's own timer.

pytest-benchmark would time a whole block and show that as the result. Instead ``time_case`` measures, and
pytest-benchmark is handed a clock that replays the samples: its table, ``--benchmark-json`` and
``--benchmark-compare`` then show seconds a step, the same numbers as asv and the command line.

    .venv/bin/pytest benchmarks/test_benchmarks.py
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import asdict
from typing import Any

import pytest

from lrdiff_bench.cases import CASES
from lrdiff_bench.timing import Case, time_case

TIMED = [case for family in CASES.values() if family.metric == "time" for case in family.cases()]
QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))

_readings: deque[float] = deque()


def replay() -> float:
    """Clock that reads what :func:`test_case` put there: begin and end of every sample in turn."""
    return _readings.popleft()


@pytest.mark.benchmark(timer=replay)
@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.label)
def test_case(case: Case, benchmark: Any) -> None:
    if benchmark.disabled:  # --benchmark-disable: only see that it runs
        benchmark.pedantic(case.factory().step)
        return
    timing = time_case(case, samples=5, target_block_seconds=0.001) if QUICK else time_case(case)
    benchmark.extra_info.update({key: value for key, value in asdict(timing).items() if key != "samples"})
    for sample in timing.samples:
        _readings.extend((0.0, sample))
    benchmark.pedantic(lambda: None, rounds=len(timing.samples))
    assert not _readings, "pytest-benchmark read its clock another number of times than begin and end of each round"
    assert benchmark.stats.stats.median == pytest.approx(timing.median)
