"""The target: recognition of the task, order of the classes, forced tasks."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pytest
from refusals import refusal

from lrdiff_core.data import load_table
from lrdiff_core.errors import DataError


def with_target(write, labels: list[str]) -> str:
    return write("a,y\n" + "".join(f"{row},{label}\n" for row, label in enumerate(labels)))


refused = partial(refusal, load_table, target="y", kind=DataError)


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (["b", "a"] * 3, "binary", ("a", "b")),
        (["b", "a", "c"] * 2, "multiclass", ("a", "b", "c")),
        (["True", "false"] * 2, "binary", ("false", "true")),
        (["1", "0"] * 2, "binary", ("0", "1")),
        (["2.5", "-1"] * 2, "binary", ("-1", "2.5")),
        (["10", "9", "-0.0"] * 2, "multiclass", ("0", "9", "10")),
        (["10", "9", "8.0"] * 2, "multiclass", ("8", "9", "10")),
        ([str(label) for label in range(20)] * 2, "multiclass", tuple(str(label) for label in range(20))),
        ([str(label) for label in range(21)] * 2, "regression", ()),
        (["1", "2", "3", "3", "2"], "regression", ()),
        (["1", "2", "3.5"] * 2, "regression", ()),
        (["1", "2", "x"] * 2, "multiclass", ("1", "2", "x")),
        (["true", "false", "1"] * 2, "multiclass", ("1", "false", "true")),
    ],
)
def test_recognition(write, labels, task, classes):
    table = load_table(with_target(write, labels), target="y")
    assert (table.task, table.classes) == (task, classes)
    if task == "regression":
        assert table.target.dtype == np.float32
        assert table.target.tolist() == [float(label) for label in labels]
    else:
        assert table.target.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "indices"),
    [(["10", "9", "8.0"], [2, 1, 0]), (["10", "9", "x"], [0, 1, 2]), (["TRUE", "false"], [1, 0])],
)
def test_indices_point_at_their_labels(write, labels, indices):
    assert load_table(with_target(write, labels * 2), target="y").target.tolist() == indices * 2


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_forced(write, task):
    table = load_table(with_target(write, ["3", "4"] * 2), target="y", task=task)
    assert table.task == task
    assert table.target.tolist() == ([3, 4, 3, 4] if task == "regression" else [0, 1, 0, 1])


def test_forced_against_the_labels(write):
    assert refused(with_target(write, ["a", "b", "c"] * 2), task="binary") == (
        'target "y" of t.csv has 3 classes, and binary takes two: "a", "b", "c"',
        "use `--task multiclass`, or keep the rows of two classes",
    )
    help = "correct the value, name a target of numbers, or leave the task to be recognised"
    assert refused(with_target(write, ["1", "b"] * 2), task="regression") == (
        'target "y" of t.csv holds text, and regression needs numbers: "b" in row 2',
        help,
    )
    assert refused(with_target(write, ["true", "false"] * 2), task="regression") == (
        'target "y" of t.csv holds text, and regression needs numbers: "true" in row 1',
        help,
    )


@pytest.mark.parametrize(("label", "shown"), [("a", "a"), ("7.0", "7"), ("True", "true"), ("0.5", "0.5")])
def test_one_class_only(write, label, shown):
    name = with_target(write, [label] * 3)
    expected = f'target "y" of t.csv has one class only: "{shown}"', "use rows of at least two classes"
    assert refused(name) == expected
    assert refused(name, task="multiclass") == expected
    assert refused(name, task="binary") == expected


def test_one_value_only(write):
    assert refused(with_target(write, ["2.5"] * 3), task="regression") == (
        'target "y" of t.csv has one value only: "2.5"',
        "use rows with at least two values",
    )


def test_single_row_of_a_class(write):
    assert refused(with_target(write, ["a", "a", "b"])) == (
        'target "y" of t.csv has 1 class with a single row: "b" (row 3)',
        "bring at least two rows of every class, or remove the class",
    )
    assert refused(with_target(write, ["a", "b", "c", "d", "d"]))[0] == (
        'target "y" of t.csv has 3 classes with a single row: "a" (row 1), "b" (row 2), "c" (row 3)'
    )
    assert refused(with_target(write, [*"abcdef", "f"]))[0] == (
        'target "y" of t.csv has 5 classes with a single row: "a" (row 1), "b" (row 2), "c" (row 3) and 2 more'
    )
    assert refused(with_target(write, ["1.5", "2.5", "12.x", "3", "2.5"])) == (
        'target "y" of t.csv has 3 classes with a single row: "1.5" (row 1), "12.x" (row 3), "3" (row 4)',
        'if the target is an amount, correct "12.x" in row 3, which is text',
    )
    assert refused(with_target(write, ["1", "1", "1", "2", "2", "3"])) == (
        'target "y" of t.csv has 1 class with a single row: "3" (row 6)',
        "bring more rows of it or remove it; if the target is an amount, use `--task regression`",
    )


def test_labels_that_float64_cannot_tell_apart(write):
    assert refused(with_target(write, ["1", "9007199254740993"] * 2)) == (
        'target "y" of t.csv has class labels beyond 2^53, where different numbers become equal: "9007199254740992"',
        "write the labels as text, such as id_1",
    )


@pytest.mark.parametrize(
    ("series", "classes"),
    [
        (pl.Series("y", [True, False] * 2), ("false", "true")),
        (pl.Series("y", [3, 1] * 2, dtype=pl.UInt8), ("1", "3")),
        (pl.Series("y", ["v", "u"] * 2, dtype=pl.Categorical), ("u", "v")),
        (pl.Series("y", ["v", "u"] * 2), ("u", "v")),
    ],
)
def test_typed_targets(write, series, classes):
    write("")
    pl.DataFrame([pl.Series("a", [1, 2, 3, 4]), series]).write_parquet("t.parquet")
    table = load_table("t.parquet", target="y")
    assert (table.task, table.classes, table.target.tolist()) == ("binary", classes, [1, 0, 1, 0])


def test_target_of_nulls(write):
    write("")
    pl.DataFrame({"a": [1, 2], "y": pl.Series([None, None])}).write_parquet("t.parquet")
    message, _ = refused("t.parquet")
    assert message == 'target "y" of t.parquet has no value to learn from: 2 missing (first in row 1)'
