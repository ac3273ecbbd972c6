"""What may be wrong with a table and its split: leaks, columns that say nothing, classes nothing was learned of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lrdiff_core.data.table import Split, Table
from lrdiff_core.text import count, listed, quoted

__all__ = ["Doubt", "DoubtKind", "find_doubts", "hash_rows"]

DoubtKind = Literal["duplicates", "label in a feature", "key in a feature", "near-constant", "unseen class", "dates"]

NEAR_CONSTANT = 0.99  # share of the training rows with one value, from here on
EXACT_LINE = 1 - 1e-9  # correlation of a feature that is the target in other units; float32 gives 1 - 1e-14


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Something that may make a result look better, or a model worse, than it is.

    Args:
        kind: what it is about.
        count: of rows, columns or classes.
        text: one sentence.
    """

    kind: DoubtKind
    count: int
    text: str


def find_doubts(table: Table, split: Split) -> tuple[Doubt, ...]:
    """Look for what may be wrong; nothing of it stops a training.

    Args:
        table: the rows.
        split: its parts.

    Example:
        >>> from lrdiff_core.data import load_table, split_table
        >>> table = load_table("digits")
        >>> [(doubt.kind, doubt.count) for doubt in find_doubts(table, split_table(table))]
        [('near-constant', 6)]
    """
    return (
        *_duplicates(table, split),
        *_labels_in_features(table, split),
        *_keys_in_features(table),
        *_near_constant(table, split),
        *_unseen_classes(table, split),
        *_dates(table),
    )


def hash_rows(values: np.ndarray) -> np.ndarray:
    """A 64-bit number for every row: equal rows have equal ones, others differ but for chance of 2^-64.

    Args:
        values: float32 [rows, columns]; all NaN are equal, and so are the two zeros.

    Returns:
        uint64 [rows].

    Source: https://prng.di.unimi.it/splitmix64.c
    """
    hashed = np.zeros(len(values), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place, column in enumerate(values.T):
            clean = np.where(np.isnan(column), np.float32(np.nan), column + np.float32(0))
            mixed = clean.view(np.uint32).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15 * (place + 1) % 2**64)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            hashed += mixed ^ (mixed >> np.uint64(31))
    return hashed


def _duplicates(table: Table, split: Split) -> Iterator[Doubt]:
    target = table.target.astype(np.float32)[:, None]
    hashed = hash_rows(np.concatenate([table.features, target], axis=1))
    known = hashed[split.train]
    parts = {"test": split.test, "validation": split.validation}
    found = {part: int(np.isin(hashed[rows], known).sum()) for part, rows in parts.items()}
    if total := sum(found.values()):
        said = " and ".join(f"{found[part]} of {len(parts[part])} {part} rows" for part in parts if found[part])
        verb = "stands" if total == 1 else "stand"
        yield Doubt(
            kind="duplicates",
            count=total,
            text=f"{said} {verb} among the training rows, too, with the same features and the same label",
        )


def _labels_in_features(table: Table, split: Split) -> Iterator[Doubt]:
    target = table.target[split.train]
    found = []
    for name, column in zip(table.feature_names, table.features[split.train].T, strict=True):
        leaks = _is_line(column, target) if table.task == "regression" else _is_one_to_one(column, target)
        if leaks:
            found.append(name)
    if found:
        what = "the target, but for unit and offset" if table.task == "regression" else "one class for each value"
        yield Doubt(
            kind="label in a feature",
            count=len(found),
            text=f"{_features(found)} {'gives' if len(found) == 1 else 'give'} the target {quoted(table.target_name)} "
            f"away: {what}",
        )


def _keys_in_features(table: Table) -> Iterator[Doubt]:
    keys = table.split_keys
    for noun, key in (("group", keys.groups), ("time", keys.times)):
        if key is None:
            continue
        values = keys.columns()["groups" if noun == "group" else "times"]
        found = [
            name
            for name, column in zip(table.feature_names, table.features.T, strict=True)
            if _is_one_to_one(column, values) or (noun == "time" and _is_line(column, values))
        ]
        if found:
            yield Doubt(
                kind="key in a feature",
                count=len(found),
                text=f"{_features(found)} {'says' if len(found) == 1 else 'say'} the same as the {noun} column "
                f"{quoted(key.name)}",
            )


def _near_constant(table: Table, split: Split) -> Iterator[Doubt]:
    found = []
    for name, column in zip(table.feature_names, table.features[split.train].T, strict=True):
        _, counts = np.unique(column, return_counts=True)
        if len(counts) > 1 and counts.max() >= NEAR_CONSTANT * len(column):
            found.append(name)
    if found:
        yield Doubt(
            kind="near-constant",
            count=len(found),
            text=f"{_features(found)} {'has' if len(found) == 1 else 'have'} one value in {NEAR_CONSTANT:.0%} or more "
            "of the training rows",
        )


def _unseen_classes(table: Table, split: Split) -> Iterator[Doubt]:
    if table.task == "regression":
        return
    known = np.unique(table.target[split.train])
    for part, rows in (("test", split.test), ("validation", split.validation)):
        labels = table.target[rows]
        unseen = ~np.isin(labels, known)
        if unseen.any():
            names = [table.classes[index] for index in np.unique(labels[unseen])]
            yield Doubt(
                kind="unseen class",
                count=int(unseen.sum()),
                text=f"{count(int(unseen.sum()), f'{part} row')} of {count(len(names), 'class', 'classes')} without "
                f"a training row: {listed(names)}",
            )


def _dates(table: Table) -> Iterator[Doubt]:
    keys = table.split_keys
    found = [spec.column for spec in table.columns if spec.kind == "date"]
    if found and keys.times is None and keys.test is None:
        name = found[0]
        yield Doubt(
            kind="dates",
            count=len(found),
            text=f"rows have a date ({listed(found)}) and are split without regard to it; `--time {name}` tests on "
            "the latest",
        )


def _is_one_to_one(column: np.ndarray, labels: np.ndarray) -> bool:
    """Whether each value goes with one label and each label with one value; fewer labels than rows."""
    values, value = np.unique(column, return_inverse=True)
    known, label = np.unique(labels, return_inverse=True)
    if len(values) != len(known) or not 1 < len(known) < len(labels):
        return False
    return len(np.unique(value.astype(np.int64) * len(known) + label)) == len(known)


def _is_line(column: np.ndarray, target: np.ndarray) -> bool:
    """Whether one is the other but for unit and offset."""
    x, y = column.astype(np.float64), target.astype(np.float64)
    if len(x) < 4 or not np.isfinite(x).all():  # two points always lie on a line, three often
        return False
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return bool(size > 0 and abs(x @ y) / size > EXACT_LINE)


def _features(names: Sequence[str]) -> str:
    return f"feature {quoted(names[0])}" if len(names) == 1 else f"{len(names)} features ({listed(names)})"
