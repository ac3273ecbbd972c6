"""Compressed files: what is inside, unpacked piece by piece and never beyond a limit."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lrdiff_core.data.formats.names import first_line
from lrdiff_core.errors import DataError, LrdiffError, UnavailableError
from lrdiff_core.text import listed

__all__ = ["FIRST_BYTES", "PACKED", "most_bytes", "pack", "unpack", "unpacked_limit", "zip_members"]

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Suffixes of compressed files; the suffix before says what is inside, in a zip the member's own."""

FIRST_BYTES = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}

# A file of rows packs to a tenth, seldom to a hundredth. What gives more than a thousand times its size was made to
# fill a memory; below the first limit nobody is hurt.
FREE_BYTES = 2**28
MOST_RATIO = 1000
MOST_BYTES = 2**32
_PIECE = 2**20
_ZSTD_PIECE = 2**10

_OPENED: dict[str, Callable[[io.BytesIO], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}


def unpacked_limit(size: int) -> int:
    """Bytes that a compressed file of so many may unpack to."""
    return min(MOST_BYTES, max(FREE_BYTES, MOST_RATIO * size))


def most_bytes(path: Path, size: int) -> DataError:
    """The error for a file that unpacks to more."""
    return DataError(
        f"{path} has {size} bytes and unpacks to more than {unpacked_limit(size)}, the limit for its size",
        help="unpack it yourself if you trust it, and name the result",
    )


def unpack(path: Path, data: bytes, suffix: str) -> tuple[bytes, str]:
    """Return what a compressed file holds, and the suffix of that; empty where only the file's name can say.

    Args:
        path: its name, for messages.
        data: its bytes.
        suffix: one of :data:`PACKED`.

    Raises:
        DataError: damaged, a zip with other than one file, encrypted, or beyond :func:`unpacked_limit`.
        UnavailableError: ``.zst``, and zstandard is not installed.

    Example:
        >>> unpack(Path("t.csv.gz"), gzip.compress(b"a,b"), ".gz")
        (b'a,b', '')
    """
    try:
        if suffix == ".zip":
            return _unzip(path, data)
        if suffix == ".zst":
            return _join(path, _unzstd(path, data), len(data)), ""
        with _OPENED[suffix](io.BytesIO(data)) as stream:
            return _read(path, stream, len(data)), ""
    except (LrdiffError, MemoryError):
        raise
    except Exception as problem:  # a damaged archive fails in many ways
        raise DataError(
            f"{path} is not a complete {suffix[1:]} archive: {first_line(problem)}",
            help="copy or download it again, or give it the suffix of its real format",
        ) from problem


def zip_members(data: bytes) -> list[zipfile.ZipInfo]:
    """What a zip says that it holds.

    Raises:
        BadZipFile: it is damaged, or none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.infolist()
    except Exception as problem:
        raise zipfile.BadZipFile(first_line(problem)) from problem


def pack(path: Path, data: bytes, suffix: str, member: str) -> bytes:
    """Return ``data`` compressed as ``suffix`` says; a zip gets one file of the name ``member``.

    Raises:
        UnavailableError: ``.zst``, and zstandard is not installed.
    """
    if suffix == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()
    if suffix == ".zst":
        packed: bytes = _zstandard(path).ZstdCompressor().compress(data)
        return packed
    ways: dict[str, Callable[[bytes], bytes]] = {
        ".gz": lambda raw: gzip.compress(raw, mtime=0),
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    return ways[suffix](data)


def _unzstd(path: Path, data: bytes) -> Iterator[bytes]:
    # Not its stream_reader, which takes a file that ends early for a whole one. A block of four bytes gives 128 KiB,
    # so a piece of 1 KiB at a time gives 32 MiB at most.
    package, rest = _zstandard(path), memoryview(data)
    while rest:
        frame = package.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if not rest:
                raise EOFError("it ends before its last block")
            yield frame.decompress(rest[:_ZSTD_PIECE])
            rest = rest[_ZSTD_PIECE:]
        if frame.unused_data:
            rest = memoryview(bytes(frame.unused_data) + bytes(rest))


def _read(path: Path, stream: IO[bytes], size: int) -> bytes:
    return _join(path, iter(lambda: stream.read(_PIECE), b""), size)


def _join(path: Path, found: Iterator[bytes], size: int) -> bytes:
    pieces, total, limit = [], 0, unpacked_limit(size)
    for piece in found:
        total += len(piece)
        if total > limit:
            raise most_bytes(path, size)
        pieces.append(piece)
    return b"".join(pieces)


def _unzip(path: Path, data: bytes) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [
            member
            for member in archive.infolist()
            if not member.is_dir() and not member.filename.startswith("__MACOSX/")  # what macOS adds to every file
        ]
        if len(members) != 1:
            names = listed([member.filename for member in members]) if members else "nothing"
            raise DataError(
                f"{path} holds {len(members)} files, and a table is one: {names}",
                help="unpack it, and name one of them",
            )
        try:
            with archive.open(members[0]) as stream:
                return _read(path, stream, len(data)), Path(members[0].filename).suffix.lower()
        except (RuntimeError, NotImplementedError) as problem:  # a password, or a method that Python lacks
            raise DataError(
                f"{path} cannot be unpacked: {first_line(problem)}", help="unpack it yourself, and name the result"
            ) from problem


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise UnavailableError(
            f"{path} is packed by zstd, which needs zstandard, which is not installed",
            help="pip install zstandard, or pack it by gzip",
        ) from None
    return zstandard
