"""How long one call takes: every call is timed, because a deployer asks for the slow ones.

Blocks of calls, as the benchmarks of this project time them, give a median and lose the 99th percentile; here each call
is a sample. What is compared is called in turns in one run, so that a busy moment meets all alike.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import CheckFailed, ConfigError, UnavailableError
from lrdiff_export.model.signature import Arrays, as_arrays
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.load import load_onnx
from lrdiff_export.records import json_ready
from lrdiff_export.runtimes.arrays_file import load_arrays, save_arrays
from lrdiff_export.runtimes.predictor import CPU_PROVIDER, OnnxPredictor, open_session
from lrdiff_export.runtimes.sandbox import Limits, Sandbox

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Latency", "LatencyReport", "measure_calls", "measure_latency", "providers_by_node"]

BATCHES = (1, 32, 1024)
WARM_UP = 20  # calls that are not counted: first calls allocate
CALLS = 300
LIMITS = Limits()  # for a file that a path names: it may come from anywhere
LONGEST = 2.0  # seconds for one batch size and one way; fewer calls are made of slow models


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of single calls.

    Attributes:
        way: what was called: ``run``, ``I/O binding``, ``eager``.
        batch: rows in a call.
        threads: threads inside an operator.
        calls: number of calls timed.
        median_us: in microseconds.
        p95_us: 95 of 100 calls are faster.
        p99_us: 99 of 100 calls are faster.
    """

    way: str
    batch: int
    threads: int
    calls: int
    median_us: float
    p95_us: float
    p99_us: float


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """How long a file takes here, and what ran it.

    Attributes:
        file: its name.
        runtime: version of ONNX Runtime.
        provider: the execution provider that was asked for, and that ran every node.
        nodes: execution provider of each node of the graph as it was run, after fusing.
        times: one an access way, batch and number of threads.
    """

    file: str
    runtime: str
    provider: str
    nodes: dict[str, str]
    times: tuple[Latency, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json_ready(self)


def measure_calls(
    ways: Mapping[str, Callable[[], Any]], *, calls: int = CALLS, batch: int, threads: int
) -> dict[str, Latency]:
    """Time single calls of several functions in turns.

    Args:
        ways: functions by name.
        calls: how many of each; fewer where they would take more than two seconds.
        batch: rows in a call, for the record.
        threads: for the record.

    Example:
        >>> measure_calls({"nothing": lambda: None}, calls=10, batch=1, threads=1)["nothing"].calls
        10
    """
    for call in ways.values():
        until = time.perf_counter() + LONGEST
        for _ in range(WARM_UP):
            call()
            if time.perf_counter() > until:
                break
    samples: dict[str, list[int]] = {name: [] for name in ways}
    clock = time.perf_counter_ns
    until = time.perf_counter() + LONGEST * len(ways)
    was_on = gc.isenabled()
    gc.disable()  # a collection belongs to whoever made the garbage
    try:
        for _ in range(calls):
            for name, call in ways.items():
                begun = clock()
                call()
                samples[name].append(clock() - begun)
            if time.perf_counter() > until:
                break
    finally:
        if was_on:
            gc.enable()
    found = {}
    for name, times in samples.items():
        median, p95, p99 = (float(x) / 1e3 for x in np.percentile(times, [50, 95, 99]))
        found[name] = Latency(
            way=name, batch=batch, threads=threads, calls=len(times), median_us=median, p95_us=p95, p99_us=p99
        )
    return found


def measure_latency(
    path_or_bytes: str | os.PathLike[str] | bytes,
    rows: Arrays,
    *,
    module: nn.Module | None = None,
    text: TextInputs | None = None,
    provider: str = CPU_PROVIDER,
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] = (1,),
    calls: int = CALLS,
    limits: Limits | None = LIMITS,
) -> LatencyReport:
    """Measure a file in ONNX Runtime, by plain ``run`` and with I/O binding, and eager PyTorch beside it.

    Args:
        path_or_bytes: an ONNX file, or its bytes, which are trusted.
        rows: rows to feed, one array an input, repeated as often as a batch needs.
        module: called eagerly in turns with the file, positional; None to leave it out.
        text: of a file that takes words: how it takes the columns of the rows, which hold their codes.
        provider: the execution provider that must run every node.
        batches: batch sizes.
        threads: numbers of threads.
        calls: of each.
        limits: within which a file must run once before it is timed, and without a module is timed; None to trust it.

    Raises:
        ModelFileError: the file cannot be used, or does not run within the limits.
        UnavailableError: the provider is not in this build.
        CheckFailed: a node was run by another provider.
    """
    arrays = as_arrays(rows)
    feeds = arrays if text is None else tuple(text.split(arrays[0]))
    for count in threads:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"threads is {count!r}, not a whole number of 1 or more", help="write threads=[1, 2]")
    options: dict[str, Any] = {"provider": provider, "batches": [*batches], "threads": [*threads], "calls": calls}
    if isinstance(path_or_bytes, bytes) or limits is None:
        return _timed(path_or_bytes, feeds, arrays, module=module, **options)
    with Sandbox(limits) as sandbox:
        sandbox.run(path_or_bytes, [one[:1] for one in feeds])  # what does not end is told at once
        if module is not None:  # both are called in turns, in this process
            return _timed(path_or_bytes, feeds, arrays, module=module, **options)
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder, "rows.npz")
            save_arrays(given, feeds)
            seconds = len(batches) * len(threads) * 2 * (2 * LONGEST + limits.seconds)
            function = f"{__name__}:timed_file"
            made = sandbox.call(path_or_bytes, function, seconds, rows=str(given), **options)
    return LatencyReport(**{**made, "times": tuple(Latency(**one) for one in made["times"])})


