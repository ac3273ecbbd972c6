"""Opening files from elsewhere: in another process, with limits on time and memory."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lrdiff_core.errors import ConfigError, ModelFileError
from lrdiff_export.runtimes.arrays_file import load_arrays, save_arrays
from lrdiff_export.runtimes.process import JobProcess, ProcessEndedError
from lrdiff_export.runtimes.protocol import Backend, Facts, OnnxFile, Predict

__all__ = ["Limits", "ModelPorts", "OpenModel", "Sandbox", "in_sandbox", "inspect_untrusted", "run_untrusted"]

# With the start of the command and of the child, a hostile file is refused within 5 seconds.
SECONDS = 4.0
SLOWER_SECONDS = 60.0  # for a file that ONNX Runtime has run within the limits, in a runtime that starts or runs slowly
BYTES = 2**30
# A model is allowed time and memory for the weights that are really there, inside the file or beside it: they are
# hashed, mapped, and packed once more in the order that the kernels read them in.
WEIGHTS_PER_SECOND = 50e6
WEIGHTS_TIMES = 3
_STARTING = 20.0  # seconds granted to a child to start, or to answer beyond its own limit, on a busy machine
_BLOCK = 512  # bytes, in which st_blocks counts
_HELP = "it was opened in a process of its own, and nothing of it was kept; get the file from whom you trust"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may cost.

    Attributes:
        seconds: to open it, and to run it, each time.
        bytes: of address space beyond what the runtime itself takes. On Windows, and where a GPU computes, only the
            time counts.

    Raises:
        ConfigError: not positive.

    Example:
        >>> Limits(seconds=60).bytes
        1073741824
    """

    seconds: float = SECONDS
    bytes: int = BYTES

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not self.bytes > 0:
            raise ConfigError(f"limits are {self.seconds} s and {self.bytes} bytes", help="give positive limits")

    def with_weights(self, size: int) -> Limits:
        """Return the limits of a file with so many bytes of weights.

        Example:
            >>> Limits().with_weights(10**9).seconds
            24.0
        """
        return Limits(seconds=self.seconds + size / WEIGHTS_PER_SECOND, bytes=self.bytes + WEIGHTS_TIMES * size)


@dataclass(frozen=True, kw_only=True)
class ModelPorts:
    """What a file takes and gives: name, ONNX type and shape of each."""

    inputs: tuple[tuple[str, str, tuple[int | str | None, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int | str | None, ...]], ...]

    @property
    def takes_words(self) -> bool:
        """Whether an input takes strings."""
        return any(kind == "tensor(string)" for _, kind, _ in self.inputs)


