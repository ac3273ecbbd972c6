"""Folders that commands write: made where they may be written; a run's appears whole under its name, or not at all."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lrdiff_bench.system.manifest import check_files
from lrdiff_bench.system.ownership import OWNER, Owner, is_owned
from lrdiff_core.errors import CheckpointError, InputError
from lrdiff_core.files import remove_left_behind

__all__ = [
    "SUMMARY_FORMAT",
    "SUMMARY_VERSION",
    "RunFolder",
    "cannot_write",
    "make_folder",
    "kept_warnings",
    "new_run_folder",
    "next_free",
    "read_document",
    "read_summary",
    "unfinished_run",
]

SUMMARY_FORMAT = "lrdiff.run"
SUMMARY_VERSION = 2
EVIDENCE = ("summary.json", "config.toml", "rates.json", "model.safetensors")  # what commands read of a run

_ATTEMPTS = 100
_LOOKS = 5
_NEW_SECONDS = 60.0
_GO_ON = "{0} has what was done so far; `lrdiff run --resume {0}` goes on"


class RunFolder:
    """A run's folder while it is written: beside its final name until there is something worth keeping.

    Attributes:
        path: where to write now.
        kept: whether it has its final name.
        overwrite: whether it may replace an older run.
    """

    def __init__(self, beside: Path, final: Path, owner: Owner, *, overwrite: bool) -> None:
        self.path, self.kept = beside, False
        self._final, self._owner, self.overwrite = final, owner, overwrite

    def keep(self) -> Path:
        """Give it its final name now, or with ``overwrite`` that of the run it replaces, and return that.

        From here on it stays, whatever happens. A run that is being written by another process is not replaced: this
        one then takes the next number.

        Raises:
            InputError: it cannot be renamed.
        """
        if not self.kept:
            if self.overwrite and _swap(self.path, self._final):
                self._is_at(self._final)
            else:
                self.keep_aside()
        return self.path

    def keep_aside(self) -> Path:
        """Give it the first of its names that is free, and return that."""
        if not self.kept:
            self._is_at(_place(self.path, self._final))
        return self.path

    def _is_at(self, path: Path) -> None:
        self.path, self.kept, self._owner.folder = path, True, path


@contextmanager
def new_run_folder(final: Path, *, overwrite: bool = True) -> Iterator[RunFolder]:
    """Yield a folder beside ``final``; it gets that name when it is kept, or when the block ends without an error.

    Anything that is not a run is left alone and refused.

    Args:
        final: the run folder's name.
        overwrite: replace a run that stands under that name already; otherwise the new one takes the next number:
            ``runs/seed-2``.

    Raises:
        InputError: the place cannot be written, or holds something that is not a run.
    """
    if _is_foreign(final):
        raise InputError(f"{final} exists and is not a run folder", help="name another folder with --out, or remove it")
    beside = final.parent / f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    missing = [folder for folder in (final.parent, *final.parent.parents) if not folder.exists()]
    blocking = [folder for folder in (final.parent, *final.parent.parents) if folder.exists() and not folder.is_dir()]
    if blocking:
        raise cannot_write(final, f"{blocking[0]} is not a folder")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(final)
        beside.mkdir()
        owner = Owner.of(beside)
    except OSError as problem:
        raise cannot_write(final, problem.strerror) from problem
    assert owner is not None, "the name was drawn just now"
    folder = RunFolder(beside, final, owner, overwrite=overwrite)
    try:
        yield folder
        if not folder.kept:
            owner.done()  # it is whole: whoever ends next may replace it
            folder.keep()
    except BaseException as problem:
        if not folder.kept and (beside / "summary.json").is_file():  # begun, and not worth an older run's place
            with suppress(InputError):
                folder.keep_aside()
        if folder.kept:
            problem.add_note(_GO_ON.format(folder.path))
        raise
    finally:
        owner.release()
        if not folder.kept:
            shutil.rmtree(beside, ignore_errors=True)
        for above in missing:  # made for nothing, if nothing came of it
            with suppress(OSError):  # something lies there, now or always
                above.rmdir()


@contextmanager
def unfinished_run(folder: Path) -> Iterator[RunFolder]:
    """Yield the folder of an interrupted run, to go on writing it.

    Raises:
        InputError: another process writes it, or it cannot be written.
    """
    try:
        owner = Owner.of(folder)
    except OSError as problem:
        raise InputError(f"cannot write {folder}: {problem.strerror}", help="make it writable, or copy it") from problem
    if owner is None:
        raise InputError(f"{folder} is being written by another process", help="wait until that has ended")
    run = RunFolder(folder, folder, owner, overwrite=True)
    run.kept = True
    try:
        remove_left_behind(folder)
        yield run
    except BaseException as problem:
        problem.add_note(_GO_ON.format(folder))
        raise
    finally:
        owner.release()


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


def read_summary(run: Path, *, check: Sequence[str] = EVIDENCE) -> dict[str, Any]:
    """Read and check ``summary.json`` of a run folder, and hold files of a finished run against its manifest.

    Args:
        run: its folder.
        check: files that must be as the run wrote them.

    Raises:
        CheckpointError: no run there, damaged, changed after it was written, or of a version this program does not
            read.
    """
    file = run / "summary.json"
    if not file.is_file():
        raise CheckpointError(f"no run at {run}", help="name a folder made by `lrdiff run` or `lrdiff train`")
    summary = read_document(
        file,
        format=SUMMARY_FORMAT,
        version=SUMMARY_VERSION,
        what="the summary of a run",
        help="run again with `lrdiff run`",
    )
    if check and not summary.get("missing"):  # the manifest is written when nothing is
        check_files(run, *check)
    return summary


def kept_warnings(run: Path) -> list[str]:
    """What a run's summary says that users of its model must know; nothing in runs that know no such warnings.

    Raises:
        CheckpointError: as :func:`read_summary`.
    """
    return [str(text) for text in read_summary(run).get("warnings", [])]


def read_document(file: Path, *, format: str, version: int | None, what: str, help: str) -> dict[str, Any]:
    """Read a JSON document that says its format and version.

    Args:
        file: that is there; compressed where its name ends with ``.gz``.
        format, version: that it must have; None: it has no version beside its format.
        what: it is, such as ``"the summary of a run"``.
        help: what to do where it is not that.

    Raises:
        CheckpointError: it is damaged, of something else, or of a version this program does not read.
    """
    try:
        data = file.read_bytes()
        document = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as problem:
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


def _swap(beside: Path, final: Path) -> bool:
    """Put the folder in the place of the run that stands there; False where another process is writing that."""
    # Two renames: a crash between them leaves both runs whole, the old one under its retired name, from which other
    # processes put it back where nothing stands under the final one.
    retired = beside.with_suffix(".replaced")
    for _ in range(_ATTEMPTS):  # another run may put its folder there between any two of these lines; the last one wins
        with suppress(FileNotFoundError):
            if _is_foreign(final):
                raise InputError(f"{final} is no longer a run folder", help="name another folder with --out")
            if is_owned(final, done=False):
                return False
            final.rename(retired)
            if is_owned(retired, done=False):  # it came there this very moment
                retired.rename(final)
                return False
        try:
            beside.rename(final)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    retired.rename(final)
                raise InputError(f"cannot write {final}: {problem.strerror}", help="run again") from problem
            _remove(retired)
        else:
            _remove(retired)
            return True
    raise InputError(f"cannot write {final}: other runs keep writing it", help="give each run an --out of its own")


def _remove(retired: Path) -> None:
    """Remove a run that was replaced; under another name first, from which nobody puts back what is left of it."""
    gone = retired.with_suffix(".removed")
    with suppress(FileNotFoundError):  # put back just now: it stays
        retired.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _remove_left_overs(final: Path) -> None:
    """Remove what killed runs of the same name left behind, if nobody writes it any more; put back what is whole."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.([-0-9a-f]+)\.(partial|replaced|removed)")
    for entry in sorted(final.parent.iterdir(), key=lambda entry: entry.suffix, reverse=True):  # the older run first
        found = pattern.fullmatch(entry.name)
        if found is None or _is_new(entry) or is_owned(entry) or is_owned(entry.with_suffix(".partial")):
            continue
        if found[2] == "replaced" and not final.exists():  # killed between the two renames
            with suppress(OSError):
                entry.rename(final)
        elif found[2] == "partial" and (entry / "summary.json").is_file():  # killed in its training
            with suppress(InputError):
                _place(entry, final)
        else:
            shutil.rmtree(entry, ignore_errors=True)  # another run may be at it too


def _is_new(entry: Path) -> bool:
    """Whether a folder was made just now, so that its owner may not have written its name yet."""
    try:
        if entry.suffix != ".partial" or time.time() - entry.stat().st_mtime > _NEW_SECONDS:
            return False
        return (entry / OWNER).stat().st_size == 0
    except OSError:
        return True
