"""Splits by groups, by time and by a test file, and folds of each: what must not leak does not, whatever the seed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings, strategies as st

from lrdiff_core import make_config, set_up
from lrdiff_core.data import Split, SplitKeys, Table, describe_split, fold_table, load_table, split_table
from lrdiff_core.data.splitting.columns import read_groups, read_times
from lrdiff_core.data.splitting.keys import Groups, Times
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.population import population_task


def table_of(target: np.ndarray, **keys) -> Table:
    numbers = target.dtype == np.float32
    return Table(
        features=np.arange(len(target), dtype=np.float32)[:, None],
        target=target,
        feature_names=("x",),
        classes=() if numbers else tuple(str(label) for label in range(max(2, target.max() + 1))),
        task="regression" if numbers else "multiclass",
        name="tiny",
        target_name="y",
        source="file",
        notes=(),
        split_keys=SplitKeys(**keys),
    )


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.validation, split.test]


def is_whole(split: Split, rows: int) -> bool:
    return np.array_equal(np.sort(np.concatenate(parts(split))), np.arange(rows))


def splits_of(table: Table, *, seed: int, folds: int) -> list[Split]:
    """The split and the folds; tables too uneven for parts of two rows, which are refused, are passed over."""
    try:
        return [split_table(table, seed=seed), *fold_table(table, folds=folds, seed=seed)]
    except DataError:
        assume(False)
        raise


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(st.integers(0, 30), min_size=20, max_size=200),
    seed=st.integers(0, 99),
    numbers=st.booleans(),
    folds=st.integers(2, 5),
)
def test_no_group_is_in_two_parts(groups, seed, numbers, folds):
    index = np.array(groups)
    assume(len(set(groups)) >= folds + 2)
    target = (index % 3).astype(np.float32 if numbers else np.int64)
    table = table_of(target, groups=Groups(name="who", index=index))
    for split in splits_of(table, seed=seed, folds=folds):
        seen = [set(index[rows]) for rows in parts(split)]
        assert all(seen), "a part is empty"
        assert sum(map(len, seen)) == len(set(groups))
        assert is_whole(split, len(groups))
    tested = np.concatenate([split.test for split in splits_of(table, seed=seed, folds=folds)[1:]])
    assert np.array_equal(np.sort(tested), np.arange(len(groups)))


def test_groups_come_near_to_the_shares_of_rows_and_classes():
    random = np.random.default_rng(0)
    index = np.repeat(np.arange(120), random.integers(1, 12, 120))
    target = (random.random(len(index)) < 0.2).astype(np.int64)
    table = table_of(target, groups=Groups(name="who", index=index))
    splits = [split_table(table, seed=seed) for seed in range(5)]
    for split in splits:
        for rows, share in zip(parts(split), (0.7, 0.15, 0.15), strict=True):
            assert len(rows) / len(index) == pytest.approx(share, abs=0.02)
            assert target[rows].mean() == pytest.approx(target.mean(), abs=0.03)
    assert len({tuple(split.test) for split in splits}) == 5  # other seeds, other groups
    assert describe_split(table, splits[0])["groups"]["train"] == len(set(index[splits[0].train]))


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.integers(0, 40), min_size=20, max_size=200), seed=st.integers(0, 99), folds=st.integers(2, 5))
def test_time_goes_forward(times, seed, folds):
    when = np.array(times, dtype=np.float64)
    assume(len(set(times)) >= folds + 6)
    table = table_of(when.astype(np.float32), times=Times(name="t", values=when, kind="number"))
    splits = splits_of(table, seed=seed, folds=folds)
    for split in splits:
        assert when[split.train].max() < when[split.validation].min()
        assert when[split.validation].max() < when[split.test].min()
    assert is_whole(splits[0], len(times))
    assert np.array_equal(splits[0].train, split_table(table, seed=seed + 1).train)
    for earlier, later in pairwise(splits[1:]):
        assert when[earlier.test].max() < when[later.test].min()


def test_rows_of_one_time_stay_together_and_sizes_are_those_asked_for():
    table = table_of(np.arange(100, dtype=np.float32), times=Times(name="t", values=np.arange(100.0), kind="number"))
    assert [len(rows) for rows in parts(split_table(table))] == [70, 15, 15]
    often = np.repeat([0.0, 1.0, 2.0, 3.0], [10, 80, 5, 5])
    split = split_table(table_of(often.astype(np.float32), times=Times(name="t", values=often, kind="number")))
    assert [len(rows) for rows in parts(split)] == [90, 5, 5]


ROWS = "id,day,x,y\n" + "".join(
    f"p{i % 9},2024-{1 + i // 28:02d}-{1 + i % 28:02d},{i % 7},{i % 2}\n" for i in range(84)
)


def test_a_file_split_by_groups_and_by_time(write):
    name = write(ROWS)
    pl.read_csv(name).drop("day").write_csv("groups.csv")
    table = load_table("groups.csv", target="y", groups="id")
    assert table.feature_names == ("x",)
    assert describe_split(table, split_table(table))["column"] == "id"
    pl.read_csv(name).drop("id").write_csv("time.csv")
    table = load_table("time.csv", target="y", time="day")
    assert table.feature_names == ("x",)
    assert describe_split(table, split_table(table))["times"] == {
        "train": ["2024-01-01", "2024-03-03"],
        "validation": ["2024-03-04", "2024-03-15"],
        "test": ["2024-03-16", "2024-03-28"],
    }


def test_a_test_file_is_the_test_part_for_every_seed(write):
    frame = pl.DataFrame({"x": range(40), "z": range(40), "y": [0, 1] * 20})
    write("")
    frame.head(30).write_csv("train.csv")
    frame.tail(10).select("y", "z", "x").with_columns(more=pl.lit(1)).write_parquet("test.parquet")
    table = load_table("train.csv", target="y", test="test.parquet")
    assert any("more" in note for note in table.notes)
    for seed in range(3):
        split = split_table(table, seed=seed, validation=0.2)
        assert split.test.tolist() == list(range(30, 40))
        assert len(split.validation) == 6
    assert table.features[30:, 0].tolist() == list(range(30, 40))
    assert describe_split(table, split)["test_file"] == "test.parquet"
    tested = np.concatenate([fold.test for fold in fold_table(table, folds=3)])
    assert sorted(tested) == list(range(30))  # never the rows of the file
    frame.drop("z").write_csv("short.csv")
    with pytest.raises(DataError, match='short.csv lacks 1 column .*"z"'):
        load_table("train.csv", target="y", test="short.csv")
    with pytest.raises(DataError, match="does not exist"):
        load_table("train.csv", target="y", test="nowhere.csv")


def test_a_group_in_both_files_is_refused(write):
    write("")
    frame = pl.DataFrame({"who": ["a"] * 10 + ["b"] * 10 + ["c"] * 10, "x": range(30), "y": [0, 1] * 15})
    frame.head(22).write_csv("train.csv")
    frame.tail(12).write_csv("test.csv")
    with pytest.raises(DataError, match=r'2 groups of column "who" stand in both files: "b", "c"'):
        load_table("train.csv", target="y", test="test.csv", groups="who")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": "nothing"}, "no group column"),
        ({"time": "nothing"}, "no time column"),
        ({"groups": "y"}, "both the target and the group column"),
        ({"groups": "id", "time": "day"}, "groups and time"),
        ({"time": "id"}, r'holds "p0" in row 1'),
    ],
)
def test_refused(write, options, words):
    with pytest.raises((DataError, ConfigError), match=words):
        load_table(write(ROWS), target="y", **options)


def test_refused_by_too_little_and_by_built_in_tables():
    few = table_of(np.zeros(20, np.float32), groups=Groups(name="who", index=np.arange(20) % 2))
    with pytest.raises(DataError, match="has 2 groups to be split into 3 parts"):
        split_table(few)
    flat = table_of(np.zeros(20, np.float32), times=Times(name="t", values=np.arange(20.0) // 10, kind="number"))
    with pytest.raises(DataError, match="has 2 different times"):
        split_table(flat)
    with pytest.raises(DataError, match="built-in table"):
        load_table("wine", groups="alcohol")
    with pytest.raises(ConfigError, match="cv is 1"):
        fold_table(load_table("wine"), folds=1)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (["2020-01-02", "2021-02-03"], "date", ["2020-01-02", "2021-02-03"]),
        (["2020-01-02 10:00", "2020-01-02 11:30"], "timestamp", ["2020-01-02 10:00:00", "2020-01-02 11:30:00"]),
        (["2020-01-02T10:00:00+02:00", "2020-01-02T10:00:00Z"], "timestamp", ["2020-01-02 08:00:00", None]),
        (["20200102", "20200103"], "date", ["2020-01-02", "2020-01-03"]),
        (["2020", "2021"], "number", ["2020", "2021"]),
        (["31.12.2020", "01.02.2021"], "date", ["2020-12-31", "2021-02-01"]),
        (["12/31/2020", "01/02/2021"], "date", ["2020-12-31", "2021-01-02"]),
        (["2020-01", "2020-03"], "date", ["2020-01-01", "2020-03-01"]),
        (["1e3", "-2.5"], "number", ["1000", "-2.5"]),
        ([5, 7], "number", ["5", "7"]),
    ],
)
def test_ways_to_write_a_time(values, kind, said):
    times = read_times(pl.Series("t", values), source="t.csv")
    assert times.kind == kind
    for value, text in zip(times.values, said, strict=True):
        assert text is None or times.text(value) == text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["01/02/2020", "03/04/2020"], r"can be read as %d/%m/%Y and as %m/%d/%Y"),
        (["2020-01-01", "2020-01-02", "soon"], '"soon" in row 3'),
        (["2020-01-01", None], r"1 missing \(row 2\)"),
        ([1.0, float("inf")], "not finite"),
        ([[1], [2]], "of type list"),
    ],
)
def test_times_that_cannot_be_read(values, words):
    with pytest.raises(DataError, match=words):
        read_times(pl.Series("t", values), source="t.csv")


def test_groups_are_equal_values():
    assert read_groups(pl.Series("g", ["2", " 2", "2.0", "1"]), source="t.csv").index.tolist() == [1, 1, 1, 0]
    assert read_groups(pl.Series("g", ["a", "b", "a "]), source="t.csv").index.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="missing"):
        read_groups(pl.Series("g", ["a", ""]), source="t.csv")


def test_settings_and_fresh_seeds_keep_the_kind_of_split(write):
    write("")
    random = np.random.default_rng(0)
    rows = pl.DataFrame({"who": np.arange(90) // 5, "x": random.normal(size=90), "y": np.arange(90) % 2})
    rows.write_csv("t.csv")
    config = make_config({"data": "t.csv", "target": "y", "groups": "who", "epochs": 1})
    task = population_task(config)
    who = np.arange(90) // 5
    for seed in range(4):
        held = {part: task.rows(seed, part).held_inputs for part in ("validation", "test")}
        train = task.rows(seed).inputs
        assert held["test"] is not None
        assert len(train) + sum(len(rows) for rows in held.values() if rows is not None) == 90
        split = config.split(task.table, seed=seed)
        assert not set(who[split.train]) & set(who[split.test])
        assert len(train) == len(split.train)
        assert set_up(task.table, config, seed=seed).rows.split.test.tolist() == split.test.tolist()
    fold = fold_table(task.table, folds=3)[1]
    assert set_up(task.table, config, split=fold).rows.split is fold
    rows.write_csv(Path("deep.csv"))
    assert make_config({"test": "deep.csv"}).test == "deep.csv"
    for wrong, words in ({"test": 0.9}, "test in .* is 0.9"), ({"test": True}, "test in"), ({"cv": 1}, "cv in"):
        with pytest.raises(ConfigError, match=words):
            make_config(wrong)
    with pytest.raises(ConfigError, match="groups and time"):
        make_config({"groups": "a", "time": "b"})
