"""Peak memory of this process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lrdiff_core.errors import UnavailableError

__all__ = ["peak_or_none", "peak_resident_bytes"]


def peak_or_none() -> int | None:
    """The same as :func:`peak_resident_bytes`, or None on a system that does not tell."""
    return None if sys.platform == "win32" else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Peak resident memory of this process since it began, in bytes; Python and torch themselves are part of it.

    The operating system's figure, because torch allocates its tensors outside Python: tracemalloc sees none of them.
    It never goes down, so one process can measure one case. On Linux it is VmHWM, not ``ru_maxrss``: that one is
    carried over from the process that started this one.

    Raises:
        UnavailableError: the system has no ``getrusage`` (Windows).

    Source: proc(5), VmHWM in KiB; getrusage(2), ``ru_maxrss`` in bytes on macOS.
    """
    status = Path("/proc/self/status")
    if sys.platform == "linux" and (found := re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError as problem:
        raise UnavailableError(
            "peak memory cannot be read on this system", help="measure memory on Linux or macOS"
        ) from problem
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
