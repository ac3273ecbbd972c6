"""A process that is asked: one line of JSON in, one line out, within a limit; it and what it started end together.

Both kinds of measuring processes are asked by this, ours and those of a foreign suite. It needs nothing of the
packages that are measured: asv imports this engine beside commits that are years older.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lrdiff_bench.report.json import json_line
from lrdiff_core.errors import CheckFailed, InputError, LrdiffError, UnavailableError

__all__ = ["AskedProcess"]

CLOSING = 10.0  # seconds that a process may take to clean up after itself
LOG_LINES = 15  # of its own output that an error shows
_ERRORS: dict[int, type[LrdiffError]] = {1: CheckFailed, 2: InputError, 3: UnavailableError}


class AskedProcess:
    """A child process in a process group of its own.

    Args:
        command: to start.
        variables: its whole environment.
        folder: it runs in; this one's by default.
        log: for its stderr, whose end an error shows; this process's stderr by default.
        affinity: processors it may use; left out, all that this process may.

    Raises:
        OSError: there is no such program.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        folder: Path | None = None,
        log: IO[str] | None = None,
        affinity: Sequence[int] = (),
    ) -> None:
        self._log = log
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=folder, env=variables, text=True,
            bufsize=1, process_group=0,
        )  # fmt: skip
        if affinity:
            os.sched_setaffinity(self._process.pid, affinity)

    def ask(
        self, request: Mapping[str, Any], what: str, *, seconds: float | None = None, help: str = ""
    ) -> dict[str, Any]:
        """Send a request and return its answer.

        Args:
            request: ready for JSON.
            what: is asked for, in the words of an error.
            seconds: that the answer may take; None for no limit.
            help: what to do where it takes longer.

        Raises:
            CheckFailed: the process ended, or took too long and was ended.
            LrdiffError: what the answer says.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json_line(request))
            # An answer is one line and the only one: none of it waits in our buffer.
            if _can_wait(seconds) and not select.select([process.stdout], [], [], seconds)[0]:
                self._kill()
                raise CheckFailed(f"{what} took longer than {seconds:g} s{self._tail()}", help=help)
            line = process.stdout.readline()
        if not line:
            raise CheckFailed(
                f"the measuring process ended during {what} with status {self._ended()}{self._tail()}",
                help="run it by itself; out of memory ends a process with status -9",
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            tail = self._tail() if answer["exit_status"] == 1 else ""
            raise _ERRORS.get(answer["exit_status"], CheckFailed)(answer["error"] + tail, help=answer["help"])
        return answer

    def keep_to(self, processors: Sequence[int]) -> None:
        """Let its main thread use these processors alone."""
        # It has ended, or the system refuses: then it is measured where the system puts it, as without.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(self._process.pid, processors)

    def close(self) -> None:
        """Let it clean up and end, at once where an exception is on its way; harmless when it has ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        if sys.exc_info()[0]:
            self._kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self._ended()
        process.stdout.close()

    def _ended(self) -> int:
        """Its exit status, waited for; what it started and left behind is ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSING)
        self._kill()
        return self._process.wait()

    def _kill(self) -> None:
        if sys.platform == "win32":  # it has no groups
            self._process.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter is macOS's word for none left
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tail(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = [line.rstrip() for line in self._log if line.strip()][-LOG_LINES:]
        return ": " + " | ".join(lines) if lines else ""


def _can_wait(seconds: float | None) -> bool:
    return seconds is not None and sys.platform != "win32"  # which cannot wait for a pipe
