"""The manifest of a folder: a checksum of every file, written last; what is read is held against it.

It finds damage and edits. Whoever wants to deceive can write another manifest: a signed bundle is for that.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrdiff_core.errors import CheckpointError
from lrdiff_core.files import is_whole, sealed, write_json
from lrdiff_core.text import count, visible

__all__ = ["MANIFEST", "check_files", "check_seal", "rewriting", "say_once", "write_manifest"]

MANIFEST = "manifest.json"
FORMAT, VERSION = "lrdiff.manifest", 1
_HELP = "put it back as it was, or make the folder again; without its manifest.json the folder is read unchecked"
_said: set[str] = set()  # what was told in this process already


def write_manifest(
    folder: Path, *, leave_out: Sequence[str] = (), to_come: Mapping[str, bytes] | None = None, name: str = MANIFEST
) -> None:
    """Write the checksums of all files that are in a folder now, hidden ones left out unless they are Zarr's.

    Args:
        folder: whole, but for its manifest.
        leave_out: files that will not stay, and folders that others write.
        to_come: bytes of files that will be written next.
        name: of the manifest.
    """
    to_come = to_come or {}
    names = [one for one in _files(folder) if one not in {name, *to_come} and one.partition("/")[0] not in leave_out]
    _write(
        folder / name,
        {one: sha256_of(folder / one) for one in names}
        | {one: hashlib.sha256(data).hexdigest() for one, data in to_come.items()},
    )


def check_files(folder: Path, *names: str, whole: bool = False, manifest: str = MANIFEST) -> None:
    """Hold files against the manifest of their folder; a folder without one is read with a word.

    Args:
        folder: with a manifest.
        names: files to check: those that will be read. One that the manifest does not name is not checked.
        whole: check every file instead, and that there is none besides.
        manifest: its name.

    Raises:
        CheckpointError: a file was changed, is damaged or missing; the message says what still holds.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("a")
        >>> write_manifest(folder)
        >>> check_files(folder, "a.txt")
        >>> _ = (folder / "a.txt").write_text("b")
        >>> check_files(folder, "a.txt")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.CheckpointError: .../a.txt was changed or damaged after it was written
        help: ...
    """
    if not (folder / manifest).is_file():
        say_once(f"{folder} has no {manifest} (an earlier lrdiff wrote it): it is read unchecked")
        return
    known = _read(folder / manifest)
    wrong = [one for one in (known if whole else names) if one in known and not _holds(folder / one, known[one])]
    if whole:
        wrong += [one for one in _files(folder) if one not in known and one != manifest]
    if not wrong:
        return
    bad = [one for one in known if not _holds(folder / one, known[one])]
    others = [one for one in bad if one != wrong[0]]
    said = f"; so {'is' if len(others) == 1 else 'are'} {', '.join(others[:3])}" if others else ""
    holds = len(known) - len(bad)
    if holds:
        said += f"; {count(holds, 'other file')} of the folder {'holds' if holds == 1 else 'hold'}"
    raise CheckpointError(
        f"{folder / wrong[0]} {_what_is_wrong(folder / wrong[0], wrong[0] in known)}{said}", help=_HELP
    )


def _what_is_wrong(file: Path, named: bool) -> str:
    if not named:
        return "was added after the folder was written"
    return "was changed or damaged after it was written" if file.is_file() else "is missing"


@contextmanager
def rewriting(folder: Path, *patterns: str) -> Iterator[None]:
    """While a command writes files of a folder anew, its manifest does not name them; afterwards it does.

    A kill in between leaves them unnamed, and all others checked as before.

    Args:
        folder: with a manifest; one without stays without.
        patterns: of the names of the files, as in a shell.
    """
    file = folder / MANIFEST
    try:
        known = _read(file) if file.is_file() else None
    except CheckpointError:  # somebody else's, or damaged: whoever reads the folder says so
        known = None
    if known is None:
        yield
        return
    rest = {name: sha for name, sha in known.items() if not any(fnmatch.fnmatchcase(name, one) for one in patterns)}
    _write(file, rest)
    try:
        yield
    finally:
        written = [name for name in _files(folder) if any(fnmatch.fnmatchcase(name, one) for one in patterns)]
        _write(file, rest | {name: sha256_of(folder / name) for name in written})


def check_seal(document: Mapping[str, Any], file: Path, *, help: str) -> None:
    """Refuse a document that is not as it was sealed; one without a seal is read with a word.

    Raises:
        CheckpointError: it was changed or damaged.
    """
    whole = is_whole(document)
    if whole is None:
        say_once(f"{file} has no checksum (an earlier lrdiff wrote it): it is read unchecked")
    elif not whole:
        raise CheckpointError(f"{file} was changed or damaged after it was written", help=help)


def say_once(text: str) -> None:
    """Write a note to stderr, once in a process."""
    if text not in _said:
        _said.add(text)
        print(f"note: {visible(text)}", file=sys.stderr)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _holds(file: Path, sha256: str) -> bool:
    try:
        return file.is_file() and sha256_of(file) == sha256
    except OSError:
        return False


def _files(folder: Path) -> list[str]:
    """Names of all regular files below, but for hidden ones that are no metadata of Zarr's."""
    found = [one.relative_to(folder) for one in folder.rglob("*") if one.is_file()]
    return sorted(one.as_posix() for one in found if not any(_is_hidden(part) for part in one.parts))


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and not part.startswith(".z")


def _write(file: Path, files: Mapping[str, str]) -> None:
    write_json(file, sealed({"format": FORMAT, "version": VERSION, "files": dict(sorted(files.items()))}))


def _read(file: Path) -> dict[str, str]:
    again = f"{file} is damaged"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise CheckpointError(f"{again}: {problem}", help=_HELP) from problem
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise CheckpointError(f"{file} is not a manifest of version {VERSION}", help=_HELP)
    if not is_whole(document) or not isinstance(document.get("files"), dict):
        raise CheckpointError(again, help=_HELP)
    return {str(name): str(sha) for name, sha in document["files"].items()}
