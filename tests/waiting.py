"""Waiting for what another process does: a test goes on once it is done, and fails where it never is."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

PATIENCE_S = 240  # for processes to start or to end on a busy machine; nothing is judged by it


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether it is there and not only waited for by nobody, as an orphan is in a container without init.

    What was killed runs until its memory is given back: a test waits for its end.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