def timed_file(path: str, rows: str, **options: Any) -> dict[str, Any]:
    """What the process of a sandbox does: :func:`measure_latency` of a file alone, its rows from an npz file."""
    feeds = load_arrays(rows)
    return asdict(_timed(path, feeds, feeds, module=None, **options))


def _timed(
    path_or_bytes: str | os.PathLike[str] | bytes,
    rows: Sequence[np.ndarray],
    arrays: Sequence[np.ndarray],
    *,
    module: nn.Module | None,
    provider: str,
    batches: Sequence[int],
    threads: Sequence[int],
    calls: int,
) -> LatencyReport:
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else load_onnx(path_or_bytes)
    times: list[Latency] = []
    nodes: dict[str, str] = {}
    for count in threads:
        nodes = providers_by_node(data, provider=provider, threads=count)
        predictor = OnnxPredictor(data, threads=count, provider=provider)
        for batch in batches:
            feeds = [one[np.arange(batch) % len(one)] for one in rows]
            ways: dict[str, Callable[[], Any]] = {"run": partial(predictor.run, *feeds)}
            if all(one.dtype.kind not in "OU" for one in feeds):  # words lie in no memory that could be bound
                ways["I/O binding"] = predictor.bind(*feeds)
            if module is None:
                times += measure_calls(ways, calls=calls, batch=batch, threads=count).values()
                continue
            with torch_threads(count):
                ways["eager"] = _eager(module, [one[np.arange(batch) % len(one)] for one in arrays])
                times += measure_calls(ways, calls=calls, batch=batch, threads=count).values()
    return LatencyReport(
        file="" if isinstance(path_or_bytes, bytes) else str(path_or_bytes),
        runtime=f"onnxruntime {onnxruntime.__version__}",
        provider=provider,
        nodes=nodes,
        times=tuple(times),
    )


def _eager(module: nn.Module, feeds: Sequence[np.ndarray]) -> Callable[[], Any]:
    """From NumPy to NumPy, as the file is called."""
    import torch

    def call() -> Any:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(one) for one in feeds))
        return result.numpy() if isinstance(result, torch.Tensor) else [one.numpy() for one in result]

    return call


def providers_by_node(data: bytes, *, provider: str = CPU_PROVIDER, threads: int = 1) -> dict[str, str]:
    """Return which execution provider was given each node of the graph as it will be run.

    Args:
        data: bytes of a valid file.
        provider: the one that must run every node.
        threads: threads inside an operator.

    Raises:
        CheckFailed: a node went to another provider: a silent fall-back.
        UnavailableError: the provider is not here, or this ONNX Runtime cannot tell (before 1.24).

    Example:
        >>> import torch
        >>> from lrdiff_export import convert_to_onnx
        >>> providers_by_node(convert_to_onnx(torch.nn.ReLU(), example=torch.zeros(1, 2)))
        {'node_relu (Relu)': 'CPUExecutionProvider'}
    """
    session = open_session(data, threads=threads, provider=provider, record_assignment=True)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise UnavailableError(
            f"onnxruntime {onnxruntime.__version__} cannot report which provider runs a node",
            help="install 1.24 or newer",
        )
    found: dict[str, str] = {}
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            found[f"{node.name or node.op_type} ({node.op_type})"] = part.ep_name
    if elsewhere := {name: ep for name, ep in found.items() if ep != provider}:
        name, ep = next(iter(elsewhere.items()))
        raise CheckFailed(
            f"{provider} was asked for and {len(elsewhere)} of {len(found)} nodes run on {ep}, {name} first",
            help="see what the provider supports, or ask for the one that runs",
        )
    return found
