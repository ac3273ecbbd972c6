"""How much is tried: fewer rows where a row costs much, so that verification costs a small multiple of conversion.

Cost is counted in operations, never in seconds: the same model is tried on the same rows on every machine, and the same
file comes out. A kind of rows whose turn does not come is named in the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from lrdiff_export.model.shadow import DRAWS, Work
from lrdiff_export.verify.rows import DRAWN_ROWS, MOST_EXTREMES, MOST_SPOILT

__all__ = ["BATCH_SIZES", "LADDER", "SCALES", "Effort"]

# One row, the smallest batches, one that no vector width divides, one larger than any unrolled tail, a large one.
BATCH_SIZES = (1, 2, 3, 7, 64, 1000)
SCALES = (10.0, 10_000.0)
# Input scales tried for the largest at which backends agree; float32 ends at 3.4e38.
LADDER = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e8, 1e10, 1e15, 1e20, 1e25, 1e30, 1e35)
# Integers tried: what int8, int16, float32, int32, float64 and int64 hold, and one more.
LARGE_INTEGERS = (100, 2**7, 2**15, 2**24 + 1, 2**31, 2**53 + 1, 2**62)

USUAL_ROWS: Final = 256
USUAL_WORK: Final = 2e9  # operations of so many rows; a model with no more of them is tried in full
DEAR: Final = 0.1  # share of the usual rows; with less, each costs more than it finds
FEW_ANSWERS: Final = 32  # numbers in an output, of which one draw of random rounding does not show the spread
MEMORY: Final = (
    2**28
)  # bytes for the values on the way; a number takes 4 and up to 24 in float64, in three layers at once
_BYTES: Final = 3 * 28
# Usual and least numbers of rows; where the least is 0, a kind is left out of the dearest models: it repeats another.
KINDS: Final = {
    "held out": (USUAL_ROWS, 2),
    "thresholds": (128, 1),
    "scaled": (64, 1),
    "filled": (16, 1),
    "spoilt": (MOST_SPOILT, 1),
    "denormals": (16, 1),
    "alone": (16, 2),
    "categories": (USUAL_ROWS, 2),
    "normal": (DRAWN_ROWS, 0),
    "extremes": (MOST_EXTREMES, 0),
    "round numbers": (64, 0),
}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Numbers of rows.

    Attributes:
        share: of the usual numbers, from 0 to 1.
        at_once: rows whose float64 values fit into memory.
        draws: of random rounding.
    """

    share: float = 1.0
    at_once: int = 2**20
    draws: int = DRAWS

    @classmethod
    def of(cls, work: Work) -> Effort:
        """Return the effort for a model.

        Example:
            >>> Effort.of(Work(operations=1e6, largest=100, answers=1)).rows("normal")
            64
            >>> dear = Effort.of(Work(operations=4e9, largest=800_000, answers=1000))
            >>> dear.rows("held out"), dear.left_out, dear.at_once
            (2, ('normal', 'extremes', 'round numbers'), 3)
        """
        share = min(1.0, USUAL_WORK / (USUAL_ROWS * max(work.operations, 1.0)))
        at_once = max(1, MEMORY // (_BYTES * max(work.largest, 1)))
        return cls(share=share, at_once=at_once, draws=1 if share < DEAR and work.answers >= FEW_ANSWERS else DRAWS)

    @property
    def whole(self) -> bool:
        """Whether everything is tried."""
        return self.share == 1.0

    def rows(self, kind: str) -> int:
        """Return how many rows of a kind are tried."""
        usual, least = KINDS[kind]
        return max(least, int(usual * self.share))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The kinds of rows that are not tried."""
        return tuple(kind for kind in KINDS if not self.rows(kind))

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of batches: running a file costs a small part of what its reference does."""
        most = max(3, int(10 * USUAL_ROWS * self.share))
        held_out = () if self.whole else (self.rows("held out"),)
        return tuple(size for size in BATCH_SIZES if size <= most and size not in held_out)

    @property
    def ladder(self) -> tuple[float, ...]:
        """Input scales; those of a dear model are the two that every file must pass."""
        return LADDER if self.whole else SCALES

    def integers(self, seen: np.ndarray) -> tuple[int, ...]:
        """Return the sizes of integers beyond those seen; of a dear model the largest alone.

        Example:
            >>> Effort().integers(np.array([200], np.int32))
            (32768, 16777217)
        """
        sizes = [size for size in LARGE_INTEGERS if seen.max() < size <= np.iinfo(seen.dtype).max]
        return tuple(sizes if self.share > DEAR else sizes[-1:])

    @property
    def fills(self) -> bool:
        """Whether integers are tried at their smallest and largest throughout, and not at zero alone."""
        return self.share > DEAR

    def sentences(self, made: Iterable[str]) -> tuple[str, ...]:
        """Say what is not tried of this model, one line each.

        Args:
            made: kinds of rows that it would have.

        Example:
            >>> Effort(share=0.001).sentences(["normal", "zeros"])
            ('normal', 'batches of 7, 64, 1000 rows', 'scales other than 10 and 10000 times')
        """
        found = [kind for kind in self.left_out if kind in set(made)]
        if sizes := [str(size) for size in BATCH_SIZES if size > max(self.batches)]:
            found.append(f"batches of {', '.join(sizes)} rows")
        return (*found, *([] if self.whole else ["scales other than 10 and 10000 times"]))
