"""Where code of the user's runs: what it prints goes to stderr, and what it raises is told with its own line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path

from lrdiff_core.errors import InputError, LrdiffError

__all__ = ["one_line", "their_fault", "user_code"]


@contextmanager
def user_code(folder: str | None = None) -> Iterator[None]:
    """Where the user's code runs: the current folder is importable, and what is printed goes to stderr.

    Args:
        folder: where modules are looked for before the current folder.
    """
    places = list(dict.fromkeys([folder or str(Path.cwd()), str(Path.cwd())]))
    sys.path[:0] = places
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for place in places:
            if place in sys.path:
                sys.path.remove(place)


def their_fault(what: str, problem: BaseException) -> InputError:
    """The error for an exception in the user's code: what was raised, and the deepest line of code that is theirs."""
    if isinstance(problem, SyntaxError) and problem.filename:
        place = f"{Path(problem.filename).name}, line {problem.lineno}"
    else:
        frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if not _is_ours(frame.filename)]
        here = str(Path.cwd())
        own = [frame for frame in frames if frame.filename.startswith(here) and "site-packages" not in frame.filename]
        last = next(reversed(own or frames), None)
        place = f"{Path(last.filename).name}, line {last.lineno}" if last is not None else "no line"
    if isinstance(problem, LrdiffError):
        return InputError(f"{what} raised {problem.message} ({place})", help=problem.help)
    said = one_line(problem.msg if isinstance(problem, SyntaxError) else problem)
    text = type(problem).__name__ + (f": {said}" if said else "")
    return InputError(f"{what} raised {text} ({place})", help="correct it there; `lrdiff --debug` shows the traceback")


def one_line(problem: object) -> str:
    """What an exception says, on one line."""
    return " ".join(str(problem).split())


def _is_ours(filename: str) -> bool:
    return filename.startswith((*_own_folders(), "<frozen"))


@cache
def _own_folders() -> tuple[str, ...]:
    names = ("lrdiff_core", "lrdiff_export", "lrdiff_bench")
    return tuple(f"{Path(str(importlib.import_module(name).__file__)).parent}/" for name in names)
