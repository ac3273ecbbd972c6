"""asv's suites, found and run by asv_runner as asv does: time_*, params, setup and teardown, setup_cache."""

from __future__ import annotations

import importlib
import itertools
import os
import pickle
import time
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrdiff_bench.measure.foreign.inside.blocks import Work
from lrdiff_bench.measure.foreign.inside.refusal import Refused, Skipped

__all__ = ["find_all", "fill_cache", "opened"]

CLOCKS = {timeit.default_timer, time.perf_counter, time.process_time, time.time, time.monotonic, time.thread_time}
CACHE = "cache.pickle"


def find_all(root: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every timing of the suite, one by choice of parameters; and modules that cannot be read, with the reason."""
    discovery = _discovery(root)
    rows: list[dict[str, Any]] = []
    broken: dict[str, str] = {}
    for benchmark in _benchmarks(discovery, root, broken):
        if getattr(benchmark, "type", None) != "time" or type(benchmark).__name__ != "TimeBenchmark":
            continue
        values = list(itertools.product(*benchmark._params))
        for index, texts in enumerate(itertools.product(*benchmark.params)):
            if values[index] in list(map(tuple, benchmark._skip_tuples or [])):
                continue
            rows.append(
                {
                    "id": f"{benchmark.name}({', '.join(texts)})" if texts else benchmark.name,
                    "name": benchmark.name,
                    "parameters": dict(zip(benchmark.param_names, texts, strict=True)),
                    "index": index if texts else None,
                    "cache": benchmark.setup_cache_key,
                    **_limits(benchmark),
                }
            )
    return rows, broken


def _limits(benchmark: Any) -> dict[str, float]:
    """Seconds that it and its setup_cache may take, where it says so."""
    timeout = getattr(benchmark, "timeout", None)
    caching = getattr(benchmark, "setup_cache_timeout", None) or timeout
    return {key: float(value) for key, value in (("timeout", timeout), ("cache_timeout", caching)) if value}


def _benchmarks(discovery: Any, root: Path, broken: dict[str, str]) -> Iterator[Any]:
    """asv's own discovery, module by module, going on after one that cannot be imported."""
    importing = importlib.import_module

    def told(name: str) -> Any:
        try:
            return importing(name)
        except BaseException as problem:
            if name.partition(".")[0] == root.name:
                broken[name] = f"{type(problem).__name__}: {problem}".splitlines()[0]
            raise

    importlib.import_module = told  # type: ignore[assignment]
    try:
        yield from discovery.disc_benchmarks(str(root), True)
    finally:
        importlib.import_module = importing


def fill_cache(root: Path, name: str) -> None:
    """Run the suite's setup_cache and keep what it returns in the present folder."""
    cache = _benchmark(root, name, None).do_setup_cache()
    with open(f"{CACHE}.part", "wb") as file:
        pickle.dump(cache, file)
    os.replace(f"{CACHE}.part", CACHE)


def opened(root: Path, name: str, index: int | None) -> tuple[Work, Any]:
    """One benchmark, set up; and what to call when all is done.

    Raises:
        Skipped: its setup says so.
        Refused: it brings its own clock.
    """
    benchmark = _benchmark(root, name, index)
    cache = None
    if benchmark.setup_cache_key is not None:
        with open(CACHE, "rb") as file:
            cache = pickle.load(file)  # written by this suite itself, a minute ago
    if hasattr(benchmark, "set_cache"):
        benchmark.set_cache(cache)
    elif cache is not None:
        benchmark.insert_param(cache)
    if benchmark.do_setup():
        raise Skipped("its setup raises NotImplementedError")
    if benchmark.timer not in CLOCKS:
        raise Refused(f"{name} brings a clock of its own", "lrdiff ab times by the wall clock and the processor's")
    arguments = benchmark._build_params() if hasattr(benchmark, "_build_params") else benchmark._current_params
    function = benchmark.func

    def again() -> None:
        benchmark.do_teardown()
        benchmark.do_setup()

    def call() -> object:
        return function(*arguments)

    # asv_runner 0.3 sets up before every single call, earlier ones before every sample.
    each = bool(getattr(benchmark, "_setup_isolates_timed_calls", False) and benchmark._setups)
    number = 1 if each else benchmark.number or None
    before = again if benchmark._setups or benchmark._teardowns else None
    return Work(call if arguments else function, before, number), benchmark.do_teardown


def _benchmark(root: Path, name: str, index: int | None) -> Any:
    benchmark = _discovery(root).get_benchmark_from_name(str(root), name)
    if index is not None:
        benchmark.set_param_idx(index)
    return benchmark


def _discovery(root: Path) -> Any:
    try:
        from asv_runner import discovery  # type: ignore[import-untyped]
        from asv_runner._aux import update_sys_path  # type: ignore[import-untyped]
    except ImportError as problem:
        raise Refused(
            f"asv_runner cannot be imported: {problem}", "install it beside the suite: pip install asv_runner", 3
        ) from problem
    update_sys_path(str(root))
    return discovery
