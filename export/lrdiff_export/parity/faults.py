"""What is wrong with an answer, in words: which known fault explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrdiff_export.verify.compare import Budget

__all__ = [
    "BIAS", "CUT_OFF", "DENORMALS", "ELSEWHERE", "FUNCTION", "PRECISION", "REARRANGED", "REORDERED", "ROUNDED", "SCALE",
    "WEIGHT", "Finding", "reordered_classes",
]  # fmt: skip

PRECISION = "lower precision"
REORDERED = "classes reordered"
DENORMALS = "denormals flushed"
ELSEWHERE = "ran elsewhere"
ROUNDED = "weights rounded"
WEIGHT = "wrong weight"
BIAS = "bias off"
SCALE = "scale off"
REARRANGED = "axes or rows rearranged"
CUT_OFF = "numbers cut off"
FUNCTION = "wrong output function"
MOST_CLASSES = 4096  # beyond, comparing every column with every other takes too long


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fault with a name.

    Attributes:
        fault: one of the names above; None where what was seen does not explain it.
        sentence: what of it was seen.
    """

    fault: str | None
    sentence: str


def reordered_classes(output: np.ndarray, answer: np.ndarray, budget: Budget) -> Finding | None:
    """Say whether an output is right but for the order of its last dimension, or is the other class's probability.

    Args:
        output: ``[batch, ..., classes]``, of the answer's shape.
        answer: that of float64.
        budget: within which columns are the same.

    Example:
        >>> answer = np.array([[0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])
        >>> budget = Budget(dtype="float32", scale=0.7, unit=1e-7, eager_error=1, conditioning=1, allowed=8)
        >>> reordered_classes(answer[:, ::-1], answer, budget).sentence
        'its classes are in the order 2, 1, 0'
    """
    if answer.dtype.kind != "f" or answer.ndim < 2 or output.shape != answer.shape or len(answer) < 2:
        return None
    width, allowed = answer.shape[-1], budget.allowed * budget.unit
    ours, theirs = answer.reshape(-1, width), output.reshape(-1, width).astype(np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()) or width > MOST_CLASSES:
        return None
    if width == 1:
        inside = ours.min() >= 0 and ours.max() <= 1
        if inside and np.abs(1 - ours - theirs).max() <= allowed:
            return Finding(fault=REORDERED, sentence="it gives the probability of the other class")
        return None
    order = []
    for column in range(width):
        distances = np.abs(ours - theirs[:, column : column + 1]).max(axis=0)
        # Its own place first: of equal columns none is misplaced.
        nearest = column if distances[column] <= allowed else int(distances.argmin())
        if distances[nearest] > allowed:
            return None
        order.append(nearest)
    if sorted(order) != list(range(width)) or order == list(range(width)):
        return None
    shown = ", ".join(map(str, order[:8])) + (", ..." if width > 8 else "")
    return Finding(fault=REORDERED, sentence=f"its classes are in the order {shown}")
