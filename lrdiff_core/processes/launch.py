"""Whether torchrun started this process as one of several, read from the environment; torch is not imported for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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
        id: the same for every start by one agent of torchrun's, and for no other agent.
        name: of the job (``--rdzv-id``), which several may have; empty where there is none.
    """

    rank: int
    count: int
    local_rank: int = 0
    local_count: int = 1
    restarts: int = 0
    id: str = ""
    name: str = ""

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
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    name = "" if name == "none" else name
    return Launch(
        rank=rank,
        count=count,
        local_rank=_number("LOCAL_RANK") or 0,
        local_count=_number("LOCAL_WORLD_SIZE") or count,
        restarts=_number("TORCHELASTIC_RESTART_COUNT") or 0,
        id=f"{name}@{_agent()}",
        name=name,
    )


def _agent() -> str:
    """The process that started this one, which stays when others are started again: its number, and when it began."""
    number = os.getppid()
    try:  # a number is used again, by another container at once
        began = (
            Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except OSError:  # no Linux
        began = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    return f"{number}-{began}"


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None
