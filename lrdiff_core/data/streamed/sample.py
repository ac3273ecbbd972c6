"""Numbers that follow from a row's place in its file: in which part it is, and whether it is in the sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrdiff_core.data.streamed.pieces import MOST_CELLS, pieces_of
from lrdiff_core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SAMPLE_ROWS", "Sample", "draws", "take_sample"]

SAMPLE_ROWS = 100_000
"""Rows, at most, of the sample that stands for a streamed file where rows are held."""

_PART, _SAMPLE = 0x5B117, 0x5A3B1E  # two streams, so that the sample has every part's share


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Rows of a file that were drawn by their places, in their order.

    Args:
        frame: the rows.
        drawn: float64 [rows], what decides of each row's part.
        rows: of the whole file.
    """

    frame: pl.DataFrame
    drawn: np.ndarray
    rows: int


def draws(places: np.ndarray) -> np.ndarray:
    """A number from 0 to below 1 for each place of a row, int64 [rows]; the same for ever.

    Example:
        >>> draws(np.arange(3)).round(3).tolist() == draws(np.arange(3)).round(3).tolist()
        True
    """
    return (_mixed(places, _PART) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def take_sample(path: Path, *, rows: int = SAMPLE_ROWS) -> Sample:
    """Draw rows in one pass: those with the smallest hashes, whatever the file's length.

    Raises:
        DataError: the file cannot be read, or has no rows.
    """
    import polars as pl

    kept: list[tuple[pl.DataFrame, np.ndarray, np.ndarray]] = []  # rows, their places, their hashes
    begin, limit = 0, np.uint64(2**64 - 1)
    for piece in pieces_of(path):
        rows = min(rows, max(1000, MOST_CELLS // piece.width))
        places = np.arange(begin, begin + piece.height)
        begin += piece.height
        hashed = _mixed(places, _SAMPLE)
        inside = hashed <= limit
        kept.append((piece.filter(pl.Series(inside)), places[inside], hashed[inside]))
        if sum(len(one) for _, one, _ in kept) > 2 * rows:
            kept, limit = _smallest(kept, rows)
    if not begin:
        raise DataError(f"{path} has a header and no rows", help="use a file with rows below its header")
    kept, _ = _smallest(kept, rows)
    frame, places, _ = kept[0]
    return Sample(frame=frame, drawn=draws(places), rows=begin)


def _smallest(
    kept: list[tuple[pl.DataFrame, np.ndarray, np.ndarray]], rows: int
) -> tuple[list[tuple[pl.DataFrame, np.ndarray, np.ndarray]], np.uint64]:
    import polars as pl

    frame = pl.concat([one for one, _, _ in kept], how="vertical_relaxed")
    places, hashed = (np.concatenate([one[index] for one in kept]) for index in (1, 2))
    if len(places) > rows:
        chosen = np.sort(np.argpartition(hashed, rows - 1)[:rows])
        frame, places, hashed = frame[chosen], places[chosen], hashed[chosen]
    return [(frame, places, hashed)], hashed.max()


def _mixed(places: np.ndarray, stream: int) -> np.ndarray:
    """splitmix64 of each place, uint64 [rows]; streams are far apart.

    Source: https://prng.di.unimi.it/splitmix64.c
    """
    with np.errstate(over="ignore"):
        mixed = (places.astype(np.uint64) + np.uint64(stream << 40)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        found: np.ndarray = mixed ^ (mixed >> np.uint64(31))
        return found
