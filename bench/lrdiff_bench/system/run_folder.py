"""Folders that commands write: made where they may be written; a run's appears whole under its name, or not at all."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lrdiff_core.errors import CheckpointError, InputError

__all__ = [
    "SUMMARY_FORMAT",
    "SUMMARY_VERSION",
    "cannot_write",
    "make_folder",
    "new_run_folder",
    "next_free",
    "read_document",
    "read_summary",
]

SUMMARY_FORMAT = "lrdiff.run"
SUMMARY_VERSION = 2

_ATTEMPTS = 100
_LOOKS = 5


@contextmanager
def new_run_folder(
    final: Path, *, overwrite: bool = True, placed: Callable[[Path], object] = lambda final: None
) -> Iterator[Path]:
    """Yield a folder beside ``final``; rename it into place when the block ends without an error.

    Anything that is not a run is left alone and refused.

    Args:
        final: the run folder's name.
        overwrite: replace a run that stands under that name already; otherwise the new one takes the next number:
            ``runs/seed-2``.
        placed: called with the name that the folder got.

    Raises:
        InputError: the place cannot be written, or holds something that is not a run.
    """
    if _is_foreign(final):
        raise InputError(f"{final} exists and is not a run folder", help="name another folder with --out, or remove it")
    beside = final.parent / f".{final.name}.{os.getpid()}.partial"
    missing = [folder for folder in (final.parent, *final.parent.parents) if not folder.exists()]
    blocking = [folder for folder in (final.parent, *final.parent.parents) if folder.exists() and not folder.is_dir()]
    if blocking:
        raise cannot_write(final, f"{blocking[0]} is not a folder")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(final)
        beside.mkdir()
    except OSError as problem:
        raise cannot_write(final, problem.strerror) from problem
    try:
        yield beside
        if overwrite:
            _swap(beside, final)
        else:
            final = _place(beside, final)
        placed(final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        for folder in missing:  # made for nothing, if nothing came of it
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def next_free(folder: Path) -> Path:
    """The folder, or where it is taken the first of ``folder-2``, ``folder-3``, ... that is not."""
    return next(one for one in _numbered(folder) if not os.path.lexists(one))


def _numbered(folder: Path) -> Iterator[Path]:
    yield folder
    for number in itertools.count(2):
        yield folder.with_name(f"{folder.name}-{number}")


def _place(beside: Path, final: Path) -> Path:
    """Rename to the first name that is free; other runs may be taking names at the same time."""
    for one in _numbered(final):
        try:
            beside.rename(one)  # onto an empty folder, or nothing
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise InputError(f"cannot write {one}: {problem.strerror}", help="run again") from problem
        else:
            return one
    raise AssertionError("numbers do not end")


def read_summary(run: Path) -> dict[str, Any]:
    """Read and check ``summary.json`` of a run folder.

    Raises:
        CheckpointError: no run there, damaged, or of a version this program does not read.
    """
    file = run / "summary.json"
    if not file.is_file():
        raise CheckpointError(f"no run at {run}", help="name a folder made by `lrdiff run` or `lrdiff train`")
    return read_document(
        file,
        format=SUMMARY_FORMAT,
        version=SUMMARY_VERSION,
        what="the summary of a run",
        help="run again with `lrdiff run`",
    )


def read_document(file: Path, *, format: str, version: int, what: str, help: str) -> dict[str, Any]:
    """Read a JSON document that says its format and version.

    Args:
        file: that is there.
        format, version: that it must have.
        what: it is, such as ``"the summary of a run"``.
        help: what to do where it is not that.

    Raises:
        CheckpointError: it is damaged, of something else, or of a version this program does not read.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}", help=help) from problem
    if not isinstance(document, dict) or document.get("format") != format:
        raise CheckpointError(f"{file} is not {what}", help=help)
    if document.get("version") != version:
        raise CheckpointError(
            f"{file} has version {document.get('version')}, this program reads {version}",
            help=f"use the lrdiff that wrote it, or {help}",
        )
    return document


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise cannot_write(folder, problem.strerror) from problem


def cannot_write(folder: Path, reason: str | None) -> InputError:
    """The error of a folder that cannot be written."""
    return InputError(f"cannot write {folder}: {reason}", help="name a folder you may write to with --out")


def _is_foreign(final: Path) -> bool:
    """Whether something stands there that is no run."""
    # More than one look: another run may be replacing its folder under this name right now.
    return all(_looks_foreign(final) for _ in range(_LOOKS))


def _looks_foreign(final: Path) -> bool:
    try:
        names = os.listdir(final)
    except OSError:
        return os.path.lexists(final)  # a file, or a folder of somebody else
    return bool(names) and "summary.json" not in names


def _swap(beside: Path, final: Path) -> None:
    # Two renames: a crash between them leaves both runs whole, the old one under its retired name.
    retired = final.parent / f".{final.name}.{os.getpid()}.replaced"
    for _ in range(_ATTEMPTS):  # another run may put its folder there between any two of these lines; the last one wins
        with suppress(FileNotFoundError):
            if _is_foreign(final):
                raise InputError(f"{final} is no longer a run folder", help="name another folder with --out")
            final.rename(retired)
        try:
            beside.rename(final)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    retired.rename(final)
                raise InputError(f"cannot write {final}: {problem.strerror}", help="run again") from problem
            shutil.rmtree(retired, ignore_errors=True)
        else:
            shutil.rmtree(retired, ignore_errors=True)
            return
    raise InputError(f"cannot write {final}: other runs keep writing it", help="give each run an --out of its own")


def _remove_left_overs(final: Path) -> None:
    """Remove what killed runs of the same name left behind, if the process is gone."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.(\d+)\.(partial|replaced)")
    for entry in final.parent.iterdir():
        found = pattern.fullmatch(entry.name)
        if found is None or _is_alive(int(found[1])):
            continue
        if found[2] == "replaced" and not final.exists():  # killed between the two renames
            entry.rename(final)
        else:
            shutil.rmtree(entry, ignore_errors=True)  # another run may be at it too


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 ends the process it asks after
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
