"""One kill: a command in a process of its own, a signal at some moment, and what is there afterwards."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.jobs import Job, run_here
from benchmarks.faults.whole import half_files, left_beside

__all__ = ["Ended", "Started", "faults_of", "fresh_folder", "import_all", "kill_at", "start"]

SLOW_SECONDS = 10.0
_GIVE_UP_SECONDS = 60.0
_LONGEST_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
        status: exit status, negative where a signal ended it.
        signal: that it was sent, 0 for none, or one that came too late.
        seconds: from the start to the end.
        after: from the signal to the end.
        out, err: what it said.
        stayed: processes of its session that were still there ten seconds later.
    """

    status: int
    signal: int
    seconds: float
    after: float
    out: str
    err: str
    stayed: int


class Started:
    """A job in a session of its own."""

    def __init__(self, job: Job, folder: Path, *, go_on: bool, fresh: bool, imports: bool) -> None:
        self.folder, self.begun = folder, time.monotonic()
        arguments = None if callable(job.arguments) else job.arguments
        if go_on and job.again is not None:
            arguments = job.again(folder)
        self._out, self._err = folder.with_suffix(".out"), folder.with_suffix(".err")
        for file in (self._out, self._err):  # one that is killed at once has not said what another did before it
            file.write_bytes(b"")
        if fresh and arguments is not None:
            with open(self._out, "wb") as out, open(self._err, "wb") as err:
                command = [sys.executable, "-m", "lrdiff_bench", *arguments]
                self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                    command, cwd=folder, stdout=out, stderr=err, start_new_session=True
                )
            self.pid = self._process.pid
            return
        self._process = None
        self.pid = os.fork()
        if self.pid == 0:
            self._be(job, arguments, imports)

    def _be(self, job: Job, arguments: list[str] | None, imports: bool) -> None:
        status = 70
        try:
            os.setsid()
            for number, file in ((1, self._out), (2, self._err)):
                handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, number)
            os.chdir(self.folder)
            status = run_here(job, arguments)
            if imports:
                _imports(self.folder).write_text("\n".join(_imported()))
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def listens(self) -> bool:
        """Whether it has come to where it takes signals in its own way: before, it is the interpreter that starts."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return False
        caught = int(next(line for line in text.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def end(self, number: int = 0, at: float = _LONGEST_SECONDS) -> Ended:
        """Send the signal at that many seconds after the start, and wait for the end."""
        sent = 0.0
        status: int | None = None
        while status is None:
            now = time.monotonic() - self.begun
            if number and not sent and now >= at and (number == signal.SIGKILL or self.listens()):
                os.kill(self.pid, number)
                sent = now
            if now > _LONGEST_SECONDS or (sent and now > sent + _GIVE_UP_SECONDS):
                os.kill(self.pid, signal.SIGKILL)
            done, raw = os.waitpid(self.pid, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(raw)
                if self._process is not None:
                    self._process.returncode = status
            else:
                time.sleep(0.003)
        ended = time.monotonic() - self.begun
        return Ended(
            status=status,
            signal=number if sent else 0,
            seconds=ended,
            after=ended - sent if sent else 0.0,
            out=self._out.read_text(errors="replace"),
            err=self._err.read_text(errors="replace"),
            stayed=_stayed(self.pid),
        )


def start(job: Job, folder: Path, *, go_on: bool = False, fresh: bool = False, imports: bool = False) -> Started:
    """Start a job in a folder; with ``imports``, it notes for :func:`import_all` what it imported."""
    return Started(job, folder, go_on=go_on, fresh=fresh, imports=imports)


def import_all(folder: Path) -> None:
    """Import here what a job of that folder imported, so that those who are forked from here need not."""
    for module in _imports(folder).read_text().split():
        importlib.import_module(module)


def _imports(folder: Path) -> Path:
    return folder.with_suffix(".imports")


def _imported() -> list[str]:
    """What can be imported by its name: no code that a compiler wrote, nothing that is made while it runs."""
    places = tuple(filter(None, map(str, sys.path)))
    specs = [(name, getattr(module, "__spec__", None)) for name, module in sys.modules.items()]
    return [
        name for name, spec in specs
        if spec is not None and spec.name == name and spec.has_location and spec.origin.startswith(places)
    ]  # fmt: skip


def kill_at(job: Job, folder: Path, number: int, at: float, *, go_on: bool, fresh: bool) -> Ended:
    """Start a job and send it a signal."""
    return start(job, folder, go_on=go_on, fresh=fresh).end(number, at)


def faults_of(ended: Ended, folder: Path, *, had: bool = False, left: Collection[str] = ()) -> list[str]:
    """What is wrong after a kill.

    Args:
        ended: how it ended.
        folder: of the job.
        had: whether a finished training was there before.
        left: what an earlier kill had left beside.
    """
    found = [f"half a file: {file}" for file in half_files(folder)]
    if ended.stayed:
        found.append(f"{ended.stayed} processes stayed")
    if "Traceback" in ended.err or "Exception ignored" in ended.err:
        lines = ended.err.strip().splitlines()
        found.append("traceback: " + " | ".join(line.strip() for line in [*lines[:2], *lines[-6:]])[:900])
    if "a fault in lrdiff" in ended.err:
        found.append(ended.err.strip()[:300])
    trained = (folder / "r" / "model.safetensors").exists()
    if (had or "test split: loss" in ended.out) and not trained:
        found.append("a finished training is lost")
    if ended.signal in (signal.SIGINT, signal.SIGTERM):
        if ended.after > SLOW_SECONDS:
            found.append(f"{ended.after:.1f} s from the signal to the end")
        if ended.status not in (128 + ended.signal, 0):  # 0: it was at its end already
            found.append(f"status {ended.status} after signal {ended.signal}: {ended.err.strip()[-200:]}")
        if more := {*left_beside(folder)} - {*left}:
            found.append(f"left beside: {', '.join(sorted(more))[:200]}")
    elif ended.signal == 0 and ended.status != 0:
        found.append(f"status {ended.status}: {ended.err.strip()[-300:]}")
    return found


def _stayed(session: int) -> int:
    until = time.monotonic() + SLOW_SECONDS
    while (there := _of_session(session)) and time.monotonic() < until:
        time.sleep(0.05)
    for process in there:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)
    return len(there)


def _of_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its = entry.read_text().rpartition(")")[2].split()[:4]
            if int(its) == session and state != "Z":
                found.append(int(entry.parent.name))
    return found


def fresh_folder(folder: Path) -> Path:
    """An empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
