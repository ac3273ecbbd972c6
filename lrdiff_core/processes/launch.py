"""Whether torchrun started this process as one of several, read from the environment; torch is not imported for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Launch", "launched"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One of several processes that were started together.

    Args:
        rank: its number, from 0.
        count: how many there are.
        local_rank: its number on its machine.
        local_count: how many are on its machine.
        restarts: how often all of them were started again.
        id: the same for every start of one job, and for no other job.
    """

    rank: int
    count: int
    local_rank: int = 0
    local_count: int = 1
    restarts: int = 0
    id: str = ""

    def __str__(self) -> str:
        return f"process {self.rank} of {self.count}"


def launched() -> Launch | None:
    """How this process was started, where it is one of several; None where it is alone.

    Example:
        >>> launched() is None
        True
    """
    rank, count = _number("RANK"), _number("WORLD_SIZE")
    if rank is None or count is None or count < 2 or not 0 <= rank < count:
        return None
    named = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if named == "none":  # torchrun gave no number of its own: the agent that started this process stays the same
        named = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}:{os.getppid()}"
    return Launch(
        rank=rank,
        count=count,
        local_rank=_number("LOCAL_RANK") or 0,
        local_count=_number("LOCAL_WORLD_SIZE") or count,
        restarts=_number("TORCHELASTIC_RESTART_COUNT") or 0,
        id=named,
    )


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None
