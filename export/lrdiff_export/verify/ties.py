"""Decisions that hang on the last bit: which answers are as right as eager's, and where nothing fixes an answer.

A pixel at 127.5, two classes with one score, a code word as near as another: another order of summation decides
otherwise. Such places are found by running the module with what runtimes may round differently moved a little, and a
file may give there what one of those runs gives. Where five and more different answers come up (the order of equals,
of which PyTorch promises nothing), nothing can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lrdiff_export.verify.compare import kind_of
from lrdiff_export.verify.expected import Expected

__all__ = ["decides_otherwise", "with_other_ways"]

UNSTABLE = 5  # different answers at one place


def decides_otherwise(expected: Expected, output: np.ndarray) -> bool:
    """Whether an output of a perturbed run differs by more than rounding."""
    return output.shape != expected.answer.shape or bool(_differs(expected, output).any())


def with_other_ways(
    expected: Expected, eager: np.ndarray, runs: Sequence[np.ndarray], *, whole_rows: bool = False
) -> Expected:
    """Return what is expected with the answers of perturbed runs that decide otherwise.

    Args:
        expected: from float64 and eager.
        eager: ``[batch, ...]``.
        runs: the same from perturbed runs.
        whole_rows: leave out all of a row where nothing fixes the answer at one of its places: for rows so large that
            many scores end at 1, and are equals.

    Example:
        >>> from lrdiff_export.verify.tolerance import exact_budget
        >>> one = Expected(name="y", answer=np.array([1, 2]), budget=exact_budget(np.dtype("int64")))
        >>> more = with_other_ways(one, one.answer, [np.array([1, 3]), np.array([1, 2])])
        >>> [more.compare(np.array(given)).agrees for given in ([1, 2], [1, 3], [1, 4], [0, 2])]
        [True, True, False, False]
    """
    values = [one for one in runs if one.shape == eager.shape]
    places = [_differs(expected, one) for one in values]
    others = [one for one, place in zip(values, places, strict=True) if place.any()]
    if not others:
        return expected
    anywhere = np.logical_or.reduce(places)
    skipped = np.zeros(eager.shape, bool)
    tolerance = 2 * expected.allowed if eager.dtype.kind == "f" else 0.0
    limit = np.broadcast_to(np.asarray(tolerance), eager.shape)[anywhere]
    skipped[anywhere] = _distinct(np.stack([one[anywhere] for one in (eager, *values)]), limit) >= UNSTABLE
    if whole_rows:
        kinds = np.stack([kind_of(one) for one in (eager, *values)])
        skipped |= (kinds != kinds[0]).any(axis=0)
        skipped |= skipped.reshape(len(skipped), -1).any(axis=1).reshape(-1, *[1] * (skipped.ndim - 1))
    return replace(expected, others=(*expected.others, eager, *others), skipped=skipped if skipped.any() else None)


def _differs(expected: Expected, output: np.ndarray) -> np.ndarray:
    if output.dtype.kind != "f":
        return np.asarray(output != expected.answer)
    error, wrong_kind = expected.differences(output)
    return wrong_kind | (error > 2 * expected.allowed)


def _distinct(values: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """[runs, places] -> [places]: how many different values there are, those within ``limit`` counted as one."""
    ordered = np.sort(values.astype(np.float64) if values.dtype.kind == "f" else values, axis=0)
    if ordered.dtype.kind == "b":
        ordered = ordered.astype(np.int8)
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.diff(ordered, axis=0)
    new = steps > limit
    if values.dtype.kind == "f":
        new |= np.isnan(ordered[1:]) & ~np.isnan(ordered[:-1])
    return np.asarray(1 + new.sum(axis=0))
