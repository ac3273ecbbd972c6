"""Rows to try: like those that are given, larger, smaller, at their limits, and such as nobody means to send."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

__all__ = [
    "DRAWN_ROWS",
    "MOST_EXTREMES",
    "MOST_SPOILT",
    "coded_rows",
    "denormal_rows",
    "drawn_rows",
    "extreme_rows",
    "filled_rows",
    "integer_rows",
    "resized_rows",
    "round_rows",
    "scaled_rows",
    "some_rows",
    "spoilt_rows",
    "with_codes_of",
    "with_integers_of",
    "within_range_of",
]

Rows = tuple[np.ndarray, ...]  # one array an input, [batch, ...]

DRAWN_ROWS = 64  # where nobody gives rows
MOST_EXTREMES = 32  # features whose extremes are tried; of more, as many evenly chosen ones
MOST_SPOILT = 8  # features that are NaN or infinite by themselves; of more, as many evenly chosen ones
DENORMAL = 1e-40  # float32's smallest normal number is 1.2e-38


def drawn_rows(rows: Sequence[np.ndarray], count: int) -> Rows:
    """Draw rows like those given, the same in every process.

    Floating inputs are normal with each feature's mean and spread; integers are uniform between the smallest and
    largest seen, so that no index leaves its table.

    Args:
        rows: one array an input, ``[batch, ...]``.
        count: rows to draw.

    Example:
        >>> drawn_rows([np.array([[3], [5]])], 4)[0].tolist()
        [[5], [4], [4], [3]]
    """
    generator = np.random.default_rng(0)
    drawn = []
    for one in rows:
        shape = (count, *one.shape[1:])
        if one.dtype.kind == "f":
            finite = np.where(np.isfinite(one), one, 0.0).astype(np.float64)
            spread = finite.std(axis=0)
            # One row, or a constant feature, tells no spread: take that of standardised features.
            values = finite.mean(axis=0) + np.where(spread > 0, spread, 1.0) * generator.standard_normal(shape)
        else:
            values = generator.integers(int(one.min()), int(one.max()) + 1, size=shape)
        drawn.append(np.asarray(values).astype(one.dtype))
    return tuple(drawn)


def some_rows(rows: Rows, count: int) -> Rows:
    """Return the first rows."""
    return tuple(one[:count] for one in rows)


def scaled_rows(rows: Rows, scale: float) -> Rows:
    """Return rows with their floating numbers times a factor."""
    with np.errstate(over="ignore", under="ignore"):
        return tuple((one * np.float64(scale)).astype(one.dtype) if one.dtype.kind == "f" else one for one in rows)


def denormal_rows(rows: Rows) -> Rows:
    """Return rows of numbers below the smallest normal one."""
    return scaled_rows(rows, DENORMAL)


def coded_rows(rows: Rows, codes: Sequence[Mapping[int, int]], most: int) -> Rows:
    """Return rows in which every code of every column of codes stands at least once, as far as so many rows go.

    Args:
        rows: one array an input.
        codes: for each input, the number of codes by column of its last axis.
        most: rows.

    Example:
        >>> coded_rows((np.float32([[0.5, 1]]),), [{1: 3}], 8)[0].tolist()
        [[0.5, 0.0], [0.5, 1.0], [0.5, 2.0]]
    """
    number = min(most, max((number for one in codes for number in one.values()), default=0))
    made = [one[np.arange(number) % len(one)].copy() for one in rows]
    for one, columns in zip(made, codes, strict=True):
        for turn, (column, several) in enumerate(columns.items()):
            if one.ndim > 1 and -one.shape[-1] <= column < one.shape[-1]:
                # Columns are turned against each other, so that no two hold the same code in every row.
                code = (np.arange(number) + turn) % several
                one[..., column] = code.reshape(-1, *[1] * (one.ndim - 2))
    return tuple(made)


def round_rows(rows: Rows) -> Rows:
    """Return rows at multiples of one half, where thresholds lie and roundings are decided."""
    return tuple((np.round(2 * one) / 2).astype(one.dtype) if one.dtype.kind == "f" else one for one in rows)


def with_integers_of(rows: Rows, made: Rows) -> Rows:
    """Take integers and bools from the rows given, whole: which combinations a module takes cannot be known."""
    places = np.arange(len(made[0])) % len(rows[0])
    return tuple(new if new.dtype.kind == "f" else old[places] for old, new in zip(rows, made, strict=True))


def with_codes_of(rows: Rows, made: Rows) -> Rows:
    """Take features that are whole numbers in every row given from there: they may be codes of categories.

    Example:
        >>> rows = (np.float32([[0.5, 1], [0.25, 3]]),)
        >>> with_codes_of(rows, scaled_rows(rows, 10.0))[0].tolist()
        [[5.0, 1.0], [2.5, 3.0]]
    """
    places = np.arange(len(made[0])) % len(rows[0])
    return tuple(
        np.where((old == np.round(old)).all(axis=0), old[places], new) if new.dtype.kind == "f" else new
        for old, new in zip(rows, made, strict=True)
    )


def within_range_of(rows: Rows, made: Rows) -> Rows:
    """Cut every feature to the range that it has in the rows given."""
    return tuple(
        np.clip(new, old.min(axis=0), old.max(axis=0)) if new.dtype.kind == "f" else new
        for old, new in zip(rows, made, strict=True)
    )


def resized_rows(rows: Rows, axes: Sequence[tuple[int, int]], size: int) -> Rows:
    """Return rows with other sizes of some axes: cut, or repeated.

    Args:
        rows: one array an input.
        axes: number of the input, and axis of its array.
        size: of all of them.

    Example:
        >>> resized_rows((np.array([[1, 2, 3]]),), [(0, 1)], 5)[0].tolist()
        [[1, 2, 3, 1, 2]]
    """
    made = list(rows)
    for index, axis in axes:
        made[index] = np.take(made[index], np.arange(size) % made[index].shape[axis], axis=axis)
    return tuple(made)


def extreme_rows(rows: Rows, most: int = MOST_EXTREMES) -> Rows:
    """Return rows at the mean but for one floating feature, which is at its smallest or largest.

    Args:
        rows: one array an input.
        most: number of features.
    """
    chosen = _features(rows, most)
    count = 2 * max(len(chosen), 1)
    made = []
    for index, one in enumerate(rows):
        if one.dtype.kind != "f":
            made.append(np.zeros((count, *one.shape[1:]), one.dtype))
            continue
        flat = one.reshape(len(one), -1)
        finite = np.where(np.isfinite(flat), flat, 0.0)
        values = np.repeat(finite.mean(axis=0, dtype=np.float64)[None].astype(one.dtype), count, axis=0)
        for place, (owner, feature) in enumerate(chosen):
            if owner == index:
                values[2 * place, feature] = finite[:, feature].min()
                values[2 * place + 1, feature] = finite[:, feature].max()
        made.append(values.reshape(count, *one.shape[1:]))
    return tuple(made)


def spoilt_rows(rows: Rows, values: Sequence[float], most: int = MOST_SPOILT) -> tuple[Rows, np.ndarray]:
    """Return rows in which one feature, and then every one, is NaN or infinite; and a mask of the spoilt rows.

    Each spoilt row stands among whole ones, whose answers it must not touch.

    Args:
        rows: finite ones, one array an input.
        values: NaN and infinities.
        most: number of features; with one, every value comes once, and after one whole row.
    """
    chosen = _features(rows, most)
    spoils = [(value, place) for value in values for place in (chosen if most == 1 else [*chosen, None])]
    count = len(spoils) + 1 if most == 1 else 2 * len(spoils) + 1
    mask = np.arange(count) > 0 if most == 1 else np.arange(count) % 2 == 1
    made = [one[np.arange(count) % len(one)].copy() for one in rows]
    for row, (value, place) in zip(np.flatnonzero(mask), spoils, strict=True):
        for owner, one in enumerate(made):
            if one.dtype.kind == "f" and (place is None or place[0] == owner):
                one.reshape(count, -1)[row, slice(None) if place is None else place[1]] = value
    return tuple(made), mask


def filled_rows(rows: Rows, *, ends: bool = True) -> Iterator[tuple[int, float, Rows]]:
    """Yield, for each input of integers or bools, rows with it at zero and at its smallest and largest throughout.

    An attention mask that hides a whole row, and a sequence that is all padding, are such rows.

    Args:
        rows: one array an input.
        ends: not zero alone.
    """
    for index, one in enumerate(rows):
        if one.dtype.kind == "f" or not one.size:
            continue
        for value in dict.fromkeys((0, *((int(one.min()), int(one.max())) if ends else ()))):
            made = list(rows)
            made[index] = np.full_like(one, value)
            yield index, value, tuple(made)


def integer_rows(rows: Rows, index: int, size: int) -> Rows:
    """Return rows whose integer input number ``index`` reaches to ``size``, below zero only where it did before.

    Example:
        >>> integer_rows((np.array([[1], [2], [3]]),), 0, 100)[0].ravel().tolist()
        [100, 64, 0]
    """
    one = rows[index]
    low = -size if one.min() < 0 else 0
    values = np.random.default_rng(0).integers(low, size, size=one.shape, endpoint=True).astype(one.dtype)
    values.reshape(-1)[0], values.reshape(-1)[-1 if one.size > 1 else 0] = size, low if one.size > 1 else size
    made = list(rows)
    made[index] = values
    return tuple(made)


def _features(rows: Rows, most: int) -> list[tuple[int, int]]:
    """Input and place in it of floating features, evenly chosen."""
    every = [
        (index, feature)
        for index, one in enumerate(rows)
        if one.dtype.kind == "f"
        for feature in range(one.reshape(len(one), -1).shape[1])
    ]
    if not every:
        return []
    places = np.unique(np.linspace(0, len(every) - 1, min(len(every), most)).round().astype(int))
    return [every[place] for place in places]
