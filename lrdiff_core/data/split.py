"""The split of a table into training, validation and test rows, and into folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrdiff_core.data.splitting.parts import by_chance, by_groups, by_time
from lrdiff_core.data.table import Split, Table
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import check_seed, count, quoted

__all__ = ["describe_split", "fold_table", "split_table"]

SPLIT_STREAM = 0x5B117  # keeps this stream apart from every other one that starts at the same seed
FOLD_STREAM = 0xF01D5
FEWEST_ROWS = 2  # in any part: a spread, and so R squared, is undefined on one row
PARTS = ("train", "validation", "test")


def split_table(table: Table, *, validation: float = 0.15, test: float = 0.15, seed: int = 0) -> Split:
    """Split the rows; the same table, fractions and seed give the same split.

    Rows are drawn at random, unless the table's ``split_keys`` say otherwise, so that every split of a table is of
    one kind, whatever its seed:

    * Classes are stratified: every class has in every part its share of rows to within one, and at least
      one training row. Where a share is not whole, the row goes to the part that is furthest behind, so the
      sizes of the parts stay true over many small classes. Regression rows are split without strata.
    * With groups, every group is in one part as a whole; shares are met as nearly as the groups allow.
    * With times, the earliest rows are trained on and the latest tested on; rows of one time stay together, and
      the seed changes nothing.
    * In the sample of a streamed file, a number that follows from the row's place in the file decides; the seed
      changes nothing.
    * With the rows of a test file, these are the test part, and ``validation`` is a fraction of the other rows.

    Args:
        table: what to split.
        validation: fraction of the rows, in the open interval 0 to 1.
        test: fraction of the rows, in the open interval 0 to 1; both together stay below 1.
        seed: a whole number from 0 up.

    Returns:
        Sorted row indices of the three parts.

    Raises:
        ConfigError: a fraction or the seed is out of its interval.
        DataError: a part would hold fewer than two rows, or there are too few groups or times.

    Example:
        >>> from lrdiff_core.data import load_table
        >>> split = split_table(load_table("seed"))
        >>> split.train.size, split.validation.size, split.test.size
        (700, 150, 150)
    """
    _check(validation=validation, test=test, seed=seed)
    random = np.random.default_rng([seed, SPLIT_STREAM])
    held = table.split_keys.test
    rows = np.arange(len(table.target)) if held is None else np.flatnonzero(~held)
    fractions = [1 - validation - test, validation, test] if held is None else [1 - validation, validation]
    parts = _parts(table, rows, fractions, random)
    return _split(table, [*parts, *([] if held is None else [np.flatnonzero(held)])], fractions)


def fold_table(table: Table, *, folds: int, validation: float = 0.15, seed: int = 0) -> list[Split]:
    """Cut the rows into folds, each the test part once; the other rows are trained and validated on.

    Strata and groups are respected as by :func:`split_table`. With times, fold ``k`` is tested on the ``k``-th of
    ``folds`` blocks of time after the first, and trained and validated on the rows before it. Rows of a test file are
    in no fold.

    Args:
        table: what to cut.
        folds: how many, from 2 up.
        validation: fraction of each fold's other rows.
        seed: a whole number from 0 up.

    Raises:
        ConfigError: fewer than two folds, or a value out of its interval.
        DataError: too few rows, groups or times.

    Example:
        >>> from lrdiff_core.data import load_table
        >>> [fold.test.size for fold in fold_table(load_table("seed"), folds=3)]
        [334, 333, 333]
    """
    _check(validation=validation, seed=seed)
    if folds < 2:
        raise ConfigError(f"cv is {folds}", help="write a whole number of folds from 2 up, such as 5")
    random = np.random.default_rng([seed, FOLD_STREAM])
    held, ordered = table.split_keys.test, table.split_keys.times is not None
    rows = np.arange(len(table.target)) if held is None else np.flatnonzero(~held)
    blocks = _parts(table, rows, [1 / (folds + ordered)] * (folds + ordered), random)
    found: list[Split] = []
    for place in range(int(ordered), len(blocks)):
        others = np.sort(np.concatenate(blocks[:place] if ordered else [*blocks[:place], *blocks[place + 1 :]]))
        train, held_out = _parts(table, others, [1 - validation, validation], random)
        fewest = min(map(len, (train, held_out, blocks[place])))
        if fewest < FEWEST_ROWS:
            raise DataError(
                f"table {table.name} has {count(len(rows), 'row')}, too few for {folds} folds: "
                f"a part of fold {len(found) + 1} would have {count(fewest, 'row')}",
                help="write fewer folds, or bring more rows",
            )
        found.append(_split(table, [train, held_out, blocks[place]], [1 - validation, validation, 1 / folds]))
    return found


def describe_split(table: Table, split: Split) -> dict[str, Any]:
    """How a table was split, in plain JSON types.

    Returns:
        ``train``, ``validation``, ``test``: rows of each part. ``kind``: ``stratified``, ``random``,
        ``groups``, ``time`` or ``drawn``. With groups ``column`` and ``groups``, their number in each part; with
        times ``column`` and ``times``, the first and last of each part; with a test file ``test_file``.

    Example:
        >>> from lrdiff_core.data import load_table
        >>> table = load_table("seed")
        >>> describe_split(table, split_table(table))
        {'train': 700, 'validation': 150, 'test': 150, 'kind': 'stratified'}
    """
    keys, parts = table.split_keys, {name: getattr(split, name) for name in PARTS}
    said: dict[str, Any] = {name: len(rows) for name, rows in parts.items()}
    said["kind"] = "random" if table.task == "regression" else "stratified"
    if keys.groups is not None:
        index = keys.groups.index
        numbers = {name: len(np.unique(index[rows])) for name, rows in parts.items()}
        said |= {"kind": "groups", "column": keys.groups.name, "groups": numbers}
    elif keys.times is not None:
        values, text = keys.times.values, keys.times.text
        ends = {name: [text(values[rows].min()), text(values[rows].max())] for name, rows in parts.items()}
        said |= {"kind": "time", "column": keys.times.name, "times": ends}
    elif keys.drawn is not None:
        said["kind"] = "drawn"
    if keys.test_file is not None:
        said["test_file"] = keys.test_file
    return said


def _check(*, validation: float, seed: int, test: float | None = None) -> None:
    check_seed(seed)
    for name, fraction in (("validation", validation), ("test", test)):
        if fraction is not None and not 0 < fraction < 1:
            raise ConfigError(f"{name} fraction is {fraction}", help="write a number between 0 and 1, such as 0.15")
    if test is not None and not validation + test < 1:
        raise ConfigError(
            f"validation and test fractions are {validation} and {test}, which leaves no rows to train on",
            help="write two numbers whose sum stays below 1, such as 0.15 and 0.15",
        )


def _parts(table: Table, rows: np.ndarray, fractions: Sequence[float], random: np.random.Generator) -> list[np.ndarray]:
    """Sorted indices of each part of ``rows``, by what the table's splits respect."""
    shares, keys = np.array(fractions), table.split_keys
    strata = np.zeros(len(rows), dtype=np.int64) if table.task == "regression" else table.target[rows]
    noun = f"{len(fractions)} parts"
    if keys.groups is not None:
        part = by_groups(keys.groups.index[rows], strata, shares, random)
        if part is None:
            raise DataError(
                f"group column {quoted(keys.groups.name)} has "
                f"{count(len(np.unique(keys.groups.index[rows])), 'group')} to be split into {noun}, "
                "and no group is split",
                help="use rows of more groups, or leave the groups out",
            )
    elif keys.times is not None:
        part = by_time(keys.times.values[rows], shares)
        if part is None:
            raise DataError(
                f"time column {quoted(keys.times.name)} has "
                f"{count(len(np.unique(keys.times.values[rows])), 'different time')} to be split into {noun}, "
                "and rows of one time stay together",
                help="use a column that tells more moments apart",
            )
    elif keys.drawn is not None:
        part = np.searchsorted(np.cumsum(shares)[:-1], keys.drawn[rows], side="right")
    else:
        part = by_chance(strata, shares, random)
    return [rows[part == index] for index in range(len(fractions))]


def _split(table: Table, parts: Sequence[np.ndarray], fractions: Sequence[float]) -> Split:
    small = min(range(len(parts)), key=lambda index: len(parts[index]))
    if len(parts[small]) < FEWEST_ROWS:
        keys = table.split_keys
        if keys.groups is not None or keys.times is not None or small >= len(fractions):
            raise DataError(
                f"the {PARTS[small]} part of table {table.name} has {count(len(parts[small]), 'row')}",
                help="bring more rows, or more groups or moments to split by: each part needs at least two rows",
            )
        raise DataError(
            f"table {table.name} has {count(len(table.target), 'row')}, too few to split into training, "
            "validation and test",
            help=f"use more rows: these fractions need about {math.ceil(FEWEST_ROWS / min(fractions))}",
        )
    return Split(**{name: rows.astype(np.int64) for name, rows in zip(PARTS, parts, strict=True)})
