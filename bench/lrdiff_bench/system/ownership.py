"""Which process writes a folder: a lock that ends with its process, and a sign of life for other machines."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: the sign of life alone
    fcntl = None

__all__ = ["OWNER", "Owner", "is_owned", "release_all"]

OWNER = ".owner"
# A number of a process says nothing on another machine, nor in another container: they see how old the file is.
_BEAT_SECONDS = 20.0
_SILENT_SECONDS = 300.0
_LOOKS = 4
_LOOK_SECONDS = 0.01
_held: set[Owner] = set()
_asked: set[Path] = set()  # folders that are being taken: an interrupt may come between any two lines


class Owner:
    """Holds a folder until :meth:`release`; the lock goes with the process, however that ends.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> owner = Owner.of(folder)
        >>> is_owned(folder), Owner.of(folder)
        (True, None)
        >>> owner.release()
        >>> is_owned(folder), list(folder.iterdir())
        (False, [])
    """

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder, self._handle = folder, handle
        _held.add(self)
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="sign of life", daemon=True).start()

    @classmethod
    def of(cls, folder: Path) -> Owner | None:
        """Take a folder, or None where a living process has it.

        Raises:
            OSError: the folder is not there or cannot be written.
        """
        file = folder / OWNER
        _asked.add(file)
        try:
            owner = cls._of(folder, file)
        except OSError:
            _asked.discard(file)
            raise
        _asked.discard(file)
        return owner

    @classmethod
    def _of(cls, folder: Path, file: Path) -> Owner | None:
        looks = 0
        while True:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(handle):
                    os.close(handle)
                    looks += 1
                    if looks == _LOOKS:
                        return None
                    time.sleep(_LOOK_SECONDS)  # it may be one that only asked
                    continue
                try:
                    same = os.path.samestat(os.fstat(handle), os.stat(file))
                except FileNotFoundError:
                    same = False
                if not same:  # who had it before removed it after we had opened it
                    os.close(handle)
                    continue
                if _lives_elsewhere(file, os.pread(handle, 4096, 0)):
                    os.close(handle)
                    return None
                _write(handle, done=False)
            except BaseException:
                os.close(handle)
                raise
            return cls(folder, handle)

    def done(self) -> None:
        """Say that all is written: the folder may be replaced though it is still held."""
        _write(self._handle, done=True)

    def release(self) -> None:
        """Let go of the folder, also where it was renamed and an interrupt came before that was noted."""
        self._over.set()
        places = itertools.chain([self.folder / OWNER], self.folder.parent.glob(f"*/{OWNER}"))
        if (file := next(filter(self._holds, places), None)) is not None:
            file.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Let go of a folder that is gone, or that belongs to somebody else now."""
        self._over.set()
        _held.discard(self)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _holds(self, file: Path) -> bool:
        try:
            return self._handle >= 0 and os.path.samestat(os.fstat(self._handle), file.stat())
        except OSError:
            return False

    def _beat(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            try:
                os.utime(self._handle)
            except OSError:
                return


def release_all() -> None:
    """Let go of every folder, where this process ends without coming back to what holds them."""
    for owner in tuple(_held):
        with suppress(OSError):
            owner.release()
    for file in tuple(_asked):
        with suppress(OSError):
            _remove_unowned(file)


def is_owned(folder: Path, *, done: bool = True) -> bool:
    """Whether a living process writes the folder, here or on another machine.

    Args:
        folder: that may be there or not.
        done: whether one that has written all counts.
    """
    file = folder / OWNER
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        locked, text = not _lock(handle), os.pread(handle, 4096, 0)
        if not done and _read(text).get("done"):
            return False
        return locked or _lives_elsewhere(file, text)
    finally:
        os.close(handle)


def _remove_unowned(file: Path) -> None:
    """Take away what this process made to own a folder, unless another does own it."""
    handle = os.open(file, os.O_RDWR)
    try:
        text = os.pread(handle, 4096, 0)
        ours = (_machine() | {"process": os.getpid()}).items() <= _read(text).items()
        if ours or (_lock(handle) and not _lives_elsewhere(file, text)):
            file.unlink()
    finally:
        os.close(handle)


def _write(handle: int, *, done: bool) -> None:
    text = json.dumps(_machine() | {"process": os.getpid(), "done": done}).encode()
    os.pwrite(handle, text, 0)
    os.ftruncate(handle, len(text))


def _read(text: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(text)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _lock(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _lives_elsewhere(file: Path, text: bytes) -> bool:
    """Whether the owner is one that no lock tells of, and has given a sign of life lately, by the clock of the disk."""
    owner = _read(text)
    if not owner or (fcntl is not None and _machine().items() <= owner.items()):
        return False
    try:
        with tempfile.TemporaryFile(dir=file.parent) as now:
            return os.fstat(now.fileno()).st_mtime - file.stat().st_mtime < _SILENT_SECONDS
    except OSError:  # it cannot be written, or is gone
        return False


def _machine() -> dict[str, Any]:
    try:  # two starts of one machine are two, a container and its host are one: locks are the kernel's
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return {"host": "" if boot else os.uname().nodename if hasattr(os, "uname") else "", "boot": boot}
