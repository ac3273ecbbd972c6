"""Whether a piece of work was one thread's own computing: only then is the processor's time all the time there is.

Standard library alone, and no other module of this project: the process that measures a foreign suite runs this file
in the foreign suite's environment.
"""

from __future__ import annotations

import sys
import time

if sys.platform != "win32":
    import resource

__all__ = ["OWN_SHARE", "Usage"]

OWN_SHARE = 0.95  # of the process's time, which the measuring thread has to have taken itself


class Usage:
    """What this process uses from here on, except between :meth:`pause` and :meth:`resume`.

    A thread that sleeps, reads from a pipe, waits for a lock, a disk or a child gives the processor up by itself: the
    system counts that as a voluntary switch. A busy neighbour causes involuntary ones, which say nothing.

    Example:
        >>> usage = Usage()
        >>> time.sleep(0.001)
        >>> usage.busy() in (False, None)
        True
    """

    def __init__(self) -> None:
        self._used = [0.0, 0.0, 0.0, 0.0]
        self.resume()

    def pause(self) -> None:
        """What is used from here on does not count."""
        if self._before is not None:
            now = _now() or self._before
            self._used = [
                used + after - before for used, after, before in zip(self._used, now, self._before, strict=True)
            ]
        self._counting = False

    def resume(self) -> None:
        """What is used from here on counts again."""
        self._before = _now()
        self._counting = True

    def busy(self) -> bool | None:
        """Whether this thread alone has worked, and never waited; None where the system does not tell."""
        if self._before is None:
            return None
        if self._counting:
            self.pause()
        switches, children, thread, process = self._used
        return switches == 0 and children == 0 and thread >= OWN_SHARE * process


def _now() -> tuple[float, float, float, float] | None:
    if sys.platform == "win32":
        return None
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_nvcsw, children.ru_utime + children.ru_stime, time.thread_time(), time.process_time()
