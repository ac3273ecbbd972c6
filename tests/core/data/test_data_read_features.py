"""The rows of a prediction: columns by name, and values that are refused or left to the model."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from refusals import refusal

from lrdiff_core.data import read_features
from lrdiff_core.errors import DataError, InputError

refused = partial(refusal, read_features, feature_names=("a", "b"), impute="none", kind=InputError)


def test_columns_by_name(write):
    rows = read_features(write("id,b,a\nu,1,2\nv,3,4\n"), feature_names=("a", "b"), impute="none")
    assert rows.dtype == np.float32
    assert rows.tolist() == [[2, 1], [4, 3]]
    assert read_features("t.csv", feature_names=("b", "a")).tolist() == [[1, 2], [3, 4]]


def test_one_row(write):
    assert read_features(write("a,b\n1,2\n"), feature_names=("a", "b"), impute="mean").shape == (1, 2)


def test_lacking_columns(write):
    assert refused(write("A,c\n1,2\n")) == (
        't.csv lacks 2 columns of the model: "a", "b"',
        'columns of the file, nearest first: "A", "c"',
    )


@pytest.mark.parametrize("impute", ["mean", "median"])
def test_holes_are_left_to_the_model(write, impute):
    rows = read_features(write("a,b\n1,inf\n,1e300\n3,4\n"), feature_names=("a", "b"), impute=impute)
    np.testing.assert_array_equal(rows, np.array([[1, np.nan], [np.nan, np.nan], [3, 4]], np.float32))


def test_a_column_of_holes_is_left_to_the_model_too(write):
    assert np.isnan(read_features(write("a,b\n1,\n2,\n"), feature_names=("a", "b"), impute="mean")[:, 1]).all()


def test_holes_are_refused(write):
    assert refused(write("a,b,c\n1,inf,\n,1,\n3,4,5\n")) == (
        't.csv has values that are not finite numbers: "a" 1 missing (row 2); "b" 1 infinite (row 1)',
        "fill them in, or train with `--impute mean|median` so that the model does",
    )


def test_drop_drops_no_row_of_a_prediction(write):
    help = "prediction never drops a row: remove these, or train with `--impute mean|median`"
    assert refused(write("a,b\n1,\n2,3\n"), impute="drop") == (
        "t.csv has values that are not finite numbers in row 1",
        help,
    )
    assert refused(write("a,b\n" + ",1\n" * 7), impute="drop") == (
        "t.csv has values that are not finite numbers in rows 1, 2, 3, 4, 5 and 2 more",
        help,
    )
    assert read_features(write("a,b,c\n1,2,\n"), feature_names=("a", "b"), impute="drop").tolist() == [[1, 2]]


def test_text_is_refused_in_the_columns_of_the_model_alone(write):
    assert refused(write("a,b\n1,x\n"))[0] == 'column "b" of t.csv holds text: "x" in row 1'


def test_bad_files_and_settings(write):
    assert refused("none.csv")[0] == "none.csv does not exist"
    assert refused(write("a,b\n"))[0] == "t.csv has a header and no rows"
    assert refused(write("a,b\n1,2\n"), impute="zero")[0] == 'impute is "zero"'
    with pytest.raises(DataError):
        read_features(write("a,a,b\n1,2,3\n"), feature_names=("a", "b"), impute="none")
