"""asv benchmarks made from the registry; nothing is listed here by hand.

By default each family has one benchmark, over the parameters of a quick run: half a minute a commit. With
``LRDIFF_BENCH_ALL=1`` every view of a whole run has one more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

# Modules, not functions: asv would take an imported `time_case` for a benchmark, because of its name.
from lrdiff_bench.measure.engine import case as engine_case
from lrdiff_bench.measure.engine import child, process, registry, shared, suite
from lrdiff_core.errors import CheckFailed

ALL = bool(os.environ.get("LRDIFF_BENCH_ALL"))
# `asv run --quick` does not reach functions that sample for themselves; this does.
QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))
DEVICE = os.environ.get("LRDIFF_BENCH_DEVICE", "cpu")
# Folder to keep the records in, a run a commit, as `lrdiff bench` does.
RECORDS = os.environ.get("LRDIFF_BENCH_RECORDS")
EFFORT = process.Effort.quick() if QUICK else process.Effort.history()

if "run_server" in sys.argv:  # asv's forkserver, which measures in copies of itself
    child.load_ahead("onnxscript.function_libs.torch_lib.ops")


def setup_cache() -> None:
    """Because of this, asv runs all benchmarks of a commit in one folder: the two views of a case share a record."""


def skip_unavailable(case: engine_case.Case) -> None:
    # Not in a `setup`: asv calls that before `setup_cache` too, where skipping would fail all benchmarks.
    reason = registry.CASES[case.name].unavailable(**case.parameters)
    if reason is not None:
        raise SkipNotImplemented(reason)


def recorded(case: engine_case.Case, reader: str) -> Any:
    skip_unavailable(case)
    kept = None if RECORDS is None else Path(RECORDS)
    return shared.shared_record(case, EFFORT, Path.cwd(), reader=reader, kept=kept)


def timed(name: str, build: Callable[..., engine_case.Case]) -> Callable[..., dict[str, Any]]:
    """asv takes what returns samples and a number as a sampled timing, whoever took the samples."""

    def benchmark(*values: Any) -> dict[str, Any]:
        record = recorded(build(*values), name)
        if record.parity is not None and not record.parity.held:
            raise CheckFailed(
                f"{record.case} is {record.parity.error} eps from float64, {record.parity.budget:.1f} are allowed",
                help="fast but wrong is no result",
            )
        return {"samples": [sample.seconds for sample in record.samples], "number": record.processes[0].number}

    benchmark.type = "time"
    benchmark.unit = "seconds"
    return benchmark


def error(name: str, build: Callable[..., engine_case.Case]) -> Callable[..., float]:
    """How far results are from float64, in eps at their scale: what a `track_` benchmark returns, lower is better."""

    def benchmark(*values: Any) -> float:
        record = recorded(build(*values), name)
        if record.parity is None:
            return float("nan")  # asv's "not available"
        if record.parity.error is None:
            raise CheckFailed(f"the result of {record.case} is not finite", help="see the time of the same case")
        return record.parity.error

    benchmark.type = "track"
    benchmark.unit = "eps"
    return benchmark


def peak_memory(name: str, build: Callable[..., engine_case.Case]) -> Callable[..., float]:
    """Peak resident bytes of a new process, Python and torch included; asv's own figure would be its forkserver's."""

    def benchmark(*values: Any) -> float:
        case = build(*values)
        skip_unavailable(case)
        (row,) = suite.measure_cases([case], process.Effort.quick())
        if row.record is None or row.record.peak is None:
            raise CheckFailed(f"no peak of {row.case.label}: {row.reason}", help="measure memory on Linux or macOS")
        return row.record.peak

    benchmark.type = "peakmemory"
    benchmark.unit = "bytes"
    return benchmark


def add(family: registry.CaseFamily, view_name: str, view: Any) -> None:
    """Add the benchmarks of one view: their parameters are those that have several values in it."""
    full = family.full(view)
    varied = {key: values for key, values in full.items() if len(values) > 1}
    fixed = {key: values[0] for key, values in full.items() if len(values) == 1}

    def build(*values: Any) -> engine_case.Case:
        return family.case(**fixed, **dict(zip(varied, values, strict=True)))

    # asv tells kinds apart by the beginning of the name: what a "track_" function returns is the result.
    kinds: dict[str, Any] = {"track": timed if family.metric == "time" else peak_memory}
    if family.metric == "time" and family.parity:
        kinds["track_error"] = error
    # What has the first value of its parameter goes without saying: the page cuts long names.
    said = {key: value for key, value in fixed.items() if value != family.parameters[key][0]}
    for kind, make in kinds.items():
        name = f"{kind}_{family.name}" + (f"__{view_name}" if view_name else "")
        benchmark = make(name, build)
        benchmark.__name__ = name
        benchmark.__doc__ = family.summary
        words = [family.name, *([view_name] if view_name else []), *(f"{k}={v}" for k, v in said.items())]
        benchmark.pretty_name = " ".join(["error of", *words] if make is error else words)
        benchmark.version = family.version  # asv would hash the source text above, the same for every family
        if varied:
            benchmark.params = [list(values) for values in varied.values()]
            benchmark.param_names = list(varied)
        globals()[benchmark.__name__] = benchmark


def views(family: registry.CaseFamily) -> dict[str, Any]:
    """The views to follow, by name; the one without a name is there by default."""
    followed = {"": family.quick}
    if ALL:
        more = {name or "all": view for name, view in family.views.items()}
        followed |= {name: view for name, view in more.items() if family.full(view) != family.full(family.quick)}
    return followed


for _family in registry.CASES.values():
    for _name, _view in views(_family).items():
        # One device an environment: it is in the environment's name, not among the parameters.
        _devices = _family.parameters.get("device", ("cpu",))
        if DEVICE in _view.get("device", _devices if _name == "" else _devices[:1]):
            add(_family, _name, {**_view, "device": (DEVICE,)} if "device" in _family.parameters else _view)
