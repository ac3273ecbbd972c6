"""One asv benchmark a case family, made from the registry; nothing is listed here by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch  # noqa: F401  # so that forkserver imports it once, not once a benchmark

# Modules, not functions: asv would take an imported `time_case` for a benchmark, because of its name.
from lrdiff_bench import cases, timing

# `asv run --quick` does not reach functions that sample for themselves; this does.
QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))


def timed(family: cases.CaseFamily) -> Callable[..., dict[str, Any]]:
    """asv takes what returns samples and a number as a sampled timing, whoever took the samples."""

    def benchmark(*values: Any) -> dict[str, Any]:
        case = family.case(**dict(zip(family.parameters, values, strict=True)))
        taken = timing.time_case(case, samples=3, target_block_seconds=0.001) if QUICK else timing.time_case(case)
        return {"samples": list(taken.samples), "number": taken.number}

    benchmark.type = "time"
    benchmark.unit = "seconds"
    benchmark.rounds = 1 if QUICK else 2  # processes: what differs between two of them is noise, too
    return benchmark


def peak_memory(family: cases.CaseFamily) -> Callable[..., None]:
    """asv reads the peak resident memory of the whole process after this returned, Python and torch included."""

    def benchmark(*values: Any) -> None:
        family.case(**dict(zip(family.parameters, values, strict=True))).factory().step()

    return benchmark


# asv tells kinds apart by the beginning of the name: what a "track_" function returns is the result.
for _family in cases.CASES.values():
    _kind, _make = ("track", timed) if _family.metric == "time" else ("peakmem", peak_memory)
    _benchmark = _make(_family)
    _benchmark.__name__ = f"{_kind}_{_family.name}"
    _benchmark.__doc__ = _family.summary
    _benchmark.pretty_name = _family.name
    _benchmark.version = _family.version  # asv would hash the source text above, the same for every family
    _benchmark.params = [list(values) for values in _family.parameters.values()]
    _benchmark.param_names = list(_family.parameters)
    globals()[_benchmark.__name__] = _benchmark
del _benchmark  # else asv would find the last one twice
