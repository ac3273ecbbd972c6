"""Files that are whole or not there: write beside, flush, rename; documents that carry a checksum of their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lrdiff_core.errors import InputError

__all__ = [
    "SEAL",
    "atomic_path",
    "digest_of_document",
    "is_whole",
    "remove_left_behind",
    "remove_unfinished",
    "sealed",
    "unsealed",
    "user_cache_folder",
    "write_bytes",
    "write_json",
    "write_text",
]

SEAL = "sha256"
_BESIDE = re.compile(r"\..+\.[0-9a-f]{16}\.tmp(\..*)?")  # as atomic_path names what it writes

_unfinished: set[Path] = set()  # files that are being written beside their final names


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place when the block ends without an error.

    A crash at any moment leaves either the old file or the new one under ``path``, never a part of one.

    Args:
        path: the final name; its folder must exist.

    Raises:
        InputError: the folder cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as beside:
        ...     _ = beside.write_text("whole")
        >>> sorted(p.name for p in folder.iterdir())
        ['a.txt']
    """
    final = Path(path)
    beside = final.parent / f".{final.name}.{secrets.token_hex(8)}.tmp{final.suffix}"
    _unfinished.add(beside)  # before it is there: an interrupt may come between any two lines
    try:
        os.close(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as problem:
        _unfinished.discard(beside)
        raise InputError(
            f"cannot write {final}: {problem.strerror}", help="name a folder that exists and that you may write to"
        ) from problem
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)  # 0600 while it is written; the reader expects the usual mode
        try:
            os.replace(beside, final)
        except OSError as problem:
            raise InputError(
                f"cannot write {final}: {problem.strerror}",
                help="remove what exists under that name, or choose another",
            ) from problem
        _sync_folder(final.parent)
    finally:
        beside.unlink(missing_ok=True)
        _unfinished.discard(beside)


def remove_unfinished() -> None:
    """Remove what is being written beside its final name, where a process ends without coming back to it.

    An interrupt may come between any two lines, those that clean up among them.
    """
    for beside in tuple(_unfinished):
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def remove_left_behind(folder: Path) -> None:
    """Remove what a killed process was writing beside a final name in ``folder``, which nobody else may be writing.

    Args:
        folder: with all below it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.txt", ".a.txt.0123456789abcdef.tmp.txt"):
        ...     _ = (folder / name).write_text("")
        >>> remove_left_behind(folder)
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    for file in folder.rglob(".*.tmp*"):
        if _BESIDE.fullmatch(file.name) and file.is_file():
            file.unlink(missing_ok=True)


def user_cache_folder(name: str) -> Path:
    """Where lrdiff keeps for this user what it fetched; the folder need not be there.

    Example:
        >>> user_cache_folder("javascript").parts[-2:]
        ('lrdiff', 'javascript')

    Source: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lrdiff" / name


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` as a whole or not at all."""
    with atomic_path(path) as beside:
        beside.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` as a whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], document: Any) -> None:
    """Write one JSON document, two-space indented, as a whole or not at all.

    Raises:
        ValueError: a number in the document is NaN or infinite, which JSON cannot hold.
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # folders cannot be opened on Windows
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_of_document(document: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON document, its seal left out; order of keys and white space do not matter.

    Example:
        >>> digest_of_document({"a": 1, "b": [2.0]}) == digest_of_document({"b": (2.0,), "a": 1})
        True
    """
    plain = {key: value for key, value in document.items() if key != SEAL}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its checksum under the key ``sha256``, at its end.

    Example:
        >>> is_whole(sealed({"loss": 0.5}))
        True
    """
    return {**unsealed(document), SEAL: digest_of_document(document)}


def unsealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without its checksum."""
    return {key: value for key, value in document.items() if key != SEAL}


def is_whole(document: Mapping[str, Any]) -> bool | None:
    """Whether a document is as it was sealed; None where it has no seal, as those of earlier versions.

    Example:
        >>> is_whole({**sealed({"loss": 0.5}), "loss": 0.4}), is_whole({"loss": 0.5})
        (False, None)
    """
    return None if SEAL not in document else document[SEAL] == digest_of_document(document)
