"""Opening files that nobody vouches for: in another process, with limits on time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lrdiff_core.errors import ConfigError, ModelFileError

__all__ = ["Limits", "ModelPorts", "Sandbox", "inspect_untrusted", "run_untrusted"]

# With the start of the command and of the child, a hostile file is refused within 5 seconds.
SECONDS = 4.0
BYTES = 2**30
# A model past 2 GiB is allowed time and memory for the weights that really lie beside it: they are hashed, mapped, and
# packed once more in the order that the kernels read them in.
WEIGHTS_PER_SECOND = 50e6
WEIGHTS_TIMES = 3
_STARTING = 20.0  # seconds granted to a child to start, or to answer beyond its own limit, on a busy machine


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may cost.

    Attributes:
        seconds: to open it and run it once.
        bytes: of address space of the process that does it. Windows has no such limit; there only the time counts.

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
        """Return the limits of a file with so many bytes of weights in a second one.

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
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.kill()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None

    def inspect(self, path: str | os.PathLike[str]) -> ModelPorts:
        """Parse, check and load a file.

        Raises:
            ModelFileError: it cannot be used, or costs more than the limits; one line says which.
        """
        return _ports(self._ask(path, None, None))

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
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder, "in.npz"), Path(folder, "out.npz")
            np.savez(given, **{f"input{index}": one for index, one in enumerate(feeds)})  # type: ignore[arg-type]
            self._ask(path, given, made, optimise=optimise)
            with np.load(made, allow_pickle=False) as arrays:
                return [arrays[f"output{index}"] for index in range(len(arrays.files))]

    def _ask(
        self, path: str | os.PathLike[str], feeds: Path | None, out: Path | None, *, optimise: bool = True
    ) -> dict[str, Any]:
        request = {
            "model": os.fspath(path),
            "feeds": None if feeds is None else str(feeds),
            "out": None if out is None else str(out),
            "optimise": optimise,
        }
        answer = self._answer(path, request, self.limits, 0)
        if "weights" in answer:  # none of them has been read yet
            answer = self._answer(path, request, self.limits.with_weights(answer["weights"]), answer["weights"])
        if "weights" in answer:
            raise ModelFileError(f"{path} changes while it is read", help=_HELP)
        return answer

    def _answer(
        self, path: str | os.PathLike[str], request: dict[str, Any], limits: Limits, weights: int
    ) -> dict[str, Any]:
        if self._process is None:
            self._process = _start()
        request = {**request, "seconds": limits.seconds, "bytes": limits.bytes, "weights": weights}
        process = self._process
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = _read_line(process, limits.seconds + _STARTING)
        except (OSError, TimeoutError):
            line = ""
        if not line:
            self.close()
            raise ModelFileError(f"{path} ended the process that read it", help=_HELP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ModelFileError(answer["error"], help=answer.get("help") or _HELP)
        return answer


_HELP = "it was opened in a process of its own, and nothing of it was kept; get the file from whom you trust"


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


def _start() -> subprocess.Popen[str]:
    # One thread everywhere: threads of BLAS would each reserve address space before the limit is set.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "lrdiff_export.runtimes.sandbox_child",
        ],  # -P: nothing is imported from this folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        ready = _read_line(process, _STARTING)
    except TimeoutError:
        ready = ""
    if ready != "ready\n":
        process.kill()
        process.wait()
        raise ModelFileError("the process that reads files did not start", help="see its message above")
    return process


def _read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """Read a line of the child, or raise TimeoutError; a thread, because Windows cannot wait on a pipe."""
    assert process.stdout is not None
    lines: list[str] = []
    stdout = process.stdout
    reader = threading.Thread(target=lambda: lines.append(stdout.readline()), daemon=True)
    reader.start()
    reader.join(seconds)
    if not lines:
        process.kill()
        reader.join()
        raise TimeoutError
    return lines[0]


def _ports(answer: dict[str, Any]) -> ModelPorts:
    def read(key: str) -> tuple[tuple[str, str, tuple[int | str | None, ...]], ...]:
        return tuple((name, kind, tuple(shape)) for name, kind, shape in answer[key])

    return ModelPorts(inputs=read("inputs"), outputs=read("outputs"))
