"""Whether what a file says that it holds has room in the memory, told before any of it is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lrdiff_core.data.formats.compressed import FREE_BYTES, MOST_RATIO
from lrdiff_core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["check_room", "free_bytes"]

_NUMBER, _WORD = 8, 16  # bytes of a cell: a word has at least its place and length
_COPIES = 2  # of a text: as it is read, and without the spaces around it
_FIRST_ROWS = 4096  # that are looked at for the length of their texts, then four times as many
_GROUP = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"


def check_room(path: Path, size: int, lazy: pl.LazyFrame) -> None:
    """Refuse a file of columns whose rows would take more memory than there is.

    Args:
        path: for the message.
        size: of the file, in bytes.
        lazy: what it holds. How many rows that is it says itself; texts are looked at piece by piece, since a file of
            some kilobytes may hold any length of them.

    Raises:
        DataError: they take more than is free, or more than a thousand times the file's size.
    """
    import polars as pl

    rows, schema = int(lazy.select(pl.len()).collect().item()), lazy.collect_schema()
    needed = rows * sum(_NUMBER if kind.is_numeric() or kind == pl.Boolean else _WORD for kind in schema.dtypes())
    free = _check(path, size, rows, needed)
    texts = [name for name, kind in schema.items() if kind.is_nested() or kind in (pl.String, pl.Binary)]
    begin, step = 0, _FIRST_ROWS
    while texts and begin < rows:
        needed += _COPIES * int(lazy.select(texts).slice(begin, step).collect().estimated_size())
        begin += step
        free = _check(path, size, rows, needed)
        most = 4 * step if free is None else free * min(begin, rows) // (4 * max(needed, 1))
        step = max(1, min(4 * step, most))  # what comes next takes a quarter of what is free, if it is like the others


def _check(path: Path, size: int, rows: int, needed: int) -> int | None:
    """Refuse what takes more than there is; return what is free."""
    said = f"{path} has {size} bytes and {rows} rows, which take at least {needed / 2**30:.3g} GiB"
    free = free_bytes()
    if needed > FREE_BYTES and needed > MOST_RATIO * size:
        raise DataError(f"{said}, over {MOST_RATIO} times its size", help="write it again with those rows that differ")
    if free is not None and needed > free:
        raise DataError(f"{said}, and {free / 2**30:.3g} GiB are free", help="read it in pieces: --stream")
    return free


def free_bytes() -> int | None:
    """Bytes that this process may still take: of the machine, its container and its own limit; None where not told."""
    return min((one for one in (_of_machine(), _of_group(), _of_process()) if one is not None), default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _of_group() -> int | None:
    try:
        most, taken = (Path(name).read_text(encoding="ascii").strip() for name in _GROUP)
        return None if most == "max" else max(0, int(most) - int(taken))
    except (OSError, ValueError):
        return None


def _of_process() -> int | None:
    try:
        import resource  # not on Windows

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY:
            return None
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        return max(0, most - taken)
    except (ImportError, OSError, ValueError):
        return None
