"""Ctrl-C and SIGTERM: both end a command in the same way, once, soon, and with nothing left behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lrdiff_bench.system.ownership import release_all
from lrdiff_core.files import remove_unfinished
from lrdiff_core.processes.launch import launched

__all__ = ["ends_on_signals", "received", "status_of_signal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# From the signal to the end whatever happens: some calls neither return nor let an exception through.
_GRACE_SECONDS = 7.0
_state: dict[str, int] = {}


def received() -> int | None:
    """The number of the signal that this process was told to end by, if any."""
    return _state.get("signal") if _state.get("process") == os.getpid() else None


def status_of_signal() -> int:
    """The exit status of an interrupted command: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (received() or signal.SIGINT)


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first of these signals, and end the process soon after it.

    Code in between cleans up as it does after Ctrl-C. Whoever swallows the exception, or sits in a call that does not
    come back, is ended from a thread, and so are the processes that this one started.
    """
    before: dict[int, Any] = {}
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, end == reading)
    _state.clear()
    _state["process"] = os.getpid()
    waked = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True)
    watcher.start()
    try:
        for number in map(int, _SIGNALS):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, _interrupt)
        yield
    except BaseException:
        if received() is not None:
            _leave(status_of_signal())
        raise
    finally:
        if received() is None:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(waked)
            os.close(writing)  # the thread ends
    if received() is not None:
        _leave(status_of_signal())


def _interrupt(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.get("process"):  # a forked child: as it would be without us
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if "signal" in _state:  # once is enough: the second would interrupt what cleans up after the first
        return
    _state["signal"] = number
    sys.unraisablehook = lambda _: None  # the exception may come up where Python can only print it
    sys.excepthook = _unless_interrupted  # or compiled code that passes none on, and prints them
    logging.disable()  # or in a library that logs what passes through it, with a traceback
    raise KeyboardInterrupt


def _unless_interrupted(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, problem, trace)


def _watch(reading: int) -> None:
    while numbers := os.read(reading, 1):
        if numbers[0] in _SIGNALS:
            time.sleep(_GRACE_SECONDS)
            _state.setdefault("signal", numbers[0])
            launch = launched()
            with suppress(OSError):
                if launch is None or launch.rank == 0:  # the first of several speaks
                    os.write(2, b"error: interrupted\nhelp: what was being written beside is left; start it again\n")
            _leave(status_of_signal())
    os.close(reading)


def _leave(status: int) -> None:
    """End now: nothing waits for threads, no process that was started here stays, and no file that was half written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    with suppress(OSError):  # all is said; threads that miss what is ended now would go on to say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for process in reversed(_descendants(os.getpid())):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    remove_unfinished()
    release_all()
    os._exit(status)


def _descendants(process: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):  # Linux; elsewhere they are their own masters
        with suppress(OSError, ValueError):
            for child in map(int, task.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
    return found
