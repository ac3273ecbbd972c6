"""Least squares with errors, for a few columns: how much of each explains a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrdiff_core.audit.snapshot import Entries

__all__ = ["FEWEST", "SIGMAS", "Fit", "fit_columns", "norm"]

FEWEST = 6  # entries; of fewer, any rule explains the step, and the expected one is taken
SIGMAS = 3.0
FLAT = 1e-4  # two columns this parallel are one


@dataclass(frozen=True, slots=True)
class Fit:
    """Factors of the columns, their errors, and the norm of what they leave."""

    factors: tuple[float, ...]
    errors: tuple[float, ...]
    rest: float


def fit_columns(target: Entries, columns: Sequence[Entries], hidden: float) -> Fit | None:
    """Least squares; columns of zeros get the factor 0. None where the columns do not differ, or are too many."""
    norms = [norm(column) for column in columns]
    used = [i for i, norm in enumerate(norms) if norm > 0]
    count = target.size
    if not used or count < len(used) or (len(used) > 1 and count < FEWEST):
        return None
    matrix = np.array([columns[i] / norms[i] for i in used])  # [columns, entries]
    inverse = _inverse(matrix @ matrix.T)
    if inverse is None:
        return None
    found = inverse @ (matrix @ target)
    rest = norm(target - found @ matrix)
    spread = max(rest / math.sqrt(max(count - len(used), 1)), hidden / math.sqrt(count))
    factors, errors = [0.0] * len(columns), [math.inf] * len(columns)
    for place, i in enumerate(used):
        factors[i] = float(found[place]) / norms[i]
        errors[i] = SIGMAS * spread * math.sqrt(float(inverse[place, place])) / norms[i]
    return Fit(tuple(factors), tuple(errors), rest)


def _inverse(gram: Entries) -> Entries | None:
    """Invert the products of columns of length 1; None where two of them are parallel."""
    if len(gram) == 2:  # by hand: numpy takes ten times as long
        cosine = float(gram[0, 1])
        sine = 1 - cosine**2
        return np.array([[1.0, -cosine], [-cosine, 1.0]]) / sine if sine > FLAT**2 else None
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        return None
    return np.asarray(inverse) if (inverse.diagonal() < 1 / FLAT**2).all() else None


def norm(numbers: Entries) -> float:
    """Euclidean length."""
    return math.sqrt(float(numbers @ numbers))