class Sandbox:
    """A child process that opens one file after another; a context manager.

    Args:
        limits: for each file.

    Example:
        >>> with Sandbox() as sandbox:
        ...     sandbox.inspect("no-such-model.onnx")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ModelFileError: no-such-model.onnx does not exist
        help: ...
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: JobProcess | None = None
        self._opened = 0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child; None before it is needed."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the child, and with it every file that is open."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def inspect(self, path: str | os.PathLike[str]) -> ModelPorts:
        """Parse and check a file, load it in ONNX Runtime, and say what it takes and gives.

        Raises:
            ModelFileError: it cannot be used, or costs more than the limits; one line says which.
        """
        with self.open(path) as model:
            return model.ports

    def run(
        self, path: str | os.PathLike[str], feeds: Sequence[np.ndarray], *, optimise: bool = True
    ) -> list[np.ndarray]:
        """Run a file once in ONNX Runtime, one thread.

        Args:
            path: the file.
            feeds: one array an input, in the order of the file's inputs.
            optimise: all graph optimisations, or none.

        Raises:
            ModelFileError: as for :meth:`inspect`, or it does not run on such arrays.
        """
        with self.open(path, backend="onnxruntime" if optimise else "onnxruntime-disabled") as model:
            return model(*feeds)

    def open(
        self, path: str | os.PathLike[str], *, backend: str = "onnxruntime", limits: Limits | None = None
    ) -> OpenModel:
        """Load a file in a backend, to be run until it is closed.

        Args:
            path: the file.
            backend: one of this project that runs ONNX files in Python.
            limits: other ones than the sandbox's.

        Raises:
            ModelFileError: as for :meth:`inspect`.
        """
        limits = (limits or self.limits).with_weights(_bytes_on_disk(path))
        self._opened += 1
        job = {"job": "open", "id": self._opened, "backend": backend, "model": os.fspath(path), "weights": 0}
        answer = self._ask(job, limits)
        if "weights" in answer:  # in a second file, of which nothing has been read yet
            limits = limits.with_weights(answer["weights"])
            answer = self._ask({**job, "weights": answer["weights"]}, limits)
        if "weights" in answer:
            raise ModelFileError(f"{path} changes while it is read", help=_HELP)
        return OpenModel(self, job, limits, answer)

    def call(
        self,
        path: str | os.PathLike[str],
        function: str,
        seconds: float,
        *,
        limits: Limits,
        backend: str = "onnxruntime",
        **arguments: Any,
    ) -> Any:
        """Call a function of this project with the path of a file, and return its result.

        Args:
            path: the function's first argument.
            function: ``module:name``.
            seconds: that it may take beside what the limits allow.
            limits: of the file, as :class:`OpenModel` had them.
            backend: whose runtime the function uses.
            arguments: of the function, by name; they and the result travel as JSON.

        Raises:
            ModelFileError: as for :meth:`inspect`.
        """
        job: dict[str, Any] = {"job": "call", "backend": backend, "model": os.fspath(path)}
        job |= {"function": function, "arguments": arguments}
        return self._ask(job, replace(limits, seconds=limits.seconds + seconds))["result"]

    def _ask(self, job: dict[str, Any], limits: Limits) -> dict[str, Any]:
        path = job["model"]
        try:
            if self._process is None:
                self._process = _start()
            job = {**job, "seconds": limits.seconds, "bytes": limits.bytes}
            answer = self._process.ask(job, seconds=limits.seconds + _STARTING)
        except ProcessEndedError as problem:
            self.close()
            raise ModelFileError(f"{path} ended the process that read it: {problem}", help=_HELP) from problem
        if "error" in answer:
            raise ModelFileError(answer["error"], help=answer.get("help") or _HELP)
        return answer


class OpenModel:
    """A file that is open in a sandbox; a context manager, and a function from inputs to outputs by position.

    Attributes:
        ports: what it takes and gives.
        limits: within which it runs: those that were asked for, and what its weights take.
        facts: what the backend said of the last run.
    """

    def __init__(self, sandbox: Sandbox, job: dict[str, Any], limits: Limits, answer: dict[str, Any]) -> None:
        self._sandbox, self.limits = sandbox, limits
        self._job = {"id": job["id"], "model": job["model"]}
        self.ports = ModelPorts(
            **{
                key: tuple((name, kind, tuple(shape)) for name, kind, shape in answer[key])
                for key in ("inputs", "outputs")
            }
        )
        self.facts: Facts = {"ran_on": "nowhere"}

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, *feeds: np.ndarray) -> list[np.ndarray]:
        """Run it.

        Raises:
            ModelFileError: it does not run on such arrays, or costs more than the limits; it is closed then.
        """
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder, "in.npz"), Path(folder, "out.npz")
            save_arrays(given, feeds)
            job = {**self._job, "job": "run", "feeds": str(given), "out": str(made)}
            self.facts = self._sandbox._ask(job, self.limits)["facts"]
            return load_arrays(made)

    def close(self) -> None:
        """Let it go."""
        with contextlib.suppress(ModelFileError):
            self._sandbox._ask({**self._job, "job": "close"}, self.limits)


class SandboxedBackend:
    """A backend of this project whose files are opened in a sandbox; see :func:`in_sandbox`."""

    def __init__(self, inner: Backend, sandbox: Sandbox) -> None:
        self.name, self.device, self.dtype = inner.name, inner.device, inner.dtype
        self.needs_onnx, self.heavy, self.keeps_denormals = True, inner.heavy, inner.keeps_denormals
        self.takes_words = getattr(inner, "takes_words", False)
        self.availability = inner.availability
        self._sandbox = sandbox
        self._opened: list[OpenModel] = []
        self._ran: OpenModel | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def prepare(self, model: OnnxFile) -> Predict:
        """Return a function that has the file run in the sandbox."""
        if isinstance(model, bytes):
            self._scratch = self._scratch or tempfile.TemporaryDirectory()
            path = Path(self._scratch.name, f"{len(self._opened)}.onnx")
            path.write_bytes(model)
            model = path
        limits = replace(self._sandbox.limits, seconds=max(self._sandbox.limits.seconds, SLOWER_SECONDS))
        opened = self._sandbox.open(model, backend=self.name, limits=limits)
        self._opened.append(opened)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            self._ran = opened
            return opened(*rows)

        return predict

    def facts(self) -> Facts:
        """Return what the backend said of the last run."""
        return {"ran_on": "nowhere"} if self._ran is None else self._ran.facts

    def release(self) -> None:
        """Close what is open."""
        while self._opened:
            self._opened.pop().close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._ran, self._scratch = None, None


def in_sandbox(backend: Backend, sandbox: Sandbox) -> Backend:
    """Return a backend that runs files from elsewhere: within the limits of a sandbox, as far as it can be.

    One in JavaScript has a process of its own and gets the memory limit. One that you registered is code of yours, and
    runs in this process what the sandbox could open and run before.

    Args:
        backend: that runs ONNX files.
        sandbox: that goes on to be open.

    Example:
        >>> from lrdiff_export import BACKENDS
        >>> with Sandbox() as sandbox:
        ...     in_sandbox(BACKENDS["onnx-reference"], sandbox).facts()
        {'ran_on': 'nowhere'}
    """
    if (limited := getattr(backend, "limited", None)) is not None:
        limited_backend: Backend = limited(sandbox.limits.bytes)
        return limited_backend
    ours = type(backend).__module__.startswith("lrdiff_export.runtimes.")
    return SandboxedBackend(backend, sandbox) if ours else backend


def inspect_untrusted(path: str | os.PathLike[str], *, limits: Limits | None = None) -> ModelPorts:
    """Open one file in a child process and say what it takes and gives; see :meth:`Sandbox.inspect`."""
    with Sandbox(limits) as sandbox:
        return sandbox.inspect(path)


def run_untrusted(
    path: str | os.PathLike[str], feeds: Sequence[np.ndarray], *, limits: Limits | None = None
) -> list[np.ndarray]:
    """Run one file once in a child process; see :meth:`Sandbox.run`."""
    with Sandbox(limits) as sandbox:
        return sandbox.run(path, feeds)


def _start() -> JobProcess:
    # One thread everywhere: threads of BLAS would each reserve address space before the limit is set.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    # -P: nothing is imported from this folder
    command = [sys.executable, "-P", "-m", "lrdiff_export.runtimes.sandbox_child"]
    return JobProcess(command, seconds=_STARTING, environment=environment)


def _bytes_on_disk(path: str | os.PathLike[str]) -> int:
    """Size of a regular file as far as it is on the disk: holes would buy a hostile file memory."""
    try:
        found = os.stat(path)
    except OSError:
        return 0  # the child says why
    if not stat.S_ISREG(found.st_mode):
        return 0
    return min(found.st_size, _BLOCK * getattr(found, "st_blocks", sys.maxsize))
