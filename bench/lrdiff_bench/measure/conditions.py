"""Under what conditions commands measure: the processors they keep to, and a word about a busy machine."""

from __future__ import annotations

import os

from rich.console import Console

from lrdiff_bench.system.machine import load_average, usable_cpus
from lrdiff_core.errors import ConfigError, UnavailableError

__all__ = ["cpu_list", "warn_of_load"]


def cpu_list(text: str | None) -> tuple[int, ...]:
    """Processors from ``0,2``.

    Raises:
        ConfigError: it is not a list of processors that this process may use.

    Example:
        >>> cpu_list(None)
        ()
    """
    if text is None:
        return ()
    if not hasattr(os, "sched_setaffinity"):
        raise UnavailableError("this system cannot pin a process to a processor", help="leave out --affinity")
    usable = os.sched_getaffinity(0)
    if not all(part.isdecimal() and int(part) in usable for part in text.split(",")):
        raise ConfigError(f"--affinity {text} is not a list of processors", help=f"write some of {sorted(usable)}")
    return tuple(int(part) for part in text.split(","))


def warn_of_load(console: Console) -> None:
    """Say so where the machine is busy."""
    load = load_average()
    if load is not None and load > usable_cpus() / 2:
        text = f"the machine is busy (load {load:.1f} on {usable_cpus()} processors): expect noise"
        console.print(text, style="yellow")
