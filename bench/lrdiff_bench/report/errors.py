"""The two streams: results on stdout, an error in two lines on stderr and with ``--json`` on stdout, too."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from lrdiff_bench.report.json import print_json
from lrdiff_core.errors import LrdiffWarning
from lrdiff_core.text import visible

__all__ = ["NOTHING_LEFT", "Interrupted", "WatchedOutput", "notes_of_warnings", "print_error", "way_on", "write_out"]

NOTHING_LEFT = "nothing was left half-written"


class Interrupted(Exception):  # noqa: N818 - an error it is not
    """A command that was ended by a signal, once all is cleaned up: typer would take KeyboardInterrupt for itself."""


def way_on(problem: BaseException, otherwise: str) -> str:
    """What to do next, as whoever let the problem through has noted it."""
    for one in (problem, problem.__cause__):
        if notes := getattr(one, "__notes__", None):
            return str(notes[0])
    return otherwise


class WatchedOutput:
    """Standard output that remembers whether a document was written: with ``--json`` an error is one, too."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.wrote = stream, False

    def write(self, text: str) -> int:
        """Write, and remember it."""
        self.wrote = True
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def print_error(message: str, help: str, status: int = 1) -> int:
    """Write an error and what to do about it, a line each, and return the exit status.

    Where stdout is a :class:`WatchedOutput` without a document so far, the error becomes its document.
    """
    message, help = (visible(" ".join(text.split())) for text in (message, help))
    print(f"error: {message}\nhelp: {help}", file=sys.stderr)
    if isinstance(sys.stdout, WatchedOutput) and not sys.stdout.wrote:
        error = {"message": message, "help": help, "status": status}
        print_json({"format": "lrdiff.error", "version": 1, "error": error})
    return status


@contextmanager
def notes_of_warnings() -> Iterator[None]:
    """Write our own warnings as notes of one line, without the place in our code that Python adds."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, LrdiffWarning):
            text, _, help = str(message).partition("\nhelp: ")
            sys.stderr.write(f"note: {visible('; '.join(filter(None, (text, help))))}\n")
        else:
            before(message, category, *place, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def write_out(text: str, *, data: bool = False) -> None:
    """Write to stdout, now: a reader that has left is noticed here.

    Args:
        text: nothing in it reaches a terminal that this would obey.
        data: it goes as it is to whoever else reads it.
    """
    sys.stdout.write(text if data and not sys.stdout.isatty() else visible(text))
    sys.stdout.flush()
