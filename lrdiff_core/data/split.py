"""The split of a table into training, validation and test rows."""

from __future__ import annotations

import math

import numpy as np

from lrdiff_core.data.table import Split, Table
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import check_seed, count

__all__ = ["split_table"]

SPLIT_STREAM = 0x5B117  # keeps this stream apart from every other one that starts at the same seed
FEWEST_ROWS = 2  # in any part: a spread, and so R squared, is undefined on one row


def split_table(table: Table, *, validation: float = 0.15, test: float = 0.15, seed: int = 0) -> Split:
    """Split the rows at random; the same table, fractions and seed give the same split.

    Classes are stratified: every class has in every part its share of rows to within one, and at least
    one training row. Where a share is not whole, the row goes to the part that is furthest behind, so the
    sizes of the parts stay true over many small classes. Regression rows are split without strata.

    Args:
        table: what to split.
        validation: fraction of the rows, in the open interval 0 to 1.
        test: fraction of the rows, in the open interval 0 to 1; both together stay below 1.
        seed: a whole number from 0 up.

    Returns:
        Sorted row indices of the three parts.

    Raises:
        ConfigError: a fraction or the seed is out of its interval.
        DataError: a part would hold fewer than two rows.

    Example:
        >>> from lrdiff_core.data import load_table
        >>> split = split_table(load_table("seed"))
        >>> split.train.size, split.validation.size, split.test.size
        (700, 150, 150)
    """
    check_seed(seed)
    for name, fraction in (("validation", validation), ("test", test)):
        if not 0 < fraction < 1:
            raise ConfigError(f"{name} fraction is {fraction}", help="write a number between 0 and 1, such as 0.15")
    if not validation + test < 1:
        raise ConfigError(
            f"validation and test fractions are {validation} and {test}, which leaves no rows to train on",
            help="write two numbers whose sum stays below 1, such as 0.15 and 0.15",
        )
    fractions = np.array([1 - validation - test, validation, test])
    strata = np.zeros_like(table.target) if table.task == "regression" else table.target
    part = _draw_parts(strata, fractions, np.random.default_rng([seed, SPLIT_STREAM]))
    if min(int((part == index).sum()) for index in range(3)) < FEWEST_ROWS:
        rows = len(table.target)
        raise DataError(
            f"table {table.name} has {count(rows, 'row')}, too few to split into training, validation and test",
            help=f"use more rows: these fractions need about {math.ceil(FEWEST_ROWS / fractions.min())}",
        )
    return Split(train=np.flatnonzero(part == 0), validation=np.flatnonzero(part == 1), test=np.flatnonzero(part == 2))


def _draw_parts(strata: np.ndarray, fractions: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The part of every row, int64 [rows]: 0, 1 or 2 in the order of ``fractions`` [3].

    Not scikit-learn's ``train_test_split`` twice: that refuses a class with fewer rows than parts, and its
    second cut rounds what the first has rounded already, so a class can be off by more than one row.
    """
    tolerance = 1e-6  # of a row: 0.15 * 20 must come out as 3 whole rows, not as 2 and nearly one
    part = np.empty(strata.shape, dtype=np.int64)
    owed = np.zeros(3)  # what earlier classes should have given each part, less what they gave
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        share = len(members) * fractions  # [3], what each part should get
        whole = np.floor(share + tolerance)
        size = whole.astype(np.int64)
        behind = owed + share - whole
        for _ in range(len(members) - int(size.sum())):
            may_grow = (size == whole) & (share - whole > tolerance)
            chosen = 0 if size[0] == 0 else int(np.argmax(np.where(may_grow, behind, -np.inf)))
            size[chosen] += 1
        owed += share - size
        part[members] = np.repeat(np.arange(3), size)
    return part
