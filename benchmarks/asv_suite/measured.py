"""What the benchmarks of this suite have in common: registered cases, measured by the project's own engine.

A benchmark is a class as anywhere else in asv: ``params`` and ``param_names`` are plain, ``time_step`` is timed and
``track_error`` is followed. ``case`` names the registered case that both are of. asv alone would time the method
without putting the state back and without looking at the result. Here the engine measures, in two processes of ten
blocks, and asv is handed a clock that replays the samples. ``time_step`` takes the case's step all the same, once, so
that ``asv profile`` shows it.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from asv_runner.benchmarks.mark import SkipNotImplemented

# Modules, not functions: asv would take an imported `time_case` for a benchmark, because of its name.
from lrdiff_bench.measure import asv_records, history
from lrdiff_bench.measure.engine import child, process, record, registry, suite
from lrdiff_core.errors import CheckFailed, ConfigError

# Every view of a whole run, not only what a quick one measures.
ALL = bool(os.environ.get("LRDIFF_BENCH_ALL"))
# `asv run --quick` does not reach the engine; this does.
QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))
# One device an environment: it is in the environment's name, not among the parameters.
DEVICE = os.environ.get("LRDIFF_BENCH_DEVICE", "cpu")
# Folder to keep the records in, a run a commit, as `lrdiff bench` does.
RECORDS = os.environ.get("LRDIFF_BENCH_RECORDS")
EFFORT = process.Effort.quick() if QUICK else process.Effort.history()

if "run_server" in sys.argv:  # asv's forkserver, which measures in copies of itself
    child.load_ahead("onnxscript.function_libs.torch_lib.ops")


class Measured(ABC):
    """A registered case over the parameters that the benchmark varies."""

    params: ClassVar[list[list[Any]]] = []
    param_names: ClassVar[list[str]] = []
    fixed: ClassVar[Mapping[str, Any]] = {}  # the other parameters; those left out have their defaults

    @property
    @abstractmethod
    def case(self) -> str:
        """Name of the case in the registry; the class is called like it."""

    def __init_subclass__(cls) -> None:
        if isinstance(cls.case, str):
            begin = history.benchmark_name(cls.case)
            if not cls.__name__.startswith(begin):  # `lrdiff bench history --case` finds it by that
                raise ConfigError(
                    f"{cls.__name__} runs {cls.case}", help=f"call the class {begin}, or {begin}Something"
                )
            # asv would hash the source text, which says nothing about the case.
            cls.version = registry.CASES[cls.case].version

    def setup_cache(self) -> None:  # noqa: B027
        """Because of this, asv runs all benchmarks of a commit in one folder: time and error share a record."""

    def setup(self, *values: Any) -> None:
        """Find the case, or say that it cannot be measured here."""
        family = registry.CASES[self.case]
        if "device" not in family.parameters and DEVICE != "cpu":
            raise SkipNotImplemented(f"{self.case} is measured on the CPU")
        device = {"device": DEVICE} if "device" in family.parameters else {}
        self.built = family.case(**{**device, **self.fixed, **dict(zip(self.param_names, values, strict=True))})
        if reason := family.unavailable(**self.built.parameters):
            raise SkipNotImplemented(reason)

    def record(self, reader: str) -> record.Record:
        """The case's record, measured by whoever asks first."""
        kept = None if RECORDS is None else Path(RECORDS)
        return asv_records.shared_record(
            self.built, EFFORT, Path.cwd(), reader=f"{type(self).__name__} {reader}", records=kept
        )


class Timed(Measured):
    """Seconds a step."""

    # The engine has warmed up and taken every sample before asv asks: one call each, in one process.
    rounds, number, warmup_time, min_run_count = 1, 1, 0.0, 1

    def __init__(self) -> None:
        self._readings: deque[float] = deque()
        self._step: Any = None

    @property
    def repeat(self) -> int:
        """How many samples there are; only a time is asked this, once before its case is known and once after."""
        if hasattr(self, "built") and self._step is None:
            found = self.record("time")
            if found.parity is not None and not found.parity.held:
                raise CheckFailed(
                    f"{found.case} is {found.parity.error} eps from float64, {found.parity.budget:.1f} are allowed",
                    help="fast but wrong is no result",
                )
            for sample in found.samples:
                self._readings.extend((0.0, sample.seconds))
            self._step = self.built.factory().step
        return len(self._readings) // 2

    def timer(self) -> float:
        """Clock that reads begin and end of every sample in turn."""
        return self._readings.popleft()

    def time_step(self, *values: Any) -> None:
        step, self._step = self._step, lambda: None
        step()


class Checked(Timed):
    """Seconds a step, and how far the result is from float64 in eps at its scale; lower is better."""

    def track_error(self, *values: Any) -> float:
        found = self.record("error")
        if found.parity is None:
            return float("nan")  # asv's "not available"
        if found.parity.error is None:
            raise CheckFailed(f"the result of {found.case} is not finite", help="see the time of the same case")
        return found.parity.error

    track_error.unit = "eps"  # type: ignore[attr-defined]


class Counted(Measured):
    """How many of a family's cases with these parameters hold their budget: rows of a table of parity."""

    def setup(self, *values: Any) -> None:
        """Find the cases, or say that they cannot be measured here."""
        if DEVICE != "cpu":
            raise SkipNotImplemented(f"{self.case} is counted on the CPU")
        family = registry.CASES[self.case]
        chosen = dict(zip(self.param_names, values, strict=True))
        same = [one for one in family.cases() if chosen.items() <= one.parameters.items()]
        self.rows = [one for one in same if family.unavailable(**one.parameters) is None]

    def track_rows_within_budget(self, *values: Any) -> int:
        found = [one.factory().parity for one in self.rows]
        return sum(parity is not None and parity().held for parity in found)

    track_rows_within_budget.unit = "rows"  # type: ignore[attr-defined]


class Peak(Measured):
    """Peak resident bytes of a new process, Python and torch included.

    Not by asv's ``peakmem_``: that one's figure would be that of the forkserver it measures in.
    """

    def track_peak_memory(self, *values: Any) -> float:
        (row,) = suite.measure_cases([self.built], process.Effort.quick())
        if row.record is None or row.record.peak is None:
            raise CheckFailed(f"no peak of {row.case.label}: {row.reason}", help="measure memory on Linux or macOS")
        return row.record.peak

    track_peak_memory.unit = "bytes"  # type: ignore[attr-defined]
    track_peak_memory.type = "peakmemory"  # type: ignore[attr-defined]
