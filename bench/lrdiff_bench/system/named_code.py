"""Which factories this user has named: a folder that names another one does not get it imported.

A run of a model of one's own keeps its ``MODULE:FACTORY`` and needs it again; the folder may come from elsewhere, and
``os:abort`` is a factory, too. So what the user names (on a command line, in settings, in Python) is kept, with the
file that it was found in, and what a run folder names has to be among it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from lrdiff_bench.system.user_code import user_code
from lrdiff_core.errors import ConfigError

__all__ = ["check_named", "keep_named"]


def keep_named(source: str) -> None:
    """Keep that the user has named this factory, whose module is imported."""
    _keep(source, os.getcwd(), os.environ.get("XDG_STATE_HOME", ""))


@cache  # a map makes its model for every seed
def _keep(source: str, folder: str, state: str) -> None:
    # No home, or none to write to: a run folder that names it is refused, and says so.
    with suppress(OSError, RuntimeError):
        mark = _mark(source)
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mark.touch()


def check_named(source: str, folder: Path) -> None:
    """Refuse what a folder names and the user has not; nothing is imported.

    Raises:
        ConfigError: the user has not named it, or it is found in another file now.
    """
    try:
        named = os.path.exists(_mark(source))
    except RuntimeError:  # there is no home
        named = False
    if not named:
        raise ConfigError(
            f"{folder} names code to be run, {source}, that you have not named yourself here",
            help=f"if you trust it, name it once: lrdiff rates {source}",
        )


def _mark(source: str) -> Path:
    """An empty file for a factory and the file of its module."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    digest = hashlib.sha256(f"{source}\n{_place(source.partition(':')[0].partition('.')[0])}".encode())
    return base / "lrdiff" / "named" / digest.hexdigest()


def _place(package: str) -> str:
    """Where a module or a package lies, found without running it."""
    with user_code():
        try:
            spec = importlib.util.find_spec(package)
        except ValueError:  # no name of a module, or one that something has put there without a spec
            return str(getattr(sys.modules.get(package), "__file__", ""))
    if spec is None:
        return ""
    places = spec.submodule_search_locations
    return os.path.realpath(next(iter(places), "") if places is not None else spec.origin or "")
