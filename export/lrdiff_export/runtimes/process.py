"""A process that answers jobs: one line of JSON in, one line of JSON out, until it is closed."""

from __future__ import annotations

import atexit
import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_export.records import first_line

__all__ = ["JobProcess", "ProcessEndedError"]


class ProcessEndedError(Exception):
    """The process gave no answer: it ended, or was ended because it took too long."""


class JobProcess:
    """A child process with jobs on its stdin and answers on its stdout; its first line says that it is ready.

    Args:
        command: to start.
        seconds: until its first line.
        environment: of the process; this one's by default.

    Attributes:
        ready: what the first line said.

    Raises:
        ProcessEndedError: it did not start.
        OSError: there is no such program.
    """

    def __init__(self, command: Sequence[str], *, seconds: float, environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
            text=True, encoding="utf-8",
        )  # fmt: skip
        atexit.register(self.close)
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)  # Windows cannot wait on a pipe with a limit
        self._reader.start()
        self.ready = self._next(seconds)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, job: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send one job and return its answer.

        Raises:
            ProcessEndedError: there was none within these seconds; the process is gone then.
        """
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise ProcessEndedError("it was closed")
        with contextlib.suppress(BrokenPipeError, ValueError):  # why it ended is said by the missing answer
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        return self._next(seconds)

    def close(self) -> None:
        """End the process; a second time does nothing."""
        atexit.unregister(self.close)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise ProcessEndedError(f"no answer in {seconds:g} s") from None
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode("utf-8", "replace")
            self.close()
            raise ProcessEndedError(first_line(said) if said.strip() else "it ended without a word")
        try:
            answer = json.loads(line)
        except ValueError:  # it was killed while it wrote
            self.close()
            raise ProcessEndedError("it ended in the middle of an answer") from None
        assert isinstance(answer, dict)
        return answer
