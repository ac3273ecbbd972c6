"""Small libraries compiled on first use: finding a compiler, and a cache that repairs itself."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

__all__ = ["build_first", "find_compiler", "open_cached", "processor"]

CPUINFO = Path("/proc/cpuinfo")

Library = TypeVar("Library")


def find_compiler(variable: str, *names: str) -> list[str]:
    """The compiler with the options that the variable may bring; empty where there is none.

    Args:
        variable: of the environment, such as ``CC``: a path, or a command as a shell would read it.
        names: commands tried in order where the variable is not set.

    Example:
        >>> find_compiler("NO_SUCH_VARIABLE", "no-such-command")
        []
    """
    given = os.environ.get(variable)
    if given:
        return [given] if Path(given).is_file() else shlex.split(given)
    found = next(filter(None, map(shutil.which, names)), None)
    return [found] if found else []


def processor() -> str:
    """What code built with ``-march=native`` depends on: a home may be shared by machines of several kinds."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    described = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join([platform.machine(), *described])


def build_first(commands: Sequence[Sequence[str]], *, patience_s: float) -> None:
    """Run compiler commands until one succeeds: not every compiler knows every flag.

    Raises:
        OSError, subprocess.SubprocessError: none did; the last one's fault.
    """
    for number, command in enumerate(commands, start=1):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=patience_s)
            return
        except subprocess.CalledProcessError:
            if number == len(commands):
                raise


def open_cached(name: str, build: Callable[[Path], Path], link: Callable[[Path], Library]) -> Library:
    """Open a library from the cache, built now if it is not there or cannot be opened.

    Args:
        name: of the file; it changes with whatever the machine code depends on.
        build: gets a scratch folder, returns the library it made there.
        link: opens a library; OSError or AttributeError say that it is no good.

    Raises:
        OSError, AttributeError: what was just built cannot be opened; whatever ``build`` raises.
    """
    with _cache_folder() as folder:
        path = folder / name
        if path.exists():
            try:
                return link(path)
            except (OSError, AttributeError):  # cut short when the disk was full, or the machine went down
                pass
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = build(Path(scratch))
            with open(built, "rb") as file:
                os.fsync(file.fileno())
            os.replace(built, path)  # two processes may build at once: each file is whole, the later one stays
        return link(path)


@contextmanager
def _cache_folder() -> Iterator[Path]:
    """A folder that only this user writes to; what others could write to is never loaded."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrdiff"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022
        usable = owned and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        usable = False
    if usable:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="lrdiff-") as own:  # a library stays loaded when its file is gone
            yield Path(own)
