"""Text that every installation of Python has: sources of its standard library, as numbers of characters."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np

from lrdiff_core.errors import UnavailableError

__all__ = ["CHARACTERS", "blocks", "windows"]

CHARACTERS = 96  # line feed, and what ASCII prints
BLOCK = 1024  # characters that go into one part of a split together
# With much prose, on every platform.
MODULES = (
    "argparse", "bdb", "calendar", "cmd", "codecs", "configparser", "copy", "csv", "difflib", "doctest", "fractions",
    "ftplib", "heapq", "inspect", "mailbox", "optparse", "pdb", "pickle", "pickletools", "random", "shutil",
    "statistics", "string", "subprocess", "tarfile", "textwrap", "threading", "trace", "turtle",
)  # fmt: skip


@cache
def blocks() -> np.ndarray:
    """All of it [blocks, BLOCK], numbers from 0 to :data:`CHARACTERS` - 1; other characters are left out.

    Raises:
        UnavailableError: this Python has no sources of its standard library.
    """
    found = []
    for name in MODULES:
        origin = Path(sysconfig.get_path("stdlib"), f"{name}.py")
        if not origin.is_file():
            raise UnavailableError(
                f"this Python has no source of {name}", help="use one that brings its standard library as files"
            )
        codes = np.frombuffer(origin.read_bytes(), dtype=np.uint8)
        found.append(codes[(codes == ord("\n")) | ((codes >= 32) & (codes < 127))])
    codes = np.concatenate(found)
    numbers = np.where(codes == ord("\n"), 0, codes - 31)
    whole = numbers[: len(numbers) // BLOCK * BLOCK].reshape(-1, BLOCK).astype(np.uint8)
    whole.flags.writeable = False
    return whole


def windows(random: np.random.Generator, part: np.ndarray, count: tuple[int, ...], length: int) -> np.ndarray:
    """Pieces of text, each from one block, at places that are drawn.

    Args:
        random: draws them.
        part: [blocks, BLOCK].
        count: how many, a shape.
        length: characters of a piece.

    Returns:
        Numbers of characters, [*count, length].

    Example:
        >>> random = np.random.default_rng(0)
        >>> windows(random, np.zeros((3, BLOCK)), (2, 5), 8).shape
        (2, 5, 8)
    """
    block = random.integers(len(part), size=count)
    start = random.integers(BLOCK - length + 1, size=count)
    pieces: np.ndarray = part[block[..., None], start[..., None] + np.arange(length)]
    return pieces
