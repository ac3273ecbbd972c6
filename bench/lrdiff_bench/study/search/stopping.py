"""Ending a study between two trainings, when its time is up: what is done is kept, and the same study goes on later."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lrdiff_bench.study.search.engine import StudyWatcher

__all__ = ["TimeIsUpError", "WatchedClock"]


class TimeIsUpError(Exception):
    """Raised when results were kept and before the next training begins; no error, and never shown."""

    def __init__(self, stage: str, done: int, total: int) -> None:
        super().__init__(stage)
        self.stage, self.done, self.total = stage, done, total


@dataclass
class WatchedClock:
    """A watcher that ends the study after a deadline.

    Args:
        watcher: is told everything.
        deadline: on the clock of :func:`time.monotonic`.
    """

    watcher: StudyWatcher
    deadline: float

    def progress(self, stage: str, done: int, total: int) -> None:
        """See :class:`~lrdiff_bench.study.search.engine.StudyWatcher`.

        Raises:
            TimeIsUpError: the deadline is past, and something of the stage is left to do.
        """
        self.watcher.progress(stage, done, total)
        if done < total and time.monotonic() >= self.deadline:
            raise TimeIsUpError(stage, done, total)

    def news(self, text: str) -> None:
        """See :class:`~lrdiff_bench.study.search.engine.StudyWatcher`."""
        self.watcher.news(text)
