"""Ways to give rows to parts: by chance within strata, by whole groups, by time. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np

__all__ = ["by_chance", "by_groups", "by_time"]


def by_chance(strata: np.ndarray, fractions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Give every stratum's rows to the parts by their fractions, to within one row.

    Not scikit-learn's ``train_test_split`` twice: that refuses a class with fewer rows than parts, and its
    second cut rounds what the first has rounded already, so a class can be off by more than one row.

    Args:
        strata: [rows], the class of every row; all equal for none.
        fractions: [parts], summing to 1.
        random: what is drawn from.

    Returns:
        The part of every row, int64 [rows].
    """
    tolerance = 1e-6  # of a row: 0.15 * 20 must come out as 3 whole rows, not as 2 and nearly one
    part = np.empty(strata.shape, dtype=np.int64)
    owed = np.zeros(len(fractions))  # what earlier classes should have given each part, less what they gave
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        share = len(members) * fractions  # [parts], what each part should get
        whole = np.floor(share + tolerance)
        size = whole.astype(np.int64)
        behind = owed + share - whole
        for _ in range(len(members) - int(size.sum())):
            may_grow = (size == whole) & (share - whole > tolerance)
            chosen = 0 if size[0] == 0 else int(np.argmax(np.where(may_grow, behind, -np.inf)))
            size[chosen] += 1
        owed += share - size
        part[members] = np.repeat(np.arange(len(fractions)), size)
    return part


def by_groups(
    groups: np.ndarray, strata: np.ndarray, fractions: np.ndarray, random: np.random.Generator
) -> np.ndarray | None:
    """Give whole groups to the parts, so that the parts' sizes and classes come near to their fractions.

    Groups go one by one, larger ones first, those of about one size in a drawn order, each to the part that
    is left nearest to its share of every class; a part that would stay empty is served before the groups run out.

    Args:
        groups: int64 [rows].
        strata: [rows], the class of every row; all equal for none.
        fractions: [parts], summing to 1.
        random: what is drawn from.

    Returns:
        The part of every row, int64 [rows]; None where there are fewer groups than parts.
    """
    _, group = np.unique(groups, return_inverse=True)
    classes, stratum = np.unique(strata, return_inverse=True)
    number, parts = int(group.max()) + 1, len(fractions)
    if number < parts:
        return None
    cells = np.bincount(group * len(classes) + stratum, minlength=number * len(classes))
    counts = cells.reshape(number, len(classes)).astype(np.float64)
    size = counts.sum(axis=1)
    shares = counts / counts.sum(axis=0)  # [groups, classes] of all rows of the class
    order = random.permutation(number)
    order = order[np.argsort(-np.floor(np.log2(size[order])), kind="stable")]
    given = np.zeros((parts, len(classes)))
    filled = np.zeros(parts, dtype=bool)
    part_of = np.empty(number, dtype=np.int64)
    for place, one in enumerate(order):
        share = shares[one]
        # what the squared distance from the wanted shares grows by, weighted so that small parts count as much
        growth = ((2 * (given - fractions[:, None]) + share) * share).sum(axis=1) / fractions
        if number - place <= int((~filled).sum()):
            growth[filled] = np.inf
        chosen = int(np.argmin(growth))
        part_of[one] = chosen
        given[chosen] += share
        filled[chosen] = True
    return part_of[group]


def by_time(times: np.ndarray, fractions: np.ndarray) -> np.ndarray | None:
    """Give the earliest rows to the first part, the latest to the last; rows of one time stay together.

    A cut goes to the nearest moment at which the time changes.

    Args:
        times: float64 [rows].
        fractions: [parts], summing to 1.

    Returns:
        The part of every row, int64 [rows]; None where there are fewer distinct times than parts.
    """
    order = np.argsort(times, kind="stable")
    changes = np.flatnonzero(np.diff(times[order])) + 1  # places where a cut may lie
    parts = len(fractions)
    if len(changes) < parts - 1:
        return None
    cuts: list[int] = []
    for index, wanted in enumerate(np.cumsum(fractions)[:-1] * len(times)):
        left = changes[len(cuts) and int(np.searchsorted(changes, cuts[-1])) + 1 : len(changes) - (parts - 2 - index)]
        cuts.append(int(left[np.argmin(np.abs(left - wanted))]))
    part = np.empty(len(times), dtype=np.int64)
    part[order] = np.searchsorted(cuts, np.arange(len(times)), side="right")
    return part
