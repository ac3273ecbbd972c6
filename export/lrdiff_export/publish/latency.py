"""How long one call takes: every call is timed, because a deployer asks for the slow ones.

Blocks of calls, as the benchmarks of this project time them, give a median and lose the 99th percentile; here each call
is a sample. What is compared is called in turns in one run, so that a busy moment meets all alike. A file from
elsewhere is timed in a process of its own, and takes turns with a module in this one by a third of the calls.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from lrdiff_core.errors import CheckFailed, ConfigError, ModelFileError, UnavailableError
from lrdiff_core.text import count
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.load import load_onnx
from lrdiff_export.records import json_ready
from lrdiff_export.runtimes.arrays_file import load_arrays, save_arrays
from lrdiff_export.runtimes.predictor import CPU_PROVIDER, OnnxPredictor, open_session
from lrdiff_export.runtimes.protocol import BACKENDS
from lrdiff_export.runtimes.sandbox import Limits, Sandbox

if TYPE_CHECKING:
    from torch import nn

    from lrdiff_export.model.signature import Arrays

__all__ = ["Latency", "LatencyReport", "measure_calls", "measure_latency", "providers_by_node"]

BATCHES = (1, 32, 1024)
WARM_UP = 20  # calls that are not counted: first calls allocate
CALLS = 300
LIMITS = Limits()  # for a file that a path names: it may come from anywhere
LONGEST = 2.0  # seconds for one batch size and one way; fewer calls are made of slow models
TURNS = 3  # of a file in another process and a module in this one


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
    return _percentiles(sample_calls(ways, calls=calls), batch=batch, threads=threads)


def sample_calls(
    ways: Mapping[str, Callable[[], Any]], *, calls: int, longest: float = LONGEST
) -> dict[str, list[int]]:
    """Nanoseconds of single calls of several functions in turns.

    Args:
        ways: functions by name.
        calls: how many of each.
        longest: seconds for each of them, beside as many to warm up; fewer calls are made where they take more.
    """
    for call in ways.values():
        until = time.perf_counter() + longest
        for _ in range(WARM_UP):
            call()
            if time.perf_counter() > until:
                break
    samples: dict[str, list[int]] = {name: [] for name in ways}
    clock = time.perf_counter_ns
    until = time.perf_counter() + longest * len(ways)
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
    return samples


def _percentiles(samples: Mapping[str, Sequence[int]], *, batch: int, threads: int) -> dict[str, Latency]:
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
        limits: within which a file must run once on each batch before it is timed, in a process of its own; None to
            trust it, and to time it in this one.

    Raises:
        ModelFileError: the file cannot be used, or does not run within the limits.
        UnavailableError: the provider is not in this build.
        CheckFailed: a node was run by another provider.
    """
    from lrdiff_export.model.signature import as_arrays  # loads torch, which the process of a sandbox does without

    arrays = as_arrays(rows)
    feeds = arrays if text is None else tuple(text.split(arrays[0]))
    for number in threads:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"threads is {number!r}, not a whole number of 1 or more", help="write threads=[1, 2]")
    name = "" if isinstance(path_or_bytes, bytes) else str(path_or_bytes)
    times: list[Latency] = []
    nodes: dict[str, str] = {}
    with ExitStack() as stack:
        if isinstance(path_or_bytes, bytes) or limits is None:
            file: _Timed | _TimedElsewhere = _Timed(path_or_bytes, feeds, provider)
        else:
            file = stack.enter_context(_TimedElsewhere(path_or_bytes, feeds, provider, limits, batches))
        for number in threads:
            with nullcontext() if module is None else _torch_threads(number):
                for batch in batches:
                    beside = {} if module is None else {"eager": _eager(module, _repeated(arrays, batch))}
                    nodes, samples = file.sample(beside, batch=batch, threads=number, calls=calls)
                    times += _percentiles(samples, batch=batch, threads=number).values()
    return LatencyReport(
        file=name, runtime=f"onnxruntime {onnxruntime.__version__}", provider=provider, nodes=nodes, times=tuple(times)
    )


