"""Somebody's script, run in this process as Python itself runs it: arguments, import path, ``__main__``, its end."""

from __future__ import annotations

import builtins
import importlib.util
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from lrdiff_core.errors import InputError

__all__ = ["as_main", "run_module", "run_script"]


@contextmanager
def as_main(name: str, arguments: Sequence[str], folder: Path) -> Iterator[None]:
    """Arguments and import path as a script finds them; ours again afterwards.

    Args:
        name: what stands in ``sys.argv[0]``.
        arguments: the script's own.
        folder: where it looks for modules first.
    """
    before = sys.argv, list(sys.path)
    sys.argv = [name, *arguments]
    if not sys.flags.safe_path:  # else nothing of ours stands there, and nothing of the script's may
        sys.path[0] = str(folder)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before[0], before[1]


def run_script(script: Path, arguments: Sequence[str] = ()) -> int:
    """Run a file as ``python SCRIPT ARGS`` does, and return the exit status that Python would end with.

    An exception that the script lets through is printed as Python prints it, without a line of ours. Signals do what
    they do there, too.

    Args:
        script: a Python file.
        arguments: its own.

    Raises:
        InputError: there is no such file.
    """
    if not script.is_file():
        raise InputError(f"there is no script {script}", help="write the path of a Python file, such as train.py")
    path = os.path.abspath(script)
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", path)
    vars(main).update(__file__=path, __builtins__=builtins, __loader__=loader, __cached__=None, __package__=None)

    def run() -> None:
        exec(loader.source_to_code(Path(path).read_bytes(), path), vars(main))

    before = sys.modules["__main__"]
    sys.modules["__main__"] = main
    try:
        with as_main(str(script), arguments, Path(os.path.realpath(path)).parent), _signals_as_in_python():
            return _ended(run)
    finally:
        sys.modules["__main__"] = before


def run_module(name: str, arguments: Sequence[str] = ()) -> int:
    """Run a module or package as ``python -m NAME ARGS`` does; as :func:`run_script` in everything else.

    Raises:
        InputError: there is no such module.
    """
    with as_main(name, arguments, Path.cwd()), _signals_as_in_python():
        importlib.invalidate_caches()
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise InputError(
                f"there is no module {name}", help="name one that `python -m` finds from this folder, such as pkg.train"
            )
        return _ended(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def _ended(run: Callable[[], object]) -> int:
    """How it ended, as an exit status; what it raised is printed."""
    try:
        run()
        sys.stdout.flush()  # before anything is said of it
    except SystemExit as end:
        sys.stdout.flush()
        if end.code is None or isinstance(end.code, int):
            return int(end.code or 0)
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as problem:  # noqa: BLE001 - whatever it is, Python would print it and end
        frames = problem.__traceback__
        while frames is not None and frames.tb_frame.f_globals.get("__name__") != "__main__":
            frames = frames.tb_next
        problem.__traceback__ = frames
        sys.stdout.flush()
        sys.excepthook(type(problem), problem, frames)
        return 130 if isinstance(problem, KeyboardInterrupt) else 1
    return 0


@contextmanager
def _signals_as_in_python() -> Iterator[None]:
    """Ctrl-C and SIGTERM as a bare Python process takes them, for a script may have ways of its own to end."""
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    try:
        waked = signal.set_wakeup_fd(-1)
    except ValueError:  # not in the main thread: signals do not come here
        yield
        return
    for number, handler in ours.items():
        if handler not in (signal.SIG_IGN, None):  # as under nohup; not set from Python
            signal.signal(number, usual[number])
    try:
        yield
    finally:
        for number, handler in ours.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.set_wakeup_fd(waked)
