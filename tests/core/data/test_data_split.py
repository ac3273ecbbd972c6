"""The split: every row in one part, strata within one row, too few rows refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from lrdiff_core.data import Split, Table, load_table, split_table
from lrdiff_core.errors import ConfigError, DataError


def table_of(target: np.ndarray) -> Table:
    regression = target.dtype == np.float32
    classes = () if regression else tuple(str(label) for label in range(target.max() + 1))
    return Table(
        features=np.zeros((len(target), 1), np.float32),
        target=target,
        feature_names=("x",),
        classes=classes,
        task="regression" if regression else "binary" if len(classes) == 2 else "multiclass",
        name="tiny",
        target_name="y",
        source="generator",
        notes=(),
    )


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.validation, split.test]


def check_whole(split: Split, rows: int) -> None:
    for part in parts(split):
        assert part.dtype == np.int64
        assert np.all(np.diff(part) > 0)
    assert np.array_equal(np.sort(np.concatenate(parts(split))), np.arange(rows))


@st.composite
def class_targets(draw):
    counts = draw(st.lists(st.integers(2, 60), min_size=2, max_size=25))
    target = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(draw(st.integers(0, 9))).permutation(target)


fractions = st.floats(0.05, 0.45)


def check_strata(split: Split, target: np.ndarray, validation: float, test: float) -> None:
    check_whole(split, len(target))
    for part, fraction in zip(parts(split), (1 - validation - test, validation, test), strict=True):
        share = np.bincount(target) * fraction
        assert np.all(np.abs(np.bincount(target[part], minlength=len(share)) - share) < 1)
    assert set(target[split.train]) == set(target)


@settings(max_examples=100, deadline=None)
@given(target=class_targets(), seed=st.integers(0, 2**32))
def test_classes(target, seed):
    assume(len(target) >= 14)
    split = split_table(table_of(target), seed=seed)
    check_strata(split, target, 0.15, 0.15)
    for part, fraction in zip(parts(split), (0.7, 0.15, 0.15), strict=True):
        assert abs(len(part) - fraction * len(target)) < 1


@settings(max_examples=100, deadline=None)
@given(target=class_targets(), validation=fractions, test=fractions)
def test_classes_at_any_fractions(target, validation, test):
    assume(len(target) * min(validation, test, 1 - validation - test) >= 4)
    check_strata(split_table(table_of(target), validation=validation, test=test), target, validation, test)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(14, 500), seed=st.integers(0, 99))
def test_regression(rows, seed):
    split = split_table(table_of(np.arange(rows, dtype=np.float32)), seed=seed)
    check_whole(split, rows)
    assert abs(len(split.validation) - 0.15 * rows) < 1
    assert abs(len(split.test) - 0.15 * rows) < 1


def test_a_whole_share_is_met_exactly():
    """0.29 * 100 is 28.999999999999996 in floating point, and must not be taken for a share of 28 and a bit."""
    split = split_table(table_of(np.repeat([0, 1], [2, 100])), validation=0.29, test=0.155)
    assert (split.validation >= 2).sum() == 29


def test_the_preset():
    split = split_table(load_table("seed"))
    assert [len(part) for part in parts(split)] == [700, 150, 150]


def test_seeds():
    table = table_of(np.arange(60, dtype=np.float32))
    first, again, other = (split_table(table, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(parts(first), parts(again), strict=True))
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize("target", [np.arange(5, dtype=np.float32), np.array([0, 1, 0, 1, 0])])
def test_too_few_rows(target):
    with pytest.raises(DataError) as caught:
        split_table(table_of(target))
    assert caught.value.message == "table tiny has 5 rows, too few to split into training, validation and test"
    assert caught.value.help == "use more rows: these fractions need about 14"


def test_fractions():
    table = load_table("seed")
    for name in ("validation", "test"):
        for wrong in (0, 1, -0.5, float("nan")):
            with pytest.raises(ConfigError) as caught:
                split_table(table, **{name: wrong})
            assert caught.value.message == f"{name} fraction is {wrong}"
            assert caught.value.help == "write a number between 0 and 1, such as 0.15"
    with pytest.raises(ConfigError) as caught:
        split_table(table, validation=0.5, test=0.5)
    assert caught.value.message == "validation and test fractions are 0.5 and 0.5, which leaves no rows to train on"
    assert caught.value.help == "write two numbers whose sum stays below 1, such as 0.15 and 0.15"
    with pytest.raises(ConfigError, match="seed is -3"):
        split_table(table, seed=-3)