class _Timed:
    """A file that is trusted: it runs in this process."""

    def __init__(
        self, path_or_bytes: str | os.PathLike[str] | bytes, feeds: Sequence[np.ndarray], provider: str
    ) -> None:
        self._data = path_or_bytes if isinstance(path_or_bytes, bytes) else load_onnx(path_or_bytes)
        self._feeds, self._provider, self._threads = feeds, provider, 0

    def sample(
        self, beside: Mapping[str, Callable[[], Any]], *, batch: int, threads: int, calls: int, longest: float = LONGEST
    ) -> tuple[dict[str, str], dict[str, list[int]]]:
        """Which provider runs each node, and times of the file and of what is called beside it, in turns."""
        if threads != self._threads:
            self._nodes = providers_by_node(self._data, provider=self._provider, threads=threads)
            self._predictor = OnnxPredictor(self._data, threads=threads, provider=self._provider)
            self._threads = threads
        feeds = _repeated(self._feeds, batch)
        ways: dict[str, Callable[[], Any]] = {"run": partial(self._predictor.run, *feeds)}
        if all(one.dtype.kind not in "OU" for one in feeds):  # words lie in no memory that could be bound
            ways["I/O binding"] = self._predictor.bind(*feeds)
        return self._nodes, sample_calls({**ways, **beside}, calls=calls, longest=longest)


class _TimedElsewhere:
    """A file from anywhere: it runs in a sandbox, once on each batch before it is timed; a context manager."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        feeds: Sequence[np.ndarray],
        provider: str,
        limits: Limits,
        batches: Sequence[int],
    ) -> None:
        self._path, self._provider, self._batches, self._feeds = path, provider, batches, feeds
        self._sandbox = Sandbox(limits)
        known = (name for name, one in BACKENDS.items() if getattr(one, "provider", None) == provider)
        self._backend = next(known, "onnxruntime")

    def __enter__(self) -> _TimedElsewhere:
        with ExitStack() as stack:
            stack.enter_context(self._sandbox)
            self._rows = Path(stack.enter_context(tempfile.TemporaryDirectory()), "rows.npz")
            save_arrays(self._rows, self._feeds)
            with self._sandbox.open(self._path) as opened:
                self._limits = opened.limits
                for batch in self._batches:  # what does not end is told at once, and of which batch
                    try:
                        opened(*_repeated(self._feeds, batch))
                    except ModelFileError as problem:
                        raise ModelFileError(
                            f"{problem.message} ({count(batch, 'row')})",
                            help=f"a smaller batch may stay within the limits; {problem.help}",
                        ) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sample(
        self, beside: Mapping[str, Callable[[], Any]], *, batch: int, threads: int, calls: int
    ) -> tuple[dict[str, str], dict[str, list[int]]]:
        """As of :class:`_Timed`; what is called beside it takes turns with the other process."""
        turns = TURNS if beside else 1
        samples: dict[str, list[int]] = {}
        options: dict[str, Any] = {"provider": self._provider, "batch": batch, "threads": threads}
        for turn in range(min(turns, calls)):
            part: dict[str, Any] = {"calls": len(range(turn, calls, turns)), "longest": LONGEST / turns}
            made = self._sandbox.call(
                self._path,
                f"{__name__}:sampled_file",
                2 * (2 * part["longest"] + self._limits.seconds),
                limits=self._limits,
                backend=self._backend,
                rows=str(self._rows),
                **options,
                **part,
            )
            for kind in (CheckFailed, UnavailableError):
                if made.get("error") == kind.__name__:
                    raise kind(made["message"], help=made["help"])
            for name, times in {**made["samples"], **(sample_calls(beside, **part) if beside else {})}.items():
                samples.setdefault(name, []).extend(times)
        return made["nodes"], samples


def sampled_file(path: str, rows: str, *, provider: str, **options: Any) -> dict[str, Any]:
    """What the process of a sandbox does: one turn of a file, its rows from an npz file."""
    try:
        nodes, samples = _Timed(path, load_arrays(rows), provider).sample({}, **options)
    except (CheckFailed, UnavailableError) as problem:  # no fault of the file: the same outside of the sandbox
        return {"error": type(problem).__name__, "message": problem.message, "help": problem.help}
    return {"nodes": nodes, "samples": samples}


def _repeated(rows: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    """As many rows as a batch needs."""
    return [one[np.arange(batch) % len(one)] for one in rows]


def _torch_threads(number: int) -> AbstractContextManager[None]:
    from lrdiff_core.devices import torch_threads

    return torch_threads(number)


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
