"""The built-in tables, the generator, and what importing all this costs."""

from __future__ import annotations

import numpy as np
import pytest

import lrdiff_core.data
from lrdiff_core.data import BUILTIN_TABLES, Table, load_table, split_table
from lrdiff_core.data.generator import make_rows
from lrdiff_core.errors import DataError

SHAPES = {  # as the README and the docstrings state them
    "seed": (1000, 10, "binary", 2),
    "breast_cancer": (569, 30, "binary", 2),
    "digits": (1797, 64, "multiclass", 10),
    "wine": (178, 13, "multiclass", 3),
}


def test_public_names():
    assert lrdiff_core.data.__all__ == [
        "BUILTIN_TABLES",
        "ColumnSpec",
        "Doubt",
        "Split",
        "SplitKeys",
        "Table",
        "Task",
        "describe_split",
        "find_doubts",
        "fold_table",
        "load_table",
        "read_features",
        "read_rows",
        "split_table",
    ]


def test_every_built_in_has_a_shape():
    assert set(BUILTIN_TABLES) == set(SHAPES)


@pytest.mark.parametrize("name", BUILTIN_TABLES)
def test_shape(name):
    table = load_table(name)
    rows, features, task, classes = SHAPES[name]
    assert table.features.shape == (rows, features)
    assert (table.task, len(table.classes), table.name) == (task, classes, name)
    assert np.isfinite(table.features).all()
    assert set(table.target.tolist()) == set(range(classes))
    split_table(table)


@pytest.mark.parametrize("name", BUILTIN_TABLES)
def test_same_seed_same_bits(name):
    first, again = load_table(name, seed=7), load_table(name, seed=7)
    assert first.features.tobytes() == again.features.tobytes()
    assert first.target.tobytes() == again.target.tobytes()


def test_labels_of_scikit_learn():
    assert load_table("breast_cancer").classes == ("malignant", "benign")
    assert load_table("digits").classes == tuple("0123456789")
    assert load_table("breast_cancer").feature_names[0] == "mean radius"


def test_generator():
    features, labels = make_rows(0)
    assert (features.dtype, labels.dtype) == (np.float32, np.int64)
    assert not np.array_equal(features, make_rows(1)[0])
    assert make_rows(0, rows=7, features=3)[0].shape == (7, 3)
    assert 0.3 < labels.mean() < 0.7
    # means and spreads differ, so that preprocessing matters
    assert np.ptp(features.mean(axis=0)) > 1
    assert features.std(axis=0).max() > 2 * features.std(axis=0).min()


def test_generator_leaves_the_global_stream_alone():
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    make_rows(0)
    assert np.random.random() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "x1"}, 'built-in table wine has the target "cultivar", not "x1"'),
        ({"task": "binary"}, "built-in table wine is for multiclass, not binary"),
    ],
)
def test_built_in_with_other_wishes(options, message):
    with pytest.raises(DataError) as caught:
        load_table("wine", **options)
    assert caught.value.message == message
    thing = next(iter(options))
    assert caught.value.help == f"leave the {thing} out, or write the table to a file and name that"


def test_built_in_with_its_own_wishes():
    assert load_table("wine", target="cultivar", task="multiclass", impute="mean").name == "wine"


def test_a_folder_of_the_same_name_does_not_hide_a_built_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wine").mkdir()
    assert load_table("wine").source == "scikit-learn"


GOOD = {
    "features": np.zeros((2, 1), np.float32),
    "target": np.array([0, 1]),
    "feature_names": ("x",),
    "classes": ("no", "yes"),
    "task": "binary",
    "name": "tiny",
    "target_name": "y",
    "source": "generator",
    "notes": (),
}


@pytest.mark.parametrize(
    ("wrong", "message", "help"),
    [
        (
            {"features": np.zeros((2, 1))},
            "features of table tiny are float64 [2, 1]",
            "give float32 [rows, features] with at least one row and one feature",
        ),
        (
            {"features": np.zeros(2, np.float32)},
            "features of table tiny are float32 [2]",
            "give float32 [rows, features] with at least one row and one feature",
        ),
        ({"target": np.array([0.0, 1.0])}, "target of table tiny is float64 [2]", "give int64 [2] for binary"),
        (
            {"task": "regression", "classes": ()},
            "target of table tiny is int64 [2]",
            "give float32 [2] for regression",
        ),
        (
            {"feature_names": ("x", "x")},
            "table tiny has 1 feature names for 1 features",
            "give every feature a name of its own",
        ),
        (
            {"target": np.array([0, 2])},
            "table tiny has 2 class labels that do not fit its binary target",
            "give one label per class index, two for binary, none for regression",
        ),
        (
            {"classes": ("a", "b", "c")},
            "table tiny has 3 class labels that do not fit its binary target",
            "give one label per class index, two for binary, none for regression",
        ),
    ],
)
def test_table_checks_itself(wrong, message, help):
    Table(**GOOD)
    with pytest.raises(DataError) as caught:
        Table(**{**GOOD, **wrong})
    assert (caught.value.message, caught.value.help) == (message, help)
