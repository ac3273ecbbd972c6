"""Where records are kept: a folder of runs, one file a run, one record a line, safe to append to from any process."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from lrdiff_bench.measure.engine.pairs.comparison import Comparison, is_comparison, parse_comparison
from lrdiff_bench.measure.engine.record import Record, parse_record
from lrdiff_bench.system.manifest import say_once
from lrdiff_core.errors import DataError, InputError
from lrdiff_core.files import SEAL, is_whole, sealed, unsealed, write_bytes

__all__ = [
    "DEFAULT_FOLDER",
    "append_record",
    "find_run",
    "new_run",
    "read_comparisons",
    "read_run",
    "replace_record",
    "run_files",
    "same_machine",
]

DEFAULT_FOLDER = Path("runs") / "bench"
SUFFIX = ".jsonl"
AFTER = "after"  # the checksum of the line before; empty on a first line


def new_run(folder: Path = DEFAULT_FOLDER) -> Path:
    """Name the file of a new run; it appears with its first record.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(
            f"cannot write {folder}: {problem.strerror}", help="name another folder with --out"
        ) from problem
    # Sorts by time; two runs that begin in the same second still get two files.
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}{SUFFIX}"


def append_record(path: Path, record: Record | Comparison) -> None:
    """Append a record or a comparison, whole: under a lock, in one write, flushed to the disk.

    A line that a killed process left unfinished has never been a record and is cut off first.
    """
    with open(path, "a+b") as file, _locked(file):
        before = _cut_unfinished_line(file)
        file.write(_line(record, before))
        file.flush()
        os.fsync(file.fileno())


def replace_record(path: Path, record: Record) -> None:
    """Put a record into a run in place of those of the same case and machine; for one writer at a time."""
    others = read_run(path) if path.is_file() else []
    rest = [one for one in others if (one.case, one.machine.id) != (record.case, record.machine.id)]
    kept = read_comparisons(path) if path.is_file() else []
    together: list[Record | Comparison] = [*rest, *kept, record]
    lines: list[bytes] = []
    for one in together:
        lines.append(_line(one, lines[-1] if lines else b""))
    write_bytes(path, b"".join(lines))


def read_run(path: Path) -> list[Record]:
    """Read the records of a run, in the order they were appended; comparisons are left out.

    An unfinished last line (its writer was killed) is no record and is left out with a word; every other fault is an
    error. A line has a checksum of itself and names that of the line before: what was changed, taken out, put in or
    moved is seen, but for lines at the end that are gone as a whole.

    Raises:
        DataError: there is no such file, a line is not a record of this schema, was changed, or does not follow the
            one before it.
    """
    return [parse_record(line, where=where) for where, line in _lines(path) if not is_comparison(line)]


def read_comparisons(path: Path) -> list[Comparison]:
    """Read the comparisons of a run, in the order they were appended.

    Raises:
        DataError: there is no such file, or a line that says it is a comparison is none.
    """
    return [parse_comparison(line, where=where) for where, line in _lines(path) if is_comparison(line)]


def _lines(path: Path) -> list[tuple[str, bytes]]:
    if not path.is_file():
        raise DataError(f"no run at {path}", help="see `lrdiff bench ls`")
    # Not splitlines(): JSON leaves line separators of Unicode as they are.
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        say_once(f"the last line of {path} is unfinished (its writer was killed, or it was cut): it is left out")
    found, before = [], b""
    for number, line in enumerate(lines, start=1):
        found.append((f"{path.name} line {number}", _checked(line, before, path, number)))
        before = line
    return found


def _line(record: Record | Comparison, before: bytes) -> bytes:
    """A record on a line with its seal, behind the line before."""
    document = json.loads(record.model_dump_json()) | {AFTER: _seal_of(before)}
    return (json.dumps(sealed(document), separators=(",", ":")) + "\n").encode()


def _seal_of(line: bytes) -> str:
    """The checksum that a line carries; nothing for no line, and for one of an earlier version."""
    try:
        document = json.loads(line or b"{}")
        return str(document.get(SEAL, "")) if isinstance(document, dict) else ""
    except (ValueError, RecursionError):  # whoever reads it says so
        return ""


def _checked(line: bytes, before: bytes, path: Path, number: int) -> bytes:
    """The line without its seal, if it is what was written; as it is where it has none."""
    where = f"{path.name} line {number}"
    help = f"the records before it hold; get a whole copy of {path}, or measure again with `lrdiff bench`"
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):  # whoever reads it says why it is no record
        return line
    if not isinstance(document, dict):
        return line
    whole = is_whole(document)
    if whole is None:
        say_once(f"{path} has no checksums (an earlier lrdiff wrote it): it is read unchecked")
        return line
    if not whole:
        raise DataError(f"{where} was changed or damaged after it was written", help=help)
    after = document.get(AFTER)
    if after != _seal_of(before):
        raise DataError(f"a record before {where} is missing, or it stands in the wrong place", help=help)
    plain = {key: value for key, value in unsealed(document).items() if key != AFTER}
    return json.dumps(plain, separators=(",", ":")).encode()


def run_files(folder: Path = DEFAULT_FOLDER) -> list[Path]:
    """The files of all runs, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def find_run(name: str, folder: Path = DEFAULT_FOLDER) -> Path:
    """The file of a run: by path, by the beginning of its name, or ``latest``, or ``latest~1`` for the one before.

    Raises:
        DataError: none of that name, or several.
    """
    if Path(name).is_file():
        return Path(name)
    files = run_files(folder)
    if name == "latest" or name.startswith("latest~"):
        back = name.removeprefix("latest").removeprefix("~") or "0"
        if not (back.isascii() and back.isdigit()):
            raise DataError(
                f"{name} is not a run", help="write latest, latest~1 for the one before, or see `lrdiff bench ls`"
            )
        if int(back) >= len(files):
            raise DataError(
                f"{folder} holds {len(files)} runs, and {name} is not among them", help="see `lrdiff bench ls`"
            )
        return files[-1 - int(back)]
    found = [file for file in files if file.name.startswith(name)]
    if len(found) != 1:
        raise DataError(
            f"{len(found)} runs in {folder} begin with {name!r}", help="see `lrdiff bench ls`; latest is the newest"
        )
    return found[0]


def same_machine(records: Iterable[Record]) -> None:
    """Refuse records of several machines.

    Raises:
        InputError: they come from more than one; its help says how to compare all the same.
    """
    machines = {record.machine.id: record.machine for record in records}
    if len(machines) > 1:
        names = "; ".join(f"{m.id}: {m.cpu}, {m.cpus} cpus, {m.device}" for m in machines.values())
        raise InputError(
            f"the records come from different machines ({names})",
            help="measure both on one; to compare them anyway, add --across-machines",
        )


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        try:
            yield
        finally:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
        return
    import fcntl

    with suppress(OSError):  # a file system without locks: one write is still one write
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, also by a kill
    yield


def _cut_unfinished_line(file: IO[bytes]) -> bytes:
    """Take an unfinished line away; returns the last whole one."""
    end = file.seek(0, os.SEEK_END)
    position = end
    tail = b""
    while position > 0 and tail.count(b"\n") < 2:
        position = max(0, position - 65536)
        file.seek(position)
        tail = file.read(end - position)
    keep = position + tail.rfind(b"\n") + 1
    if keep < end:
        file.truncate(keep)
    return tail[: keep - position].rstrip(b"\n").rpartition(b"\n")[2]
