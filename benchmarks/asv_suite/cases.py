"""One asv benchmark a view of a case family, made from the registry; nothing is listed here by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch  # noqa: F401  # so that forkserver imports it once, not once a benchmark

# Modules, not functions: asv would take an imported `time_case` for a benchmark, because of its name.
from lrdiff_bench import cases, timing

# `asv run --quick` does not reach functions that sample for themselves; this does.
QUICK = bool(os.environ.get("LRDIFF_BENCH_QUICK"))
DEVICE = os.environ.get("LRDIFF_BENCH_DEVICE", "cpu")
EFFORT: dict[str, Any] = (
    {"samples": 5, "target_block_seconds": 0.002, "most_seconds": 0.5} if QUICK else {"most_seconds": 3.0}
)


def timed(build: Callable[..., timing.Case]) -> Callable[..., dict[str, Any]]:
    """asv takes what returns samples and a number as a sampled timing, whoever took the samples."""

    def benchmark(*values: Any) -> dict[str, Any]:
        taken = timing.time_case(build(*values), **EFFORT)
        return {"samples": list(taken.samples), "number": taken.number}

    benchmark.type = "time"
    benchmark.unit = "seconds"
    benchmark.rounds = 1 if QUICK else 2  # processes: what differs between two of them is noise, too
    return benchmark


def error(build: Callable[..., timing.Case]) -> Callable[..., float]:
    """How far results are from float64, in eps at their scale: what a `track_` benchmark returns, lower is better."""

    def benchmark(*values: Any) -> float:
        case = build(*values)
        with timing.pinned(case.threads):
            parity = case.factory().parity
            return float("nan") if parity is None else parity().error  # nan is asv's "not available"

    benchmark.type = "track"
    benchmark.unit = "eps"
    return benchmark


def peak_memory(build: Callable[..., timing.Case]) -> Callable[..., None]:
    """asv reads the peak resident memory of the whole process after this returned, Python and torch included."""

    def benchmark(*values: Any) -> None:
        build(*values).factory().step()

    return benchmark


def add(family: cases.CaseFamily, name: str, view: Any) -> None:
    """Add the benchmark of one view: its parameters are those that have several values in it."""
    full = family.full(view)
    varied = {key: values for key, values in full.items() if len(values) > 1}
    fixed = {key: values[0] for key, values in full.items() if len(values) == 1}

    def build(*values: Any) -> timing.Case:
        return family.case(**fixed, **dict(zip(varied, values, strict=True)))

    def setup(*values: Any) -> None:
        reason = family.unavailable(**build(*values).parameters)
        if reason is not None:
            raise NotImplementedError(reason)  # asv's word for "skip"

    # asv tells kinds apart by the beginning of the name: what a "track_" function returns is the result.
    kinds = {"track": timed} if family.metric == "time" else {"peakmem": peak_memory}
    if family.metric == "time" and family.parity:
        kinds["track_error"] = error
    for kind, make in kinds.items():
        benchmark = make(build)
        benchmark.__name__ = f"{kind}_{family.name}" + (f"__{name}" if name else "")
        benchmark.__doc__ = family.summary
        words = [family.name, *([name] if name else []), *(f"{k}={v}" for k, v in fixed.items())]
        benchmark.pretty_name = " ".join(["error of", *words] if make is error else words)
        benchmark.version = family.version  # asv would hash the source text above, the same for every family
        benchmark.setup = setup
        if varied:
            benchmark.params = [list(values) for values in varied.values()]
            benchmark.param_names = list(varied)
        globals()[benchmark.__name__] = benchmark


for _family in cases.CASES.values():
    for _name, _view in _family.views.items():
        _devices = _view.get("device", ("cpu",))
        if DEVICE in _devices:
            # one device an environment: it is in the environment's name, not among the parameters
            add(_family, _name, {**_view, "device": (DEVICE,)} if "device" in _family.parameters else _view)
